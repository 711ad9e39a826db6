//! The monitor around the exit path: finds out what there is, puts the guest in place, runs it on one vCPU or several, and
//! writes the account. What it can't do it says in the verdict, which is the last record of every log.
//!
//! Compiled for size, unlike what it runs: the image has to fit its ROM.
#![cfg_attr(bare, no_std)]
#![cfg_attr(not(bare), allow(dead_code, reason = "a host build only checks the image"))]
#![expect(unsafe_code, reason = "sets up the heap, hands the run to other processors")]

extern crate alloc;

mod board;
mod extension;
mod fault;
pub mod firmware;
mod found;
mod guest;
mod introduce;
pub mod ports;
mod processor;
pub mod processors;
pub mod rom;
mod scenarios;
mod serial;
mod stopping;
mod svm;
mod traps;
mod vtx;
mod waiting;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicPtr, Ordering};

use bare_rt as _;
use linked_list_allocator::LockedHeap;
use tollgate_abi::command_line::Options;
use tollgate_abi::ending::Ending;
use tollgate_abi::exit_reason::Controls;
use tollgate_abi::machine::{FRESH_BYTES, RAM_BYTES};
use tollgate_abi::profile::Profile;
use tollgate_abi::record::records;
use tollgate_abi::virtualization::Facts;
use tollgate_abi::workload::Outcome;
use vmm_core::board::Condition;
use vmm_core::calibration::Calibration;
use vmm_core::devices::cpuid_table::CpuidTable;
use vmm_core::devices::local_apic::{Apic, Page};
use vmm_core::ended::Ended;
use vmm_core::exit::GuestRegisters;
use vmm_core::host::registers::tsc;
use vmm_core::keys::Keyed;
use vmm_core::ledger::{Book, Ledger, Unaccounted};
use vmm_core::machine::{Configuration, Machine, NEVER, Parts, Shared};
use vmm_core::memory::GuestMemory;
use vmm_core::nested::Table;
use vmm_core::recorder::Recorded;
use vmm_core::recording::{Recording, Slot};
use vmm_core::session::{Session, pause_anywhere};
use vmm_core::stack::{AnyStack, ExitPath, Stack};
use vmm_core::svm::Svm;
use vmm_core::svm::permission_maps::IOPM_PAGES;
use vmm_core::vcpu::Vcpu;
use vmm_core::vmx::Vmx;
use vmm_core::vmx::host_state::HostState;

use crate::board::BOARD;
use crate::extension::Extension;
use crate::firmware::firmware;
use crate::found::Found;
use crate::guest::MODEL;
use crate::introduce::{all_there, controls, introduce};
use crate::processors::Seated;
use crate::serial::Serial;
use crate::stopping::{stop, stop_others};
use crate::waiting::{rest, start_up_vector};

#[cfg_attr(bare, global_allocator)]
static HEAP: LockedHeap = LockedHeap::empty();

/// Seconds that a run may last whose options don't say.
pub const LIMIT_SECONDS: u64 = 600;

/// TSC ticks in a second, as far as the processor tells.
pub fn tsc_hz() -> u64 {
    processor::tsc_hz()
}

/// Tables of a nested-paging arena: three levels, and one per 2 MiB of the guest's memory where large pages are missing.
const NESTED_TABLES: usize = 16;

/// Why nothing can be run: what is wrong, and what helps.
#[derive(Clone, Debug)]
pub struct Refused {
    detail: String,
    remedy: &'static str,
}

impl Refused {
    /// A sentence, and one on what to do.
    pub fn new(detail: impl fmt::Display, remedy: &'static str) -> Self {
        Self { detail: alloc::format!("{detail}"), remedy }
    }
}

