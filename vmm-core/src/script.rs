//! A backend that tests script: state is a map, facts are fields, effects are recorded.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;

use tollgate_abi::ExitReason;
use tollgate_abi::apic::{SVR, SVR_ENABLED};
use tollgate_abi::exit_reason::Controls;
use tollgate_abi::leaves::LeafMap;
use tollgate_abi::machine::UNIKERNEL;
use tollgate_abi::profile::{CR4_OFFERED, Profile};
use tollgate_abi::virtualization::Facts;
use tollgate_abi::x86::control::{EFER_LMA, RFLAGS_IF, RFLAGS_TF};

use crate::board::{Board, Condition};
use crate::devices::cpuid_table::{CpuidTable, tests::everything};
use crate::devices::guest_apic::{GuestApic, Page};
use crate::exit::{
    Action, CrAccess, DrAccess, Event, ExitFacts, ExitNumber, GuestRegisters, GuestState, Interrupts, IoAccess,
    Numbers, Operand, PhysicalFault, Processor, RawReason, State, TableInstruction, Timers, VirtualizedApic,
    VolatileRegisters,
};
use crate::handlers::guest_apic;
use crate::ledger::Ledger;
use crate::machine::{Configuration, Machine, Parts, Shared};
use crate::memory::tests::memory;
use crate::vmx::guest_state::REAL_MODE_CR0;

#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) reason: u32,
    pub(crate) qualification: u64,
    pub(crate) io: Option<IoAccess>,
    pub(crate) cr: Option<CrAccess>,
    pub(crate) string_io: (u64, u8),
    pub(crate) table: Option<(TableInstruction, Operand)>,
    pub(crate) physical_fault: Option<PhysicalFault>,
    pub(crate) exit_event: Option<Event>,
    pub(crate) vectoring_event: Option<Event>,
    pub(crate) fresh: Range<u64>,
    pub(crate) profile: Profile,
    pub(crate) advances: usize,
    pub(crate) page_directory_pointers: Option<[u64; 4]>,
    pub(crate) flushes: usize,
    pub(crate) injected: Vec<Event>,
    pub(crate) state: HashMap<State, u64>,
    pub(crate) tsc: u64,
    /// Ticks that each look at the TSC takes.
    pub(crate) ticks_per_look: u64,
    pub(crate) looked: Cell<u64>,
    pub(crate) virtualized: VirtualizedApic,
    pub(crate) interrupt_status: (u8, u8),
    pub(crate) threshold: u8,
    pub(crate) window: bool,
    pub(crate) nmi_window: bool,
    pub(crate) blocks_nmis: bool,
    pub(crate) kicks: Vec<u32>,
    pub(crate) ended_interrupts: usize,
    pub(crate) timer: Option<u64>,
    pub(crate) bound: Option<u64>,
    pub(crate) halts: usize,
    pub(crate) quick_steps: usize,
    pub(crate) watchdog_starts: usize,
    pub(crate) watchdog_is_due: bool,
    pub(crate) is_slow: bool,
    pub(crate) escape_is_pressed: bool,
    pub(crate) limit_tsc: u64,
}

impl Script {
    pub(crate) fn elapse(&mut self, ticks: u64) {
        self.tsc += ticks;
    }
}

/// A backend whose guest takes interrupts.
pub(crate) fn interruptible() -> Script {
    let mut backend = Script::default();
    backend.set(State::Rflags, RFLAGS_IF);
    backend
}

/// WRMSR to a register of the guest's local APIC.
pub(crate) fn wrmsr(backend: &mut Script, machine: &mut Machine, msr: u32, value: u64) -> Action {
    guest_apic::write(msr, value, backend, machine)
}

/// A machine with 64 KiB of memory and a processor with every feature.
pub(crate) fn machine() -> Machine {
    let [machine] = machines();
    machine
}

/// Such a machine, with accounts of vCPUs.
pub(crate) fn machine_with(ledgers: &'static [&'static Ledger]) -> Machine {
    let mut machine = machine();
    machine.shared.ledgers = ledgers;
    machine
}

/// A machine for each of several vCPUs, all of which wait.
pub(crate) fn machines<const VCPUS: usize>() -> [Machine; VCPUS] {
    let board: &'static Board = Box::leak(Box::new(Board::new()));
    (0..VCPUS).for_each(|at| board.sit(at, at as u32));
    board.settle(VCPUS);
    board.set_condition(0, Condition::Running);
    core::array::from_fn(|vcpu| machine_at(vcpu, board))
}

