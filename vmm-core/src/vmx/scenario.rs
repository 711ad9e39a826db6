//! Scenarios: a few guest instructions in a state of their own, for exits that the unikernel can't provoke
//! ([`tollgate_abi::scenario`] has the table).
//!
//! Each starts from the same frame: 64-bit mode as at the guest's entry point, the minimal profile, the preemption timer as a
//! bound. A row adds the state that its exit needs, and undoes the changes that the next frame would not overwrite.

use tollgate_abi::exit_reason::{Controls, Feature};
use tollgate_abi::scenario::Scenario;
use tollgate_abi::x86::control::{CR4_CET, CR4_SMXE, RFLAGS_FIXED, RFLAGS_NT, RFLAGS_OF};
use tollgate_abi::x86::msr::IA32_FS_BASE;

use super::Vmx;
use super::field::*;
use super::scenario_frame::{CODE, DATA, Frame, Pages, USER_MSR_WRITES, address};
use super::scenario_hardware as hardware;
use super::wanted::TERTIARY;
use crate::board::{Board, Signal};
use crate::exit::{GuestRegisters, vector};
use crate::memory::GuestMemory;
use tollgate_abi::profile::{APIC_REGISTERS, INTERRUPT_DELIVERY};
use tollgate_abi::x86::controls::{bits, pin, proc, proc2};

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
const UD2: &[u8] = &[0x0f, 0x0b];
/// `mov eax, [rdi]`; `mov [rdi], eax`; the addresses are in RDI.
const READ_RDI: &[u8] = &[0x8b, 0x07];
const WRITE_RDI: &[u8] = &[0x89, 0x07];

/// Accesses to the APIC-access page are virtualized.
const ACCESSES: u32 = bits(&[proc2::VIRTUALIZE_APIC_ACCESSES]);
/// IA32_S_CET: branches by register or memory have to reach an ENDBR64 (SDM 1 17.3).
const ENDBRANCH_ENABLED: u64 = 1 << 2;

