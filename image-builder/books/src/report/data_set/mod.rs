//! Accounts as a data set of Parquet files for engines such as DuckDB, Polars and Spark: a folder for each table, and in it a
//! folder for each virtualization extension and platform, named as Hive names partitions.

mod columns;
mod table;

pub use columns::{ACCOUNTS, Column, RUNS};

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::columns::{AccountRow, RunRow, Table as Columns};
use self::table::Table;
use super::Titled;
use crate::failure::Failure;
use crate::output_file::{PendingDirectory, cannot_write};

/// The most partitions: logs of more platforms have nothing in common.
const MOST_PARTITIONS: usize = 64;
/// The most bytes of a partition's value in the name of a folder, which has room for 255.
const MOST_VALUE_BYTES: usize = 200;
/// Rows that wait to be written, of all partitions together.
const MOST_WAITING: usize = 1 << 16;

/// A data set in the making. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct DataSet {
    place: PathBuf,
    directory: PendingDirectory,
    partitions: BTreeMap<[String; 2], Partition>,
    waiting: usize,
}

#[derive(Debug)]
struct Partition {
    runs: Table<RunRow>,
    accounts: Table<AccountRow>,
}

impl DataSet {
    /// Begins a data set that is to be the directory `place`.
    ///
    /// # Errors
    /// There is something already, or nothing can be made there.
    pub fn create(place: &Path) -> Result<Self, Failure> {
        let directory = PendingDirectory::create(place)?;
        Ok(Self { place: place.to_owned(), directory, partitions: BTreeMap::new(), waiting: 0 })
    }

    /// Takes a run; `false` if there are too many platforms for it to be told apart, so that it is left out.
    ///
    /// # Errors
    /// It can't be written.
    pub fn add(&mut self, Titled { title, account }: &Titled) -> Result<bool, Failure> {
        let place = &self.place;
        let cannot = |error: io::Error| cannot_write(place, &error);
        let key = [&account.platform.virtualization, &account.platform.kind].map(|value| encoded(value));
        let fits = key.iter().all(|value| value.len() <= MOST_VALUE_BYTES);
        if !fits || self.partitions.len() >= MOST_PARTITIONS && !self.partitions.contains_key(&key) {
            return Ok(false);
        }
        if !self.partitions.contains_key(&key) {
            let partition = Partition::create(self.directory.path(), &key).map_err(cannot)?;
            self.partitions.insert(key.clone(), partition);
        }
        let Some(partition) = self.partitions.get_mut(&key) else { return Ok(false) };
        let (log, cpu): (Arc<str>, Arc<str>) = (title.as_str().into(), account.platform.cpu.as_str().into());
        partition.runs.add(RunRow::of(title, account));
        self.waiting += 1;
        // The rows of a run that does not tell the number of its exits would be taken for all of them.
        for vcpu in account.per_vcpu.iter().filter(|_| account.has_whole_ledger()) {
            for reason in vcpu.reasons.iter().filter(|reason| reason.exits.figures.count > 0) {
                let (log, cpu) = (Arc::clone(&log), Arc::clone(&cpu));
                partition.accounts.add(AccountRow { log, cpu, vcpu: vcpu.vcpu, reason: reason.clone() });
                self.waiting += 1;
            }
        }
        if self.waiting >= MOST_WAITING {
            self.partitions.values_mut().try_for_each(Partition::write).map_err(cannot)?;
            self.waiting = 0;
        }
        Ok(true)
    }

    /// Ends its files, and puts it in its place.
    ///
    /// # Errors
    /// It can't be written; nothing is there then.
    pub fn finish(self) -> Result<(), Failure> {
        let Self { place, directory, partitions, .. } = self;
        partitions.into_values().try_for_each(Partition::finish).map_err(|error| cannot_write(&place, &error))?;
        directory.finish()
    }
}

impl Partition {
    fn create(directory: &Path, [virtualization, platform]: &[String; 2]) -> io::Result<Self> {
        let folder = |name: &str| {
            let table = directory.join(name).join(format!("virtualization={virtualization}"));
            table.join(format!("platform={platform}"))
        };
        Ok(Self {
            runs: Table::create(&folder(RunRow::NAME), RunRow::SCHEMA, RUNS)?,
            accounts: Table::create(&folder(AccountRow::NAME), AccountRow::SCHEMA, ACCOUNTS)?,
        })
    }

    fn write(&mut self) -> io::Result<()> {
        self.runs.write()?;
        self.accounts.write()
    }

    fn finish(self) -> io::Result<()> {
        self.runs.finish()?;
        self.accounts.finish()
    }
}

/// Hive's name for a partition without a value.
const NO_VALUE: &str = "__HIVE_DEFAULT_PARTITION__";

/// A value as a part of a folder's name: all but letters, digits and a few signs by their bytes in hexadecimal, as Hive has them.
fn encoded(value: &str) -> String {
    if value.is_empty() {
        return NO_VALUE.to_owned();
    }
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    value.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_leads_out_of_no_folder() {
        assert_eq!(["VT-x", "../a b", "", "ü"].map(encoded), ["VT-x", "..%2Fa%20b", NO_VALUE, "%C3%BC"]);
    }
}
