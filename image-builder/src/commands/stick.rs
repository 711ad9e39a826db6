//! The additional work of `tollgate run --uefi`: the log that comes back on the stick, compared with the serial log.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tollgate_abi::record;
use tollgate_abi::stick::log_name;
use tollgate_books::failure::{Failure, Status};
use tollgate_books::output_file;

use crate::emulator::STICK;
use crate::image::disk;

/// The time that the application has to save its log and to show the account, which it does at the speed of an emulated screen, and of
/// an emulator that logs all of it.
pub(super) const GRACE: Duration = Duration::from_secs(120);

/// Takes the log from the stick, keeps it in the directory, and checks that it has the records of the serial log.
pub(super) fn compare(directory: &Path, serial: &Path) -> Result<(), Failure> {
    let name = log_name(1);
    let name = name.as_str();
    let path = directory.join(STICK);
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| {
        Failure::new(Status::Differs, format_args!("{} can't be read after the run: {error}", path.display()))
    };
    let mut stick = fs::read(&path).map_err(|error| unreadable(&path, &error))?;
    let saved = disk::read(&mut stick, name)
        .map_err(|error| Failure::new(Status::Differs, format_args!("there is no {name} on the stick: {error}")))?;
    output_file::write(&directory.join(name), &saved)?;
    let sent = fs::read(serial).map_err(|error| unreadable(serial, &error))?;
    if records(&saved).is_empty() {
        let seconds = GRACE.as_secs();
        return Err(Failure::no_verdict(format_args!(
            "the log was not saved on the stick within {seconds} s of its verdict: {name} says `{}`",
            String::from_utf8_lossy(&saved).trim_end()
        ))
        .remedy("run it again while this machine has less other work"));
    }
    match first_difference(&records(&saved), &records(&sent)) {
        None => Ok(()),
        Some(line) => Err(Failure::new(
            Status::Differs,
            format_args!("the log on the stick and the serial log differ from record {line} on"),
        )),
    }
}

/// The lines that are records. Lines of a screen that firmware copies to the serial port are none.
fn records(log: &[u8]) -> Vec<&[u8]> {
    let line = |line: &&[u8]| record::parse(line).is_ok();
    log.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).filter(line).collect()
}

/// The number, from 1 on, of the first record that only one log has, or that the logs have differently.
fn first_difference(a: &[&[u8]], b: &[&[u8]]) -> Option<usize> {
    let differing = a.iter().zip(b).position(|(a, b)| a != b);
    differing.or_else(|| (a.len() != b.len()).then(|| a.len().min(b.len()))).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_compared_and_noise_is_not() {
        let mut line = String::new();
        record::Writer::new(&mut line, record::Kind::Verdict).word("result", "balanced").finish().unwrap();
        let noisy = format!("BdsDxe: starting\r\n\x1b[2J\r\n{}\r\nVerdict: balanced\n", line.trim_end());
        assert_eq!(records(noisy.as_bytes()), records(line.as_bytes()));
        assert_eq!(first_difference(&[b"a", b"b"], &[b"a", b"b"]), None);
        assert_eq!(first_difference(&[b"a", b"b"], &[b"a", b"c"]), Some(2));
        assert_eq!(first_difference(&[b"a"], &[b"a", b"c"]), Some(2));
    }

    #[test]
    fn a_log_that_was_not_finished_is_told_from_one_that_differs() {
        let place = tempfile::tempdir().unwrap();
        let serial = place.path().join("serial.log");
        let line = |result: &str| {
            let mut line = String::new();
            record::Writer::new(&mut line, record::Kind::Verdict).word("result", result).finish().unwrap();
            line
        };
        let compared = |saved: &str| {
            let stick = disk::build(&[(log_name(1).as_str(), saved.as_bytes())]).unwrap();
            fs::write(place.path().join(STICK), stick).unwrap();
            compare(place.path(), &serial)
        };
        fs::write(&serial, line("balanced")).unwrap();
        assert_eq!(compared(&line("balanced")), Ok(()));
        let differs = compared(&line("refused")).unwrap_err();
        assert!(differs.status == Status::Differs && differs.sentence().contains("from record 1 on"), "{differs}");
        let unfinished = compared("TG000001.LOG: this run has not come to its end.\n").unwrap_err();
        assert!(
            unfinished.sentence().ends_with("says `TG000001.LOG: this run has not come to its end.`"),
            "{unfinished}"
        );
        assert_eq!(unfinished.status, Status::NoVerdict);
    }
}
