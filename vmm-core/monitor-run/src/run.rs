//! The run with one extension: every vCPU on its processor, the scenarios, and the account.
#![expect(unsafe_code, reason = "hands the run to other processors")]

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, Ordering};

use tollgate_abi::command_line::Options;
use tollgate_abi::ending::Ending;
use tollgate_abi::exit_reason::Controls;
use tollgate_abi::profile::Profile;
use tollgate_abi::workload::Outcome;
use vmm_core::board::Condition;
use vmm_core::calibration::Calibration;
use vmm_core::devices::SharedDevices;
use vmm_core::devices::cpuid_table::CpuidTable;
use vmm_core::devices::guest_apic::{GuestApic, Page};
use vmm_core::ended::{End, Ended};
use vmm_core::exit::{GuestRegisters, Pause};
use vmm_core::host::registers::{NEVER, tsc};
use vmm_core::keys::Keyed;
use vmm_core::ledger::{Book, Ledger, Unaccounted};
use vmm_core::machine::{Configuration, Machine, Parts, Shared};
use vmm_core::marks::Marks;
use vmm_core::nested::Table;
use vmm_core::recorder::Recorded;
use vmm_core::recording::{Recording, Slot};
use vmm_core::session::{Session, pause_anywhere};
use vmm_core::stack::{AnyOwner, AnyStack, ExitPath, Stack};
use vmm_core::svm::permission_maps::IOPM_PAGES;
use vmm_core::vcpu::Vcpu;

use crate::board::BOARD;
use crate::extension::{Extension, Plan};
use crate::firmware::firmware;
use crate::guest::Guest;
use crate::introduce::controls;
use crate::processors::Seated;
use crate::serial::Serial;
use crate::stopping::{ByApic, stop_first, stop_others};
use crate::waiting::{rest, start_up_vector};
use crate::{LIMIT_SECONDS, processor, processors, scenarios};

/// Runs the guest with one extension and with the kind of account that the options ask for.
#[inline(never)]
pub(crate) fn run_with<B: Extension>(
    capabilities: B::Capabilities,
    guest: Guest,
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
    if let Some(marks) = Marks::of(&options) {
        marks.texts().for_each(|text| DEVICES.serial.wait_for(text.bytes()));
        BOARD.console.lock().marks = Some(Box::new(marks));
    }
    DEVICES.begin(guest.model, (firmware().tsc_khz)().map(|khz| khz * 1000));
    let limit_ticks = options.limit_ticks.unwrap_or_else(|| LIMIT_SECONDS * processor::tsc_hz());
    let plan = Plan::<B> { capabilities, guest, options, limit_ticks, all_ports: all_ports() };
    let stack: fn(Recording) -> &'static dyn AnyStack<B> = match options {
        Options { accounting: false, .. } => stack::<Unaccounted, B>,
        _ if options.records() => stack::<Recorded, B>,
        Options { keys: true, .. } => stack::<Keyed, B>,
        _ => stack::<Ledger, B>,
    };
    Run::prepare(plan, stack).first(session, seated)
}

/// A run with one extension.
struct Run<B: Extension> {
    plan: Plan<B>,
    stacks: Vec<&'static dyn AnyStack<B>>,
    books: Vec<&'static dyn Book>,
    ledgers: &'static [&'static Ledger],
}

