//! The CPUID leaves through which a guest reads the account: their numbers, questions and answers.
//!
//! Four leaves come from a university course that moved them between terms ([`LeafMap`]); the others are Tollgate's own and never
//! move. Both sides use this file: the monitor decodes the question and encodes the answer, and so does a guest the other way
//! round. [`TABLE`] and [`RULES`] say the same to people: `LEAVES.md` is written from them.

use crate::exit_reason::{ExitReason, Status};

/// Version of this contract, in EAX of [`CONTRACT`].
pub const CONTRACT_VERSION: u32 = 2;

/// The signature in EBX, ECX, EDX of leaf `0x4000_0000`.
pub const SIGNATURE: &[u8; 12] = b"TollgateVMM\0";

/// The hypervisor signature leaf.
pub const HYPERVISOR: u32 = 0x4000_0000;

/// Version of this contract (EAX) and number of vCPUs (EBX).
pub const CONTRACT: u32 = 0x4fff_fff0;
/// Exits of all reasons (EBX:ECX), and those of them that were the monitor's own looks at a guest that ran long (EDX:EAX), both
/// of one vCPU or all; ECX is as in [`RowQuery`], without a reason.
pub const EXITS: u32 = 0x4fff_fff6;
/// Cycles (EBX:ECX) of one of SVM's exit codes; asked as [`SVM_STATUS`].
pub const SVM_CYCLES: u32 = 0x4fff_fff7;
/// Status (EAX), 64-bit count (EBX:ECX), and the SDM reason that the code is counted as (EDX), or `0xffffffff` if it is counted
/// as none. ECX is as in [`RowQuery`], with an EXITCODE in place of the reason; of a longer code, its low 16 bits. A code that
/// the APM does not define, or any code where the processor has no SVM: zero in all four.
pub const SVM_STATUS: u32 = 0x4fff_fff8;
/// One bucket of a reason's histogram; see [`BucketQuery`].
pub const BUCKET: u32 = 0x4fff_fff9;
/// Minimum (EBX:EAX) and maximum (EDX:ECX) cycles of one exit; see [`RowQuery`].
pub const EXTREMES: u32 = 0x4fff_fffa;
/// Status (EAX), 64-bit count (EBX:ECX), and the exits among these that were the monitor's own looks at a guest that ran long
/// (EDX, low 32 bits): external interrupts of its watchdog, where the extension has no timer for that. See [`RowQuery`].
pub const STATUS: u32 = 0x4fff_fffb;

/// A leaf by its meaning, wherever a term put it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// Exits of all reasons, all vCPUs.
    TotalCount,
    /// Cycles of all exits, all vCPUs.
    TotalCycles,
    /// Both totals at once (spring 2021).
    Totals,
    /// Exits for the reason in ECX.
    ReasonCount,
    /// Cycles for the reason in ECX.
    ReasonCycles,
    /// [`STATUS`].
    Status,
    /// [`EXTREMES`].
    Extremes,
    /// [`BUCKET`].
    Bucket,
    /// [`SVM_STATUS`].
    SvmStatus,
    /// [`SVM_CYCLES`].
    SvmCycles,
    /// [`EXITS`].
    Exits,
    /// [`CONTRACT`].
    Contract,
}

/// A leaf as documents show it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The leaf; [`LeafMap::encode`] has its number.
    pub leaf: Leaf,
    /// The fields of ECX that it reads.
    pub question: Question,
    /// Each register or pair that has a part of the answer, and that part. The other registers are zero.
    pub answers: &'static [(&'static str, &'static str)],
}

/// The question that a leaf takes in ECX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// ECX is not read.
    Nothing,
    /// All of ECX is the reason, as in the course.
    Reason,
    /// [`RowQuery`].
    Row,
    /// [`RowQuery`], with an EXITCODE of SVM in place of the reason.
    Code,
    /// [`RowQuery`], of which the reason is not read.
    Vcpu,
    /// [`BucketQuery`].
    Bucket,
}

impl Question {
    /// The fields of ECX: each with its highest and lowest bit.
    pub const fn fields(self) -> &'static [(&'static str, u32, u32)] {
        match self {
            Question::Nothing => &[],
            Question::Reason => &[("reason", 31, 0)],
            Question::Row => &[("reason", 15, 0), ("vCPU + 1", 31, 16)],
            Question::Code => &[("SVM exit code", 15, 0), ("vCPU + 1", 31, 16)],
            Question::Vcpu => &[("vCPU + 1", 31, 16)],
            Question::Bucket => &[("reason", 15, 0), ("bucket", 23, 16), ("vCPU + 1", 31, 24)],
        }
    }
}

