//! The leaf contract, to the letter: every leaf, for every reason 0 to 127 and for wild ones.
//!
//! Counts must equal the guest's own book exactly; that works because every exit so far was booked before it came. Times can only
//! be bounded: the CPUID that asks is counted, but its own time is not yet in. Under SVM the monitor's own looks at a guest that
//! ran long are in the counts and not in the book; only one of the leaves tells their number.

use tollgate_abi::exit_reason::{ExitReason, Status};
use tollgate_abi::leaves::{Answer, BucketQuery, CONTRACT, CONTRACT_VERSION, HYPERVISOR, Leaf, RowQuery, SIGNATURE};
use tollgate_abi::workload::WILD_REASONS;

use super::expect::ensure;
use super::{Outcome, Run};
use crate::books::book::{booked, booked_on, total};
use crate::books::cpu;
use crate::books::intercepts::enabled;
use crate::ops::cpuid::cpuid_wide;

/// Stands in the upper halves of the registers before CPUID; nothing of it may be left afterwards.
const POISON: u64 = 0xdead_beef_0000_0000;
/// Stands in the lower halves of the registers that CPUID does not read.
const STALE: u64 = 0x5a5a_5a5a;

/// CPUID.1:ECX, bit 31: there is a hypervisor.
const HYPERVISOR_PRESENT: u32 = 1 << 31;
const HYPERVISOR_LEAVES: core::ops::RangeInclusive<u32> = HYPERVISOR..=0x4fff_ffff;

/// The leaves that are asked for each reason, in this order, and those that are asked once.
const PER_REASON: [u32; 5] = [0x4fff_fffd, 0x4fff_fffc, 0x4fff_fffb, 0x4fff_fffa, 0x4fff_fff9];
const ONCE: [u32; 2] = [0x4fff_ffff, 0x4fff_fffe];

const _: () = assert!(
    PER_REASON.len() as u64 * (128 + WILD_REASONS.len() as u64) + ONCE.len() as u64 + 3
        == tollgate_abi::workload::LEAF_QUERIES
);

pub(super) fn leaves(run: &Run) -> Outcome {
    ensure!(run.account.kept, "the leaves need the account, and this run has accounting=off");
    let mut questioner = Questioner { run, seen: Seen::default(), last_total_cycles: 0, looks: 0 };
    for _ in 0..run.iterations {
        questioner.ask_all()?;
    }
    Ok(())
}

/// Earlier answers about the same reason.
#[derive(Default)]
struct Seen {
    /// Cycles, and the number of exits that had been timed then.
    cycles: Option<(u64, u64)>,
    max: u64,
}

struct Questioner<'r> {
    run: &'r Run,
    seen: Seen,
    last_total_cycles: u64,
    /// The monitor's own looks so far, which only grow.
    looks: u32,
}

