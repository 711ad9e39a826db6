//! Records of the marks in the guest's console: each behind the line that has its text, and at the end those that were not reached.

use core::fmt::Write;

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::ROWS;
use tollgate_abi::marks::Mark;
use tollgate_abi::record::records;

use super::{Session, any};
use crate::board::Board;
use crate::machine::Machine;
use crate::marks::Reached;

/// The account of all vCPUs at this moment, in a pause of one.
pub(super) fn now(machine: &Machine) -> Reached {
    let (board, ledgers) = (machine.shared.board, machine.shared.ledgers);
    let row = |number: usize| {
        let reason = ExitReason(number as u16);
        let sums = ledgers.iter().map(|ledger| (ledger.count(reason), ledger.cycles_of(reason)));
        let (count, cycles) = sums.fold((0, 0), |(count, cycles), row| (count + row.0, cycles + row.1));
        (count > 0).then_some((reason, count, cycles))
    };
    Reached {
        vcpu: machine.vcpu,
        at_tsc: machine.bounds.pause_tsc.saturating_sub(board.first_entry_tsc()),
        paused_tsc: (0..ledgers.len()).map(|vcpu| board.paused_tsc(vcpu)).sum(),
        skipped_ticks: board.skipped_ticks(),
        rows: (0..ROWS).filter_map(row).collect(),
    }
}

impl<W: Write> Session<W> {
    /// Writes a mark with the account of that moment.
    pub(super) fn mark(&mut self, mark: Mark<'_>, reached: &Reached) {
        let sum = |figure: fn(&(ExitReason, u64, u64)) -> u64| reached.rows.iter().map(figure).sum();
        let record = records::Mark {
            name: mark.name,
            text: &mark.text,
            vcpu: Some(reached.vcpu as u64),
            at: Some(reached.at_tsc),
            exits: Some(sum(|row| row.1)),
            cycles: Some(sum(|row| row.2)),
            paused: Some(reached.paused_tsc),
            skipped: any(reached.skipped_ticks),
        };
        let _ = record.write(&mut self.out);
        for &(reason, count, cycles) in &reached.rows {
            let record = records::AtMark { name: mark.name, reason: reason.ledger_row() as u16, count, cycles };
            let _ = record.write(&mut self.out);
        }
    }

