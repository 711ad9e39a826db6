//! Probes: deviations of this processor's SVM from the manual, found out before there is a guest.
//!
//! A probe is one instruction and a VMMCALL, both intercepted, which the processor runs as a guest in the monitor's own address
//! space. If the exit is VMMCALL's, the instruction made none. No ledger has a probe's exit, but an emulator's own log of exits
//! does; so the exits are kept, to be recorded.
#![expect(unsafe_code, reason = "names code of its own by its address")]

use core::arch::naked_asm;

use tollgate_abi::svm_exit::{self, code};
use tollgate_abi::virtualization::Facts;

use super::capability::{Capabilities, PROBES};
use super::controls::Intercepts;
use super::guest_state;
use super::instructions::SvmOperation;
use super::vmcb::{self, Vmcb};

/// Exit codes that are intercepted in every probe: an NMI's and a shutdown's, lest they end the monitor; VMRUN's and VMMCALL's.
const ALWAYS: [u32; 4] = [code::NMI, code::SHUTDOWN, code::VMRUN, code::VMMCALL];

/// A row of [`TABLE`].
struct Probe {
    instruction: &'static str,
    code: unsafe extern "C" fn(),
    /// The instruction's exit code, by which it is intercepted.
    exit: u32,
    /// Whether CPUID leaves something to find out.
    is_open: fn(&Capabilities) -> bool,
    /// Notes whether the instruction made its exit.
    note: fn(&mut Facts, bool),
}

macro_rules! codes {
    ($($name:ident: $instruction:literal;)*) => {$(
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!($instruction, "vmmcall")
        }
    )*};
}

codes! {
    read_cr8: "mov rax, cr8";
    invd: "invd";
    pause: "pause";
}

/// The probes. INVD is left to QEMU: where it makes no exit, it throws away the contents of the caches, and QEMU has no caches.
const TABLE: [Probe; PROBES] = [
    Probe {
        instruction: "mov rax, cr8",
        code: read_cr8,
        exit: code::CR8_READ,
        is_open: |capabilities| capabilities.facts.is_qemu,
        note: |facts, exited| facts.cr_reads_run = !exited,
    },
    Probe {
        instruction: "invd",
        code: invd,
        exit: code::INVD,
        is_open: |capabilities| capabilities.facts.is_qemu,
        note: |facts, exited| facts.invd_exits_as_itself = exited,
    },
    Probe {
        instruction: "pause",
        code: pause,
        exit: code::PAUSE,
        is_open: |capabilities| capabilities.pause_threshold,
        note: |facts, exited| facts.first_pause_runs = !exited,
    },
];

/// Whether CPUID leaves anything open on this processor.
pub fn are_wanted(capabilities: &Capabilities) -> bool {
    TABLE.iter().any(|probe| (probe.is_open)(capabilities))
}

/// Finds out what CPUID leaves open. `run` runs the guest in a block and returns its exit code.
pub fn find_out(capabilities: &mut Capabilities, vmcb: &Vmcb, cr3: u64, mut run: impl FnMut(&Vmcb) -> u32) {
    for (at, probe) in TABLE.iter().enumerate() {
        if !(probe.is_open)(capabilities) {
            continue;
        }
        prepare(vmcb, probe, cr3, capabilities.pause_threshold);
        let code = run(vmcb);
        (probe.note)(&mut capabilities.facts, code != code::VMMCALL);
        capabilities.probed.note(at, probe.instruction, svm_exit::reason(code, 0));
    }
}

fn prepare(vmcb: &Vmcb, probe: &Probe, cr3: u64, pause_threshold: bool) {
    let mut intercepts = Intercepts::default();
    ALWAYS.into_iter().chain([probe.exit]).for_each(|code| intercepts.set(code));
    intercepts.write(vmcb);
    vmcb.set_part(vmcb::GUEST_ASID, 1);
    vmcb.set_part(vmcb::TLB_CONTROL, super::FLUSH_ALL);
    if pause_threshold {
        vmcb.set_part(vmcb::PAUSE_FILTER_THRESHOLD, super::PAUSE_THRESHOLD);
    }
    guest_state::write(vmcb, probe.code as *const () as u64, cr3);
}

impl SvmOperation {
    /// Finds out what CPUID leaves open, with the monitor's own page tables at `cr3`.
    pub fn find_out(&mut self, capabilities: &mut Capabilities, vmcb: &'static Vmcb, cr3: u64) {
        find_out(capabilities, vmcb, cr3, |vmcb| {
            self.run_once(vmcb);
            vmcb.get(vmcb::EXITCODE) as u32
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::capability::tests::{qemu, zambezi};
    use super::*;
    use tollgate_abi::ExitReason;
    use tollgate_abi::leaves::Answer;

    /// The facts that are found, and the exits that are kept, if only these exits come, by the intercepts in the block.
    fn found(cpuid: fn(u32, u32) -> Answer, exits: &[u32]) -> (Facts, Vec<(&'static str, ExitReason)>) {
        let mut capabilities = Capabilities::read(cpuid, 0, 0).unwrap();
        let vmcb = Vmcb::new();
        find_out(&mut capabilities, &vmcb, 0x5000, |vmcb| {
            let intercepts = Intercepts::read(vmcb);
            assert!(ALWAYS.iter().all(|&code| intercepts.has(code)));
            assert_eq!((vmcb.get(vmcb::CR3), vmcb.part(vmcb::NP_ENABLE)), (0x5000, 0));
            exits.iter().copied().find(|&code| intercepts.has(code)).unwrap_or(code::VMMCALL)
        });
        (capabilities.facts, capabilities.probed.exits().collect())
    }

    #[test]
    fn qemu_is_asked_for_what_its_versions_do_differently() {
        let (facts, exits) = found(qemu, &[code::CR8_READ]);
        assert!(!facts.cr_reads_run && !facts.invd_exits_as_itself, "before 9.1");
        assert_eq!(exits, [("mov rax, cr8", ExitReason::CR_ACCESS), ("invd", ExitReason::VMCALL)]);
        let (facts, exits) = found(qemu, &[code::INVD]);
        assert!(facts.cr_reads_run && facts.invd_exits_as_itself && !facts.first_pause_runs, "from 9.1 on");
        assert_eq!(exits, [("mov rax, cr8", ExitReason::VMCALL), ("invd", ExitReason::INVD)]);
    }

    fn with_threshold(leaf: u32, sub_leaf: u32) -> Answer {
        let answer = zambezi(leaf, sub_leaf);
        if leaf == 0x8000_000a { Answer { edx: answer.edx | 1 << 10 | 1 << 12, ..answer } } else { answer }
    }

    #[test]
    fn a_pause_filter_with_a_threshold_is_tried() {
        assert!(!found(with_threshold, &[code::PAUSE]).0.first_pause_runs);
        let (facts, exits) = found(with_threshold, &[]);
        assert!(facts.first_pause_runs);
        assert_eq!(exits, [("pause", ExitReason::VMCALL)]);
    }

    #[test]
    fn where_nothing_is_open_nothing_is_run() {
        let (facts, exits) = found(zambezi, &[]);
        assert_eq!((facts, exits), (Capabilities::read(zambezi, 0, 0).unwrap().facts, vec![]));
        let are_wanted = |cpuid| are_wanted(&Capabilities::read(cpuid, 0, 0).unwrap());
        assert!(!are_wanted(zambezi as fn(u32, u32) -> Answer) && are_wanted(qemu) && are_wanted(with_threshold));
    }
}
