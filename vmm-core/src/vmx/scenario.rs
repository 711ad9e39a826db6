//! Scenarios: a few guest instructions in a state of their own, for exits that the unikernel can't provoke
//! ([`tollgate_abi::scenario`] has the table of what they are about).
//!
//! Each starts from the same frame: 64-bit mode as at the guest's entry point, the minimal profile, the preemption timer as
//! a bound. A row adds what its exit needs, and undoes what the next frame would not overwrite.

use tollgate_abi::exit_reason::{Controls, Feature};
use tollgate_abi::machine::{PAGE_TABLES_GPA, RAM_BYTES};
use tollgate_abi::profile::Profile;
use tollgate_abi::scenario::Scenario;

use super::Vmx;
use super::field::{self as f, *};
use super::guest_state;
use super::scenario_hardware as hardware;
use crate::board::{Board, Signal};
use crate::exit::{Backend, GuestRegisters, State};
use crate::memory::GuestMemory;
use crate::nested::Table;

/// Guest-physical pages of the boot area that the unikernel no longer needs: code, data (with the stack at its end),
/// the APIC-access page, a task-state segment.
const CODE: u64 = 0x9000;
const DATA: u64 = 0xa000;
const STACK_END: u64 = DATA + 0xff0;
const APIC_PAGE: u64 = 0xb000;
const TSS: u64 = 0xc000;
/// A page whose EPT entry a scenario may change.
const FRESH: u64 = RAM_BYTES;

/// Ticks that a scenario may take.
const BOUND_TICKS: u32 = 100_000;

/// CR4 bits (SDM 3A 2.5).
const CR4_SMXE: u64 = 1 << 14;
const CR4_OSXSAVE: u64 = 1 << 18;
/// IA32_XSS and EAX: the CET user state, which the XSS-exiting bitmap intercepts before anything is saved.
const XSS_COMPONENT: u64 = 0x800;

/// Pages for the processor, in host-physical memory.
#[derive(Debug)]
#[expect(missing_docs, reason = "named after the fields that refer to them")]
pub struct Pages {
    pub virtual_apic: &'static mut Table,
    pub msr_load: &'static mut Table,
    pub pml: &'static mut Table,
    pub eptp_list: &'static mut Table,
    pub spp: &'static mut Table,
}

/// What a row works on.
struct Frame<'a> {
    vmx: &'a mut Vmx,
    memory: &'a mut GuestMemory,
    pages: &'a mut Pages,
    board: &'a Board,
    registers: GuestRegisters,
}

/// How a scenario is staged.
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
/// `mov eax, [rdi]`; `mov [rdi], eax`; the addresses are in RDI.
const READ_RDI: &[u8] = &[0x8b, 0x07];
const WRITE_RDI: &[u8] = &[0x89, 0x07];

