//! THE table of SVM exit codes (APM 2 appendix C): the SDM reason that each stands for, and the names of those that stand for
//! none. The intercept bit of a code follows from its number (APM 2 appendix B, table B-1).

use crate::emulated::Emulated::{self, Always, From, Never};
use crate::emulated::Places;
use crate::exit_reason::{ExitReason, OWN_OF_SVM};

/// The edition of the APM's volume 2 that the table follows.
pub const APM_EDITION: &str = "2024-03";

/// The monitor's words for a code segment that VMRUN refuses (APM 2 15.5.1), by which the host tool knows it.
pub const CS_HAS_L_AND_D: &str = "CS has both L and D";

/// An exit code without an Intel twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its EXITCODE; the first one, if it is a range.
    pub code: u16,
    /// The APM's name of it, without `VMEXIT_`.
    pub name: &'static str,
    /// The guest's action that provokes the exit.
    pub provoked_by: &'static str,
    /// The platforms that can produce the exit.
    pub places: Places,
}

macro_rules! own {
    ($($code:literal $ident:ident $name:literal, $how:literal, $where:literal, $bochs:expr, $qemu:expr;)*) => {
        /// Every exit code without an Intel twin, in ascending order; number n here is reason [`OWN_OF_SVM`] + n.
        pub const OWN: &[Own] = &[$(Own {
            code: $code,
            name: $name,
            provoked_by: $how,
            places: at($where, $bochs, $qemu),
        }),*];

        impl ExitReason {
            $(#[doc = concat!("SVM's own exit code ", stringify!($code), ": ", $name, ".")]
            pub const $ident: Self = own($code);)*
        }
    };
}

own! {
    0x65 SVM_CR0_SEL_WRITE "CR0_SEL_WRITE", "MOV to CR0 or LMSW that changes more than TS and MP", "any SVM", Always, Always;
    0x70 SVM_PUSHF "PUSHF", "PUSHF", "any SVM", Always, Always;
    0x71 SVM_POPF "POPF", "POPF", "any SVM", Always, Always;
    0x73 SVM_RSM "RSM", "RSM", "QEMU", Never, Always;
    0x74 SVM_IRET "IRET", "IRET", "any SVM", Always, Always;
    0x75 SVM_SWINT "SWINT", "INT n", "any SVM", Always, Always;
    0x7a SVM_INVLPGA "INVLPGA", "INVLPGA", "any SVM", Always, Always;
    0x7e SVM_FERR_FREEZE "FERR_FREEZE", "an x87 error that freezes the processor (CR0.NE clear)", "silicon", Never, Never;
    0x7f SVM_SHUTDOWN "SHUTDOWN", "an exception while #DF is delivered", "QEMU, Bochs' AMD models or silicon", From((3, 0)), Always;
    0x80 SVM_VMRUN "VMRUN", "VMRUN", "any SVM", Always, Always;
    0x82 SVM_VMLOAD "VMLOAD", "VMLOAD", "any SVM", Always, Always;
    0x83 SVM_VMSAVE "VMSAVE", "VMSAVE", "any SVM", Always, Always;
    0x84 SVM_STGI "STGI", "STGI", "any SVM", Always, Always;
    0x85 SVM_CLGI "CLGI", "CLGI", "any SVM", Always, Always;
    0x86 SVM_SKINIT "SKINIT", "SKINIT", "any SVM", Always, Always;
    0x88 SVM_ICEBP "ICEBP", "ICEBP (INT1)", "Bochs' AMD models or silicon", Always, Never;
    0x8e SVM_RDPRU "RDPRU", "RDPRU", "silicon from Zen 2 on", Never, Never;
    0x8f SVM_EFER_WRITE_TRAP "EFER_WRITE_TRAP", "WRMSR to EFER", "silicon with SEV-ES", Never, Never;
    0x90 SVM_CR_WRITE_TRAP "CR_WRITE_TRAP", "MOV to a control register", "silicon with SEV-ES", Never, Never;
    0xa0 SVM_INVLPGB "INVLPGB", "INVLPGB", "silicon from Zen 3 on", Never, Never;
    0xa1 SVM_INVLPGB_ILLEGAL "INVLPGB_ILLEGAL", "INVLPGB that is not allowed", "silicon from Zen 3 on", Never, Never;
    0xa3 SVM_MCOMMIT "MCOMMIT", "MCOMMIT", "silicon from Zen 2 on", Never, Never;
    0xa4 SVM_TLBSYNC "TLBSYNC", "TLBSYNC", "silicon from Zen 3 on", Never, Never;
    0xa6 SVM_IDLE_HLT "IDLE_HLT", "HLT with nothing pending", "silicon from Zen 5 on", Never, Never;
    0x401 SVM_AVIC_INCOMPLETE_IPI "AVIC_INCOMPLETE_IPI", "an IPI that AVIC can't deliver", "silicon with AVIC", Never, Never;
    0x402 SVM_AVIC_NOACCEL "AVIC_NOACCEL", "an APIC access that AVIC does not accelerate", "silicon with AVIC", Never, Never;
    0x403 SVM_VMGEXIT "VMGEXIT", "VMGEXIT", "silicon with SEV-ES", Never, Never;
}

