//! The stop protocol: makes the other vCPUs leave their guests once one of them is over, or the monitor has failed.
//!
//! The board asks each vCPU to stop. A vCPU that may be in its guest is signalled as well, again and again, until it has left or
//! is missed; a vCPU that waits sees the question by itself. All of this goes through [`Reach`], so that host tests drive the
//! protocol that ships.

use core::fmt;

use tollgate_abi::virtualization::Extension as Kind;
use vmm_core::board::{Board, Condition};
use vmm_core::host::local_apic::LocalApic;
use vmm_core::host::registers::tsc;

use crate::board::BOARD;
use crate::firmware::firmware;
use crate::patience::{Clock, wait_while};
use crate::processor::virtualization;

/// The means of the protocol, besides the board.
pub(crate) trait Reach: Clock {
    /// Has the processor of a vCPU exit from its guest whatever the guest does, if it is in there.
    fn signal(&self, vcpu: usize);
}

/// TSC ticks that other vCPUs have to go off line by themselves, and then to stop.
const STOP_TICKS: u64 = 1 << 26;
/// TSC ticks between two signals to one that has not stopped yet, and by how much they grow each time.
const SIGNAL_TICKS: u64 = 997;
const SIGNAL_TICKS_MORE: u64 = 13;

/// Stops other vCPUs, by signals again and again: an INIT in VMX root operation stays pending until the next entry (SDM 3C 24.8),
/// but Bochs drops it, and an NMI there is taken and gone.
fn stop(
    board: &Board,
    reach: &impl Reach,
    others: impl Iterator<Item = usize> + Clone,
    has_left: impl Fn(usize) -> bool,
) {
    let (start, mut signal_ticks) = (reach.now(), SIGNAL_TICKS);
    loop {
        let mut running = others.clone().filter(|&other| !has_left(other)).peekable();
        if running.peek().is_none() || reach.now().wrapping_sub(start) > board.patience(STOP_TICKS) {
            return;
        }
        for other in running {
            if board.ask_to_stop(other) {
                reach.signal(other);
            }
        }
        let told = reach.now();
        while reach.now().wrapping_sub(told) < signal_ticks {
            reach.pass();
        }
        // If the time between signals were constant, it could be a multiple of a guest's loop, and each would come while its exit
        // is handled.
        signal_ticks += SIGNAL_TICKS_MORE;
    }
}

/// The first vCPU sees to it that no other runs any more; returns one that had to be stopped although the guest ended itself.
pub(crate) fn stop_others(board: &Board, reach: &impl Reach) -> Option<usize> {
    let is_up = |at: &usize| matches!(board.condition(*at), Condition::Running | Condition::Halted);
    // A vCPU that has booked its last HLT is about to execute it.
    wait_while(board, reach, STOP_TICKS, 0, || board.first_busy(0).is_some() && board.culprit() == Some(0));
    let running = board.others(0).find(is_up);
    stop(board, reach, board.others(0), |at| is_off_line(board, at));
    running
}

/// Another vCPU, which has ended the guest, stops the first. That stops the rest.
pub(crate) fn stop_first(board: &Board, reach: &impl Reach) {
    stop(board, reach, core::iter::once(0), |first| board.has_ended(first));
}

/// Whether a vCPU will not run any more.
fn is_off_line(board: &Board, at: usize) -> bool {
    matches!(board.condition(at), Condition::Over | Condition::Absent)
}

/// The last words of a run in which the monitor has failed at this processor, which then has nothing left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastWords {
    /// The verdict of the fault that came first, which this processor writes.
    OfTheFirstFault,
    /// The verdict of its own fault, which this processor writes: the first can't write an account any more, or not yet.
    Own,
    /// The verdict of another processor.
    OfAnother,
}

/// The processor of a vCPU can't go on: stops every guest. `leaves` says that the processor has nothing left to do besides this,
/// unless it is the first.
pub(crate) fn stop_after_fault(
    board: &Board,
    reach: &impl Reach,
    vcpu: usize,
    detail: fmt::Arguments<'_>,
    leaves: impl FnOnce(),
) -> LastWords {
    let is_first_fault = board.fail(vcpu, detail);
    if vcpu == 0 {
        stop(board, reach, board.others(vcpu), |at| is_off_line(board, at));
        return LastWords::OfTheFirstFault;
    }
    leaves();
    // The first processor has not come to its guest yet: no vCPU runs.
    let is_early = !board.has_ended(0) && board.condition(0) == Condition::Waiting;
    if is_first_fault && !is_early {
        let has_left = |at: usize| if at == 0 { board.has_ended(0) } else { is_off_line(board, at) };
        stop(board, reach, board.others(vcpu), has_left);
    }
    if is_first_fault && !board.has_ended(0) { LastWords::Own } else { LastWords::OfAnother }
}