/// The rows, by the names of [`tollgate_abi::scenario::TABLE`].
const TABLE: &[Row] = &[
    row("triple-fault-exit", &[0x0f, 0x0b], |_| {}),
    row("nmi-window", LOOP, |frame| {
        frame.pin(1 << 5);
        frame.proc(1 << 22, 0);
    }),
    // ljmp $0x28, $0
    row("task-switch", &[0xea, 0, 0, 0, 0, 0x28, 0], |frame| frame.protected_mode()),
    row("getsec", &[0x0f, 0x37], |frame| {
        let cr4 = frame.vmx.vmcs.read(GUEST_CR4);
        frame.vmx.vmcs.write(GUEST_CR4, cr4 | CR4_SMXE);
    }),
    row("invalid-guest-state", LOOP, |frame| frame.vmx.vmcs.write(GUEST_RFLAGS, 0)),
    Row {
        name: "refused-msr-load",
        code: LOOP,
        set_up: |frame| {
            // IA32_FS_BASE must not be in the list (SDM 3C 27.4).
            frame.pages.msr_load.0[..2].copy_from_slice(&[0xc000_0100, 0]);
            frame.vmx.vmcs.write(ENTRY_MSR_LOAD_ADDRESS, address(frame.pages.msr_load));
            frame.vmx.vmcs.write(ENTRY_MSR_LOAD_COUNT, 1);
        },
        clean_up: |frame| frame.vmx.vmcs.write(ENTRY_MSR_LOAD_COUNT, 0),
    },
    // Type 7, vector 0.
    row("monitor-trap-flag", LOOP, |frame| frame.vmx.vmcs.write(ENTRY_INTERRUPTION_INFORMATION, 0x8000_0700)),
    // xor eax, eax; mov cr8, rax
    row("tpr-threshold", &[0x31, 0xc0, 0x44, 0x0f, 0x22, 0xc0], |frame| {
        // The entry check wants a threshold of at most the priority class that the page has.
        frame.virtual_apic(&[(0x80, 0x50)]);
        frame.vmx.vmcs.write(TPR_THRESHOLD, 2);
    }),
    row("apic-access", READ_RDI, |frame| {
        frame.virtual_apic(&[]);
        frame.apic_access(0x300, 1);
    }),
    row("virtualized-eoi", WRITE_RDI, |frame| {
        // Vector 1 in service, and in the EOI-exit bitmap.
        frame.virtual_apic(&[(0x100, 2)]);
        frame.apic_access(0xb0, 1 | 1 << 8 | 1 << 9);
        frame.vmx.vmcs.write(EOI_EXIT_BITMAP_0, 2);
        frame.vmx.vmcs.write(GUEST_INTERRUPT_STATUS, 0x0100);
    }),
    row("apic-write", WRITE_RDI, |frame| {
        frame.virtual_apic(&[]);
        frame.apic_access(0xf0, 1 | 1 << 8);
        frame.registers.rax = 0x1ff;
    }),
    Row {
        name: "ept-misconfiguration",
        code: READ_RDI,
        set_up: |frame| frame.fresh_entry(0b010),
        clean_up: |frame| frame.fresh_entry(0),
    },
    row("preemption-timer", LOOP, |_| {}),
    // mov eax, 5; vmfunc
    row("vm-function", &[0xb8, 5, 0, 0, 0, 0x0f, 0x01, 0xd4], |frame| {
        frame.proc2(1 << 13);
        frame.vmx.vmcs.write(VM_FUNCTION_CONTROLS, 1);
        frame.vmx.vmcs.write(EPTP_LIST_ADDRESS, address(frame.pages.eptp_list));
    }),
    Row {
        name: "page-modification-log",
        code: WRITE_RDI,
        set_up: |frame| {
            frame.proc2(1 << 17);
            frame.vmx.vmcs.write(PML_ADDRESS, address(frame.pages.pml));
            // One beyond the last entry to be filled: the log is full before anything is in it.
            frame.vmx.vmcs.write(PML_INDEX, 0xffff);
            frame.ept_pointer(ACCESSED_AND_DIRTY);
            frame.registers.rdi = DATA;
        },
        clean_up: |frame| frame.ept_pointer(0),
    },
    // xsaves [rdi]
    Row {
        name: "xsaves",
        code: &[0x0f, 0xc7, 0x2f],
        set_up: |frame| frame.supervisor_state(),
        clean_up: |_| hardware::write_xss(0),
    },
    // xrstors [rdi]
    Row {
        name: "xrstors",
        code: &[0x0f, 0xc7, 0x1f],
        set_up: |frame| frame.supervisor_state(),
        clean_up: |_| hardware::write_xss(0),
    },
    Row {
        name: "sub-page-permission",
        code: WRITE_RDI,
        set_up: |frame| {
            frame.proc2(1 << 23);
            frame.vmx.vmcs.write(SPP_TABLE_POINTER, address(frame.pages.spp));
            let page = frame.vmx.memory_hpa + FRESH;
            // Readable, executable, write-back, with sub-page write permissions.
            frame.fresh_entry(page | 0b101 | 6 << 3 | 1 << 61);
        },
        clean_up: |frame| frame.fresh_entry(0),
    },
    row("start-up-ipi", LOOP, |frame| {
        frame.vmx.vmcs.write(GUEST_ACTIVITY, WAIT_FOR_SIPI);
        frame.board.ask(Signal::StartUp);
    }),
    row("init-signal", LOOP, |frame| frame.board.ask(Signal::Init)),
];

