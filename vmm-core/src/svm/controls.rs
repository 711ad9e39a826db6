//! The intercepts (APM 2 15.9 to 15.13): those that the monitor needs, and those that a profile adds.
//!
//! A profile has its wishes in the words of VT-x; the table here has the intercepts that fulfil them under SVM.

use tollgate_abi::exit_reason::{Controls, ExitReason, Rows};
use tollgate_abi::profile::Profile;
use tollgate_abi::svm_exit::{self, INTERCEPTS_END, Intercept, code, intercept};
use tollgate_abi::x86::controls::{proc, proc2};
use tollgate_abi::x86::exception;

use super::capability::Capabilities;
use super::vmcb::*;

/// The intercept words of one profile on one processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the words")]
pub struct Intercepts {
    pub cr_read: u16,
    pub cr_write: u16,
    pub dr_read: u16,
    pub dr_write: u16,
    pub exceptions: u32,
    pub others: [u32; 3],
}

/// Codes that every profile intercepts: events from outside, CPUID, INVD, ports, MSRs, task switches, shutdown; SVM's
/// instructions, the first of which VMRUN demands; CR0 and CR4, for which SVM has no masks. CR8 is among them because there is no
/// shadow of the task priority that MSRs see.
const ALWAYS: [u32; 21] = [
    code::CR0_WRITE,
    code::CR4_WRITE,
    code::CR8_READ,
    code::CR8_WRITE,
    code::INTR,
    code::NMI,
    code::INIT,
    code::CPUID,
    code::INVD,
    code::INVLPGA,
    code::IOIO,
    code::MSR,
    code::TASK_SWITCH,
    code::SHUTDOWN,
    code::VMRUN,
    code::VMMCALL,
    code::VMLOAD,
    code::VMSAVE,
    code::STGI,
    code::CLGI,
    code::SKINIT,
];

/// The bit of a code in the first of the three words of [`Intercepts::others`].
const fn bit_0(code: u32) -> u32 {
    1 << (code - code::INTR)
}

/// HLT, whose intercept is off while the guest halts.
pub const HLT: u32 = bit_0(code::HLT);
/// VINTR, whose intercept is on while an interrupt waits for its window.
pub const VINTR: u32 = bit_0(code::VINTR);
/// IRET, whose intercept is on while an NMI's handler runs.
pub const IRET: u32 = bit_0(code::IRET);

/// The bit of vector 2, the NMI's, which is not among the exceptions.
const NO_EXCEPTION: u32 = 1 << exception::NMI;
/// The intercepts of all exceptions.
pub const ALL_EXCEPTIONS: u32 = !NO_EXCEPTION;

impl Intercepts {
    /// Settles a profile's wishes with the features of the processor.
    pub fn new(capabilities: &Capabilities, profile: Profile) -> Self {
        let wanted = profile.intercepts();
        let has = capabilities.has;
        let mut intercepts = Self::default();
        let proc = |bit: u8| wanted.proc >> bit & 1 != 0;
        let proc2 = |bit: u8| wanted.proc2 >> bit & 1 != 0;
        ALWAYS.into_iter().for_each(|code| intercepts.set(code));
        // The wish or the need, and the first and the last of the codes that fulfil it.
        for (is_wanted, first, last) in [
            (proc(proc::HLT_EXITING), code::HLT, code::HLT),
            // INVLPG invalidates the known place of the guest's code, if that is decoded.
            (proc(proc::INVLPG_EXITING) || !capabilities.decode_assists, code::INVLPG, code::INVLPG),
            (proc(proc::MWAIT_EXITING) && has.monitor, code::MWAIT, code::MWAIT),
            (proc(proc::RDPMC_EXITING), code::RDPMC, code::RDPMC),
            (proc(proc::RDTSC_EXITING), code::RDTSC, code::RDTSC),
            (proc(proc::RDTSC_EXITING) && has.rdtscp, code::RDTSCP, code::RDTSCP),
            (proc(proc::CR3_LOAD_EXITING), code::CR3_WRITE, code::CR3_WRITE),
            (proc(proc::CR3_STORE_EXITING), code::CR3_READ, code::CR3_READ),
            (proc(proc::MOV_DR_EXITING), code::DR0_READ, code::DR7_READ),
            (proc(proc::MOV_DR_EXITING), code::DR0_WRITE, code::DR7_WRITE),
            (proc(proc::MONITOR_EXITING) && has.monitor, code::MONITOR, code::MONITOR),
            (proc(proc::PAUSE_EXITING), code::PAUSE, code::PAUSE),
            (proc2(proc2::DESCRIPTOR_TABLE_EXITING), code::IDTR_READ, code::TR_WRITE),
            (proc2(proc2::WBINVD_EXITING), code::WBINVD, code::WBINVD),
            (proc2(proc2::ENABLE_INVPCID) && has.invpcid, code::INVPCID, code::INVPCID),
            (has.xsetbv, code::XSETBV, code::XSETBV),
            (has.rdpru, code::RDPRU, code::RDPRU),
        ] {
            (first..=last).filter(|_| is_wanted).for_each(|code| intercepts.set(code));
        }
        let without = NO_EXCEPTION | capabilities.facts.exceptions_without_exit();
        intercepts.exceptions = wanted.exception_bitmap & !without;
        intercepts
    }

