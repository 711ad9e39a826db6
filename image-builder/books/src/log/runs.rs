//! The runs of a file: one after the other, each with a name by which it can be asked for.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use tollgate_abi::record::Record;

use super::source::texts;
use super::{Log, LogError, LogReader};

/// One run of a file, or the reason that there is none.
#[derive(Debug)]
pub struct Run {
    /// The file's name; behind it that of a file in an archive, and the run's number from the second run on: `FILE#2`.
    pub title: String,
    /// Whether the file is one of an archive.
    pub in_archive: bool,
    /// Its records.
    pub log: Result<Log, LogError>,
}

/// A file, and the runs in it that are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Select {
    /// The file.
    pub path: PathBuf,
    /// The number of the one run that is meant, where it is one.
    pub run: Option<u64>,
}

impl Select {
    /// The runs that a name means: `FILE#2` is the second of a file, unless there is a file of that very name.
    pub fn of(name: &Path) -> Self {
        let whole = Self { path: name.to_owned(), run: None };
        if name.symlink_metadata().is_ok() {
            return whole;
        }
        let part = || {
            let (path, number) = name.to_str()?.rsplit_once('#')?;
            Some(Self { path: path.into(), run: Some(number.parse().ok().filter(|&number| number > 0)?) })
        };
        part().unwrap_or(whole)
    }
}

/// Reads a file to its end. `observe` is shown each record and the number of its run within its text; `take` gets each run as it ends,
/// and may break off. A file without a run, or that can't be read on, is an error in place of the next run.
pub fn read_file(
    select: &Select,
    observe: &mut impl FnMut(u64, &Record<'_>),
    take: &mut impl FnMut(Run) -> ControlFlow<()>,
) {
    let name = select.path.display().to_string();
    let mut found = false;
    let read = texts(&select.path, &mut |member, text| {
        let name = member.map_or_else(|| name.clone(), |member| format!("{name}:{member}"));
        let mut flow = ControlFlow::Continue(());
        let mut take_one = |number: u64, log: Result<Log, LogError>| {
            if log.is_ok() && select.run.is_some_and(|run| run != number) {
                return ControlFlow::Continue(());
            }
            found |= log.is_ok();
            let is_of_file = matches!(log, Err(LogError::Read(_)));
            let title = if number > 1 && !is_of_file { format!("{name}#{number}") } else { name.clone() };
            flow = take(Run { title, in_archive: member.is_some(), log });
            flow
        };
        LogReader::of_runs().read_runs(text, observe, &mut take_one);
        flow
    });
    if let Err(error) = read {
        let _ = take(Run { title: name, in_archive: false, log: Err(error) });
    } else if let Some(run) = select.run.filter(|_| !found) {
        let _ = take(Run { title: name, in_archive: false, log: Err(LogError::NoSuchRun { run }) });
    }
}
