//! The host-state area (SDM 3C 25.5), which every VM exit loads. RSP and RIP are the entry stub's.

use x86_64::instructions::tables::{sgdt, sidt};
use x86_64::registers::control::{Cr0, Cr3, Cr4};
use x86_64::registers::model_specific::{Efer, FsBase, GsBase};
use x86_64::registers::segmentation::{CS, SS, Segment};

use super::field::*;
use super::instructions::CurrentVmcs;

/// The values for the host-state area that can't be read from the processor.
#[derive(Clone, Copy, Debug)]
pub struct HostState {
    /// Selector of the monitor's TSS; not null.
    pub tss_selector: u16,
    /// The address of that TSS.
    pub tss_base: u64,
}

impl HostState {
    /// Writes the area from the processor's present state.
    pub fn write(&self, vmcs: &mut CurrentVmcs) {
        vmcs.write(HOST_CR0, Cr0::read_raw());
        let (frame, flags) = Cr3::read_raw();
        vmcs.write(HOST_CR3, frame.start_address().as_u64() | u64::from(flags));
        vmcs.write(HOST_CR4, Cr4::read_raw());
        vmcs.write(HOST_CS_SELECTOR, CS::get_reg().0);
        vmcs.write(HOST_SS_SELECTOR, SS::get_reg().0);
        for selector in [HOST_DS_SELECTOR, HOST_ES_SELECTOR, HOST_FS_SELECTOR, HOST_GS_SELECTOR] {
            vmcs.write(selector, 0);
        }
        vmcs.write(HOST_TR_SELECTOR, self.tss_selector);
        vmcs.write(HOST_TR_BASE, self.tss_base);
        vmcs.write(HOST_FS_BASE, FsBase::read().as_u64());
        vmcs.write(HOST_GS_BASE, GsBase::read().as_u64());
        vmcs.write(HOST_GDTR_BASE, sgdt().base.as_u64());
        vmcs.write(HOST_IDTR_BASE, sidt().base.as_u64());
        vmcs.write(HOST_IA32_EFER, Efer::read_raw());
        vmcs.write(HOST_IA32_SYSENTER_CS, 0);
        vmcs.write(HOST_IA32_SYSENTER_ESP, 0);
        vmcs.write(HOST_IA32_SYSENTER_EIP, 0);
    }
}
