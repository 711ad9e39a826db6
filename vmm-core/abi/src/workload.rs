//! The table of workloads: the purpose of each, its profile, and the exits that it predicts for each reason.
//!
//! Prediction, the guest's code and the documentation (`tollgate workloads`) all hang on a row here; the code itself is in
//! `unikernel-guest/src/workloads`, found by name.

mod all;

pub use all::every;

use crate::apic;
use crate::exit_reason::ExitReason;
use crate::hypercall::Hypercall;
use crate::key::{CR_ACCESS_TYPE, CR_READ, PORT_IN, PORT_STRING};
use crate::machine::{LOOPBACK_PORT, POST_PORT};
use crate::profile::Profile;
use crate::virtualization::Facts;
use crate::x86::{exception, msr};

/// The exits of one reason that a workload provokes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provokes {
    /// The reason, where the controls in force enable it.
    pub reason: ExitReason,
    /// Exits in each iteration.
    pub each: u64,
    /// Exits whatever the number of iterations.
    pub once: u64,
    /// The operation's effect where the reason is not enabled.
    pub otherwise: Otherwise,
    /// If this other reason is enabled, the processor does without the exit, and the row does not count.
    pub unless: Option<ExitReason>,
    /// The processors on which the row counts.
    pub counts: Counts,
}

/// The processors on which a row counts, where not all do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Every processor.
    Always,
    /// A processor on which the exit comes before the #GP for a value that a control register refuses
    /// ([`Facts::refuses_first`](crate::virtualization::Facts::refuses_first)).
    RefusedAtTheExit,
    /// A processor on which the #GP for a refused value comes before the exit.
    RefusedBefore,
    /// VT-x, where the single step behind an emulated instruction is left to the processor, and its #DB exits. Under SVM the #DB
    /// is injected.
    LeftToVtx,
    /// A processor on which MOV from a control register exits
    /// ([`Facts::cr_reads_run`](crate::virtualization::Facts::cr_reads_run)).
    ReadsExit,
    /// A processor on which MOV from a control register does not exit.
    ReadsRun,
    /// A processor on which the first PAUSE behind an entry exits
    /// ([`first_pause_runs`](crate::virtualization::Facts::first_pause_runs)).
    FirstPauseExits,
    /// A processor on which the first PAUSE behind an entry does not exit.
    FirstPauseRuns,
}

impl Counts {
    /// True if `facts` are those of such a processor.
    const fn holds(self, facts: Facts) -> bool {
        match self {
            Counts::Always => true,
            Counts::RefusedAtTheExit => !facts.refuses_first(),
            Counts::RefusedBefore => facts.refuses_first(),
            Counts::LeftToVtx => !facts.is_svm(),
            Counts::ReadsExit => !facts.cr_reads_run,
            Counts::ReadsRun => facts.cr_reads_run,
            Counts::FirstPauseExits => !facts.first_pause_runs,
            Counts::FirstPauseRuns => facts.first_pause_runs,
        }
    }
}

/// The vCPUs on which a workload runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// On vCPU 0.
    First,
    /// On every vCPU at once; its rows count for each, and [`SPAWN`] for each but vCPU 0.
    Every,
    /// On vCPU 0 and one more, without which it can't run. Its rows have all exits of both, but for one [`SPAWN`].
    Two,
}

impl On {
    /// The fewest vCPUs with which the workload can run.
    pub const fn least_vcpus(self) -> u64 {
        match self {
            On::First | On::Every => 1,
            On::Two => 2,
        }
    }
}

/// The effect of an operation where its own exit is not enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// It runs without an exit.
    Runs,
    /// It raises #UD, which exits as reason 0 if the exception bitmap says so.
    InvalidOpcode,
}

/// The end of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// It returns, and its books must balance.
    Returns,
    /// It misbehaves so that the monitor has to stop the guest with this outcome.
    Stopped(Outcome),
    /// It misbehaves in a way that may end in any outcome.
    Anyhow,
}

