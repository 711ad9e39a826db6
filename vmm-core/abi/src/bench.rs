//! The table of microbenchmarks: one operation each, which the guest times by itself, iteration by iteration.
//!
//! A row is a workload like any other, with a window and a prediction, that the default run leaves out; its code is in
//! `unikernel-guest/src/workloads/bench/mod.rs`, found by position. A row that kvm-unit-tests' `x86/vmexit.c` measures, too, has
//! the name that it has there.

use crate::exit_reason::ExitReason as R;
use crate::profile::Profile;
use crate::virtualization::Extension;
use crate::workload::{Counts, Ends, On, Otherwise, Provokes, Workload};

/// Stands before the name of a row in option lines and records, since some workloads have the same names.
pub const PREFIX: &str = "bench.";

/// The word in option lines for every row that there are vCPUs for. A run leaves out the rows of the other extension.
pub const EVERY: &str = "bench";

/// Iterations at the beginning of a row that give no sample.
pub const WARM_UP: u64 = 16;

/// The most samples of one row.
pub const MOST_SAMPLES: u64 = 16_384;

/// One microbenchmark.
#[derive(Debug)]
pub struct Bench {
    /// The row as a workload. The first [`WARM_UP`] of its iterations give no sample.
    pub workload: Workload,
    /// The extension that has the operation; `None` if both do.
    pub under: Option<Extension>,
    /// The parts of a round trip.
    pub parts: Parts,
}

/// The parts of a round trip, besides the timing itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// No exit: the timing alone.
    Timing,
    /// The instruction, its exits and nothing else.
    Exits,
    /// Its exits, one of two being the clock's own, since reading the clock exits.
    Clock,
    /// Its exits, and the handler of the guest to which the operation leads.
    GuestHandler,
    /// Exits and waiting, on several vCPUs or for a time: not a sum of parts.
    Waiting,
}

const fn row(
    name: &'static str,
    profile: Profile,
    on: On,
    samples: u64,
    parts: Parts,
    provokes: &'static [Provokes],
) -> Bench {
    let (iterations, most) = (samples + WARM_UP, MOST_SAMPLES + WARM_UP);
    let workload = Workload { name, profile, on, iterations, most, provokes, ends: Ends::Returns };
    Bench { workload, under: None, parts }
}

const fn each(reason: R, each: u64) -> Provokes {
    Provokes { reason, each, once: 0, otherwise: Otherwise::Runs, unless: None, counts: Counts::Always }
}

macro_rules! benches {
    ($($name:literal $profile:ident $on:ident $samples:literal $parts:ident [$($reason:ident $each:literal),*] $(only $under:ident)?, $about:literal;)*) => {
        /// Every row, in the order in which they run.
        pub const TABLE: &[Bench] = &[$(Bench {
            $(under: Some(Extension::$under),)?
            ..row(concat!("bench.", $name), Profile::$profile, On::$on, $samples, Parts::$parts,
                &[$(each(R::$reason, $each)),*])
        }),*];

        /// One line for people about each, apart from the rows, so that no image holds it.
        pub(crate) const ABOUT: &[&str] = &[$($about),*];
    };
}