/// The reason of a code in [`OWN`].
const fn own(code: u16) -> ExitReason {
    let mut at = 0;
    while OWN[at].code != code {
        at += 1;
    }
    ExitReason(OWN_OF_SVM + at as u16)
}

/// EXITCODE of an access that nested paging did not allow.
pub const NPF: u16 = 0x400;
/// EXITCODE of RDMSR and WRMSR, which EXITINFO1 tells apart.
pub const MSR: u16 = 0x7c;
/// EXITCODE of a VM entry with invalid state: its low 32 bits, since some processors write no more of it.
pub const INVALID: u32 = u32::MAX;

/// Codes below this have a place in [`BY_CODE`].
const DENSE: usize = 0xa7;

/// The SDM reasons that codes stand for, in ranges.
const TWINS: &[(u16, u16, ExitReason)] = &[
    (0x00, 0x1f, ExitReason::CR_ACCESS),
    (0x20, 0x3f, ExitReason::MOV_DR),
    (0x40, 0x5f, ExitReason::EXCEPTION_OR_NMI),
    (0x60, 0x60, ExitReason::EXTERNAL_INTERRUPT),
    (0x61, 0x61, ExitReason::EXCEPTION_OR_NMI),
    (0x62, 0x62, ExitReason::OTHER_SMI),
    (0x63, 0x63, ExitReason::INIT),
    (0x64, 0x64, ExitReason::INTERRUPT_WINDOW),
    (0x66, 0x67, ExitReason::GDTR_IDTR_ACCESS),
    (0x68, 0x69, ExitReason::LDTR_TR_ACCESS),
    (0x6a, 0x6b, ExitReason::GDTR_IDTR_ACCESS),
    (0x6c, 0x6d, ExitReason::LDTR_TR_ACCESS),
    (0x6e, 0x6e, ExitReason::RDTSC),
    (0x6f, 0x6f, ExitReason::RDPMC),
    (0x72, 0x72, ExitReason::CPUID),
    (0x76, 0x76, ExitReason::INVD),
    (0x77, 0x77, ExitReason::PAUSE),
    (0x78, 0x78, ExitReason::HLT),
    (0x79, 0x79, ExitReason::INVLPG),
    (0x7b, 0x7b, ExitReason::IO_INSTRUCTION),
    (0x7d, 0x7d, ExitReason::TASK_SWITCH),
    (0x81, 0x81, ExitReason::VMCALL),
    (0x87, 0x87, ExitReason::RDTSCP),
    (0x89, 0x89, ExitReason::WBINVD),
    (0x8a, 0x8a, ExitReason::MONITOR),
    (0x8b, 0x8c, ExitReason::MWAIT),
    (0x8d, 0x8d, ExitReason::XSETBV),
    (0xa2, 0xa2, ExitReason::INVPCID),
    (0xa5, 0xa5, ExitReason::BUS_LOCK),
];

