//! The times at which a guest is looked at: whether it still exits, and whether its run is over. The VMX-preemption timer brings
//! the looks (SDM 3C 26.5.1). It is saved at each exit, so that it counts the guest's own time across exits.
//!
//! A guest that does nothing but exit has little time of its own: a CPUID loop on Bochs has some three ticks in ninety. The run's
//! limit is to be found soon after it all the same, so that the timer gets a small share of the rest of the run.
//!
//! If the processor has no such timer, its own APIC's does both, by interrupts: it fires at the run's limit whatever the guest
//! does, and for the time without an exit it has a second vector.

use super::capability::Capabilities;
use crate::host::registers::NEVER;
use crate::host::vectors::{TIMER_VECTOR, WATCHDOG_VECTOR};

/// The longest time for itself that a guest gets without a look, as shares of the run, powers of two: a share of the rest of the
/// run, or a share of the whole run if that is longer. A window of the usual length, which starts the time anew, is shorter.
const SHARE_OF_REST: u32 = 7;
const SHARE_OF_WHOLE: u32 = 11;

/// The two times that are watched: the time of the whole run, and the time without an exit.
#[derive(Debug)]
pub(super) struct Watch {
    /// The processor has the timer and it is in use.
    pub(super) has_timer: bool,
    /// The guest has halted, which may last.
    pub(super) halted: bool,
    /// The TSC at which the run ends at the latest, and the TSC ticks that it has until then.
    pub(super) limit_tsc: u64,
    limit_ticks: u64,
    /// The TSC at which the processor's own APIC timer fires at the latest: the limit's, or an earlier one.
    pub(super) bound_tsc: u64,
    /// The setting of that timer while the guest's is off: the bound, or 0 for nothing.
    pub(super) idle_tsc: u64,
    /// An interrupt ends the time without an exit, for lack of the timer.
    pub(super) interrupts: bool,
    /// The time at which the interrupt of the guest's own timer is due, or the limit's.
    pub(super) timer_tsc: u64,
    watchdog_ticks: u64,
    watchdog_tsc: u64,
    /// A tick of the timer is `1 << shift` of the TSC.
    shift: u32,
    /// The timer's value while the guest runs.
    timer: u32,
}

impl Watch {
    /// A watch over a guest that is stopped after `watchdog_ticks` of the TSC without an exit (0: never), or at a limit.
    pub(super) fn new(capabilities: &Capabilities, watchdog_ticks: u64, limited: bool) -> Self {
        Self {
            has_timer: capabilities.has_preemption_timer() && (watchdog_ticks > 0 || limited),
            halted: false,
            limit_tsc: NEVER,
            limit_ticks: 0,
            bound_tsc: NEVER,
            idle_tsc: 0,
            interrupts: watchdog_ticks > 0 && !capabilities.has_preemption_timer(),
            timer_tsc: 0,
            watchdog_ticks,
            watchdog_tsc: NEVER,
            shift: capabilities.preemption_timer_shift(),
            timer: u32::MAX,
        }
    }

    /// Has the run end at a TSC, after `ticks`; [`NEVER`] for no limit.
    pub(super) fn set_limit(&mut self, limit_tsc: u64, ticks: u64) {
        (self.limit_tsc, self.limit_ticks) = (limit_tsc, ticks);
        self.bound_tsc = limit_tsc;
        self.idle_tsc = if limit_tsc == NEVER { 0 } else { limit_tsc };
    }

    /// Has the processor's own APIC timer fire at this time at the latest, as well as at the limit. True if that is a change.
    pub(super) fn set_bound(&mut self, deadline_tsc: u64) -> bool {
        let bound_tsc = deadline_tsc.max(1).min(self.limit_tsc);
        let is_change = bound_tsc != self.bound_tsc;
        self.bound_tsc = bound_tsc;
        self.idle_tsc = if bound_tsc == NEVER { 0 } else { bound_tsc };
        is_change
    }

    /// Starts the time without an exit.
    pub(super) fn restart(&mut self, now_tsc: u64) {
        self.watchdog_tsc = if self.watchdog_ticks > 0 { now_tsc.saturating_add(self.watchdog_ticks) } else { NEVER };
        self.divide(now_tsc);
    }

    /// Whether the time without an exit is over. If not, the timer gets a new value, for the rest of it.
    pub(super) fn is_due(&mut self, now_tsc: u64) -> bool {
        self.divide(now_tsc);
        now_tsc >= self.watchdog_tsc
    }

    /// The value to load the timer with. A halted guest is left alone: the event that it waits for makes an exit.
    pub(super) fn timer(&self) -> u32 {
        if self.halted { u32::MAX } else { self.timer }
    }

    /// The next interrupt of the processor's own APIC timer, if interrupts end the time without an exit: its vector and its time.
    pub(super) fn interrupt(&self) -> (u8, u64) {
        let watchdog_tsc = if self.halted { NEVER } else { self.watchdog_tsc };
        let timer_tsc = if self.timer_tsc == 0 { NEVER } else { self.timer_tsc };
        if watchdog_tsc < timer_tsc { (WATCHDOG_VECTOR, watchdog_tsc) } else { (TIMER_VECTOR, timer_tsc) }
    }