/// THE table of leaves for people: the course's, and then Tollgate's own in descending order of their numbers.
pub const TABLE: &[Row] = &[
    Row {
        leaf: Leaf::TotalCount,
        question: Question::Nothing,
        answers: &[("EAX", "exits of all reasons, all vCPUs; low 32 bits")],
    },
    Row {
        leaf: Leaf::TotalCycles,
        question: Question::Nothing,
        answers: &[("EBX:ECX", "cycles of all exits, all vCPUs")],
    },
    Row {
        leaf: Leaf::Totals,
        question: Question::Nothing,
        answers: &[
            ("EAX", "exits of all reasons, all vCPUs; low 32 bits"),
            ("EBX:ECX", "cycles of all exits, all vCPUs"),
        ],
    },
    Row {
        leaf: Leaf::ReasonCount,
        question: Question::Reason,
        answers: &[("EAX", "exits for the reason, all vCPUs; low 32 bits")],
    },
    Row {
        leaf: Leaf::ReasonCycles,
        question: Question::Reason,
        answers: &[("EBX:ECX", "cycles for the reason, all vCPUs")],
    },
    Row {
        leaf: Leaf::Status,
        question: Question::Row,
        answers: &[
            ("EAX", "0 undefined, 1 not enabled, 2 enabled"),
            ("EBX:ECX", "exits for the reason"),
            ("EDX", "the monitor's own looks among these exits; low 32 bits"),
        ],
    },
    Row {
        leaf: Leaf::Extremes,
        question: Question::Row,
        answers: &[("EBX:EAX", "minimum cycles of one exit"), ("EDX:ECX", "maximum cycles of one exit")],
    },
    Row {
        leaf: Leaf::Bucket,
        question: Question::Bucket,
        answers: &[("EDX:EAX", "exits that took at least 2^bucket cycles, and less than twice that")],
    },
    Row {
        leaf: Leaf::SvmStatus,
        question: Question::Code,
        answers: &[
            ("EAX", "0 undefined, 1 not enabled, 2 enabled"),
            ("EBX:ECX", "exits with the code"),
            ("EDX", "the SDM reason that the code is counted as; `0xFFFFFFFF` for one of SVM's own"),
        ],
    },
    Row { leaf: Leaf::SvmCycles, question: Question::Code, answers: &[("EBX:ECX", "cycles for the code")] },
    Row {
        leaf: Leaf::Exits,
        question: Question::Vcpu,
        answers: &[("EBX:ECX", "exits of all reasons"), ("EDX:EAX", "the monitor's own looks among these exits")],
    },
    Row {
        leaf: Leaf::Contract,
        question: Question::Nothing,
        answers: &[("EAX", "version of this contract"), ("EBX", "number of vCPUs")],
    },
];

/// The rules of all leaves, for people.
pub const RULES: &[&str] = &[
    "All 64 bits of RAX, RBX, RCX and RDX are defined after each of these leaves. Their upper halves are zero.",
    "The CPUID that asks is counted already. Its own time is not in yet: a count opens at the exit, a time closes at the entry.",
    "A course leaf that is asked about a reason gives EDX = `0xFFFFFFFF` and zero elsewhere if the SDM does not define the \
     reason. It gives zero in all four if the controls in force can't produce the reason.",
    "Tollgate's own leaves give zero in all four for a reason or a code that is undefined, and for a vCPU that does not exist. \
     The leaves of SVM's exit codes do so, too, where the processor has no SVM.",
    "A field `vCPU + 1` of 0 asks for all vCPUs together.",
    "Reasons are those of the SDM under SVM, too. An exit code that stands for none has a number of Tollgate's own above them; \
     `tollgate reasons` lists both.",
    "A *look* is an exit by which the monitor's watchdog found that a guest that ran long does exit. Under VT-x the preemption \
     timer makes it, under SVM an external interrupt. It is in every count, but the guest did not cause it: comparisons with the \
     guest's own book leave looks out.",
    "`CPUID.1:ECX[31]` is 1, and leaf `0x40000000` gives the signature `TollgateVMM` in EBX, ECX and EDX.",
];

/// A term of the course, and with it the numbers of its leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeafMap {
    /// FF both totals, FE count per reason.
    Spring2021,
    /// FF count, FE cycles, FD count per reason, FC cycles per reason.
    #[default]
    Autumn2021,
    /// The reverse: FC count, FD cycles, FE count per reason, FF cycles per reason.
    Autumn2022,
}