benches! {
    "empty" Minimal First 1000 Timing [], "nothing: the timing alone";
    "cpuid" Minimal First 1000 Exits [CPUID 1], "CPUID leaf 0";
    "vmcall" Minimal First 1000 Exits [VMCALL 1], "VMCALL or VMMCALL that does nothing";
    "mov_from_cr8" Minimal First 1000 Exits [CR_ACCESS 1], "MOV from CR8";
    "mov_to_cr8" Minimal First 1000 Exits [CR_ACCESS 1], "MOV to CR8 of 0";
    "inl_from_kernel" Minimal First 1000 Exits [IO_INSTRUCTION 1], "IN of 4 bytes from port 0x80";
    "outl_to_kernel" Minimal First 1000 Exits [IO_INSTRUCTION 1], "OUT of 4 bytes to port 0x80";
    "mov_dr" Timing First 1000 Exits [MOV_DR 1], "MOV to DR7";
    "tscdeadline_immed" Minimal First 200 Waiting [WRMSR 2, EXTERNAL_INTERRUPT 1],
        "TSC deadline that has passed, until its interrupt has come; EOI";
    "tscdeadline" Minimal First 200 Waiting [WRMSR 2, HLT 1, EXTERNAL_INTERRUPT 1],
        "TSC deadline 5000 ticks away, HLT, its interrupt, EOI";
    "self_ipi_sti_nop" Minimal First 1000 GuestHandler [WRMSR 2, INTERRUPT_WINDOW 1],
        "an IPI to itself, by the ICR, that waits for STI; its interrupt, EOI";
    "self_ipi_sti_hlt" Minimal First 1000 GuestHandler [WRMSR 2, HLT 1],
        "an IPI to itself, by the ICR, that waits for STI and HLT; its interrupt, EOI";
    "self_ipi_tpr" Minimal First 1000 GuestHandler [WRMSR 2, CR_ACCESS 2],
        "an IPI to itself, by the ICR, that waits for a lower CR8; its interrupt, EOI";
    "self_ipi_tpr_sti_nop" Minimal First 1000 GuestHandler [WRMSR 2, CR_ACCESS 2, INTERRUPT_WINDOW 1],
        "an IPI to itself, by the ICR, that waits for a lower CR8, then STI; its interrupt, EOI";
    "self_ipi_tpr_sti_hlt" Minimal First 1000 GuestHandler [WRMSR 2, CR_ACCESS 2, HLT 1],
        "an IPI to itself, by the ICR, that waits for a lower CR8, then STI and HLT; its interrupt, EOI";
    "x2apic_self_ipi_sti_nop" Minimal First 1000 GuestHandler [WRMSR 2, INTERRUPT_WINDOW 1],
        "a self-IPI that waits for STI; its interrupt, EOI";
    "x2apic_self_ipi_sti_hlt" Minimal First 1000 GuestHandler [WRMSR 2, HLT 1],
        "a self-IPI that waits for STI and HLT; its interrupt, EOI";
    "x2apic_self_ipi_tpr" Minimal First 1000 GuestHandler [WRMSR 2, CR_ACCESS 2],
        "a self-IPI that waits for a lower CR8; its interrupt, EOI";
    "x2apic_self_ipi_tpr_sti_nop" Minimal First 1000 GuestHandler [WRMSR 2, CR_ACCESS 2, INTERRUPT_WINDOW 1],
        "a self-IPI that waits for a lower CR8, then STI; its interrupt, EOI";
    "x2apic_self_ipi_tpr_sti_hlt" Minimal First 1000 GuestHandler [WRMSR 2, CR_ACCESS 2, HLT 1],
        "a self-IPI that waits for a lower CR8, then STI and HLT; its interrupt, EOI";
    "x2apic_self_ipi" Minimal First 1000 GuestHandler [WRMSR 2], "a self-IPI that is taken at once; its interrupt, EOI";
    "ipi" Minimal Two 1000 Waiting [WRMSR 2, EXTERNAL_INTERRUPT 1], "an IPI to a vCPU that runs, until it has taken it";
    "ipi_halt" Minimal Two 1000 Waiting [WRMSR 2, HLT 1, EXTERNAL_INTERRUPT 1],
        "an IPI to a vCPU that halts, until it has taken it";
    "wr_kernel_gs_base" Timing First 1000 Exits [WRMSR 1], "WRMSR of IA32_KERNEL_GS_BASE";
    "wr_tsc_adjust_msr" Minimal First 1000 Exits [WRMSR 1], "WRMSR of IA32_TSC_ADJUST of 0, which it has";
    "rd_tsc_adjust_msr" Minimal First 1000 Exits [RDMSR 1], "RDMSR of IA32_TSC_ADJUST";
    "toggle_cr0_wp" Timing First 1000 Exits [CR_ACCESS 2], "two MOVs to CR0 that toggle WP";
    "toggle_cr4_pge" Timing First 1000 Exits [CR_ACCESS 2], "two MOVs to CR4 that toggle PGE";
    "wbinvd" Timing First 1000 Exits [WBINVD 1], "WBINVD";
    "invd" Timing First 1000 Exits [INVD 1], "INVD";
    "in" Minimal First 1000 Exits [IO_INSTRUCTION 1], "IN of a byte from port 0x80";
    "out" Minimal First 1000 Exits [IO_INSTRUCTION 1], "OUT of a byte to port 0x80";
    "outs" Minimal First 1000 Exits [IO_INSTRUCTION 1], "REP OUTSB of 32 bytes to the loopback port";
    "ins" Minimal First 1000 Exits [IO_INSTRUCTION 1], "REP INSB of 32 bytes from the loopback port";
    "rdmsr" Minimal First 1000 Exits [RDMSR 1], "RDMSR of IA32_APIC_BASE";
    "wrmsr" Minimal First 1000 Exits [WRMSR 1], "WRMSR of IA32_SYSENTER_ESP";
    "mov_to_cr0" Timing First 1000 Exits [CR_ACCESS 1], "MOV to CR0 that toggles MP";
    "mov_to_cr4" Timing First 1000 Exits [CR_ACCESS 1], "MOV to CR4 that toggles DE";
    "mov_from_cr3" Timing First 1000 Exits [CR_ACCESS 1], "MOV from CR3";
    "mov_to_cr3" Timing First 1000 Exits [CR_ACCESS 1], "MOV to CR3 of the same value";
    "mov_from_dr" Timing First 1000 Exits [MOV_DR 1], "MOV from DR7";
    "lmsw_clts" Timing First 1000 Exits [CR_ACCESS 2], "LMSW that sets TS, and CLTS";
    "hlt" Minimal First 1000 Waiting [VMCALL 1, HLT 1], "HLT that ends at once, by an interrupt that a hypercall has armed before";
    "xsetbv" Minimal First 1000 Exits [XSETBV 1], "XSETBV of the value that XCR0 has";
    "rdtsc" Full First 1000 Clock [RDTSC 2], "RDTSC: from one reading to the next";
    "rdtscp" Full First 1000 Clock [RDTSCP 2], "RDTSCP: from one reading to the next";
    "invlpg" Timing First 1000 Exits [INVLPG 1], "INVLPG";
    "pause" Timing First 1000 Exits [PAUSE 1], "PAUSE";
    "sgdt" Timing First 1000 Exits [GDTR_IDTR_ACCESS 1], "SGDT";
    "sidt" Timing First 1000 Exits [GDTR_IDTR_ACCESS 1], "SIDT";
    "lgdt" Timing First 1000 Exits [GDTR_IDTR_ACCESS 1], "LGDT of the same table";
    "lidt" Timing First 1000 Exits [GDTR_IDTR_ACCESS 1], "LIDT of the same table";
    "sldt" Timing First 1000 Exits [LDTR_TR_ACCESS 1], "SLDT to a register";
    "str" Timing First 1000 Exits [LDTR_TR_ACCESS 1], "STR to a register";
    "lldt" Timing First 1000 Exits [LDTR_TR_ACCESS 1], "LLDT of the null selector";
    "ltr" Timing First 1000 Exits [LDTR_TR_ACCESS 1], "LTR of the same task";
    "rdpmc" Timing First 1000 GuestHandler [RDPMC 1], "RDPMC of a counter that does not exist: #GP";
    "monitor" Timing First 1000 GuestHandler [MONITOR 1], "MONITOR, which is hidden: #UD";
    "mwait" Timing First 1000 GuestHandler [MWAIT 1], "MWAIT, which is hidden: #UD";
    "rdrand" Timing First 1000 GuestHandler [RDRAND 1], "RDRAND, which is hidden: #UD";
    "rdseed" Timing First 1000 GuestHandler [RDSEED 1], "RDSEED, which is hidden: #UD";
    "invpcid" Timing First 1000 GuestHandler [INVPCID 1], "INVPCID, which is hidden: #UD";
    "vmclear" Timing First 1000 GuestHandler [VMCLEAR 1] only VtX, "VMCLEAR, which the guest may not use: #UD";
    "vmlaunch" Timing First 1000 GuestHandler [VMLAUNCH 1] only VtX, "VMLAUNCH, which the guest may not use: #UD";
    "vmptrld" Timing First 1000 GuestHandler [VMPTRLD 1] only VtX, "VMPTRLD, which the guest may not use: #UD";
    "vmptrst" Timing First 1000 GuestHandler [VMPTRST 1] only VtX, "VMPTRST, which the guest may not use: #UD";
    "vmread" Timing First 1000 GuestHandler [VMREAD 1] only VtX, "VMREAD, which the guest may not use: #UD";
    "vmresume" Timing First 1000 GuestHandler [VMRESUME 1] only VtX, "VMRESUME, which the guest may not use: #UD";
    "vmwrite" Timing First 1000 GuestHandler [VMWRITE 1] only VtX, "VMWRITE, which the guest may not use: #UD";
    "vmxoff" Timing First 1000 GuestHandler [VMXOFF 1] only VtX, "VMXOFF, which the guest may not use: #UD";
    "vmxon" Timing First 1000 GuestHandler [VMXON 1] only VtX, "VMXON, which the guest may not use: #UD";
    "invept" Timing First 1000 GuestHandler [INVEPT 1] only VtX, "INVEPT, which the guest may not use: #UD";
    "invvpid" Timing First 1000 GuestHandler [INVVPID 1] only VtX, "INVVPID, which the guest may not use: #UD";
    "vmrun" Timing First 1000 GuestHandler [SVM_VMRUN 1] only Svm, "VMRUN, which the guest may not use: #UD";
    "vmload" Timing First 1000 GuestHandler [SVM_VMLOAD 1] only Svm, "VMLOAD, which the guest may not use: #UD";
    "vmsave" Timing First 1000 GuestHandler [SVM_VMSAVE 1] only Svm, "VMSAVE, which the guest may not use: #UD";
    "stgi" Timing First 1000 GuestHandler [SVM_STGI 1] only Svm, "STGI, which the guest may not use: #UD";
    "clgi" Timing First 1000 GuestHandler [SVM_CLGI 1] only Svm, "CLGI, which the guest may not use: #UD";
    "skinit" Timing First 1000 GuestHandler [SVM_SKINIT 1] only Svm, "SKINIT, which the guest may not use: #UD";
    "invlpga" Timing First 1000 GuestHandler [SVM_INVLPGA 1] only Svm, "INVLPGA, which the guest may not use: #UD";
    "divide_error" Timing First 1000 GuestHandler [EXCEPTION_OR_NMI 1], "#DE by DIV, handed back";
    "single_step" Timing First 1000 GuestHandler [EXCEPTION_OR_NMI 1], "#DB by a single step, handed back";
    "breakpoint" Timing First 1000 GuestHandler [EXCEPTION_OR_NMI 1], "#BP by INT3, handed back";
    "invalid_opcode" Timing First 1000 GuestHandler [EXCEPTION_OR_NMI 1], "#UD by UD2, handed back";
    "device_not_available" Timing First 1000 GuestHandler [CR_ACCESS 2, EXCEPTION_OR_NMI 1],
        "#NM by FNOP between LMSW and CLTS, handed back";
    "segment_not_present" Timing First 1000 GuestHandler [EXCEPTION_OR_NMI 1], "#NP by a MOV to ES, handed back";
    "stack_segment_fault" Timing First 1000 GuestHandler [EXCEPTION_OR_NMI 1], "#SS by a MOV to SS, handed back";
    "general_protection" Timing First 1000 GuestHandler [EXCEPTION_OR_NMI 1],
        "#GP by a read of a non-canonical address, handed back";
    "page_fault" Timing First 1000 GuestHandler [EXCEPTION_OR_NMI 1], "#PF by a read of an unmapped address, handed back";
    "x87_error" Timing First 1000 GuestHandler [EXCEPTION_OR_NMI 1], "#MF by FWAIT after a division by zero, handed back";
    "simd_error" Timing First 1000 GuestHandler [EXCEPTION_OR_NMI 1], "#XM by DIVSS by zero, handed back";
    "ept_violation_write" Minimal First 256 Exits [EPT_VIOLATION 1], "the first write to a page";
    "ept_violation_read" Minimal First 256 Exits [EPT_VIOLATION 1], "the first read of a page";
    "ept_violation_fetch" Minimal First 256 Waiting [EPT_VIOLATION 2],
        "the first fetch from a page, CALL and RET included, after the first write to the next";
}

