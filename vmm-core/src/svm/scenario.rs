//! Scenarios: a few guest instructions in a state of their own, for exits that the unikernel can't provoke
//! ([`tollgate_abi::scenario`] has the table). The twin of [`crate::vmx::scenario`].
//!
//! Each starts from the same frame: 64-bit mode as at the guest's entry point, the minimal profile, the watchdog as a bound. A
//! row adds the state that its exit needs, and undoes the changes that the next frame would not overwrite.

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::{Controls, Feature};
use tollgate_abi::machine::{PAGE_BYTES, PAGE_TABLES_GPA};
use tollgate_abi::profile::Profile;
use tollgate_abi::scenario::Scenario;
use tollgate_abi::svm_exit::{self, Intercept, code, intercept};
use tollgate_abi::x86::control::{CR0_AM, EFER_SVME, RFLAGS_AC, RFLAGS_FIXED, RFLAGS_NT, RFLAGS_OF};
use tollgate_abi::x86::segment::SELECTOR_RPL;

use super::controls::Intercepts;
use super::nmi::Nmis;
use super::scenario_hardware as hardware;
use super::vmcb::*;
use super::{Svm, guest_state};
use crate::board::{Board, Signal};
use crate::exit::{Backend, GuestRegisters, GuestState, Interrupts, vector};
use crate::handlers::interrupt::end_of_interrupt;
use crate::host::registers::NEVER;
use crate::memory::GuestMemory;

/// Guest-physical pages of the boot area that the unikernel no longer needs: code, data (with the stack at its end), a
/// task-state segment.
const CODE: u64 = 0x9000;
const DATA: u64 = 0xa000;
const STACK_END: u64 = DATA + 0xff0;
const TSS: u64 = 0xb000;

/// Ticks that a scenario may take.
const BOUND_TICKS: u64 = 100_000;

/// Attributes of 32-bit code, and of 64-bit code and a stack of ring 3.
const CODE_32: u64 = 0xc9b;
const USER_CODE_64: u64 = 0xafb;
const USER_STACK: u64 = 0xcf3;
/// A paging-structure entry: the page is ring 3's, too.
const USER: u8 = 1 << 2;
/// Address bits of a nested entry that no processor has.
const RESERVED_ADDRESS: u64 = 1 << 51;

/// The state that a row works on.
struct Frame<'a> {
    svm: &'a mut Svm,
    memory: &'a mut GuestMemory,
    board: &'a Board,
    registers: GuestRegisters,
}

