//! The log in memory, from which the file on the stick and the summary on the screen are made.
//!
//! It is written while firmware can't be called, by any processor with something to report: each takes a stretch of the buffer
//! and fills it.
#![expect(unsafe_code, reason = "hands out stretches of a buffer")]

use core::sync::atomic::{AtomicPtr, Ordering};

use vmm_core::log_room::Room;

/// Bytes of the buffer for a run without a trace. A run of every workload takes some forty thousand on one vCPU, a million on
/// sixteen with keys.
pub(crate) const BYTES: usize = 4 << 20;

static BUFFER: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static ROOM: Room = Room::new();

/// Gives the buffer.
///
/// # Safety
/// Nothing has been kept before. `buffer` is `bytes` bytes of memory that nobody else uses from now on.
pub(crate) unsafe fn give(buffer: *mut u8, bytes: usize) {
    BUFFER.store(buffer, Ordering::Release);
    ROOM.open(bytes);
}

/// Adds text. The part that does not fit is lost, and counted.
pub(crate) fn keep(text: &str) {
    let buffer = BUFFER.load(Ordering::Acquire);
    if let Some(at) = ROOM.take(text.len()) {
        // SAFETY: the stretch lies in the buffer, by `give`, and the room gave it to this call alone.
        unsafe { core::ptr::copy_nonoverlapping(text.as_ptr(), buffer.add(at), text.len()) };
    }
}

/// Gives the records from now on the room that is kept for the end. Returns the number of bytes that were lost before.
pub(crate) fn keep_end() -> usize {
    let lost = ROOM.end();
    if lost > 0 {
        // Ends the line that was cut.
        keep("\n");
    }
    lost
}

/// The whole log, once every processor that wrote is done, and the number of bytes that did not fit.
pub(crate) fn contents() -> (&'static [u8], usize) {
    let buffer = BUFFER.load(Ordering::Acquire);
    if buffer.is_null() {
        return (&[], ROOM.lost());
    }
    // SAFETY: that much of the buffer exists, and the caller knows that nobody writes to it any more.
    (unsafe { core::slice::from_raw_parts(buffer, ROOM.used()) }, ROOM.lost())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_and_the_end_has_room() {
        const BYTES: usize = 2 << 20;
        assert_eq!(contents(), (&[][..], 0));
        keep("too early");
        let buffer = std::vec![b'?'; BYTES].leak();
        // SAFETY: the buffer is leaked, so that only the log uses it; this is the only call.
        unsafe { give(buffer.as_mut_ptr(), BYTES) };
        let line = "exit reason=10\n".repeat(1000);
        let mut kept = 0;
        while kept + line.len() <= BYTES {
            keep(&line);
            kept += line.len();
        }
        // Not a byte more fits, but for the room that is kept for the end.
        (0..line.len()).for_each(|_| keep("="));
        let lost = keep_end();
        assert!(lost > 0);
        keep("verdict\n");
        let (log, lost_in_all) = contents();
        assert!(log.starts_with(line.as_bytes()) && log.ends_with(b"\nverdict\n") && lost_in_all >= lost);
        assert!(!log.contains(&b'?'), "no stretch is left out");
    }
}
