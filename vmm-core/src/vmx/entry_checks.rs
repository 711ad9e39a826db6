//! The check of the guest-state area that a VM entry failed (SDM 3C 27.3.1).
//!
//! The processor says that a check failed (exit reason 33), and for three checks which one. For the others this file checks the
//! same in the manual's order and names the first that fails. Left out: checks of features that the monitor does not use (PAE
//! page-directory pointers, SMM, CET, Intel PT, and states outside IA-32e mode).

use tollgate_abi::x86::control::*;
use tollgate_abi::x86::controls::entry::IA_32E_MODE_GUEST;
use tollgate_abi::x86::segment::{BUSY_TSS, LDT, SELECTOR_TI};

use super::field::*;

/// The part of a system segment's access rights that tells its kind: type, the system's own, and present.
const SYSTEM_KIND: u64 = RIGHTS_TYPE | RIGHTS_CODE_OR_DATA | RIGHTS_PRESENT;
/// A selector's table indicator.
const TI: u64 = SELECTOR_TI as u64;
/// The two kinds of blocking that end behind an instruction.
const BLOCKING_OF_ONE_INSTRUCTION: u64 = BLOCKING_BY_STI | BLOCKING_BY_MOV_SS;

/// The guest-state area as the checks see it: a function that reads a field by its encoding, and the parts of the control fields
/// that matter.
pub struct GuestArea<R> {
    /// VMREAD, by encoding.
    pub read: R,
    /// Width of a physical address.
    pub physical_bits: u32,
    /// CR0 bits that must be 1, and those that may be.
    pub cr0_fixed: (u64, u64),
    /// CR4 bits that must be 1, and those that may be.
    pub cr4_fixed: (u64, u64),
}

const fn is_canonical(address: u64) -> bool {
    crate::paging::is_canonical(address)
}

impl<R: Fn(u32) -> u64> GuestArea<R> {
    fn get<T, A>(&self, field: Field<T, A>) -> u64 {
        (self.read)(field.encoding())
    }

