//! The guest's general-purpose registers, as the entry stubs leave them.
#![expect(unsafe_code, reason = "looks at the registers as an array, and at some of them alone")]

use core::mem::offset_of;

use tollgate_abi::guest_image::Entry;

/// The guest's general-purpose registers. The volatile ones come first: a stub saves these at every exit.
///
/// RSP, RIP and RFLAGS are the backend's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the registers' own names")]
pub struct GuestRegisters {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub nothing: Nothing,
    pub rbx: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

impl GuestRegisters {
    /// The registers of vCPU 0 at its first instruction.
    pub fn at(entry: &Entry) -> Self {
        let Entry { rax, rbx, rdi, rsi, .. } = *entry;
        Self { rax, rbx, rdi, rsi, ..Self::default() }
    }
}

/// A quadword that is always 0: the quick forms read it in place of a register that they don't have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Nothing(u64);

/// The registers that a function of the Windows x64 calling convention may change. The quick forms see these alone: the guest's
/// other registers stay in the processor while they run.
///
/// RAX is not among them: where it is, is the backend's affair ([`GuestState::rax`](super::GuestState::rax)).
#[derive(Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "the registers' own names")]
pub struct VolatileRegisters {
    rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    nothing: Nothing,
}

const _: () = assert!(size_of::<GuestRegisters>() == WORDS * 8);
const _: () = {
    assert!(size_of::<VolatileRegisters>() == VOLATILE * 8);
    assert!(offset_of!(VolatileRegisters, rcx) == offset_of!(GuestRegisters, rcx));
    assert!(offset_of!(VolatileRegisters, nothing) == offset_of!(GuestRegisters, nothing));
};

/// The positions of the registers, by their number in instructions: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
static POSITIONS: [u8; 16] = [0, 1, 2, 8, NONE, 9, 10, 11, 3, 4, 5, 6, 12, 13, 14, 15];

/// No register's position.
const NONE: u8 = WORDS as u8;

/// The positions of the volatile ones, and that of nothing for the others.
static VOLATILE_POSITIONS: [u8; 16] = {
    let (mut positions, mut number) = (POSITIONS, 0);
    while number < positions.len() {
        if positions[number] as usize >= VOLATILE {
            positions[number] = VOLATILE as u8 - 1;
        }
        number += 1;
    }
    positions
};

impl GuestRegisters {
    /// The register with this number in an instruction's encoding; `None` for 4, which is RSP.
    #[inline(always)]
    pub fn by_number(&mut self, number: u8) -> Option<&mut u64> {
        self.words().get_mut(usize::from(POSITIONS[usize::from(number & 15)]))
    }

    /// The volatile ones.
    #[inline(always)]
    pub fn volatile(&mut self) -> &mut VolatileRegisters {
        // SAFETY: the struct begins with these fields, in C's layout, as the assertions above check; the borrow is the whole's.
        unsafe { &mut *core::ptr::from_mut(self).cast() }
    }

    /// All registers, in the order of the fields.
    #[inline(always)]
    fn words(&mut self) -> &mut [u64; WORDS] {
        // SAFETY: the struct is that many quadwords, in C's layout.
        unsafe { &mut *core::ptr::from_mut(self).cast() }
    }
}

impl VolatileRegisters {
    /// RAX, where a stub saves it here.
    #[inline(always)]
    pub(crate) fn saved_rax(&self) -> u64 {
        self.rax
    }

    /// Has a stub restore RAX from here.
    #[inline(always)]
    pub(crate) fn save_rax(&mut self, value: u64) {
        self.rax = value;
    }

    /// Whether the register with this number in an instruction's encoding is one of these, or RAX.
    #[inline(always)]
    pub fn has(number: u8) -> bool {
        usize::from(POSITIONS[usize::from(number & 15)]) < VOLATILE
    }

    /// Writes the register with this number, RAX where a stub restores it. Nothing comes of one that is not volatile.
    #[inline(always)]
    pub fn set_by_number(&mut self, number: u8, value: u64) {
        let position = usize::from(POSITIONS[usize::from(number & 15)]);
        // SAFETY: the struct is that many quadwords, in C's layout, as the assertions above check; the borrow is the whole's.
        let words: &mut [u64; VOLATILE] = unsafe { &mut *core::ptr::from_mut(self).cast() };
        // The last one is always 0.
        if let Some(register) = words[..VOLATILE - 1].get_mut(position) {
            *register = value;
        }
    }

    /// The register with this number in an instruction's encoding, RAX as a stub saves it; 0 for those that are not volatile.
    #[inline(always)]
    pub fn by_number(&self, number: u8) -> u64 {
        let words: &[u64; VOLATILE] =
            // SAFETY: the struct is that many quadwords, in C's layout.
            unsafe { &*core::ptr::from_ref(self).cast() };
        let position = usize::from(VOLATILE_POSITIONS[usize::from(number & 15)]);
        // The remainder is the position, and spares a comparison.
        words[position % VOLATILE]
    }
}

/// General-purpose registers without RSP, and nothing.
const WORDS: usize = 16;
/// The volatile ones, and nothing.
const VOLATILE: usize = 8;

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
            nothing: Nothing::default(),
            r12: 12,
            r13: 13,
            r14: 14,
            r15: 15,
        };
        for number in 0..32 {
            let expected = Some(u64::from(number & 15)).filter(|&number| number != 4);
            assert_eq!(registers.by_number(number).copied(), expected);
            let volatile = expected.filter(|number| [0, 1, 2, 8, 9, 10, 11].contains(number));
            assert_eq!(registers.volatile().by_number(number), volatile.unwrap_or(0));
        }
        assert_eq!((registers.volatile().rcx, registers.volatile().rdx), (1, 2));
    }
}
