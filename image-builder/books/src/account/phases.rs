//! The phases of a run: from its beginning to the first mark in the guest's console, from each mark to the next, and from the last to
//! the end. What each has is the difference of two accounts, so that the phases together are the ledger.

use std::cmp::Reverse;

use serde::Serialize;
use tollgate_abi::record::Kind;

use super::findings::Findings;
use super::{Reason, Totals, is_none, row_name};
use crate::log::{Log, Marked, Part, Reached};

/// The name of a run's beginning, where a mark would stand.
pub const START: &str = "start";
/// The name of its end.
pub const END: &str = "end";

/// The records of phases, and those of the end.
const KINDS: [Kind; 4] = [Kind::Mark, Kind::AtMark, Kind::Exit, Kind::Total];

/// A mark in the guest's console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// Its name.
    pub name: String,
    /// The text that the console showed.
    pub text: String,
    /// The account until then; `null` if it was never reached.
    pub until: Option<Until>,
}

/// The account from the run's beginning to a mark, of all vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Until {
    /// The vCPU that sent the text.
    pub vcpu: u64,
    /// Ticks of the guest's clock from vCPU 0's first entry: TSC ticks, and those of idle time that were skipped.
    pub ticks: u64,
    /// Exits.
    pub exits: u64,
    /// TSC ticks of these.
    pub cycles: u64,
}

/// A part of the run, of all vCPUs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// The mark with which it begins, or [`START`].
    pub from: String,
    /// The mark with which it ends, or [`END`].
    pub to: String,
    /// Ticks of the guest's clock from vCPU 0's first entry to its beginning.
    pub begin: u64,
    /// Ticks of the guest's clock from its beginning to its end.
    pub ticks: u64,
    /// Exits.
    pub exits: u64,
    /// TSC ticks of these.
    pub cycles: u64,
    /// TSC ticks that the monitor worked for the guest outside of exits, above all to write the log.
    pub paused: u64,
    /// Ticks of idle time that were skipped.
    #[serde(skip_serializing_if = "is_none")]
    pub skipped: u64,
    /// The ticks that remain, in which the guest ran; `null` where there are several vCPUs, which run at the same time.
    pub guest_ticks: Option<u64>,
    /// Exits in a million ticks; `null` for a phase without ticks.
    pub rate: Option<f64>,
    /// The reasons of its exits, the most frequent first.
    pub reasons: Vec<PhaseReason>,
}

/// One reason in a phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PhaseReason {
    /// The basic exit reason.
    pub number: u16,
    /// The SDM's name.
    pub name: String,
    /// Exits.
    pub count: u64,
    /// TSC ticks of these.
    pub cycles: u64,
}

/// The marks, those that were reached in their order, then the others.
pub(super) fn marks(log: &Log) -> Vec<Mark> {
    let until = |reached: &Reached| {
        let &Reached { vcpu, exits, cycles, .. } = reached;
        Until { vcpu, ticks: clock(reached), exits, cycles }
    };
    let reached = in_order(log).into_iter();
    let all = reached.chain(log.marks.iter().filter(|mark| mark.reached.is_none()));
    let one = |Marked { name, text, reached }: &Marked| Mark {
        name: name.clone(),
        text: text.clone(),
        until: reached.as_ref().map(until),
    };
    all.map(one).collect()
}

/// The guest's clock at a moment: what was skipped passed for the guest, too.
fn clock(at: &Reached) -> u64 {
    at.at.saturating_add(at.skipped)
}

/// The marks that were reached. Several that stand in one line, or on several vCPUs, may have been written in another order.
fn in_order(log: &Log) -> Vec<&Marked> {
    let mut reached: Vec<&Marked> = log.marks.iter().filter(|mark| mark.reached.is_some()).collect();
    reached.sort_by_key(|mark| mark.reached.as_ref().map(|reached| (reached.at, reached.exits)));
    reached
}