    /// The first check of the manual's that fails; `None` if all of these hold.
    pub fn first_failure(&self) -> Option<&'static str> {
        let checks = [Self::registers, Self::segments, Self::tables, Self::instruction, Self::non_register_state];
        checks.iter().find_map(|check| check(self))
    }

    /// The checks of section 27.3.1.1.
    fn registers(&self) -> Option<&'static str> {
        let within = |value: u64, (must, may): (u64, u64)| value & must == must && value & !may == 0;
        let (cr0, cr4, efer) = (self.get(GUEST_CR0), self.get(GUEST_CR4), self.get(GUEST_IA32_EFER));
        let (lme, lma) = (efer & EFER_LME != 0, efer & EFER_LMA != 0);
        let (pages, ia32e) = (cr0 & CR0_PG != 0, self.get(ENTRY_CONTROLS) & 1 << IA_32E_MODE_GUEST != 0);
        first(&[
            (within(cr0, self.cr0_fixed), "CR0 has a bit that VMX operation does not allow"),
            (!pages || cr0 & CR0_PE != 0, "CR0.PG is 1 and CR0.PE is 0"),
            (within(cr4, self.cr4_fixed), "CR4 has a bit that VMX operation does not allow"),
            (!ia32e || pages && cr4 & CR4_PAE != 0, "IA-32e mode without CR0.PG or CR4.PAE"),
            (self.get(GUEST_CR3) >> self.physical_bits == 0, "CR3 has bits beyond the physical-address width"),
            (self.get(GUEST_DR7) >> 32 == 0, "DR7 bits 63:32 are not 0"),
            (is_canonical(self.get(GUEST_IA32_SYSENTER_ESP)), "IA32_SYSENTER_ESP is not canonical"),
            (is_canonical(self.get(GUEST_IA32_SYSENTER_EIP)), "IA32_SYSENTER_EIP is not canonical"),
            (efer & !EFER_INTEL == 0, "IA32_EFER has a reserved bit"),
            (lma == ia32e, "IA32_EFER.LMA differs from the IA-32e mode guest control"),
            (!pages || lma == lme, "IA32_EFER.LMA differs from LME while CR0.PG is 1"),
        ])
    }

    /// The checks of section 27.3.1.2.
    fn segments(&self) -> Option<&'static str> {
        let (cs, ss, tr) = (self.get(GUEST_CS_RIGHTS), self.get(GUEST_SS_RIGHTS), self.get(GUEST_TR_RIGHTS));
        let ldtr = self.get(GUEST_LDTR_RIGHTS);
        let usable = |rights: u64| rights & RIGHTS_UNUSABLE == 0;
        let present = |rights: u64| rights & RIGHTS_PRESENT != 0;
        let is_system = |rights: u64| rights & RIGHTS_CODE_OR_DATA == 0;
        let is_accessed_code = |rights: u64| rights & RIGHTS_CODE != 0 && rights & RIGHTS_ACCESSED != 0;
        let is_writable_data = |rights: u64| {
            rights & (RIGHTS_CODE | RIGHTS_WRITABLE | RIGHTS_ACCESSED) == RIGHTS_WRITABLE | RIGHTS_ACCESSED
        };
        // A guest that may be without paging may have a CS of data that expands upwards.
        let is_flat_data = |rights: u64| rights & RIGHTS_TYPE == RIGHTS_WRITABLE | RIGHTS_ACCESSED;
        first(&[
            (self.get(GUEST_TR_SELECTOR) & TI == 0, "TR's selector refers to the LDT"),
            (!usable(ldtr) || self.get(GUEST_LDTR_SELECTOR) & TI == 0, "LDTR's selector refers to the LDT"),
            (is_canonical(self.get(GUEST_TR_BASE)), "TR's base is not canonical"),
            (is_canonical(self.get(GUEST_FS_BASE)), "FS's base is not canonical"),
            (is_canonical(self.get(GUEST_GS_BASE)), "GS's base is not canonical"),
            (!usable(ldtr) || is_canonical(self.get(GUEST_LDTR_BASE)), "LDTR's base is not canonical"),
            (self.get(GUEST_CS_BASE) >> 32 == 0, "CS's base has bits 63:32"),
            (
                usable(cs) && !is_system(cs) && (is_accessed_code(cs) || is_flat_data(cs)),
                "CS's type is not one of code",
            ),
            (present(cs), "CS is not present"),
            (cs & RIGHTS_LONG == 0 || cs & RIGHTS_DEFAULT_BIG == 0, "CS has both L and D/B"),
            (!usable(ss) || !is_system(ss) && is_writable_data(ss), "SS's type is not writable data, accessed"),
            (!usable(ss) || present(ss), "SS is not present"),
            (usable(tr) && tr & SYSTEM_KIND == BUSY_TSS, "TR is not a present, busy TSS"),
            (!usable(ldtr) || ldtr & SYSTEM_KIND == LDT, "LDTR is not a present LDT"),
        ])
    }

    /// The checks of section 27.3.1.3.
    fn tables(&self) -> Option<&'static str> {
        first(&[
            (is_canonical(self.get(GUEST_GDTR_BASE)), "GDTR's base is not canonical"),
            (is_canonical(self.get(GUEST_IDTR_BASE)), "IDTR's base is not canonical"),
            (self.get(GUEST_GDTR_LIMIT) >> 16 == 0, "GDTR's limit has bits 31:16"),
            (self.get(GUEST_IDTR_LIMIT) >> 16 == 0, "IDTR's limit has bits 31:16"),
        ])
    }

    /// The checks of section 27.3.1.4.
    fn instruction(&self) -> Option<&'static str> {
        let (rip, rflags) = (self.get(GUEST_RIP), self.get(GUEST_RFLAGS));
        let in_64_bit_mode = self.get(GUEST_CS_RIGHTS) & RIGHTS_LONG != 0;
        let injects_interrupt = self.get(ENTRY_INTERRUPTION_INFORMATION) & (EVENT_VALID | EVENT_TYPE) == EVENT_VALID;
        first(&[
            (if in_64_bit_mode { is_canonical(rip) } else { rip >> 32 == 0 }, "RIP is not valid in the mode of CS"),
            (rflags & !RFLAGS_DEFINED == 0, "RFLAGS has a reserved bit"),
            (rflags & RFLAGS_FIXED != 0, "RFLAGS[1] is 0"),
            (rflags & RFLAGS_VM == 0, "RFLAGS.VM is 1 in IA-32e mode"),
            (!injects_interrupt || rflags & RFLAGS_IF != 0, "an interrupt is injected while RFLAGS.IF is 0"),
        ])
    }

    /// The checks of section 27.3.1.5.
    fn non_register_state(&self) -> Option<&'static str> {
        let (activity, blocking) = (self.get(GUEST_ACTIVITY), self.get(GUEST_INTERRUPTIBILITY));
        let enabled = self.get(GUEST_RFLAGS) & RFLAGS_IF != 0;
        let steps = self.get(GUEST_RFLAGS) & RFLAGS_TF != 0;
        let pending_step = self.get(GUEST_PENDING_DEBUG) & DR6_BS != 0;
        let privileged = self.get(GUEST_SS_RIGHTS) & RIGHTS_DPL == 0;
        first(&[
            (activity <= ACTIVITY_WAIT_FOR_SIPI, "the activity state does not exist"),
            (activity != ACTIVITY_HLT || privileged, "the activity state is HLT and SS's DPL is not 0"),
            (
                activity == ACTIVITY_ACTIVE || blocking & BLOCKING_OF_ONE_INSTRUCTION == 0,
                "a state other than active with blocking by STI or MOV SS",
            ),
            (blocking & !INTERRUPTIBILITY_DEFINED == 0, "the interruptibility state has a reserved bit"),
            (
                blocking & BLOCKING_OF_ONE_INSTRUCTION != BLOCKING_OF_ONE_INSTRUCTION,
                "blocking by STI and by MOV SS at once",
            ),
            (blocking & BLOCKING_BY_STI == 0 || enabled, "blocking by STI while RFLAGS.IF is 0"),
            (
                !steps || blocking & BLOCKING_OF_ONE_INSTRUCTION == 0 || pending_step,
                "no single step is pending, with RFLAGS.TF and blocking by STI or MOV SS",
            ),
            (self.get(VMCS_LINK_POINTER) == u64::MAX, "the VMCS link pointer is not all ones"),
        ])
    }
}

