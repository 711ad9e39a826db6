//! `tollgate report --format parquet`: all runs as a data set.

use std::path::{Path, PathBuf};

use tollgate_books::account::Account;
use tollgate_books::failure::{Failure, Status};
use tollgate_books::report::{DataSet, Titled};

use super::reading::Reading;

/// Writes all logs that can be used as a data set, a directory; the status is the worst of them.
pub(super) fn write(paths: &[PathBuf], place: Option<&Path>) -> Result<Status, Failure> {
    let Some(place) = place else {
        return Err(Failure::usage("a data set is a directory").remedy("name one that is not there yet: --out DIR"));
    };
    let mut data_set = DataSet::create(place)?;
    let mut reading = Reading::new(paths, |log| Account::with_status(&log));
    while let Some((title, account)) = reading.next()? {
        let titled = Titled { title, account };
        if !data_set.add(&titled)? {
            let sentence = format!("{}: a data set has no room for logs of so many platforms", titled.title);
            reading.unusable(&Failure::usage(sentence));
        }
    }
    let status = reading.finish()?;
    data_set.finish()?;
    Ok(status)
}
