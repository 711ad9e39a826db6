//! The intercepts (APM 2 15.9 to 15.13): those that the monitor needs, and those that a profile adds.
//!
//! A profile has its wishes in the words of VT-x; the table here has the intercepts that fulfil them under SVM.

use tollgate_abi::exit_reason::{Controls, ExitReason, Rows};
use tollgate_abi::profile::Profile;
use tollgate_abi::svm_exit::{self, Intercept, intercept};
use tollgate_abi::x86::controls::{proc, proc2};

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

/// Exit codes, grouped by the wish for which they are intercepted.
mod code {
    pub(super) const CR3_READ: u16 = 0x03;
    pub(super) const CR8_READ: u16 = 0x08;
    pub(super) const CR0_WRITE: u16 = 0x10;
    pub(super) const CR3_WRITE: u16 = 0x13;
    pub(super) const CR4_WRITE: u16 = 0x14;
    pub(super) const CR8_WRITE: u16 = 0x18;
    pub(super) const DR_READS: [u16; 8] = [0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27];
    pub(super) const DR_WRITES: [u16; 8] = [0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37];
    pub(super) const DESCRIPTOR_TABLES: [u16; 8] = [0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d];
    pub(super) const RDTSC: u16 = 0x6e;
    pub(super) const RDPMC: u16 = 0x6f;
    pub(super) const PAUSE: u16 = 0x77;
    pub(super) const HLT: u16 = 0x78;
    pub(super) const INVLPG: u16 = 0x79;
    pub(super) const RDTSCP: u16 = 0x87;
    pub(super) const WBINVD: u16 = 0x89;
    pub(super) const MONITOR: u16 = 0x8a;
    pub(super) const MWAIT: u16 = 0x8b;
    pub(super) const XSETBV: u16 = 0x8d;
    pub(super) const RDPRU: u16 = 0x8e;
    pub(super) const INVPCID: u16 = 0xa2;
    /// Codes that every profile intercepts: interrupts, NMIs, INIT; CPUID, INVD, ports, MSRs, task switches, shutdown; SVM's
    /// instructions, the first of which VMRUN demands; CR0 and CR4, for which SVM has no masks.
    pub(super) const ALWAYS: [u16; 18] = [
        CR0_WRITE, CR4_WRITE, 0x60, 0x61, 0x63, 0x72, 0x76, 0x7a, 0x7b, 0x7c, 0x7d, 0x7f, 0x80, 0x81, 0x82, 0x83, 0x84,
        0x85,
    ];
    /// SKINIT, whose intercept is the last of SVM's instructions.
    pub(super) const SKINIT: u16 = 0x86;
}

/// HLT, whose intercept is off while the guest halts.
pub const HLT: u32 = 1 << (code::HLT - 0x60);
/// VINTR, whose intercept is on while an interrupt waits for its window.
pub const VINTR: u32 = 1 << 4;
/// IRET, whose intercept is on while an NMI's handler runs.
pub const IRET: u32 = 1 << 20;

/// The bit of vector 2, which is not among the exceptions.
const NO_EXCEPTION: u32 = 1 << 2;
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
        code::ALWAYS.into_iter().chain([code::SKINIT]).for_each(|code| intercepts.set(code));
        // CR8 exits in every profile: there is no shadow of the task priority that MSRs see.
        for (is_wanted, codes) in [
            (proc(proc::HLT_EXITING), &[code::HLT][..]),
            // INVLPG invalidates the known place of the guest's code, if that is decoded.
            (proc(proc::INVLPG_EXITING) || !capabilities.decode_assists, &[code::INVLPG]),
            (proc(proc::MWAIT_EXITING) && has.monitor, &[code::MWAIT]),
            (proc(proc::RDPMC_EXITING), &[code::RDPMC]),
            (proc(proc::RDTSC_EXITING), &[code::RDTSC]),
            (proc(proc::RDTSC_EXITING) && has.rdtscp, &[code::RDTSCP]),
            (proc(proc::CR3_LOAD_EXITING), &[code::CR3_WRITE]),
            (proc(proc::CR3_STORE_EXITING), &[code::CR3_READ]),
            (true, &[code::CR8_READ, code::CR8_WRITE]),
            (proc(proc::MOV_DR_EXITING), &code::DR_READS),
            (proc(proc::MOV_DR_EXITING), &code::DR_WRITES),
            (proc(proc::MONITOR_EXITING) && has.monitor, &[code::MONITOR]),
            (proc(proc::PAUSE_EXITING), &[code::PAUSE]),
            (proc2(proc2::DESCRIPTOR_TABLE_EXITING), &code::DESCRIPTOR_TABLES),
            (proc2(proc2::WBINVD_EXITING), &[code::WBINVD]),
            (proc2(proc2::ENABLE_INVPCID) && has.invpcid, &[code::INVPCID]),
            (has.xsetbv, &[code::XSETBV]),
            (has.rdpru, &[code::RDPRU]),
        ] {
            codes.iter().filter(|_| is_wanted).for_each(|&code| intercepts.set(code));
        }
        let without = NO_EXCEPTION | capabilities.facts.exceptions_without_exit();
        intercepts.exceptions = wanted.exception_bitmap & !without;
        intercepts
    }

    /// Adds the intercept of an exit code.
    pub fn set(&mut self, code: u16) {
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
    pub fn has(&self, code: u16) -> bool {
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
        for code in (0..0xc0).filter(|&code| self.has(code)) {
            svm_exit::of_code(code).into_iter().for_each(|reason| rows.insert(reason));
            if code == svm_exit::MSR {
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
        for code in [0x10, 0x14, 0x18, 0x60, 0x72, 0x78, 0x79, 0x7b, 0x7c, 0x7f, 0x80, 0x81, 0x86, 0x8d] {
            assert!(minimal.has(code) && full.has(code), "{code:#x}");
        }
        for code in [0x03, 0x13, 0x27, 0x30, 0x66, 0x6d, 0x6e, 0x77, 0x89, 0x46] {
            assert!(!minimal.has(code) && full.has(code), "{code:#x}");
        }
        assert!(!full.has(0x42) && !full.has(0x64) && !full.has(0x00));
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
        assert!(!intercepts(qemu, Profile::Full).has(0x43) && intercepts(zambezi, Profile::Full).has(0x43));
    }

    #[test]
    fn the_block_holds_them() {
        let vmcb = Vmcb::new();
        let full = intercepts(qemu, Profile::Full);
        full.write(&vmcb);
        assert_eq!(Intercepts::read(&vmcb), full);
    }
}