/// The same reference, if other processors may have it.
fn shared<T: Sync>(value: &'static T) -> &'static T {
    value
}

/// The devices that all vCPUs share.
static DEVICES: SharedDevices = SharedDevices::new();

/// The function of the other processors, for [`Run::other`].
static OTHERS_RUN: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

impl<B: Extension> Run<B> {
    /// Makes room for every vCPU, by `stack`.
    fn prepare(plan: Plan<B>, stack: fn(Recording) -> &'static dyn AnyStack<B>) -> &'static Self {
        let (rate_step_ticks, start_tsc) = (plan.options.rate_step_ticks, tsc());
        let (vcpus, exits) = (BOARD.vcpus(), plan.options.trace_exits);
        let room = if exits > 0 { (firmware().spare_memory)(plan.guest.memory.bytes()) } else { &[] };
        let keys = plan.options.keys;
        let recording = |ring| Recording { ring, rate_step_ticks, start_tsc, keys };
        let stacks = rings(room, vcpus, exits).map(|ring| stack(recording(ring)));
        let stacks: Vec<_> = stacks.take(vcpus).collect();
        let books: Vec<_> = stacks.iter().map(|stack| stack.book()).collect();
        let ledgers = books.iter().map(|book| book.ledger()).collect::<Vec<_>>().leak();
        shared(Box::leak(Box::new(Self { plan, stacks, books, ledgers })))
    }

    /// The first processor's part: vCPU 0, the scenarios, and the account.
    #[inline(never)]
    fn first(&'static self, session: &mut Session<Serial>, seated: &Seated) -> Ending {
        let (vcpu, registers) = lay_out(&self.plan, seated, self.ledgers);
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
        let end = if self.plan.options.skips_idle_time {
            let mut perform = |vcpu: &mut Vcpu<B>, pause| session.pause(vcpu, &self.books, pause);
            run_and_skip(&mut vcpu, self.books[0], &mut *owner, &mut perform)
        } else {
            vcpu.run(self.books[0], |vcpu| owner.run(vcpu), |vcpu, pause| session.pause(vcpu, &self.books, pause))
        };
        BOARD.add_elapsed(0, end.whole_tsc);
        BOARD.end(0, Ended::new(&end, vcpu.machine.stage.exit, &vcpu.backend));
        if let Some(running) = stop_others(&BOARD, &ByApic::new(&seated.local_apic)) {
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
        let (vcpu, _) = lay_out(&run.plan, seated, run.ledgers);
        let mut vcpu = Box::new(vcpu);
        vcpu.set_limit(BOARD.limit_tsc(), run.plan.limit_ticks);
        let Some(mut owner) = run.stacks[at].take() else { return };
        while let Some(vector) = start_up_vector(at, &seated.local_apic) {
            owner.set_registers(vcpu.start_up(vector));
            let end = if run.plan.options.skips_idle_time {
                vcpu.catch_up();
                run_and_skip(&mut vcpu, run.books[at], &mut *owner, &mut pause_anywhere)
            } else {
                vcpu.run(run.books[at], |vcpu| owner.run(vcpu), pause_anywhere)
            };
            BOARD.add_elapsed(at, end.whole_tsc);
            if end.outcome == Outcome::Init {
                rest(at, &seated.local_apic, Condition::Waiting);
                continue;
            }
            if BOARD.end(at, Ended::new(&end, vcpu.machine.stage.exit, &vcpu.backend)) {
                stop_first(&BOARD, &ByApic::new(&seated.local_apic));
            }
            return;
        }
    }
}

/// Runs a vCPU where idle time is skipped: a loop of its own, so that others ask nothing.
#[cold]
#[inline(never)]
fn run_and_skip<B: Extension>(
    vcpu: &mut Vcpu<B>,
    book: &dyn Book,
    owner: &mut dyn AnyOwner<B>,
    perform: &mut dyn FnMut(&mut Vcpu<B>, Pause) -> Option<Outcome>,
) -> End<B::Failure> {
    vcpu.run(book, |vcpu| owner.run(vcpu), |vcpu, pause| vcpu.pause_and_skip(pause, &mut *perform))
}

/// Lays out a vCPU on this processor: one function for all kinds of account.
#[inline(never)]
fn lay_out<B: Extension>(
    plan: &Plan<B>,
    seated: &Seated,
    ledgers: &'static [&'static Ledger],
) -> (Vcpu<B>, GuestRegisters) {
    let (capabilities, vcpu) = (plan.capabilities, seated.vcpu);
    let allows_rdtscp = B::allows_rdtscp(&capabilities);
    let cpuid = CpuidTable::new(processor::cpuid, vcpu as u32, BOARD.vcpus() as u32, allows_rdtscp)
        .with_paravirtual(plan.guest.model.paravirtual_leaf);
    let mut apic = GuestApic::new(Box::leak(Box::new(Page::new())), vcpu as u32);
    if vcpu == 0 && plan.guest.model.has_isa_bus {
        apic.let_external_through();
    }
    let (backend, registers) = B::new(plan, seated, &cpuid, apic.page());
    let any_profile = Profile::ALL.map(|profile| backend.controls(profile));
    let parts = Parts {
        vcpu,
        cpuid,
        apic,
        memory: plan.guest.memory.share(),
        config: Configuration {
            leaf_map: plan.options.leaf_map,
            facts: B::facts(&capabilities),
            controls: backend.controls(Profile::Minimal),
            enabled_in_any_profile: any_profile.into_iter().fold(Controls::default(), Controls::union),
            cr4_allowed: B::cr4_allowed(&capabilities),
            any_mode: plan.guest.any_mode,
        },
        shared: Shared { board: &BOARD, ledgers, devices: &DEVICES },
    };
    let mut vcpu = Vcpu::new(backend, Machine::new(plan.guest.model, parts));
    vcpu.power_up();
    (vcpu, registers)
}

/// Each vCPU's ring for exits that are to be traced, as large as asked for and as memory allows.
fn rings(room: &'static [Slot], vcpus: usize, exits: u64) -> impl Iterator<Item = &'static [Slot]> {
    let each = (room.len() / vcpus).min(usize::try_from(exits).unwrap_or(usize::MAX));
    let rings = room.chunks(each.max(1));
    rings.chain(core::iter::repeat(&room[..0]))
}

/// Room for a vCPU's exits and its account. It stays for ever: other vCPUs read the account.
fn stack<A: ExitPath<B> + Sync, B: Extension>(recording: Recording) -> &'static dyn AnyStack<B> {
    Box::leak(Box::new(Stack::<A>::new(&recording)))
}

/// The I/O permission map in which every port exits.
fn all_ports() -> &'static [Table; IOPM_PAGES] {
    let pages = Box::leak(Box::new([const { Table::EMPTY }; IOPM_PAGES]));
    pages.iter_mut().for_each(|page| page.0.fill(u64::MAX));
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vcpu_has_a_ring_of_its_own_as_large_as_there_is_room_for() {
        let room: &'static [Slot] = (0..10).map(|_| Slot::default()).collect::<Vec<_>>().leak();
        let places = |vcpus: usize, exits: u64, room: &'static [Slot]| -> Vec<(isize, usize)> {
            let start = room.as_ptr().addr() as isize;
            let place = |ring: &[Slot]| (ring.as_ptr().addr() as isize - start) / size_of::<Slot>() as isize;
            rings(room, vcpus, exits).take(vcpus).map(|ring| (place(ring), ring.len())).collect()
        };
        assert_eq!(places(3, 100, room), [(0, 3), (3, 3), (6, 3)]);
        assert_eq!(places(3, 2, room), [(0, 2), (2, 2), (4, 2)]);
        assert_eq!(places(1, u64::MAX, room), [(0, 10)]);
        let empty: Vec<_> = places(4, 100, &[]).into_iter().map(|(_, slots)| slots).collect();
        assert_eq!(empty, [0; 4], "no room, or no trace");
    }
}
