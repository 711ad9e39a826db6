//! The account of a run and its verdict, the last records of every log.

use core::fmt::{self, Write};

use tollgate_abi::ExitReason;
use tollgate_abi::ending::Ending;
use tollgate_abi::exit_reason::{Controls, LOOKS, ROWS, Status};
use tollgate_abi::figures::Figures;
use tollgate_abi::hypercall::Book as GuestBook;
use tollgate_abi::judgement::Judgement;
use tollgate_abi::key::Key;
use tollgate_abi::marks::Text;
use tollgate_abi::record::records;
use tollgate_abi::workload::Outcome;

use super::{Books, Session, any, counts, keeps, looks, print, read_book};
use crate::board::Board;
use crate::ended::{Ended, GuestExit};
use crate::figures::KeyRow;
use crate::ledger::{Book, Imbalance, Ledger};
use crate::machine::Machine;

/// The facts that a run's verdict depends on, besides the session's findings.
struct Case<'a> {
    /// The counts of all vCPUs' ledgers, summed.
    counts: &'a [u64; ROWS],
    /// The first vCPU whose ledger does not add up.
    imbalance: Option<(usize, Imbalance)>,
    /// Whether ledgers are kept.
    keeps: bool,
    /// The vCPU that ended the guest.
    culprit: usize,
    /// The number of vCPUs.
    vcpus: usize,
    ended: &'a Ended,
    /// The text that was to end the run.
    until: Option<Text<'a>>,
    /// The book that the guest handed over.
    book: Option<&'a GuestBook>,
}

/// The last record.
struct Verdict<'a> {
    ending: Ending,
    result: Judgement,
    detail: fmt::Arguments<'a>,
}

impl<W: Write> Session<W> {
    /// Writes the account and the verdict, once every vCPU has ended. `keep_end` tells this to the keeper of the log, and returns
    /// the number of bytes that it has lost.
    #[inline(never)]
    pub fn finish(&mut self, machine: &Machine, books: &Books, keep_end: fn() -> usize) -> Ending {
        let board = machine.shared.board;
        let _ = print(machine);
        self.print_console(board);
        self.marks_not_reached(board);
        let fault = board.fault();
        let culprit = fault.vcpu().or(board.culprit()).unwrap_or(0);
        let mut ended = match fault.vcpu() {
            Some(_) => Ended::of(Outcome::MonitorFault),
            None => board.ended(culprit).unwrap_or_else(|| Ended::of(Outcome::UnhandledExit)),
        };
        let own = self.guest_keeps_book;
        let book = ended.exit.filter(|_| own).and_then(|GuestExit { book_gpa, .. }| read_book(machine, book_gpa));
        self.empty_rings(books);
        let lost = keep_end();
        if lost > 0 {
            let text = format_args!(
                "(monitor) {lost} bytes of the log did not fit the memory for it: records are missing before this"
            );
            self.remark(text);
        }
        if keeps(books) {
            for (number, &account) in books.iter().enumerate() {
                self.ledger(number, account, &machine.config.enabled_in_any_profile, board);
            }
            let tally = book.iter().flat_map(|book| book.tally.iter().enumerate());
            for (number, &count) in tally.filter(|&(_, &count)| count > 0) {
                let _ = records::Tally { reason: number as u16, guest: count }.write(&mut self.out);
            }
        }
        if own && ended.outcome == Outcome::Exited && book.is_none() {
            ended.outcome = Outcome::ExitedWithoutBook;
        }
        // If a processor has failed, nobody can read its guest's last exit.
        let last_exit = |value: u64| fault.vcpu().is_none().then_some(value);
        let record = records::Stop {
            vcpu: (books.len() > 1).then_some(culprit as u64),
            outcome: ended.outcome.name(),
            rip: last_exit(ended.rip),
            reason: last_exit(ended.reason.into()),
            qualification: last_exit(ended.qualification),
            code: ended.exit.map(|exit| exit.status).filter(|_| ended.outcome == Outcome::DebugExit),
            detail: if ended.detail.is_empty() { None } else { Some(&ended.detail) },
        };
        let _ = record.write(&mut self.out);
        if fault.vcpu().is_some() {
            let detail = format_args!("{fault}, on the processor of vCPU {culprit}");
            return self.verdict(&Verdict { ending: Ending::Fail, result: Judgement::Fault, detail });
        }
        for (reason, looks) in LOOKS.iter().zip(looks(books)) {
            self.unbooked[reason.ledger_row()] += looks;
        }
        let imbalance = books
            .iter()
            .enumerate()
            .find_map(|(number, account)| account.ledger().check().err().map(|imbalance| (number, imbalance)));
        let until = board.console.lock().marks.as_ref().and_then(|marks| marks.until());
        self.judge(&Case {
            counts: &counts(books),
            imbalance,
            keeps: keeps(books),
            culprit,
            vcpus: books.len(),
            ended: &ended,
            until,
            book: book.as_ref(),
        })
    }

