//! The table of workloads: what each is about, which profile it wants, and how many exits of each reason it predicts.
//!
//! Prediction, the guest's code and the documentation (`tollgate workloads`) all hang on a row here; the code itself is
//! in `unikernel-guest/src/workloads`, found by name.

use crate::exit_reason::ExitReason;
use crate::profile::Profile;

/// How often a workload provokes one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provokes {
    /// The reason, where the controls in force enable it.
    pub reason: ExitReason,
    /// Exits in each iteration.
    pub each: u64,
    /// Exits whatever the number of iterations.
    pub once: u64,
    /// What happens where the reason is not enabled.
    pub otherwise: Otherwise,
}

/// What an operation does where its own exit is not enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// It runs without an exit.
    Runs,
    /// It raises #UD, which exits as reason 0 if the exception bitmap says so.
    InvalidOpcode,
}

/// How a workload ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// It returns, and its books must balance.
    Returns,
    /// It misbehaves so that the monitor has to stop the guest with this outcome.
    Stopped(Outcome),
    /// It misbehaves in a way that may end in any outcome.
    Anyhow,
}

/// How a run of the guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest ended itself and reported its book.
    Exited,
    /// The guest ended itself without a book, or with one that the monitor could not read.
    ExitedWithoutBook,
    /// A triple fault.
    TripleFault,
    /// An access outside the guest's memory.
    OutsideMemory,
    /// No exit for longer than the watchdog allows.
    NoExits,
    /// HLT with nothing that could wake it.
    HaltedForEver,
    /// An attempt to leave 64-bit mode or IA-32e mode.
    LeftLongMode,
    /// A task switch.
    TaskSwitch,
    /// A VM entry failed.
    EntryFailed,
    /// An exit that the monitor has no handler for.
    UnhandledExit,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 10] = [
        Outcome::Exited,
        Outcome::ExitedWithoutBook,
        Outcome::TripleFault,
        Outcome::OutsideMemory,
        Outcome::NoExits,
        Outcome::HaltedForEver,
        Outcome::LeftLongMode,
        Outcome::TaskSwitch,
        Outcome::EntryFailed,
        Outcome::UnhandledExit,
    ];

    /// The word in records.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Exited => "exited",
            Outcome::ExitedWithoutBook => "exited-without-book",
            Outcome::TripleFault => "triple-fault",
            Outcome::OutsideMemory => "outside-memory",
            Outcome::NoExits => "no-exits",
            Outcome::HaltedForEver => "halted-for-ever",
            Outcome::LeftLongMode => "left-long-mode",
            Outcome::TaskSwitch => "task-switch",
            Outcome::EntryFailed => "entry-failed",
            Outcome::UnhandledExit => "unhandled-exit",
        }
    }

    /// The inverse of [`Outcome::name`].
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == name)
    }
}

/// One row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Workload {
    /// The name on command lines and in records.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// The intercepts in force while it runs.
    pub profile: Profile,
    /// Iterations unless asked otherwise.
    pub iterations: u64,
    /// The most iterations that make sense.
    pub most: u64,
    /// What it predicts.
    pub provokes: &'static [Provokes],
    /// How it ends.
    pub ends: Ends,
}

const fn each(reason: ExitReason, each: u64) -> Provokes {
    Provokes { reason, each, once: 0, otherwise: Otherwise::Runs }
}

const fn once(reason: ExitReason, once: u64) -> Provokes {
    Provokes { reason, each: 0, once, otherwise: Otherwise::Runs }
}

const fn or_invalid_opcode(reason: ExitReason, each: u64) -> Provokes {
    Provokes { reason, each, once: 0, otherwise: Otherwise::InvalidOpcode }
}

/// Reasons beyond 0..=127 that the `leaves` workload asks for in ECX: wide, negative, and just past the table.
pub const WILD_REASONS: &[u32] =
    &[128, 255, 256, 0x7fff, 0xffff, 0x0001_000a, 0x8000_0000, 0x8000_000a, 0xdead_beef, 0xffff_ffff];

/// CPUIDs in one iteration of `leaves`: five leaves for each reason, and five that ask for no reason.
pub const LEAF_QUERIES: u64 = 5 * (128 + WILD_REASONS.len() as u64) + 5;

/// Iterations of anything that costs next to nothing.
const MANY: u64 = 1_000_000_000;

use Ends::{Anyhow, Returns, Stopped};
use ExitReason as R;
use Profile::{Full, Minimal};

macro_rules! workloads {
    ($($name:literal $profile:ident $iterations:literal/$most:expr, $ends:expr, [$($provokes:expr),*], $about:literal;)*) => {
        /// Every workload, in the order in which the default run performs those that return.
        pub const TABLE: &[Workload] = &[$(Workload {
            name: $name,
            about: $about,
            profile: $profile,
            iterations: $iterations,
            most: $most,
            provokes: &[$($provokes),*],
            ends: $ends,
        }),*];
    };
}

