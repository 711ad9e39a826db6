//! The parts of a reason's exits, by key and by variant: joined over vCPUs, and checked against the rows that
//! they are parts of.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tollgate_abi::key::{KINDS, VARIANTS};
use tollgate_abi::record::Kind;

use super::findings::Findings;
use crate::log::{ExitRow, KeyRow, Log, VariantRow};
use tollgate_abi::figures::Figures;

/// Keys by reason, the most frequent first and the others last.
pub(super) fn keys(log: &Log) -> BTreeMap<u16, Vec<KeyRow>> {
    let mut joined: BTreeMap<u16, BTreeMap<Option<u64>, KeyRow>> = BTreeMap::new();
    for (&(_, number), rows) in &log.keys {
        let of_reason = joined.entry(number).or_default();
        for row in rows {
            let known =
                of_reason.entry(row.key).or_insert_with(|| KeyRow { figures: Figures::default(), ..row.clone() });
            known.figures.add(row.figures);
        }
    }
    let sorted = |rows: BTreeMap<Option<u64>, KeyRow>| {
        let mut rows: Vec<KeyRow> = rows.into_values().collect();
        rows.sort_by_key(|row| (row.key.is_none(), Reverse(row.figures.count), row.key));
        rows
    };
    joined.into_iter().map(|(number, rows)| (number, sorted(rows))).collect()
}

/// Variants by reason, in the order of their table.
pub(super) fn variants(log: &Log) -> BTreeMap<u16, Vec<VariantRow>> {
    let mut joined: BTreeMap<u16, BTreeMap<&str, VariantRow>> = BTreeMap::new();
    for (&(_, number), rows) in &log.variants {
        let of_reason = joined.entry(number).or_default();
        for row in rows {
            let known =
                of_reason.entry(&row.name).or_insert_with(|| VariantRow { figures: Figures::default(), ..row.clone() });
            known.figures.add(row.figures);
        }
    }
    let sorted = |number: u16, rows: BTreeMap<&str, VariantRow>| {
        let position = |row: &VariantRow| VARIANTS.iter().position(|&(of, name)| of.0 == number && name == row.name);
        let mut rows: Vec<VariantRow> = rows.into_values().collect();
        rows.sort_by_key(|row| position(row).unwrap_or(VARIANTS.len()));
        rows
    };
    joined.into_iter().map(|(number, rows)| (number, sorted(number, rows))).collect()
}

/// Checks keys, where the run kept them, and variants: the figures that a part and its row both have.
pub(super) fn check(log: &Log, keys: bool, found: &mut Findings<'_>) {
    if keys {
        check_keys(log, found);
    }
    let nothing = ExitRow::default();
    for (&(vcpu, number), parts) in &log.variants {
        let row = log.exits.get(&(vcpu, number)).unwrap_or(&nothing);
        let place = place(number, vcpu);
        let Figures { count, cycles, .. } = Figures::sum(parts.iter().map(|part| part.figures));
        if count > row.exits.figures.count || cycles > row.exits.figures.cycles {
            let (all_exits, all_cycles) = (row.exits.figures.count, row.exits.figures.cycles);
            let missing = found.missing_row(vcpu, number);
            found.unless(missing, &[Kind::Exit], || {
                format!(
                    "{place}: its variants have {count} exits and {cycles} cycles, the row {all_exits} and {all_cycles}"
                )
            });
        }
        let of_parts = parts.iter().filter_map(|part| contradiction(&part.name, part.figures, row));
        of_parts.for_each(|problem| found.push(format!("{place}: {problem}")));
    }
}

/// Every exit of a reason with keys has one, so that they sum to the row.
fn check_keys(log: &Log, found: &mut Findings<'_>) {
    let has_keys = |&&(_, number): &&(u64, u16)| KINDS.iter().any(|(reason, _)| reason.0 == number);
    let places: BTreeSet<&(u64, u16)> = log.exits.keys().filter(has_keys).chain(log.keys.keys()).collect();
    let nothing = ExitRow::default();
    for &(vcpu, number) in places {
        let row = log.exits.get(&(vcpu, number)).unwrap_or(&nothing);
        let parts = log.keys.get(&(vcpu, number)).map_or(&[][..], Vec::as_slice);
        let place = place(number, vcpu);
        let Figures { count, cycles, .. } = Figures::sum(parts.iter().map(|part| part.figures));
        if (count, cycles) != (row.exits.figures.count, row.exits.figures.cycles) {
            let (all_exits, all_cycles) = (row.exits.figures.count, row.exits.figures.cycles);
            let is_short = count < all_exits && cycles < all_cycles;
            let missing = found.missing_row(vcpu, number).or_else(|| is_short.then(|| format!("keys of {place}")));
            found.unless(missing, &[Kind::Exit, Kind::Key], || {
                format!(
                    "{place}: its keys have {count} exits and {cycles} cycles, the row {all_exits} and {all_cycles}"
                )
            });
        }
        // Logs of earlier monitors do not have a key's shortest and longest exit.
        let told = parts.iter().filter(|part| part.figures.max > 0);
        let of_parts = told.filter_map(|part| contradiction(&part.name, part.figures, row));
        of_parts.for_each(|problem| found.push(format!("{place}: {problem}")));
    }
}

fn place(number: u16, vcpu: u64) -> impl fmt::Display {
    fmt::from_fn(move |f| write!(f, "reason {number} {} on vCPU {vcpu}", super::row_name(number)))
}

/// The contradiction in a part's figures, given its row.
fn contradiction(name: &str, part: Figures, row: &ExitRow) -> Option<String> {
    if let Some(contradiction) = part.contradiction() {
        return Some(format!("{name}: {contradiction}"));
    }
    let Figures { count, min, max, .. } = part;
    let within =
        count == 0 || row.exits.figures.count == 0 || row.exits.figures.min <= min && max <= row.exits.figures.max;
    (!within).then(|| {
        format!("{name}: {min} to {max} cycles, the row has {} to {}", row.exits.figures.min, row.exits.figures.max)
    })
}
