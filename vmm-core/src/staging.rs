//! The staging of scenarios ([`tollgate_abi::scenario`] has their table): a few guest instructions in a state of their own, for
//! exits that the unikernel can't provoke.
//!
//! Each starts from the same frame: 64-bit mode as at the guest's entry point, the minimal profile, and a bound on its time. Its
//! row adds the state that its exit needs, and undoes the changes that the next frame would not overwrite. Rows that both
//! extensions have are here; `vmx::scenario` and `svm::scenario` have those of one extension, and the steps that each takes in
//! its own way.

use tollgate_abi::exit_reason::Controls;
use tollgate_abi::machine::{PAGE_BYTES, PAGE_TABLES_GPA};
use tollgate_abi::scenario::Scenario;
use tollgate_abi::x86::control::{CR0_AM, RFLAGS_AC, RFLAGS_FIXED, RFLAGS_NT, RFLAGS_OF};
use tollgate_abi::x86::segment::CODE_32;

use crate::board::{Board, Signal};
use crate::exit::{GuestRegisters, GuestState, State, vector};
use crate::memory::GuestMemory;

/// Guest-physical pages of the boot area that the unikernel no longer needs: code, data (with the stack at its end), a
/// task-state segment, and one for an extension's own purpose.
pub(crate) const CODE: u64 = 0x9000;
pub(crate) const DATA: u64 = 0xa000;
pub(crate) const STACK_END: u64 = DATA + 0xff0;
const TSS: u64 = 0xb000;
pub(crate) const EXTRA: u64 = 0xc000;

/// Ticks that a scenario may take.
const BOUND_TICKS: u64 = 100_000;

/// Access rights (SDM 3C table 25-2) of 32-bit code, and of 64-bit code and a stack of ring 3.
const USER_CODE_64: u64 = 0xa0fb;
const USER_STACK: u64 = 0xc0f3;

/// A paging-structure entry: the page is ring 3's, too.
const USER: u8 = 1 << 2;

pub(crate) const LOOP: &[u8] = &[0xeb, 0xfe];
pub(crate) const UD2: &[u8] = &[0x0f, 0x0b];
/// `mov eax, [rdi]`.
pub(crate) const READ_RDI: &[u8] = &[0x8b, 0x07];

/// A virtualization extension under which scenarios are staged: its own rows, and the steps that it takes in its own way.
pub trait Staging: GuestState + Sized + 'static {
    /// Pages of the monitor for the processor to read.
    type Pages;
    /// The scenarios that only this extension has, or that it stages in a way of its own.
    const ROWS: &'static [Row<Self>];
    /// The exits that the controls in force can produce.
    fn controls_now(&self) -> Controls;
    /// Puts the guest into its state at the entry point, with this RIP, stack and CR3, under the minimal profile.
    fn reset(&mut self, rip: u64, rsp: u64, cr3: u64);
    /// Ends the scenario after `ticks` of the TSC, if the processor has a timer for it.
    fn bound(&mut self, ticks: u64);
    /// The page whose nested entry a scenario may change: the first that the machine has on first touch.
    fn fresh_gpa(&self) -> u64;
    /// Writes the nested entry of that page.
    fn set_fresh_entry(&mut self, entry: u64);
    /// Has one more exception exit.
    fn intercept_exception(&mut self, vector: u8);
    /// Sets the access rights of CS.
    fn set_code_rights(&mut self, rights: u64);
    /// Goes to ring 3, with these access rights of CS and SS.
    fn enter_ring_3(&mut self, code_rights: u64, stack_rights: u64);
    /// Leaves IA-32e mode and paging for protected mode.
    fn go_unpaged(&mut self);
    /// Ends whatever is left of a scenario's bound and its signals.
    fn settle(&mut self);
}

/// The state that a row works on.
#[derive(Debug)]
pub struct Frame<'a, B: Staging> {
    pub(crate) backend: &'a mut B,
    pub(crate) memory: &'a mut GuestMemory,
    pub(crate) pages: &'a mut B::Pages,
    pub(crate) board: &'a Board,
    pub(crate) registers: GuestRegisters,
}

