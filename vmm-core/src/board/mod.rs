//! The board that the vCPUs sit on: the facts that they know of each other, and the way in which one reaches another.
//!
//! vCPU n runs on a processor of its own. A message from one vCPU to another goes into a lane that has one writer and one reader,
//! so that neither locks anything. The writer then interrupts the other's processor, which exits and reads. All of this is for
//! interprocessor interrupts and for starting and stopping: no other exit touches the board.
//!
//! A file for each nature: `lanes`, `conditions`, `stop` (requests to leave the guest), `signals` (those that scenarios ask for),
//! `bounds` (of the run), `idle` (time that is skipped), `ends`.

mod bounds;
mod conditions;
mod ends;
mod idle;
mod lanes;
mod signals;
mod stop;

pub use self::conditions::Condition;
use self::lanes::Lane;
pub use self::lanes::Message;
pub use self::signals::{Request, Signal};

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use alloc::boxed::Box;
use spinning_top::Spinlock;
use tollgate_abi::machine::MOST_VCPUS;

use crate::console::Console;
use crate::ended::Ended;
use crate::fault::Fault;

/// One vCPU's place. Fields that others write, and those that others read, are on cache lines of their own.
#[derive(Debug)]
#[repr(align(64))]
struct Seat {
    /// The [`Condition`], and above it the number of times that it has become [`Condition::Running`]. Its vCPU alone writes it.
    condition: AtomicU32,
    apic_id: AtomicU32,
    /// TSC ticks that the vCPU's guest has run, over all its runs.
    elapsed_tsc: AtomicU64,
    /// TSC ticks of its pauses among these.
    paused_tsc: AtomicU64,
    /// 1 while an interrupt of its own timer is to come.
    timer: AtomicU32,
    /// The time at which its timer fires, from its halt on; [`u64::MAX`] for never.
    deadline: AtomicU64,
    /// TSC ticks that were skipped while it had halted.
    skipped_ticks: AtomicU64,
    /// Boxed, so that an empty board is all zero and takes no room in an image.
    ended: Spinlock<Option<Box<Ended>>>,
    stop: Line,
    inbox: [Lane; MOST_VCPUS],
}

/// A figure alone on its cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Line(AtomicU32);

/// The board.
#[derive(Debug)]
pub struct Board {
    seats: [Seat; MOST_VCPUS],
    vcpus: AtomicU32,
    /// The vCPU that ended the guest, plus 1; 0 while none has.
    culprit: AtomicU32,
    /// The signal that is asked for; 0 for none.
    asked: AtomicU32,
    /// Processors that have no guest to run and send signals.
    servants: AtomicU32,
    /// The TSC at which vCPU 0 was entered first.
    first_entry_tsc: AtomicU64,
    /// The TSC at which the run ends at the latest.
    limit_tsc: AtomicU64,
    /// TSC ticks by which the guest's clock has been moved on.
    skipped_ticks: AtomicU64,
    /// TSC ticks that a processor may be away without being missed.
    patience_ticks: AtomicU64,
    /// A person may end the guest by a key.
    listens: AtomicBool,
    /// The reason that the monitor can't go on at one of the processors.
    fault: Spinlock<Fault>,
    /// Text that the guest wrote and that is not printed yet. Its lock is taken outside of exits.
    pub console: Spinlock<Console>,
}

impl Board {
    /// A board without vCPUs.
    pub const fn new() -> Self {
        Self {
            seats: [const {
                Seat {
                    condition: AtomicU32::new(Condition::Absent as u32),
                    apic_id: AtomicU32::new(0),
                    elapsed_tsc: AtomicU64::new(0),
                    paused_tsc: AtomicU64::new(0),
                    timer: AtomicU32::new(0),
                    deadline: AtomicU64::new(0),
                    skipped_ticks: AtomicU64::new(0),
                    ended: Spinlock::new(None),
                    stop: Line(AtomicU32::new(0)),
                    inbox: [const { Lane::empty() }; MOST_VCPUS],
                }
            }; MOST_VCPUS],
            vcpus: AtomicU32::new(0),
            culprit: AtomicU32::new(0),
            asked: AtomicU32::new(0),
            servants: AtomicU32::new(0),
            first_entry_tsc: AtomicU64::new(0),
            limit_tsc: AtomicU64::new(0),
            skipped_ticks: AtomicU64::new(0),
            patience_ticks: AtomicU64::new(0),
            listens: AtomicBool::new(false),
            fault: Spinlock::new(Fault::none()),
            console: Spinlock::new(Console::new()),
        }
    }

    /// Sets the number of seats that are taken: vCPUs 0 to `vcpus - 1`, each of which has sat down.
    pub fn settle(&self, vcpus: usize) {
        self.vcpus.store(vcpus.min(MOST_VCPUS) as u32, Ordering::Release);
    }

    /// The number of vCPUs.
    pub fn vcpus(&self) -> usize {
        self.vcpus.load(Ordering::Acquire) as usize
    }

    /// Seats vCPU `at`, which has come up on the processor with this APIC ID.
    pub fn sit(&self, at: usize, apic_id: u32) {
        self.seats[at].apic_id.store(apic_id, Ordering::Relaxed);
        self.set_condition(at, Condition::Waiting);
    }

    /// The APIC ID of the processor that vCPU `at` runs on.
    pub fn apic_id(&self, at: usize) -> u32 {
        self.seats[at].apic_id.load(Ordering::Relaxed)
    }

    /// Has what this vCPU has written be seen before what it reads from now on is read: of two vCPUs, each of which writes and then
    /// reads what the other has written, at least one sees that.
    #[cold]
    #[inline(never)]
    pub fn keep_order(&self) {
        fence(Ordering::SeqCst);
    }

    /// Every vCPU but `but`.
    pub fn others(&self, but: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        let vcpus = self.vcpus();
        (0..vcpus).filter(move |&at| at != but)
    }

    /// The vCPU on the processor with this APIC ID.
    pub fn seat_of(&self, apic_id: u32) -> Option<usize> {
        (0..MOST_VCPUS).find(|&at| self.condition(at) != Condition::Absent && self.apic_id(at) == apic_id)
    }
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A board whose vCPUs all run.
    pub(super) fn board(vcpus: usize) -> Box<Board> {
        let board = Box::new(Board::new());
        (0..vcpus).for_each(|at| board.sit(at, at as u32));
        board.settle(vcpus);
        (0..vcpus).for_each(|at| board.set_condition(at, Condition::Running));
        board
    }
}