workloads! {
    "leaves" Minimal 1/100_000, Returns, [each(R::CPUID, LEAF_QUERIES)],
        "every leaf of the contract, for every reason 0-127 and wild ones";
    "cpuid" Minimal 1000/MANY, Returns, [each(R::CPUID, 1)],
        "CPUID leaf 0";
    "hypercall" Minimal 1000/MANY, Returns, [each(R::VMCALL, 1)],
        "VMCALL that does nothing";
    "console" Minimal 4/10_000, Returns, [each(R::VMCALL, 1)],
        "sys_write of one line";
    "port-in" Minimal 1000/MANY, Returns, [each(R::IO_INSTRUCTION, 1)],
        "IN from port 0x80";
    "port-out" Minimal 1000/MANY, Returns, [each(R::IO_INSTRUCTION, 1)],
        "OUT to port 0x80";
    "port-string" Minimal 100/MANY, Returns, [each(R::IO_INSTRUCTION, 2)],
        "REP OUTSB of 32 bytes to the loopback port and REP INSB back";
    "wild-ports" Minimal 10/MANY, Returns, [each(R::IO_INSTRUCTION, 8)],
        "IN and OUT on ports that nobody owns";
    "rdmsr" Minimal 1000/MANY, Returns, [each(R::RDMSR, 1)],
        "RDMSR of IA32_APIC_BASE";
    "wrmsr" Minimal 1000/MANY, Returns, [each(R::WRMSR, 1), once(R::RDMSR, 1)],
        "WRMSR of IA32_SYSENTER_ESP, read back once";
    "wild-msrs" Minimal 10/MANY, Returns, [each(R::RDMSR, 8), each(R::WRMSR, 8)],
        "RDMSR and WRMSR of MSRs that the guest may not have; each raises #GP";
    "cr0" Full 1000/MANY, Returns, [each(R::CR_ACCESS, 1)],
        "MOV to CR0 that toggles MP";
    "control-registers" Full 50/MANY, Returns, [each(R::CR_ACCESS, 10)],
        "CR3, CR4 and CR8 read and written, CLTS, LMSW";
    "wild-control-registers" Full 10/MANY, Returns, [each(R::CR_ACCESS, 8)],
        "values that CR0, CR3, CR4 and CR8 refuse; each raises #GP";
    "debug-registers" Full 100/MANY, Returns, [each(R::MOV_DR, 6)],
        "DR0 and DR3 written and read, DR6 and DR7 read";
    "rdtsc" Full 500/MANY, Returns, [each(R::RDTSC, 1)],
        "RDTSC";
    "rdtscp" Full 500/MANY, Returns, [or_invalid_opcode(R::RDTSCP, 1)],
        "RDTSCP, which raises #UD where the processor has none";
    "rdpmc" Full 100/MANY, Returns, [each(R::RDPMC, 1)],
        "RDPMC of a counter that does not exist; raises #GP";
    "hlt" Minimal 200/MANY, Returns, [each(R::HLT, 1), each(R::VMCALL, 1)],
        "HLT, woken by an interrupt that a hypercall arms";
    "caches" Full 200/MANY, Returns, [each(R::INVD, 1), each(R::WBINVD, 1)],
        "INVD and WBINVD";
    "invlpg" Full 500/MANY, Returns, [each(R::INVLPG, 1)],
        "INVLPG";
    "pause" Full 500/MANY, Returns, [each(R::PAUSE, 1)],
        "PAUSE";
    "xsetbv" Minimal 200/MANY, Returns, [or_invalid_opcode(R::XSETBV, 1)],
        "XSETBV of the value that XCR0 has";
    "descriptor-tables" Full 50/MANY, Returns, [each(R::GDTR_IDTR_ACCESS, 4), each(R::LDTR_TR_ACCESS, 4)],
        "SGDT, SIDT, LGDT, LIDT, SLDT, STR, LLDT, LTR";
    "exceptions" Full 50/MANY, Returns, [each(R::EXCEPTION_OR_NMI, 6)],
        "#DE, #DB, #BP, #UD, #GP and #PF, each handed back to the guest";
    "wild-jumps" Full 10/MANY, Returns, [each(R::EXCEPTION_OR_NMI, 2)],
        "jumps to an unmapped and to a non-canonical address";
    "hidden-instructions" Full 20/MANY, Returns, [
            or_invalid_opcode(R::MONITOR, 1), or_invalid_opcode(R::MWAIT, 1), or_invalid_opcode(R::RDRAND, 1),
            or_invalid_opcode(R::RDSEED, 1), or_invalid_opcode(R::INVPCID, 1)],
        "MONITOR, MWAIT, RDRAND, RDSEED, INVPCID, which CPUID denies; each raises #UD";
    "vmx-instructions" Minimal 10/MANY, Returns, [
            each(R::VMCLEAR, 1), each(R::VMLAUNCH, 1), each(R::VMPTRLD, 1), each(R::VMPTRST, 1), each(R::VMREAD, 1),
            each(R::VMRESUME, 1), each(R::VMWRITE, 1), each(R::VMXOFF, 1), each(R::VMXON, 1),
            or_invalid_opcode(R::INVEPT, 1), or_invalid_opcode(R::INVVPID, 1)],
        "the VMX instructions, which the guest may not use; each raises #UD";
    "memory" Minimal 512/1536, Returns, [each(R::EPT_VIOLATION, 1)],
        "first touches of fresh pages";
    "vectors" Full 16/256, Returns, [
            each(R::CPUID, 1), each(R::VMCALL, 1), each(R::IO_INSTRUCTION, 1), each(R::RDMSR, 1), each(R::WRMSR, 1),
            each(R::CR_ACCESS, 1), each(R::MOV_DR, 1), each(R::RDTSC, 1), each(R::PAUSE, 1), each(R::INVD, 1),
            each(R::WBINVD, 1), each(R::INVLPG, 1), each(R::GDTR_IDTR_ACCESS, 1), each(R::LDTR_TR_ACCESS, 1),
            each(R::EPT_VIOLATION, 1)],
        "x87, SSE and AVX registers keep their values across each kind of exit";
    "compute" Minimal 4/1_000_000, Returns, [once(R::CPUID, 2)],
        "sort, hash and matrix product on the heap: no exit but the two queries that prove it";
    "triple-fault" Minimal 1/1, Stopped(Outcome::TripleFault), [once(R::TRIPLE_FAULT, 1)],
        "an exception without an interrupt-descriptor table";
    "outside-memory" Minimal 1/1, Stopped(Outcome::OutsideMemory), [once(R::EPT_VIOLATION, 1)],
        "a read beyond the guest's memory";
    "endless-loop" Minimal 1/1, Stopped(Outcome::NoExits), [once(R::PREEMPTION_TIMER, 1)],
        "a loop without exits";
    "halt-for-ever" Minimal 1/1, Stopped(Outcome::HaltedForEver), [once(R::HLT, 1)],
        "HLT with interrupts disabled";
    "left-long-mode" Minimal 1/1, Stopped(Outcome::LeftLongMode), [once(R::CR_ACCESS, 1)],
        "paging switched off from compatibility mode";
    "random-bytes" Full 1/1_000_000, Anyhow, [],
        "a page of random bytes, executed; the iterations are the seed";
}