/// The code of a scenario, and the functions that stage it and clean up.
#[derive(Debug)]
pub struct Row<B: Staging> {
    pub(crate) name: &'static str,
    pub(crate) code: &'static [u8],
    pub(crate) set_up: fn(&mut Frame<'_, B>),
    pub(crate) clean_up: fn(&mut Frame<'_, B>),
}

/// A row that leaves nothing to clean up.
pub(crate) const fn row<B: Staging>(name: &'static str, code: &'static [u8], set_up: fn(&mut Frame<'_, B>)) -> Row<B> {
    Row { name, code, set_up, clean_up: |_| {} }
}

impl<B: Staging> Row<B> {
    /// The scenarios of both extensions that differ in nothing but the names of state and controls.
    const OF_BOTH: &'static [Self] = &[
        // ljmp $0x28, $0
        row("task-switch", &[0xea, 0, 0, 0, 0, 0x28, 0], |frame| frame.protected_mode()),
        // into
        row("overflow", &[0xce], |frame| {
            frame.backend.intercept_exception(vector::OF);
            frame.compatibility_mode();
            frame.backend.set(State::Rflags, RFLAGS_FIXED | RFLAGS_OF);
        }),
        // bound eax, [edi]; both bounds are 0.
        row("bound-range", &[0x62, 0x07], |frame| {
            frame.backend.intercept_exception(vector::BR);
            frame.compatibility_mode();
            (frame.registers.rax, frame.registers.rdi) = (1, DATA);
        }),
        // The #UD finds no gate, which is a #GP; the #GP finds none either.
        row("double-fault", UD2, |frame| frame.backend.intercept_exception(vector::DF)),
        // iret; the link to the previous task is the null selector.
        row("invalid-tss", &[0xcf], |frame| {
            frame.backend.intercept_exception(vector::TS);
            frame.protected_mode();
            frame.backend.set(State::Rflags, RFLAGS_FIXED | RFLAGS_NT);
        }),
        Row {
            name: "alignment-check",
            code: READ_RDI,
            set_up: |frame| {
                frame.backend.intercept_exception(vector::AC);
                frame.aligned_ring_3();
                frame.registers.rdi = DATA + 1;
            },
            clean_up: |frame| frame.user_pages(0),
        },
    ];

    fn of(scenario: &Scenario) -> Option<&'static Self> {
        B::ROWS.iter().chain(Self::OF_BOTH).find(|row| row.name == scenario.name)
    }
}

/// Stages a scenario: afterwards it only remains to enter the guest with these registers.
#[inline(never)]
pub fn stage<B: Staging>(
    scenario: &Scenario,
    backend: &mut B,
    memory: &mut GuestMemory,
    pages: &mut B::Pages,
    board: &Board,
) -> GuestRegisters {
    let Some(row) = Row::<B>::of(scenario) else { unreachable!("scenario {} has no row", scenario.name) };
    let mut frame = Frame { backend, memory, pages, board, registers: GuestRegisters::default() };
    frame.reset();
    let loaded =
        frame.memory.write(CODE, row.code).and_then(|()| frame.memory.write(CODE + row.code.len() as u64, LOOP));
    debug_assert!(loaded.is_ok(), "the boot area is part of the guest's memory");
    (row.set_up)(&mut frame);
    frame.registers
}

/// Undoes the changes that the next frame would not overwrite.
#[inline(never)]
pub fn strike<B: Staging>(
    scenario: &Scenario,
    backend: &mut B,
    memory: &mut GuestMemory,
    pages: &mut B::Pages,
    board: &Board,
) {
    if let Some(row) = Row::<B>::of(scenario) {
        let registers = GuestRegisters::default();
        (row.clean_up)(&mut Frame { backend: &mut *backend, memory, pages, board, registers });
    }
    backend.settle();
}

impl<B: Staging> Frame<'_, B> {
    /// The state that every row starts from.
    fn reset(&mut self) {
        self.backend.reset(CODE, STACK_END, PAGE_TABLES_GPA);
        self.backend.bound(BOUND_TICKS);
        self.backend.flush_translations(None);
        let _ = self.memory.zero(DATA, EXTRA + PAGE_BYTES - DATA);
        self.registers.rdi = self.backend.fresh_gpa();
    }

    /// Asks another processor for a signal, which has as much time to come as a processor may be away.
    pub(crate) fn ask(&mut self, signal: Signal) {
        self.backend.bound(self.board.patience(BOUND_TICKS));
        self.board.ask(signal);
    }

    /// 32-bit code in IA-32e mode.
    fn compatibility_mode(&mut self) {
        self.backend.set_code_rights(CODE_32);
    }

    /// Ring 3 of 64-bit mode, which has to align its accesses (SDM 3A 6.15, interrupt 17; APM 2 8.2.18).
    #[inline(never)]
    fn aligned_ring_3(&mut self) {
        self.user_pages(USER);
        self.backend.set(State::Cr0, self.backend.get(State::Cr0) | CR0_AM);
        self.backend.enter_ring_3(USER_CODE_64, USER_STACK);
        self.backend.set(State::Rflags, RFLAGS_FIXED | RFLAGS_AC);
    }

    /// Lets ring 3 use the first 2 MiB ([`USER`]), or not: writes the lowest byte of the entry at each level of the page tables.
    #[inline(never)]
    fn user_pages(&mut self, user: u8) {
        for (level, byte) in (0..).zip([0x03, 0x03, 0x83]) {
            let _ = self.memory.write(PAGE_TABLES_GPA + level * PAGE_BYTES, &[byte | user]);
        }
    }