/// The rows, by the names of [`tollgate_abi::scenario::TABLE`].
const TABLE: &[Row] = &[
    row("triple-fault-exit", UD2, |_| {}),
    row("nmi-window", LOOP, |frame| {
        frame.pin(bits(&[pin::VIRTUAL_NMIS]));
        frame.proc(bits(&[proc::NMI_WINDOW_EXITING]), 0);
    }),
    // ljmp $0x28, $0
    row("task-switch", &[0xea, 0, 0, 0, 0, 0x28, 0], |frame| frame.protected_mode()),
    row("getsec", &[0x0f, 0x37], |frame| frame.cr4(CR4_SMXE)),
    row("invalid-guest-state", LOOP, |frame| frame.vmx.vmcs.write(GUEST_RFLAGS, 0)),
    Row {
        name: "refused-msr-load",
        code: LOOP,
        set_up: |frame| {
            // IA32_FS_BASE must not be in the list (SDM 3C 27.4).
            frame.pages.msr_load.0[..2].copy_from_slice(&[IA32_FS_BASE.into(), 0]);
            frame.vmx.vmcs.write(ENTRY_MSR_LOAD_ADDRESS, address(frame.pages.msr_load));
            frame.vmx.vmcs.write(ENTRY_MSR_LOAD_COUNT, 1);
        },
        clean_up: |frame| frame.vmx.vmcs.write(ENTRY_MSR_LOAD_COUNT, 0),
    },
    // Type 7, vector 0.
    row("monitor-trap-flag", LOOP, |frame| frame.vmx.vmcs.write(ENTRY_INTERRUPTION_INFORMATION, 0x8000_0700)),
    // xor eax, eax; mov cr8, rax
    row("tpr-threshold", &[0x31, 0xc0, 0x44, 0x0f, 0x22, 0xc0], |frame| {
        // The entry check wants a threshold of at most the priority class in the page.
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
        frame.apic_access(0xb0, ACCESSES | APIC_REGISTERS | INTERRUPT_DELIVERY);
        frame.vmx.vmcs.write(EOI_EXIT_BITMAP_0, 2);
        frame.vmx.vmcs.write(GUEST_INTERRUPT_STATUS, 0x0100);
    }),
    row("apic-write", WRITE_RDI, |frame| {
        frame.virtual_apic(&[]);
        frame.apic_access(0xf0, ACCESSES | APIC_REGISTERS);
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
        frame.proc2(bits(&[proc2::ENABLE_VM_FUNCTIONS]));
        frame.vmx.vmcs.write(VM_FUNCTION_CONTROLS, 1);
        frame.vmx.vmcs.write(EPTP_LIST_ADDRESS, address(frame.pages.eptp_list));
    }),
    Row {
        name: "page-modification-log",
        code: WRITE_RDI,
        set_up: |frame| {
            frame.proc2(bits(&[proc2::ENABLE_PML]));
            frame.vmx.vmcs.write(PML_ADDRESS, address(frame.pages.pml));
            // One beyond the last entry to be filled: the log counts as full before it has an entry.
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
        clean_up: |frame| {
            hardware::change_xss(frame.pages.kept_msr);
        },
    },
    // xrstors [rdi]
    Row {
        name: "xrstors",
        code: &[0x0f, 0xc7, 0x1f],
        set_up: |frame| frame.supervisor_state(),
        clean_up: |frame| {
            hardware::change_xss(frame.pages.kept_msr);
        },
    },
    Row {
        name: "sub-page-permission",
        code: WRITE_RDI,
        set_up: |frame| {
            frame.proc2(bits(&[proc2::SUB_PAGE_PERMISSIONS]));
            frame.vmx.vmcs.write(SPP_TABLE_POINTER, address(frame.pages.spp));
            let page = frame.vmx.memory_hpa + frame.fresh_gpa();
            // Readable, executable, write-back, with sub-page write permissions.
            frame.fresh_entry(page | 0b101 | 6 << 3 | 1 << 61);
        },
        clean_up: |frame| frame.fresh_entry(0),
    },
    // umwait eax
    row("umwait", &[0xf2, 0x0f, 0xae, 0xf0], |frame| frame.user_wait()),
    // tpause eax
    row("tpause", &[0x66, 0x0f, 0xae, 0xf0], |frame| frame.user_wait()),
    row("rdmsrlist", &[0xf2, 0x0f, 0x01, 0xc6], |frame| frame.msr_list()),
    row("wrmsrlist", &[0xf3, 0x0f, 0x01, 0xc6], |frame| frame.msr_list()),
    row("wrmsrns", &[0x0f, 0x01, 0xc6], |_| {}),
    // urdmsr rax, rax; the MSR is number 0.
    Row {
        name: "urdmsr",
        code: &[0xf2, 0x0f, 0x38, 0xf8, 0xc0],
        set_up: |frame| frame.user_msr(0),
        clean_up: |_| hardware::write_user_msr_ctl(0),
    },
    // uwrmsr rax, rax
    Row {
        name: "uwrmsr",
        code: &[0xf3, 0x0f, 0x38, 0xf8, 0xc0],
        set_up: |frame| frame.user_msr(USER_MSR_WRITES),
        clean_up: |_| hardware::write_user_msr_ctl(0),
    },
    // rdmsr rax, 0
    row("rdmsr-immediate", &[0xc4, 0xe7, 0x7b, 0xf6, 0xc0, 0, 0, 0, 0], |_| {}),
    // wrmsrns 0, rax
    row("wrmsrns-immediate", &[0xc4, 0xe7, 0x7a, 0xf6, 0xc0, 0, 0, 0, 0], |_| {}),
    // into
    row("overflow", &[0xce], |frame| {
        frame.exception(vector::OF);
        frame.compatibility_mode();
        frame.vmx.vmcs.write(GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_OF);
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
        frame.vmx.vmcs.write(GUEST_RFLAGS, RFLAGS_FIXED | RFLAGS_NT);
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
    row("virtualization-exception", READ_RDI, |frame| {
        frame.exception(vector::VE);
        frame.virtualization_exceptions();
    }),
    // jmp rax, to the next instruction.
    Row {
        name: "control-protection",
        code: &[0xff, 0xe0],
        set_up: |frame| {
            frame.exception(vector::CP);
            frame.cr4(CR4_CET);
            frame.pages.kept_msr = hardware::change_s_cet(ENDBRANCH_ENABLED);
            frame.registers.rax = CODE + 2;
        },
        clean_up: |frame| {
            hardware::change_s_cet(frame.pages.kept_msr);
        },
    },
    Row {
        name: "non-maskable-interrupt",
        code: LOOP,
        set_up: |frame| frame.ask(Signal::Nmi),
        clean_up: |_| hardware::unblock_nmis(),
    },
    Row {
        name: "start-up-ipi",
        code: LOOP,
        set_up: |frame| {
            frame.vmx.vmcs.write(GUEST_ACTIVITY, WAIT_FOR_SIPI);
            frame.ask(Signal::StartUp);
        },
        clean_up: |frame| {
            frame.board.ask_nothing();
        },
    },
    row("init-signal", LOOP, |frame| frame.ask(Signal::Init)),
];

/// Features that scenarios ask for, with the bits of CR4 that the guest has to be allowed to set.
const FEATURES: [(Feature, u64); 7] = [
    (Feature::Smx, CR4_SMXE),
    (Feature::Cet, CR4_CET),
    (Feature::OtherCpu, 0),
    (Feature::SupervisorState, 0),
    (Feature::Wrmsrns, 0),
    (Feature::MsrImmediate, 0),
    (Feature::UserMsr, 0),
];

/// Activity state (SDM 3C 25.4.2).
const WAIT_FOR_SIPI: u32 = 3;

/// EPT pointer bit 6.
const ACCESSED_AND_DIRTY: u64 = 1 << 6;

impl Vmx {
    /// The controls that this processor allows, as far as scenarios need to know: the allowed-1 settings, and the features that
    /// it `has`.
    pub fn allowed(&self, has: impl Fn(Feature) -> bool) -> Controls {
        let capabilities = &self.capabilities;
        let mut features = 0;
        for (feature, cr4) in FEATURES {
            features |= u32::from(has(feature) && capabilities.cr4_fixed1 & cr4 == cr4) << feature as u8;
        }
        features |= u32::from(capabilities.has_wait_for_sipi()) << Feature::WaitForSipi as u8;
        // Scenarios of both extensions name these features for emulations of the other extension, which lack them.
        features |= 1 << Feature::WholeSvm as u8 | 1 << Feature::InitForgotten as u8;
        let (pin, proc, proc2) = (capabilities.pin.may, capabilities.proc.may, capabilities.proc2.may);
        Controls { pin, proc, proc2, proc3: capabilities.proc3, features, ..Controls::default() }
    }

    /// The exits that the controls in the VMCS now can produce.
    pub fn controls_now(&self) -> Controls {
        let read = |field| self.vmcs.read(field);
        let (pin, proc, proc2) = (read(PIN_CONTROLS), read(PROC_CONTROLS), read(PROC2_CONTROLS));
        let proc3 = if proc & TERTIARY != 0 { self.vmcs.read(PROC3_CONTROLS) } else { 0 };
        Controls { pin, proc, proc2, proc3, msr_reads_exit: true, msr_writes_exit: true, ..Controls::default() }
    }

    /// Stages a scenario: afterwards it only remains to enter the guest with these registers.
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

    /// Undoes the changes that the next frame would not overwrite.
    #[inline(never)]
    pub fn strike(&mut self, scenario: &Scenario, memory: &mut GuestMemory, pages: &mut Pages, board: &Board) {
        if let Some(row) = TABLE.iter().find(|row| row.name == scenario.name) {
            (row.clean_up)(&mut Frame { vmx: self, memory, pages, board, registers: GuestRegisters::default() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_abi::virtualization::Extension;

    #[test]
    fn every_scenario_has_its_row_and_every_row_its_scenario() {
        let rows: Vec<_> = TABLE.iter().map(|row| row.name).collect();
        let scenarios = tollgate_abi::scenario::TABLE.iter().filter(|scenario| scenario.is_under(Extension::VtX));
        assert_eq!(rows, scenarios.map(|scenario| scenario.name).collect::<Vec<_>>());
    }
}