/// The processors at [`BOARD`], which this processor's local APIC reaches.
pub(crate) struct ByApic<'a> {
    local_apic: &'a LocalApic,
    signal: fn(&LocalApic, u32),
}

impl<'a> ByApic<'a> {
    /// The signal under SVM is an NMI, which makes an exit whatever RFLAGS.IF is, and waits while the processor is not in its
    /// guest. Under VT-x it is INIT (SDM 3C 26.2), as Bochs 2.7 makes no exit for an external interrupt while IF has been 0 since
    /// the VM entry. If firmware takes the processors back it is an NMI, as an INIT too many would outlast the run.
    pub(crate) fn new(local_apic: &'a LocalApic) -> Self {
        let by_nmi = virtualization() == Some(Kind::Svm) || firmware().takes_back;
        Self { local_apic, signal: if by_nmi { LocalApic::nmi } else { LocalApic::init } }
    }
}

impl Clock for ByApic<'_> {
    fn now(&self) -> u64 {
        tsc()
    }
}

impl Reach for ByApic<'_> {
    fn signal(&self, vcpu: usize) {
        (self.signal)(self.local_apic, BOARD.apic_id(vcpu));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waiting::{Look, look};
    use std::boxed::Box;
    use std::cell::{Cell, RefCell};
    use std::vec::Vec;
    use tollgate_abi::workload::Outcome;
    use vmm_core::board::Message;
    use vmm_core::ended::Ended;

    /// The processor of a vCPU, as far as the protocol meets it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Processor {
        /// The one that stops the others.
        Stops,
        /// In its guest. So many of the next signals come while it is in root operation, and are lost.
        Runs { loses: u32 },
        /// Halted in its guest.
        Halts,
        /// Running towards its last HLT, which it comes to after so many looks.
        GoesOffLine { looks: u32 },
        /// Waiting for a start-up IPI that nobody has sent.
        Waits,
        /// Waiting for a start-up IPI that is under way; it enters its guest so many signals after it.
        Starts { loses: u32 },
        /// Never to be seen again.
        Hangs,
    }
    use Processor::*;

    /// Processors that act each time that the protocol looks.
    struct Room {
        board: Box<Board>,
        processors: RefCell<Vec<Processor>>,
        now: Cell<u64>,
        /// TSC ticks from one look to the next.
        ticks: u64,
        /// Each signal, with its time.
        signals: RefCell<Vec<(u64, usize)>>,
    }

    impl Room {
        fn new(processors: &[Processor], ticks: u64) -> Self {
            let board = Box::new(Board::new());
            for (at, processor) in processors.iter().enumerate() {
                board.sit(at, at as u32);
                match processor {
                    Waits => {}
                    Starts { .. } => assert!(board.send(0, at, Message::StartUp(8))),
                    Halts => board.set_condition(at, Condition::Halted),
                    _ => board.set_condition(at, Condition::Running),
                }
            }
            board.settle(processors.len());
            let processors = RefCell::new(processors.to_vec());
            // The clock begins near its end, so that it wraps.
            Self { board, processors, now: Cell::new(u64::MAX - 5), ticks, signals: RefCell::default() }
        }

        /// The vCPU's part of the run is over, by its own doing or another's. The first goes on to the account, and rests no more.
        fn ends(&self, at: usize, outcome: Outcome) {
            self.board.end(at, Ended::of(outcome));
            if at != 0 {
                self.board.rest(at, Condition::Over);
            }
            self.processors.borrow_mut()[at] = Stops;
        }

        fn signals_to(&self, at: usize) -> Vec<u64> {
            self.signals.borrow().iter().filter(|&&(_, to)| to == at).map(|&(time, _)| time).collect()
        }

        fn conditions(&self) -> Vec<Condition> {
            (0..self.board.vcpus()).map(|at| self.board.condition(at)).collect()
        }
    }

    impl Clock for Room {
        fn now(&self) -> u64 {
            self.now.get()
        }

        fn pass(&self) {
            self.now.set(self.now.get().wrapping_add(self.ticks));
            for at in 0..self.board.vcpus() {
                let processor = self.processors.borrow()[at];
                let next = match processor {
                    GoesOffLine { looks: 0 } => {
                        self.ends(at, Outcome::HaltedForEver);
                        continue;
                    }
                    GoesOffLine { looks } => GoesOffLine { looks: looks - 1 },
                    Waits | Starts { .. } => match (look(&self.board, at, || ()), processor) {
                        (Look::Over, _) => {
                            self.board.rest(at, Condition::Over);
                            Stops
                        }
                        (Look::Start(8), Starts { loses }) => Runs { loses },
                        (Look::Wait, processor) => processor,
                        (look, _) => panic!("vCPU {at} has no business with {look:?}"),
                    },
                    other => other,
                };
                self.processors.borrow_mut()[at] = next;
            }
        }
    }

    impl Reach for Room {
        fn signal(&self, at: usize) {
            self.signals.borrow_mut().push((self.now.get(), at));
            let processor = self.processors.borrow()[at];
            match processor {
                Runs { loses: 0 } | Halts if self.board.is_to_stop(at) => self.ends(at, Outcome::StoppedByAnother),
                Runs { loses } => self.processors.borrow_mut()[at] = Runs { loses: loses - 1 },
                _ => {}
            }
        }
    }

    #[test]
    fn every_vcpu_is_stopped_whatever_it_does() {
        let all = [Stops, Runs { loses: 0 }, Runs { loses: 40 }, Halts, Waits, Starts { loses: 0 }];
        let room = Room::new(&all, 100);
        room.board.set_condition(0, Condition::Over);
        assert_eq!(stop_others(&room.board, &room), Some(1));
        assert_eq!(room.conditions(), [Condition::Over; 6]);
        assert_eq!([1, 2, 3, 4, 5].map(|at| room.signals_to(at).len()), [1, 41, 1, 0, 0]);
        assert_eq!(room.board.culprit(), None, "whoever is stopped has not ended the guest");
        // A guest's loop can't be in step with the signals.
        let times = room.signals_to(2);
        let between: Vec<_> = times.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
        assert!(between.iter().zip(SIGNAL_TICKS..).all(|(ticks, least)| *ticks >= least), "{between:?}");
        assert!(between.last() > between.first(), "{between:?}");
    }

    #[test]
    fn a_vcpu_that_has_just_started_is_stopped_once_it_is_in_its_guest() {
        let room = Room::new(&[Stops, Starts { loses: 3 }], 100);
        // It has looked, and seen nobody who asks.
        room.pass();
        assert_eq!(room.processors.borrow()[1], Runs { loses: 3 });
        stop_others(&room.board, &room);
        assert_eq!((room.signals_to(1).len(), room.board.condition(1)), (4, Condition::Over));
    }

    #[test]
    fn a_vcpu_that_does_not_come_back_is_missed_and_the_others_are_stopped() {
        const TICKS: u64 = 1 << 12;
        let start = Room::new(&[], TICKS).now();
        for (patience, bound) in [(0, STOP_TICKS), (5 * STOP_TICKS, 5 * STOP_TICKS)] {
            let room = Room::new(&[Stops, Hangs, Runs { loses: 2 }, Waits], TICKS);
            room.board.set_patience(patience);
            stop_others(&room.board, &room);
            let over = [2, 3].map(|at| room.board.condition(at));
            assert_eq!((room.board.condition(1), over), (Condition::Running, [Condition::Over; 2]));
            let (took, signals) = (room.now().wrapping_sub(start), room.signals_to(1));
            let last = SIGNAL_TICKS + SIGNAL_TICKS_MORE * signals.len() as u64;
            assert!((bound..bound + last + 2 * TICKS).contains(&took), "{took} of {bound} ticks");
            assert!(signals.last().unwrap().wrapping_sub(start) > bound - last - TICKS, "it was signalled to the end");
        }
    }

    #[test]
    fn a_guest_that_ends_itself_has_time_to_take_its_vcpus_off_line() {
        let after = |other: Processor| {
            let room = Room::new(&[Stops, other, Waits], 1 << 16);
            room.board.end(0, Ended::of(Outcome::Exited));
            room.board.set_condition(0, Condition::Over);
            let running = stop_others(&room.board, &room);
            assert_eq!(room.conditions(), [Condition::Over; 3]);
            (running, room.signals_to(1).len())
        };
        assert_eq!(after(GoesOffLine { looks: 900 }), (None, 0));
        assert_eq!(after(Runs { loses: 0 }), (Some(1), 1), "it runs on: that is told");
        assert_eq!(after(Halts), (Some(1), 1), "an interrupt could wake it");
    }

    #[test]
    fn whoever_ends_the_guest_besides_the_first_stops_the_first_alone() {
        let room = Room::new(&[Runs { loses: 5 }, Stops, Runs { loses: 0 }], 100);
        assert!(room.board.end(1, Ended::of(Outcome::TripleFault)));
        stop_first(&room.board, &room);
        assert!(room.board.has_ended(0) && room.signals_to(2).is_empty());
        assert_eq!((room.board.condition(2), room.board.culprit()), (Condition::Running, Some(1)));
    }

    /// The processor of vCPU `at` fails; returns whose the last words are.
    fn fails(room: &Room, at: usize) -> LastWords {
        let (was_first, leaves) = (room.signals.borrow().len(), Cell::new(0));
        let words = stop_after_fault(&room.board, room, at, format_args!("fault of {at}"), || {
            assert_eq!(room.signals.borrow().len(), was_first, "it is out of the way before the others are");
            leaves.set(leaves.get() + 1);
        });
        assert_eq!(leaves.get(), usize::from(at != 0), "the first is not on the roll");
        words
    }

    /// Of every group of up to four vCPUs, whichever fails, all stop that can, and exactly one processor has the last words.
    #[test]
    fn a_fault_at_any_processor_stops_all_and_is_said_once() {
        const KINDS: [Processor; 5] = [Runs { loses: 0 }, Runs { loses: 3 }, Halts, Waits, Hangs];
        let mut cases = 0;
        for vcpus in 1..=4 {
            for mut code in 0..vcpus * KINDS.len().pow(vcpus as u32) {
                let fails_at = code % vcpus;
                code /= vcpus;
                let kinds: Vec<_> =
                    (0..vcpus).map(|at| KINDS[code / KINDS.len().pow(at as u32) % KINDS.len()]).collect();
                // The failing processor's kind makes no difference, so that one is enough; the first waits only while no other
                // runs.
                let is_early = kinds[0] == Waits && fails_at != 0;
                if kinds[fails_at] != KINDS[0] || is_early && (1..vcpus).any(|at| at != fails_at && kinds[at] != Waits)
                {
                    continue;
                }
                let mut processors = kinds.clone();
                processors[fails_at] = Stops;
                let room = Room::new(&processors, 1 << 19);
                let start = room.now();
                let words = fails(&room, fails_at);
                let first_is_lost = fails_at == 0 || is_early || kinds[0] == Hangs;
                let expected = match fails_at {
                    0 => LastWords::OfTheFirstFault,
                    _ if first_is_lost => LastWords::Own,
                    _ => LastWords::OfAnother,
                };
                assert_eq!(words, expected, "{kinds:?}, vCPU {fails_at} fails");
                assert_eq!(room.board.has_ended(0), !first_is_lost, "then it writes the account, and the verdict");
                assert_eq!(room.board.fault().to_string(), std::format!("fault of {fails_at}"));
                for at in (1..vcpus).filter(|&at| kinds[at] != Hangs && !is_early) {
                    assert_eq!(room.board.condition(at), Condition::Over, "vCPU {at} of {kinds:?}, {fails_at} fails");
                }
                let took = room.now().wrapping_sub(start);
                assert!(!is_early || took == 0, "nobody is in a guest who would have to be waited for");
                assert!(kinds.contains(&Hangs) || took < STOP_TICKS / 4, "{took} ticks for {kinds:?}");
                cases += 1;
            }
        }
        assert!(cases > 400, "{cases}");
    }

    #[test]
    fn a_second_fault_adds_nothing() {
        for (first, words) in [(Runs { loses: 0 }, LastWords::OfAnother), (Hangs, LastWords::Own)] {
            let room = Room::new(&[first, Stops, Stops], 1 << 19);
            assert_eq!(fails(&room, 2), words);
            let then = room.now();
            assert_eq!((fails(&room, 1), room.now()), (LastWords::OfAnother, then));
            assert_eq!(fails(&room, 0), LastWords::OfTheFirstFault);
            assert_eq!(room.board.fault().to_string(), "fault of 2");
        }
    }
}
