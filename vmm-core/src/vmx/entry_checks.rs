//! The check of the guest-state area that a VM entry failed (SDM 3C 27.3.1).
//!
//! The processor says that a check failed (exit reason 33), and for three checks which one. For the others this file checks the
//! same in the manual's order and names the first that fails. Left out: checks of features that the monitor does not use (PAE
//! page-directory pointers, SMM, CET, Intel PT, and states outside IA-32e mode).

use super::field::*;

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
        let (lme, lma) = (efer >> 8 & 1, efer >> 10 & 1);
        let ia32e = self.get(ENTRY_CONTROLS) >> 9 & 1;
        first(&[
            (within(cr0, self.cr0_fixed), "CR0 has a bit that VMX operation does not allow"),
            (cr0 >> 31 & 1 == 0 || cr0 & 1 == 1, "CR0.PG is 1 and CR0.PE is 0"),
            (within(cr4, self.cr4_fixed), "CR4 has a bit that VMX operation does not allow"),
            (ia32e == 0 || cr0 >> 31 & 1 == 1 && cr4 >> 5 & 1 == 1, "IA-32e mode without CR0.PG or CR4.PAE"),
            (self.get(GUEST_CR3) >> self.physical_bits == 0, "CR3 has bits beyond the physical-address width"),
            (self.get(GUEST_DR7) >> 32 == 0, "DR7 bits 63:32 are not 0"),
            (is_canonical(self.get(GUEST_IA32_SYSENTER_ESP)), "IA32_SYSENTER_ESP is not canonical"),
            (is_canonical(self.get(GUEST_IA32_SYSENTER_EIP)), "IA32_SYSENTER_EIP is not canonical"),
            (efer & !0xd01 == 0, "IA32_EFER has a reserved bit"),
            (lma == ia32e, "IA32_EFER.LMA differs from the IA-32e mode guest control"),
            (cr0 >> 31 & 1 == 0 || lma == lme, "IA32_EFER.LMA differs from LME while CR0.PG is 1"),
        ])
    }

    /// The checks of section 27.3.1.2.
    fn segments(&self) -> Option<&'static str> {
        let (cs, ss, tr) = (self.get(GUEST_CS_RIGHTS), self.get(GUEST_SS_RIGHTS), self.get(GUEST_TR_RIGHTS));
        let ldtr = self.get(GUEST_LDTR_RIGHTS);
        let usable = |rights: u64| rights >> 16 & 1 == 0;
        let present = |rights: u64| rights >> 7 & 1 == 1;
        let is_system = |rights: u64| rights >> 4 & 1 == 0;
        first(&[
            (self.get(GUEST_TR_SELECTOR) >> 2 & 1 == 0, "TR's selector refers to the LDT"),
            (!usable(ldtr) || self.get(GUEST_LDTR_SELECTOR) >> 2 & 1 == 0, "LDTR's selector refers to the LDT"),
            (is_canonical(self.get(GUEST_TR_BASE)), "TR's base is not canonical"),
            (is_canonical(self.get(GUEST_FS_BASE)), "FS's base is not canonical"),
            (is_canonical(self.get(GUEST_GS_BASE)), "GS's base is not canonical"),
            (!usable(ldtr) || is_canonical(self.get(GUEST_LDTR_BASE)), "LDTR's base is not canonical"),
            (self.get(GUEST_CS_BASE) >> 32 == 0, "CS's base has bits 63:32"),
            (usable(cs) && !is_system(cs) && matches!(cs & 15, 3 | 9 | 11 | 13 | 15), "CS's type is not one of code"),
            (present(cs), "CS is not present"),
            (cs >> 13 & 1 == 0 || cs >> 14 & 1 == 0, "CS has both L and D/B"),
            (!usable(ss) || !is_system(ss) && matches!(ss & 15, 3 | 7), "SS's type is not writable data, accessed"),
            (!usable(ss) || present(ss), "SS is not present"),
            (usable(tr) && is_system(tr) && tr & 15 == 11 && present(tr), "TR is not a present, busy TSS"),
            (!usable(ldtr) || is_system(ldtr) && ldtr & 15 == 2 && present(ldtr), "LDTR is not a present LDT"),
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
        let in_64_bit_mode = self.get(GUEST_CS_RIGHTS) >> 13 & 1 == 1;
        let injects_interrupt = self.get(ENTRY_INTERRUPTION_INFORMATION) & (1 << 31 | 7 << 8) == 1 << 31;
        first(&[
            (if in_64_bit_mode { is_canonical(rip) } else { rip >> 32 == 0 }, "RIP is not valid in the mode of CS"),
            (rflags & !0x3f_7fd7 == 0, "RFLAGS has a reserved bit"),
            (rflags >> 1 & 1 == 1, "RFLAGS[1] is 0"),
            (rflags >> 17 & 1 == 0, "RFLAGS.VM is 1 in IA-32e mode"),
            (!injects_interrupt || rflags >> 9 & 1 == 1, "an interrupt is injected while RFLAGS.IF is 0"),
        ])
    }

    /// The checks of section 27.3.1.5.
    fn non_register_state(&self) -> Option<&'static str> {
        let (activity, blocking) = (self.get(GUEST_ACTIVITY), self.get(GUEST_INTERRUPTIBILITY));
        let enabled = self.get(GUEST_RFLAGS) >> 9 & 1 == 1;
        let steps = self.get(GUEST_RFLAGS) >> 8 & 1 == 1;
        let pending_step = self.get(GUEST_PENDING_DEBUG) >> 14 & 1 == 1;
        let privileged = self.get(GUEST_SS_RIGHTS) >> 5 & 3 == 0;
        first(&[
            (activity <= 3, "the activity state does not exist"),
            (activity != 1 || privileged, "the activity state is HLT and SS's DPL is not 0"),
            (activity == 0 || blocking & 3 == 0, "a state other than active with blocking by STI or MOV SS"),
            (blocking & !0x1f == 0, "the interruptibility state has a reserved bit"),
            (blocking & 3 != 3, "blocking by STI and by MOV SS at once"),
            (blocking & 1 == 0 || enabled, "blocking by STI while RFLAGS.IF is 0"),
            (
                !steps || blocking & 3 == 0 || pending_step,
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
    use tollgate_abi::x86::segment::{BUSY_TSS, CODE_64, DATA};

    use super::*;

    /// The state that `guest_state::write` makes, with one field changed.
    fn with(changed: u32, value: u64) -> Option<&'static str> {
        let read = |encoding| match encoding {
            _ if encoding == changed => value,
            _ if encoding == GUEST_CR0.encoding() => 0x8001_0031,
            _ if encoding == GUEST_CR4.encoding() => 0x2020,
            _ if encoding == GUEST_IA32_EFER.encoding() => 0xd01,
            _ if encoding == ENTRY_CONTROLS.encoding() => 1 << 9,
            _ if encoding == GUEST_RFLAGS.encoding() => 2,
            _ if encoding == GUEST_CS_RIGHTS.encoding() => CODE_64,
            _ if encoding == GUEST_SS_RIGHTS.encoding() => DATA,
            _ if encoding == GUEST_TR_RIGHTS.encoding() => BUSY_TSS,
            _ if encoding == GUEST_LDTR_RIGHTS.encoding() => 1 << 16,
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
