//! The consistency check that VMRUN failed (APM 2 15.5.1). The processor does not tell it, so that the checks are tried one after
//! the other.

use super::vmcb::*;
use tollgate_abi::svm_exit::CS_HAS_L_AND_D;
use tollgate_abi::x86::control::*;

/// The bits of EFER that are defined: SCE LME LMA NXE SVME LMSLE FFXSR TCE.
const EFER_DEFINED: u64 = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME | EFER_LMSLE | EFER_FFXSR | EFER_TCE;

/// The first check that does not hold; `None` if all of these do.
pub fn first_failure(vmcb: &Vmcb, physical_bits: u32) -> Option<&'static str> {
    let (efer, cr0, cr4) = (vmcb.get(EFER), vmcb.get(CR0), vmcb.get(CR4));
    let long_paging = efer & EFER_LME != 0 && cr0 & CR0_PG != 0;
    let cs = vmcb.part(CS.attributes());
    let valid = vmcb.get(EVENTINJ) & EVENT_VALID != 0;
    let kind = (vmcb.get(EVENTINJ) & EVENT_TYPE) >> EVENT_TYPE_SHIFT;
    let checks = [
        (vmcb.part(INTERCEPT_1) & 1 != 0, "the intercept of VMRUN is clear"),
        (vmcb.part(GUEST_ASID) != 0, "the ASID is the host's, 0"),
        (efer & EFER_SVME != 0, "EFER.SVME is clear"),
        (efer & !EFER_DEFINED == 0, "EFER has reserved bits"),
        (cr0 & (CR0_CD | CR0_NW) != CR0_NW, "CR0.NW is set without CD"),
        (cr0 >> 32 == 0, "CR0 has bits above 31"),
        (vmcb.get(CR3) >> physical_bits == 0 || !long_paging, "CR3 is beyond the physical-address width"),
        (cr4 >> 32 == 0, "CR4 has bits above 31"),
        (vmcb.get(DR6) >> 32 == 0, "DR6 has bits above 31"),
        (vmcb.get(DR7) >> 32 == 0, "DR7 has bits above 31"),
        (!long_paging || cr4 & CR4_PAE != 0, "IA-32e mode without CR4.PAE"),
        (!long_paging || cr0 & CR0_PE != 0, "IA-32e mode without CR0.PE"),
        (
            !long_paging || cs & (ATTRIBUTE_LONG | ATTRIBUTE_DEFAULT_BIG) != ATTRIBUTE_LONG | ATTRIBUTE_DEFAULT_BIG,
            CS_HAS_L_AND_D,
        ),
        (!valid || matches!(kind, 0 | 2 | 3 | 4), "the event to be injected has a reserved type"),
    ];
    checks.into_iter().find(|(holds, _)| !holds).map(|(_, what)| what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svm::guest_state;

    #[test]
    fn each_failure_is_named() {
        let check = |change: fn(&Vmcb), expected| {
            let vmcb = Vmcb::new();
            guest_state::write(&vmcb, 0x1000, 0x2000);
            vmcb.set_part(INTERCEPT_1, 1);
            vmcb.set_part(GUEST_ASID, 1);
            change(&vmcb);
            assert_eq!(first_failure(&vmcb, 40), expected);
        };
        check(|_| {}, None);
        check(|vmcb| vmcb.set_part(GUEST_ASID, 0), Some("the ASID is the host's, 0"));
        check(|vmcb| vmcb.set(EFER, 0xd01), Some("EFER.SVME is clear"));
        check(|vmcb| vmcb.set(CR0, vmcb.get(CR0) | CR0_NW), Some("CR0.NW is set without CD"));
        check(|vmcb| vmcb.set(CR4, 0), Some("IA-32e mode without CR4.PAE"));
        check(|vmcb| vmcb.set(EVENTINJ, 0x8000_0100), Some("the event to be injected has a reserved type"));
    }
}