/// The phases; none if no mark was reached. A log without an end has none behind its last mark.
pub(super) fn phases(log: &Log, reasons: &[Reason], totals: &Totals) -> Vec<Phase> {
    let mut begin = (START, Reached::default());
    let mut phases = Vec::new();
    let marks = in_order(log);
    let end = Some((END, end(log, reasons, totals))).filter(|_| !marks.is_empty() && !log.totals.is_empty());
    let reached = marks.into_iter().filter_map(|mark| Some((mark.name.as_str(), mark.reached.clone()?)));
    for next in reached.chain(end) {
        phases.push(between(&begin, &next, log.header.vcpus));
        begin = next;
    }
    phases
}

/// The account at the end.
fn end(log: &Log, reasons: &[Reason], totals: &Totals) -> Reached {
    let part = |reason: &Reason| Part { count: reason.exits.figures.count, cycles: reason.exits.figures.cycles };
    Reached {
        vcpu: 0,
        at: totals.elapsed,
        exits: totals.exits,
        cycles: totals.cycles,
        paused: log.totals.values().map(|total| total.paused).fold(0, u64::saturating_add),
        // Time is skipped only while all vCPUs rest, vCPU 0 among them.
        skipped: log.totals.get(&0).map_or(0, |total| total.skipped),
        reasons: reasons.iter().map(|reason| (reason.number, part(reason))).collect(),
    }
}

fn between((from, begin): &(&str, Reached), (to, end): &(&str, Reached), vcpus: u64) -> Phase {
    let more = |figure: fn(&Reached) -> u64| figure(end).saturating_sub(figure(begin));
    let (ticks, exits) = (more(clock), more(|at| at.exits));
    let (cycles, paused, skipped) = (more(|at| at.cycles), more(|at| at.paused), more(|at| at.skipped));
    let others = cycles.saturating_add(paused).saturating_add(skipped);
    let before = |number: u16| begin.reasons.get(&number).copied().unwrap_or_default();
    let row = |(&number, part): (&u16, &Part)| PhaseReason {
        number,
        name: row_name(number).to_owned(),
        count: part.count.saturating_sub(before(number).count),
        cycles: part.cycles.saturating_sub(before(number).cycles),
    };
    let mut reasons: Vec<PhaseReason> = end.reasons.iter().map(row).collect();
    reasons.retain(|row| row.count > 0 || row.cycles > 0);
    reasons.sort_by_key(|row| (Reverse(row.count), row.number));
    Phase {
        from: (*from).to_owned(),
        to: (*to).to_owned(),
        begin: clock(begin),
        ticks,
        exits,
        cycles,
        paused,
        skipped,
        guest_ticks: (vcpus == 1).then(|| ticks.saturating_sub(others)),
        rate: (ticks > 0).then(|| exits as f64 * 1e6 / ticks as f64),
        reasons,
    }
}

/// Checks that the account grows from mark to mark up to the ledger, each reason by itself, and that each mark's reasons sum up.
pub(super) fn check(log: &Log, reasons: &[Reason], totals: &Totals, found: &mut Findings<'_>) {
    let mut before: Option<(&str, Reached)> = None;
    let end = Some((END, end(log, reasons, totals))).filter(|_| !log.totals.is_empty());
    let marks = in_order(log);
    let reached = marks.into_iter().filter_map(|mark| Some((mark.name.as_str(), mark.reached.clone()?)));
    for (name, at) in reached.chain(end) {
        let sum = |figure: fn(&Part) -> u64| at.reasons.values().map(figure).fold(0, u64::saturating_add);
        let (exits, cycles) = (sum(|part| part.count), sum(|part| part.cycles));
        if name != END && (exits, cycles) != (at.exits, at.cycles) {
            let (all_exits, all_cycles) = (at.exits, at.cycles);
            let sentence = format!(
                "mark {name}: its reasons have {exits} exits and {cycles} cycles, its sums {all_exits} and {all_cycles}"
            );
            found.between(&KINDS, sentence);
        }
        let outside = at.cycles.saturating_add(at.paused);
        if log.header.vcpus == 1 && outside > at.at {
            found.push(format!("mark {name}: {outside} cycles of exits and pauses in {} elapsed", at.at));
        }
        if let Some((last, known)) = &before
            && let Some(what) = shrinks(known, &at)
        {
            found.between(&KINDS, format!("from the mark {last} to {name} {what}"));
        }
        before = Some((name, at));
    }
}

