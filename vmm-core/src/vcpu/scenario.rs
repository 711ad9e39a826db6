//! One run of a scenario: from the entry of the guest that was staged for it to the exit that ends it.

use tollgate_abi::scenario::Scenario;

use super::Vcpu;
use crate::ended::End;
use crate::exit::{Backend, RawReason};
use crate::ledger::Book;

/// Further entries in which a signal that was late may come. Each lasts as long as the scenario may.
const LATE_ENTRIES: u32 = 3;

impl<B: Backend> Vcpu<B> {
    /// Runs vCPU 0 in a scenario that has been staged, by `enter`.
    ///
    /// A signal that comes later than its scenario allows would stay pending, and reset a processor that goes back to firmware. So
    /// it is awaited in the guest, where it makes an exit.
    // Out of line, so that the time that is measured does not depend on the caller's registers.
    #[inline(never)]
    pub fn run_scenario<F>(
        &mut self,
        book: &dyn Book,
        scenario: &Scenario,
        mut enter: impl FnMut(&mut Self) -> Result<(), F>,
    ) -> End<F> {
        let board = self.machine.shared.board;
        let mut entries = 0;
        loop {
            let end = self.run(book, &mut enter, |_, _| None);
            board.add_elapsed(0, end.whole_tsc);
            entries += 1;
            let came = scenario.reasons().any(|reason| RawReason(end.reason).basic() == reason);
            if came || !scenario.needs_other_cpu() || entries > LATE_ENTRIES || board.ask_nothing() {
                return end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Signal;
    use crate::exit::{GuestRegisters, Processor};
    use crate::ledger::Ledger;
    use crate::script::{Script, machine};
    use tollgate_abi::ExitReason;

    /// The number of times that a guest is entered for a scenario whose signal is asked for and, if so, sent. The signal comes with
    /// entry `comes_with`; in the entries before, the scenario's time runs out.
    fn entries(scenario: &str, is_sent: bool, comes_with: u32) -> (u32, ExitReason) {
        let scenario = Scenario::by_name(scenario).unwrap();
        let mut vcpu = Vcpu::new(Script::default(), machine());
        vcpu.machine.begin_scenarios();
        let board = vcpu.machine.shared.board;
        board.ask(Signal::Init);
        if is_sent {
            assert!(board.answers(board.asked().unwrap()));
        }
        let (ledger, mut entries) = (Ledger::new(), 0);
        let end = vcpu.run_scenario(&ledger, scenario, |vcpu| {
            entries += 1;
            let reason = if entries == comes_with { scenario.reason } else { ExitReason::PREEMPTION_TIMER };
            vcpu.backend.reason = reason.0.into();
            vcpu.backend.elapse(100);
            let _ = vcpu.drive(&ledger, &mut GuestRegisters::default(), vcpu.backend.tsc());
            Ok::<(), ()>(())
        });
        assert_eq!(board.elapsed_tsc(0), 100 * u64::from(entries), "each is in the run's time");
        assert_eq!(ledger.exits(), entries.into());
        (entries, RawReason(end.reason).basic())
    }

    #[test]
    fn a_signal_that_is_late_is_awaited_in_the_guest() {
        let late = ExitReason::PREEMPTION_TIMER;
        assert_eq!(entries("init-signal", true, 1), (1, ExitReason::INIT));
        assert_eq!(entries("init-signal", true, 2), (2, ExitReason::INIT));
        assert_eq!(entries("init-signal", true, 4), (4, ExitReason::INIT));
        assert_eq!(entries("init-signal", true, 9), (1 + LATE_ENTRIES, late));
        assert_eq!(entries("init-signal", false, 9), (1, late), "none is on its way");
        assert_eq!(entries("getsec", true, 9), (1, late), "none is part of it");
    }
}
