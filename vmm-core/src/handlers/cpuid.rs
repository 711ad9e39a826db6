//! CPUID, as far as one table has the answer; [`super::leaves`] has the account's.
//!
//! Nothing here executes CPUID: natively that is slow, and under another hypervisor it is an exit of its own.

use tollgate_abi::leaves::Answer;

use crate::exit::{GuestRegisters, GuestState, Quickly, VolatileRegisters};
use crate::machine::Machine;

/// Answers a leaf that has one answer; other leaves, the account's among them, are left.
#[inline(always)]
pub fn quick<B: GuestState>(registers: &mut VolatileRegisters, backend: &mut B, machine: &mut Machine) -> Quickly {
    let Some(answer) = machine.devices.cpuid.plain(backend.rax(registers) as u32) else { return Quickly::NotDecided };
    registers.rcx = answer.ecx.into();
    registers.rdx = answer.edx.into();
    backend.set_rax(registers, answer.eax.into());
    Quickly::DecidedWithRbx(answer.ebx.into())
}

/// Writes all 64 bits of RAX, RBX, RCX, RDX.
#[inline(always)]
pub fn put(registers: &mut GuestRegisters, answer: Answer) {
    registers.rax = u64::from(answer.eax);
    registers.rbx = u64::from(answer.ebx);
    registers.rcx = u64::from(answer.ecx);
    registers.rdx = u64::from(answer.edx);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Script, machine};

    #[test]
    fn plain_leaves_fill_whole_registers() {
        let (mut backend, mut machine) = (Script::default(), machine());
        let poisoned = GuestRegisters { rax: 0xdead_beef_0000_0000, rbx: !0, rcx: !0, rdx: !0, ..Default::default() };
        let mut registers = poisoned;
        let decided = quick(registers.volatile(), &mut backend, &mut machine);
        assert_eq!((decided, registers.rax), (Quickly::DecidedWithRbx(0x756e_6547), 0x16));
        for leaf in [4, 7, 0xb, 0xd, 32, 0x4fff_ffff, 0x8000_0000] {
            let mut registers = GuestRegisters { rax: leaf, ..poisoned };
            let left = registers;
            assert_eq!(quick(registers.volatile(), &mut backend, &mut machine), Quickly::NotDecided);
            assert_eq!(registers, left, "what is left is not changed");
        }
    }
}
