//! The accounts of many logs, or the wanted part of each, in the order in which the logs are named: read by as many threads as there are processors, in memory
//! that does not grow with the number of logs.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::failure::Status;
use crate::log::{Found, Log, LogError, Run, Select, find, is_called_a_log, read_file};

/// The most threads: more logs than these are not in memory at once.
const MOST_THREADS: usize = 8;
/// Runs of one file that wait for their taker.
const MOST_WAITING: usize = 2;

/// The digest of a run, or the reason that a file has none.
#[derive(Debug)]
pub enum Accounted<T> {
    /// A run.
    Run {
        /// The file's name, and the run's number in it from the second on.
        title: String,
        /// The status of its account.
        status: Status,
        /// The digest of its records.
        run: T,
    },
    /// A file of a directory that is called a log and holds no record.
    PassedOver(String),
    /// A file that can't be used.
    Unusable(String, LogError),
}

/// Digests of runs as they come.
pub struct Many<T> {
    files: Receiver<Receiver<Accounted<T>>>,
    waiting: VecDeque<Receiver<Accounted<T>>>,
    /// The reason that nothing can be read: there is not even one thread.
    error: Option<io::Error>,
}

impl<T> fmt::Debug for Many<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Many").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Many<T> {
    /// Begins to read the files that `paths` name. The thread that has read a run makes of it, by `digest`, its status and the
    /// part that is wanted, so that the others need not be made or handed on.
    pub fn of(paths: Vec<PathBuf>, digest: fn(Log) -> (Status, T)) -> Self {
        let is_one = paths.len() == 1 && !paths[0].is_dir();
        let processors = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        let threads = if is_one { 1 } else { processors };
        let (queue, files) = sync_channel(2 * threads);
        let jobs = Arc::new(Mutex::new((find(paths), queue)));
        let (mut running, mut refused) = (0, None);
        // Fewer threads will do, where there is no room for more.
        while running < threads && refused.is_none() {
            let jobs = Arc::clone(&jobs);
            let work = move || {
                while let Some((found, taker)) = next_job(&jobs) {
                    read(found, digest, &taker);
                }
            };
            match thread::Builder::new().spawn(work) {
                Ok(_) => running += 1,
                Err(error) => refused = Some(error),
            }
        }
        let error = refused.filter(|_| running == 0);
        Self { files, waiting: VecDeque::new(), error }
    }
}

/// The next file, and the channel for its runs, which takes its place in the queue before another thread can look for a file.
fn next_job<T>(
    jobs: &Mutex<(impl Iterator<Item = Found>, SyncSender<Receiver<Accounted<T>>>)>,
) -> Option<(Found, SyncSender<Accounted<T>>)> {
    let mut jobs = jobs.lock().ok()?;
    let found = jobs.0.next()?;
    let (taker, runs) = sync_channel(MOST_WAITING);
    jobs.1.send(runs).ok()?;
    Some((found, taker))
}

impl<T> Iterator for Many<T> {
    type Item = Accounted<T>;

    fn next(&mut self) -> Option<Accounted<T>> {
        if let Some(error) = self.error.take() {
            return Some(Accounted::Unusable("a thread to read".to_owned(), LogError::Open(error)));
        }
        loop {
            if let Some(accounted) = self.waiting.front().and_then(|file| file.recv().ok()) {
                return Some(accounted);
            }
            self.waiting.pop_front();
            self.waiting.push_back(self.files.recv().ok()?);
        }
    }
}

/// Reads one file. The taker may have gone.
fn read<T>(found: Found, digest: fn(Log) -> (Status, T), taker: &SyncSender<Accounted<T>>) {
    let (select, listed) = match found {
        Found::Named(select) => (select, false),
        Found::Listed(path) => (Select { path, run: None }, true),
        Found::Unreadable(path, error) => {
            let _ = taker.send(Accounted::Unusable(path.display().to_string(), LogError::Open(error)));
            return;
        }
    };
    read_file(&select, &mut |_, _| {}, &mut |run| {
        let Run { title, in_archive, log } = run;
        let accounted = match log {
            Ok(log) => {
                let (status, run) = digest(log);
                Accounted::Run { title, status, run }
            }
            Err(LogError::NotOurs { .. }) if listed || in_archive => {
                if !is_called_a_log(title.as_ref()) {
                    return ControlFlow::Continue(());
                }
                Accounted::PassedOver(title)
            }
            Err(error) => Accounted::Unusable(title, error),
        };
        if taker.send(accounted).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
}
