//! Histograms as lines of text: a bar for each power of two of ticks, as long as its share of the longest.

use anstyle::{AnsiColor, Style};

use super::Look;
use super::figures::{bounds, counted, percent, scaled, seen};
use crate::account::{Account, Reason};
use crate::exits::Bucket;
use crate::terminal::Terminal;

/// Columns of a bar however narrow the terminal is, and however wide.
const BAR: [usize; 2] = [6, 60];

/// The histograms of all reasons, the costliest first or as asked.
pub(super) fn of(account: &Account, look: Look) -> String {
    let mut rows = seen(account);
    rows.retain(|reason| !reason.exits.histogram.buckets().is_empty());
    look.order.sort(&mut rows);
    let blocks: Vec<String> = rows.iter().map(|reason| block(reason, &look.terminal)).collect();
    blocks.join("\n")
}

/// The histogram of one reason.
pub(super) fn block(reason: &Reason, terminal: &Terminal) -> String {
    let title =
        format!("{} ({}): {}, by ticks", reason.name, reason.number, counted(reason.exits.figures.count, "exit"));
    let mut text = terminal.paint(Style::new().bold(), &terminal.wrap(&title)) + "\n";
    let most = reason.exits.histogram.buckets().iter().map(|bucket| bucket.count).max().unwrap_or(0);
    let columns = usize::from(terminal.columns);
    let cells = |bucket: &Bucket, short: bool| {
        let (least, last) = bounds(bucket.bucket);
        let ticks = |ticks: u64| match scaled(ticks) {
            (ticks, unit) if short => format!("{ticks}{unit}"),
            _ => ticks.to_string(),
        };
        let last = if short { last.saturating_add(1) } else { last };
        [ticks(least), ticks(last), bucket.count.to_string(), percent(bucket.count, reason.exits.figures.count)]
    };
    let all =
        |short: bool| reason.exits.histogram.buckets().iter().map(|bucket| cells(bucket, short)).collect::<Vec<_>>();
    let widths = |rows: &[[String; 4]]| {
        [0, 1, 2, 3].map(|at| rows.iter().map(|row: &[String; 4]| row[at].len()).max().unwrap_or(0))
    };
    let before = |rows: &[[String; 4]]| widths(rows).iter().sum::<usize>() + 7;
    let mut rows = all(false);
    if before(&rows) + BAR[0] > columns {
        rows = all(true);
    }
    let [least, last, count, share] = widths(&rows);
    let room = columns.saturating_sub(before(&rows)).clamp(BAR[0], BAR[1]);
    for (row, bucket) in rows.iter().zip(reason.exits.histogram.buckets()) {
        let bar = bar(bucket.count, most, room, terminal);
        let bar = terminal.paint(AnsiColor::Cyan.on_default(), &bar);
        text += &format!("  {:>least$}-{:<last$} {:>count$} {:>share$}  {bar}\n", row[0], row[1], row[2], row[3]);
    }
    text
}

/// A bar of at most `room` columns; any part that is not 0 has a mark.
pub(super) fn bar(part: u64, most: u64, room: usize, terminal: &Terminal) -> String {
    const EIGHTHS: [&str; 8] = ["", "\u{258f}", "\u{258e}", "\u{258d}", "\u{258c}", "\u{258b}", "\u{258a}", "\u{2589}"];
    if part == 0 || most == 0 {
        return String::new();
    }
    let eighths = (part as f64 / most as f64 * (room * 8) as f64).round() as usize;
    if terminal.blocks {
        let eighths = eighths.max(1);
        "\u{2588}".repeat(eighths / 8) + EIGHTHS[eighths % 8]
    } else {
        "#".repeat(eighths.div_ceil(8).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exits::Exits;
    use tollgate_abi::figures::Figures;

    #[test]
    fn bars_are_as_long_as_their_shares() {
        let plain = Terminal::default();
        let blocks = Terminal { blocks: true, ..plain };
        for (part, text, shown) in
            [(0, "", ""), (1, "#", "\u{258f}"), (50, "#####", "\u{2588}\u{2588}\u{2588}\u{2588}\u{2588}")]
        {
            assert_eq!((bar(part, 100, 10, &plain).as_str(), bar(part, 100, 10, &blocks).as_str()), (text, shown));
        }
        assert_eq!(bar(u64::MAX, u64::MAX, 10, &plain).len(), 10);
    }

    #[test]
    fn forty_columns_hold_a_histogram() {
        let histogram = [(5, 1), (6, 4065), (10, 801)].into_iter().collect();
        let exits = Exits { figures: Figures { count: 4867, ..Figures::default() }, histogram };
        let reason = Reason { number: 10, name: "CPUID".into(), exits, ..Reason::default() };
        let text = block(&reason, &Terminal { columns: 40, wraps: true, ..Terminal::default() });
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        assert_eq!(text.lines().count(), 4);
    }
}