/// The figure that is less at `next` than before.
fn shrinks(known: &Reached, next: &Reached) -> Option<String> {
    let fell = |what: &str, from: u64, to: u64| (to < from).then(|| format!("{what} fell from {from} to {to}"));
    let sums = [
        ("the ticks", known.at, next.at),
        ("the exits", known.exits, next.exits),
        ("the cycles", known.cycles, next.cycles),
        ("the pauses", known.paused, next.paused),
        ("the skipped ticks", known.skipped, next.skipped),
    ];
    let nothing = Part::default();
    let reason = |(number, part): (&u16, &Part)| {
        let more = next.reasons.get(number).unwrap_or(&nothing);
        let what = format!("reason {number} {}", row_name(*number));
        fell(&what, part.count, more.count).or_else(|| fell(&format!("the cycles of {what}"), part.cycles, more.cycles))
    };
    sums.into_iter().find_map(|(what, from, to)| fell(what, from, to)).or_else(|| known.reasons.iter().find_map(reason))
}

/// The mark that was reached last, and the first of those that were not, in the order in which the options have them.
pub(super) fn progress(log: &Log) -> Option<String> {
    let last = in_order(log).last().map(|mark| mark.name.clone());
    let next = log.marks.iter().find(|mark| mark.reached.is_none())?;
    let Marked { name, text, .. } = next;
    Some(match last {
        Some(last) => format!("it reached the mark {last}, and not {name} (`{text}`)"),
        None => format!("it did not reach the mark {name} (`{text}`)"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exits::Exits;
    use crate::log::Total;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use tollgate_abi::figures::Figures;

    /// The sums of each phase's reasons, by reason: those of the ledger.
    fn summed(phases: &[Phase]) -> BTreeMap<u16, Part> {
        let mut sums: BTreeMap<u16, Part> = BTreeMap::new();
        for row in phases.iter().flat_map(|phase| &phase.reasons) {
            let sum = sums.entry(row.number).or_default();
            (sum.count, sum.cycles) = (sum.count + row.count, sum.cycles + row.cycles);
        }
        sums
    }

    /// A run on one vCPU whose marks and end have the sums of these steps: ticks, pauses, skipped ticks, and exits of two
    /// reasons.
    fn run(steps: &[(u64, u64, u64, [u64; 2])]) -> (Log, Vec<Reason>, Totals) {
        let mut log = Log::default();
        log.header.vcpus = 1;
        let mut sum = Reached::default();
        for (at, &(ticks, paused, skipped, counts)) in steps.iter().enumerate() {
            for (number, count) in [10, 30].into_iter().zip(counts) {
                let part = sum.reasons.entry(number).or_default();
                (part.count, part.cycles) = (part.count + count, part.cycles + count * 50);
                (sum.exits, sum.cycles) = (sum.exits + count, sum.cycles + count * 50);
                sum.at += count * 50;
            }
            (sum.at, sum.paused) = (sum.at + ticks + paused, sum.paused + paused);
            sum.skipped += skipped;
            let reached = Some(sum.clone());
            log.marks.push(Marked { name: format!("m{at}"), text: format!("text {at}"), reached });
        }
        log.marks.pop();
        let Reached { at: elapsed, exits, cycles, paused, skipped, .. } = sum;
        log.totals.insert(0, Total { exits, entries: exits, cycles, elapsed, skipped, paused });
        let reason = |(&number, part): (&u16, &Part)| {
            let figures = Figures { count: part.count, cycles: part.cycles, min: 50, max: 50 };
            Reason { number, exits: Exits { figures, ..Exits::default() }, ..Reason::default() }
        };
        let reasons = sum.reasons.iter().map(reason).collect();
        (log, reasons, Totals { exits, entries: exits, cycles, elapsed, ..Totals::default() })
    }

    #[test]
    fn a_phase_is_the_difference_of_two_marks() {
        let (log, reasons, totals) = run(&[(1000, 10, 7, [2, 0]), (500, 20, 4000, [1, 3]), (100, 0, 0, [0, 1])]);
        let phases = phases(&log, &reasons, &totals);
        let names: Vec<_> = phases.iter().map(|phase| (phase.from.as_str(), phase.to.as_str())).collect();
        assert_eq!(names, [("start", "m0"), ("m0", "m1"), ("m1", "end")]);
        let second = &phases[1];
        assert_eq!((second.begin, second.ticks, second.exits), (1117, 4720, 4));
        assert_eq!((second.cycles, second.paused, second.skipped), (200, 20, 4000));
        assert_eq!((second.guest_ticks, second.rate), (Some(500), Some(4e6 / 4720.0)));
        let counts: Vec<_> = second.reasons.iter().map(|row| (row.number, row.count)).collect();
        assert_eq!(counts, [(30, 3), (10, 1)], "the most frequent first");
        assert_eq!(phases[2].reasons.len(), 1, "those without exits are left out");
    }

    #[test]
    fn a_mark_that_contradicts_the_ledger_is_found() {
        let findings = |change: fn(&mut Reached)| {
            let (mut log, reasons, totals) = run(&[(1000, 10, 9, [2, 4]), (500, 20, 0, [1, 3])]);
            change(log.marks[0].reached.as_mut().unwrap());
            let mut found = Findings::of(&log);
            check(&log, &reasons, &totals, &mut found);
            found.finish().0
        };
        assert_eq!(findings(|_| {}), [""; 0]);
        assert_eq!(
            findings(|mark| mark.exits += 1),
            ["mark m0: its reasons have 6 exits and 300 cycles, its sums 7 and 300"]
        );
        let swapped = findings(|mark| {
            let part = mark.reasons.remove(&10).unwrap();
            mark.reasons.insert(28, part);
        });
        assert_eq!(swapped, ["from the mark m0 to end reason 28 Control-register accesses fell from 2 to 0"]);
        assert_eq!(findings(|mark| mark.at = 5000), ["from the mark m0 to end the ticks fell from 5000 to 2030"]);
        assert_eq!(findings(|mark| mark.skipped = 10), ["from the mark m0 to end the skipped ticks fell from 10 to 9"]);
        assert_eq!(findings(|mark| mark.at = 5), ["mark m0: 310 cycles of exits and pauses in 5 elapsed"]);
    }

    #[test]
    fn the_last_mark_and_the_one_behind_it_are_told() {
        let (mut log, ..) = run(&[(1, 0, 0, [1, 0]), (1, 0, 0, [1, 0])]);
        assert_eq!(progress(&log), None);
        log.marks.push(Marked { name: "up".to_owned(), text: "login:".to_owned(), reached: None });
        assert_eq!(progress(&log).unwrap(), "it reached the mark m0, and not up (`login:`)");
        log.marks.remove(0);
        assert_eq!(progress(&log).unwrap(), "it did not reach the mark up (`login:`)");
    }

    proptest! {
        #[test]
        fn phases_together_are_the_ledger(steps in proptest::collection::vec((0u64..10_000, 0u64..100, 0u64..9, [0u64..50, 0u64..50]), 1..8)) {
            let (log, reasons, totals) = run(&steps);
            let phases = phases(&log, &reasons, &totals);
            prop_assert_eq!(phases.len(), if steps.len() > 1 { steps.len() } else { 0 });
            if phases.is_empty() { return Ok(()); }
            let sum = |figure: fn(&Phase) -> u64| phases.iter().map(figure).sum::<u64>();
            prop_assert_eq!(sum(|phase| phase.exits), totals.exits);
            prop_assert_eq!(sum(|phase| phase.cycles), totals.cycles);
            let clock = totals.elapsed + log.totals[&0].skipped;
            let own = sum(|phase| phase.guest_ticks.unwrap() + phase.cycles + phase.paused + phase.skipped);
            prop_assert_eq!((sum(|phase| phase.ticks), own), (clock, clock));
            for reason in reasons.iter().filter(|reason| reason.exits.figures.count > 0) {
                let Figures { count, cycles, .. } = reason.exits.figures;
                prop_assert_eq!(summed(&phases)[&reason.number], Part { count, cycles });
            }
        }
    }
}
