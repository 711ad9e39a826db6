//! The place of the guest's code in its memory, as of the last look. It spares a frequent exit the walk through the guest's page
//! tables for the bytes of an instruction that no assist decodes.
//!
//! It is not a processor's translation, which a guest can flush without an exit: the entries on the walk are compared each time.

use crate::memory::{GuestMemory, PAGE_BYTES, WatchedPage};

/// One page of 64-bit code.
#[derive(Clone, Copy, Debug)]
pub(super) struct CodePage {
    cr3: u64,
    /// Linear address of the page.
    linear: u64,
    /// The page, with the entries of the guest's tables that lead to it.
    page: WatchedPage,
}

impl CodePage {
    /// Notes that the page of `linear` is that of `gpa`; the walk from `cr3` came by the entries of `path`.
    pub(super) fn new(linear: u64, cr3: u64, gpa: u64, path: [u64; 4], memory: &GuestMemory) -> Option<Self> {
        let start = |address: u64| address & !(PAGE_BYTES - 1);
        Some(Self { cr3, linear: start(linear), page: memory.watch_page(start(gpa), path)? })
    }

    /// The four bytes at `rip`, in 64-bit code, if they lie in the page and it is still mapped as it was.
    #[inline(always)]
    pub(super) fn peek(&self, rip: u64, cr3: u64) -> Option<u32> {
        // If each entry is the same, it leads to the same next one.
        if cr3 != self.cr3 {
            return None;
        }
        self.page.read_u32(rip.wrapping_sub(self.linear))
    }

    /// The bytes from `rip` on, as [`CodePage::peek`] finds four.
    pub(super) fn read<const BYTES: usize>(&self, rip: u64, cr3: u64) -> Option<[u8; BYTES]> {
        if cr3 != self.cr3 {
            return None;
        }
        self.page.read(rip.wrapping_sub(self.linear))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_the_page_is_found_as_long_as_the_tables_lead_there() {
        let mut memory = crate::memory::tests::memory(0x4000);
        memory.write(0x2ffc, &[0x0f, 0x22, 0xc0, 0x90]).unwrap();
        let path = [0x1000, 0x1100, 0x1200, 0x1300];
        let page = CodePage::new(0x7f_0123, 0x1000, 0x2abc, path, &memory).unwrap();
        assert_eq!(page.peek(0x7f_0ffc, 0x1000), Some(0x90c0_220f));
        assert_eq!(page.peek(0x7f_0ffd, 0x1000), None, "beyond its end");
        assert_eq!(page.read(0x7f_0ffd, 0x1000), Some([0x22, 0xc0, 0x90]));
        assert_eq!((page.read::<4>(0x7f_0ffd, 0x1000), page.read::<3>(0x7f_0ffd, 0x2000)), (None, None));
        assert_eq!(page.peek(0x7e_fffc, 0x1000), None, "before it");
        assert_eq!(page.peek(0x7f_0ffc, 0x2000), None, "other tables");
        for gpa in path {
            memory.write_u64(gpa, 0x1000).unwrap();
            assert_eq!(page.peek(0x7f_0ffc, 0x1000), None, "the entry at {gpa:#x} leads elsewhere");
            assert_eq!(page.read::<4>(0x7f_0ffc, 0x1000), None, "the entry at {gpa:#x} leads elsewhere");
            memory.write_u64(gpa, 0).unwrap();
        }
        assert!(CodePage::new(0x7f_0000, 0x1000, 0x4000, path, &memory).is_none(), "outside the memory");
    }
}