    /// Adds the intercept of an exit code.
    pub fn set(&mut self, code: u32) {
        match intercept(code) {
            Intercept::CrRead(bit) => self.cr_read |= 1 << bit,
            Intercept::CrWrite(bit) => self.cr_write |= 1 << bit,
            Intercept::DrRead(bit) => self.dr_read |= 1 << bit,
            Intercept::DrWrite(bit) => self.dr_write |= 1 << bit,
            Intercept::Exception(bit) => self.exceptions |= 1 << bit,
            Intercept::Other { word, bit } => self.others[usize::from(word)] |= 1 << bit,
            Intercept::Unconditional => {}
        }
    }

    /// Whether these intercepts make an exit code possible.
    pub fn has(&self, code: u32) -> bool {
        match intercept(code) {
            Intercept::CrRead(bit) => self.cr_read >> bit & 1 != 0,
            Intercept::CrWrite(bit) => self.cr_write >> bit & 1 != 0,
            Intercept::DrRead(bit) => self.dr_read >> bit & 1 != 0,
            Intercept::DrWrite(bit) => self.dr_write >> bit & 1 != 0,
            Intercept::Exception(bit) => self.exceptions >> bit & 1 != 0,
            Intercept::Other { word, bit } => self.others[usize::from(word)] >> bit & 1 != 0,
            Intercept::Unconditional => false,
        }
    }

    /// Writes these intercepts into the block.
    pub fn write(&self, vmcb: &Vmcb) {
        vmcb.set_part(INTERCEPT_CR_READ, self.cr_read.into());
        vmcb.set_part(INTERCEPT_CR_WRITE, self.cr_write.into());
        vmcb.set_part(INTERCEPT_DR_READ, self.dr_read.into());
        vmcb.set_part(INTERCEPT_DR_WRITE, self.dr_write.into());
        vmcb.set_part(INTERCEPT_EXCEPTION, self.exceptions.into());
        for (part, word) in [INTERCEPT_0, INTERCEPT_1, INTERCEPT_2].into_iter().zip(self.others) {
            vmcb.set_part(part, word.into());
        }
    }

    /// The intercepts in the block now.
    pub fn read(vmcb: &Vmcb) -> Self {
        Self {
            cr_read: vmcb.part(INTERCEPT_CR_READ) as u16,
            cr_write: vmcb.part(INTERCEPT_CR_WRITE) as u16,
            dr_read: vmcb.part(INTERCEPT_DR_READ) as u16,
            dr_write: vmcb.part(INTERCEPT_DR_WRITE) as u16,
            exceptions: vmcb.part(INTERCEPT_EXCEPTION) as u32,
            others: [INTERCEPT_0, INTERCEPT_1, INTERCEPT_2].map(|part| vmcb.part(part) as u32),
        }
    }

