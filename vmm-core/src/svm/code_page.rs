//! The place of the guest's code in its memory, as of the last look. It spares a frequent exit the walk through the guest's page
//! tables for the bytes of an instruction that no assist decodes.
//!
//! It is not a processor's translation, which a guest can flush without an exit: the entries on the walk are compared each time.

use crate::memory::{GuestMemory, Watched};

/// One page of 64-bit code.
#[derive(Clone, Copy, Debug)]
pub(super) struct CodePage {
    cr3: u64,
    /// Linear address of the page.
    linear: u64,
    gpa: u64,
    /// The entries of the guest's tables that lead to the page.
    path: Watched,
}

const OFFSET: u64 = 0xfff;

impl CodePage {
    /// Notes that the page of `linear` is that of `gpa`; the walk from `cr3` came by the entries of `path`.
    pub(super) fn new(linear: u64, cr3: u64, gpa: u64, path: [u64; 4], memory: &GuestMemory) -> Option<Self> {
        Some(Self { cr3, linear: linear & !OFFSET, gpa: gpa & !OFFSET, path: memory.watch(path)? })
    }

    /// The four bytes at `rip`, in 64-bit code, if they lie in the page and it is still mapped as it was.
    #[inline(always)]
    pub(super) fn peek(&self, rip: u64, cr3: u64, memory: &GuestMemory) -> Option<u32> {
        let offset = rip.wrapping_sub(self.linear);
        // If each entry is the same, it leads to the same next one.
        if offset > OFFSET - 3 || cr3 != self.cr3 || !memory.is_as_watched(&self.path) {
            return None;
        }
        memory.read_u32(self.gpa + offset)
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
        assert_eq!(page.peek(0x7f_0ffc, 0x1000, &memory), Some(0x90c0_220f));
        assert_eq!(page.peek(0x7f_0ffd, 0x1000, &memory), None, "beyond its end");
        assert_eq!(page.peek(0x7e_fffc, 0x1000, &memory), None, "before it");
        assert_eq!(page.peek(0x7f_0ffc, 0x2000, &memory), None, "other tables");
        for gpa in path {
            memory.write_u64(gpa, 0x1000).unwrap();
            assert_eq!(page.peek(0x7f_0ffc, 0x1000, &memory), None, "the entry at {gpa:#x} leads elsewhere");
            memory.write_u64(gpa, 0).unwrap();
        }
        let outside = CodePage::new(0x7f_0000, 0x1000, 0x4000, path, &memory).unwrap();
        assert_eq!(outside.peek(0x7f_0000, 0x1000, &memory), None, "outside the memory");
    }
}
