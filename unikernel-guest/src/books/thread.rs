//! The work that vCPU 0 gives to another vCPU: its states, as both see them. `runtime::threads` runs the work and announces its
//! end.
//!
//! ```text
//! idle ─ claimed ─► being made ─ given ─► ready ─ run ─► done ─ joined, or taken back ─► idle
//! ```
//!
//! Whoever claims an idle vCPU alone gives it work; the vCPU alone ends that; of several that join, one succeeds. A state counts
//! the threads before, so that whoever is late to wait for one thread's end does not sleep until the next thread's.

use core::ptr;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize};

use tollgate_abi::machine::MOST_VCPUS;
use tollgate_abi::profile::Profile;

/// Phases of a thread, the low bits of its state: none, being made, to be run, finished.
const IDLE: u32 = 0;
const CLAIMED: u32 = 1;
const READY: u32 = 2;
const DONE: u32 = 3;
const PHASE: u32 = 0b11;
/// One thread more, in the bits above the phase. It begins when its vCPU is claimed.
const GENERATION: u32 = PHASE + 1;

/// The work of one vCPU.
pub(crate) struct Thread {
    /// Its phase and its generation, a word that others wait on.
    state: AtomicU32,
    entry: AtomicPtr<()>,
    argument: AtomicUsize,
    profile: AtomicU8,
    /// True if the last thread of this vCPU left control registers changed.
    left_changed: AtomicBool,
    /// The thread's number, from `sys_spawn` until the thread is joined; else 0.
    id: AtomicU32,
    /// 1 from `sys_block_current_task` on until the thread is woken.
    is_blocked: AtomicU32,
}

/// The work itself: a function of `runtime::threads`, its argument, the profile to run it under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) entry: *mut (),
    pub(crate) argument: usize,
    pub(crate) profile: Profile,
}

/// The result of an attempt to join a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(PartialOrd, Ord))]
pub(crate) enum Join {
    /// The thread has finished, and its vCPU is idle again.
    Joined,
    /// There is no such thread any more.
    Gone,
    /// The thread has not finished: its state is this.
    Wait(u32),
}

impl Thread {
    /// No thread.
    pub(crate) const fn none() -> Self {
        Self {
            state: AtomicU32::new(IDLE),
            entry: AtomicPtr::new(ptr::null_mut()),
            argument: AtomicUsize::new(0),
            profile: AtomicU8::new(0),
            left_changed: AtomicBool::new(false),
            id: AtomicU32::new(0),
            is_blocked: AtomicU32::new(0),
        }
    }

    /// Reserves the vCPU if it is idle.
    pub(crate) fn claim(&self) -> bool {
        self.claim_from(IDLE)
    }

    /// Reserves the vCPU for its end: a thread that has finished need not have been joined.
    pub(crate) fn claim_for_good(&self) -> bool {
        self.claim_from(IDLE) || self.claim_from(DONE)
    }

    fn claim_from(&self, phase: u32) -> bool {
        let state = self.state.load(Relaxed);
        let claimed = with_phase(state.wrapping_add(GENERATION), CLAIMED);
        state & PHASE == phase && self.state.compare_exchange(state, claimed, AcqRel, Relaxed).is_ok()
    }

    /// Goes on to this phase. One alone may end each phase, so that nobody else changes the state meanwhile.
    fn go_on_to(&self, phase: u32) {
        self.state.store(with_phase(self.state.load(Relaxed), phase), Release);
    }

    fn is_in(&self, phase: u32) -> bool {
        self.state.load(Acquire) & PHASE == phase
    }

    /// Gives the vCPU, which was claimed, its work. The caller announces it.
    pub(crate) fn give(&self, work: Work) {
        self.entry.store(work.entry, Relaxed);
        self.argument.store(work.argument, Relaxed);
        self.profile.store(work.profile as u8, Relaxed);
        self.is_blocked.store(0, Relaxed);
        self.go_on_to(READY);
    }

    /// The work that this vCPU is to do now.
    pub(crate) fn work(&self) -> Option<Work> {
        self.is_in(READY).then(|| Work {
            entry: self.entry.load(Relaxed),
            argument: self.argument.load(Relaxed),
            profile: Profile::from_number(self.profile.load(Relaxed).into()).unwrap_or_default(),
        })
    }

    /// This vCPU has done its work. The caller wakes those who wait on the state.
    pub(crate) fn finish(&self) {
        self.go_on_to(DONE);
    }

    /// Whether the work is done.
    pub(crate) fn is_done(&self) -> bool {
        self.is_in(DONE)
    }