/// The end of a run of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest ended itself and reported its book.
    Exited,
    /// The guest ended itself without a book, or with one that the monitor could not read.
    ExitedWithoutBook,
    /// The guest switched the machine off.
    PoweredOff,
    /// The guest had the machine start again.
    Reset,
    /// The guest ended itself by a port, with a code.
    DebugExit,
    /// The console showed the text that was to end the run.
    TextShown,
    /// A triple fault.
    TripleFault,
    /// An access outside the guest's memory.
    OutsideMemory,
    /// No exit for longer than the watchdog allows.
    NoExits,
    /// It ran for as long as the run's options allow.
    LimitReached,
    /// A person pressed Esc, on a machine that firmware has lent.
    EscapePressed,
    /// HLT with nothing that could wake it.
    HaltedForEver,
    /// A mode that the monitor does not support: out of IA-32e mode, or paging without it.
    LeftLongMode,
    /// A task switch.
    TaskSwitch,
    /// A VM entry failed.
    EntryFailed,
    /// An exit that the monitor has no handler for.
    UnhandledExit,
    /// The monitor itself failed on this vCPU's processor.
    MonitorFault,
    /// Another vCPU ended the guest.
    StoppedByAnother,
    /// An INIT from another vCPU: this vCPU waits to be started again.
    Init,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 19] = [
        Outcome::Exited,
        Outcome::ExitedWithoutBook,
        Outcome::PoweredOff,
        Outcome::Reset,
        Outcome::DebugExit,
        Outcome::TextShown,
        Outcome::TripleFault,
        Outcome::OutsideMemory,
        Outcome::NoExits,
        Outcome::LimitReached,
        Outcome::EscapePressed,
        Outcome::HaltedForEver,
        Outcome::LeftLongMode,
        Outcome::TaskSwitch,
        Outcome::EntryFailed,
        Outcome::UnhandledExit,
        Outcome::MonitorFault,
        Outcome::StoppedByAnother,
        Outcome::Init,
    ];

    /// The word in records.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Exited => "exited",
            Outcome::ExitedWithoutBook => "exited-without-book",
            Outcome::PoweredOff => "powered-off",
            Outcome::Reset => "reset",
            Outcome::DebugExit => "debug-exit",
            Outcome::TextShown => "text-shown",
            Outcome::TripleFault => "triple-fault",
            Outcome::OutsideMemory => "outside-memory",
            Outcome::NoExits => "no-exits",
            Outcome::LimitReached => "limit-reached",
            Outcome::EscapePressed => "escape-pressed",
            Outcome::HaltedForEver => "halted-for-ever",
            Outcome::LeftLongMode => "left-long-mode",
            Outcome::TaskSwitch => "task-switch",
            Outcome::EntryFailed => "entry-failed",
            Outcome::UnhandledExit => "unhandled-exit",
            Outcome::MonitorFault => "monitor-fault",
            Outcome::StoppedByAnother => "stopped-by-another",
            Outcome::Init => "init",
        }
    }

    /// Whether the guest ended because it meant to, or as it was asked for.
    pub const fn is_intended(self) -> bool {
        matches!(self, Outcome::Exited | Outcome::PoweredOff | Outcome::Reset | Outcome::DebugExit | Outcome::TextShown)
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
    /// The intercepts in force while it runs.
    pub profile: Profile,
    /// The vCPUs that it runs on.
    pub on: On,
    /// Iterations unless asked otherwise.
    pub iterations: u64,
    /// The most iterations that make sense.
    pub most: u64,
    /// The exits that it predicts.
    pub provokes: &'static [Provokes],
    /// The workload's end.
    pub ends: Ends,
}

const fn each(reason: ExitReason, each: u64) -> Provokes {
    Provokes { reason, each, once: 0, otherwise: Otherwise::Runs, unless: None, counts: Counts::Always }
}

const fn once(reason: ExitReason, times: u64) -> Provokes {
    Provokes { once: times, ..each(reason, 0) }
}

const fn or_invalid_opcode(reason: ExitReason, times: u64) -> Provokes {
    Provokes { otherwise: Otherwise::InvalidOpcode, ..each(reason, times) }
}

const fn unless(by_hardware: ExitReason, reason: ExitReason, times: u64) -> Provokes {
    Provokes { unless: Some(by_hardware), ..each(reason, times) }
}

const fn once_unless(by_hardware: ExitReason, reason: ExitReason, times: u64) -> Provokes {
    Provokes { unless: Some(by_hardware), ..once(reason, times) }
}

const fn only(counts: Counts, reason: ExitReason, times: u64) -> Provokes {
    Provokes { counts, ..each(reason, times) }
}

const fn reads_unless(by_hardware: ExitReason, times: u64) -> Provokes {
    Provokes { counts: Counts::ReadsExit, ..unless(by_hardware, R::CR_ACCESS, times) }
}

/// The exits by which another vCPU is made to run something once. The IPI that wakes it from HLT is a WRMSR to the ICR here and
/// an external interrupt there. The other vCPU acknowledges it by a WRMSR to EOI, and afterwards it halts again.
pub const SPAWN: &[Provokes] = &[each(R::WRMSR, 2), each(R::EXTERNAL_INTERRUPT, 1), each(R::HLT, 1)];
/// Calls of a spawned vCPU besides [`SPAWN`] in another profile than the minimal one: it switches there and back.
pub const SPAWN_SWITCHED: Provokes = each(R::VMCALL, 2);
/// Exits of vCPU 0 in another profile than the minimal one, when it has run its part of such a workload and waits for the others:
/// it switches there and back, since PAUSE must not exit meanwhile.
pub const WAIT_SWITCHED: Provokes = each(R::VMCALL, 2);

/// Iterations of "race" ask each vCPU's share of a total this many times, and the total before and after.
pub const RACE_QUERIES: u64 = 6;