/// The reason of each code in the dense part; [`BY_INFORMATION`] where EXITINFO1 decides, [`NOBODYS`] where there is none.
static BY_CODE: [u8; DENSE] = {
    let mut table = [NOBODYS; DENSE];
    let mut at = 0;
    while at < TWINS.len() {
        let (first, last, reason) = TWINS[at];
        let mut code = first;
        while code <= last {
            table[code as usize] = reason.0 as u8;
            code += 1;
        }
        at += 1;
    }
    table[MSR as usize] = BY_INFORMATION;
    at = 0;
    while at < OWN.len() {
        let code = OWN[at].code as usize;
        let last = last_of(OWN[at].code) as usize;
        let mut each = code;
        while each <= last && each < DENSE {
            assert!(table[each] == NOBODYS, "an exit code stands in the table twice");
            table[each] = (OWN_OF_SVM as usize + at) as u8;
            each += 1;
        }
        at += 1;
    }
    table
};
/// A value above all reasons: RDMSR or WRMSR.
const BY_INFORMATION: u8 = 0x80;
const NOBODYS: u8 = u8::MAX;
const _: () = assert!(crate::exit_reason::ROWS <= BY_INFORMATION as usize);

/// The last code of a row in [`OWN`]. One row is a range: the traps of writes to each of sixteen control registers.
const fn last_of(first: u16) -> u16 {
    if first == 0x90 { 0x9f } else { first }
}

/// EXITINFO1 of a nested page fault, bit 3: a reserved bit was set in a nested page-table entry.
const NPF_RESERVED: u64 = 1 << 3;
/// EXITINFO1 of an MSR access, bit 0: it is a write.
const MSR_WRITE: u64 = 1;

/// The reason that an exit code stands for, if it is a frequent one; `None` leaves it to [`reason`]. Calls nothing.
#[inline(always)]
pub fn frequent_reason(code: u32, exitinfo1: impl Fn() -> u64) -> Option<ExitReason> {
    match BY_CODE.get(code as usize) {
        Some(&reason) if reason < BY_INFORMATION => Some(ExitReason(reason.into())),
        Some(&BY_INFORMATION) => Some(ExitReason(ExitReason::RDMSR.0 + (exitinfo1() & MSR_WRITE) as u16)),
        None if code == u32::from(NPF) && exitinfo1() & NPF_RESERVED == 0 => Some(ExitReason::EPT_VIOLATION),
        _ => None,
    }
}
const _: () = assert!(ExitReason::WRMSR.0 == ExitReason::RDMSR.0 + MSR_WRITE as u16);

/// The reason that an exit code stands for; an unknown number if the APM defines no such code.
pub fn reason(code: u32, exitinfo1: u64) -> ExitReason {
    frequent_reason(code, || exitinfo1).unwrap_or_else(|| beyond(code))
}

fn beyond(code: u32) -> ExitReason {
    if code == u32::from(NPF) {
        return ExitReason::EPT_MISCONFIGURATION;
    }
    if code == INVALID {
        return ExitReason::ENTRY_FAILURE_GUEST_STATE;
    }
    let is_it = |own: &Own| u32::from(own.code) == code;
    OWN.iter().position(is_it).map_or(ExitReason(u16::from(NOBODYS)), |at| ExitReason(OWN_OF_SVM + at as u16))
}

/// The reason that a code stands for whatever EXITINFO1 is, for questions about a code; `None` if the APM defines no such code.
pub fn of_code(code: u16) -> Option<ExitReason> {
    Some(reason(code.into(), 0)).filter(|reason| reason.0 != u16::from(NOBODYS))
}

/// Codes whose meaning depends on EXITINFO1, and the one that has more than 16 bits: code, EXITINFO1, reason.
const BESIDES: [(u32, u64, ExitReason); 5] = [
    (MSR as u32, 0, ExitReason::RDMSR),
    (MSR as u32, MSR_WRITE, ExitReason::WRMSR),
    (NPF as u32, 0, ExitReason::EPT_VIOLATION),
    (NPF as u32, NPF_RESERVED, ExitReason::EPT_MISCONFIGURATION),
    (INVALID, 0, ExitReason::ENTRY_FAILURE_GUEST_STATE),
];

/// The platforms that can produce a reason under SVM, where not every SVM can. QEMU takes RDTSCP for RDTSC, before 9.1 INVD for
/// WBINVD, and lacks the rest.
const TWINS_PLACES: [(ExitReason, Places); 8] = [
    (ExitReason::INIT, at("Bochs' AMD models or silicon", Always, Never)),
    (ExitReason::OTHER_SMI, at("silicon whose platform sends an SMI", Never, Never)),
    (ExitReason::TASK_SWITCH, at("Bochs' AMD models or silicon", Always, Never)),
    (ExitReason::INVD, at("Bochs' AMD models, QEMU or silicon", Always, From((9, 1)))),
    (ExitReason::RDTSCP, at("Bochs' AMD models or silicon", Always, Never)),
    (ExitReason::XSETBV, at("Bochs' AMD models or silicon", Always, Never)),
    (ExitReason::INVPCID, at("silicon from Zen 3 on", From((3, 1)), Never)),
    (ExitReason::BUS_LOCK, at("silicon with bus-lock detection", Never, Never)),
];

