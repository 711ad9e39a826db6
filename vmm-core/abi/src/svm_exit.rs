//! THE table of SVM exit codes (APM 2 appendix C): the SDM reason that each stands for, and the names of those that stand for
//! none. The intercept bit of a code follows from its number (APM 2 appendix B, table B-1). No other file has a code by number.

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
    pub code: u32,
    /// The APM's name of it, without `VMEXIT_`.
    pub name: &'static str,
    /// The guest's action that provokes the exit.
    pub provoked_by: &'static str,
    /// The platforms that can produce the exit.
    pub places: Places,
}

macro_rules! exit_codes {
    (
        twins { $($reason:ident: $($twin:ident $twin_code:literal)+;)* }
        own { $($own_code:literal $own:ident $ident:ident, $how:literal, $where:literal, $bochs:expr, $qemu:expr;)* }
        by_information { $($name:ident $code:literal $about:literal;)* }
    ) => {
        /// EXITCODE by the APM's names, without `VMEXIT_`.
        pub mod code {
            $($(#[doc = concat!("EXITCODE ", stringify!($twin_code), ".")] pub const $twin: u32 = $twin_code;)+)*
            $(#[doc = concat!("EXITCODE ", stringify!($own_code), ".")] pub const $own: u32 = $own_code;)*
            $(#[doc = $about] pub const $name: u32 = $code;)*
        }

        /// The SDM reasons that codes stand for, in ranges: the first code, the last one, the reason.
        const TWINS: &[(u32, u32, ExitReason)] = &[$({
            let codes = [$(code::$twin),+];
            (codes[0], codes[codes.len() - 1], ExitReason::$reason)
        }),*];

        /// Every exit code without an Intel twin, in ascending order; number n here is reason [`OWN_OF_SVM`] + n.
        pub const OWN: &[Own] = &[$(Own {
            code: code::$own,
            name: stringify!($own),
            provoked_by: crate::for_people($how),
            places: at(crate::for_people($where), $bochs, $qemu),
        }),*];

        impl ExitReason {
            $(#[doc = concat!("SVM's own exit code ", stringify!($own_code), ": ", stringify!($own), ".")]
            pub const $ident: Self = own(code::$own);)*
        }
    };
}

// A row of twins is the range from its first code to its last; a code between them has a name here if something speaks of it.
exit_codes! {
    twins {
        CR_ACCESS: CR0_READ 0x00 CR3_READ 0x03 CR8_READ 0x08 CR15_READ 0x0f
            CR0_WRITE 0x10 CR3_WRITE 0x13 CR4_WRITE 0x14 CR8_WRITE 0x18 CR15_WRITE 0x1f;
        MOV_DR: DR0_READ 0x20 DR7_READ 0x27 DR15_READ 0x2f DR0_WRITE 0x30 DR7_WRITE 0x37 DR15_WRITE 0x3f;
        EXCEPTION_OR_NMI: EXCP0 0x40 EXCP31 0x5f;
        EXTERNAL_INTERRUPT: INTR 0x60;
        EXCEPTION_OR_NMI: NMI 0x61;
        OTHER_SMI: SMI 0x62;
        INIT: INIT 0x63;
        INTERRUPT_WINDOW: VINTR 0x64;
        GDTR_IDTR_ACCESS: IDTR_READ 0x66 GDTR_READ 0x67;
        LDTR_TR_ACCESS: LDTR_READ 0x68 TR_READ 0x69;
        GDTR_IDTR_ACCESS: IDTR_WRITE 0x6a GDTR_WRITE 0x6b;
        LDTR_TR_ACCESS: LDTR_WRITE 0x6c TR_WRITE 0x6d;
        RDTSC: RDTSC 0x6e;
        RDPMC: RDPMC 0x6f;
        CPUID: CPUID 0x72;
        INVD: INVD 0x76;
        PAUSE: PAUSE 0x77;
        HLT: HLT 0x78;
        INVLPG: INVLPG 0x79;
        IO_INSTRUCTION: IOIO 0x7b;
        TASK_SWITCH: TASK_SWITCH 0x7d;
        VMCALL: VMMCALL 0x81;
        RDTSCP: RDTSCP 0x87;
        WBINVD: WBINVD 0x89;
        MONITOR: MONITOR 0x8a;
        MWAIT: MWAIT 0x8b MWAIT_CONDITIONAL 0x8c;
        XSETBV: XSETBV 0x8d;
        INVPCID: INVPCID 0xa2;
        BUS_LOCK: BUSLOCK 0xa5;
    }
    own {
        0x65 CR0_SEL_WRITE SVM_CR0_SEL_WRITE, "MOV to CR0 or LMSW that changes more than TS and MP", "any SVM", Always, Always;
        0x70 PUSHF SVM_PUSHF, "PUSHF", "any SVM", Always, Always;
        0x71 POPF SVM_POPF, "POPF", "any SVM", Always, Always;
        0x73 RSM SVM_RSM, "RSM", "QEMU", Never, Always;
        0x74 IRET SVM_IRET, "IRET", "any SVM", Always, Always;
        0x75 SWINT SVM_SWINT, "INT n", "any SVM", Always, Always;
        0x7a INVLPGA SVM_INVLPGA, "INVLPGA", "any SVM", Always, Always;
        0x7e FERR_FREEZE SVM_FERR_FREEZE, "an x87 error that freezes the processor (CR0.NE clear)", "silicon", Never, Never;
        0x7f SHUTDOWN SVM_SHUTDOWN, "an exception while #DF is delivered", "QEMU, Bochs' AMD models or silicon", From((3, 0)), Always;
        0x80 VMRUN SVM_VMRUN, "VMRUN", "any SVM", Always, Always;
        0x82 VMLOAD SVM_VMLOAD, "VMLOAD", "any SVM", Always, Always;
        0x83 VMSAVE SVM_VMSAVE, "VMSAVE", "any SVM", Always, Always;
        0x84 STGI SVM_STGI, "STGI", "any SVM", Always, Always;
        0x85 CLGI SVM_CLGI, "CLGI", "any SVM", Always, Always;
        0x86 SKINIT SVM_SKINIT, "SKINIT", "any SVM", Always, Always;
        0x88 ICEBP SVM_ICEBP, "ICEBP (INT1)", "Bochs' AMD models or silicon", Always, Never;
        0x8e RDPRU SVM_RDPRU, "RDPRU", "silicon from Zen 2 on", Never, Never;
        0x8f EFER_WRITE_TRAP SVM_EFER_WRITE_TRAP, "WRMSR to EFER", "silicon with SEV-ES", Never, Never;
        0x90 CR_WRITE_TRAP SVM_CR_WRITE_TRAP, "MOV to a control register", "silicon with SEV-ES", Never, Never;
        0xa0 INVLPGB SVM_INVLPGB, "INVLPGB", "silicon from Zen 3 on", Never, Never;
        0xa1 INVLPGB_ILLEGAL SVM_INVLPGB_ILLEGAL, "INVLPGB that is not allowed", "silicon from Zen 3 on", Never, Never;
        0xa3 MCOMMIT SVM_MCOMMIT, "MCOMMIT", "silicon from Zen 2 on", Never, Never;
        0xa4 TLBSYNC SVM_TLBSYNC, "TLBSYNC", "silicon from Zen 3 on", Never, Never;
        0xa6 IDLE_HLT SVM_IDLE_HLT, "HLT with nothing pending", "silicon from Zen 5 on", Never, Never;
        0x401 AVIC_INCOMPLETE_IPI SVM_AVIC_INCOMPLETE_IPI, "an IPI that AVIC can't deliver", "silicon with AVIC", Never, Never;
        0x402 AVIC_NOACCEL SVM_AVIC_NOACCEL, "an APIC access that AVIC does not accelerate", "silicon with AVIC", Never, Never;
        0x403 VMGEXIT SVM_VMGEXIT, "VMGEXIT", "silicon with SEV-ES", Never, Never;
    }
    by_information {
        MSR 0x7c  "EXITCODE of RDMSR and WRMSR, which EXITINFO1 tells apart.";
        NPF 0x400 "EXITCODE of an access that nested paging did not allow.";
    }
}

/// EXITCODE of an exception.
pub const fn exception(vector: u8) -> u32 {
    code::EXCP0 + vector as u32
}

/// The reason of a code in [`OWN`].
const fn own(code: u32) -> ExitReason {
    let mut at = 0;
    while OWN[at].code != code {
        at += 1;
    }
    ExitReason(OWN_OF_SVM + at as u16)
}

/// EXITCODE of a VM entry with invalid state: its low 32 bits, since some processors write no more of it.
pub const INVALID: u32 = u32::MAX;

/// Codes below this have a place in [`BY_CODE`].
const DENSE: usize = code::IDLE_HLT as usize + 1;

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
    table[code::MSR as usize] = BY_INFORMATION;
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
const fn last_of(first: u32) -> u32 {
    if first == code::CR_WRITE_TRAP { first + 0xf } else { first }
}

/// EXITINFO1 of a nested page fault, bit 3: a reserved bit was set in a nested page-table entry.
const NPF_RESERVED: u64 = 1 << 3;
/// EXITINFO1 of an MSR access, bit 0: it is a write.
const MSR_WRITE: u64 = 1;

/// The reason of a code in the dense part of the table that may have a quick form. That of the MSR code is RDMSR if EXITINFO1
/// confirms it; other codes without a reason of their own have a number that is nobody's.
pub const fn dense_reason(code: u32) -> ExitReason {
    match BY_CODE[code as usize] {
        BY_INFORMATION => ExitReason::RDMSR,
        reason => ExitReason(reason as u16),
    }
}

/// Whether EXITINFO1 confirms the reason of an MSR access, as [`dense_reason`] has it, or of a nested page fault.
#[inline(always)]
pub fn confirms(reason: ExitReason, exitinfo1: impl Fn() -> u64) -> bool {
    match reason {
        ExitReason::RDMSR => exitinfo1() & MSR_WRITE == 0,
        ExitReason::EPT_VIOLATION => exitinfo1() & NPF_RESERVED == 0,
        _ => true,
    }
}

/// The reason that an exit code stands for, if a table has it.
#[inline(always)]
pub fn common_reason(code: u32, exitinfo1: impl Fn() -> u64) -> Option<ExitReason> {
    match BY_CODE.get(code as usize) {
        Some(&reason) if reason < BY_INFORMATION => Some(ExitReason(reason.into())),
        Some(&BY_INFORMATION) => Some(ExitReason(ExitReason::RDMSR.0 + (exitinfo1() & MSR_WRITE) as u16)),
        None if code == code::NPF && exitinfo1() & NPF_RESERVED == 0 => Some(ExitReason::EPT_VIOLATION),
        _ => None,
    }
}
const _: () = assert!(ExitReason::WRMSR.0 == ExitReason::RDMSR.0 + MSR_WRITE as u16);

/// The reason that an exit code stands for; an unknown number if the APM defines no such code.
pub fn reason(code: u32, exitinfo1: u64) -> ExitReason {
    common_reason(code, || exitinfo1).unwrap_or_else(|| beyond(code))
}

fn beyond(code: u32) -> ExitReason {
    if code == code::NPF {
        return ExitReason::EPT_MISCONFIGURATION;
    }
    if code == INVALID {
        return ExitReason::ENTRY_FAILURE_GUEST_STATE;
    }
    let is_it = |own: &Own| own.code == code;
    OWN.iter().position(is_it).map_or(ExitReason(u16::from(NOBODYS)), |at| ExitReason(OWN_OF_SVM + at as u16))
}

/// The reason that a code stands for whatever EXITINFO1 is, for questions about a code; `None` if the APM defines no such code.
pub fn of_code(code: u32) -> Option<ExitReason> {
    Some(reason(code, 0)).filter(|reason| reason.0 != u16::from(NOBODYS))
}

/// Codes whose meaning depends on EXITINFO1, and the one that has more than 16 bits: code, EXITINFO1, reason.
const BESIDES: [(u32, u64, ExitReason); 5] = [
    (code::MSR, 0, ExitReason::RDMSR),
    (code::MSR, MSR_WRITE, ExitReason::WRMSR),
    (code::NPF, 0, ExitReason::EPT_VIOLATION),
    (code::NPF, NPF_RESERVED, ExitReason::EPT_MISCONFIGURATION),
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
    let twins = TWINS.iter().filter(move |row| row.2 == of).map(|&(first, last, _)| (first, last));
    let own = of.own_of_svm().map(|own| (own.code, last_of(own.code)));
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

/// Codes from here on have no bit of an intercept: the last three words have a bit for each from [`code::INTR`] on.
pub const INTERCEPTS_END: u32 = code::INTR + 3 * u32::BITS;

/// The intercept of a code.
pub const fn intercept(code: u32) -> Intercept {
    let bit = code as u8 & 0x1f;
    match code {
        code::CR0_READ..=code::CR15_READ => Intercept::CrRead(bit),
        code::CR0_WRITE..=code::CR15_WRITE => Intercept::CrWrite(bit & 0xf),
        code::DR0_READ..=code::DR15_READ => Intercept::DrRead(bit),
        code::DR0_WRITE..=code::DR15_WRITE => Intercept::DrWrite(bit & 0xf),
        code::EXCP0..=code::EXCP31 => Intercept::Exception(bit),
        code::INTR..INTERCEPTS_END => Intercept::Other { word: ((code - code::INTR) >> 5) as u8, bit },
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
    fn a_reason_that_is_confirmed_is_the_tables() {
        for code in 0..DENSE as u32 {
            let dense = dense_reason(code);
            for information in [0, MSR_WRITE] {
                let confirmed = confirms(dense, || information);
                assert_eq!(confirmed, reason(code, information) == dense || dense.0 == u16::from(NOBODYS), "{code:#x}");
            }
        }
        assert!(!confirms(ExitReason::RDMSR, || MSR_WRITE) && !confirms(ExitReason::EPT_VIOLATION, || NPF_RESERVED));
    }

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
        assert!((0..DENSE as u32).all(|code| of_code(code).is_some()), "the APM defines every code below 0xa7");
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
