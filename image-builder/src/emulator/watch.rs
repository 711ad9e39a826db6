//! An emulator that is watched until a watcher has seen enough: by its serial port, and by its log where that is a pipe.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tollgate_books::failure::Failure;

use super::pipe::Pipe;
use super::process::{Group, Invocation};
use super::tail::Tail;
use crate::interrupt;

/// Time between two looks at a process that has said nothing.
const POLL: Duration = Duration::from_millis(2);

/// A watcher: it sees the outputs as they come.
pub trait Watcher {
    /// The next bytes of the serial port. Returns whether it has seen enough.
    fn serial(&mut self, bytes: &[u8]) -> bool;
    /// The next bytes of the emulator's log.
    fn log(&mut self, bytes: &[u8]);
}

/// The reason why an emulator was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The watcher had seen enough.
    Enough,
    /// It ended by itself.
    Ended,
    /// Its time was over.
    TimedOut,
    /// A person interrupted the run.
    Interrupted,
}

/// An emulator that was watched.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    /// The reason of the end.
    pub left: Left,
    /// The time from its start.
    pub wall: Duration,
    /// The processor's time that it took; `None` where the system does not tell.
    pub processor: Option<Duration>,
}

/// Starts an emulator, and shows its outputs to a watcher until that has seen enough. An old file of the serial port is removed.
///
/// # Errors
/// It can't be started, or an output can't be read.
pub fn watch(
    invocation: &Invocation,
    serial: PathBuf,
    mut pipe: Option<Pipe>,
    within: Duration,
    watcher: &mut impl Watcher,
) -> Result<Watched, Failure> {
    let failed = |what: &str, error: io::Error| Failure::platform(format_args!("{what}: {error}"));
    match std::fs::remove_file(&serial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("an old log can't be removed", error));
        }
        _ => {}
    }
    let mut serial = Tail::new(serial);
    let start = Instant::now();
    let group = Group::spawn(invocation).map_err(|error| failed("the emulator can't be started", error))?;
    let left = loop {
        let last_round = group.has_ended();
        let bytes = serial.read().map_err(|error| failed("the serial port can't be read", error))?;
        let (is_quiet, enough) = (bytes.is_empty(), watcher.serial(bytes));
        let logged = pipe.as_mut().map(|pipe| pipe.read(|bytes| watcher.log(bytes))).transpose();
        let logged = logged.map_err(|error| failed("the emulator's log can't be read", error))?.unwrap_or(0);
        match is_quiet && logged == 0 {
            _ if enough => break Left::Enough,
            true if last_round => break Left::Ended,
            _ if interrupt::requested() => break Left::Interrupted,
            _ if start.elapsed() > within => break Left::TimedOut,
            true => std::thread::sleep(POLL),
            false => {}
        }
    };
    let (wall, processor) = (start.elapsed(), group.processor_time());
    group.end().map_err(|error| failed("the emulator can't be ended", error))?;
    Ok(Watched { left, wall, processor })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for a word on the serial port, and keeps the log.
    #[derive(Default)]
    struct Word {
        serial: Vec<u8>,
        log: Vec<u8>,
    }

    impl Watcher for Word {
        fn serial(&mut self, bytes: &[u8]) -> bool {
            self.serial.extend(bytes);
            self.serial.ends_with(b"enough\n")
        }

        fn log(&mut self, bytes: &[u8]) {
            self.log.extend(bytes);
        }
    }

    fn on(script: &str, within: Duration) -> (Left, Word) {
        let place = tempfile::tempdir().unwrap();
        let pipe = Pipe::new(place.path().join("log")).unwrap();
        let invocation = Invocation {
            program: "/bin/sh".into(),
            arguments: ["-c", script].map(Into::into).to_vec(),
            directory: place.path().to_owned(),
            tells_when_interrupted: false,
        };
        let mut word = Word::default();
        let serial = place.path().join("serial");
        std::fs::write(&serial, "enough\n").unwrap();
        let watched = watch(&invocation, serial, Some(pipe), within, &mut word).unwrap();
        assert!(watched.wall < Duration::from_secs(60));
        (watched.left, word)
    }

    #[test]
    fn it_is_left_when_the_watcher_has_seen_enough_or_its_time_is_over_or_it_ends() {
        let long = Duration::from_secs(50);
        let (left, word) = on("echo an exit >log; echo enough >serial; sleep 60", long);
        assert_eq!((left, &word.log[..]), (Left::Enough, &b"an exit\n"[..]));
        let (left, word) = on("echo too little >serial", long);
        assert_eq!((left, &word.serial[..]), (Left::Ended, &b"too little\n"[..]));
        assert_eq!(on("sleep 60", Duration::from_millis(50)).0, Left::TimedOut);
    }
}