    /// The exits that these intercepts make possible. The monitor asks for an interrupt window when it needs one.
    pub fn in_force(&self) -> Controls {
        let mut rows = Rows::default();
        // Under any intercepts, nested paging can refuse an access, and a VM entry can fail.
        for reason in [
            ExitReason::EPT_VIOLATION,
            ExitReason::EPT_MISCONFIGURATION,
            ExitReason::ENTRY_FAILURE_GUEST_STATE,
            ExitReason::INTERRUPT_WINDOW,
        ] {
            rows.insert(reason);
        }
        for code in (0..INTERCEPTS_END).filter(|&code| self.has(code)) {
            svm_exit::of_code(code).into_iter().for_each(|reason| rows.insert(reason));
            if code == code::MSR {
                rows.insert(ExitReason::WRMSR);
            }
        }
        Controls { svm: Some(rows), ..Controls::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svm::capability::tests::{qemu, zambezi};
    use tollgate_abi::leaves::Answer;

    fn intercepts(cpuid: fn(u32, u32) -> Answer, profile: Profile) -> Intercepts {
        Intercepts::new(&Capabilities::read(cpuid, 0, 0).unwrap(), profile)
    }

    #[test]
    fn what_a_profile_wants_is_intercepted() {
        let minimal = intercepts(zambezi, Profile::Minimal);
        let full = intercepts(zambezi, Profile::Full);
        // The numbers of APM 2 appendix C, and not the list itself: a code that is missing there has to be missed here.
        for code in [0x10, 0x14, 0x08, 0x18, 0x60, 0x61, 0x63, 0x72, 0x76, 0x78, 0x79, 0x7a, 0x7b, 0x7c, 0x7d, 0x7f]
            .into_iter()
            .chain(0x80..=0x86)
            .chain([0x8d])
        {
            assert!(minimal.has(code) && full.has(code), "{code:#x}");
        }
        for code in [
            code::CR3_READ,
            code::CR3_WRITE,
            code::DR7_READ,
            code::DR0_WRITE,
            code::IDTR_READ,
            code::TR_WRITE,
            code::RDTSC,
            code::PAUSE,
            code::WBINVD,
            svm_exit::exception(exception::UD),
        ] {
            assert!(!minimal.has(code) && full.has(code), "{code:#x}");
        }
        let nmi_as_exception = svm_exit::exception(exception::NMI);
        assert!(!full.has(nmi_as_exception) && !full.has(code::VINTR) && !full.has(code::CR0_READ));
    }

    #[test]
    fn enabled_is_what_the_intercepts_make_possible() {
        let controls = intercepts(qemu, Profile::Full).in_force();
        for reason in [
            ExitReason::CPUID,
            ExitReason::RDMSR,
            ExitReason::WRMSR,
            ExitReason::EPT_VIOLATION,
            ExitReason::INTERRUPT_WINDOW,
            ExitReason::SVM_VMRUN,
            ExitReason::SVM_SHUTDOWN,
            ExitReason::VMCALL,
        ] {
            assert!(controls.enable(reason), "{reason:?}");
        }
        for reason in [
            ExitReason::VMCLEAR,
            ExitReason::TRIPLE_FAULT,
            ExitReason::PREEMPTION_TIMER,
            ExitReason::TPR_BELOW_THRESHOLD,
            ExitReason::XSETBV,
            ExitReason::RDRAND,
            ExitReason::SVM_PUSHF,
        ] {
            assert!(!controls.enable(reason), "{reason:?}");
        }
    }

    #[test]
    fn qemu_does_not_intercept_software_exceptions() {
        let breakpoint = svm_exit::exception(exception::BP);
        assert!(!intercepts(qemu, Profile::Full).has(breakpoint) && intercepts(zambezi, Profile::Full).has(breakpoint));
    }

    #[test]
    fn the_block_holds_them() {
        let vmcb = Vmcb::new();
        let full = intercepts(qemu, Profile::Full);
        full.write(&vmcb);
        assert_eq!(Intercepts::read(&vmcb), full);
    }
}