/// The image's work once it has a heap: up to the verdict. On the processor that the firmware began with, with a stack of
/// half a MiB, all memory mapped to itself, and interrupts off; the processor's tables are the monitor's afterwards.
pub fn run() -> Ending {
    let host = traps::install();
    ports::mask_interrupts();
    let mut session = Session::new(Serial::new());
    let ending = match run_image(&mut session, host) {
        Ok(ending) => ending,
        Err(refused) => {
            session.write_verdict("refused", format_args!("{}", refused.detail), Some(refused.remedy));
            Ending::Refused
        }
    };
    session.sink().drain();
    ending
}

fn run_image(session: &mut Session<Serial>, host: HostState) -> Result<Ending, Refused> {
    let firmware = firmware();
    let directory = (firmware.directory)().inspect_err(|_| {
        // A log has a beginning, whatever is wrong with the image.
        introduce(session, "", &Options::default(), Facts::default(), 1);
    })?;
    let options = Options::parse(directory.options).map_err(|error| {
        introduce(session, directory.options, &Options::default(), Facts::default(), 1);
        Refused::new(error, "write the image again with options that exist")
    })?;
    BOARD.set_patience(processor::patience_ticks());
    let found = found::find();
    // Without an extension there is nothing for the others to do.
    let local_apic = found.is_ok().then(processors::local_apic);
    let processors = local_apic.as_ref().map_or(1, |local_apic| {
        BOARD.sit(0, local_apic.id());
        processors::start(local_apic, options.processors() as usize)
    });
    let vcpus = processors.min(options.cpus as usize);
    if !options.guest_keeps_book {
        session.leave_out_guest_book();
    }
    let facts = found.as_ref().map_or(Facts::default(), Found::facts);
    introduce(session, directory.options, &options, facts, vcpus);
    let record = records::Memory { total: (firmware.memory_bytes)(), guest: RAM_BYTES, fresh: FRESH_BYTES };
    let _ = record.write(session.sink());
    let found = found?;
    for (instruction, reason) in found.probed() {
        let record = records::Probe { instruction: &instruction, reason: reason.ledger_row() as u16 };
        let _ = record.write(session.sink());
    }
    let guest_hpa = (firmware.guest_memory)()?;
    all_there(session, &options, vcpus, &found)?;
    BOARD.settle(vcpus);
    // SAFETY: the firmware's word for it; this is the one call.
    let memory = unsafe { guest::load(&directory, (firmware.image)(), guest_hpa, vcpus, facts) };
    let memory = memory.expect("the directory was checked against the guest's memory");
    let local_apic = local_apic.expect("an extension was found");
    let seated = Seated { vcpu: 0, host, local_apic };
    let entry_gpa = directory.entry_gpa;
    Ok(match found {
        Found::VtX(capabilities) => run_with::<Vmx>(capabilities, memory, entry_gpa, options, session, &seated),
        Found::Svm(capabilities) => run_with::<Svm>(capabilities, memory, entry_gpa, options, session, &seated),
    })
}

/// Runs the guest with one extension, and the kind of account that the options ask for.
#[inline(never)]
fn run_with<B: Extension>(
    capabilities: B::Capabilities,
    memory: GuestMemory,
    entry_gpa: u64,
    options: Options<'static>,
    session: &mut Session<Serial>,
    seated: &Seated,
) -> Ending
where
    Unaccounted: ExitPath<B>,
    Ledger: ExitPath<B>,
    Keyed: ExitPath<B>,
    Recorded: ExitPath<B>,
{
    let limit_ticks = options.limit_ticks.unwrap_or_else(|| LIMIT_SECONDS * processor::tsc_hz());
    let plan = Plan::<B> { capabilities, memory, entry_gpa, options, limit_ticks, all_ports: all_ports() };
    let stack: fn(Recording) -> &'static dyn AnyStack<B> = match options {
        Options { accounting: false, .. } => stack::<Unaccounted, B>,
        Options { keys: true, .. } => stack::<Keyed, B>,
        _ if options.records() => stack::<Recorded, B>,
        _ => stack::<Ledger, B>,
    };
    Run::prepare(plan, stack).first(session, seated)
}

