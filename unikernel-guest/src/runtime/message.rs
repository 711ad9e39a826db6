//! The text of a [`Book`](tollgate_abi::hypercall::Book): the assertion that did not hold, cut where the book ends.

use core::fmt::{self, Write};

use tollgate_abi::hypercall::MESSAGE_BYTES;

/// Text of at most [`MESSAGE_BYTES`]; writing more drops the rest.
#[derive(Clone, Copy)]
pub(crate) struct Message {
    text: [u8; MESSAGE_BYTES],
    length: usize,
}

impl Message {
    pub(crate) const EMPTY: Self = Self { text: [0; MESSAGE_BYTES], length: 0 };

    pub(crate) fn new(text: fmt::Arguments<'_>) -> Self {
        let mut message = Self::EMPTY;
        // Cannot fail: `write_str` below never does.
        let _ = message.write_fmt(text);
        message
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) const fn bytes(&self) -> [u8; MESSAGE_BYTES] {
        self.text
    }
}

impl Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.text[self.length..];
        let bytes = text.len().min(room.len());
        room[..bytes].copy_from_slice(&text.as_bytes()[..bytes]);
        self.length += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_is_cut_and_what_follows_is_dropped() {
        let message = Message::new(format_args!("vCPU {} ended", 3));
        assert!(message.bytes().starts_with(b"vCPU 3 ended\0") && !message.is_empty());
        assert!(Message::new(format_args!("")).is_empty());
        let (most, fill) = (MESSAGE_BYTES, MESSAGE_BYTES - 2);
        let message = Message::new(format_args!("{:x<fill$}abcd{}", "", "e"));
        assert_eq!((&message.bytes()[most - 3..], message.length), (&b"xab"[..], most));
    }
}
