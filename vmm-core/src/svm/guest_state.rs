//! The guest's state at its entry point (APM 2 appendix B, table B-2), as [`tollgate_abi::machine::BootInfo`] promises it, and
//! its state in real mode after a start-up IPI.

use tollgate_abi::x86::control::{DR6_AT_RESET, DR7_FIXED, EFER_SVME, RFLAGS_FIXED, RIGHTS_UNUSABLE};
use tollgate_abi::x86::segment::*;

use super::vmcb::*;
use crate::vmx::guest_state::{
    CR0 as CR0_AT_ENTRY, CR4 as CR4_AT_ENTRY, EFER as EFER_AT_ENTRY, PROTECTED_MODE_CR0, REAL_MODE_CR0,
};

/// PAT as after reset (APM 2 7.8.1).
const PAT_AT_RESET: u64 = 0x0007_0406_0007_0406;

fn set(vmcb: &Vmcb, segment: Segment, selector: u16, rights: u64, limit: u32, base: u64) {
    vmcb.set_part(segment.selector(), selector.into());
    vmcb.set_part(segment.attributes(), attributes(rights));
    vmcb.set_part(segment.limit(), limit.into());
    vmcb.set(segment.base(), base);
}

/// Writes the state-save area. VMLOAD takes FS, GS, LDTR, TR and the MSRs from it.
pub fn write(vmcb: &Vmcb, rip: u64, cr3: u64) {
    vmcb.set(CR0, CR0_AT_ENTRY);
    vmcb.set(CR3, cr3);
    vmcb.set(CR4, CR4_AT_ENTRY);
    vmcb.set(EFER, EFER_AT_ENTRY | EFER_SVME);
    vmcb.set(RIP, rip);
    vmcb.set(RFLAGS, RFLAGS_FIXED);
    vmcb.set(DR6, DR6_AT_RESET);
    vmcb.set(DR7, DR7_FIXED);
    vmcb.set(G_PAT, PAT_AT_RESET);
    vmcb.set_part(CPL, 0);
    vmcb.set_part(INTERRUPT_SHADOW, 0);
    for zero in
        [RSP, CR2, EVENTINJ, STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP]
    {
        vmcb.set(zero, 0);
    }
    for segment in [ES, SS, DS, FS, GS] {
        set(vmcb, segment, DATA_SELECTOR, DATA, FLAT_LIMIT, 0);
    }
    set(vmcb, CS, CODE_SELECTOR, CODE_64, FLAT_LIMIT, 0);
    set(vmcb, LDTR, 0, RIGHTS_UNUSABLE, 0, 0);
    set(vmcb, TR, TSS_SELECTOR, BUSY_TSS, TSS_64_LIMIT, 0);
    set(vmcb, GDTR, 0, 0, 0, 0);
    set(vmcb, IDTR, 0, 0, 0, 0);
}

/// The state in protected mode without paging.
pub fn write_protected_mode(vmcb: &Vmcb, rip: u64) {
    write(vmcb, rip, 0);
    vmcb.set(CR0, PROTECTED_MODE_CR0);
    vmcb.set(CR4, 0);
    vmcb.set(EFER, EFER_SVME);
    set(vmcb, CS, CODE_SELECTOR, CODE_32, FLAT_LIMIT, 0);
}

/// The state after INIT and a start-up IPI: real mode at the page whose number is `vector` (APM 2 14.1.3, 15.27.8).
pub fn write_real_mode(vmcb: &Vmcb, vector: u8) {
    write(vmcb, 0, 0);
    vmcb.set(CR0, REAL_MODE_CR0);
    vmcb.set(CR4, 0);
    vmcb.set(EFER, EFER_SVME);
    for segment in [ES, SS, DS, FS, GS] {
        set(vmcb, segment, 0, REAL_MODE_DATA, REAL_MODE_LIMIT, 0);
    }
    set(vmcb, CS, u16::from(vector) << 8, REAL_MODE_CODE, REAL_MODE_LIMIT, u64::from(vector) << 12);
    set(vmcb, LDTR, 0, LDT, REAL_MODE_LIMIT, 0);
    set(vmcb, TR, 0, BUSY_TSS, REAL_MODE_LIMIT, 0);
    set(vmcb, GDTR, 0, 0, REAL_MODE_LIMIT, 0);
    set(vmcb, IDTR, 0, 0, REAL_MODE_LIMIT, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_up_ipi_names_the_page() {
        let vmcb = Vmcb::new();
        write_real_mode(&vmcb, 0x9a);
        assert_eq!((vmcb.part(CS.selector()), vmcb.get(CS.base()), vmcb.get(RIP)), (0x9a00, 0x9a000, 0));
        assert_eq!((vmcb.get(EFER), vmcb.get(CR0), vmcb.get(CR4)), (EFER_SVME, 0x6000_0010, 0));
    }
}
