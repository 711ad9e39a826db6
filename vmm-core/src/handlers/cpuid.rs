//! CPUID, as far as one table has the answer; [`super::leaves`] has the account's.
//!
//! Nothing here executes CPUID: natively that is slow, and under another hypervisor it is an exit of its own.

use tollgate_abi::leaves::Answer;

use crate::exit::{Backend, GuestRegisters};
use crate::machine::Machine;

/// Answers a leaf that has one answer; false for other leaves, the account's among them.
#[inline(always)]
pub fn quick<B: Backend>(
    registers: &mut GuestRegisters,
    backend: &mut B,
    machine: &mut Machine,
    may_end: impl FnOnce(&B) -> bool,
) -> bool {
    if !may_end(backend) {
        return false;
    }
    let answer = machine.devices.cpuid.plain(registers.rax as u32);
    if let Some(answer) = answer {
        put(registers, answer);
    }
    answer.is_some()
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
        assert!(!quick(&mut registers, &mut backend, &mut machine, |_| false));
        assert_eq!(registers, poisoned, "where it may not end, nothing is changed");
        assert!(quick(&mut registers, &mut backend, &mut machine, |_| true));
        assert_eq!((registers.rax, registers.rbx), (0x16, 0x756e_6547));
        for leaf in [4, 7, 0xb, 0xd, 32, 0x4fff_ffff, 0x8000_0000] {
            let mut registers = GuestRegisters { rax: leaf, ..poisoned };
            assert!(!quick(&mut registers, &mut backend, &mut machine, |_| true));
        }
    }
}