    /// Takes back a vCPU whose work is done and was given without a number.
    pub(crate) fn take_back(&self) {
        self.go_on_to(IDLE);
    }

    /// Joins the thread with this number, if it has finished.
    pub(crate) fn join(&self, id: u32) -> Join {
        let state = self.state.load(Acquire);
        // Another may have joined it meanwhile.
        if self.id.load(Acquire) != id {
            return Join::Gone;
        }
        if state & PHASE != DONE {
            return Join::Wait(state);
        }
        if self.id.compare_exchange(id, 0, AcqRel, Relaxed).is_err() {
            return Join::Gone;
        }
        self.go_on_to(IDLE);
        Join::Joined
    }

    /// The word that changes when the thread ends.
    pub(crate) fn state(&self) -> &AtomicU32 {
        &self.state
    }

    /// The thread's number; 0 if it has none.
    pub(crate) fn id(&self) -> u32 {
        self.id.load(Acquire)
    }

    /// Gives the thread its number, before its work.
    pub(crate) fn set_id(&self, id: u32) {
        self.id.store(id, Release);
    }

    /// Notes whether the thread leaves control registers changed.
    pub(crate) fn set_left_changed(&self, left_changed: bool) {
        self.left_changed.store(left_changed, Relaxed);
    }

    /// Whether the last thread left control registers changed, which is forgotten with this.
    pub(crate) fn take_left_changed(&self) -> bool {
        self.left_changed.swap(false, Relaxed)
    }

    /// Blocks the thread, or unblocks it. Whoever unblocks it wakes it.
    pub(crate) fn set_blocked(&self, is_blocked: bool) {
        self.is_blocked.store(is_blocked.into(), SeqCst);
    }

    /// The word that is 1 while the thread is blocked.
    pub(crate) fn blocked(&self) -> &AtomicU32 {
        &self.is_blocked
    }
}

const fn with_phase(state: u32, phase: u32) -> u32 {
    state & !PHASE | phase
}

