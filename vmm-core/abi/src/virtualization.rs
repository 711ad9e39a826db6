//! The virtualization extensions, and the facts besides the controls in force on which predictions depend: how this processor's
//! extension treats some instructions.

use core::fmt;

use crate::exit_reason::ExitReason;
use crate::leaves::Answer;
use crate::x86::cpuid::{ebx_7, ecx_1};
use crate::x86::exception;

/// A virtualization extension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extension {
    /// Intel's.
    #[default]
    VtX,
    /// AMD's.
    Svm,
}

impl Extension {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Extension::VtX => "VT-x",
            Extension::Svm => "SVM",
        }
    }
}

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Facts of the processor beneath the monitor, which the guest needs to predict its exits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The extension.
    pub extension: Extension,
    /// It is QEMU's own emulation, which tests intercepts before anything else, takes INT3 for a software interrupt and RDTSCP for
    /// RDTSC, has no intercept of XSETBV, and raises no #XM.
    pub is_qemu: bool,
    /// RDRAND executes where the processor has it: CPUID hides it, and no intercept can keep it from the guest.
    pub rdrand_runs: bool,
    /// RDSEED executes where the processor has it, for the same reason.
    pub rdseed_runs: bool,
    /// INVPCID executes where the processor has it, but no intercept for it.
    pub invpcid_runs: bool,
    /// MOV from CR3, CR4 and CR8 makes no exit, whatever is intercepted: QEMU from 9.1 on takes each for a read of CR0. A probe
    /// tells.
    pub cr_reads_run: bool,
    /// INVD exits as INVD on QEMU, which took it for WBINVD before 9.1. A probe tells.
    pub invd_exits_as_itself: bool,
    /// The first PAUSE behind an entry makes no exit, and one right behind it does. In Bochs' filter from 3.1 on, the time since
    /// the last PAUSE begins anew with each entry, and a PAUSE after a long time is taken for no loop (APM 2 15.14.4). A probe
    /// tells.
    pub first_pause_runs: bool,
}

/// The hypervisor signature of QEMU's emulation (CPUID leaf 40000000h).
pub const TCG: &str = "TCGTCGTCGTCG";
/// The signature of KVM, less the zeros at its end.
pub const KVM: &str = "KVMKVMKVM";

/// #BP and #OF in the exception bitmap.
const SOFTWARE_EXCEPTIONS: u32 = 1 << exception::BP | 1 << exception::OF;
/// #XM in the exception bitmap.
const SIMD_EXCEPTION: u32 = 1 << exception::XM;

impl Facts {
    /// The facts of a processor with SVM.
    pub fn of_svm(cpuid: impl Fn(u32, u32) -> Answer) -> Self {
        let features = cpuid(1, 0);
        let signature = if features.ecx & ecx_1::HYPERVISOR != 0 { cpuid(0x4000_0000, 0) } else { Answer::ZERO };
        let mut text = [0; 12];
        for (bytes, register) in text.chunks_exact_mut(4).zip([signature.ebx, signature.ecx, signature.edx]) {
            bytes.copy_from_slice(&register.to_le_bytes());
        }
        let structured = if cpuid(0, 0).eax >= 7 { cpuid(7, 0) } else { Answer::ZERO };
        let (is_qemu, rdrand_runs) = (text == TCG.as_bytes(), features.ecx & ecx_1::RDRAND != 0);
        Self {
            extension: Extension::Svm,
            is_qemu,
            rdrand_runs,
            // QEMU wants the bit of RDRAND for either.
            rdseed_runs: if is_qemu { rdrand_runs } else { structured.ebx & ebx_7::RDSEED != 0 },
            invpcid_runs: structured.ebx & ebx_7::INVPCID != 0,
            cr_reads_run: false,
            invd_exits_as_itself: false,
            first_pause_runs: false,
        }
    }

    /// The facts as a word, for the guest's boot information.
    pub const fn to_word(self) -> u64 {
        matches!(self.extension, Extension::Svm) as u64
            | (self.is_qemu as u64) << 1
            | (self.rdrand_runs as u64) << 2
            | (self.rdseed_runs as u64) << 3
            | (self.invpcid_runs as u64) << 4
            | (self.cr_reads_run as u64) << 5
            | (self.invd_exits_as_itself as u64) << 6
            | (self.first_pause_runs as u64) << 7
    }

    /// The inverse of [`Facts::to_word`].
    pub const fn from_word(word: u64) -> Self {
        Self {
            extension: if word & 1 != 0 { Extension::Svm } else { Extension::VtX },
            is_qemu: word >> 1 & 1 != 0,
            rdrand_runs: word >> 2 & 1 != 0,
            rdseed_runs: word >> 3 & 1 != 0,
            invpcid_runs: word >> 4 & 1 != 0,
            cr_reads_run: word >> 5 & 1 != 0,
            invd_exits_as_itself: word >> 6 & 1 != 0,
            first_pause_runs: word >> 7 & 1 != 0,
        }
    }

    /// True if this is SVM.
    pub const fn is_svm(self) -> bool {
        matches!(self.extension, Extension::Svm)
    }

    /// True if an instruction that CPUID hides executes all the same, without an exit, where its exit is not enabled.
    pub fn runs(self, hidden: ExitReason) -> bool {
        match hidden {
            ExitReason::RDRAND => self.rdrand_runs,
            ExitReason::RDSEED => self.rdseed_runs,
            ExitReason::INVPCID => self.invpcid_runs,
            // QEMU has no intercept of it.
            ExitReason::XSETBV => self.is_qemu,
            _ => false,
        }
    }

    /// The reason of the exit that an instruction of this reason makes: QEMU's emulation takes RDTSCP for RDTSC, and before 9.1
    /// INVD for WBINVD.
    pub const fn exits_as(self, reason: ExitReason) -> ExitReason {
        match reason {
            ExitReason::RDTSCP if self.is_qemu => ExitReason::RDTSC,
            ExitReason::INVD if self.is_qemu && !self.invd_exits_as_itself => ExitReason::WBINVD,
            reason => reason,
        }
    }

    /// Exceptions that make no exit, whatever the exception bitmap says: they are delivered to the guest at once, or never raised.
    pub const fn exceptions_without_exit(self) -> u32 {
        if self.is_qemu { SOFTWARE_EXCEPTIONS | SIMD_EXCEPTION } else { 0 }
    }

    /// True if SSE raises #XM, which QEMU's emulation does not.
    pub const fn raises_simd_exceptions(self) -> bool {
        !self.is_qemu
    }

    /// True if a value that a control register refuses raises #GP before an intercept of the write is looked at (APM 2 table
    /// 15-7). Under VT-x the intercept comes first.
    pub const fn refuses_first(self) -> bool {
        self.is_svm() && !self.is_qemu
    }

    /// True if MOV to CR0 or CR4, CLTS and LMSW exit: under VT-x those that change a bit of the mask do, under SVM all.
    pub const fn control_register_write_exits(self, old: u64, new: u64, mask: u64) -> bool {
        self.is_svm() || (old ^ new) & mask != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_the_boot_information() {
        for word in 0..256 {
            assert_eq!(Facts::from_word(word).to_word(), word);
        }
        assert_eq!(Facts::default().to_word(), 0);
    }
}
