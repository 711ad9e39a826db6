//! A run that is still under way, in a line: its workloads, its exits, how many that is in a second of guest time, the reasons so far.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use crate::account::row_name;
use crate::log::{Log, Part};

/// The reasons that are named.
const MOST_REASONS: usize = 4;

/// The figures of a run so far. They are of the ledger once it is there; before, of the workloads that have ended, or of the trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Live {
    /// Workloads that have ended.
    pub ended: usize,
    /// The workload that runs.
    pub current: Option<String>,
    /// Exits by reason.
    pub exits: BTreeMap<u16, u64>,
    /// TSC ticks in which these came.
    pub ticks: u64,
    /// TSC ticks of a second, by the processor's name.
    pub ticks_of_a_second: Option<f64>,
}

impl Live {
    /// The figures of a log so far.
    pub fn of(log: &Log) -> Self {
        let ended = log.workloads.iter().filter(|run| run.ended.is_some()).count();
        let current = log.workloads.last().filter(|run| run.ended.is_none()).map(|run| run.name.clone());
        let (exits, ticks) = figures(log);
        Self { ended, current, exits, ticks, ticks_of_a_second: rate(&log.header.cpu) }
    }

    /// Exits of all reasons.
    pub fn count(&self) -> u64 {
        self.exits.values().fold(0, |sum, &count| sum.saturating_add(count))
    }
}

fn figures(log: &Log) -> (BTreeMap<u16, u64>, u64) {
    let mut exits: BTreeMap<u16, u64> = BTreeMap::new();
    let mut add = |reason: u16, count: u64| {
        let sum = exits.entry(reason).or_default();
        *sum = sum.saturating_add(count);
    };
    if !log.exits.is_empty() {
        log.exits.iter().for_each(|(&(_, reason), row)| add(reason, row.exits.figures.count));
        let ticks = log.totals.values().map(|total| total.elapsed).max().unwrap_or(0);
        return (exits, ticks);
    }
    let windows = log.workloads.iter().filter_map(|run| Some((run, run.ended.as_ref()?)));
    let mut ticks = 0_u64;
    for (run, end) in windows {
        run.counts.iter().for_each(|(&reason, count)| add(reason, count.observed));
        ticks = ticks.saturating_add(end.cycles);
    }
    if ticks == 0 {
        let recorded = log.traces.values().flat_map(|traced| &traced.recorded);
        recorded.for_each(|(&reason, &Part { count, .. })| add(reason, count));
    }
    (exits, ticks)
}

/// The rate of the time-stamp counter that a processor's name tells (`@ 2.40GHz`): the nominal one.
fn rate(cpu: &str) -> Option<f64> {
    let (number, unit) = cpu.rsplit_once("@ ")?.1.split_at_checked(4)?;
    let scale = match unit.trim_start() {
        "GHz" => 1e9,
        "MHz" => 1e6,
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * scale).filter(|&rate| rate > 0.0)
}

impl fmt::Display for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(current) = &self.current {
            write!(f, "{current}; ")?;
        }
        write!(f, "{} workloads done, {} exits", self.ended, self.count())?;
        match self.ticks_of_a_second {
            _ if self.ticks == 0 => {}
            Some(rate) => {
                let each_second = self.count() as f64 * rate / self.ticks as f64;
                write!(f, ", {each_second:.0} a second of guest time at {:.2} GHz", rate / 1e9)?;
            }
            None => write!(f, ", {:.1} in a million ticks", self.count() as f64 * 1e6 / self.ticks as f64)?,
        }
        let mut rows: Vec<(u16, u64)> = self.exits.iter().map(|(&reason, &count)| (reason, count)).collect();
        rows.retain(|row| row.1 > 0);
        rows.sort_by_key(|&(reason, count)| (Reverse(count), reason));
        let mut separator = ": ";
        for &(reason, count) in rows.iter().take(MOST_REASONS) {
            write!(f, "{separator}{} {count}", row_name(reason))?;
            separator = ", ";
        }
        if rows.len() > MOST_REASONS { write!(f, ", {} more reasons", rows.len() - MOST_REASONS) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_the_rate_and_the_reasons() {
        let mut live = Live { ended: 1, exits: [(10, 300), (18, 6)].into(), ticks: 1_200_000, ..Live::default() };
        assert_eq!(live.to_string(), "1 workloads done, 306 exits, 255.0 in a million ticks: CPUID 300, VMCALL 6");
        live.ticks_of_a_second = rate("11th Gen Intel(R) Core(TM) i5-1135G7 @ 2.40GHz");
        live.current = Some("memory".to_owned());
        let expected =
            "memory; 1 workloads done, 306 exits, 612000 a second of guest time at 2.40 GHz: CPUID 300, VMCALL 6";
        assert_eq!(live.to_string(), expected);
        assert_eq!((rate("AMD"), rate("@ "), rate("@ x.40GHz"), rate("@ 0.00GHz")), (None, None, None, None));
    }
}
