//! The account as CPUID leaves (contract in [`tollgate_abi::leaves`]), and the CPUID leaves that are not plain.

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::{ROWS, Status};
use tollgate_abi::leaves::{Answer, BucketQuery, CONTRACT_VERSION, Leaf, RowQuery};
use tollgate_abi::svm_exit::of_code;

use super::cpuid::put;
use crate::exit::{Action, GuestRegisters};
use crate::ledger::{BUCKETS, Ledger};
use crate::machine::Machine;

/// Answers any leaf.
#[inline(never)]
pub fn handle(registers: &mut GuestRegisters, machine: &Machine, xcr0: u64) -> Action {
    let (leaf, ecx) = (registers.rax as u32, registers.rcx as u32);
    let answer = match machine.config.leaf_map.decode(leaf) {
        Some(leaf) => account(leaf, ecx, machine, machine.shared.ledgers),
        None => machine.devices.cpuid.answer(leaf, ecx, xcr0),
    };
    put(registers, answer);
    Action::StepOver
}

fn account(leaf: Leaf, ecx: u32, machine: &Machine, ledgers: &[&Ledger]) -> Answer {
    let exits = || ledgers.iter().map(|ledger| ledger.exits()).sum();
    let cycles = || ledgers.iter().map(|ledger| ledger.cycles()).sum();
    let status = |reason: u16| ExitReason(reason).status(&machine.config.controls);
    // The course's leaves take all of ECX as the reason; no reason has more than 16 bits.
    let wide = || u16::try_from(ecx).map_or(Status::Undefined, status);
    match leaf {
        Leaf::TotalCount => Answer::count(exits()),
        Leaf::TotalCycles => Answer::cycles(cycles()),
        Leaf::Totals => Answer::totals(exits(), cycles()),
        Leaf::ReasonCount => by_status(wide(), || Answer::count(sum(ledgers, None, ecx as u16, Ledger::count))),
        Leaf::ReasonCycles => by_status(wide(), || Answer::cycles(sum(ledgers, None, ecx as u16, Ledger::cycles_of))),
        Leaf::Status => {
            let query = RowQuery::decode(ecx);
            match (status(query.reason), exists(query.vcpu, ledgers)) {
                (Status::Undefined, _) | (_, false) => Answer::ZERO,
                (status, true) => {
                    let looks = sum(ledgers, query.vcpu, query.reason, Ledger::looks_of);
                    Answer::status(status, sum(ledgers, query.vcpu, query.reason, Ledger::count), looks)
                }
            }
        }
        Leaf::Extremes => {
            let query = RowQuery::decode(ecx);
            if !ExitReason(query.reason).is_defined() {
                return Answer::ZERO;
            }
            let of_each = chosen(ledgers, query.vcpu).map(|ledger| ledger.extremes(ExitReason(query.reason)));
            let (min, max) = of_each.fold((u64::MAX, 0), |all, one| (all.0.min(one.0), all.1.max(one.1)));
            Answer::extremes(if min == u64::MAX { 0 } else { min }, max)
        }
        Leaf::SvmStatus => {
            let query = RowQuery::decode(ecx);
            match row_of_svm(query, machine, ledgers) {
                None => Answer::ZERO,
                Some(reason) => {
                    let count = sum(ledgers, query.vcpu, reason.0, Ledger::count);
                    let stands_for = Some(reason).filter(|reason| reason.is_defined());
                    Answer::svm_status(reason.row_status(&machine.config.controls), count, stands_for)
                }
            }
        }
        Leaf::SvmCycles => {
            let query = RowQuery::decode(ecx);
            match row_of_svm(query, machine, ledgers) {
                None => Answer::ZERO,
                Some(reason) => Answer::cycles(sum(ledgers, query.vcpu, reason.0, Ledger::cycles_of)),
            }
        }
        Leaf::Exits => {
            let chosen = || chosen(ledgers, RowQuery::decode(ecx).vcpu);
            Answer::exits(chosen().map(Ledger::exits).sum(), chosen().map(Ledger::looks).sum())
        }
        Leaf::Bucket => {
            let query = BucketQuery::decode(ecx);
            if usize::from(query.bucket) >= BUCKETS || !ExitReason(query.reason).is_defined() {
                return Answer::ZERO;
            }
            Answer::bucket(sum(ledgers, query.vcpu, query.reason, |ledger, reason| {
                ledger.bucket(reason, query.bucket.into())
            }))
        }
        Leaf::Contract => Answer { eax: CONTRACT_VERSION, ebx: machine.shared.ledgers.len() as u32, ..Answer::ZERO },
    }
}

/// The reason that an SVM exit code stands for; `None` under VT-x, and where there is no such code or vCPU.
#[inline(always)]
fn row_of_svm(query: RowQuery, machine: &Machine, ledgers: &[&Ledger]) -> Option<ExitReason> {
    of_code(query.reason.into()).filter(|_| machine.config.controls.svm.is_some() && exists(query.vcpu, ledgers))
}