impl LeafMap {
    /// Every map.
    pub const ALL: [LeafMap; 3] = [LeafMap::Spring2021, LeafMap::Autumn2021, LeafMap::Autumn2022];

    /// The term's name on command lines and in records.
    pub const fn name(self) -> &'static str {
        match self {
            LeafMap::Spring2021 => "spring2021",
            LeafMap::Autumn2021 => "autumn2021",
            LeafMap::Autumn2022 => "autumn2022",
        }
    }

    /// The inverse of [`LeafMap::name`].
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|map| map.name() == name)
    }

    /// The term's leaves, from `0x4FFFFFFF` down.
    const fn course(self) -> [Option<Leaf>; 4] {
        match self {
            LeafMap::Spring2021 => [Some(Leaf::Totals), Some(Leaf::ReasonCount), None, None],
            LeafMap::Autumn2021 => {
                [Some(Leaf::TotalCount), Some(Leaf::TotalCycles), Some(Leaf::ReasonCount), Some(Leaf::ReasonCycles)]
            }
            LeafMap::Autumn2022 => {
                [Some(Leaf::ReasonCycles), Some(Leaf::ReasonCount), Some(Leaf::TotalCycles), Some(Leaf::TotalCount)]
            }
        }
    }

    /// The leaf that EAX asks for, or `None` if it is not one of these.
    pub fn decode(self, eax: u32) -> Option<Leaf> {
        match eax {
            0x4fff_fffc..=0x4fff_ffff => self.course()[(0x4fff_ffff - eax) as usize],
            STATUS => Some(Leaf::Status),
            EXTREMES => Some(Leaf::Extremes),
            BUCKET => Some(Leaf::Bucket),
            SVM_STATUS => Some(Leaf::SvmStatus),
            SVM_CYCLES => Some(Leaf::SvmCycles),
            EXITS => Some(Leaf::Exits),
            CONTRACT => Some(Leaf::Contract),
            _ => None,
        }
    }

    /// The EAX that asks for `leaf`, or `None` where this term has no such leaf.
    pub fn encode(self, leaf: Leaf) -> Option<u32> {
        (CONTRACT..=0x4fff_ffff).find(|&eax| self.decode(eax) == Some(leaf))
    }
}

/// The question in ECX of [`STATUS`], [`EXTREMES`] and [`EXITS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowQuery {
    /// Bits 15:0: the basic exit reason.
    pub reason: u16,
    /// Bits 31:16 less one: the vCPU; 0 there, `None` here, asks for all together.
    pub vcpu: Option<u16>,
}

impl RowQuery {
    /// The question in this ECX.
    pub const fn decode(ecx: u32) -> Self {
        Self { reason: ecx as u16, vcpu: ((ecx >> 16) as u16).checked_sub(1) }
    }

    /// Writes ECX. A vCPU of `u16::MAX` cannot be asked for and wraps to "all".
    pub const fn encode(self) -> u32 {
        let vcpu = match self.vcpu {
            Some(vcpu) => vcpu.wrapping_add(1),
            None => 0,
        };
        self.reason as u32 | (vcpu as u32) << 16
    }
}

/// The question in ECX of [`BUCKET`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketQuery {
    /// Bits 15:0: the basic exit reason.
    pub reason: u16,
    /// Bits 23:16: exits that took at least `1 << bucket` cycles and less than twice that (bucket 0 has 0 and 1).
    pub bucket: u8,
    /// Bits 31:24 less one: the vCPU; 0 there, `None` here, asks for all together.
    pub vcpu: Option<u16>,
}

impl BucketQuery {
    /// The question in this ECX.
    pub const fn decode(ecx: u32) -> Self {
        let vcpu = match (ecx >> 24) as u16 {
            0 => None,
            vcpu => Some(vcpu - 1),
        };
        Self { reason: ecx as u16, bucket: (ecx >> 16) as u8, vcpu }
    }

    /// Writes ECX. A vCPU above 254 cannot be asked for.
    pub const fn encode(self) -> u32 {
        let vcpu = match self.vcpu {
            Some(vcpu) => vcpu as u8 + 1,
            None => 0,
        };
        self.reason as u32 | (self.bucket as u32) << 16 | (vcpu as u32) << 24
    }
}

/// EAX, EBX, ECX, EDX after CPUID. The upper halves of RAX..RDX are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Answer {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

