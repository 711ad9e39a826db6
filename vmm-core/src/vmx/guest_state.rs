//! The guest's state at its entry point (SDM 3C 25.4): 64-bit mode or protected mode with flat segments, as
//! [`tollgate_abi::machine::BootInfo`] and [`tollgate_abi::guest_image::Mode`] promise.

use tollgate_abi::x86::control::*;
use tollgate_abi::x86::segment::*;

use super::field::*;
use super::instructions::CurrentVmcs;

/// CR0 at the entry point: paging and protected mode, with the other bits that firmware sets.
pub const CR0: u64 = CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_PE;
/// CR4 at the entry point: four-level paging.
pub const CR4: u64 = CR4_PAE;
/// EFER at the entry point: IA-32e mode, SYSCALL and execute-disable.
pub const EFER: u64 = EFER_NXE | EFER_LMA | EFER_LME | EFER_SCE;

/// CR0 at the entry point in protected mode.
pub const PROTECTED_MODE_CR0: u64 = CR0_ET | CR0_PE;
/// CR0 in real mode.
pub const REAL_MODE_CR0: u64 = CR0_CD | CR0_NW | CR0_ET;

/// Writes the guest-state area, except for CR0 and CR4, whose masks and shadows are the backend's.
pub fn write(vmcs: &mut CurrentVmcs, rip: u64, cr3: u64) {
    vmcs.write(GUEST_CR3, cr3);
    vmcs.write(GUEST_IA32_EFER, EFER);
    vmcs.write(GUEST_RIP, rip);
    vmcs.write(GUEST_RSP, 0);
    vmcs.write(GUEST_RFLAGS, RFLAGS_FIXED);
    vmcs.write(GUEST_DR7, DR7_FIXED);
    segments(vmcs);
    for base in
        [GUEST_GDTR_BASE, GUEST_IDTR_BASE, GUEST_IA32_SYSENTER_ESP, GUEST_IA32_SYSENTER_EIP, GUEST_PENDING_DEBUG]
    {
        vmcs.write(base, 0);
    }
    for zero in [GUEST_GDTR_LIMIT, GUEST_IDTR_LIMIT, GUEST_INTERRUPTIBILITY, GUEST_ACTIVITY, GUEST_IA32_SYSENTER_CS] {
        vmcs.write(zero, 0);
    }
    vmcs.write(GUEST_IA32_DEBUGCTL, 0);
    vmcs.write(VMCS_LINK_POINTER, u64::MAX);
}

/// The state in protected mode without paging, but for CR0 and CR4: [`PROTECTED_MODE_CR0`] and 0.
pub fn write_protected_mode(vmcs: &mut CurrentVmcs, rip: u64) {
    write(vmcs, rip, 0);
    vmcs.write(GUEST_IA32_EFER, 0);
    vmcs.write(GUEST_CS_RIGHTS, CODE_32 as u32);
}

/// The state after INIT and a start-up IPI: real mode at the page whose number is `vector` (SDM 3A 10.1.1, table 10-1). CR0 and
/// CR4 are the backend's here, too: [`REAL_MODE_CR0`] and 0.
pub fn write_real_mode(vmcs: &mut CurrentVmcs, vector: u8) {
    write(vmcs, 0, 0);
    vmcs.write(GUEST_IA32_EFER, 0);
    all_segments(vmcs, 0, REAL_MODE_LIMIT, REAL_MODE_DATA as u32);
    vmcs.write(GUEST_CS_SELECTOR, u16::from(vector) << 8);
    vmcs.write(GUEST_CS_BASE, u64::from(vector) << 12);
    vmcs.write(GUEST_CS_RIGHTS, REAL_MODE_CODE as u32);
    for limit in [GUEST_GDTR_LIMIT, GUEST_IDTR_LIMIT, GUEST_LDTR_LIMIT, GUEST_TR_LIMIT] {
        vmcs.write(limit, REAL_MODE_LIMIT);
    }
    vmcs.write(GUEST_LDTR_RIGHTS, LDT as u32);
    vmcs.write(GUEST_TR_SELECTOR, 0);
}

fn all_segments(vmcs: &mut CurrentVmcs, number: u16, bytes_less_one: u32, access: u32) {
    for (selector, base, limit, rights) in [
        (GUEST_ES_SELECTOR, GUEST_ES_BASE, GUEST_ES_LIMIT, GUEST_ES_RIGHTS),
        (GUEST_CS_SELECTOR, GUEST_CS_BASE, GUEST_CS_LIMIT, GUEST_CS_RIGHTS),
        (GUEST_SS_SELECTOR, GUEST_SS_BASE, GUEST_SS_LIMIT, GUEST_SS_RIGHTS),
        (GUEST_DS_SELECTOR, GUEST_DS_BASE, GUEST_DS_LIMIT, GUEST_DS_RIGHTS),
        (GUEST_FS_SELECTOR, GUEST_FS_BASE, GUEST_FS_LIMIT, GUEST_FS_RIGHTS),
        (GUEST_GS_SELECTOR, GUEST_GS_BASE, GUEST_GS_LIMIT, GUEST_GS_RIGHTS),
    ] {
        vmcs.write(selector, number);
        vmcs.write(base, 0);
        vmcs.write(limit, bytes_less_one);
        vmcs.write(rights, access);
    }
}

fn segments(vmcs: &mut CurrentVmcs) {
    all_segments(vmcs, DATA_SELECTOR, FLAT_LIMIT, DATA as u32);
    vmcs.write(GUEST_CS_SELECTOR, CODE_SELECTOR);
    vmcs.write(GUEST_CS_RIGHTS, CODE_64 as u32);
    vmcs.write(GUEST_LDTR_SELECTOR, 0);
    vmcs.write(GUEST_LDTR_BASE, 0);
    vmcs.write(GUEST_LDTR_LIMIT, 0);
    vmcs.write(GUEST_LDTR_RIGHTS, RIGHTS_UNUSABLE as u32);
    vmcs.write(GUEST_TR_SELECTOR, TSS_SELECTOR);
    vmcs.write(GUEST_TR_BASE, 0);
    vmcs.write(GUEST_TR_LIMIT, TSS_64_LIMIT);
    vmcs.write(GUEST_TR_RIGHTS, BUSY_TSS as u32);
}