/// The number of a thread on a vCPU, after so many others: never 0, nor the main thread's, nor a refusal's, nor that of a thread
/// that has not been joined, for almost the first 2^28 threads.
pub(crate) fn number(spawned: u32, vcpu: usize) -> u32 {
    spawned.wrapping_add(1).wrapping_mul(MOST_VCPUS as u32) + vcpu as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeSet, VecDeque};
    use std::sync::Barrier;
    use std::thread;
    use std::vec::Vec;

    const WORK: Work = Work { entry: ptr::dangling_mut(), argument: 7, profile: Profile::Full };

    #[test]
    fn work_is_given_run_and_joined_once() {
        let thread = Thread::none();
        assert_eq!((thread.work(), thread.join(0x13), thread.is_done()), (None, Join::Gone, false));
        assert!(thread.claim() && !thread.claim() && !thread.claim_for_good());
        assert_eq!(thread.work(), None, "it is not complete yet");
        thread.set_id(0x13);
        assert_eq!(thread.join(0x13), Join::Wait(GENERATION | CLAIMED));
        thread.set_blocked(true);
        thread.give(WORK);
        assert_eq!((thread.work(), thread.blocked().load(SeqCst)), (Some(WORK), 0), "a thread begins unblocked");
        assert_eq!((thread.join(0x13), thread.join(0x23)), (Join::Wait(GENERATION | READY), Join::Gone));
        assert!(!thread.claim() && !thread.claim_for_good());
        thread.set_left_changed(true);
        thread.finish();
        assert!(thread.is_done() && !thread.claim(), "nobody has asked for its result");
        assert_eq!([thread.join(0x13), thread.join(0x13)], [Join::Joined, Join::Gone]);
        assert_eq!((thread.id(), thread.work()), (0, None));
        assert!(thread.take_left_changed() && !thread.take_left_changed());
        assert!(thread.claim());
        thread.give(WORK);
        thread.finish();
        assert!(thread.claim_for_good(), "a thread that nobody has joined");
    }

    #[test]
    fn numbers_of_threads_are_nobody_elses() {
        /// The number of the error with the smallest negative.
        const FIRST_REFUSAL: u32 = u32::MAX - 4095;
        let mut before = 1;
        for spawned in (0..(1 << 28) - 300).step_by(4099) {
            for vcpu in 1..MOST_VCPUS {
                let id = number(spawned, vcpu);
                assert!(before < id && id < FIRST_REFUSAL, "{spawned} {vcpu}");
                before = id;
            }
        }
    }

    #[test]
    fn of_two_that_join_at_once_one_succeeds() {
        const ID: u32 = 0x13;
        let threads: Vec<_> = (0..50_000).map(|_| Thread::none()).collect();
        for thread in &threads {
            thread.set_id(ID);
            thread.finish();
        }
        let at_once = Barrier::new(2);
        let join_all = || {
            at_once.wait();
            threads.iter().map(|thread| thread.join(ID)).collect::<Vec<_>>()
        };
        let (first, second) = thread::scope(|scope| {
            let second = scope.spawn(join_all);
            (join_all(), second.join().unwrap())
        });
        for pair in first.into_iter().zip(second) {
            assert!(matches!(pair, (Join::Joined, Join::Gone) | (Join::Gone, Join::Joined)), "{pair:?}");
        }
    }

    /// The steps of those who have to do with one vCPU, each of which is one call.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Step {
        /// Spawns a thread: claims the vCPU, numbers the thread, gives it its work.
        Claims,
        Numbers,
        Gives,
        /// Runs what the vCPU is given.
        Looks,
        Ends,
        /// Joins the thread with this number.
        Joins(u32),
        /// Waits for the end of the thread with this number, while the state is this.
        Waits(u32, u32),
        /// Is done, with this result.
        Has(Join),
        Spawned(u32),
    }
    use Step::*;

    /// A moment of a vCPU and of those who have to do with it.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Moment {
        state: u32,
        id: u32,
        spawned: u32,
        runs: u32,
        actors: Vec<Step>,
    }

    /// The moment after one actor's next step; `None` if that has none, or waits for another.
    fn after(moment: &Moment, actor: usize) -> Option<Moment> {
        let (thread, mut next) = (Thread::none(), moment.clone());
        thread.state.store(moment.state, SeqCst);
        thread.id.store(moment.id, SeqCst);
        let step = &mut next.actors[actor];
        match *step {
            Claims => {
                if !thread.claim() {
                    return None;
                }
                *step = Numbers;
            }
            Numbers => {
                thread.set_id(number(next.spawned, 3));
                next.spawned += 1;
                *step = Gives;
            }
            Gives => {
                thread.give(WORK);
                *step = Spawned(thread.id());
            }
            Looks => {
                thread.work()?;
                next.runs += 1;
                *step = Ends;
            }
            Ends => {
                thread.finish();
                *step = Looks;
            }
            Joins(id) => match thread.join(id) {
                Join::Wait(state) => *step = Waits(id, state),
                result => *step = Has(result),
            },
            Waits(_, state) if thread.state.load(SeqCst) == state => return None,
            Waits(id, _) => *step = Joins(id),
            Has(_) | Spawned(_) => return None,
        }
        (next.state, next.id) = (thread.state.load(SeqCst), thread.id.load(SeqCst));
        Some(next)
    }

    /// Two spawn a thread each on the same vCPU; of either thread two others want the end. In every order of their steps. Nobody
    /// sleeps for one thread's end while the other runs.
    #[test]
    fn in_every_order_each_thread_runs_once_and_is_joined_by_one() {
        let (first, second) = (number(0, 3), number(1, 3));
        let actors = Vec::from([Claims, Claims, Looks, Joins(first), Joins(first), Joins(second), Joins(second)]);
        // A number is known once its thread is spawned: before that nobody joins by it.
        let start = Moment { state: IDLE, id: 0, spawned: 0, runs: 0, actors };
        let (mut seen, mut open, mut ends) = (BTreeSet::from([start.clone()]), VecDeque::from([start]), 0);
        while let Some(moment) = open.pop_front() {
            for actor in &moment.actors {
                assert!(!matches!(*actor, Waits(id, state) if state == moment.state && id != moment.id), "{moment:?}");
            }
            let may = |actor: &usize| match moment.actors[*actor] {
                Joins(id) => moment.actors.contains(&Spawned(id)),
                _ => true,
            };
            let next: Vec<_> = (0..moment.actors.len()).filter(may).filter_map(|actor| after(&moment, actor)).collect();
            if next.is_empty() {
                ends += 1;
                let joined = |actors: &[Step]| actors.iter().filter(|&&actor| actor == Has(Join::Joined)).count();
                let gone = moment.actors.iter().filter(|&&actor| actor == Has(Join::Gone)).count();
                assert_eq!((joined(&moment.actors[3..5]), joined(&moment.actors[5..7]), gone), (1, 1, 2), "{moment:?}");
                assert_eq!((moment.runs, moment.state & PHASE, moment.id), (2, IDLE, 0), "{moment:?}");
            }
            open.extend(next.into_iter().filter(|next| seen.insert(next.clone())));
        }
        assert!(ends >= 2 && seen.len() > 50, "{ends} ends of {} moments", seen.len());
    }
}
