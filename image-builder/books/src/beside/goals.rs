//! The goals of a boot beside KVM's, each with what was measured.

use tollgate_abi::ExitReason;

use super::{Boot, Wall};
use crate::report::{Sheet, SheetFormat};

/// KVM's ticks for each of the monitor's, in sum and for each kind of exit.
const LEAST_IN_SUM: f64 = 40.0;
const LEAST_OF_A_KIND: f64 = 10.0;
/// Wall time, as a multiple of bare Bochs': as it is, and audited.
const MOST_WALL: f64 = 1.25;
const MOST_AUDITED: f64 = 3.0;

/// A table of the goals until user space begins.
pub(super) fn goals(wall: &Wall, tollgate: &Boot, kvm: &Boot) -> String {
    let (ours, theirs) = (&tollgate.until_init, &kvm.until_init);
    let mut sheet = Sheet::new(&["goal, until user space begins", "measured", "reached"]);
    let mut row = |goal: String, measured: String, is_reached: bool| {
        sheet.row(vec![goal, measured, if is_reached { "yes" } else { "no" }.to_owned()]);
    };
    let in_sum = theirs.ticks() as f64 / ours.ticks().max(1) as f64;
    row(
        format!("the monitor's ticks are at most 1/{LEAST_IN_SUM:.0} of KVM's"),
        format!("1/{in_sum:.1}"),
        in_sum >= LEAST_IN_SUM,
    );
    let averages = ours.reasons.iter().filter_map(|(&reason, cost)| {
        let times = theirs.of(reason).average()? / cost.average()?;
        Some((reason, times))
    });
    let too_dear: Vec<_> = averages.filter(|(_, times)| *times < LEAST_OF_A_KIND).collect();
    let named = |(reason, times): &(u16, f64)| format!("{} 1/{times:.1}", ExitReason(*reason).name());
    row(
        format!("an exit of each kind takes at most 1/{LEAST_OF_A_KIND:.0} of KVM's average"),
        list(&too_dear, named, "each does"),
        too_dear.is_empty(),
    );
    let more: Vec<_> = ours.reasons.iter().filter(|(reason, cost)| cost.exits > theirs.of(**reason).exits).collect();
    let named = |(reason, cost): &(&u16, &super::Cost)| {
        format!("{} {} more", ExitReason(**reason).name(), cost.exits - theirs.of(**reason).exits)
    };
    row("no more exits of any reason than under KVM".to_owned(), list(&more, named, "none"), more.is_empty());
    for (goal, most, boot) in
        [("wall time", MOST_WALL, &wall.tollgate), ("wall time with `--audit`", MOST_AUDITED, &wall.audited)]
    {
        let (measured, processor) = (boot.wall / wall.bare.wall, boot.processor / wall.bare.processor);
        let said = format!("{measured:.2}; the processor's time {processor:.2}");
        row(format!("{goal} at most {most} times bare Bochs'"), said, measured <= most);
    }
    sheet.render(SheetFormat::Markdown)
}

fn list<T>(items: &[T], shown: impl Fn(&T) -> String, none: &str) -> String {
    if items.is_empty() { none.to_owned() } else { items.iter().map(shown).collect::<Vec<_>>().join(", ") }
}