impl Questioner<'_> {
    fn ask_all(&mut self) -> Outcome {
        for eax in ONCE {
            self.ask(eax, ExitReason::CPUID.0.into())?;
        }
        for &ecx in WILD_REASONS {
            self.seen = Seen::default();
            for eax in PER_REASON {
                self.ask(eax, ecx)?;
            }
        }
        // The reason of looks comes last: the leaf that tells looks bounds what was taken for looks before.
        let last = looked_by().0;
        for reason in (0..128).filter(|&reason| reason != last).chain([last]) {
            self.seen = Seen::default();
            let vcpu = self.whose(reason);
            for eax in PER_REASON {
                let ecx = match self.run.account.leaf_map.decode(eax) {
                    // The bucket of the longest exit, which can't be empty.
                    Some(Leaf::Bucket) => BucketQuery { reason, bucket: bucket_of(self.seen.max), vcpu }.encode(),
                    Some(Leaf::Status | Leaf::Extremes) => RowQuery { reason, vcpu }.encode(),
                    _ => reason.into(),
                };
                self.ask(eax, ecx)?;
            }
        }
        self.seen = Seen::default();
        self.ask(CONTRACT, 0)?;
        identity()
    }

    /// The vCPU whose exits are asked for; `None` for all together. By turns, all vCPUs together, then each one. For the reason
    /// of looks, always all together.
    fn whose(&self, reason: u16) -> Option<u16> {
        match self.run.vcpus as u16 {
            1 => None,
            _ if ExitReason(reason) == looked_by() => None,
            vcpus => (reason % (vcpus + 1)).checked_sub(1),
        }
    }

    /// The booked exits and the monitor's looks; the count of all vCPUs in EAX tells how many those are.
    fn with_looks(&mut self, answer: Answer, booked: u64) -> Result<u64, alloc::string::String> {
        let looks = answer.eax.wrapping_sub(booked as u32);
        self.now_looks(looks)?;
        Ok(booked + u64::from(looks))
    }

    fn now_looks(&mut self, looks: u32) -> Outcome {
        let known = self.looks;
        ensure!(
            looks.wrapping_sub(known) < 1 << 31,
            "{looks} exits beyond what was booked, and {known} looks of the monitor before"
        );
        self.looks = looks;
        Ok(())
    }

    /// Asks one of Tollgate's own leaves and checks the answer.
    fn ask(&mut self, eax: u32, ecx: u32) -> Outcome {
        let answer = question(eax, ecx)?;
        let checked = match self.run.account.leaf_map.decode(eax) {
            None => equal(answer, Answer::ZERO),
            Some(Leaf::TotalCount) => equal(answer, Answer::count(self.with_looks(answer, total())?)),
            Some(Leaf::TotalCycles) => self.total_cycles(answer, Answer::cycles(answer.ebx_ecx())),
            Some(Leaf::Totals) => {
                let total = self.with_looks(answer, total())?;
                self.total_cycles(answer, Answer::totals(total, answer.ebx_ecx()))
            }
            Some(Leaf::ReasonCount) => self.reason_count(answer, ecx),
            Some(Leaf::ReasonCycles) => self.reason_cycles(answer, ecx),
            Some(Leaf::Status) => self.status(answer, ecx),
            Some(Leaf::Extremes) => self.extremes(answer, ecx),
            Some(Leaf::Bucket) => self.bucket(answer, ecx),
            // Asked by "svm-instructions" and "compute".
            Some(Leaf::SvmStatus | Leaf::SvmCycles | Leaf::Exits) => Ok(()),
            Some(Leaf::Contract) => {
                equal(answer, Answer { eax: CONTRACT_VERSION, ebx: self.run.vcpus as u32, ..Answer::ZERO })
            }
        };
        checked.map_err(|what| alloc::format!("leaf {eax:#x}, ECX {ecx:#x}: {what}"))
    }

    fn total_cycles(&mut self, answer: Answer, shape: Answer) -> Outcome {
        equal(answer, shape)?;
        let cycles = answer.ebx_ecx();
        ensure!(cycles >= total() - 1, "{cycles} cycles for {} exits", total() - 1);
        ensure!(cycles > self.last_total_cycles, "cycles went from {} to {cycles}", self.last_total_cycles);
        self.last_total_cycles = cycles;
        Ok(())
    }

    fn reason_count(&mut self, answer: Answer, ecx: u32) -> Outcome {
        let booked = match course_reason(ecx).filter(|&reason| enabled(reason)) {
            Some(reason) if reason == looked_by() => self.with_looks(answer, booked(reason))?,
            reason => reason.map_or(0, booked),
        };
        equal(answer, course_answer(ecx, |_| Answer::count(booked)))
    }

    fn reason_cycles(&mut self, answer: Answer, ecx: u32) -> Outcome {
        equal(answer, course_answer(ecx, |_| Answer::cycles(answer.ebx_ecx())))?;
        if let Some(reason) = course_reason(ecx).filter(|&reason| enabled(reason)) {
            self.seen.cycles = Some((answer.ebx_ecx(), self.timed(reason, None)));
        }
        Ok(())
    }

    /// The row that Tollgate's own leaves answer for, if there is one.
    fn row(&self, reason: u16, vcpu: Option<u16>) -> Option<ExitReason> {
        let reason = ExitReason(reason);
        let vcpu_exists = vcpu.is_none_or(|vcpu| u64::from(vcpu) < self.run.vcpus);
        (reason.is_defined() && vcpu_exists).then_some(reason)
    }

    fn status(&mut self, answer: Answer, ecx: u32) -> Outcome {
        let query = RowQuery::decode(ecx);
        let expected = match self.row(query.reason, query.vcpu) {
            None => Answer::status(Status::Undefined, 0, 0),
            Some(reason) => {
                let looks = if reason == looked_by() { answer.edx } else { 0 };
                if looks != self.looks && reason == looked_by() {
                    self.now_looks(looks)?;
                    // A look has come since the cycles were asked for.
                    self.seen.cycles = None;
                }
                let status = if enabled(reason) { Status::Enabled } else { Status::NotEnabled };
                Answer::status(status, booked_on(reason, query.vcpu) + u64::from(looks), looks.into())
            }
        };
        equal(answer, expected)
    }

    fn extremes(&mut self, answer: Answer, ecx: u32) -> Outcome {
        let query = RowQuery::decode(ecx);
        let row = self.row(query.reason, query.vcpu);
        let own_exits = row.map_or(0, |reason| self.timed(reason, query.vcpu));
        let may_be_looked_at = row == Some(looked_by()) && answer != Answer::ZERO;
        if own_exits == 0 && !may_be_looked_at {
            return equal(answer, Answer::ZERO);
        }
        let (min, max) = (answer.ebx_eax(), answer.edx_ecx());
        ensure!(0 < min && min <= max, "minimum {min}, maximum {max} of {own_exits} exits");
        self.seen.max = max;
        // The course's leaves, which told the cycles, are of all vCPUs together.
        if let Some((cycles, exits)) = self.seen.cycles.filter(|_| query.vcpu.is_none()) {
            // The cycles were read before the extremes, which can only have widened since.
            let (least, most) = (min.saturating_mul(exits), max.saturating_mul(exits));
            ensure!(least <= cycles && cycles <= most, "{cycles} cycles for {exits} exits of {min} to {max}");
        }
        Ok(())
    }

    fn bucket(&self, answer: Answer, ecx: u32) -> Outcome {
        let query = BucketQuery::decode(ecx);
        let count = answer.edx_eax();
        equal(answer, Answer::bucket(count))?;
        let row = self.row(query.reason, query.vcpu);
        let exits = row.map_or(0, |reason| self.timed(reason, query.vcpu));
        ensure!(count <= exits || row == Some(looked_by()), "{count} of {exits} exits");
        let holds_longest = self.seen.max > 0 && query.bucket == bucket_of(self.seen.max);
        ensure!(count > 0 || !holds_longest, "no exit, and the longest took {} cycles", self.seen.max);
        Ok(())
    }

    /// Exits of one vCPU, or all, whose time is in the account: booked exits and the monitor's looks, without the CPUID that
    /// asks.
    fn timed(&self, reason: ExitReason, vcpu: Option<u16>) -> u64 {
        let is_asked_by = vcpu.is_none_or(|vcpu| usize::from(vcpu) == cpu::number());
        let looks = if reason == looked_by() { self.looks } else { 0 };
        booked_on(reason, vcpu) + u64::from(looks) - u64::from(reason == ExitReason::CPUID && is_asked_by)
    }
}

