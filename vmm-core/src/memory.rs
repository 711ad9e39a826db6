//! The guest's memory as the monitor sees it: one contiguous region of its own, found by guest-physical address.
//!
//! Every access is checked against the region; whether EPT maps a page for the guest makes no difference here.
#![expect(unsafe_code, reason = "copies from and to memory that a guest writes")]

use core::ptr;

/// The guest's memory. Guest-physical 0 is the region's first byte. The monitor has it at each vCPU, and its writes race with the
/// guest's as those of a device do: nothing here depends on the contents.
#[derive(Debug)]
pub struct GuestMemory {
    base: *mut u8,
    bytes: u64,
}

/// Quadwords of the guest's memory, and their values when they were looked at.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    words: [(u64, u64); 4],
    /// The lowest end below which all of them lie.
    end: u64,
}

/// A guest-physical range that the guest does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAddress(pub u64);

// SAFETY: the region has a fixed address. `new`'s caller gave it to the guest and to the holders of this type, on any processor,
// and knows that they race.
unsafe impl Send for GuestMemory {}
// SAFETY: the region has a fixed address. `new`'s caller gave it to the holders of this type, and knows that they race.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Takes over a region.
    ///
    /// # Safety
    /// `base..base + bytes` is memory that is valid for as long as the result lives. Only the guest, the result, and values
    /// shared from it touch that memory. These race with each other, as devices do; no reference into it is ever made, and any
    /// bytes are as good as others.
    pub const unsafe fn new(base: *mut u8, bytes: u64) -> Self {
        Self { base, bytes }
    }

    /// The same memory, for another vCPU.
    pub fn share(&self) -> Self {
        Self { base: self.base, bytes: self.bytes }
    }

    /// The host-physical address of guest-physical 0.
    pub fn host_base(&self) -> u64 {
        self.base as u64
    }

    /// The memory's size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    #[inline(always)]
    fn at(&self, gpa: u64, bytes: usize) -> Result<*mut u8, BadAddress> {
        // The part of the memory in which such a range can begin: all but its last bytes.
        match self.bytes.checked_sub(bytes as u64) {
            Some(last) if gpa <= last => Ok(self.base.wrapping_add(gpa as usize)),
            _ => Err(BadAddress(gpa)),
        }
    }

    /// Copies out of the guest's memory.
    ///
    /// # Errors
    /// Some of the range is not the guest's.
    pub fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        let from = self.at(gpa, into.len())?;
        // SAFETY: `at` checked the range against the region that `new`'s caller vouched for; no reference into it exists.
        unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// Copies into the guest's memory.
    ///
    /// # Errors
    /// Some of the range is not the guest's; nothing was written.
    pub fn write(&mut self, gpa: u64, from: &[u8]) -> Result<(), BadAddress> {
        let to = self.at(gpa, from.len())?;
        // SAFETY: as in `read`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        Ok(())
    }

    /// Zeroes a range.
    ///
    /// # Errors
    /// Some of the range is not the guest's; nothing was written.
    pub fn zero(&mut self, gpa: u64, bytes: u64) -> Result<(), BadAddress> {
        let to = self.at(gpa, usize::try_from(bytes).map_err(|_| BadAddress(gpa))?)?;
        // SAFETY: as in `read`.
        unsafe { ptr::write_bytes(to, 0, bytes as usize) };
        Ok(())
    }

    /// Reads a little-endian quadword.
    ///
    /// # Errors
    /// As [`GuestMemory::read`].
    pub fn read_u64(&self, gpa: u64) -> Result<u64, BadAddress> {
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads a little-endian doubleword; `None` if the guest does not have all of it.
    #[inline(always)]
    pub fn read_u32(&self, gpa: u64) -> Option<u32> {
        let from = self.at(gpa, size_of::<u32>()).ok()?.cast::<u32>();
        // SAFETY: as in `read`; the doubleword may lie anywhere.
        Some(unsafe { ptr::read_unaligned(from) })
    }

    /// Looks at quadwords, so that [`GuestMemory::is_as_watched`] can compare them later; `None` if the guest does not have all
    /// of them.
    pub fn watch(&self, gpas: [u64; 4]) -> Option<Watched> {
        let mut watched = Watched { words: [(0, 0); 4], end: 0 };
        for (word, gpa) in watched.words.iter_mut().zip(gpas) {
            *word = (gpa, self.read_u64(gpa).ok()?);
            watched.end = watched.end.max(gpa + size_of::<u64>() as u64);
        }
        Some(watched)
    }

    /// Whether the quadwords all have the same values as then.
    #[inline(always)]
    pub fn is_as_watched(&self, watched: &Watched) -> bool {
        let is_same = |(gpa, held): (u64, u64)| {
            let from = self.base.wrapping_add(gpa as usize).cast::<u64>();
            // SAFETY: as in `read`: the quadword ends at `end` or below, by `watch`, and hence lies in the region.
            held == unsafe { ptr::read_unaligned(from) }
        };
        // There is no loop here, for the sake of the exit path.
        let [first, second, third, fourth] = watched.words;
        watched.end <= self.bytes && is_same(first) && is_same(second) && is_same(third) && is_same(fourth)
    }

    /// Writes a little-endian quadword.
    ///
    /// # Errors
    /// As [`GuestMemory::write`].
    pub fn write_u64(&mut self, gpa: u64, value: u64) -> Result<(), BadAddress> {
        self.write(gpa, &value.to_le_bytes())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Memory for a test, leaked: a test ends soon.
    pub(crate) fn memory(bytes: usize) -> GuestMemory {
        let region = Box::leak(vec![0; bytes].into_boxed_slice());
        // SAFETY: leaked, hence valid for ever, and nobody else has it.
        unsafe { GuestMemory::new(region.as_mut_ptr(), bytes as u64) }
    }

    #[test]
    fn nothing_outside_is_touched() {
        let mut memory = memory(4096);
        assert_eq!(memory.write(4090, b"sixsix"), Ok(()));
        assert_eq!(memory.write(4091, b"sixsix"), Err(BadAddress(4091)));
        assert_eq!(memory.read_u64(u64::MAX - 3), Err(BadAddress(u64::MAX - 3)));
        assert_eq!(memory.zero(0, u64::MAX), Err(BadAddress(0)));
        let mut six = [0; 6];
        assert_eq!(memory.read(4090, &mut six), Ok(()));
        assert_eq!(&six, b"sixsix");
    }

    #[test]
    fn a_change_of_any_watched_quadword_is_seen() {
        let mut memory = memory(4096);
        let gpas = [0, 0x123, 0x800, 4088];
        let watched = memory.watch(gpas).unwrap();
        assert!(memory.is_as_watched(&watched));
        for gpa in gpas {
            memory.write_u64(gpa, 1 << 63).unwrap();
            assert!(!memory.is_as_watched(&watched), "{gpa:#x}");
            memory.write_u64(gpa, 0).unwrap();
        }
        assert!(memory.watch([0, 0, 0, 4089]).is_none());
        assert!(!super::tests::memory(4095).is_as_watched(&watched), "a smaller one's");
    }
}