/// The platforms that can produce a reason under SVM; `None` if no code stands for it.
pub fn places(of: ExitReason) -> Option<Places> {
    codes(of).next()?;
    let twin = TWINS_PLACES.iter().find(|(reason, _)| *reason == of).map(|&(_, places)| places);
    Some(of.own_of_svm().map(|own| own.places).or(twin).unwrap_or(at("any SVM", Always, Always)))
}

const fn at(needs: &'static str, bochs: Emulated, qemu: Emulated) -> Places {
    Places { needs, bochs, qemu }
}

/// The codes that can stand for a reason, in ascending order, as first and last of each range.
pub fn codes(of: ExitReason) -> impl Iterator<Item = (u32, u32)> {
    let twins = TWINS.iter().filter(move |row| row.2 == of).map(|&(first, last, _)| (first.into(), last.into()));
    let own = of.own_of_svm().map(|own| (own.code.into(), last_of(own.code).into()));
    twins.chain(own).chain(BESIDES.iter().filter(move |row| row.2 == of).map(|&(code, ..)| (code, code)))
}

/// The intercept that makes a code possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intercept {
    /// A bit of the word for reads of control registers.
    CrRead(u8),
    /// A bit of the word for writes of control registers.
    CrWrite(u8),
    /// A bit of the word for reads of debug registers.
    DrRead(u8),
    /// A bit of the word for writes of debug registers.
    DrWrite(u8),
    /// A bit of the word for exceptions.
    Exception(u8),
    /// A bit of one of the three words for everything else.
    Other {
        /** 0 to 2. */
        word: u8,
        /** In that word. */
        bit: u8,
    },
    /// No intercept: nested paging, a failed entry.
    Unconditional,
}

