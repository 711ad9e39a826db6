//! The first assertion of the guest that did not hold, on any vCPU: its text goes into the final book.

use core::fmt;

use super::lock::Lock;
use super::message::Message;

/// The first assertion that did not hold.
static FAILURE: Lock<Message> = Lock::new(Message::EMPTY);

/// Notes that an assertion of the guest did not hold. The text of the first goes into the final book.
pub(crate) fn note_failure(what: fmt::Arguments<'_>) {
    // The text is made before the lock is taken: the code that makes it may fail, too.
    let message = Message::new(what);
    FAILURE.with(|failure| {
        if failure.is_empty() {
            *failure = message;
        }
    });
}

/// The text of the first failure; empty if there was none.
pub(super) fn first() -> Message {
    FAILURE.with(|failure| *failure)
}
