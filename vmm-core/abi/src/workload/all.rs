//! Every workload, by name and by number: those of the table, and behind them the microbenchmarks.

use super::{ABOUT, TABLE, Workload};
use crate::bench;

/// Every workload: those of [`TABLE`], and behind them the microbenchmarks.
pub fn every() -> impl Iterator<Item = &'static Workload> {
    TABLE.iter().chain(bench::TABLE.iter().map(|bench| &bench.workload))
}

impl Workload {
    /// One line for people.
    pub fn about(&self) -> &'static str {
        ABOUT.iter().chain(bench::ABOUT).nth(self.number()).copied().unwrap_or_default()
    }

    /// The workload called `name`.
    pub fn by_name(name: &str) -> Option<&'static Workload> {
        every().find(|workload| workload.name == name)
    }

    /// The workload with this number in hypercalls.
    pub fn by_number(number: usize) -> Option<&'static Workload> {
        every().nth(number)
    }

    /// Its position among [`every`] workload, which is its number in hypercalls.
    pub fn number(&self) -> usize {
        every().position(|workload| workload.name == self.name).unwrap_or(usize::MAX)
    }
}