fn machine_at(vcpu: usize, board: &'static Board) -> Machine {
    let mut apic = GuestApic::new(Box::leak(Box::new(Page::new())), vcpu as u32);
    apic.write(SVR, u64::from(SVR_ENABLED | 0xff), 0).expect("each vCPU's is enabled");
    let parts = Parts {
        vcpu,
        cpuid: CpuidTable::new(everything, vcpu as u32, 1, true),
        apic,
        memory: memory(64 << 10),
        config: Configuration {
            leaf_map: LeafMap::default(),
            facts: Facts::default(),
            controls: Controls::default(),
            enabled_in_any_profile: Controls::default(),
            cr4_allowed: CR4_OFFERED,
            any_mode: false,
        },
        shared: Shared { board, ledgers: &[], devices: Box::leak(Box::default()) },
    };
    Machine::new(&UNIKERNEL, parts)
}

impl ExitFacts for Script {
    const NUMBERS: Numbers = Numbers::REASONS;
    fn number(&self) -> ExitNumber {
        ExitNumber(self.reason.into())
    }
    fn confirms(&self, _: ExitReason) -> bool {
        true
    }
    fn common_reason(&self, number: ExitNumber) -> Option<RawReason> {
        Some(RawReason(number.0 as u32))
    }
    fn uncommon_reason(&self, number: ExitNumber) -> RawReason {
        RawReason(number.0 as u32)
    }
    fn qualification(&self) -> u64 {
        self.qualification
    }
    fn io_access(&self) -> IoAccess {
        self.io.unwrap_or(IoAccess { port: 0x80, bytes: 1, is_in: false, is_string: false, is_repeated: false })
    }
    fn string_io_segment_base(&self, offset: u64) -> u64 {
        self.string_io.0.wrapping_sub(offset)
    }
    fn string_io_address_bytes(&self) -> u8 {
        self.string_io.1
    }
    fn cr0_write(&mut self) -> Option<u8> {
        match self.cr {
            Some(CrAccess::Write { cr: 0, register }) => Some(register),
            _ => None,
        }
    }
    fn told_cr_access(&mut self) -> Option<CrAccess> {
        self.cr
    }
    fn cr_access(&self, _: &mut GuestRegisters) -> CrAccess {
        self.cr.unwrap_or(CrAccess::Clts)
    }
    fn told_dr_access(&mut self) -> Option<DrAccess> {
        Some(self.dr_access())
    }
    fn dr_access(&self) -> DrAccess {
        DrAccess { dr: 0, register: 0, is_read: true }
    }
    fn table_access(&self, _: &mut GuestRegisters) -> (TableInstruction, Operand) {
        self.table.unwrap_or((TableInstruction::Sldt, Operand::Register(0)))
    }
    fn fault_gpa(&self) -> u64 {
        self.physical_fault().gpa
    }
    fn physical_fault(&self) -> PhysicalFault {
        self.physical_fault.unwrap_or(PhysicalFault { gpa: 0, read: true, write: false, fetch: false })
    }
    fn is_rdtscp(&self) -> bool {
        false
    }
    fn told_invalidated_address(&self) -> Option<u64> {
        Some(self.qualification)
    }
    fn invalidated_address(&self, _: &mut GuestRegisters) -> u64 {
        self.qualification
    }
    fn exit_event(&self) -> Option<Event> {
        self.exit_event
    }
    fn vectoring_event(&self) -> Option<Event> {
        self.vectoring_event
    }
    fn was_delivering(&self) -> bool {
        self.vectoring_event.is_some()
    }
    fn entry_failure(&self) -> &'static str {
        "scripted"
    }
}