/// The parts that every vCPU is made from.
struct Plan<B: Extension> {
    capabilities: B::Capabilities,
    memory: GuestMemory,
    entry_gpa: u64,
    options: Options<'static>,
    /// TSC ticks of the run from the first entry on; 0 for as many as it takes.
    limit_ticks: u64,
    /// The I/O permission map of SVM, whose first two pages are the I/O bitmaps of VT-x: every port exits.
    all_ports: &'static [Table; IOPM_PAGES],
}

fn all_ports() -> &'static [Table; IOPM_PAGES] {
    let pages = Box::leak(Box::new([const { Table::EMPTY }; IOPM_PAGES]));
    pages.iter_mut().for_each(|page| page.0.fill(u64::MAX));
    pages
}

impl<B: Extension> Plan<B> {
    /// Lays out a vCPU on this processor. Apart from the account, of which there are several kinds.
    #[inline(never)]
    fn vcpu(&self, seated: &Seated, ledgers: &'static [&'static Ledger]) -> (Vcpu<B>, GuestRegisters) {
        let (capabilities, vcpu) = (self.capabilities, seated.vcpu);
        let allows_rdtscp = B::allows_rdtscp(&capabilities);
        let cpuid = CpuidTable::new(processor::cpuid, vcpu as u32, BOARD.vcpus() as u32, allows_rdtscp);
        let apic = Apic::new(Box::leak(Box::new(Page::new())), vcpu as u32);
        let (backend, registers) = B::new(self, seated, &cpuid, apic.page());
        let any_profile = Profile::ALL.map(|profile| backend.controls(profile));
        let parts = Parts {
            vcpu,
            cpuid,
            apic,
            memory: self.memory.share(),
            config: Configuration {
                leaf_map: self.options.leaf_map,
                facts: B::facts(&capabilities),
                controls: backend.controls(Profile::Minimal),
                enabled_in_any_profile: any_profile.into_iter().fold(Controls::default(), Controls::union),
                cr4_allowed: B::cr4_allowed(&capabilities),
            },
            shared: Shared { board: &BOARD, ledgers },
        };
        let mut vcpu = Vcpu::new(backend, Machine::new(MODEL, parts));
        vcpu.power_up();
        (vcpu, registers)
    }
}

/// Each vCPU's ring for exits that are to be traced, as large as is asked for and memory allows.
fn rings(options: &Options<'_>) -> impl Iterator<Item = &'static [Slot]> {
    let room: &'static [Slot] = if options.trace_exits > 0 { (firmware().spare_memory)() } else { &[] };
    let each = (room.len() / BOARD.vcpus()).min(usize::try_from(options.trace_exits).unwrap_or(usize::MAX));
    let rings = room.chunks(each.max(1));
    rings.chain(core::iter::repeat(&room[..0]))
}

/// Room for a vCPU's exits and its account. It stays for ever: other vCPUs read the account.
fn stack<A: ExitPath<B> + Sync, B: Extension>(recording: Recording) -> &'static dyn AnyStack<B> {
    Box::leak(Box::new(Stack::<A>::new(&recording)))
}

/// A run with one extension.
struct Run<B: Extension> {
    plan: Plan<B>,
    stacks: Vec<&'static dyn AnyStack<B>>,
    books: Vec<&'static dyn Book>,
    ledgers: &'static [&'static Ledger],
}