/// Activity state (SDM 3C 25.4.2).
const WAIT_FOR_SIPI: u32 = 3;

/// EPT pointer bit 6.
const ACCESSED_AND_DIRTY: u64 = 1 << 6;

fn address(page: &Table) -> u64 {
    core::ptr::from_ref(page) as u64
}

impl Vmx {
    /// What this processor allows, as far as scenarios ask: the allowed-1 settings, and features.
    pub fn allowed(&self, has_smx: bool, has_other_cpu: bool) -> Controls {
        let capabilities = &self.capabilities;
        let smx = has_smx && capabilities.cr4_fixed1 & CR4_SMXE != 0;
        Controls {
            pin: capabilities.pin.may,
            proc: capabilities.proc.may,
            proc2: capabilities.proc2.may,
            features: u16::from(smx) << Feature::Smx as u8 | u16::from(has_other_cpu) << Feature::OtherCpu as u8,
            ..Controls::default()
        }
    }

    /// What the controls that are in the VMCS now can produce.
    pub fn controls_now(&self) -> Controls {
        let read = |field| self.vmcs.read(field);
        let (pin, proc, proc2) = (read(PIN_CONTROLS), read(PROC_CONTROLS), read(PROC2_CONTROLS));
        let features = self.vmcs.read(GUEST_CR4) & CR4_SMXE != 0;
        Controls { pin, proc, proc2, features: u16::from(features) << Feature::Smx as u8, ..Controls::default() }
    }

    /// Stages a scenario: what is left is to enter the guest with these registers.
    #[inline(never)]
    pub fn stage(
        &mut self,
        scenario: &Scenario,
        memory: &mut GuestMemory,
        pages: &mut Pages,
        board: &Board,
    ) -> GuestRegisters {
        let Some(row) = TABLE.iter().find(|row| row.name == scenario.name) else {
            unreachable!("scenario {} has no row", scenario.name)
        };
        let mut frame = Frame { vmx: self, memory, pages, board, registers: GuestRegisters::default() };
        frame.reset();
        let loaded =
            frame.memory.write(CODE, row.code).and_then(|()| frame.memory.write(CODE + row.code.len() as u64, LOOP));
        debug_assert!(loaded.is_ok(), "the boot area is part of the guest's memory");
        (row.set_up)(&mut frame);
        frame.registers
    }

    /// Undoes what the next frame would not overwrite.
    #[inline(never)]
    pub fn strike(&mut self, scenario: &Scenario, memory: &mut GuestMemory, pages: &mut Pages, board: &Board) {
        if let Some(row) = TABLE.iter().find(|row| row.name == scenario.name) {
            (row.clean_up)(&mut Frame { vmx: self, memory, pages, board, registers: GuestRegisters::default() });
        }
    }
}

