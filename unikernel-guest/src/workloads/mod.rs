//! The workloads: applications written against `hermit-abi`, plus the privileged operations that they are about.
//!
//! [`tollgate_abi::workload::TABLE`] has the exits that each provokes; [`CODE`] has the code, row by row. `harness` runs a
//! workload between two hypercalls and compares the booked exits with the predicted ones.
#![expect(unsafe_code, reason = "the entry point and the end of a hermit-abi application")]

mod allocator;
mod bench;
mod compute;
mod denied;
mod descriptor_tables;
mod exceptions;
mod expect;
mod harness;
mod instructions;
mod interrupts;
mod leaves;
mod memory;
mod msrs;
mod ports;
mod registers;
mod single_steps;
mod stopping;
mod synchronization;
mod together;
mod vectors;

use alloc::string::String;

use tollgate_abi::bench::{PREFIX, TABLE as BENCHES};
use tollgate_abi::command_line::Options;
use tollgate_abi::machine::{BootInfo, OPTIONS_BYTES};
use tollgate_abi::workload::TABLE;

use crate::books::boot_info;
use crate::ops::ports::post;
use crate::runtime::account::Account;
use crate::runtime::failure::note_failure;

/// The arguments of a workload.
pub(crate) struct Run {
    iterations: u64,
    account: Account,
    vcpus: u64,
    /// The microbenchmark to time.
    timed: Option<bench::Timed>,
}

/// The assertion that did not hold, in words.
type Outcome = Result<(), String>;
type Code = fn(&Run) -> Outcome;

/// Code by the name of its row in a table of `tollgate_abi`, in that table's order. The names are compared when the guest is
/// built, and are not in its image.
macro_rules! code {
    ($names:ident, $code:ident: $type:ty, $count:expr, $(($name:literal, $function:expr),)*) => {
        pub(super) const $names: [&str; $count] = [$($name),*];
        pub(super) const $code: [$type; $count] = [$($function),*];
    };
}
use code;

code! {
    NAMES, CODE: Code, TABLE.len(),
    ("leaves", leaves::leaves),
    ("cpuid", instructions::cpuid),
    ("hypercall", instructions::hypercall),
    ("console", instructions::console),
    ("port-in", ports::port_in),
    ("port-out", ports::port_out),
    ("port-string", ports::port_string),
    ("wild-ports", ports::wild_ports),
    ("rdmsr", msrs::rdmsr),
    ("wrmsr", msrs::wrmsr),
    ("wild-msrs", msrs::wild_msrs),
    ("tsc-adjust", msrs::tsc_adjust),
    ("tsc-adjust-exits", msrs::tsc_adjust),
    ("cr0", registers::cr0),
    ("control-registers", registers::control_registers),
    ("wild-control-registers", registers::wild_control_registers),
    ("debug-registers", registers::debug_registers),
    ("rdtsc", instructions::rdtsc),
    ("rdtscp", instructions::rdtscp),
    ("rdpmc", instructions::rdpmc),
    ("hlt", instructions::hlt),
    ("caches", instructions::caches),
    ("invlpg", instructions::invlpg),
    ("pause", instructions::pause),
    ("xsetbv", instructions::xsetbv),
    ("descriptor-tables", descriptor_tables::descriptor_tables),
    ("exceptions", exceptions::exceptions),
    ("single-steps", single_steps::single_steps),
    ("device-not-available", exceptions::device_not_available),
    ("wild-jumps", exceptions::wild_jumps),
    ("hidden-instructions", denied::hidden_instructions),
    ("vmx-instructions", denied::vmx_instructions),
    ("svm-instructions", denied::svm_instructions),
    ("memory", memory::memory),
    ("memory-kinds", memory::kinds),
    ("vectors", vectors::vectors),
    ("compute", compute::compute),
    ("apic-registers", interrupts::registers),
    ("apic-registers-virtual", interrupts::registers),
    ("task-priority", interrupts::task_priority),
    ("task-priority-virtual", interrupts::task_priority),
    ("self-ipi", interrupts::self_ipi),
    ("self-ipi-virtual", interrupts::self_ipi),
    ("held-interrupt", interrupts::held_interrupt),
    ("held-interrupt-virtual", interrupts::held_interrupt),
    ("held-priority", interrupts::held_priority),
    ("held-priority-virtual", interrupts::held_priority),
    ("apic-errors", interrupts::errors),
    ("apic-timer", interrupts::timer),
    ("apic-timer-virtual", interrupts::timer),
    ("ipi-halted", together::ipi_halted),
    ("ipi-halted-virtual", together::ipi_halted),
    ("ipi-running", together::ipi_running),
    ("ipi-running-virtual", together::ipi_running),
    ("race", together::race),
    ("threads", together::spawned),
    ("synchronization", synchronization::run),
    ("triple-fault", stopping::triple_fault),
    ("outside-memory", stopping::outside_memory),
    ("triple-fault-elsewhere", together::triple_fault_elsewhere),
    ("endless-loop", stopping::endless_loop),
    ("halt-for-ever", stopping::halt_for_ever),
    ("left-long-mode", stopping::left_long_mode),
    ("random-bytes", stopping::random_bytes),
}

/// True if the second text ends in the first.
const fn is_end(end: &str, text: &str) -> bool {
    let (end, text) = (end.as_bytes(), text.as_bytes());
    let mut at = 0;
    while at < end.len() && at < text.len() && end[end.len() - 1 - at] == text[text.len() - 1 - at] {
        at += 1;
    }
    at == end.len()
}

const _: () = {
    let mut row = 0;
    while row < TABLE.len() {
        let (code, table) = (NAMES[row], TABLE[row].name);
        assert!(code.len() == table.len() && is_end(code, table), "CODE and the table differ");
        row += 1;
    }
    let mut row = 0;
    while row < BENCHES.len() {
        let (code, table) = (bench::NAMES[row], BENCHES[row].workload.name);
        assert!(code.len() + PREFIX.len() == table.len() && is_end(code, table), "CODE and the table differ");
        row += 1;
    }
};

/// The code that is written to the POST port before the first workload.
const STARTED: u8 = 0xb0;

fn options(boot: &'static BootInfo) -> Result<Options<'static>, String> {
    let bytes = usize::try_from(boot.options_bytes).unwrap_or(usize::MAX).min(OPTIONS_BYTES);
    let line = core::str::from_utf8(&boot.options[..bytes]).map_err(|error| alloc::format!("the options: {error}"))?;
    Options::parse(line).map_err(|error| alloc::format!("{error}"))
}

fn run(boot: &'static BootInfo) -> Outcome {
    let options = options(boot)?;
    let account = Account::new(&options);
    if options.benches() {
        bench::set_up();
    }
    post(STARTED);
    let mut outcome = Ok(());
    for selected in options.selected(boot.vcpus) {
        let number = selected.workload.number();
        let (code, timed) = match CODE.get(number) {
            Some(&code) => (code, None),
            None => (bench::sample as Code, bench::CODE.get(number - CODE.len()).copied()),
        };
        let run = Run { iterations: selected.iterations, account, vcpus: boot.vcpus, timed };
        outcome = outcome.and(harness::perform(selected.workload, code, &run));
    }
    outcome
}

/// The application's entry point.
#[unsafe(no_mangle)]
extern "C" fn runtime_entry(_argc: i32, _argv: *const *const u8, _env: *const *const u8) -> ! {
    let status = match run(boot_info()) {
        Ok(()) => 0,
        Err(what) => {
            note_failure(format_args!("{what}"));
            1
        }
    };
    // SAFETY: ends the guest; has no precondition.
    unsafe { hermit_abi::exit(status) }
}