    /// 32-bit protected mode without paging, with a task-state segment at selector 0x28 and one in the task register.
    #[inline(never)]
    fn protected_mode(&mut self) {
        let _ = self.memory.write_u64(DATA + 0x28, 0x0000_8900_0000_0067 | TSS << 16);
        self.backend.go_unpaged();
        for (state, value) in [(State::GdtrBase, DATA), (State::GdtrLimit, 0x2f), (State::Cr3, 0), (State::TrBase, TSS)]
        {
            self.backend.set(state, value);
        }
        self.backend.set_code_rights(CODE_32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::memory;
    use crate::script::{Script, machine};
    use crate::svm::Svm;
    use crate::vmx::Vmx;
    use tollgate_abi::virtualization::Extension;

    fn check<B: Staging>(extension: Extension) {
        let mut rows: Vec<_> = B::ROWS.iter().chain(Row::<B>::OF_BOTH).map(|row| row.name).collect();
        let scenarios = tollgate_abi::scenario::TABLE.iter().filter(|scenario| scenario.is_under(extension));
        let mut scenarios: Vec<_> = scenarios.map(|scenario| scenario.name).collect();
        rows.sort_unstable();
        scenarios.sort_unstable();
        assert_eq!(rows, scenarios);
    }

    #[test]
    fn every_scenario_has_its_row_and_every_row_its_scenario() {
        check::<Vmx>(Extension::VtX);
        check::<Svm>(Extension::Svm);
    }

    impl Staging for Script {
        type Pages = Vec<u8>;
        const ROWS: &'static [Row<Self>] = &[row("shutdown", UD2, |frame| frame.ask(Signal::Init))];

        fn controls_now(&self) -> Controls {
            Controls::default()
        }
        fn reset(&mut self, rip: u64, rsp: u64, cr3: u64) {
            for (state, value) in [(State::Rip, rip), (State::Rsp, rsp), (State::Cr3, cr3), (State::Cr0, 1 << 31)] {
                self.set(state, value);
            }
        }
        fn bound(&mut self, ticks: u64) {
            self.limit_tsc = ticks;
        }
        fn fresh_gpa(&self) -> u64 {
            self.fresh.start
        }
        fn set_fresh_entry(&mut self, _: u64) {}
        fn intercept_exception(&mut self, vector: u8) {
            self.exit_event = Some(crate::exit::Event::exception(vector));
        }
        fn set_code_rights(&mut self, rights: u64) {
            self.set(State::CsRights, rights);
        }
        fn enter_ring_3(&mut self, code_rights: u64, stack_rights: u64) {
            self.set(State::CsRights, code_rights);
            self.set(State::SsRights, stack_rights);
        }
        fn go_unpaged(&mut self) {
            self.set(State::Cr0, 1);
        }
        fn settle(&mut self) {
            self.limit_tsc = 0;
        }
    }

    #[test]
    fn a_scenario_starts_at_its_code_before_an_empty_stack() {
        let (mut backend, mut memory) = (Script { fresh: 0x20_0000..0x40_0000, ..Script::default() }, memory(0x1_0000));
        memory.write(CODE, &[0x90; 0x3000]).unwrap();
        let board = machine().shared.board;
        board.set_patience(7 * BOUND_TICKS);
        let scenario = Scenario::by_name("shutdown").unwrap();
        let registers = stage(scenario, &mut backend, &mut memory, &mut Vec::new(), board);
        assert_eq!(registers, GuestRegisters { rdi: 0x20_0000, ..Default::default() });
        assert_eq!((backend.get(State::Rip), backend.get(State::Rsp)), (CODE, STACK_END));
        assert_eq!(memory.read_u64(CODE), Ok(0x9090_9090_feeb_0b0f), "the code, and a loop behind it");
        assert_eq!(memory.read_u64(STACK_END), Ok(0));
        assert_eq!(backend.limit_tsc, 7 * BOUND_TICKS, "the signal may be late");
        strike(scenario, &mut backend, &mut memory, &mut Vec::new(), board);
        assert_eq!(backend.limit_tsc, 0);
    }

    #[test]
    fn the_page_tables_are_ring_3_s_for_one_scenario_alone() {
        let (mut backend, mut memory) = (Script::default(), memory(0x1_0000));
        let board = machine().shared.board;
        let scenario = Scenario::by_name("alignment-check").unwrap();
        let entries =
            |memory: &GuestMemory| [0, 1, 2].map(|at| memory.read_u64(PAGE_TABLES_GPA + at * PAGE_BYTES).unwrap());
        stage(scenario, &mut backend, &mut memory, &mut Vec::new(), board);
        assert_eq!(entries(&memory), [0x07, 0x07, 0x87]);
        assert_eq!(backend.get(State::Cr0), 1 << 31 | CR0_AM);
        strike(scenario, &mut backend, &mut memory, &mut Vec::new(), board);
        assert_eq!(entries(&memory), [0x03, 0x03, 0x83]);
    }
}