/// The code of a scenario, and the functions that stage it and clean up.
struct Row {
    name: &'static str,
    code: &'static [u8],
    set_up: fn(&mut Frame<'_>),
    clean_up: fn(&mut Frame<'_>),
}

const fn row(name: &'static str, code: &'static [u8], set_up: fn(&mut Frame<'_>)) -> Row {
    Row { name, code, set_up, clean_up: |_| {} }
}

const LOOP: &[u8] = &[0xeb, 0xfe];
/// A loop with PAUSE, so that another processor gets its turn to send.
const PAUSE_LOOP: &[u8] = &[0xf3, 0x90, 0xeb, 0xfc];
const UD2: &[u8] = &[0x0f, 0x0b];
/// `mov eax, [rdi]`.
const READ_RDI: &[u8] = &[0x8b, 0x07];

/// The rows, by the names of [`tollgate_abi::scenario::TABLE`].
const TABLE: &[Row] = &[
    // ljmp $0x28, $0
    row("task-switch", &[0xea, 0, 0, 0, 0, 0x28, 0], |frame| frame.protected_mode()),
    row("shutdown", UD2, |_| {}),
    row("invalid-vmcb", LOOP, |frame| {
        let efer = frame.svm.vmcb.get(EFER);
        frame.svm.vmcb.set(EFER, efer & !EFER_SVME);
    }),
    Row {
        name: "reserved-nested-bit",
        code: READ_RDI,
        set_up: |frame| frame.fresh_entry(RESERVED_ADDRESS | 0b111),
        clean_up: |frame| frame.fresh_entry(0),
    },
    // mov rax, cr0; xor eax, AM; mov cr0, rax
    row("selective-cr0-write", &[0x0f, 0x20, 0xc0, 0x35, 0, 0, 4, 0, 0x0f, 0x22, 0xc0], |frame| {
        frame.intercept(code::CR0_WRITE, false);
        frame.intercept(code::CR0_SEL_WRITE, true);
    }),
    row("pushf", &[0x9c], |frame| frame.intercept(code::PUSHF, true)),
    row("popf", &[0x9d], |frame| frame.intercept(code::POPF, true)),
    row("rsm", &[0x0f, 0xaa], |frame| frame.intercept(code::RSM, true)),
    row("iret", &[0x48, 0xcf], |frame| frame.intercept(code::IRET, true)),
    row("software-interrupt", &[0xcd, 0x20], |frame| frame.intercept(code::SWINT, true)),
    row("icebp", &[0xf1], |frame| frame.intercept(code::ICEBP, true)),
    // into
    row("overflow", &[0xce], |frame| {
        frame.exception(vector::OF);
        frame.compatibility_mode();
        frame.svm.vmcb.set(RFLAGS, RFLAGS_FIXED | RFLAGS_OF);
    }),
    // bound eax, [edi]; both bounds are 0.
    row("bound-range", &[0x62, 0x07], |frame| {
        frame.exception(vector::BR);
        frame.compatibility_mode();
        (frame.registers.rax, frame.registers.rdi) = (1, DATA);
    }),
    // The #UD finds no gate, which is a #GP; the #GP finds none either.
    row("double-fault", UD2, |frame| frame.exception(vector::DF)),
    // iret; the link to the previous task is the null selector.
    row("invalid-tss", &[0xcf], |frame| {
        frame.exception(vector::TS);
        frame.protected_mode();
        frame.svm.vmcb.set(RFLAGS, RFLAGS_FIXED | RFLAGS_NT);
    }),
    Row {
        name: "alignment-check",
        code: READ_RDI,
        set_up: |frame| {
            frame.exception(vector::AC);
            frame.aligned_ring_3();
            frame.registers.rdi = DATA + 1;
        },
        clean_up: |frame| frame.user_pages(0),
    },
    Row {
        name: "non-maskable-interrupt",
        code: PAUSE_LOOP,
        set_up: |frame| frame.ask(Signal::Nmi),
        clean_up: |frame| frame.svm.take_nmi(),
    },
    Row {
        name: "security-exception",
        code: PAUSE_LOOP,
        set_up: |frame| {
            frame.intercept(code::INIT, false);
            frame.exception(vector::SX);
            hardware::redirect_init(true);
            frame.ask(Signal::Init);
        },
        clean_up: |_| hardware::redirect_init(false),
    },
    row("init-signal", PAUSE_LOOP, |frame| frame.ask(Signal::Init)),
];

impl Svm {
    /// The controls that this processor allows, as far as scenarios need to know: the features that it `has`, and those that
    /// QEMU's emulation lacks.
    pub fn allowed(&self, has: impl Fn(Feature) -> bool) -> Controls {
        let is_qemu = self.capabilities.facts.is_qemu;
        let features = u32::from(has(Feature::OtherCpu)) << Feature::OtherCpu as u8
            | u32::from(has(Feature::InitRedirection) && !is_qemu) << Feature::InitRedirection as u8
            | u32::from(!is_qemu) << Feature::WholeSvm as u8
            | u32::from(is_qemu) << Feature::EarlyRsm as u8
            | u32::from(has(Feature::InitForgotten)) << Feature::InitForgotten as u8;
        Controls { features, ..self.controls_now() }
    }

    /// The exits that the intercepts in the block now can produce.
    pub fn controls_now(&self) -> Controls {
        Intercepts::read(self.vmcb).in_force()
    }

    /// Stages a scenario: afterwards it only remains to enter the guest with these registers.
    #[inline(never)]
    pub fn stage(&mut self, scenario: &Scenario, memory: &mut GuestMemory, board: &Board) -> GuestRegisters {
        let Some(row) = TABLE.iter().find(|row| row.name == scenario.name) else {
            unreachable!("scenario {} has no row", scenario.name)
        };
        let mut frame = Frame { svm: self, memory, board, registers: GuestRegisters::default() };
        frame.reset();
        let loaded =
            frame.memory.write(CODE, row.code).and_then(|()| frame.memory.write(CODE + row.code.len() as u64, LOOP));
        debug_assert!(loaded.is_ok(), "the boot area is part of the guest's memory");
        (row.set_up)(&mut frame);
        frame.registers
    }

    /// Undoes the changes that the next frame would not overwrite.
    #[inline(never)]
    pub fn strike(&mut self, scenario: &Scenario, memory: &mut GuestMemory, board: &Board) {
        if let Some(row) = TABLE.iter().find(|row| row.name == scenario.name) {
            (row.clean_up)(&mut Frame { svm: self, memory, board, registers: GuestRegisters::default() });
        }
        // The interrupt at the end of the scenario's bound, if it came to that. An INIT that has made its exit stays pending, and
        // would reset the processor if interrupts were let in.
        if self.exit_reason().basic() == ExitReason::EXTERNAL_INTERRUPT {
            let vector = self.take_interrupt();
            end_of_interrupt(vector, self);
        }
        // Otherwise its interrupt would wait at the APIC for the next scenario, if this one's records take longer to write.
        self.set_watchdog(false);
    }
}

impl Frame<'_> {
    /// The state that every row starts from.
    #[inline(never)]
    fn reset(&mut self) {
        let svm = &mut self.svm;
        svm.watchdog_ticks = BOUND_TICKS;
        svm.guest_deadline_tsc = NEVER;
        svm.long_mode = true;
        svm.halt = None;
        svm.nmis = Nmis::default();
        guest_state::write(svm.vmcb, CODE, PAGE_TABLES_GPA);
        svm.vmcb.set(RSP, STACK_END);
        svm.operation.load(svm.vmcb);
        let _ = svm.set_profile(Profile::Minimal);
        svm.flush_translations(None);
        let _ = self.memory.zero(DATA, TSS + PAGE_BYTES - DATA);
        self.registers.rdi = self.fresh_gpa();
    }

    /// Asks another processor for a signal, which has as much time to come as a processor may be away.
    fn ask(&mut self, signal: Signal) {
        self.svm.watchdog_ticks = self.board.patience(BOUND_TICKS);
        self.board.ask(signal);
    }

    #[inline(never)]
    fn intercept(&mut self, code: u32, on: bool) {
        let mut intercepts = Intercepts::read(self.svm.vmcb);
        match intercept(code) {
            Intercept::CrWrite(bit) if !on => intercepts.cr_write &= !(1 << bit),
            Intercept::Other { word, bit } if !on => intercepts.others[usize::from(word)] &= !(1 << bit),
            _ => intercepts.set(code),
        }
        intercepts.write(self.svm.vmcb);
    }

    /// Intercepts one more exception.
    #[inline(never)]
    fn exception(&mut self, vector: u8) {
        self.intercept(svm_exit::exception(vector), true);
    }

    /// The page whose nested entry a scenario may change: the first that the machine has on first touch.
    fn fresh_gpa(&self) -> u64 {
        self.svm.npt.fresh_gpa()
    }

    #[inline(never)]
    fn fresh_entry(&mut self, entry: u64) {
        self.svm.npt.set_fresh_entry(self.fresh_gpa(), entry);
        self.svm.flush_translations(None);
    }

    /// 32-bit code in IA-32e mode.
    #[inline(never)]
    fn compatibility_mode(&mut self) {
        self.svm.vmcb.set_part(CS.attributes(), CODE_32);
    }

    /// Ring 3 of 64-bit mode, which has to align its accesses (APM 2 8.2.18).
    #[inline(never)]
    fn aligned_ring_3(&mut self) {
        self.user_pages(USER);
        let vmcb = self.svm.vmcb;
        vmcb.set(CR0, vmcb.get(CR0) | CR0_AM);
        for (segment, attributes) in [(CS, USER_CODE_64), (SS, USER_STACK)] {
            vmcb.set_part(segment.selector(), vmcb.part(segment.selector()) | u64::from(SELECTOR_RPL));
            vmcb.set_part(segment.attributes(), attributes);
        }
        vmcb.set_part(CPL, 3);
        vmcb.set(RFLAGS, RFLAGS_FIXED | RFLAGS_AC);
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
        self.svm.long_mode = false;
        let vmcb = self.svm.vmcb;
        vmcb.set(GDTR.base(), DATA);
        vmcb.set_part(GDTR.limit(), 0x2f);
        vmcb.set(CR0, 0x11);
        vmcb.set(CR3, 0);
        vmcb.set(CR4, 0);
        vmcb.set(EFER, EFER_SVME);
        vmcb.set_part(CS.attributes(), CODE_32);
        vmcb.set(TR.base(), TSS);
        self.svm.operation.load(vmcb);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_abi::virtualization::Extension;

    #[test]
    fn every_scenario_has_its_row_and_every_row_its_scenario() {
        let rows: Vec<_> = TABLE.iter().map(|row| row.name).collect();
        let scenarios = tollgate_abi::scenario::TABLE.iter().filter(|scenario| scenario.is_under(Extension::Svm));
        assert_eq!(rows, scenarios.map(|scenario| scenario.name).collect::<Vec<_>>());
    }
}