/// Reasons beyond 0..=127 that the `leaves` workload asks for in ECX: wide, negative, and just past the table.
pub const WILD_REASONS: &[u32] =
    &[128, 255, 256, 0x7fff, 0xffff, 0x0001_000a, 0x8000_0000, 0x8000_000a, 0xdead_beef, 0xffff_ffff];

/// CPUIDs in one iteration of `leaves`: five leaves for each reason, and five that ask for no reason.
pub const LEAF_QUERIES: u64 = 5 * (128 + WILD_REASONS.len() as u64) + 5;

/// Single steps in one iteration of `single-steps`, without those over CPUID.
pub const STEPS: u64 = 21;
/// Single steps over CPUID in one iteration of `single-steps`.
pub const STEPS_OF_CPUID: u64 = 2;

/// Iterations of anything that costs next to nothing.
const MANY: u64 = 1_000_000_000;

use Ends::{Anyhow, Returns, Stopped};
use ExitReason as R;
use Profile::{Full, Minimal, VirtualApic};

/// The workload that spawns in each iteration.
const THREADS: &str = "threads";

macro_rules! workloads {
    ($($name:literal $profile:ident $on:ident $iterations:literal/$most:expr, $ends:expr, [$($provokes:expr),*], $about:literal;)*) => {
        /// Every workload, in the order in which the default run performs those that return.
        pub const TABLE: &[Workload] = &[$(Workload {
            name: $name,
            profile: $profile,
            on: On::$on,
            iterations: $iterations,
            most: $most,
            provokes: &[$($provokes),*],
            ends: $ends,
        }),*];

        /// One line for people about each, apart from the rows, so that no image holds it.
        const ABOUT: &[&str] = &[$($about),*];
    };
}

