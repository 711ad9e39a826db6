//! Where the guest's code lies in its memory, as far as it was looked at last: what spares a frequent exit the walk through the
//! guest's page tables for the bytes of an instruction that no assist decodes.
//!
//! It is a translation like those of the processor: good until the guest invalidates it, which it does by an exit on processors
//! that need this (INVLPG, CR0, CR4), or by CR3, which is compared.

use crate::memory::GuestMemory;

/// One page of code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CodePage {
    cr3: u64,
    /// Linear address of the page, with bit 0 set if there is one.
    linear: u64,
    gpa: u64,
}

const OFFSET: u64 = 0xfff;
const KNOWN: u64 = 1;

impl CodePage {
    /// Notes that the page of `linear` is that of `gpa`.
    pub(super) fn note(&mut self, linear: u64, cr3: u64, gpa: u64) {
        *self = Self { cr3, linear: linear & !OFFSET | KNOWN, gpa: gpa & !OFFSET };
    }

    /// Forgets it.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The four bytes at `rip`, in 64-bit code, if they lie in the page.
    #[inline(always)]
    pub(super) fn peek(&self, rip: u64, cr3: u64, memory: &GuestMemory) -> Option<u32> {
        let offset = rip & OFFSET;
        if rip & !OFFSET | KNOWN != self.linear || cr3 != self.cr3 || offset > OFFSET - 3 {
            return None;
        }
        memory.read_u32(self.gpa + offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_the_page_is_found() {
        let mut memory = crate::memory::tests::memory(0x4000);
        memory.write(0x2ffc, &[0x0f, 0x22, 0xc0, 0x90]).unwrap();
        let mut page = CodePage::default();
        assert_eq!(page.peek(0, 0, &memory), None);
        page.note(0x7f_0123, 0x1000, 0x2abc);
        assert_eq!(page.peek(0x7f_0ffc, 0x1000, &memory), Some(0x90c0_220f));
        assert_eq!(page.peek(0x7f_0ffd, 0x1000, &memory), None, "beyond its end");
        assert_eq!(page.peek(0x7f_1ffc, 0x1000, &memory), None, "another page");
        assert_eq!(page.peek(0x7f_0ffc, 0x2000, &memory), None, "other tables");
        page.forget();
        assert_eq!(page.peek(0x7f_0ffc, 0x1000, &memory), None);
        page.note(0x7f_0000, 0x1000, 0x4000);
        assert_eq!(page.peek(0x7f_0000, 0x1000, &memory), None, "outside the memory");
    }
}