impl Frame<'_> {
    /// The state that every row starts from.
    #[inline(never)]
    fn reset(&mut self) {
        let _ = self.vmx.set_profile(Profile::Minimal);
        guest_state::write(&mut self.vmx.vmcs, CODE, PAGE_TABLES_GPA);
        self.vmx.set(State::Cr0, guest_state::CR0);
        self.vmx.set(State::Cr4, guest_state::CR4);
        self.vmx.vmcs.write(GUEST_RSP, STACK_END);
        self.vmx.vmcs.write(ENTRY_INTERRUPTION_INFORMATION, 0);
        if self.vmx.capabilities.pin.may >> 6 & 1 != 0 {
            self.pin(1 << 6);
            self.vmx.vmcs.write(PREEMPTION_TIMER, BOUND_TICKS >> self.vmx.capabilities.preemption_timer_shift());
        }
        let _ = self.memory.zero(DATA, TSS + 0x1000 - DATA);
        self.registers.rdi = FRESH;
        self.vmx.flush_translations(None);
    }

    #[inline(never)]
    fn pin(&mut self, bits: u32) {
        let pin = self.vmx.vmcs.read(PIN_CONTROLS);
        self.vmx.vmcs.write(PIN_CONTROLS, pin | bits);
    }

    #[inline(never)]
    fn proc(&mut self, set: u32, clear: u32) {
        let proc = self.vmx.vmcs.read(PROC_CONTROLS);
        self.vmx.vmcs.write(PROC_CONTROLS, (proc | set) & !clear);
    }

    #[inline(never)]
    fn proc2(&mut self, bits: u32) {
        let proc2 = self.vmx.vmcs.read(PROC2_CONTROLS);
        self.vmx.vmcs.write(PROC2_CONTROLS, proc2 | bits);
    }

    /// TPR shadow instead of CR8 exits, with these doublewords in the virtual-APIC page.
    #[inline(never)]
    fn virtual_apic(&mut self, registers: &[(usize, u64)]) {
        self.pages.virtual_apic.0.fill(0);
        for &(offset, value) in registers {
            self.pages.virtual_apic.0[offset / 8] |= value << (8 * (offset % 8));
        }
        self.vmx.vmcs.write(VIRTUAL_APIC_ADDRESS, address(self.pages.virtual_apic));
        self.vmx.vmcs.write(TPR_THRESHOLD, 0);
        self.proc(1 << 21, 1 << 19 | 1 << 20);
    }

    /// The APIC-access page with these secondary controls; RDI points at a register in it.
    #[inline(never)]
    fn apic_access(&mut self, offset: u64, proc2: u32) {
        self.proc2(proc2);
        self.vmx.vmcs.write(APIC_ACCESS_ADDRESS, self.vmx.memory_hpa + APIC_PAGE);
        if proc2 >> 9 & 1 != 0 {
            self.vmx.vmcs.write(EOI_EXIT_BITMAP_0, 0);
            self.vmx.vmcs.write(GUEST_INTERRUPT_STATUS, 0);
        }
        self.registers.rdi = APIC_PAGE + offset;
    }

    #[inline(never)]
    fn fresh_entry(&mut self, entry: u64) {
        self.vmx.ept.set_fresh_entry(FRESH, entry);
        self.ept_pointer(0);
    }

    #[inline(never)]
    fn ept_pointer(&mut self, extra: u64) {
        let pointer = self.vmx.ept.pointer() | extra;
        self.vmx.vmcs.write(EPT_POINTER, pointer);
        self.vmx.vmcs.invalidate_ept(pointer);
    }

    /// IA32_XSS and the XSS-exiting bitmap with one component in common, and EDX:EAX asking for it.
    #[inline(never)]
    fn supervisor_state(&mut self) {
        self.proc2(1 << 20);
        self.vmx.vmcs.write(XSS_EXITING_BITMAP, XSS_COMPONENT);
        self.vmx.set(State::Cr4, guest_state::CR4 | CR4_OSXSAVE);
        hardware::write_xss(XSS_COMPONENT);
        (self.registers.rax, self.registers.rdi) = (XSS_COMPONENT, DATA);
    }

    /// 32-bit protected mode without paging, with a task-state segment at selector 0x28.
    #[inline(never)]
    fn protected_mode(&mut self) {
        let _ = self.memory.write_u64(DATA + 0x28, 0x0000_8900_0000_0067 | TSS << 16);
        let vmcs = &mut self.vmx.vmcs;
        vmcs.write(GUEST_GDTR_BASE, DATA);
        vmcs.write(GUEST_GDTR_LIMIT, 0x2f);
        vmcs.write(GUEST_CR0, 0x21);
        vmcs.write(f::GUEST_CR3, 0);
        vmcs.write(GUEST_CR4, 0x2000);
        vmcs.write(GUEST_IA32_EFER, 0);
        vmcs.write(GUEST_CS_RIGHTS, 0xc09b);
        let entry = vmcs.read(ENTRY_CONTROLS);
        vmcs.write(ENTRY_CONTROLS, entry & !(1 << 9));
        self.proc2(1 << 7);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_its_row_and_every_row_its_scenario() {
        let rows: Vec<_> = TABLE.iter().map(|row| row.name).collect();
        let names: Vec<_> = tollgate_abi::scenario::TABLE.iter().map(|scenario| scenario.name).collect();
        assert_eq!(rows, names);
    }
}