    /// Writes the marks that were not reached.
    pub(super) fn marks_not_reached(&mut self, board: &Board) {
        for mark in board.console.lock().marks.iter().flat_map(|marks| marks.waiting()) {
            let (vcpu, at, exits, cycles, paused, skipped) = (None, None, None, None, None, None);
            let record = records::Mark { name: mark.name, text: &mark.text, vcpu, at, exits, cycles, paused, skipped };
            let _ = record.write(&mut self.out);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::string::{String, ToString};
    use std::vec::Vec;

    use tollgate_abi::ExitReason;
    use tollgate_abi::command_line::Options;
    use tollgate_abi::ending::Ending;
    use tollgate_abi::record::{Kind, Record, parse};
    use tollgate_abi::workload::Outcome;

    use crate::devices::Effect;
    use crate::ended::Ended;
    use crate::exit::Pause;
    use crate::ledger::{Account, Book, Ledger};
    use crate::marks::Marks;
    use crate::script::{Script, machines};
    use crate::session::{Session, pause_anywhere};
    use crate::vcpu::Vcpu;

    /// Two vCPUs of a guest without a book, and the session that writes its log.
    struct Run {
        session: Session<String>,
        vcpus: [Vcpu<Script>; 2],
        ledgers: [&'static Ledger; 2],
    }

    impl Run {
        fn new(options: &'static str) -> Self {
            let ledgers: [&'static Ledger; 2] = [(); 2].map(|()| &*Box::leak(Box::new(Ledger::new())));
            let machines = machines::<2>().map(|mut machine| {
                machine.shared.ledgers = Box::leak(Box::new(ledgers));
                machine
            });
            let shared = machines[0].shared;
            let marks = Marks::of(&Options::parse(options).unwrap()).unwrap();
            marks.texts().for_each(|text| shared.devices.serial.wait_for(text.bytes()));
            shared.board.console.lock().marks = Some(Box::new(marks));
            shared.board.begin(1000);
            let mut session = Session::new(String::new());
            session.leave_out_guest_book(true);
            let devices = shared.devices;
            let vcpus = machines.map(|mut machine| {
                machine.shared.devices = devices;
                Vcpu::new(Script::default(), machine)
            });
            Self { session, vcpus, ledgers }
        }

        fn exits(&self, vcpu: usize, reason: ExitReason, count: u64) {
            let ledger = self.ledgers[vcpu];
            (0..count).for_each(|_| ledger.close(ledger.open(reason), 0, || 50));
        }

        /// Sends text from a vCPU, each byte of which is an exit, and pauses where the port says so.
        fn sends(&mut self, vcpu: usize, text: &str) -> Option<Outcome> {
            let mut over = None;
            for byte in text.bytes() {
                self.exits(vcpu, ExitReason::IO_INSTRUCTION, 1);
                let this = &mut self.vcpus[vcpu];
                let pause = match this.machine.shared.devices.serial.write(0, byte) {
                    Effect::None => continue,
                    Effect::Look => Pause::Look,
                    _ => Pause::Print,
                };
                this.machine.bounds.pause_tsc += 7000;
                let books = self.ledgers.map(|ledger| ledger as &dyn Book);
                over = over.or(match vcpu {
                    0 => self.session.pause(this, &books, pause),
                    _ => pause_anywhere(this, pause),
                });
                this.machine.shared.board.add_paused(vcpu, 11);
            }
            over
        }

        fn ends(mut self, outcome: Outcome) -> (String, Ending) {
            let books = self.ledgers.map(|ledger| ledger as &dyn Book);
            for ledger in self.ledgers {
                ledger.first_entry();
                ledger.no_entry_followed();
            }
            let machine = &self.vcpus[0].machine;
            machine.shared.board.end(0, Ended::of(outcome));
            let ending = self.session.finish(machine, &books, || 0);
            (self.session.sink().clone(), ending)
        }
    }

    fn records(log: &str) -> Vec<Record<'_>> {
        log.lines().map(|line| parse(line.as_bytes()).unwrap()).collect()
    }

    fn marks(log: &str) -> Vec<(String, [Option<u64>; 5])> {
        let marks = records(log).into_iter().filter(|record| record.kind == Kind::Mark);
        marks
            .map(|mark| {
                let figures = ["vcpu", "at", "exits", "cycles", "paused"].map(|key| mark.number(key));
                (mark.text("name").unwrap().to_string(), figures)
            })
            .collect()
    }

    #[test]
    fn a_mark_has_the_account_behind_the_exit_that_completes_its_text() {
        let mut run = Run::new("marks=kernel=Linux%20version,init=as%20init,never=xyz");
        run.exits(0, ExitReason::CPUID, 3);
        assert_eq!(run.sends(0, "[0] Linux version 6.1\n"), None);
        let (log, _) = run.ends(Outcome::PoweredOff);
        let kinds: Vec<_> = records(&log).iter().map(|record| record.kind).take(5).collect();
        assert_eq!(kinds, [Kind::Console, Kind::Mark, Kind::AtMark, Kind::AtMark, Kind::Mark], "{log}");
        // Three CPUIDs, and the bytes up to the text's last; the rest of the line comes later.
        let kernel = [Some(0), Some(6000), Some(3 + 17), Some(50 * (3 + 17)), Some(0)];
        let none = [None; 5];
        assert_eq!(
            marks(&log),
            [("kernel".to_string(), kernel), ("init".to_string(), none), ("never".to_string(), none)]
        );
        let rows: Vec<_> = records(&log)
            .iter()
            .filter(|record| record.kind == Kind::AtMark)
            .map(|row| ["reason", "count", "cycles"].map(|key| row.number(key).unwrap()))
            .collect();
        assert_eq!(rows, [[10, 3, 150], [30, 17, 850]]);
    }

    #[test]
    fn a_mark_of_several_vcpus_has_what_all_have_booked_by_then() {
        let mut run = Run::new("marks=up=up%21,line=ready");
        run.exits(0, ExitReason::CPUID, 2);
        let open = run.ledgers[0].open(ExitReason::WRMSR);
        assert_eq!(run.sends(1, "CPU1 up! and ready\n"), None);
        run.ledgers[0].close(open, 0, || 50);
        let (log, ending) = run.ends(Outcome::PoweredOff);
        assert_eq!(ending, Ending::Pass, "{log}");
        let up = [Some(1), Some(6000), Some(2 + 1 + 8), Some(50 * (2 + 8)), Some(0)];
        let line = [Some(1), Some(13_000), Some(2 + 1 + 18), Some(50 * (2 + 18)), Some(11)];
        assert_eq!(marks(&log), [("up".to_string(), up), ("line".to_string(), line)], "one exit was open");
        assert!(log.contains("paused=33"), "{log}");
    }

    #[test]
    fn the_run_ends_at_its_text_or_has_failed() {
        let mut run = Run::new("until=login:%20");
        assert_eq!(run.sends(0, "Debian login:"), None);
        assert_eq!(run.sends(0, " "), Some(Outcome::TextShown));
        let (log, ending) = run.ends(Outcome::TextShown);
        assert_eq!(ending, Ending::Pass);
        assert!(log.contains("text=\"Debian login: \"") && log.contains("outcome=text-shown"), "{log}");
        let mut run = Run::new("until=login:%20");
        assert_eq!(run.sends(1, "login:\n"), None);
        let (log, ending) = run.ends(Outcome::PoweredOff);
        assert_eq!(ending, Ending::Fail);
        let detail = "detail=\"7 exits; the guest keeps no book, and ended as powered-off at 0x0, before its console \
                      showed `login: `\"";
        assert!(log.contains("result=stopped") && log.contains(detail), "{log}");
        let mut run = Run::new("until=on%20another");
        assert_eq!(run.sends(1, "ends on another"), Some(Outcome::TextShown));
    }
}
