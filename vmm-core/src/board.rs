//! The board that the vCPUs sit on: the facts that they know of each other, and the way in which one reaches another.
//!
//! vCPU n runs on a processor of its own. A message from one vCPU to another goes into a lane that has one writer and one reader,
//! so that neither locks anything. The writer then interrupts the other's processor, which exits and reads. All of this is for
//! interprocessor interrupts and for starting and stopping: no other exit touches the board.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use alloc::boxed::Box;
use spinning_top::Spinlock;
use tollgate_abi::machine::MOST_VCPUS;
use tollgate_abi::workload::Outcome;

use crate::console::Console;
use crate::ended::Ended;
use crate::fault::Fault;

/// The condition of a vCPU, as far as others have to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Condition {
    /// It has no processor.
    Absent = 0,
    /// It waits for INIT and a start-up IPI.
    Waiting = 1,
    /// It runs, or its exit is being handled.
    Running = 2,
    /// It has halted until an interrupt.
    Halted = 3,
    /// It has ended, or is off line for good.
    Over = 4,
}

impl Condition {
    fn from_number(number: u32) -> Self {
        match number {
            1 => Condition::Waiting,
            2 => Condition::Running,
            3 => Condition::Halted,
            4 => Condition::Over,
            _ => Condition::Absent,
        }
    }
}

/// A message from one vCPU's APIC to another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// An interrupt with this vector.
    Interrupt(u8),
    /// An NMI.
    Nmi,
    /// INIT.
    Init,
    /// A start-up IPI with this vector.
    StartUp(u8),
}

impl Message {
    const fn encode(self) -> u32 {
        match self {
            Message::Interrupt(vector) => 0x100 | vector as u32,
            Message::Nmi => 0x200,
            Message::Init => 0x300,
            Message::StartUp(vector) => 0x400 | vector as u32,
        }
    }

    const fn decode(word: u32) -> Self {
        match word >> 8 {
            1 => Message::Interrupt(word as u8),
            2 => Message::Nmi,
            3 => Message::Init,
            _ => Message::StartUp(word as u8),
        }
    }
}

/// The signals that a processor without a guest can send to vCPU 0's processor. That can't send them itself (SDM 3A 12.6.1), or
/// would get them before it is in its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Signal {
    /// INIT.
    Init = 1,
    /// A start-up IPI, with a vector that no guest looks at.
    StartUp = 2,
    /// An NMI.
    Nmi = 3,
}

/// A signal that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The signal.
    pub signal: Signal,
    word: u32,
}

/// Bits of the signal in a request; above them the requests are counted.
const SIGNAL_BITS: u32 = 2;
const SIGNALS: u32 = (1 << SIGNAL_BITS) - 1;

/// Bits of a seat's condition; above them its wake-ups are counted.
const CONDITION_BITS: u32 = 3;

/// Messages that a lane holds.
const LANE_SLOTS: u32 = 32;

/// A queue with one writer and one reader. Each counts without end; the messages between the two counts are waiting.
#[derive(Debug)]
#[repr(align(64))]
struct Lane {
    written: AtomicU32,
    read: AtomicU32,
    slots: [AtomicU32; LANE_SLOTS as usize],
}

impl Lane {
    const fn empty() -> Self {
        Self {
            written: AtomicU32::new(0),
            read: AtomicU32::new(0),
            slots: [const { AtomicU32::new(0) }; LANE_SLOTS as usize],
        }
    }

    /// Puts a message in; false if the lane is full. Called by its writer only.
    #[inline(always)]
    fn put(&self, message: Message) -> bool {
        let written = self.written.load(Ordering::Relaxed);
        if written.wrapping_sub(self.read.load(Ordering::Acquire)) >= LANE_SLOTS {
            return false;
        }
        self.slots[(written % LANE_SLOTS) as usize].store(message.encode(), Ordering::Relaxed);
        self.written.store(written.wrapping_add(1), Ordering::Release);
        true
    }

    /// Takes a message out. Called by its reader only.
    #[inline(always)]
    fn take(&self) -> Option<Message> {
        let read = self.read.load(Ordering::Relaxed);
        if read == self.written.load(Ordering::Acquire) {
            return None;
        }
        let word = self.slots[(read % LANE_SLOTS) as usize].load(Ordering::Relaxed);
        self.read.store(read.wrapping_add(1), Ordering::Release);
        Some(Message::decode(word))
    }

    fn is_empty(&self) -> bool {
        self.read.load(Ordering::Acquire) == self.written.load(Ordering::Acquire)
    }
}