/// The leaves by which any hypervisor is recognized.
fn identity() -> Outcome {
    let features = question(1, 0)?;
    ensure!(features.ecx & HYPERVISOR_PRESENT != 0, "CPUID.1:ECX is {:#x}: no hypervisor", features.ecx);
    let signature = question(HYPERVISOR, 0)?;
    let mut text = [0; 12];
    for (bytes, register) in text.chunks_exact_mut(4).zip([signature.ebx, signature.ecx, signature.edx]) {
        bytes.copy_from_slice(&register.to_le_bytes());
    }
    ensure!(&text == SIGNATURE, "the signature is {text:02x?}");
    ensure!(HYPERVISOR_LEAVES.contains(&signature.eax), "the highest hypervisor leaf is {:#x}", signature.eax);
    Ok(())
}

/// CPUID with poison in all register parts that it does not read; the upper halves must come back zero.
fn question(eax: u32, ecx: u32) -> Result<Answer, alloc::string::String> {
    let after = cpuid_wide([POISON | u64::from(eax), POISON | STALE, POISON | u64::from(ecx), POISON | STALE]);
    ensure!(
        after.iter().all(|register| register >> 32 == 0),
        "leaf {eax:#x}, ECX {ecx:#x}: RAX, RBX, RCX, RDX are {after:x?}"
    );
    let [eax, ebx, ecx, edx] = after.map(|register| register as u32);
    Ok(Answer { eax, ebx, ecx, edx })
}

fn equal(answer: Answer, expected: Answer) -> Outcome {
    ensure!(answer == expected, "{answer:x?}, expected {expected:x?}");
    Ok(())
}

/// The reason in ECX: the course's leaves read all of it.
fn course_reason(ecx: u32) -> Option<ExitReason> {
    u16::try_from(ecx).ok().map(ExitReason).filter(|reason| reason.is_defined())
}

/// The answer of a course leaf, given its answer for an enabled reason.
fn course_answer(ecx: u32, enabled_answer: impl Fn(ExitReason) -> Answer) -> Answer {
    match course_reason(ecx) {
        None => Answer::UNDEFINED,
        Some(reason) if enabled(reason) => enabled_answer(reason),
        Some(_) => Answer::ZERO,
    }
}

/// The reason of the monitor's looks. An answer may have one look more, which came since they were told.
fn looked_by() -> ExitReason {
    if enabled(ExitReason::PREEMPTION_TIMER) { ExitReason::PREEMPTION_TIMER } else { ExitReason::EXTERNAL_INTERRUPT }
}

/// The histogram's bucket for an exit of this many cycles.
fn bucket_of(cycles: u64) -> u8 {
    cycles.checked_ilog2().unwrap_or(0) as u8
}
