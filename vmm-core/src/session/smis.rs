//! System-management interrupts in a run: firmware's own work, during which neither monitor nor guest runs, and which is in the cycles of
//! whatever it interrupts.

use core::fmt::Write;

use super::Session;

/// The count of them on vCPU 0's processor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Smis {
    /// Those since the processor started.
    count: fn() -> u64,
    before_run: u64,
}

impl<W: Write> Session<W> {
    /// Has those in the run, from now on, and in each window recorded. `count` tells how many there were since the processor started.
    pub fn count_smis(&mut self, count: fn() -> u64) {
        self.smis = Some(Smis { count, before_run: count() });
    }

    /// Those in the run so far; `None` where nobody counts them.
    pub(super) fn smis_in_run(&self) -> Option<u64> {
        self.smis.map(|Smis { count, before_run }| count().wrapping_sub(before_run))
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::vec::Vec;

    use super::*;
    use crate::ended::Ended;
    use crate::exit::Pause;
    use crate::ledger::{Account, Book, Ledger};
    use crate::script::{Script, machine};
    use crate::vcpu::Vcpu;
    use tollgate_abi::record::{Kind, parse};
    use tollgate_abi::workload::{Outcome, Workload};

    #[test]
    fn smis_are_recorded_by_window_and_over_the_run_where_they_are_counted() {
        static COUNT: AtomicU64 = AtomicU64::new(40);
        let come = |more: u64| COUNT.fetch_add(more, Ordering::Relaxed);
        let recorded = |is_counted: bool| {
            let mut text = std::string::String::new();
            let mut session = Session::new(&mut text);
            if is_counted {
                session.count_smis(|| COUNT.load(Ordering::Relaxed));
            }
            let ledger: &'static Ledger = Box::leak(Box::new(Ledger::new()));
            let books: [&'static dyn Book; 2] = [ledger, Box::leak(Box::new(Ledger::new()))];
            let mut vcpu = Vcpu::new(Script::default(), machine());
            come(1);
            let number = Workload::by_name("cpuid").unwrap().number();
            for in_window in [2, 0] {
                session.pause(&mut vcpu, &books, Pause::Begin { number, iterations: 1 });
                come(in_window);
                // The call that ends the window.
                ledger.close(ledger.open(tollgate_abi::ExitReason::VMCALL), 0, || 50);
                session.pause(&mut vcpu, &books, Pause::End { book_gpa: 0, samples_gpa: 0, tsc: 0, call_cycles: 0 });
                come(3);
            }
            vcpu.machine.shared.board.end(0, Ended::of(Outcome::HaltedForEver));
            session.finish(&vcpu.machine, &books, || 0);
            let records: Vec<_> = text.lines().map(|line| parse(line.as_bytes()).unwrap()).collect();
            let of = |kind: Kind| records.iter().filter(move |record| record.kind == kind);
            let smis: Vec<_> = of(Kind::Result).chain(of(Kind::Total)).map(|record| record.number("smis")).collect();
            smis
        };
        assert_eq!(recorded(true), [Some(2), Some(0), Some(9), None], "vCPU 1 runs on another processor");
        assert_eq!(recorded(false), [None; 4]);
    }
}