/// One vCPU's place. Fields that others write, and those that others read, are on cache lines of their own.
#[derive(Debug)]
#[repr(align(64))]
struct Seat {
    /// The [`Condition`], and above it the number of times that it has become [`Condition::Running`]. Its vCPU alone writes it.
    condition: AtomicU32,
    apic_id: AtomicU32,
    /// TSC ticks that the vCPU's guest has run, over all its runs.
    elapsed_tsc: AtomicU64,
    /// 1 while an interrupt of its own timer is to come.
    timer: AtomicU32,
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
    /// The TSC at which the run ends at the latest.
    limit_tsc: AtomicU64,
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
                    timer: AtomicU32::new(0),
                    ended: Spinlock::new(None),
                    stop: Line(AtomicU32::new(0)),
                    inbox: [const { Lane::empty() }; MOST_VCPUS],
                }
            }; MOST_VCPUS],
            vcpus: AtomicU32::new(0),
            culprit: AtomicU32::new(0),
            asked: AtomicU32::new(0),
            servants: AtomicU32::new(0),
            limit_tsc: AtomicU64::new(0),
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

    /// The present condition of a vCPU.
    pub fn condition(&self, at: usize) -> Condition {
        Condition::from_number(self.seats[at].condition.load(Ordering::Acquire) & ((1 << CONDITION_BITS) - 1))
    }

    /// Sets this vCPU's condition: to running before it reads its messages or lets its timer fire. For the others see
    /// [`Board::rest`].
    pub fn set_condition(&self, at: usize, condition: Condition) {
        let word = &self.seats[at].condition;
        let wakes =
            (word.load(Ordering::Relaxed) >> CONDITION_BITS).wrapping_add((condition == Condition::Running).into());
        word.store(wakes << CONDITION_BITS | condition as u32, Ordering::Release);
    }

    /// Says that this vCPU waits, has halted or is over. True if nothing can ever happen again; the last vCPU to come to rest
    /// finds that out. vCPU 0 then ends the guest: another vCPU interrupts it.
    pub fn rest(&self, at: usize, condition: Condition) -> bool {
        self.set_condition(at, condition);
        self.is_dead()
    }

    /// Says whether an interrupt of this vCPU's own timer is to come.
    pub fn set_timer(&self, at: usize, armed: bool) {
        debug_assert_eq!(self.condition(at), Condition::Running, "whoever looks takes vCPU {at} for quiet");
        self.seats[at].timer.store(armed.into(), Ordering::Release);
    }

    /// Hands over a message; false if the lane is full. The caller then interrupts the processor of `to`.
    #[inline(always)]
    pub fn send(&self, from: usize, to: usize, message: Message) -> bool {
        self.seats[to].inbox[from].put(message)
    }

    /// The next message for a vCPU, from the sender with the lowest number first.
    pub fn receive(&self, at: usize) -> Option<Message> {
        (0..self.vcpus()).find_map(|from| self.receive_from(from, at))
    }

    /// The next message for a vCPU from one sender.
    #[inline(always)]
    pub fn receive_from(&self, from: usize, at: usize) -> Option<Message> {
        debug_assert_eq!(self.condition(at), Condition::Running, "whoever looks takes vCPU {at} for quiet");
        self.seats[at].inbox.get(from)?.take()
    }

    /// Asks a vCPU to leave its guest. True if it may be in there, so that its processor has to be told.
    pub fn ask_to_stop(&self, at: usize) -> bool {
        self.seats[at].stop.0.store(1, Ordering::Release);
        // Pairs with the fence in `run`.
        fence(Ordering::SeqCst);
        matches!(self.condition(at), Condition::Running | Condition::Halted)
    }

    /// Marks a waiting vCPU as running. False if it was asked to stop meanwhile. The fence pairs with the one in
    /// [`Board::ask_to_stop`]: at least one side sees the other's store.
    pub fn run(&self, at: usize) -> bool {
        self.set_condition(at, Condition::Running);
        fence(Ordering::SeqCst);
        !self.is_to_stop(at)
    }

    /// Whether a vCPU was asked to stop.
    pub fn is_to_stop(&self, at: usize) -> bool {
        self.seats[at].stop.0.load(Ordering::Acquire) != 0
    }

    /// The first other vCPU that may still exit: it runs, or a message or its timer will make it run. The caller sends no
    /// message.
    pub fn first_busy(&self, but: usize) -> Option<usize> {
        self.first_restless(Some(but))
    }

    /// Whether nothing can ever happen again: every vCPU waits, has halted or is over, no message is under way, and no timer
    /// will fire.
    fn is_dead(&self) -> bool {
        self.first_restless(None).is_none()
    }

    /// The first vCPU that may still exit, but for `but`. A vCPU reads its messages, sends and arms its timer only while its
    /// condition is running. So messages and timers stood still during the look if each vCPU was at rest before and after it, and
    /// did not run in between.
    fn first_restless(&self, but: Option<usize>) -> Option<usize> {
        // This vCPU's condition is stored before the others' are read: of two that halt at once, one sees the other.
        fence(Ordering::SeqCst);
        let seats = || (0..self.vcpus()).filter(|&at| Some(at) != but);
        let word = |at: usize| self.seats[at].condition.load(Ordering::Acquire);
        let mut before = [0; MOST_VCPUS];
        seats().for_each(|at| before[at] = word(at));
        let is_restless = |at: &usize| match self.condition(*at) {
            Condition::Running => true,
            // Such a vCPU gets no more messages, and its timer does not matter.
            Condition::Over | Condition::Absent => false,
            Condition::Waiting | Condition::Halted => {
                self.is_under_way(*at) || self.seats[*at].timer.load(Ordering::Acquire) != 0
            }
        };
        seats().find(is_restless).or_else(|| seats().find(|&at| word(at) != before[at]))
    }

    /// Whether a message for a vCPU is under way.
    pub fn is_under_way(&self, at: usize) -> bool {
        !self.seats[at].inbox.iter().all(Lane::is_empty)
    }

    /// Every vCPU but `but`.
    pub fn others(&self, but: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        let vcpus = self.vcpus();
        (0..vcpus).filter(move |&at| at != but)
    }

    /// Adds to the time that a vCPU's guest has run.
    pub fn add_elapsed(&self, at: usize, ticks: u64) {
        self.seats[at].elapsed_tsc.fetch_add(ticks, Ordering::Relaxed);
    }

    /// TSC ticks that a vCPU's guest has run.
    pub fn elapsed_tsc(&self, at: usize) -> u64 {
        self.seats[at].elapsed_tsc.load(Ordering::Relaxed)
    }

    /// Notes the end of a vCPU. True if that ends the guest and no other vCPU has ended it before.
    pub fn end(&self, at: usize, ended: Ended) -> bool {
        let ends_guest = match ended.outcome {
            Outcome::StoppedByAnother | Outcome::Init => false,
            // Another vCPU is then off line.
            Outcome::HaltedForEver => at == 0,
            _ => true,
        };
        *self.seats[at].ended.lock() = Some(Box::new(ended));
        ends_guest && self.culprit.compare_exchange(0, at as u32 + 1, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Notes that the monitor can't go on at the processor of vCPU `at`, whose guest is over with that. True for the first fault:
    /// the caller then stops the others, and the run's verdict is this fault.
    pub fn fail(&self, at: usize, detail: core::fmt::Arguments<'_>) -> bool {
        let first = self.fault.lock().note(at, detail);
        self.set_condition(at, Condition::Over);
        first
    }

    /// The fault that ended the run, if one did.
    pub fn fault(&self) -> Fault {
        self.fault.lock().clone()
    }

    /// The vCPU on the processor with this APIC ID.
    pub fn seat_of(&self, apic_id: u32) -> Option<usize> {
        (0..MOST_VCPUS).find(|&at| self.condition(at) != Condition::Absent && self.apic_id(at) == apic_id)
    }

    /// Sets the TSC at which the run ends at the latest, before any vCPU runs.
    pub fn set_limit(&self, limit_tsc: u64) {
        self.limit_tsc.store(limit_tsc, Ordering::Release);
    }

    /// The TSC at which the run ends at the latest.
    pub fn limit_tsc(&self) -> u64 {
        self.limit_tsc.load(Ordering::Acquire)
    }

    /// Sets the TSC ticks that a processor may be away without being missed: many, where another hypervisor schedules it.
    pub fn set_patience(&self, ticks: u64) {
        self.patience_ticks.store(ticks, Ordering::Relaxed);
    }

    /// TSC ticks to wait for a processor: `usual` if nothing holds processors up.
    pub fn patience(&self, usual: u64) -> u64 {
        self.patience_ticks.load(Ordering::Relaxed).max(usual)
    }

    /// Lets a person end the guest by a key from now on.
    pub fn listen(&self) {
        self.listens.store(true, Ordering::Relaxed);
    }

    /// Whether a person may end the guest by a key.
    pub fn listens(&self) -> bool {
        self.listens.load(Ordering::Relaxed)
    }

    /// This processor serves from now on, by asking [`Board::asked`] again and again.
    pub fn serve(&self) {
        self.servants.fetch_add(1, Ordering::Release);
    }

    /// Whether any processor serves.
    pub fn is_served(&self) -> bool {
        self.servants.load(Ordering::Acquire) > 0
    }

    /// Asks for a signal to vCPU 0's processor, a while from now.
    pub fn ask(&self, signal: Signal) {
        let number = (self.asked.load(Ordering::Relaxed) >> SIGNAL_BITS).wrapping_add(1);
        self.asked.store(number << SIGNAL_BITS | signal as u32, Ordering::Release);
    }

    /// Takes back whatever was asked for. True if it had not been answered: then no signal comes.
    pub fn ask_nothing(&self) -> bool {
        self.asked.fetch_and(!SIGNALS, Ordering::AcqRel) & SIGNALS != 0
    }

    /// The request for a signal, if there is one.
    pub fn asked(&self) -> Option<Request> {
        let word = self.asked.load(Ordering::Acquire);
        let signal =
            [Signal::Init, Signal::StartUp, Signal::Nmi].into_iter().find(|&signal| signal as u32 == word & SIGNALS)?;
        Some(Request { signal, word })
    }

    /// Whether this request still stands.
    pub fn wants(&self, request: Request) -> bool {
        self.asked.load(Ordering::Acquire) == request.word
    }

    /// Whether this request still stands; if so, this call answers it. But a request for a start-up IPI stands until
    /// [`Board::ask_nothing`], and the IPI is to be sent again and again: one that comes before the guest waits for it is
    /// dropped, and only another one ends that wait.
    pub fn answers(&self, request: Request) -> bool {
        let answered = if request.signal == Signal::StartUp { request.word } else { request.word & !SIGNALS };
        self.asked.compare_exchange(request.word, answered, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether a vCPU has ended.
    pub fn has_ended(&self, at: usize) -> bool {
        self.seats[at].ended.lock().is_some()
    }

    /// The end of a vCPU, once it has ended.
    pub fn ended(&self, at: usize) -> Option<Ended> {
        self.seats[at].ended.lock().as_deref().cloned()
    }

    /// The vCPU that ended the guest.
    pub fn culprit(&self) -> Option<usize> {
        (self.culprit.load(Ordering::Acquire) as usize).checked_sub(1)
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

    fn board(vcpus: usize) -> Box<Board> {
        let board = Box::new(Board::new());
        (0..vcpus).for_each(|at| board.sit(at, at as u32));
        board.settle(vcpus);
        (0..vcpus).for_each(|at| board.set_condition(at, Condition::Running));
        board
    }

    #[test]
    fn a_start_up_ipi_is_asked_for_until_it_has_come() {
        let board = board(1);
        board.ask(Signal::Nmi);
        let once = board.asked().unwrap();
        assert_eq!((once.signal, board.answers(once), board.answers(once)), (Signal::Nmi, true, false));
        assert_eq!(board.asked(), None);
        board.ask(Signal::StartUp);
        let again = board.asked().unwrap();
        assert_eq!([board.answers(again), board.answers(again)], [true; 2]);
        assert!(board.ask_nothing() && !board.ask_nothing());
        assert_eq!((board.asked(), board.answers(again)), (None, false));
        board.ask(Signal::StartUp);
        assert!(!board.answers(again), "it was asked for by another scenario");
    }

    #[test]
    fn a_signal_is_on_its_way_from_its_answer_on() {
        let board = board(1);
        board.ask(Signal::Init);
        let request = board.asked().unwrap();
        assert!(board.wants(request) && board.ask_nothing(), "it was not sent");
        assert!(!board.answers(request), "and will not be");
        board.ask(Signal::Init);
        assert!(board.answers(board.asked().unwrap()) && !board.ask_nothing());
    }

    #[test]
    fn messages_arrive_in_their_order_and_a_full_lane_says_so() {
        let board = board(3);
        for message in [Message::Interrupt(0x30), Message::Nmi, Message::Init, Message::StartUp(8)] {
            assert!(board.send(0, 2, message));
        }
        assert!(board.send(1, 2, Message::Interrupt(0xff)));
        let received: Vec<_> = std::iter::from_fn(|| board.receive(2)).collect();
        let expected =
            [Message::Interrupt(0x30), Message::Nmi, Message::Init, Message::StartUp(8), Message::Interrupt(0xff)];
        assert_eq!(received, expected);
        assert!((0..LANE_SLOTS).all(|_| board.send(0, 1, Message::Nmi)));
        assert!(!board.send(0, 1, Message::Nmi));
        assert_eq!(board.receive(1), Some(Message::Nmi));
        assert!(board.send(0, 1, Message::Nmi) && !board.send(0, 1, Message::Nmi));
    }

    #[test]
    fn lanes_carry_everything_between_two_threads() {
        let board = board(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..20_000u32 {
                    while !board.send(0, 1, Message::Interrupt(n as u8)) {
                        std::thread::yield_now();
                    }
                }
            });
            for n in 0..20_000u32 {
                let message = loop {
                    match board.receive(1) {
                        Some(message) => break message,
                        None => std::thread::yield_now(),
                    }
                };
                assert_eq!(message, Message::Interrupt(n as u8));
            }
        });
    }

    #[test]
    fn a_board_is_dead_only_if_nothing_is_under_way() {
        let board = board(2);
        board.set_timer(1, true);
        assert!(!board.rest(1, Condition::Halted) && !board.rest(0, Condition::Halted));
        assert!(board.rest(1, Condition::Over), "its timer is over, too");
        board.set_condition(1, Condition::Running);
        board.set_timer(1, false);
        assert!(board.rest(1, Condition::Waiting));
        assert!(board.send(1, 0, Message::Interrupt(0x30)) && !board.is_dead());
        assert_eq!(board.first_busy(1), Some(0), "it will wake");
        board.set_condition(0, Condition::Over);
        assert!(board.is_dead(), "what is sent to one that is over is lost");
        assert_eq!(board.first_busy(1), None);
    }

    /// One message goes round as often as `HOPS` says, and each vCPU halts behind it. Only when it has ended is the board dead,
    /// and then some vCPU finds that out.
    #[test]
    fn vcpus_that_halt_and_wake_are_not_taken_for_dead() {
        const VCPUS: usize = 4;
        const HOPS: u32 = 20_000;
        let (board, hops, deaths) = (board(VCPUS), AtomicU32::new(0), AtomicU32::new(0));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let vcpu = &|at: usize| {
            while deaths.load(Ordering::Acquire) == 0 {
                assert!(std::time::Instant::now() < deadline, "no one found out that the board is dead");
                if !board.is_under_way(at) {
                    std::thread::yield_now();
                    continue;
                }
                board.set_condition(at, Condition::Running);
                assert_eq!(board.receive(at), Some(Message::Nmi));
                if hops.fetch_add(1, Ordering::AcqRel) < HOPS {
                    assert!(board.send(at, (at + 1) % VCPUS, Message::Nmi));
                }
                if board.rest(at, Condition::Halted) {
                    assert!(hops.load(Ordering::Acquire) > HOPS, "taken for dead");
                    deaths.fetch_add(1, Ordering::AcqRel);
                }
            }
        };
        (0..VCPUS).for_each(|at| board.set_condition(at, Condition::Halted));
        assert!(board.send(0, 1, Message::Nmi));
        std::thread::scope(|scope| (0..VCPUS).for_each(|at| drop(scope.spawn(move || vcpu(at)))));
        assert_eq!(deaths.load(Ordering::Acquire), 1);
    }

    #[test]
    fn a_fault_of_the_monitor_is_the_end_of_its_vcpu_and_of_all_others() {
        let board = board(3);
        assert_eq!((board.fault().vcpu(), board.seat_of(2), board.seat_of(3)), (None, Some(2), None));
        board.set_condition(0, Condition::Halted);
        assert!(board.fail(2, format_args!("exception 14")) && !board.fail(1, format_args!("exception 13")));
        assert_eq!((board.fault().vcpu(), board.fault().to_string().as_str()), (Some(2), "exception 14"));
        assert_eq!([1, 2].map(|at| board.condition(at)), [Condition::Over; 2]);
        assert!(board.is_dead(), "vCPU 0 waits for nobody");
    }

    #[test]
    fn the_first_end_is_the_guests() {
        let board = board(3);
        let ended = Ended::of;
        assert!(!board.end(1, ended(Outcome::HaltedForEver)), "off line");
        assert!(board.end(2, ended(Outcome::TripleFault)));
        assert!(!board.end(0, ended(Outcome::StoppedByAnother)));
        assert_eq!(board.culprit(), Some(2));
    }
}