workloads! {
    "leaves" Minimal First 1/100_000, Returns, [each(R::CPUID, LEAF_QUERIES)],
        "every leaf of the contract, for every reason 0-127 and wild ones";
    "cpuid" Minimal Every 1000/MANY, Returns, [each(R::CPUID, 1)],
        "CPUID leaf 0";
    "hypercall" Minimal Every 1000/MANY, Returns, [each(R::VMCALL, 1)],
        "VMCALL that does nothing";
    "console" Minimal First 4/10_000, Returns, [each(R::VMCALL, 1)],
        "sys_write of one line";
    "port-in" Minimal Every 1000/MANY, Returns, [each(R::IO_INSTRUCTION, 1)],
        "IN from port 0x80";
    "port-out" Minimal Every 1000/MANY, Returns, [each(R::IO_INSTRUCTION, 1)],
        "OUT to port 0x80";
    "port-string" Minimal Every 100/MANY, Returns, [each(R::IO_INSTRUCTION, 2)],
        "REP OUTSB of 32 bytes to the loopback port and REP INSB back";
    "wild-ports" Minimal Every 10/MANY, Returns, [each(R::IO_INSTRUCTION, 8)],
        "IN and OUT on ports that nobody owns";
    "rdmsr" Minimal Every 1000/MANY, Returns, [each(R::RDMSR, 1)],
        "RDMSR of IA32_APIC_BASE";
    "wrmsr" Minimal Every 1000/MANY, Returns, [each(R::WRMSR, 1), once(R::RDMSR, 1)],
        "WRMSR of IA32_SYSENTER_ESP, read back once";
    "wild-msrs" Minimal Every 10/MANY, Returns, [each(R::RDMSR, 8), each(R::WRMSR, 8)],
        "RDMSR and WRMSR of MSRs that the guest may not have; each raises #GP";
    "tsc-adjust" Minimal Every 20/MANY, Returns, [
            each(R::WRMSR, 4), each(R::RDMSR, 1), each(R::HLT, 1), each(R::EXTERNAL_INTERRUPT, 1)],
        "IA32_TSC_ADJUST or the TSC written, past a TSC deadline, and by how much RDTSC is ahead then";
    "tsc-adjust-exits" Full Every 20/MANY, Returns, [
            each(R::WRMSR, 4), each(R::RDMSR, 1), each(R::RDTSC, 3), each(R::HLT, 1), each(R::EXTERNAL_INTERRUPT, 1)],
        "IA32_TSC_ADJUST or the TSC written, past a TSC deadline, and by how much an emulated RDTSC is ahead then";
    "cr0" Full Every 1000/MANY, Returns, [each(R::CR_ACCESS, 1)],
        "MOV to CR0 that toggles MP";
    "control-registers" Full Every 50/MANY, Returns, [each(R::CR_ACCESS, 10)],
        "CR3, CR4 and CR8 read and written, CLTS, LMSW";
    "wild-control-registers" Full Every 10/MANY, Returns, [
            each(R::CR_ACCESS, 4), only(Counts::RefusedAtTheExit, R::CR_ACCESS, 4),
            only(Counts::RefusedBefore, R::EXCEPTION_OR_NMI, 4)],
        "values that CR0, CR3, CR4 and CR8 refuse; each raises #GP";
    "debug-registers" Full Every 100/MANY, Returns, [each(R::MOV_DR, 6)],
        "DR0 and DR3 written and read, DR6 and DR7 read";
    "rdtsc" Full Every 500/MANY, Returns, [each(R::RDTSC, 1)],
        "RDTSC";
    "rdtscp" Full Every 500/MANY, Returns, [or_invalid_opcode(R::RDTSCP, 1)],
        "RDTSCP, which raises #UD where the processor has none";
    "rdpmc" Full Every 100/MANY, Returns, [each(R::RDPMC, 1)],
        "RDPMC of a counter that does not exist; raises #GP";
    "hlt" Minimal Every 200/MANY, Returns, [each(R::HLT, 1), each(R::VMCALL, 1)],
        "HLT, woken by an interrupt that a hypercall arms";
    "caches" Full Every 200/MANY, Returns, [each(R::INVD, 1), each(R::WBINVD, 1)],
        "INVD and WBINVD";
    "invlpg" Full Every 500/MANY, Returns, [each(R::INVLPG, 1)],
        "INVLPG";
    "pause" Full Every 500/MANY, Returns, [each(R::PAUSE, 1)],
        "PAUSE";
    "xsetbv" Minimal Every 200/MANY, Returns, [or_invalid_opcode(R::XSETBV, 1)],
        "XSETBV of the value that XCR0 has";
    "descriptor-tables" Full Every 50/MANY, Returns, [each(R::GDTR_IDTR_ACCESS, 4), each(R::LDTR_TR_ACCESS, 4)],
        "SGDT, SIDT, LGDT, LIDT, SLDT, STR, LLDT, LTR";
    "exceptions" Full Every 50/MANY, Returns, [each(R::EXCEPTION_OR_NMI, 10)],
        "#DE, #DB, #BP, #UD, #NP, #SS, #GP, #PF, #MF and #XM, each handed back to the guest";
    "single-steps" Full Every 4/MANY, Returns, [
            each(R::CPUID, 2), each(R::VMCALL, 1), each(R::IO_INSTRUCTION, 2), each(R::RDMSR, 1), each(R::WRMSR, 1),
            once(R::WRMSR, 2), each(R::CR_ACCESS, 4), each(R::MOV_DR, 1), each(R::RDTSC, 2),
            only(Counts::FirstPauseExits, R::PAUSE, 2), each(R::INVD, 1), each(R::WBINVD, 1), each(R::INVLPG, 1),
            each(R::GDTR_IDTR_ACCESS, 2), each(R::LDTR_TR_ACCESS, 2), each(R::EXCEPTION_OR_NMI, STEPS_OF_CPUID),
            only(Counts::LeftToVtx, R::EXCEPTION_OR_NMI, STEPS), only(Counts::ReadsRun, R::EXCEPTION_OR_NMI, 1),
            only(Counts::FirstPauseRuns, R::EXCEPTION_OR_NMI, 2)],
        "a single step over each kind of instruction that exits, in ring 0 and, where it may be used there, in ring 3";
    "device-not-available" Full Every 50/MANY, Returns, [each(R::EXCEPTION_OR_NMI, 1), each(R::CR_ACCESS, 2)],
        "#NM, by LMSW that sets CR0.TS, and CLTS afterwards";
    "wild-jumps" Full Every 10/MANY, Returns, [each(R::EXCEPTION_OR_NMI, 2)],
        "jumps to an unmapped and to a non-canonical address";
    "hidden-instructions" Full Every 20/MANY, Returns, [
            or_invalid_opcode(R::MONITOR, 1), or_invalid_opcode(R::MWAIT, 1), or_invalid_opcode(R::RDRAND, 1),
            or_invalid_opcode(R::RDSEED, 1), or_invalid_opcode(R::INVPCID, 1)],
        "MONITOR, MWAIT, RDRAND, RDSEED, INVPCID, which CPUID denies; each raises #UD";
    "vmx-instructions" Minimal Every 10/MANY, Returns, [
            each(R::VMCLEAR, 1), each(R::VMLAUNCH, 1), each(R::VMPTRLD, 1), each(R::VMPTRST, 1), each(R::VMREAD, 1),
            each(R::VMRESUME, 1), each(R::VMWRITE, 1), each(R::VMXOFF, 1), each(R::VMXON, 1),
            or_invalid_opcode(R::INVEPT, 1), or_invalid_opcode(R::INVVPID, 1)],
        "the VMX instructions, which the guest may not use; each raises #UD";
    "svm-instructions" Minimal Every 10/MANY, Returns, [
            each(R::SVM_VMRUN, 1), each(R::SVM_VMLOAD, 1), each(R::SVM_VMSAVE, 1), each(R::SVM_STGI, 1),
            each(R::SVM_CLGI, 1), each(R::SVM_SKINIT, 1), each(R::SVM_INVLPGA, 1), once(R::CPUID, 2)],
        "the SVM instructions, which the guest may not use: each raises #UD; and the leaf that counts them";
    "memory" Minimal Every 512/1536, Returns, [each(R::EPT_VIOLATION, 1)],
        "first touches of fresh pages";
    "memory-kinds" Minimal Every 16/256, Returns, [each(R::EPT_VIOLATION, 3)],
        "first touches of fresh pages: one by a write, one by a fetch, one by a read";
    "vectors" Full Every 16/256, Returns, [
            each(R::CPUID, 1), each(R::VMCALL, 1), each(R::IO_INSTRUCTION, 1), each(R::RDMSR, 1), each(R::WRMSR, 1),
            each(R::CR_ACCESS, 1), each(R::MOV_DR, 1), each(R::RDTSC, 1), each(R::PAUSE, 1), each(R::INVD, 1),
            each(R::WBINVD, 1), each(R::INVLPG, 1), each(R::GDTR_IDTR_ACCESS, 1), each(R::LDTR_TR_ACCESS, 1),
            each(R::EPT_VIOLATION, 1)],
        "x87, SSE and AVX registers keep their values across each kind of exit";
    "compute" Minimal First 4/1_000_000, Returns, [once(R::CPUID, 2)],
        "sort, hash and matrix product on the heap: no exit but the two queries that prove it";
    "apic-registers" Minimal Every 200/MANY, Returns, [each(R::RDMSR, 2), each(R::WRMSR, 1)],
        "local APIC by exits: ID and TPR read, TPR written, by MSR";
    "apic-registers-virtual" VirtualApic Every 200/MANY, Returns, [
            unless(R::APIC_WRITE, R::RDMSR, 1), unless(R::TPR_BELOW_THRESHOLD, R::RDMSR, 1),
            unless(R::TPR_BELOW_THRESHOLD, R::WRMSR, 1)],
        "local APIC by hardware: ID and TPR read, TPR written, by MSR";
    "task-priority" Minimal Every 200/MANY, Returns, [each(R::CR_ACCESS, 2)],
        "local APIC by exits: CR8 written and read";
    "task-priority-virtual" VirtualApic Every 200/MANY, Returns, [
            unless(R::TPR_BELOW_THRESHOLD, R::CR_ACCESS, 1), reads_unless(R::TPR_BELOW_THRESHOLD, 1)],
        "local APIC by hardware: CR8 written and read";
    "self-ipi" Minimal Every 200/MANY, Returns, [each(R::WRMSR, 2)],
        "local APIC by exits: a self-IPI, taken at once, and its EOI";
    "self-ipi-virtual" VirtualApic Every 200/MANY, Returns, [unless(R::VIRTUALIZED_EOI, R::WRMSR, 2)],
        "local APIC by hardware: a self-IPI, taken at once, and its EOI";
    "held-interrupt" Minimal Every 100/MANY, Returns, [each(R::WRMSR, 2), each(R::INTERRUPT_WINDOW, 1)],
        "local APIC by exits: a self-IPI that waits for STI";
    "held-interrupt-virtual" VirtualApic Every 100/MANY, Returns, [
            unless(R::VIRTUALIZED_EOI, R::WRMSR, 2), unless(R::VIRTUALIZED_EOI, R::INTERRUPT_WINDOW, 1)],
        "local APIC by hardware: a self-IPI that waits for STI";
    "held-priority" Minimal Every 100/MANY, Returns, [each(R::WRMSR, 2), each(R::CR_ACCESS, 2)],
        "local APIC by exits: a self-IPI that waits for a lower task priority";
    "held-priority-virtual" VirtualApic Every 100/MANY, Returns, [
            unless(R::VIRTUALIZED_EOI, R::WRMSR, 2), unless(R::TPR_BELOW_THRESHOLD, R::CR_ACCESS, 2),
            unless(R::VIRTUALIZED_EOI, R::TPR_BELOW_THRESHOLD, 1)],
        "local APIC by hardware: a self-IPI that waits for a lower task priority";
    "apic-errors" Minimal Every 20/MANY, Returns, [each(R::WRMSR, 8), each(R::RDMSR, 2)],
        "local APIC by exits: a vector below 16 and the error interrupt, and an APIC that software has disabled";
    "apic-timer" Minimal Every 50/MANY, Returns, [
            each(R::WRMSR, 2), each(R::HLT, 1), each(R::EXTERNAL_INTERRUPT, 1)],
        "local APIC by exits: HLT until the TSC deadline, and its EOI";
    "apic-timer-virtual" VirtualApic Every 50/MANY, Returns, [
            each(R::WRMSR, 1), unless(R::VIRTUALIZED_EOI, R::WRMSR, 1), each(R::HLT, 1), each(R::EXTERNAL_INTERRUPT, 1)],
        "local APIC by hardware: HLT until the TSC deadline, and its EOI";
    "ipi-halted" Minimal Two 100/MANY, Returns, [
            each(R::WRMSR, 2), each(R::HLT, 1), each(R::EXTERNAL_INTERRUPT, 1)],
        "local APIC by exits: an IPI that wakes another vCPU from HLT, and its EOI";
    "ipi-halted-virtual" VirtualApic Two 100/MANY, Returns, [
            each(R::WRMSR, 1), unless(R::VIRTUALIZED_EOI, R::WRMSR, 1), each(R::HLT, 1), each(R::EXTERNAL_INTERRUPT, 1)],
        "local APIC by hardware: an IPI that wakes another vCPU from HLT, and its EOI";
    "ipi-running" Minimal Two 100/MANY, Returns, [each(R::WRMSR, 2), each(R::EXTERNAL_INTERRUPT, 1)],
        "local APIC by exits: an IPI to a vCPU that runs, and its EOI";
    "ipi-running-virtual" VirtualApic Two 100/MANY, Returns, [
            each(R::WRMSR, 1), unless(R::VIRTUALIZED_EOI, R::WRMSR, 1), each(R::EXTERNAL_INTERRUPT, 1)],
        "local APIC by hardware: an IPI to a vCPU that runs, and its EOI";
    "race" Minimal Every 100/MANY, Returns, [each(R::CPUID, RACE_QUERIES)],
        "the leaves asked while every vCPU exits: no total goes backwards, no part exceeds the whole";
    "threads" Minimal First 4/1_000, Returns, [],
        "sys_spawn on every other vCPU, a counter under a futex, sys_join";
    "synchronization" Minimal Two 20/10_000, Returns, [],
        "semaphores, blocking and waking between two threads, and waits that end at a time limit";
    "triple-fault" Minimal First 1/1, Stopped(Outcome::TripleFault), [once(R::TRIPLE_FAULT, 1), once(R::SVM_SHUTDOWN, 1)],
        "an exception without an interrupt-descriptor table";
    "outside-memory" Minimal First 1/1, Stopped(Outcome::OutsideMemory), [once(R::EPT_VIOLATION, 1)],
        "a read beyond the guest's memory";
    "triple-fault-elsewhere" Minimal Two 1/1, Stopped(Outcome::TripleFault), [
            once(R::TRIPLE_FAULT, 1), once(R::SVM_SHUTDOWN, 1)],
        "a triple fault on vCPU 1, while vCPU 0 waits for it and all others do nothing but exit";
    "endless-loop" Minimal First 1/1, Stopped(Outcome::NoExits), [
            once(R::PREEMPTION_TIMER, 1), once_unless(R::PREEMPTION_TIMER, R::EXTERNAL_INTERRUPT, 1)],
        "a loop without exits";
    "halt-for-ever" Minimal First 1/1, Stopped(Outcome::HaltedForEver), [once(R::HLT, 1)],
        "HLT with interrupts disabled";
    "left-long-mode" Minimal First 1/1, Stopped(Outcome::LeftLongMode), [once(R::CR_ACCESS, 1)],
        "paging switched off from compatibility mode";
    "random-bytes" Full First 1/1_000_000, Anyhow, [],
        "a page of random bytes, executed; the iterations are the seed";
}

