//! VT-x: one vCPU's VMCS as a [`Backend`](crate::exit::Backend).
//!
//! One file per topic of the SDM: [`capability`] (appendix A), [`controls`] (25.6 to 25.8), [`field`] (appendix B),
//! [`instructions`] (chapter 31), [`qualification`] (28.2), [`ept`] (29.3), [`bitmaps`] (25.6), [`guest_state`] and
//! [`host_state`] (25.4, 25.5), [`entry`] (the assembly stub), [`entry_checks`] (27.3). For the common code, `facts`,
//! `state`, `interrupts` and `timers` read and write the VMCS; [`scenario`] stages guests of another kind.

pub mod bitmaps;
pub mod capability;
pub mod controls;
pub mod entry;
pub mod entry_checks;
pub mod ept;
mod facts;
pub mod field;
pub mod guest_state;
pub mod host_state;
pub mod instructions;
mod interrupts;
pub mod qualification;
pub mod scenario;
pub mod scenario_frame;
mod scenario_hardware;
#[cfg(test)]
pub(crate) mod scripted;
mod state;
mod timers;
pub mod wanted;
mod watch;

use tollgate_abi::exit_reason::Controls;
use tollgate_abi::guest_image::{Entry, Mode};
use tollgate_abi::profile::{Profile, TPR_SHADOW};
use tollgate_abi::x86::control::{CR0_PE, CR0_PG};
use x86_64::registers::control::Cr4;

use self::capability::Capabilities;
use self::controls::ControlFields;
use self::ept::Ept;
use self::field as f;
use self::instructions::CurrentVmcs;
use self::watch::Watch;
use crate::exit::{GuestRegisters, GuestState, State, VirtualizedApic};
use crate::host::local_apic::LocalApic;
use crate::host::own_apic::OwnApic;
use crate::host::vectors::KICK_VECTOR;
use crate::nested::Table;

/// CR0.PE and PG.
const CR0_PAGING: u64 = CR0_PG | CR0_PE;

/// The state of one vCPU besides its VMCS.
#[derive(Debug)]
pub struct Vmx {
    vmcs: CurrentVmcs,
    capabilities: Capabilities,
    ept: Ept,
    /// Host-physical address of guest-physical 0.
    memory_hpa: u64,
    msr_bitmaps: &'static mut Table,
    /// The guest's VPID; 0 if the processor has none: then every transition flushes.
    vpid: u16,
    /// The time of the next look at the guest.
    watch: Watch,
    has_xsave: bool,
    physical_bits: u32,
    /// Copies of VMCS fields, so that these need not be read back.
    cr0_mask: u64,
    cr4_mask: u64,
    launched: bool,
    /// CR0 bits that VMX operation demands; with an unrestricted guest, PE and PG are not among them.
    cr0_forced: u64,
    unrestricted: bool,
    /// The guest is in IA-32e mode.
    long_mode: bool,
    /// CR4 bits that are set whatever the guest wrote: [`controls::cr4_forced`].
    cr4_forced: u64,
    virtual_nmis: bool,
    /// Interrupt-window exiting is set.
    window: bool,
    /// NMI-window exiting is set.
    nmi_window: bool,
    virtualized_apic: VirtualizedApic,
    /// The processor's own APIC.
    own_apic: OwnApic,
}

/// The parts from which [`Vmx::new`] makes a backend.
#[derive(Debug)]
#[expect(missing_docs, reason = "as in `Vmx`")]
pub struct Parts {
    pub vmcs: CurrentVmcs,
    pub capabilities: Capabilities,
    pub ept: Ept,
    pub memory_hpa: u64,
    pub msr_bitmaps: &'static mut Table,
    /// TSC ticks without an exit after which the guest is stopped; 0 for never.
    pub watchdog_ticks: u64,
    /// Whether the run is to end at a limit.
    pub limited: bool,
    pub has_xsave: bool,
    /// Width of a physical address.
    pub physical_bits: u32,
    pub local_apic: LocalApic,
    /// The number of the vCPU.
    pub vcpu: usize,
    /// The guest may be in real mode, and in protected mode without paging.
    pub unrestricted: bool,
}

/// Pages that the processor reads: host-physical addresses.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named after the fields")]
pub struct SharedPages {
    pub io_bitmap_a: u64,
    pub io_bitmap_b: u64,
    pub msr_bitmaps: u64,
    pub virtual_apic: u64,
}

