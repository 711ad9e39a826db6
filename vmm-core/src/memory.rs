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

/// A page of the guest's memory, and quadwords elsewhere in it with the values that they had when they were looked at. It shares
/// the memory that it is from.
#[derive(Clone, Copy, Debug)]
pub struct WatchedPage {
    page: *const u8,
    words: [(*const u64, u64); 4],
}

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;

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
    pub fn read_u32(&self, gpa: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read(gpa, &mut bytes).ok()?;
        Some(u32::from_le_bytes(bytes))
    }

    /// Looks at the quadwords at `gpas`, so that [`WatchedPage::read_u32`] can compare them later; `None` if the guest does not
    /// have all of them or the page at `page_gpa`.
    pub fn watch_page(&self, page_gpa: u64, gpas: [u64; 4]) -> Option<WatchedPage> {
        let page = self.at(page_gpa, PAGE_BYTES as usize).ok()?.cast_const();
        let mut words = [(ptr::null(), 0); 4];
        for (word, gpa) in words.iter_mut().zip(gpas) {
            *word = (self.at(gpa, size_of::<u64>()).ok()?.cast::<u64>().cast_const(), self.read_u64(gpa).ok()?);
        }
        Some(WatchedPage { page, words })
    }

    /// Writes a little-endian quadword.
    ///
    /// # Errors
    /// As [`GuestMemory::write`].
    pub fn write_u64(&mut self, gpa: u64, value: u64) -> Result<(), BadAddress> {
        self.write(gpa, &value.to_le_bytes())
    }
}

impl WatchedPage {
    /// Reads the little-endian doubleword at `offset`; `None` if it does not end in the page, or if one of the quadwords has
    /// changed.
    #[inline(always)]
    pub fn read_u32(&self, offset: u64) -> Option<u32> {
        self.read(offset).map(u32::from_le_bytes)
    }

    /// Reads the bytes at `offset`, as [`WatchedPage::read_u32`] reads four.
    #[inline(always)]
    pub fn read<const BYTES: usize>(&self, offset: u64) -> Option<[u8; BYTES]> {
        const { assert!(BYTES as u64 <= PAGE_BYTES) };
        // SAFETY: as in `GuestMemory::read`: `watch_page` checked that the quadword lies in the region.
        let is_same = |(at, held): (*const u64, u64)| unsafe { ptr::read_unaligned(at) } == held;
        // There is no loop here, for the sake of the exit path.
        let [first, second, third, fourth] = self.words;
        if offset > PAGE_BYTES - BYTES as u64
            || !(is_same(first) && is_same(second) && is_same(third) && is_same(fourth))
        {
            return None;
        }
        // SAFETY: as above: the bytes lie in the page.
        Some(unsafe { ptr::read_unaligned(self.page.wrapping_add(offset as usize).cast()) })
    }
}

// SAFETY: as for `GuestMemory`.
unsafe impl Send for WatchedPage {}

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
        let mut memory = memory(0x3000);
        memory.write(0x1ffc, &[1, 0, 0, 0, 2]).unwrap();
        let gpas = [0, 0x123, 0x2800, 0x2ff8];
        let watched = memory.watch_page(0x1000, gpas).unwrap();
        assert_eq!((watched.read_u32(0xffc), watched.read_u32(0xffd)), (Some(1), None), "the last, and beyond");
        for gpa in gpas {
            memory.write_u64(gpa, 1 << 63).unwrap();
            assert_eq!(watched.read_u32(0xffc), None, "{gpa:#x}");
            memory.write_u64(gpa, 0).unwrap();
        }
        assert_eq!(watched.read_u32(0xffc), Some(1), "as it was");
        assert!(memory.watch_page(0x1000, [0, 0, 0, 0x2ff9]).is_none(), "a quadword that ends outside");
        assert!(memory.watch_page(0x2001, gpas).is_none(), "a page that ends outside");
    }
}