fn first(checks: &[(bool, &'static str)]) -> Option<&'static str> {
    checks.iter().find(|(holds, _)| !holds).map(|&(_, demand)| demand)
}

#[cfg(test)]
mod tests {
    use tollgate_abi::x86::segment::{CODE_64, DATA};

    use super::*;

    /// The state that `guest_state::write` makes, with one field changed.
    fn with(changed: u32, value: u64) -> Option<&'static str> {
        let read = |encoding| match encoding {
            _ if encoding == changed => value,
            _ if encoding == GUEST_CR0.encoding() => 0x8001_0031,
            _ if encoding == GUEST_CR4.encoding() => 0x2020,
            _ if encoding == GUEST_IA32_EFER.encoding() => 0xd01,
            _ if encoding == ENTRY_CONTROLS.encoding() => 1 << IA_32E_MODE_GUEST,
            _ if encoding == GUEST_RFLAGS.encoding() => RFLAGS_FIXED,
            _ if encoding == GUEST_CS_RIGHTS.encoding() => CODE_64,
            _ if encoding == GUEST_SS_RIGHTS.encoding() => DATA,
            _ if encoding == GUEST_TR_RIGHTS.encoding() => BUSY_TSS,
            _ if encoding == GUEST_LDTR_RIGHTS.encoding() => RIGHTS_UNUSABLE,
            _ if encoding == VMCS_LINK_POINTER.encoding() => u64::MAX,
            _ => 0,
        };
        GuestArea { read, physical_bits: 39, cr0_fixed: (0x8000_0021, 0xffff_ffff), cr4_fixed: (0x2000, 0xf7_2fff) }
            .first_failure()
    }

    #[test]
    fn the_initial_state_passes_and_each_change_is_named() {
        assert_eq!(with(u32::MAX, 0), None);
        for (field, value, demand) in [
            (GUEST_CR0.encoding(), 0x11, "CR0 has a bit that VMX operation does not allow"),
            (GUEST_CR4.encoding(), 0x20, "CR4 has a bit that VMX operation does not allow"),
            (GUEST_CR4.encoding(), 0x2000, "IA-32e mode without CR0.PG or CR4.PAE"),
            (GUEST_IA32_EFER.encoding(), 0x101, "IA32_EFER.LMA differs from the IA-32e mode guest control"),
            (GUEST_CR3.encoding(), 1 << 45, "CR3 has bits beyond the physical-address width"),
            (GUEST_RFLAGS.encoding(), 0, "RFLAGS[1] is 0"),
            (GUEST_RIP.encoding(), 1 << 63, "RIP is not valid in the mode of CS"),
            (GUEST_TR_RIGHTS.encoding(), 0x89, "TR is not a present, busy TSS"),
            (GUEST_CS_RIGHTS.encoding(), 0xe09b, "CS has both L and D/B"),
            (GUEST_CS_RIGHTS.encoding(), 0xa092, "CS's type is not one of code"),
            (GUEST_SS_RIGHTS.encoding(), 0xc09b, "SS's type is not writable data, accessed"),
            (GUEST_SS_RIGHTS.encoding(), 0xc013, "SS is not present"),
            (GUEST_LDTR_RIGHTS.encoding(), 0x83, "LDTR is not a present LDT"),
            (GUEST_TR_SELECTOR.encoding(), 4, "TR's selector refers to the LDT"),
            (GUEST_IA32_EFER.encoding(), 0x1d01, "IA32_EFER has a reserved bit"),
            (GUEST_RFLAGS.encoding(), 1 << 15 | 2, "RFLAGS has a reserved bit"),
            (GUEST_RFLAGS.encoding(), 1 << 17 | 2, "RFLAGS.VM is 1 in IA-32e mode"),
            (GUEST_INTERRUPTIBILITY.encoding(), 3, "blocking by STI and by MOV SS at once"),
            (GUEST_INTERRUPTIBILITY.encoding(), 1 << 5, "the interruptibility state has a reserved bit"),
            (GUEST_GDTR_LIMIT.encoding(), 1 << 16, "GDTR's limit has bits 31:16"),
            (GUEST_ACTIVITY.encoding(), 4, "the activity state does not exist"),
            (GUEST_INTERRUPTIBILITY.encoding(), 1, "blocking by STI while RFLAGS.IF is 0"),
            (ENTRY_INTERRUPTION_INFORMATION.encoding(), 0x8000_0020, "an interrupt is injected while RFLAGS.IF is 0"),
            (VMCS_LINK_POINTER.encoding(), 0, "the VMCS link pointer is not all ones"),
        ] {
            assert_eq!(with(field, value), Some(demand));
        }
    }
}