impl Vmx {
    /// Fills the VMCS: controls, host state, and the guest's state at its entry point.
    pub fn new(
        parts: Parts,
        pages: SharedPages,
        host: &host_state::HostState,
        entry: &Entry,
    ) -> (Self, GuestRegisters) {
        let Parts { vmcs, capabilities, ept, memory_hpa, msr_bitmaps, watchdog_ticks, limited, has_xsave, .. } = parts;
        let Parts { physical_bits, local_apic, vcpu, unrestricted, .. } = parts;
        let watch = Watch::new(&capabilities, watchdog_ticks, limited);
        let vpid = u16::from(capabilities.has_vpid());
        let mut vmx = Self {
            vmcs,
            capabilities,
            ept,
            memory_hpa,
            msr_bitmaps,
            vpid,
            watch,
            has_xsave,
            physical_bits,
            // Until the first profile is set, the shadows have every bit that the guest reads.
            cr0_mask: u64::MAX,
            cr4_mask: u64::MAX,
            launched: false,
            cr0_forced: capabilities.cr0_fixed0 & if unrestricted { !CR0_PAGING } else { u64::MAX },
            unrestricted,
            long_mode: entry.mode == Mode::Long,
            cr4_forced: controls::cr4_forced(&capabilities, Cr4::read_raw()),
            virtual_nmis: capabilities.has_virtual_nmis(),
            window: false,
            nmi_window: false,
            virtualized_apic: VirtualizedApic::default(),
            own_apic: OwnApic::new(local_apic, KICK_VECTOR + vcpu as u8),
        };
        vmx.write_pages(pages);
        vmx.write_translation();
        let vmcs = &mut vmx.vmcs;
        write_unused(vmcs);
        host.write(vmcs);
        let (cr0, cr4) = match entry.mode {
            Mode::Long => {
                guest_state::write(vmcs, entry.rip, entry.cr3);
                (guest_state::CR0, guest_state::CR4)
            }
            Mode::Protected => {
                guest_state::write_protected_mode(vmcs, entry.rip);
                (guest_state::PROTECTED_MODE_CR0, 0)
            }
        };
        vmcs.write(f::GUEST_RSP, entry.rsp);
        vmx.set(State::Cr0, cr0);
        vmx.set(State::Cr4, cr4);
        let _ = vmx.set_profile(Profile::Minimal);
        (vmx, GuestRegisters::at(entry))
    }

    /// The addresses of the bitmaps, and of the virtual-APIC page where the processor has a TPR shadow.
    fn write_pages(&mut self, pages: SharedPages) {
        let vmcs = &mut self.vmcs;
        vmcs.write(f::IO_BITMAP_A, pages.io_bitmap_a);
        vmcs.write(f::IO_BITMAP_B, pages.io_bitmap_b);
        vmcs.write(f::MSR_BITMAPS, pages.msr_bitmaps);
        if self.capabilities.proc.may & TPR_SHADOW != 0 {
            vmcs.write(f::VIRTUAL_APIC_ADDRESS, pages.virtual_apic);
            vmcs.write(f::TPR_THRESHOLD, 0);
        }
    }

    /// The guest's page tables and its VPID, of which the processor forgets earlier translations.
    fn write_translation(&mut self) {
        self.vmcs.write(f::EPT_POINTER, self.ept.pointer());
        if self.vpid != 0 {
            self.vmcs.write(f::VPID, self.vpid);
            self.vmcs.invalidate_vpid(self.vpid);
        }
        self.vmcs.invalidate_ept(self.ept.pointer());
    }

    /// The control fields of a profile on this processor.
    pub fn control_fields(&self, profile: Profile) -> ControlFields {
        ControlFields::new(&self.capabilities, profile, self.watch.has_timer, self.unrestricted)
    }

    /// The exits that a profile's controls can produce.
    pub fn controls(&self, profile: Profile) -> Controls {
        self.control_fields(profile).in_force(&self.capabilities, self.has_xsave)
    }
}

/// Zeroes the controls that are not in use when a guest begins: a new VMCS may hold anything.
fn write_unused(vmcs: &mut CurrentVmcs) {
    for unused in [
        f::CR3_TARGET_COUNT,
        f::EXIT_MSR_STORE_COUNT,
        f::EXIT_MSR_LOAD_COUNT,
        f::ENTRY_MSR_LOAD_COUNT,
        f::PAGE_FAULT_ERROR_CODE_MASK,
        f::PAGE_FAULT_ERROR_CODE_MATCH,
    ] {
        vmcs.write(unused, 0);
    }
    vmcs.write(f::ENTRY_INTERRUPTION_INFORMATION, 0);
    vmcs.write(f::TSC_OFFSET, 0);
}