impl Bench {
    /// The microbenchmark's name in tables.
    pub fn name(&self) -> &'static str {
        self.workload.name.strip_prefix(PREFIX).unwrap_or(self.workload.name)
    }

    /// The row with this name.
    pub fn by_name(name: &str) -> Option<&'static Bench> {
        TABLE.iter().find(|bench| bench.name() == name)
    }

    /// True if it can be run under `extension`.
    pub fn runs_under(&self, extension: Extension) -> bool {
        self.under.is_none_or(|only| only == extension)
    }

    /// The row that runs as this workload, if there is one.
    pub fn of(workload: &Workload) -> Option<&'static Bench> {
        Self::of_name(workload.name)
    }

    /// The row that runs as the workload of this name, if there is one.
    pub fn of_name(workload: &str) -> Option<&'static Bench> {
        TABLE.iter().find(|bench| bench.workload.name == workload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtualization::Facts;
    use std::vec::Vec;

    #[test]
    fn names_are_unique_and_found() {
        let mut names: Vec<_> = TABLE.iter().map(Bench::name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
        for bench in TABLE {
            assert!(bench.workload.name.starts_with(PREFIX) && !bench.name().starts_with(PREFIX));
            let found = Workload::by_name(bench.workload.name).unwrap();
            assert_eq!(Workload::by_number(found.number()).map(|workload| workload.name), Some(bench.workload.name));
            assert!(!crate::workload::TABLE.contains(found), "the default run has it");
        }
    }

    #[test]
    fn what_is_timed_does_not_make_the_clock_exit_unless_it_is_about_that() {
        const RDTSC_EXITING: u32 = 1 << 12;
        for bench in TABLE {
            let exits = bench.workload.profile.intercepts().proc & RDTSC_EXITING != 0;
            assert_eq!(exits, bench.parts == Parts::Clock, "{}", bench.name());
        }
    }

    #[test]
    fn each_row_but_the_timing_predicts_exits() {
        for bench in TABLE {
            let of = |reason: &R| bench.workload.predict(*reason, 1, 1, Facts::default(), |_| true);
            let predicted: u64 = bench.workload.provokes.iter().map(|row| of(&row.reason)).sum();
            assert_eq!(predicted == 0, bench.parts == Parts::Timing, "{}", bench.name());
        }
    }
}
