//! Scenarios that only VT-x has, or stages in a way of its own ([`crate::staging`] has the others).

use tollgate_abi::exit_reason::{Controls, Feature};
use tollgate_abi::profile::{APIC_REGISTERS, INTERRUPT_DELIVERY, Profile};
use tollgate_abi::x86::control::{CR0_NE, CR0_PE, CR4_CET, CR4_SMXE};
use tollgate_abi::x86::controls::{bits, entry, pin, proc, proc2};
use tollgate_abi::x86::msr::IA32_FS_BASE;
use tollgate_abi::x86::segment::SELECTOR_RPL;

use super::field::*;
use super::scenario_frame::{Pages, USER_MSR_WRITES, address};
use super::scenario_hardware as hardware;
use super::wanted::TERTIARY;
use super::{Vmx, guest_state};
use crate::board::Signal;
use crate::exit::{GuestState, State, vector};
use crate::staging::{CODE, DATA, LOOP, READ_RDI, Row, Staging, UD2, row};

/// `mov [rdi], eax`.
const WRITE_RDI: &[u8] = &[0x89, 0x07];

/// Accesses to the APIC-access page are virtualized.
const ACCESSES: u32 = bits(&[proc2::VIRTUALIZE_APIC_ACCESSES]);
/// IA32_S_CET: branches by register or memory have to reach an ENDBR64 (SDM 1 17.3).
const ENDBRANCH_ENABLED: u64 = 1 << 2;

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
}

impl Staging for Vmx {
    type Pages = Pages;