    fn divide(&mut self, now_tsc: u64) {
        let mut ticks = self.watchdog_tsc.saturating_sub(now_tsc);
        if self.limit_tsc != NEVER {
            let share = self.limit_tsc.saturating_sub(now_tsc) >> SHARE_OF_REST;
            ticks = ticks.min(share.max(self.limit_ticks >> SHARE_OF_WHOLE));
        }
        // The timer's first tick may be a part of one.
        self.timer = u32::try_from((ticks >> self.shift) + 2).unwrap_or(u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmx::capability::tests::model;

    fn watch(watchdog_ticks: u64, limited: bool) -> Watch {
        Watch::new(&model("tigerlake"), watchdog_ticks, limited)
    }

    #[test]
    fn a_bound_is_the_earlier_of_the_limit_and_a_deadline() {
        let mut watch = watch(0, true);
        assert!(watch.set_bound(500) && !watch.set_bound(500));
        assert_eq!((watch.bound_tsc, watch.idle_tsc), (500, 500));
        assert!(watch.set_bound(NEVER));
        assert_eq!((watch.bound_tsc, watch.idle_tsc), (NEVER, 0), "nothing is to come");
        watch.set_limit(1000, 1000);
        assert!(!watch.set_bound(2000) && watch.set_bound(0));
        assert_eq!((watch.bound_tsc, watch.idle_tsc, watch.limit_tsc), (1, 1, 1000), "0 would be nothing");
        assert!(watch.set_bound(NEVER));
        assert_eq!((watch.bound_tsc, watch.idle_tsc), (1000, 1000));
    }

    #[test]
    fn the_timer_lasts_until_the_watchdog_is_due_and_no_longer_than_its_share_of_the_run() {
        let mut watch = watch(1_000_000, true);
        watch.restart(500);
        assert_eq!(watch.timer(), 1_000_002);
        watch.set_limit(500 + (1 << 20), 1 << 20);
        watch.restart(500);
        assert_eq!(watch.timer(), (1 << (20 - SHARE_OF_REST)) + 2);
        assert!(!watch.is_due(999_000));
        assert_eq!(watch.timer(), (1 << (20 - SHARE_OF_WHOLE)) + 2, "little is left");
        assert!(!watch.is_due(1_000_499));
        assert_eq!(watch.timer(), 1 + 2, "the watchdog comes before that");
        assert!(watch.is_due(1_000_500));
    }

    #[test]
    fn a_processor_with_a_coarse_timer_is_not_looked_at_too_early() {
        let mut watch = Watch { shift: 5, ..watch(1000, false) };
        watch.restart(0);
        assert!((watch.timer() - 1) << 5 >= 1000, "its first tick may be over at once");
    }

    #[test]
    fn without_the_timer_the_apics_ends_the_time_without_an_exit_and_the_run() {
        let without = super::super::capability::Capabilities { miscounts: true, ..model("tigerlake") };
        for capabilities in [model("core2_penryn_t9600"), without] {
            let mut watch = Watch::new(&capabilities, 1000, true);
            assert!(!watch.has_timer && watch.interrupts);
            watch.set_limit(10_000, 10_000);
            (watch.timer_tsc, watch.halted) = (10_000, false);
            watch.restart(500);
            assert_eq!(watch.interrupt(), (WATCHDOG_VECTOR, 1500));
            assert!(!watch.is_due(1499) && watch.is_due(1500));
            watch.timer_tsc = 1200;
            assert_eq!(watch.interrupt(), (TIMER_VECTOR, 1200), "the guest's timer comes first");
            (watch.timer_tsc, watch.halted) = (10_000, true);
            assert_eq!(watch.interrupt(), (TIMER_VECTOR, 10_000), "who halts may do so until the limit");
            watch.halted = false;
            watch.restart(9500);
            assert_eq!(watch.interrupt(), (TIMER_VECTOR, 10_000), "the limit comes first");
            watch.timer_tsc = 0;
            watch.halted = true;
            assert_eq!(watch.interrupt(), (TIMER_VECTOR, NEVER));
        }
        assert!(!Watch::new(&model("tigerlake"), 1000, true).interrupts);
        assert!(!Watch::new(&model("core2_penryn_t9600"), 0, true).interrupts, "the limit needs no watchdog");
    }

    #[test]
    fn who_halts_is_left_alone_and_nobody_is_looked_at_for_nothing() {
        let mut watch = watch(1000, false);
        watch.restart(0);
        watch.halted = true;
        assert_eq!(watch.timer(), u32::MAX);
        assert!(!super::Watch::new(&model("tigerlake"), 0, false).has_timer);
        assert!(super::Watch::new(&model("tigerlake"), 0, true).has_timer);
        assert!(!super::Watch::new(&model("core2_penryn_t9600"), 1, true).has_timer);
        let mut never = super::Watch::new(&model("tigerlake"), 0, true);
        never.restart(7);
        assert!(!never.is_due(u64::MAX - 1));
    }
}
