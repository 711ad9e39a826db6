//! Hypercalls: the requests that a guest can make of the monitor by VMCALL, and the book that it hands over.
//!
//! The number is in RAX, arguments in RDI, RSI, RDX; the result is in RAX, a negative errno in case of refusal.
//! Addresses are guest-physical. Only CPL 0 may call; elsewhere VMCALL raises #UD, except for
//! [`Hypercall::Nothing`], which is nothing for anybody.

use crate::exit_reason::ROWS;

macro_rules! hypercalls {
    ($($variant:ident = $number:literal $about:literal;)*) => {
        /// The calls.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u64)]
        pub enum Hypercall { $(#[doc = $about] $variant = $number),* }

        impl Hypercall {
            /// The call with this number in RAX.
            #[inline]
            pub const fn from_number(rax: u64) -> Option<Self> {
                match rax { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

hypercalls! {
    Nothing = 0 "Does nothing and returns 0.";
    Console = 1 "Writes RSI bytes at RDI to the log; returns the number of them.";
    Begin = 2 "Starts workload number RDI with RSI iterations, switching vCPU 0 to its profile. Nothing before it counts for it. vCPU 0 alone may call this and [`Hypercall::End`], once the others are halted or off line.";
    End = 3 "Ends the workload: the [`Book`] at RDI holds the guest's tally of the workload. A microbenchmark's samples are at RSI: their number, then each, in 32 bits; 0 if there are none. Returns to the minimal profile and prints.";
    WakeAfter = 4 "Arms one interrupt: vector RSI wakes the next HLT, RDI TSC ticks from now at the earliest; at most [`LONGEST_WAKE_TICKS`].";
    Exit = 5 "Ends the guest with status RDI; the [`Book`] at RSI holds its whole tally. A guest that ends well has taken its other vCPUs off line before, by HLT with interrupts disabled.";
}

/// "No such call" (ENOSYS), as a result.
pub const NO_SUCH_CALL: u64 = (-38i64) as u64;
/// "Bad address" (EFAULT), as a result: memory that the guest does not have.
pub const BAD_ADDRESS: u64 = (-14i64) as u64;
/// "Invalid argument" (EINVAL), as a result: an unknown workload, an end without a beginning, a reserved vector.
pub const INVALID: u64 = (-22i64) as u64;

/// As the number of [`Hypercall::Begin`]: only switches this vCPU to the profile whose number is in RSI. Opens no window and
/// returns 0. So a guest can ask beforehand which reasons each profile enables, and can switch its other vCPUs.
pub const PROFILE_ONLY: u64 = u64::MAX - 1;

/// The most TSC ticks of a [`Hypercall::WakeAfter`]: nothing watches over the monitor while it waits for them.
pub const LONGEST_WAKE_TICKS: u64 = 1 << 28;

/// The most bytes that one [`Hypercall::Console`] takes.
pub const CONSOLE_BYTES: u64 = 1024;

/// Bytes of [`Book::message`].
pub const MESSAGE_BYTES: usize = 128;

/// The guest's own book: the operations that it performed and that must exit, reason by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Book {
    /// [`BOOK_MAGIC`].
    pub magic: u64,
    /// 1 if every assertion of the guest held, else 0.
    pub passed: u64,
    /// The assertion that did not hold: text, padded with zero bytes.
    pub message: [u8; MESSAGE_BYTES],
    /// Exits that the guest provoked, by ledger row.
    pub tally: [u64; ROWS],
}

/// Marks a [`Book`].
pub const BOOK_MAGIC: u64 = u64::from_le_bytes(*b"TollBook");

/// Bytes of a [`Book`] in memory.
pub const BOOK_BYTES: usize = 16 + MESSAGE_BYTES + 8 * ROWS;

const _: () = assert!(size_of::<Book>() == BOOK_BYTES);

impl Book {
    /// An empty book.
    pub const fn new() -> Self {
        Self { magic: BOOK_MAGIC, passed: 1, message: [0; MESSAGE_BYTES], tally: [0; ROWS] }
    }

    /// Reads a book from the guest's memory; `None` if it is not one.
    pub fn from_bytes(bytes: &[u8; BOOK_BYTES]) -> Option<Self> {
        let word = |at: usize| bytes[at..at + 8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        let mut book = Self { magic: word(0), passed: word(8), ..Self::new() };
        book.message.copy_from_slice(&bytes[16..16 + MESSAGE_BYTES]);
        for (row, count) in book.tally.iter_mut().enumerate() {
            *count = word(16 + MESSAGE_BYTES + 8 * row);
        }
        (book.magic == BOOK_MAGIC && book.passed <= 1).then_some(book)
    }

    /// The message up to its padding; bytes that are not UTF-8 end it.
    pub fn message(&self) -> &str {
        let end = self.message.iter().position(|&byte| byte == 0).unwrap_or(MESSAGE_BYTES);
        match core::str::from_utf8(&self.message[..end]) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&self.message[..error.valid_up_to()]).unwrap_or_default(),
        }
    }
}

impl Default for Book {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_book_is_read_from_bytes() {
        let mut bytes = [0; BOOK_BYTES];
        assert_eq!(Book::from_bytes(&bytes), None);
        bytes[..8].copy_from_slice(&BOOK_MAGIC.to_le_bytes());
        bytes[8] = 1;
        bytes[16..20].copy_from_slice(b"oops");
        bytes[16 + MESSAGE_BYTES + 8 * 10] = 7;
        let book = Book::from_bytes(&bytes).unwrap();
        assert_eq!((book.passed, book.message(), book.tally[10]), (1, "oops", 7));
        bytes[8] = 2;
        assert_eq!(Book::from_bytes(&bytes), None);
        bytes[8] = 0;
        bytes[17] = 0xff;
        assert_eq!(Book::from_bytes(&bytes).unwrap().message(), "o");
    }

    #[test]
    fn calls_have_their_numbers() {
        assert_eq!(Hypercall::from_number(Hypercall::Exit as u64), Some(Hypercall::Exit));
        assert_eq!(Hypercall::from_number(6), None);
        assert_eq!(Hypercall::from_number(u64::MAX), None);
    }
}
