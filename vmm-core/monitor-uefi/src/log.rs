//! The log in memory, from which the file on the stick and the summary on the screen are made.
//!
//! It is written while firmware can't be called, by whichever processor has something to say: each takes a stretch of the
//! buffer and fills it.
#![expect(unsafe_code, reason = "hands out stretches of a buffer")]

use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Bytes of the buffer. A run of every workload on one vCPU takes some forty thousand, on sixteen with keys a million.
pub(crate) const BYTES: usize = 4 << 20;

static BUFFER: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
/// Bytes that were written, or would have been had there been room.
static WRITTEN: AtomicUsize = AtomicUsize::new(0);

/// Gives the buffer.
///
/// # Safety
/// Once; `buffer` is [`BYTES`] of memory that is nobody else's from now on.
pub(crate) unsafe fn give(buffer: *mut u8) {
    BUFFER.store(buffer, Ordering::Release);
}

/// Adds text. What does not fit is lost.
pub(crate) fn keep(text: &str) {
    let at = WRITTEN.fetch_add(text.len(), Ordering::Relaxed);
    let buffer = BUFFER.load(Ordering::Acquire);
    if buffer.is_null() || at.saturating_add(text.len()) > BYTES {
        return;
    }
    // SAFETY: the stretch lies in the buffer, and the counter gave it to this call alone.
    unsafe { core::ptr::copy_nonoverlapping(text.as_ptr(), buffer.add(at), text.len()) };
}

/// All of it, once every processor that wrote is done, and how many bytes did not fit.
pub(crate) fn contents() -> (&'static [u8], usize) {
    let (buffer, written) = (BUFFER.load(Ordering::Acquire), WRITTEN.load(Ordering::Acquire));
    if buffer.is_null() {
        return (&[], written);
    }
    // SAFETY: that much of the buffer exists, and the caller knows that nobody writes to it any more.
    (unsafe { core::slice::from_raw_parts(buffer, written.min(BYTES)) }, written.saturating_sub(BYTES))
}
