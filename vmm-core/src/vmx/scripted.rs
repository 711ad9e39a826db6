//! A VMCS for host tests: each thread has one, as each processor has a current one. Accesses are counted.
#![expect(unsafe_code, reason = "an exit of a scripted VMCS executes no VMX instruction")]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use tollgate_abi::ExitReason;
use tollgate_abi::x86::control::CR4_VMXE;

use super::capability::tests::model;
use super::ept::Ept;
use super::field as f;
use super::instructions::CurrentVmcs;
use super::watch::Watch;
use super::{Vmx, guest_state};
use crate::exit::{GuestState, State, VirtualizedApic};
use crate::host::local_apic::LocalApic;
use crate::host::own_apic::OwnApic;
use crate::nested::Table;

std::thread_local! {
    static FIELDS: RefCell<HashMap<u32, u64>> = RefCell::default();
    static ACCESSES: Cell<Accesses> = const { Cell::new(Accesses { reads: 0, writes: 0 }) };
}

/// Instructions that an exit has executed on the VMCS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accesses {
    /// VMREADs.
    pub(crate) reads: usize,
    /// VMWRITEs.
    pub(crate) writes: usize,
}

/// The instructions since the last call.
pub(crate) fn take_accesses() -> Accesses {
    ACCESSES.take()
}

/// The stand-ins of `instructions::access`.
pub(super) mod access {
    use super::{ACCESSES, Accesses, FIELDS};
    use crate::host::registers::scripted;

    /// VMREAD.
    ///
    /// # Safety
    /// There is nothing to observe.
    pub(in crate::vmx) unsafe fn read(number: u32) -> u64 {
        ACCESSES.set(Accesses { reads: ACCESSES.get().reads + 1, ..ACCESSES.get() });
        FIELDS.with_borrow(|fields| fields.get(&number).copied().unwrap_or(0))
    }

    /// VMWRITE.
    ///
    /// # Safety
    /// There is nothing to observe.
    pub(in crate::vmx) unsafe fn write(number: u32, value: u64) {
        ACCESSES.set(Accesses { writes: ACCESSES.get().writes + 1, ..ACCESSES.get() });
        FIELDS.with_borrow_mut(|fields| fields.insert(number, value));
    }

    /// VMREAD and VMWRITE.
    ///
    /// # Safety
    /// There is nothing to observe.
    pub(in crate::vmx) unsafe fn add(number: u32, amount: u64) {
        // SAFETY: there is nothing to observe.
        unsafe { write(number, read(number).wrapping_add(amount)) }
    }

    /// INVVPID, which succeeds.
    ///
    /// # Safety
    /// There is nothing to observe.
    pub(in crate::vmx) unsafe fn invvpid(_: u64, _: &[u64; 2]) -> bool {
        assert!(scripted::counts(), "a test that may not touch the processor's registers begins with its own");
        false
    }
}

/// An exit as VT-x reports it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reported {
    pub(crate) reason: ExitReason,
    pub(crate) qualification: u64,
    /// The VM-exit interruption information.
    pub(crate) interruption: u32,
    /// The VM-exit instruction information.
    pub(crate) instruction: u32,
    pub(crate) instruction_bytes: u32,
    /// The guest-physical address.
    pub(crate) gpa: u64,
}

impl Reported {
    /// An exit for a reason, about which nothing else is said.
    pub(crate) fn of(reason: ExitReason) -> Self {
        Self { reason, qualification: 0, interruption: 0, instruction: 0, instruction_bytes: 0, gpa: 0 }
    }
}

/// A backend of Bochs' `tigerlake` at an exit, in 64-bit mode with the page tables at `cr3`.
pub(crate) fn vmx(reported: Reported, rip: u64, cr3: u64) -> Vmx {
    FIELDS.take();
    let capabilities = model("tigerlake");
    let mut ept = Ept::new(vec![Table::EMPTY; 8].leak(), 0x10_0000);
    ept.prepare(8 << 20, 0x8080_0000, 2 << 20).expect("there are tables enough");
    let mut vmx = Vmx {
        vmcs: CurrentVmcs::scripted(),
        capabilities,
        ept,
        memory_hpa: 0,
        msr_bitmaps: Box::leak(Box::new(Table::EMPTY)),
        vpid: 1,
        watch: Watch::new(&capabilities, 1_000_000, true),
        has_xsave: true,
        physical_bits: 40,
        cr0_mask: u64::MAX,
        cr4_mask: u64::MAX,
        launched: true,
        cr0_forced: capabilities.cr0_fixed0,
        unrestricted: false,
        long_mode: true,
        cr4_forced: CR4_VMXE,
        virtual_nmis: true,
        window: false,
        nmi_window: false,
        virtualized_apic: VirtualizedApic::default(),
        own_apic: OwnApic::new(LocalApic::scripted(), 0xe0),
    };
    guest_state::write(&mut vmx.vmcs, rip, cr3);
    vmx.set(State::Cr0, guest_state::CR0);
    vmx.set(State::Cr4, guest_state::CR4);
    let fields = [
        (f::EXIT_REASON.encoding(), reported.reason.0.into()),
        (f::EXIT_QUALIFICATION.encoding(), reported.qualification),
        (f::EXIT_INTERRUPTION_INFORMATION.encoding(), reported.interruption.into()),
        (f::EXIT_INSTRUCTION_INFORMATION.encoding(), reported.instruction.into()),
        (f::EXIT_INSTRUCTION_LENGTH.encoding(), reported.instruction_bytes.into()),
        (f::GUEST_PHYSICAL_ADDRESS.encoding(), reported.gpa),
        (f::GUEST_LINEAR_ADDRESS.encoding(), 0),
    ];
    FIELDS.with_borrow_mut(|all| all.extend(fields));
    take_accesses();
    vmx
}