/// A key of a reason ([`crate::key`]) whose exits a workload predicts for each iteration. It is compared where keys are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPrediction {
    /// The workload's name.
    pub workload: &'static str,
    /// The reason.
    pub reason: ExitReason,
    /// The key.
    pub key: u64,
    /// Exits in each iteration.
    pub each: u64,
}

macro_rules! keys {
    ($($workload:literal $reason:ident: $($key:expr => $each:literal),+;)*) => {
        /// The keys that workloads predict.
        pub const KEYS: &[KeyPrediction] = &[$($(
            KeyPrediction { workload: $workload, reason: R::$reason, key: $key, each: $each },
        )+)*];
    };
}

keys! {
    "cpuid" CPUID: 0 => 1;
    "hypercall" VMCALL: Hypercall::Nothing as u64 => 1;
    "port-in" IO_INSTRUCTION: POST_PORT as u64 | PORT_IN => 1;
    "port-out" IO_INSTRUCTION: POST_PORT as u64 => 1;
    "port-string" IO_INSTRUCTION: LOOPBACK_PORT as u64 | PORT_STRING => 1, LOOPBACK_PORT as u64 | PORT_STRING | PORT_IN => 1;
    "rdmsr" RDMSR: apic::IA32_APIC_BASE as u64 => 1;
    "wrmsr" WRMSR: msr::IA32_SYSENTER_ESP as u64 => 1;
    "cr0" CR_ACCESS: 0 => 1;
    "control-registers" CR_ACCESS: 0x13 => 1, 3 => 1, 4 => 2, 8 => 2, 0x18 => 2, 0x20 => 1, 0x30 => 1;
    "debug-registers" MOV_DR: 0 => 1, 3 => 1, 0x10 => 1, 0x13 => 1, 0x16 => 1, 0x17 => 1;
    "task-priority" CR_ACCESS: 8 => 1, 0x18 => 1;
    "vectors" CR_ACCESS: 0x13 => 1;
    "single-steps" CR_ACCESS: 0 => 2, 3 => 1, 0x13 => 1;
    "exceptions" EXCEPTION_OR_NMI: 0 => 1, 1 => 1, 3 => 1, 6 => 1, 11 => 1, 12 => 1, 13 => 1, 14 => 1, 16 => 1, 19 => 1;
    "self-ipi" WRMSR: apic::SELF_IPI as u64 => 1;
    "apic-registers" RDMSR: apic::ID as u64 => 1, apic::TPR as u64 => 1;
    "apic-timer" WRMSR: apic::IA32_TSC_DEADLINE as u64 => 1;
    "bench.mov_from_cr8" CR_ACCESS: 0x18 => 1;
    "bench.mov_from_cr3" CR_ACCESS: 0x13 => 1;
    "bench.breakpoint" EXCEPTION_OR_NMI: 3 => 1;
    "bench.simd_error" EXCEPTION_OR_NMI: 19 => 1;
}

