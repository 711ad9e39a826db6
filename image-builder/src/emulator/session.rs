//! One run of an emulator, from start to end: watched, its logs read along, and stopped when they are complete or too long.

use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use tollgate_abi::record::Record;
use tollgate_books::audit::{Audit, ExitLogReader};
use tollgate_books::failure::Failure;
use tollgate_books::log::{Log, LogError, LogReader, printable};

use super::Launch;
use super::process::{Group, STDERR, STDOUT};
use super::tail::{CHUNK_BYTES, Tail};
use crate::interrupt;

/// The limits of a run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most wall time.
    pub wall: Duration,
    /// Bytes on the serial port.
    pub serial_bytes: u64,
    /// Bytes in the emulator's exit log.
    pub exit_log_bytes: u64,
    /// Wall time that the image has to end the emulator after its verdict.
    pub grace: Duration,
}

impl Limits {
    /// The limits for a run of at most `wall`.
    pub fn within(wall: Duration) -> Self {
        Self { wall, serial_bytes: 64 << 20, exit_log_bytes: 16 << 30, grace: GRACE }
    }
}

/// The end of the emulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It ended by itself.
    Exited(ExitStatus),
    /// It had given its verdict and stayed; it was killed.
    AfterVerdict,
    /// It was killed at the end of its time.
    TimedOut,
    /// It was killed because a person interrupted the run.
    Interrupted,
    /// It was killed because a log grew beyond its limit; this is the log's name.
    Flooded(&'static str),
}

/// The result of a run.
#[derive(Debug)]
pub struct Session {
    /// The end of the emulator.
    pub ended: Ended,
    /// The log that the image wrote.
    pub log: Result<Log, LogError>,
    /// The emulator's log, if it was asked for one.
    pub audit: Option<Audit>,
    /// The last lines that the emulator itself printed.
    pub said: String,
    /// The time that it took.
    pub wall: Duration,
}

const POLL: Duration = Duration::from_millis(4);
/// Time enough for an image that has nothing else to do after its verdict.
const GRACE: Duration = Duration::from_secs(3);

impl Session {
    /// Starts the emulator and follows it to its end. `observe` sees every record as it comes.
    ///
    /// # Errors
    /// The emulator can't be started or its files can't be read.
    pub fn run(launch: &Launch, limits: Limits, mut observe: impl FnMut(&Record<'_>)) -> Result<Self, Failure> {
        let start = Instant::now();
        clear_logs(launch)?;
        let mut books = Books::new(launch);
        let group = Group::spawn(&launch.invocation).map_err(|error| cannot_start(launch, &error))?;
        let unreadable =
            |error: io::Error| Failure::no_verdict(format_args!("a log of {} can't be read: {error}", launch.name));
        let mut verdict_at = None;
        let stopped = loop {
            let last_round = group.has_ended();
            let news = books.read(limits, &mut observe).map_err(unreadable)?;
            if verdict_at.is_none() && books.log.has_verdict() {
                verdict_at = Some(Instant::now());
            }
            match news {
                News::Flood(name) => break Some(Ended::Flooded(name)),
                _ if interrupt::requested() => break Some(Ended::Interrupted),
                News::Some | News::Full if last_round => {}
                _ if last_round => break None,
                _ if verdict_at.is_some_and(|at| at.elapsed() > limits.grace) => break Some(Ended::AfterVerdict),
                _ if start.elapsed() > limits.wall => break Some(Ended::TimedOut),
                News::Full => {}
                News::None | News::Some => std::thread::sleep(POLL),
            }
        };
        if matches!(stopped, Some(Ended::TimedOut)) && launch.invocation.tells_when_interrupted {
            group.interrupt();
        }
        let status = group.end().map_err(|error| cannot_start(launch, &error))?;
        let said = last_words(&launch.invocation.directory);
        let (log, audit) = books.close();
        Ok(Self { ended: stopped.unwrap_or(Ended::Exited(status)), log, audit, said, wall: start.elapsed() })
    }
}

/// Removes the logs of an earlier run in the same directory, which would be read as this run's.
fn clear_logs(launch: &Launch) -> Result<(), Failure> {
    for path in std::iter::once(&launch.serial).chain(launch.exit_log.iter().map(|log| &log.path)) {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let sentence = format!("the old {} can't be removed: {error}", path.display());
                return Err(Failure::usage(sentence).remedy("choose another directory with --out"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn cannot_start(launch: &Launch, error: &io::Error) -> Failure {
    let program = launch.invocation.program.display();
    Failure::platform(format_args!("{} can't be started ({program}): {error}", launch.name)).remedy("install it again")
}

/// The part of the two logs that has been read.
struct Books {
    serial: Tail,
    log: LogReader,
    exits: Option<(Tail, ExitLogReader)>,
}

/// The result of one look at the logs.
enum News {
    None,
    Some,
    /// A whole chunk came, so that more may be waiting.
    Full,
    Flood(&'static str),
}

impl Books {
    fn new(launch: &Launch) -> Self {
        let exits = launch.exit_log.as_ref().map(|log| (Tail::new(log.path.clone()), log.reader()));
        Self { serial: Tail::new(launch.serial.clone()), log: LogReader::new(), exits }
    }

    fn read(&mut self, limits: Limits, observe: &mut impl FnMut(&Record<'_>)) -> io::Result<News> {
        let serial = self.serial.read()?;
        let mut most = serial.len();
        self.log.feed_observed(serial, observe);
        if self.serial.bytes > limits.serial_bytes {
            return Ok(News::Flood("serial log"));
        }
        if let Some((tail, reader)) = &mut self.exits {
            let bytes = tail.read()?;
            most = most.max(bytes.len());
            reader.feed(bytes);
            if tail.bytes > limits.exit_log_bytes {
                return Ok(News::Flood("exit log"));
            }
        }
        Ok(match most {
            0 => News::None,
            CHUNK_BYTES => News::Full,
            _ => News::Some,
        })
    }

    fn close(self) -> (Result<Log, LogError>, Option<Audit>) {
        (self.log.finish(), self.exits.map(|(_, reader)| reader.finish()))
    }
}

const LAST_WORDS_LINES: usize = 4;
const LAST_WORDS_COLUMNS: usize = 200;
const LAST_WORDS_BYTES: u64 = 4096;

/// The end of what the emulator printed, without its banner and its rulers.
fn last_words(directory: &Path) -> String {
    let tails = [STDOUT, STDERR].map(|name| end_of(&directory.join(name)).unwrap_or_default());
    let shown = |line| printable(line).chars().take(LAST_WORDS_COLUMNS).collect();
    let lines = tails.iter().flat_map(|text| text.lines()).map(shown);
    let telling: Vec<String> =
        lines.filter(|line: &String| line.bytes().any(|byte| byte.is_ascii_alphanumeric())).collect();
    telling[telling.len().saturating_sub(LAST_WORDS_LINES)..].join("\n")
}

fn end_of(path: &Path) -> io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LAST_WORDS_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
