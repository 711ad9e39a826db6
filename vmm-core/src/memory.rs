//! The guest's memory as the monitor sees it: one contiguous region of its own, found by guest-physical address.
//!
//! Every access is checked against the region; whether EPT maps a page for the guest makes no difference here.
#![expect(unsafe_code, reason = "copies from and to memory that a guest writes")]

use core::ptr;

/// The guest's memory. Guest-physical 0 is the region's first byte. Each vCPU's monitor has it, and whoever writes it races
/// with the guest as a device does: nothing here depends on what it holds.
#[derive(Debug)]
pub struct GuestMemory {
    base: *mut u8,
    bytes: u64,
}

/// A guest-physical range that the guest does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAddress(pub u64);

// SAFETY: a region at a fixed address, which `new`'s caller gave to the guest and to those who have this type, on whatever
// processor, and of which it knows that they race.
unsafe impl Send for GuestMemory {}
// SAFETY: likewise.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Takes over a region.
    ///
    /// # Safety
    /// `base..base + bytes` is memory that is valid for as long as the result lives, and that nobody but the guest and
    /// the result, and what is shared from it, touch. These race with each other, as devices do; no reference into it is
    /// ever made, and any bytes are as good as others.
    pub const unsafe fn new(base: *mut u8, bytes: u64) -> Self {
        Self { base, bytes }
    }

    /// The same memory, for another vCPU.
    pub fn share(&self) -> Self {
        Self { base: self.base, bytes: self.bytes }
    }

    /// Where guest-physical 0 is in host-physical memory.
    pub fn host_base(&self) -> u64 {
        self.base as u64
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    #[inline(always)]
    fn at(&self, gpa: u64, bytes: usize) -> Result<*mut u8, BadAddress> {
        let end = gpa.checked_add(bytes as u64).ok_or(BadAddress(gpa))?;
        if end > self.bytes {
            return Err(BadAddress(gpa));
        }
        Ok(self.base.wrapping_add(gpa as usize))
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
}