/// The same, if other processors may have it.
fn shared<T: Sync>(value: &'static T) -> &'static T {
    value
}

/// The function of the other processors, for [`Run::other`].
static OTHERS_RUN: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

impl<B: Extension> Run<B> {
    /// Makes room for every vCPU, by `stack`.
    fn prepare(plan: Plan<B>, stack: fn(Recording) -> &'static dyn AnyStack<B>) -> &'static Self {
        let (rate_step_ticks, start_tsc) = (plan.options.rate_step_ticks, tsc());
        let stacks = rings(&plan.options).map(|ring| stack(Recording { ring, rate_step_ticks, start_tsc }));
        let stacks: Vec<_> = stacks.take(BOARD.vcpus()).collect();
        let books: Vec<_> = stacks.iter().map(|stack| stack.book()).collect();
        let ledgers = books.iter().map(|book| book.ledger()).collect::<Vec<_>>().leak();
        shared(Box::leak(Box::new(Self { plan, stacks, books, ledgers })))
    }

    /// The first processor's part: vCPU 0, the scenarios, and the account.
    #[inline(never)]
    fn first(&'static self, session: &mut Session<Serial>, seated: &Seated) -> Ending {
        let (vcpu, registers) = self.plan.vcpu(seated, self.ledgers);
        let mut vcpu = Box::new(vcpu);
        controls(session, &vcpu.backend, self.plan.options.benches());
        if self.plan.options.benches() {
            session.calibration(&Calibration::measure(Box::leak(Box::new(Ledger::new()))));
        }
        let mut owner = self.stacks[0].take().expect("vCPU 0 has one processor");
        owner.set_registers(registers);
        OTHERS_RUN.store(core::ptr::from_ref(self).cast_mut().cast(), Ordering::Release);
        BOARD.set_condition(0, Condition::Running);
        BOARD.set_limit(if self.plan.limit_ticks > 0 { tsc().saturating_add(self.plan.limit_ticks) } else { NEVER });
        vcpu.set_limit(BOARD.limit_tsc(), self.plan.limit_ticks);
        processors::give(Self::other);
        let end =
            vcpu.run(self.books[0], |vcpu| owner.run(vcpu), |vcpu, pause| session.pause(vcpu, &self.books, pause));
        BOARD.add_elapsed(0, end.whole_tsc);
        BOARD.end(0, Ended::new(&end, vcpu.machine.stage.exit, &vcpu.backend));
        if let Some(running) = stop_others(seated.vcpu, &seated.local_apic) {
            session.still_ran(running);
        }
        if end.outcome == Outcome::Exited && BOARD.culprit() == Some(0) && BOARD.fault().vcpu().is_none() {
            scenarios::run(&mut vcpu, &mut *owner, &self.books, session, &self.plan.options, B::pages());
        }
        session.finish(&vcpu.machine, &self.books, firmware().keep_end)
    }

    /// Another processor's part: its vCPU, each time that it is started, until it is over.
    fn other(seated: &Seated) {
        // SAFETY: set to the one `Run` there is, which stays for ever and is `Sync`, by `prepare`, before any processor was
        // given this job; `B` is the same, since the job was `Self::other`.
        let run: &'static Self = unsafe { &*OTHERS_RUN.load(Ordering::Acquire).cast() };
        let at = seated.vcpu;
        let (vcpu, _) = run.plan.vcpu(seated, run.ledgers);
        let mut vcpu = Box::new(vcpu);
        vcpu.set_limit(BOARD.limit_tsc(), run.plan.limit_ticks);
        let Some(mut owner) = run.stacks[at].take() else { return };
        while let Some(vector) = start_up_vector(at, &seated.local_apic) {
            owner.set_registers(vcpu.start_up(vector));
            let end = vcpu.run(run.books[at], |vcpu| owner.run(vcpu), pause_anywhere);
            BOARD.add_elapsed(at, end.whole_tsc);
            if end.outcome == Outcome::Init {
                rest(at, &seated.local_apic, Condition::Waiting);
                continue;
            }
            if BOARD.end(at, Ended::new(&end, vcpu.machine.stage.exit, &vcpu.backend)) {
                // It stops the rest.
                stop(&seated.local_apic, core::iter::once(0), |first| BOARD.has_ended(first));
            }
            return;
        }
    }
}

#[cfg(bare)]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    fault::fault(format_args!("the monitor panicked: {info}"))
}