    #[inline(never)]
    fn ledger(&mut self, vcpu: usize, account: &dyn Book, enabled: &Controls, board: &Board) {
        let ledger = account.ledger();
        for number in 0..ROWS {
            let reason = ExitReason(number as u16);
            let status = reason.row_status(enabled);
            // The rows of the first vCPU tell the status of every reason. The other vCPUs write only the rows that have exits.
            if ledger.count(reason) > 0 || status != Status::Undefined && vcpu == 0 {
                self.row(vcpu, reason, status, ledger);
            }
        }
        self.recorded(vcpu, account);
        account.keys(&mut |reason, key| self.key(vcpu, reason, key));
        account.variants(&mut |variant| {
            let Figures { count, cycles, min, max } = variant.figures;
            let (reason, name) = (variant.reason.0, &variant.name);
            let record = records::Variant { vcpu: vcpu as u64, reason, name, count, cycles, min, max };
            let _ = record.write(&mut self.out);
        });
        let record = records::Total {
            vcpu: vcpu as u64,
            exits: ledger.exits(),
            entries: ledger.entries(),
            cycles: ledger.cycles(),
            elapsed: board.elapsed_tsc(vcpu),
            skipped: any(board.skipped_on(vcpu)),
            smis: self.smis_in_run().filter(|_| vcpu == 0),
            paused: any(board.paused_tsc(vcpu)),
        };
        let _ = record.write(&mut self.out);
    }

    #[inline(never)]
    fn row(&mut self, vcpu: usize, reason: ExitReason, status: Status, ledger: &Ledger) {
        let Figures { count, cycles, min, max } = ledger.figures(reason);
        let histogram = ledger.histogram(reason);
        let record = records::Exit {
            vcpu: vcpu as u64,
            reason: reason.0,
            name: &reason.name(),
            status: status.as_str(),
            count,
            cycles,
            min,
            max,
            histogram: (count > 0).then_some(&histogram),
            looks: any(ledger.looks_of(reason)),
        };
        let _ = record.write(&mut self.out);
    }

    #[inline(never)]
    fn key(&mut self, vcpu: usize, reason: ExitReason, key: &KeyRow) {
        let Figures { count, cycles, min, max } = key.figures;
        let named = key.key.map(|(kind, key)| Key(kind, key));
        let record = records::Key {
            vcpu: vcpu as u64,
            reason: reason.0,
            key: key.key.map(|(_, key)| key),
            name: named.as_ref().map_or(&"others", |named| named),
            count,
            cycles,
            min: Some(min),
            max: Some(max),
        };
        let _ = record.write(&mut self.out);
    }