impl KeyPrediction {
    /// True if the processor makes no exit of this key, though the exit of its reason is enabled.
    fn is_without_exit(&self, facts: Facts) -> bool {
        match self.reason {
            R::EXCEPTION_OR_NMI => facts.exceptions_without_exit() >> self.key & 1 != 0,
            R::CR_ACCESS => facts.cr_reads_run && self.key & CR_ACCESS_TYPE == CR_READ,
            _ => false,
        }
    }

    /// The predicted number of exits in `iterations` on `vcpus`.
    pub fn predict(&self, on: On, iterations: u64, vcpus: u64, facts: Facts) -> u64 {
        if self.is_without_exit(facts) {
            return 0;
        }
        iterations.saturating_mul(self.each).saturating_mul(if on == On::Every { vcpus } else { 1 })
    }
}

impl Workload {
    /// The keys that it predicts.
    pub fn keys(&self) -> impl Iterator<Item = &'static KeyPrediction> + use<> {
        let name = self.name;
        KEYS.iter().filter(move |key| key.workload == name)
    }

    /// The workload that does the same with the local APIC virtualized by the processor, if this one has such a twin.
    pub fn by_hardware(&self) -> Option<&'static Workload> {
        let is_twin = |other: &&Workload| other.name.strip_suffix("-virtual") == Some(self.name);
        TABLE.iter().find(is_twin).filter(|twin| twin.profile == Profile::VirtualApic)
    }

    /// True if the default run on `vcpus` performs it.
    pub fn is_default(&self, vcpus: u64) -> bool {
        self.ends == Ends::Returns && vcpus >= self.on.least_vcpus()
    }

    /// The predicted number of exits for `reason` in `iterations` on `vcpus`, under the controls in force and with the facts of
    /// the processor's extension.
    pub fn predict(
        &self,
        reason: ExitReason,
        iterations: u64,
        vcpus: u64,
        facts: Facts,
        enabled: impl Fn(ExitReason) -> bool,
    ) -> u64 {
        let others = vcpus.saturating_sub(1);
        let (times, spawned) = match self.on {
            On::First if self.name == THREADS => (1, iterations.saturating_mul(others)),
            On::First => (1, 0),
            On::Every => (vcpus, others),
            On::Two => (1, 1),
        };
        let exits = |row: &Provokes| iterations.saturating_mul(row.each).saturating_add(row.once).saturating_mul(times);
        let exceptions_exit = self.profile.intercepts().exception_bitmap >> exception::UD & 1 != 0;
        let counts = |row: &&Provokes| row.counts.holds(facts);
        let by_exits = |row: &&Provokes| row.unless.is_none_or(|by_hardware| !enabled(by_hardware));
        let own = self.provokes.iter().filter(counts).filter(by_exits).filter(|row| {
            let exit = facts.exits_as(row.reason);
            match (enabled(exit), row.otherwise) {
                (true, _) => exit == reason,
                (false, Otherwise::InvalidOpcode) if !facts.runs(row.reason) => {
                    exceptions_exit && reason == ExitReason::EXCEPTION_OR_NMI
                }
                (false, _) => false,
            }
        });
        let switched = Some(&SPAWN_SWITCHED).filter(|_| self.profile != Minimal);
        let spawns = SPAWN.iter().chain(switched).filter(|row| row.reason == reason);
        let spawns = spawns.map(|row| spawned.saturating_mul(row.each));
        let waits = self.profile != Minimal && self.on == On::Every && others > 0 && reason == WAIT_SWITCHED.reason;
        let waits = u64::from(waits) * WAIT_SWITCHED.each;
        let predicted = own.map(exits).chain(spawns).fold(waits, u64::saturating_add);
        // Exits that are predicted by vector or register, and are not made here.
        let without_exit = self.keys().filter(|key| key.reason == reason && key.is_without_exit(facts));
        let without_exit: u64 = without_exit.map(|key| key.each).sum();
        predicted.saturating_sub(iterations.saturating_mul(without_exit).saturating_mul(times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtualization::Extension;
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
    fn predicted_keys_are_parts_of_what_is_predicted() {
        for workload in TABLE {
            for key in workload.keys() {
                let of_reason =
                    workload.keys().filter(|other| other.reason == key.reason).map(|key| key.each).sum::<u64>();
                assert!(
                    of_reason <= workload.predict(key.reason, 1, 1, Facts::default(), |_| true),
                    "{}",
                    workload.name
                );
            }
        }
        assert!(KEYS.iter().all(|key| Workload::by_name(key.workload).is_some()));
    }

    #[test]
    fn predictions_follow_what_is_enabled() {
        let hidden = Workload::by_name("hidden-instructions").unwrap();
        assert_eq!(hidden.predict(R::RDSEED, 20, 1, Facts::default(), |_| true), 20);
        assert_eq!(hidden.predict(R::EXCEPTION_OR_NMI, 20, 1, Facts::default(), |_| true), 0);
        assert_eq!(hidden.predict(R::RDSEED, 20, 1, Facts::default(), |reason| reason != R::RDSEED), 0);
        assert_eq!(hidden.predict(R::EXCEPTION_OR_NMI, 20, 1, Facts::default(), |reason| reason != R::RDSEED), 20);
        let wrmsr = Workload::by_name("wrmsr").unwrap();
        assert_eq!(
            (
                wrmsr.predict(R::WRMSR, 7, 1, Facts::default(), |_| true),
                wrmsr.predict(R::RDMSR, 7, 1, Facts::default(), |_| true)
            ),
            (7, 1)
        );
        let xsetbv = Workload::by_name("xsetbv").unwrap();
        assert_eq!(
            xsetbv.predict(R::EXCEPTION_OR_NMI, 7, 1, Facts::default(), |_| false),
            0,
            "exceptions do not exit in the minimal profile"
        );
        let virtual_eoi = Workload::by_name("apic-timer-virtual").unwrap();
        assert_eq!(virtual_eoi.predict(R::WRMSR, 10, 1, Facts::default(), |_| true), 10);
        assert_eq!(virtual_eoi.predict(R::WRMSR, 10, 1, Facts::default(), |reason| reason != R::VIRTUALIZED_EOI), 20);
    }

    #[test]
    fn predictions_follow_the_extension() {
        let svm = Facts { extension: Extension::Svm, ..Facts::default() };
        let qemu = Facts { is_qemu: true, ..svm };
        let predict = |name, facts, reason| Workload::by_name(name).unwrap().predict(reason, 10, 1, facts, |_| true);
        let wild =
            |facts| [R::CR_ACCESS, R::EXCEPTION_OR_NMI].map(|reason| predict("wild-control-registers", facts, reason));
        assert_eq!((wild(Facts::default()), wild(svm), wild(qemu)), ([80, 0], [40, 40], [80, 0]));
        let exceptions = |facts| predict("exceptions", facts, R::EXCEPTION_OR_NMI);
        assert_eq!((exceptions(Facts::default()), exceptions(svm), exceptions(qemu)), (100, 100, 80));
        let rdrand = Facts { rdrand_runs: true, ..svm };
        let hidden = Workload::by_name("hidden-instructions").unwrap();
        let hidden = |facts| hidden.predict(R::EXCEPTION_OR_NMI, 10, 1, facts, |reason| reason != R::RDRAND);
        assert_eq!((hidden(svm), hidden(rdrand)), (10, 0));
        let steps =
            |facts| [R::CR_ACCESS, R::PAUSE, R::EXCEPTION_OR_NMI].map(|reason| predict("single-steps", facts, reason));
        let reads_run = Facts { cr_reads_run: true, ..qemu };
        let first_pause_runs = Facts { first_pause_runs: true, ..svm };
        assert_eq!(steps(svm), [40, 20, 20]);
        assert_eq!(
            (steps(reads_run), steps(first_pause_runs)),
            ([30, 20, 30], [40, 0, 40]),
            "the step is an exit then"
        );
    }

    #[test]
    fn other_vcpus_multiply_a_prediction_and_cost_a_spawn_each() {
        let predict =
            |name, reason| Workload::by_name(name).unwrap().predict(reason, 10, 4, Facts::default(), |_| true);
        assert_eq!((predict("cpuid", R::CPUID), predict("cpuid", R::HLT), predict("cpuid", R::WRMSR)), (40, 3, 6));
        assert_eq!((predict("cpuid", R::VMCALL), predict("cr0", R::VMCALL)), (0, 8), "the full profile is switched to");
        assert_eq!((predict("ipi-halted", R::HLT), predict("ipi-halted", R::WRMSR)), (11, 22));
        assert_eq!((predict("threads", R::HLT), predict("compute", R::HLT)), (30, 0));
        assert!(!Workload::by_name("ipi-running").unwrap().is_default(1));
    }
}