fn by_status(status: Status, enabled: impl FnOnce() -> Answer) -> Answer {
    match status {
        Status::Undefined => Answer::UNDEFINED,
        Status::NotEnabled => Answer::ZERO,
        Status::Enabled => enabled(),
    }
}

fn exists(vcpu: Option<u16>, ledgers: &[&Ledger]) -> bool {
    vcpu.is_none_or(|vcpu| usize::from(vcpu) < ledgers.len())
}

/// The ledger of one vCPU, or of all; none if there is no such vCPU.
fn chosen<'a>(ledgers: &'a [&'a Ledger], vcpu: Option<u16>) -> impl Iterator<Item = &'a Ledger> {
    ledgers
        .iter()
        .enumerate()
        .filter(move |&(number, _)| vcpu.is_none_or(|vcpu| usize::from(vcpu) == number))
        .map(|(_, ledger)| *ledger)
}

fn sum(ledgers: &[&Ledger], vcpu: Option<u16>, reason: u16, of: impl Fn(&Ledger, ExitReason) -> u64) -> u64 {
    debug_assert!(usize::from(reason) < ROWS);
    chosen(ledgers, vcpu).map(|ledger| of(ledger, ExitReason(reason))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Account;
    use crate::machine::Configuration;
    use crate::script::machine_with;
    use proptest::prelude::*;
    use tollgate_abi::exit_reason::Controls;
    use tollgate_abi::leaves::LeafMap;

    fn machine(leaf_map: LeafMap, ledgers: &'static [&'static Ledger]) -> Machine {
        let mut machine = machine_with(ledgers);
        machine.config =
            Configuration { leaf_map, controls: Controls { proc: 1 << 7, ..Controls::default() }, ..machine.config };
        machine
    }

    fn ledger(exits: &[(ExitReason, u64)]) -> Ledger {
        let ledger = Ledger::new();
        for &(reason, cycles) in exits {
            let open = ledger.open(reason);
            ledger.close(open, 0, || cycles);
        }
        ledger
    }

    /// EAX, EBX, ECX, EDX of a leaf, asked with every register full of ones.
    fn ask(map: LeafMap, leaf: u32, ecx: u32) -> [u64; 4] {
        let first = ledger(&[(ExitReason::CPUID, 1 << 33), (ExitReason::CPUID, 5), (ExitReason::HLT, 7)]);
        let second = ledger(&[(ExitReason::CPUID, 3)]);
        let ledgers: Vec<&Ledger> = vec![Box::leak(Box::new(first)), Box::leak(Box::new(second))];
        let ledgers = ledgers.leak();
        let mut registers = GuestRegisters {
            rax: !0 << 32 | u64::from(leaf),
            rbx: !0,
            rcx: !0 << 32 | u64::from(ecx),
            rdx: !0,
            ..Default::default()
        };
        assert_eq!(handle(&mut registers, &machine(map, ledgers), 3), Action::StepOver);
        [registers.rax, registers.rbx, registers.rcx, registers.rdx]
    }

    const NONE: [u64; 4] = [0; 4];
    const UNDEFINED: [u64; 4] = [0, 0, 0, 0xffff_ffff];
    const F21: LeafMap = LeafMap::Autumn2021;

    #[test]
    fn the_course_leaves_answer_to_the_letter() {
        assert_eq!(ask(F21, 0x4fff_ffff, 99), [4, 0, 0, 0]);
        assert_eq!(ask(F21, 0x4fff_fffe, 99), [0, 2, 15, 0]);
        assert_eq!(ask(F21, 0x4fff_fffd, 10), [3, 0, 0, 0]);
        assert_eq!(ask(F21, 0x4fff_fffc, 10), [0, 2, 8, 0]);
        assert_eq!(ask(F21, 0x4fff_fffd, 12), [1, 0, 0, 0]);
        assert_eq!(ask(F21, 0x4fff_fffd, 16), NONE, "RDTSC is not enabled");
        for reason in [35, 38, 42, 71, 82, 83, 86, 127, 128, 0xffff, 0x1_000a, 0xffff_ffff] {
            assert_eq!(ask(F21, 0x4fff_fffd, reason), UNDEFINED);
            assert_eq!(ask(F21, 0x4fff_fffc, reason), UNDEFINED);
        }
    }

    #[test]
    fn other_terms_have_their_own_numbers() {
        assert_eq!(ask(LeafMap::Spring2021, 0x4fff_ffff, 0), [4, 2, 15, 0]);
        assert_eq!(ask(LeafMap::Spring2021, 0x4fff_fffe, 10), [3, 0, 0, 0]);
        assert_eq!(ask(LeafMap::Spring2021, 0x4fff_fffd, 10), NONE);
        assert_eq!(ask(LeafMap::Autumn2022, 0x4fff_fffc, 0), [4, 0, 0, 0]);
        assert_eq!(ask(LeafMap::Autumn2022, 0x4fff_fffd, 0), [0, 2, 15, 0]);
        assert_eq!(ask(LeafMap::Autumn2022, 0x4fff_fffe, 10), [3, 0, 0, 0]);
        assert_eq!(ask(LeafMap::Autumn2022, 0x4fff_ffff, 10), [0, 2, 8, 0]);
    }

    #[test]
    fn our_leaves_tell_undefined_from_not_enabled_and_one_vcpu_from_all() {
        assert_eq!(ask(F21, 0x4fff_fffb, 10), [2, 0, 3, 0]);
        assert_eq!(ask(F21, 0x4fff_fffb, 10 | 1 << 16), [2, 0, 2, 0]);
        assert_eq!(ask(F21, 0x4fff_fffb, 10 | 2 << 16), [2, 0, 1, 0]);
        assert_eq!(ask(F21, 0x4fff_fffb, 10 | 3 << 16), NONE);
        assert_eq!(ask(F21, 0x4fff_fffb, 16), [1, 0, 0, 0]);
        assert_eq!(ask(F21, 0x4fff_fffb, 35), NONE);
        assert_eq!(ask(F21, 0x4fff_fffa, 10), [3, 0, 0, 2]);
        assert_eq!(ask(F21, 0x4fff_fffa, 10 | 1 << 16), [5, 0, 0, 2]);
        assert_eq!(ask(F21, 0x4fff_fffa, 13), NONE);
        assert_eq!(ask(F21, 0x4fff_fff9, 10 | 33 << 16), [1, 0, 0, 0]);
        assert_eq!(ask(F21, 0x4fff_fff9, 10 | 1 << 16 | 2 << 24), [1, 0, 0, 0]);
        assert_eq!(ask(F21, 0x4fff_fff9, 10 | 64 << 16), NONE);
        assert_eq!(ask(F21, 0x4fff_fff0, 0), [CONTRACT_VERSION.into(), 2, 0, 0]);
        assert_eq!(ask(F21, 0x4fff_fff8, 0x80), NONE, "there is no SVM");
        assert_eq!(ask(F21, 0x4fff_fff6, 0), [0, 0, 4, 0]);
        assert_eq!(ask(F21, 0x4fff_fff6, 2 << 16), [0, 0, 1, 0]);
        assert_eq!(ask(F21, 0x4fff_fff6, 3 << 16), NONE);
        assert_eq!(ask(F21, 0x4fff_fff5, 0), NONE);
    }

    #[test]
    fn our_leaves_tell_the_monitors_looks_and_the_courses_count_them() {
        let external = u64::from(ExitReason::EXTERNAL_INTERRUPT.0);
        let looked_at = ledger(&[(ExitReason::EXTERNAL_INTERRUPT, 5), (ExitReason::EXTERNAL_INTERRUPT, 5)]);
        looked_at.is_look(ExitReason::EXTERNAL_INTERRUPT);
        let other = ledger(&[(ExitReason::EXTERNAL_INTERRUPT, 5), (ExitReason::CPUID, 5)]);
        let ledgers: &'static [&'static Ledger] =
            vec![&*Box::leak(Box::new(looked_at)), Box::leak(Box::new(other))].leak();
        let controls = Controls { pin: 1, ..Controls::default() };
        let mut machine = machine(F21, ledgers);
        machine.config.controls = controls;
        let ask = |leaf: u64, ecx: u64| {
            let mut registers = GuestRegisters { rax: leaf, rcx: ecx, ..Default::default() };
            assert_eq!(handle(&mut registers, &machine, 3), Action::StepOver);
            [registers.rax, registers.rbx, registers.rcx, registers.rdx]
        };
        assert_eq!(ask(0x4fff_fffb, external), [2, 0, 3, 1]);
        assert_eq!(ask(0x4fff_fffb, external | 1 << 16), [2, 0, 2, 1]);
        assert_eq!(ask(0x4fff_fffb, external | 2 << 16), [2, 0, 1, 0]);
        assert_eq!(ask(0x4fff_fffb, 10), [2, 0, 1, 0]);
        assert_eq!(ask(0x4fff_fff6, 0), [1, 0, 4, 0]);
        assert_eq!(ask(0x4fff_fff6, 2 << 16), [0, 0, 2, 0]);
        assert_eq!(ask(0x4fff_ffff, 0), [4, 0, 0, 0], "to the letter");
        assert_eq!(ask(0x4fff_fffd, external), [3, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn any_question_gets_a_whole_answer(leaf in prop_oneof![any::<u32>(), 0x4fff_fff0u32..=0x4fff_ffff], ecx in any::<u32>()) {
            for map in LeafMap::ALL {
                prop_assert!(ask(map, leaf, ecx).iter().all(|register| register >> 32 == 0));
            }
        }
    }
}