    const ROWS: &'static [Row<Self>] = &[
        row("triple-fault-exit", UD2, |_| {}),
        row("nmi-window", LOOP, |frame| {
            frame.backend.pin(bits(&[pin::VIRTUAL_NMIS]));
            frame.backend.proc(bits(&[proc::NMI_WINDOW_EXITING]), 0);
        }),
        row("getsec", &[0x0f, 0x37], |frame| frame.backend.cr4(CR4_SMXE)),
        row("invalid-guest-state", LOOP, |frame| frame.backend.vmcs.write(GUEST_RFLAGS, 0)),
        Row {
            name: "refused-msr-load",
            code: LOOP,
            set_up: |frame| {
                // IA32_FS_BASE must not be in the list (SDM 3C 27.4).
                frame.pages.msr_load.0[..2].copy_from_slice(&[IA32_FS_BASE.into(), 0]);
                frame.backend.vmcs.write(ENTRY_MSR_LOAD_ADDRESS, address(frame.pages.msr_load));
                frame.backend.vmcs.write(ENTRY_MSR_LOAD_COUNT, 1);
            },
            clean_up: |frame| frame.backend.vmcs.write(ENTRY_MSR_LOAD_COUNT, 0),
        },
        // Type 7, vector 0.
        row("monitor-trap-flag", LOOP, |frame| frame.backend.vmcs.write(ENTRY_INTERRUPTION_INFORMATION, 0x8000_0700)),
        // xor eax, eax; mov cr8, rax
        row("tpr-threshold", &[0x31, 0xc0, 0x44, 0x0f, 0x22, 0xc0], |frame| {
            // The entry check wants a threshold of at most the priority class in the page.
            frame.virtual_apic(&[(0x80, 0x50)]);
            frame.backend.vmcs.write(TPR_THRESHOLD, 2);
        }),
        row("apic-access", READ_RDI, |frame| {
            frame.virtual_apic(&[]);
            frame.apic_access(0x300, 1);
        }),
        row("virtualized-eoi", WRITE_RDI, |frame| {
            // Vector 1 in service, and in the EOI-exit bitmap.
            frame.virtual_apic(&[(0x100, 2)]);
            frame.apic_access(0xb0, ACCESSES | APIC_REGISTERS | INTERRUPT_DELIVERY);
            frame.backend.vmcs.write(EOI_EXIT_BITMAP_0, 2);
            frame.backend.vmcs.write(GUEST_INTERRUPT_STATUS, 0x0100);
        }),
        row("apic-write", WRITE_RDI, |frame| {
            frame.virtual_apic(&[]);
            frame.apic_access(0xf0, ACCESSES | APIC_REGISTERS);
            frame.registers.rax = 0x1ff;
        }),
        Row {
            name: "ept-misconfiguration",
            code: READ_RDI,
            set_up: |frame| frame.backend.set_fresh_entry(0b010),
            clean_up: |frame| frame.backend.set_fresh_entry(0),
        },
        row("preemption-timer", LOOP, |_| {}),
        // mov eax, 5; vmfunc
        row("vm-function", &[0xb8, 5, 0, 0, 0, 0x0f, 0x01, 0xd4], |frame| {
            frame.backend.proc2(bits(&[proc2::ENABLE_VM_FUNCTIONS]));
            frame.backend.vmcs.write(VM_FUNCTION_CONTROLS, 1);
            frame.backend.vmcs.write(EPTP_LIST_ADDRESS, address(frame.pages.eptp_list));
        }),
        Row {
            name: "page-modification-log",
            code: WRITE_RDI,
            set_up: |frame| {
                frame.backend.proc2(bits(&[proc2::ENABLE_PML]));
                frame.backend.vmcs.write(PML_ADDRESS, address(frame.pages.pml));
                // One beyond the last entry to be filled: the log counts as full before it has an entry.
                frame.backend.vmcs.write(PML_INDEX, 0xffff);
                frame.backend.ept_pointer(ACCESSED_AND_DIRTY);
                frame.registers.rdi = DATA;
            },
            clean_up: |frame| frame.backend.ept_pointer(0),
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
                frame.backend.proc2(bits(&[proc2::SUB_PAGE_PERMISSIONS]));
                frame.backend.vmcs.write(SPP_TABLE_POINTER, address(frame.pages.spp));
                let page = frame.backend.memory_hpa + frame.backend.fresh_gpa();
                // Readable, executable, write-back, with sub-page write permissions.
                frame.backend.set_fresh_entry(page | 0b101 | 6 << 3 | 1 << 61);
            },
            clean_up: |frame| frame.backend.set_fresh_entry(0),
        },
        // umwait eax
        row("umwait", &[0xf2, 0x0f, 0xae, 0xf0], |frame| frame.backend.user_wait()),
        // tpause eax
        row("tpause", &[0x66, 0x0f, 0xae, 0xf0], |frame| frame.backend.user_wait()),
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
        row("virtualization-exception", READ_RDI, |frame| {
            frame.backend.intercept_exception(vector::VE);
            frame.virtualization_exceptions();
        }),
        // jmp rax, to the next instruction.
        Row {
            name: "control-protection",
            code: &[0xff, 0xe0],
            set_up: |frame| {
                frame.backend.intercept_exception(vector::CP);
                frame.backend.cr4(CR4_CET);
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
                frame.backend.vmcs.write(GUEST_ACTIVITY, WAIT_FOR_SIPI);
                frame.ask(Signal::StartUp);
            },
            clean_up: |frame| {
                frame.board.ask_nothing();
            },
        },
        row("init-signal", LOOP, |frame| frame.ask(Signal::Init)),
    ];

    fn controls_now(&self) -> Controls {
        let read = |field| self.vmcs.read(field);
        let (pin, proc, proc2) = (read(PIN_CONTROLS), read(PROC_CONTROLS), read(PROC2_CONTROLS));
        let proc3 = if proc & TERTIARY != 0 { self.vmcs.read(PROC3_CONTROLS) } else { 0 };
        Controls { pin, proc, proc2, proc3, msr_reads_exit: true, msr_writes_exit: true, ..Controls::default() }
    }

    #[inline(never)]
    fn reset(&mut self, rip: u64, rsp: u64, cr3: u64) {
        self.watch_no_more();
        let _ = self.set_profile(Profile::Minimal);
        guest_state::write(&mut self.vmcs, rip, cr3);
        self.set(State::Cr0, guest_state::CR0);
        self.set(State::Cr4, guest_state::CR4);
        self.vmcs.write(GUEST_RSP, rsp);
        self.vmcs.write(ENTRY_INTERRUPTION_INFORMATION, 0);
    }

    /// The preemption timer is the bound.
    fn bound(&mut self, ticks: u64) {
        if self.capabilities.pin.may >> pin::PREEMPTION_TIMER & 1 != 0 {
            self.pin(bits(&[pin::PREEMPTION_TIMER]));
            let count = ticks >> self.capabilities.preemption_timer_shift();
            self.vmcs.write(PREEMPTION_TIMER, u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    fn fresh_gpa(&self) -> u64 {
        self.ept.fresh_gpa()
    }

    #[inline(never)]
    fn set_fresh_entry(&mut self, entry: u64) {
        self.ept.set_fresh_entry(self.fresh_gpa(), entry);
        self.ept_pointer(0);
    }

    #[inline(never)]
    fn intercept_exception(&mut self, vector: u8) {
        let bitmap = self.vmcs.read(EXCEPTION_BITMAP);
        self.vmcs.write(EXCEPTION_BITMAP, bitmap | 1 << vector);
    }

    fn set_code_rights(&mut self, rights: u64) {
        self.vmcs.write(GUEST_CS_RIGHTS, rights as u32);
    }

    fn enter_ring_3(&mut self, code_rights: u64, stack_rights: u64) {
        let vmcs = &mut self.vmcs;
        for (selector, rights, value) in
            [(GUEST_CS_SELECTOR, GUEST_CS_RIGHTS, code_rights), (GUEST_SS_SELECTOR, GUEST_SS_RIGHTS, stack_rights)]
        {
            vmcs.write(selector, vmcs.read(selector) | SELECTOR_RPL);
            vmcs.write(rights, value as u32);
        }
    }

    fn go_unpaged(&mut self) {
        let vmcs = &mut self.vmcs;
        vmcs.write(GUEST_CR0, CR0_PE | CR0_NE);
        vmcs.write(GUEST_CR4, self.cr4_forced);
        vmcs.write(GUEST_IA32_EFER, 0);
        let entry = vmcs.read(ENTRY_CONTROLS);
        vmcs.write(ENTRY_CONTROLS, entry & !bits(&[entry::IA_32E_MODE_GUEST]));
        self.proc2(bits(&[proc2::UNRESTRICTED_GUEST]));
    }

    /// The bound and the signals end with the exit.
    fn settle(&mut self) {}
}