impl Workload {
    /// The workload called `name`.
    pub fn by_name(name: &str) -> Option<&'static Workload> {
        TABLE.iter().find(|workload| workload.name == name)
    }

    /// Its position in [`TABLE`], which is its number in hypercalls.
    pub fn number(&self) -> usize {
        TABLE
            .iter()
            .position(|workload| core::ptr::eq(workload, self) || workload.name == self.name)
            .unwrap_or(TABLE.len())
    }

    /// Whether the default run performs it.
    pub fn is_default(&self) -> bool {
        self.ends == Ends::Returns
    }

    /// The predicted number of exits for `reason` in `iterations`, given what the controls in force enable.
    pub fn predict(&self, reason: ExitReason, iterations: u64, enabled: impl Fn(ExitReason) -> bool) -> u64 {
        let exits = |row: &Provokes| iterations.saturating_mul(row.each).saturating_add(row.once);
        let exceptions_exit = self.profile.intercepts().exception_bitmap >> 6 & 1 != 0;
        self.provokes
            .iter()
            .filter(|row| match (enabled(row.reason), row.otherwise) {
                (true, _) => row.reason == reason,
                (false, Otherwise::InvalidOpcode) => exceptions_exit && reason == ExitReason::EXCEPTION_OR_NMI,
                (false, Otherwise::Runs) => false,
            })
            .map(exits)
            .fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn names_are_unique_words() {
        let mut names: Vec<_> = TABLE.iter().map(|workload| workload.name).collect();
        assert!(
            names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
        assert!(TABLE.iter().enumerate().all(|(number, workload)| workload.number() == number));
        assert!(TABLE.iter().all(|workload| 0 < workload.iterations && workload.iterations <= workload.most));
    }

    #[test]
    fn predictions_follow_what_is_enabled() {
        let hidden = Workload::by_name("hidden-instructions").unwrap();
        assert_eq!(hidden.predict(R::RDSEED, 20, |_| true), 20);
        assert_eq!(hidden.predict(R::EXCEPTION_OR_NMI, 20, |_| true), 0);
        assert_eq!(hidden.predict(R::RDSEED, 20, |reason| reason != R::RDSEED), 0);
        assert_eq!(hidden.predict(R::EXCEPTION_OR_NMI, 20, |reason| reason != R::RDSEED), 20);
        let wrmsr = Workload::by_name("wrmsr").unwrap();
        assert_eq!((wrmsr.predict(R::WRMSR, 7, |_| true), wrmsr.predict(R::RDMSR, 7, |_| true)), (7, 1));
        let xsetbv = Workload::by_name("xsetbv").unwrap();
        assert_eq!(
            xsetbv.predict(R::EXCEPTION_OR_NMI, 7, |_| false),
            0,
            "exceptions do not exit in the minimal profile"
        );
    }
}
