//! Room in a log that is kept in memory of limited size. Any processor may take a stretch, and fills it.
//!
//! The last part is kept free for the account and the verdict, without which the records before them say nothing.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes that are kept free: the account of sixteen vCPUs with keys takes a million.
pub const RESERVED_BYTES: usize = 5 << 18;

/// The used part of the memory.
#[derive(Debug, Default)]
pub struct Room {
    bytes: AtomicUsize,
    used: AtomicUsize,
    lost: AtomicUsize,
    is_ending: AtomicBool,
}

impl Room {
    /// No room yet.
    pub const fn new() -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            is_ending: AtomicBool::new(false),
        }
    }

    /// Gives the room: `bytes` bytes, all of them free.
    pub fn open(&self, bytes: usize) {
        self.bytes.store(bytes, Ordering::Release);
    }

    /// Takes a stretch: its offset; `None` if there is no room, so that the bytes have to be left out.
    pub fn take(&self, bytes: usize) -> Option<usize> {
        let reserved = if self.is_ending.load(Ordering::Acquire) { 0 } else { RESERVED_BYTES };
        let end = self.bytes.load(Ordering::Acquire).saturating_sub(reserved);
        let after = |used: usize| used.checked_add(bytes).filter(|&after| after <= end);
        let taken = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, after).ok();
        if taken.is_none() {
            self.lost.fetch_add(bytes, Ordering::Relaxed);
        }
        taken
    }

    /// Gives all of the room to the records from now on. Returns the number of bytes that have been left out so far.
    pub fn end(&self) -> usize {
        self.is_ending.store(true, Ordering::Release);
        self.lost()
    }

    /// Bytes that were written.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Bytes that were left out.
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_written_before_the_end_has_room() {
        let room = Room::new();
        assert_eq!(room.take(1), None, "there is none yet");
        room.open(RESERVED_BYTES + 10);
        assert_eq!((room.take(6), room.take(6), room.take(4)), (Some(0), None, Some(6)));
        assert_eq!((room.take(1), room.lost()), (None, 8));
        assert_eq!(room.end(), 8);
        assert_eq!((room.take(RESERVED_BYTES), room.take(1)), (Some(10), None));
        assert_eq!((room.used(), room.lost()), (RESERVED_BYTES + 10, 9));
    }
}