impl Answer {
    /// Zero in all four: a reason that is not enabled here.
    pub const ZERO: Self = Self { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    /// A reason that the SDM does not define.
    pub const UNDEFINED: Self = Self { edx: u32::MAX, ..Self::ZERO };

    /// A count in EAX: its low 32 bits.
    pub const fn count(count: u64) -> Self {
        Self { eax: count as u32, ..Self::ZERO }
    }

    /// Cycles in EBX:ECX.
    pub const fn cycles(cycles: u64) -> Self {
        Self { ebx: (cycles >> 32) as u32, ecx: cycles as u32, ..Self::ZERO }
    }

    /// The answer of [`Leaf::Totals`]: a count in EAX, cycles in EBX:ECX.
    pub const fn totals(count: u64, cycles: u64) -> Self {
        Self { eax: count as u32, ..Self::cycles(cycles) }
    }

    /// The answer of [`STATUS`].
    pub const fn status(status: Status, count: u64, looks: u64) -> Self {
        Self { eax: status as u32, edx: looks as u32, ..Self::cycles(count) }
    }

    /// The answer of [`EXITS`].
    pub const fn exits(count: u64, looks: u64) -> Self {
        Self { eax: looks as u32, edx: (looks >> 32) as u32, ..Self::cycles(count) }
    }

    /// The answer of [`SVM_STATUS`].
    pub const fn svm_status(status: Status, count: u64, stands_for: Option<ExitReason>) -> Self {
        let edx = match stands_for {
            Some(reason) => reason.0 as u32,
            None => u32::MAX,
        };
        Self { edx, ..Self::status(status, count, 0) }
    }

    /// The answer of [`EXTREMES`].
    pub const fn extremes(min: u64, max: u64) -> Self {
        Self { eax: min as u32, ebx: (min >> 32) as u32, ecx: max as u32, edx: (max >> 32) as u32 }
    }

    /// The answer of [`BUCKET`].
    pub const fn bucket(count: u64) -> Self {
        Self { eax: count as u32, edx: (count >> 32) as u32, ..Self::ZERO }
    }

    /// EBX:ECX as one number: cycles, or the count of [`STATUS`].
    pub const fn ebx_ecx(self) -> u64 {
        (self.ebx as u64) << 32 | self.ecx as u64
    }

    /// EBX:EAX as one number: the minimum of [`EXTREMES`].
    pub const fn ebx_eax(self) -> u64 {
        (self.ebx as u64) << 32 | self.eax as u64
    }

    /// EDX:ECX as one number: the maximum of [`EXTREMES`].
    pub const fn edx_ecx(self) -> u64 {
        (self.edx as u64) << 32 | self.ecx as u64
    }

    /// EDX:EAX as one number: the count of [`BUCKET`], the looks of [`EXITS`].
    pub const fn edx_eax(self) -> u64 {
        (self.edx as u64) << 32 | self.eax as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn the_default_map_is_the_contract() {
        let map = LeafMap::default();
        let expected = [
            (0x4fff_ffff, Leaf::TotalCount),
            (0x4fff_fffe, Leaf::TotalCycles),
            (0x4fff_fffd, Leaf::ReasonCount),
            (0x4fff_fffc, Leaf::ReasonCycles),
            (0x4fff_fffb, Leaf::Status),
            (0x4fff_fffa, Leaf::Extremes),
            (0x4fff_fff9, Leaf::Bucket),
            (0x4fff_fff8, Leaf::SvmStatus),
            (0x4fff_fff7, Leaf::SvmCycles),
            (0x4fff_fff6, Leaf::Exits),
            (0x4fff_fff0, Leaf::Contract),
        ];
        for (eax, leaf) in expected {
            assert_eq!(map.decode(eax), Some(leaf));
            assert_eq!(map.encode(leaf), Some(eax));
        }
        assert_eq!(map.decode(0x4fff_fff5), None);
        assert_eq!(map.decode(0x5000_0000), None);
    }

    #[test]
    fn other_terms_move_the_course_leaves_only() {
        assert_eq!(LeafMap::Spring2021.decode(0x4fff_ffff), Some(Leaf::Totals));
        assert_eq!(LeafMap::Spring2021.decode(0x4fff_fffe), Some(Leaf::ReasonCount));
        assert_eq!(LeafMap::Spring2021.decode(0x4fff_fffd), None);
        assert_eq!(LeafMap::Spring2021.encode(Leaf::ReasonCycles), None);
        assert_eq!(LeafMap::Autumn2022.decode(0x4fff_fffc), Some(Leaf::TotalCount));
        assert_eq!(LeafMap::Autumn2022.decode(0x4fff_fffd), Some(Leaf::TotalCycles));
        assert_eq!(LeafMap::Autumn2022.decode(0x4fff_fffe), Some(Leaf::ReasonCount));
        assert_eq!(LeafMap::Autumn2022.decode(0x4fff_ffff), Some(Leaf::ReasonCycles));
        for map in LeafMap::ALL {
            assert_eq!(map.decode(STATUS), Some(Leaf::Status));
            assert_eq!(LeafMap::parse(map.name()), Some(map));
        }
    }

    /// The registers of a pair or of one, as the table names them.
    fn registers(answer: Answer) -> Vec<&'static str> {
        let all = [("EAX", answer.eax), ("EBX", answer.ebx), ("ECX", answer.ecx), ("EDX", answer.edx)];
        all.into_iter().filter(|(_, value)| *value != 0).map(|(name, _)| name).collect()
    }

    #[test]
    fn the_table_names_the_registers_that_have_the_answer() {
        let full = u64::MAX;
        for row in TABLE {
            let answer = match row.leaf {
                Leaf::TotalCount | Leaf::ReasonCount => Answer::count(full),
                Leaf::TotalCycles | Leaf::ReasonCycles | Leaf::SvmCycles => Answer::cycles(full),
                Leaf::Totals => Answer::totals(full, full),
                Leaf::Status => Answer::status(Status::Enabled, full, full),
                Leaf::Extremes => Answer::extremes(full, full),
                Leaf::Bucket => Answer::bucket(full),
                Leaf::SvmStatus => Answer::svm_status(Status::Enabled, full, None),
                Leaf::Exits => Answer::exits(full, full),
                Leaf::Contract => Answer { eax: CONTRACT_VERSION, ebx: 1, ..Answer::ZERO },
            };
            let mut named: Vec<&str> = row.answers.iter().flat_map(|(registers, _)| registers.split(':')).collect();
            named.sort_unstable();
            assert_eq!(named, registers(answer), "{:?}", row.leaf);
        }
    }

    #[test]
    fn the_table_has_every_leaf_once() {
        for map in LeafMap::ALL {
            for leaf in (CONTRACT..=0x4fff_ffff).filter_map(|eax| map.decode(eax)) {
                assert_eq!(TABLE.iter().filter(|row| row.leaf == leaf).count(), 1, "{leaf:?}");
            }
        }
    }

    #[test]
    fn the_fields_of_a_question_are_where_it_is_encoded() {
        let bits = |question: Question, name: &str| {
            let (_, high, low) = question.fields().iter().find(|field| field.0 == name).unwrap();
            ((1_u64 << (high + 1)) - (1 << low)) as u32
        };
        let all = |reason, vcpu| RowQuery { reason, vcpu }.encode();
        for (question, reason) in [(Question::Row, "reason"), (Question::Code, "SVM exit code")] {
            assert_eq!(bits(question, reason), all(u16::MAX, None));
        }
        for question in [Question::Row, Question::Code, Question::Vcpu] {
            assert_eq!(bits(question, "vCPU + 1"), all(0, Some(u16::MAX - 1)));
        }
        let all = |reason, bucket, vcpu| BucketQuery { reason, bucket, vcpu }.encode();
        assert_eq!(bits(Question::Bucket, "reason"), all(u16::MAX, 0, None));
        assert_eq!(bits(Question::Bucket, "bucket"), all(0, u8::MAX, None));
        assert_eq!(bits(Question::Bucket, "vCPU + 1"), all(0, 0, Some(254)));
    }

    proptest! {
        #[test]
        fn queries_round_trip(ecx in any::<u32>()) {
            prop_assert_eq!(RowQuery::decode(ecx).encode(), ecx);
            prop_assert_eq!(BucketQuery::decode(ecx).encode(), ecx);
        }

        #[test]
        fn pairs_round_trip(a in any::<u64>(), b in any::<u64>()) {
            prop_assert_eq!(Answer::cycles(a).ebx_ecx(), a);
            prop_assert_eq!(Answer::bucket(a).edx_eax(), a);
            prop_assert_eq!((Answer::exits(a, b).ebx_ecx(), Answer::exits(a, b).edx_eax()), (a, b));
            prop_assert_eq!((Answer::extremes(a, b).ebx_eax(), Answer::extremes(a, b).edx_ecx()), (a, b));
        }
    }
}
