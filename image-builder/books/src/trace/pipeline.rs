//! Blocks of traced exits, encoded on as many threads as there are processors, and put into the file in their order.

use std::collections::VecDeque;
use std::io;
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::block::Block;

/// The most threads that encode: one reads and writes, which more would not keep busy.
const MOST_THREADS: usize = 8;

/// A block to encode, the room for the result, and the way back.
type Job<T> = (Block, T, SyncSender<io::Result<T>>);

/// Encodes blocks, and gives the results back in the order in which the blocks came.
#[derive(Debug)]
pub(super) struct Pipeline<T: Send + 'static> {
    jobs: Option<SyncSender<Job<T>>>,
    threads: Vec<JoinHandle<()>>,
    /// The results that are to come, the first block's first.
    ahead: VecDeque<Receiver<io::Result<T>>>,
    most_ahead: usize,
}

impl<T: Send + 'static> Pipeline<T> {
    /// A pipeline of this encoder, which gets a block and room that was used before or is empty.
    pub(super) fn new(encode: impl Fn(&Block, T) -> io::Result<T> + Send + Sync + 'static) -> Self {
        let count = thread::available_parallelism().map_or(1, NonZero::get).min(MOST_THREADS);
        let (jobs, waiting) = sync_channel::<Job<T>>(count);
        let (waiting, encode) = (Arc::new(Mutex::new(waiting)), Arc::new(encode));
        let work = |_| {
            let (waiting, encode) = (Arc::clone(&waiting), Arc::clone(&encode));
            thread::spawn(move || {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((block, room, back)) = next else { return };
                    // Nobody waits for it any more where the file could not be written.
                    let _ = back.send(encode(&block, room));
                }
            })
        };
        Self {
            threads: (0..count).map(work).collect(),
            jobs: Some(jobs),
            ahead: VecDeque::new(),
            most_ahead: 2 * count,
        }
    }

    /// Takes a block, and returns the result of an earlier one if as many are ahead as there may be.
    ///
    /// # Errors
    /// That of the encoder, about an earlier block.
    pub(super) fn push(&mut self, block: Block, room: T) -> io::Result<Option<T>> {
        let first = if self.ahead.len() >= self.most_ahead { self.next()? } else { None };
        let (back, result) = sync_channel(1);
        // The threads end behind the sender alone.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send((block, room, back));
        }
        self.ahead.push_back(result);
        Ok(first)
    }

    /// The next result; `None` behind the last.
    ///
    /// # Errors
    /// That of the encoder.
    pub(super) fn next(&mut self) -> io::Result<Option<T>> {
        let Some(first) = self.ahead.pop_front() else { return Ok(None) };
        let lost = |_| io::Error::other("a thread that encodes has ended");
        first.recv().map_err(lost)?.map(Some)
    }
}

impl<T: Send + 'static> Drop for Pipeline<T> {
    fn drop(&mut self) {
        self.ahead.clear();
        drop(self.jobs.take());
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