impl GuestState for Script {
    fn rax(&self, registers: &VolatileRegisters) -> u64 {
        registers.saved_rax()
    }
    fn set_rax(&mut self, registers: &mut VolatileRegisters, value: u64) {
        registers.save_rax(value);
    }
    fn volatile(&self, registers: &VolatileRegisters, number: u8) -> u64 {
        registers.by_number(number)
    }
    fn set_volatile(&mut self, registers: &mut VolatileRegisters, number: u8, value: u64) {
        registers.set_by_number(number, value);
    }
    fn get(&self, state: State) -> u64 {
        self.state.get(&state).copied().unwrap_or_default()
    }
    fn set(&mut self, state: State, value: u64) {
        self.state.insert(state, value);
    }
    fn uses_quick_forms(&self) -> bool {
        !self.is_slow
    }
    fn quick_step_over(&mut self) {
        self.quick_steps += 1;
        self.step_over();
    }
    fn step_over(&mut self) {
        self.advances += 1;
    }
    fn ends_plainly(&self) -> bool {
        self.get(State::Rflags) & RFLAGS_TF == 0
    }
    fn advance(&mut self) {
        self.advances += 1;
    }
    fn advance_by(&mut self, bytes: u8) {
        self.set(State::Rip, self.get(State::Rip) + u64::from(bytes));
    }
    fn keep_single_step(&mut self) {}
    fn after_failed_entry(&mut self, _: &mut GuestRegisters) -> Option<Action> {
        None
    }
    fn flush_translations(&mut self, _: Option<u64>) {
        self.flushes += 1;
    }
    fn map_fresh_page(&mut self, gpa: u64) -> bool {
        self.fresh.contains(&gpa)
    }
    fn start_up(&mut self, _: u8) {
        // XCR0 is in the processor itself, and no change of the VMCS or VMCB touches it.
        self.state = HashMap::from([(State::Cr0, REAL_MODE_CR0), (State::Xcr0, self.get(State::Xcr0))]);
    }
    fn is_in_long_mode(&self) -> bool {
        self.get(State::Efer) & EFER_LMA != 0
    }
    fn enter_long_mode(&mut self) {
        self.set(State::Efer, self.get(State::Efer) | EFER_LMA);
    }
    fn leave_long_mode(&mut self) {
        self.set(State::Efer, self.get(State::Efer) & !EFER_LMA);
    }
    fn set_page_directory_pointers(&mut self, entries: [u64; 4]) {
        self.page_directory_pointers = Some(entries);
    }
    fn set_profile(&mut self, profile: Profile) -> Controls {
        self.profile = profile;
        Controls::default()
    }
}

impl Interrupts for Script {
    fn inject(&mut self, event: Event) {
        self.injected.push(event);
    }
    fn takes_interrupts(&self, ends: bool) -> bool {
        self.get(State::Rflags) & RFLAGS_IF != 0 && (!ends || self.ends_plainly())
    }
    fn takes_nmis(&self, ends: bool) -> bool {
        !self.blocks_nmis && (!ends || self.ends_plainly())
    }
    fn ask_for_window(&mut self, wanted: bool) {
        self.window = wanted;
    }
    fn ask_for_nmi_window(&mut self, wanted: bool) {
        self.nmi_window = wanted;
    }
    fn take_exit_event(&mut self) -> Option<Event> {
        self.exit_event
    }
    fn take_interrupt(&mut self) -> u8 {
        self.exit_event.map_or(0, |event| event.vector)
    }
    fn take_nmi(&mut self) {}
    fn takes_own_step(&mut self) -> bool {
        false
    }
    fn nmi_handler_ends(&mut self) {}
    fn halt(&mut self) {
        self.halts += 1;
    }
    fn wake(&mut self) {
        self.halts -= 1;
    }
    fn virtualized_apic(&self) -> VirtualizedApic {
        self.virtualized
    }
    fn set_interrupt_status(&mut self, requested: u8, in_service: u8) {
        self.interrupt_status = (requested, in_service);
    }
    fn set_priority_threshold(&mut self, class: u8) {
        self.threshold = class;
    }
    fn set_task_priority(&mut self, _: u8) {}
}

impl Timers for Script {
    const WATCHDOG_INTERRUPTS: bool = true;
    fn set_limit(&mut self, limit_tsc: u64, _: u64) {
        self.limit_tsc = limit_tsc;
    }
    fn arm_timer(&mut self, deadline_tsc: Option<u64>) {
        self.timer = deadline_tsc;
    }
    fn set_bound(&mut self, deadline_tsc: Option<u64>) -> bool {
        core::mem::replace(&mut self.bound, deadline_tsc) != deadline_tsc
    }
    fn restart_watchdog(&mut self) {
        self.watchdog_starts += 1;
    }
    fn watchdog_is_due(&mut self) -> bool {
        self.watchdog_is_due
    }
}

impl Processor for Script {
    fn tsc(&self) -> u64 {
        self.looked.set(self.looked.get() + self.ticks_per_look);
        self.tsc + self.looked.get()
    }
    fn kick(&mut self, apic_id: u32) {
        self.kicks.push(apic_id);
    }
    fn end_of_interrupt(&mut self) {
        self.ended_interrupts += 1;
    }
    fn escape_was_pressed(&mut self) -> bool {
        core::mem::take(&mut self.escape_is_pressed)
    }
}