    #[inline(never)]
    fn judge(&mut self, case: &Case<'_>) -> Ending {
        let &Case { counts, imbalance, keeps, culprit, vcpus, ended, until, book } = case;
        let unbooked = self.unbooked;
        let booked = |book: &GuestBook, row: usize| book.tally[row] + unbooked[row];
        let unequal = |book: &GuestBook| (0..ROWS).find(|&row| keeps && booked(book, row) != counts[row]);
        let fail = |result, detail| Verdict { ending: Ending::Fail, result, detail };
        if let (true, Some((vcpu, imbalance))) = (keeps, imbalance) {
            return self.verdict(&fail(
                Judgement::Differs,
                format_args!("the ledger of vCPU {vcpu} does not add up: {imbalance}"),
            ));
        }
        // The end of a random guest is its own affair; that it could not be run is the monitor's. A kernel ends when it means to.
        if !self.guest_keeps_book && !matches!(ended.outcome, Outcome::EntryFailed | Outcome::UnhandledExit) {
            let (exits, outcome, rip) = (counts.iter().sum::<u64>(), ended.outcome.name(), ended.rip);
            let detail = format_args!("{exits} exits; the guest keeps no book, and ended as {outcome} at {rip:#x}");
            if let Some(text) = until.filter(|_| ended.outcome != Outcome::TextShown) {
                return self
                    .verdict(&fail(Judgement::Stopped, format_args!("{detail}, before its console showed `{text}`")));
            }
            return if self.any_end_will_do || ended.outcome.is_intended() {
                self.verdict(&Verdict { ending: Ending::Pass, result: Judgement::Balanced, detail })
            } else {
                self.verdict(&fail(Judgement::Stopped, detail))
            };
        }
        let Some(book) = book.filter(|_| ended.outcome == Outcome::Exited) else {
            let (outcome, rip) = (ended.outcome.name(), ended.rip);
            return if vcpus > 1 {
                self.verdict(&fail(Judgement::Stopped, format_args!("vCPU {culprit} ended as {outcome} at {rip:#x}")))
            } else {
                self.verdict(&fail(Judgement::Stopped, format_args!("the guest ended as {outcome} at {rip:#x}")))
            };
        };
        if let Some(workload) = self.differing {
            let result = if book.passed == 0 { Judgement::Failed } else { Judgement::Differs };
            return self.verdict(&fail(
                result,
                format_args!("workload {}: {}", workload.name, NonEmpty(book.message(), "its books differ")),
            ));
        }
        if let Some(scenario) = self.differing_scenario {
            return self
                .verdict(&fail(Judgement::Differs, format_args!("scenario {}: its books differ", scenario.name)));
        }
        let status = ended.exit.map_or(0, |exit| exit.status);
        if book.passed == 0 || status != 0 {
            return self.verdict(&fail(
                Judgement::Failed,
                format_args!("exit status {status}: {}", NonEmpty(book.message(), "no message")),
            ));
        }
        if let Some(restless) = self.restless {
            return self.verdict(&fail(
                Judgement::Failed,
                format_args!("vCPU {restless} still ran when a workload began or ended, or the guest did"),
            ));
        }
        if let Some(row) = unequal(book) {
            let reason = ExitReason(row as u16);
            let (ledger, guest) = (counts[row], booked(book, row));
            return self.verdict(&fail(
                Judgement::Differs,
                format_args!("reason {row} {}: the ledger has {ledger}, the guest {guest}", reason.name()),
            ));
        }
        let exits: u64 = counts.iter().sum();
        let detail =
            if keeps { format_args!("{exits} exits, every book agrees") } else { format_args!("accounting is off") };
        self.verdict(&Verdict { ending: Ending::Pass, result: Judgement::Balanced, detail })
    }

    fn verdict(&mut self, verdict: &Verdict<'_>) -> Ending {
        self.write_verdict(verdict.result, verdict.detail, None);
        verdict.ending
    }
}

/// Displays the first text unless it is empty.
struct NonEmpty<'a>(&'a str, &'a str);

impl fmt::Display for NonEmpty<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { self.1 } else { self.0 })
    }
}