/// The intercept of a code.
pub const fn intercept(code: u16) -> Intercept {
    let bit = code as u8 & 0x1f;
    match code {
        0x00..=0x0f => Intercept::CrRead(bit),
        0x10..=0x1f => Intercept::CrWrite(bit & 0xf),
        0x20..=0x2f => Intercept::DrRead(bit),
        0x30..=0x3f => Intercept::DrWrite(bit & 0xf),
        0x40..=0x5f => Intercept::Exception(bit),
        0x60..=0xbf => Intercept::Other { word: ((code - 0x60) >> 5) as u8, bit },
        _ => Intercept::Unconditional,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit_reason::{Controls, ROWS, Rows, Status, UNKNOWN_ROW};
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn codes_stand_for_what_the_manuals_say() {
        let check = |code, expected| assert_eq!(reason(code, 0), expected, "{code:#x}");
        check(0x00, ExitReason::CR_ACCESS);
        check(0x18, ExitReason::CR_ACCESS);
        check(0x37, ExitReason::MOV_DR);
        check(0x4e, ExitReason::EXCEPTION_OR_NMI);
        check(0x72, ExitReason::CPUID);
        check(0x7b, ExitReason::IO_INSTRUCTION);
        check(0x7f, ExitReason::SVM_SHUTDOWN);
        check(0x81, ExitReason::VMCALL);
        check(0x97, ExitReason::SVM_CR_WRITE_TRAP);
        check(0x400, ExitReason::EPT_VIOLATION);
        check(0x403, ExitReason::SVM_VMGEXIT);
        check(u32::MAX, ExitReason::ENTRY_FAILURE_GUEST_STATE);
        for unknown in [0xa7, 0x404, 0xffff, 0x8000_0000] {
            assert_eq!(reason(unknown, 0).ledger_row(), UNKNOWN_ROW, "{unknown:#x}");
        }
        assert_eq!((reason(0x7c, 0), reason(0x7c, 1)), (ExitReason::RDMSR, ExitReason::WRMSR));
        assert_eq!(reason(0x400, 8), ExitReason::EPT_MISCONFIGURATION);
        assert!((0..DENSE as u16).all(|code| of_code(code).is_some()), "the APM defines every code below 0xa7");
        assert_eq!((of_code(0xa7), of_code(0x404)), (None, None));
    }

    #[test]
    fn the_codes_of_a_reason_are_those_that_stand_for_it() {
        let of = |reason| codes(reason).collect::<Vec<_>>();
        assert_eq!(of(ExitReason::CR_ACCESS), [(0, 0x1f)]);
        assert_eq!(of(ExitReason::EXCEPTION_OR_NMI), [(0x40, 0x5f), (0x61, 0x61)]);
        assert_eq!((of(ExitReason::RDMSR), of(ExitReason::WRMSR)), (vec![(0x7c, 0x7c)], vec![(0x7c, 0x7c)]));
        assert_eq!(of(ExitReason::ENTRY_FAILURE_GUEST_STATE), [(INVALID, INVALID)]);
        assert_eq!((of(ExitReason::VMREAD), of(ExitReason::SVM_CR_WRITE_TRAP)), (vec![], vec![(0x90, 0x9f)]));
        for (code, exitinfo1, stands_for) in BESIDES {
            assert_eq!(reason(code, exitinfo1), stands_for);
        }
        for code in 0..0x500 {
            let Some(reason) = of_code(code) else { continue };
            let code = code.into();
            assert!(codes(reason).any(|(first, last)| (first..=last).contains(&code)), "{code:#x}");
        }
    }

    #[test]
    fn where_a_reason_can_be_produced_is_known_of_each_that_has_a_code() {
        assert_eq!(places(ExitReason::CPUID), Some(at("any SVM", Always, Always)));
        assert_eq!(places(ExitReason::SVM_RSM), Some(at("QEMU", Never, Always)));
        assert_eq!(places(ExitReason::INVPCID), Some(at("silicon from Zen 3 on", From((3, 1)), Never)));
        assert_eq!(places(ExitReason::VMREAD), None);
        for (reason, _) in TWINS_PLACES {
            assert!(reason.is_defined() && codes(reason).next().is_some(), "{reason:?}");
        }
    }

    #[test]
    fn each_of_svms_own_has_a_row() {
        assert!(OWN.is_sorted_by_key(|own| own.code));
        for own in OWN {
            let reason = of_code(own.code).unwrap();
            assert_eq!((reason.own_of_svm(), reason.name()), (Some(own), own.name));
            assert!(reason.ledger_row() < ROWS && reason.ledger_row() != UNKNOWN_ROW && !reason.is_defined());
        }
        assert_eq!(ExitReason(99).ledger_row(), UNKNOWN_ROW);
    }

    #[test]
    fn their_status_follows_the_intercepts_and_no_leaf_knows_them() {
        let mut rows = Rows::default();
        rows.insert(ExitReason::SVM_VMRUN);
        rows.insert(ExitReason::HLT);
        let controls = Controls { svm: Some(rows), ..Controls::default() };
        assert_eq!(ExitReason::SVM_VMRUN.row_status(&controls), Status::Enabled);
        assert_eq!(ExitReason::SVM_STGI.row_status(&controls), Status::NotEnabled);
        assert_eq!(ExitReason::SVM_VMRUN.row_status(&Controls::default()), Status::Undefined);
        assert_eq!(ExitReason::SVM_VMRUN.status(&controls), Status::Undefined);
        assert_eq!(ExitReason::HLT.status(&controls), Status::Enabled);
        assert_eq!(ExitReason::CPUID.status(&controls), Status::NotEnabled, "not even what VT-x always has");
    }

    #[test]
    fn an_intercept_follows_from_its_code() {
        let other = |word, bit| Intercept::Other { word, bit };
        for (code, expected) in [
            (0x08, Intercept::CrRead(8)),
            (0x10, Intercept::CrWrite(0)),
            (0x27, Intercept::DrRead(7)),
            (0x4e, Intercept::Exception(14)),
            (0x60, other(0, 0)),
            (0x7c, other(0, 28)),
            (0x80, other(1, 0)),
            (0x8d, other(1, 13)),
            (0xa2, other(2, 2)),
            (0x400, Intercept::Unconditional),
        ] {
            assert_eq!(intercept(code), expected, "{code:#x}");
        }
    }
}
