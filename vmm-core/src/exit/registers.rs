//! The guest's general-purpose registers, as the entry stubs leave them.
#![expect(unsafe_code, reason = "looks at the registers as an array")]

/// The guest's general-purpose registers, in the order in which the entry stub pushes them downwards.
///
/// RSP, RIP and RFLAGS are the backend's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the registers' own names")]
pub struct GuestRegisters {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rax: u64,
}

const _: () = assert!(size_of::<GuestRegisters>() == WORDS * 8);

impl GuestRegisters {
    /// The register with this number in an instruction's encoding; `None` for 4, which is RSP.
    #[inline(always)]
    pub fn by_number(&mut self, number: u8) -> Option<&mut u64> {
        const NONE: u8 = WORDS as u8;
        /// Positions by number: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
        static POSITIONS: [u8; 16] = [14, 11, 13, 10, NONE, 9, 12, 8, 7, 6, 5, 4, 3, 2, 1, 0];
        self.words().get_mut(usize::from(POSITIONS[usize::from(number & 15)]))
    }

    /// All registers, in the order of the fields.
    #[inline(always)]
    fn words(&mut self) -> &mut [u64; WORDS] {
        // SAFETY: the struct is that many quadwords, in C's layout.
        unsafe { &mut *core::ptr::from_mut(self).cast() }
    }
}

/// General-purpose registers without RSP.
const WORDS: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_have_the_numbers_of_their_encoding() {
        let mut registers = GuestRegisters {
            rax: 0,
            rcx: 1,
            rdx: 2,
            rbx: 3,
            rbp: 5,
            rsi: 6,
            rdi: 7,
            r8: 8,
            r9: 9,
            r10: 10,
            r11: 11,
            r12: 12,
            r13: 13,
            r14: 14,
            r15: 15,
        };
        for number in 0..32 {
            let expected = Some(u64::from(number & 15)).filter(|&number| number != 4);
            assert_eq!(registers.by_number(number).copied(), expected);
        }
    }
}
