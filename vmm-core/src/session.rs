//! The books of a run: windows around workloads, comparison of the guest's book with the ledger, and the records.
//!
//! Everything here happens while no exit is open, so that it costs the account nothing.

use core::fmt::{self, Write};

use tollgate_abi::ExitReason;
use tollgate_abi::ending::Ending;
use tollgate_abi::exit_reason::{Controls, Need, ROWS, Status};
use tollgate_abi::hypercall::{BOOK_BYTES, Book};
use tollgate_abi::key::{KINDS, Key, KeyKind};
use tollgate_abi::profile::Profile;
use tollgate_abi::record::{Kind, MAX_LINE_BYTES, Writer};
use tollgate_abi::scenario::{RUNS, Scenario};
use tollgate_abi::workload::{Outcome, TABLE, Workload};

use crate::exit::{Backend, Pause, RawReason};
use crate::keys::{KeyTable, Slot};
use crate::ledger::{Account, Ledger};
use crate::machine::Machine;
use crate::vcpu::{End, Vcpu};

/// What is written and what was found in the course of a run.
#[derive(Debug)]
pub struct Session<W> {
    out: W,
    window: Option<Window>,
    differing: Option<&'static Workload>,
    differing_scenario: Option<&'static Scenario>,
    /// Exits that scenarios provoked, which are not in the guest's book.
    by_scenarios: [u64; ROWS],
}

/// The most bytes of guest output in one record: escaped, each takes four, and the record has to fit its line.
const CONSOLE_RECORD_BYTES: usize = 900;
const _: () = assert!(4 * CONSOLE_RECORD_BYTES + 100 < MAX_LINE_BYTES);

/// A workload under way.
#[derive(Debug)]
struct Window {
    workload: &'static Workload,
    iterations: u64,
    before: [u64; ROWS],
    start_tsc: u64,
}

/// The last record.
struct Verdict<'a> {
    ending: Ending,
    result: &'static str,
    detail: fmt::Arguments<'a>,
}

fn counts<B: Backend, A: Account>(vcpu: &Vcpu<B, A>) -> [u64; ROWS] {
    vcpu.account.ledger().rows().each_ref().map(|row| row.count)
}

fn read_book(machine: &Machine, gpa: u64) -> Option<Book> {
    let mut bytes = [0; BOOK_BYTES];
    machine.memory.read(gpa, &mut bytes).ok()?;
    Book::from_bytes(&bytes)
}

impl<W: Write> Session<W> {
    /// A session that writes its records to `out`. Errors of the sink are dropped: there is nowhere to report them.
    pub fn new(out: W) -> Self {
        Self { out, window: None, differing: None, differing_scenario: None, by_scenarios: [0; ROWS] }
    }

    /// Where the records go.
    pub fn sink(&mut self) -> &mut W {
        &mut self.out
    }

    /// Starts a record.
    pub fn record(&mut self, kind: Kind) -> Writer<'_, W> {
        Writer::new(&mut self.out, kind)
    }

    /// Does what the guest asked for between two stretches of its execution.
    pub fn pause<B: Backend, A: Account>(&mut self, vcpu: &mut Vcpu<B, A>, pause: Pause) {
        match pause {
            Pause::Profile(profile) => vcpu.machine.controls = vcpu.backend.set_profile(profile),
            Pause::Begin { number, iterations } => self.begin(vcpu, &TABLE[number], iterations),
            Pause::End { book_gpa, tsc } => self.end(vcpu, book_gpa, tsc),
        }
    }

    #[inline(never)]
    fn begin<B: Backend, A: Account>(&mut self, vcpu: &mut Vcpu<B, A>, workload: &'static Workload, iterations: u64) {
        self.print_console(&mut vcpu.machine);
        let record = self.record(Kind::Begin).word("workload", workload.name).word("profile", workload.profile.name());
        let _ = record.number("iterations", iterations).finish();
        vcpu.machine.controls = vcpu.backend.set_profile(workload.profile);
        self.window = Some(Window { workload, iterations, before: counts(vcpu), start_tsc: vcpu.backend.tsc() });
    }

    #[inline(never)]
    fn end<B: Backend, A: Account>(&mut self, vcpu: &mut Vcpu<B, A>, book_gpa: u64, tsc: u64) {
        let Some(window) = self.window.take() else { return };
        let mut observed = counts(vcpu);
        for (after, before) in observed.iter_mut().zip(window.before) {
            *after -= before;
        }
        // The call that ends the window is not part of it.
        let ending_call = &mut observed[ExitReason::VMCALL.ledger_row()];
        *ending_call = ending_call.saturating_sub(1);
        self.print_console(&mut vcpu.machine);
        let book = read_book(&vcpu.machine, book_gpa);
        self.compare(&window, &observed, book, tsc, &vcpu.machine.controls, A::KEEPS);
        vcpu.machine.controls = vcpu.backend.set_profile(Profile::Minimal);
    }

    #[inline(never)]
    fn compare(
        &mut self,
        window: &Window,
        observed: &[u64; ROWS],
        book: Option<Book>,
        tsc: u64,
        controls: &Controls,
        keeps: bool,
    ) {
        let Window { workload, iterations, start_tsc, .. } = *window;
        let predicted =
            |row: usize| workload.predict(ExitReason(row as u16), iterations, |reason| controls.enable(reason));
        let guest = |row: usize| book.map_or(0, |book| book.tally[row]);
        let agrees = |row: usize| predicted(row) == observed[row] && guest(row) == observed[row];
        let (verdict, message) = match &book {
            None => ("failed", "the guest handed over no book"),
            Some(book) if book.passed == 0 => ("failed", book.message()),
            Some(_) if !keeps => ("unaccounted", ""),
            Some(_) if (0..ROWS).all(agrees) => ("balanced", ""),
            Some(_) => ("differs", ""),
        };
        if verdict == "failed" || verdict == "differs" {
            self.differing = self.differing.or(Some(workload));
        }
        let record = self
            .record(Kind::Result)
            .word("workload", workload.name)
            .number("iterations", iterations)
            .word("verdict", verdict);
        let record = record.number("exits", observed.iter().sum()).number("cycles", tsc.wrapping_sub(start_tsc));
        let _ = if message.is_empty() { record } else { record.text("message", message) }.finish();
        for row in (0..ROWS).filter(|&row| keeps && predicted(row) | guest(row) | observed[row] != 0) {
            let record = self.record(Kind::Count).word("workload", workload.name).number("reason", row as u64);
            let record = record.number("predicted", predicted(row)).number("guest", guest(row));
            let _ = record.number("observed", observed[row]).finish();
        }
    }

    /// Records that the platform can't run a scenario.
    #[inline(never)]
    pub fn scenario_denied(&mut self, scenario: &Scenario, need: Need) {
        let record = self.record(Kind::Scenario).word("scenario", scenario.name);
        let record = record.number("reason", scenario.reason.0.into()).word("verdict", "denied");
        let record = record.number("predicted", 0).number("observed", 0);
        let _ = record.text("detail", format_args!("this processor lacks {need}")).finish();
    }

    /// What the ledger has, to be handed to [`Session::scenario`].
    pub fn before_scenario<B: Backend, A: Account>(&self, vcpu: &Vcpu<B, A>) -> [u64; ROWS] {
        counts(vcpu)
    }

    /// Compares what a scenario provoked in its runs with what it predicts.
    #[inline(never)]
    pub fn scenario<B: Backend, A: Account>(
        &mut self,
        vcpu: &Vcpu<B, A>,
        scenario: &'static Scenario,
        before: &[u64; ROWS],
        failure: Option<impl fmt::Display>,
    ) {
        let mut observed = counts(vcpu);
        for (row, count) in observed.iter_mut().enumerate() {
            *count -= before[row];
            self.by_scenarios[row] += *count;
        }
        let row = scenario.reason.ledger_row();
        let predicted = if A::KEEPS { RUNS } else { 0 };
        let stray = (0..ROWS).find(|&other| other != row && observed[other] > 0);
        let balanced = observed[row] == predicted && stray.is_none() && failure.is_none();
        if !balanced {
            self.differing_scenario = self.differing_scenario.or(Some(scenario));
        }
        let record = self.record(Kind::Scenario).word("scenario", scenario.name);
        let record = record.number("reason", scenario.reason.0.into());
        let record = record.word("verdict", if balanced { "balanced" } else { "differs" });
        let record = record.number("predicted", predicted).number("observed", observed[row]);
        let _ = match (failure, stray) {
            (Some(failure), _) => record.text("detail", failure),
            (None, Some(other)) => record.text("detail", format_args!("{:?} came up", ExitReason(other as u16))),
            _ => record,
        }
        .finish();
    }

    #[inline(never)]
    fn print_console(&mut self, machine: &mut Machine) {
        let (bytes, dropped) = machine.console.contents();
        for line in bytes.split(|&byte| byte == b'\n').flat_map(|line| line.chunks(CONSOLE_RECORD_BYTES)) {
            let _ = self.record(Kind::Console).text("text", Bytes(line)).finish();
        }
        if dropped > 0 {
            let _ = self
                .record(Kind::Console)
                .text("text", format_args!("({dropped} bytes did not fit the console's buffer)"))
                .finish();
        }
        machine.console.clear();
    }

    /// Writes the account and the verdict.
    #[inline(never)]
    pub fn finish<B: Backend, A: Account, F: fmt::Display>(&mut self, vcpu: &mut Vcpu<B, A>, end: &End<F>) -> Ending {
        self.print_console(&mut vcpu.machine);
        let book = vcpu.machine.exit.and_then(|exit| read_book(&vcpu.machine, exit.book_gpa));
        if A::KEEPS {
            let (account, enabled) = (&vcpu.account, &vcpu.machine.enabled_in_any_profile);
            self.account(account.ledger(), account.keys(), enabled, end.elapsed_tsc, book.as_ref());
        }
        let outcome =
            if end.outcome == Outcome::Exited && book.is_none() { Outcome::ExitedWithoutBook } else { end.outcome };
        let record = self.record(Kind::Stop).word("outcome", outcome.name()).hex("rip", end.rip);
        let record = record.hex("reason", end.reason.into()).hex("qualification", end.qualification);
        let _ = match &end.failure {
            Some(failure) => record.text("detail", failure),
            None if RawReason(end.reason).is_entry_failure() => record.text("detail", vcpu.backend.entry_failure()),
            None => record,
        }
        .finish();
        let status = vcpu.machine.exit.map_or(0, |exit| exit.status);
        self.judge(vcpu.account.ledger(), A::KEEPS, status, end.rip, outcome, book.as_ref())
    }

    #[inline(never)]
    fn account(
        &mut self,
        ledger: &Ledger,
        keys: &[KeyTable],
        enabled: &Controls,
        elapsed_tsc: u64,
        book: Option<&Book>,
    ) {
        for (number, row) in ledger.rows().iter().enumerate() {
            let reason = ExitReason(number as u16);
            let status = reason.status(enabled);
            if status == Status::Undefined && row.count == 0 {
                continue;
            }
            let record =
                self.record(Kind::Exit).number("vcpu", 0).number("reason", number as u64).text("name", reason.name());
            let record = record.word("status", status.as_str()).number("count", row.count).number("cycles", row.cycles);
            let record = record.number("min", row.min()).number("max", row.max());
            let _ = if row.count > 0 { record.histogram("histogram", &row.histogram) } else { record }.finish();
        }
        for (table, &(reason, kind)) in keys.iter().zip(&KINDS) {
            for slot in table.slots() {
                self.key(reason, Some((kind, slot.key)), slot);
            }
            if table.others.count > 0 {
                self.key(reason, None, &table.others);
            }
        }
        let record = self
            .record(Kind::Total)
            .number("vcpu", 0)
            .number("exits", ledger.exits())
            .number("entries", ledger.entries());
        let _ = record.number("cycles", ledger.cycles()).number("elapsed", elapsed_tsc).finish();
        for (number, &count) in
            book.iter().flat_map(|book| book.tally.iter().enumerate()).filter(|&(_, &count)| count > 0)
        {
            let _ = self.record(Kind::Tally).number("reason", number as u64).number("guest", count).finish();
        }
    }

    fn key(&mut self, reason: ExitReason, key: Option<(KeyKind, u64)>, slot: &Slot) {
        let record = self.record(Kind::Key).number("vcpu", 0).number("reason", reason.0.into());
        let record = match key {
            Some((kind, key)) => record.hex("key", key).text("name", Key(kind, key)),
            None => record.text("name", "others"),
        };
        let _ = record.number("count", slot.count).number("cycles", slot.cycles).finish();
    }

    #[inline(never)]
    fn judge(
        &mut self,
        ledger: &Ledger,
        keeps: bool,
        status: u64,
        rip: u64,
        outcome: Outcome,
        book: Option<&Book>,
    ) -> Ending {
        let by_scenarios = self.by_scenarios;
        let booked = |book: &Book, row: usize| book.tally[row] + by_scenarios[row];
        let unequal = |book: &Book| (0..ROWS).find(|&row| keeps && booked(book, row) != ledger.rows()[row].count);
        let fail = |result, detail| Verdict { ending: Ending::Fail, result, detail };
        if let (true, Err(imbalance)) = (keeps, ledger.check()) {
            return self.verdict(&fail("differs", format_args!("the ledger does not add up: {imbalance:?}")));
        }
        let Some(book) = book.filter(|_| outcome == Outcome::Exited) else {
            return self.verdict(&fail("stopped", format_args!("the guest ended as {} at {:#x}", outcome.name(), rip)));
        };
        if let Some(workload) = self.differing {
            let result = if book.passed == 0 { "failed" } else { "differs" };
            return self.verdict(&fail(
                result,
                format_args!("workload {}: {}", workload.name, NonEmpty(book.message(), "its books differ")),
            ));
        }
        if let Some(scenario) = self.differing_scenario {
            return self.verdict(&fail("differs", format_args!("scenario {}: its books differ", scenario.name)));
        }
        if book.passed == 0 || status != 0 {
            return self.verdict(&fail(
                "failed",
                format_args!("exit status {status}: {}", NonEmpty(book.message(), "no message")),
            ));
        }
        if let Some(row) = unequal(book) {
            let reason = ExitReason(row as u16);
            let (ledger, guest) = (ledger.rows()[row].count, booked(book, row));
            return self.verdict(&fail(
                "differs",
                format_args!("reason {row} {}: the ledger has {ledger}, the guest {guest}", reason.name()),
            ));
        }
        let detail = if keeps {
            format_args!("{} exits, every book agrees", ledger.exits())
        } else {
            format_args!("accounting is off")
        };
        self.verdict(&Verdict { ending: Ending::Pass, result: "balanced", detail })
    }

    fn verdict(&mut self, verdict: &Verdict<'_>) -> Ending {
        let _ = self.record(Kind::Verdict).word("result", verdict.result).text("detail", verdict.detail).finish();
        verdict.ending
    }
}

/// Displays bytes as Latin-1, which the record's escapes make ASCII.
struct Bytes<'a>(&'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&byte| f.write_char(if byte.is_ascii() { byte as char } else { '?' }))
    }
}

/// Displays the first text unless it is empty.
struct NonEmpty<'a>(&'a str, &'a str);

impl fmt::Display for NonEmpty<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { self.1 } else { self.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::GuestRegisters;
    use crate::ledger::Ledger;
    use crate::script::{Script, machine};
    use tollgate_abi::hypercall::{BOOK_MAGIC, MESSAGE_BYTES};
    use tollgate_abi::record::parse;

    const BOOK_GPA: u64 = 0x4000;

    /// A window of `cpuid` with so many exits, a guest that says so many, and the end of the guest.
    fn log(iterations: u64, exits: u64, guest: u64, whole_tally: u64, passed: u64) -> (String, Ending) {
        let mut text = String::new();
        let mut session = Session::new(&mut text);
        let mut vcpu = Vcpu::new(Script::default(), Ledger::new(), machine());
        let exit = |vcpu: &mut Vcpu<Script, Ledger>, reason: ExitReason| {
            vcpu.backend.reason = u32::from(reason.0);
            vcpu.backend.elapse(10);
            let stamp = vcpu.backend.tsc();
            vcpu.backend.elapse(50);
            let _ = vcpu.exit(&mut GuestRegisters::default(), stamp);
        };
        let book = |vcpu: &mut Vcpu<Script, Ledger>, cpuids: u64, vmcalls: u64| {
            for (at, value) in [
                (0, BOOK_MAGIC),
                (8, passed),
                (16 + MESSAGE_BYTES as u64 + 8 * u64::from(ExitReason::CPUID.0), cpuids),
                (16 + MESSAGE_BYTES as u64 + 8 * u64::from(ExitReason::VMCALL.0), vmcalls),
            ] {
                vcpu.machine.memory.write_u64(BOOK_GPA + at, value).unwrap();
            }
        };
        session.pause(&mut vcpu, Pause::Begin { number: Workload::by_name("cpuid").unwrap().number(), iterations });
        (0..exits).for_each(|_| exit(&mut vcpu, ExitReason::CPUID));
        exit(&mut vcpu, ExitReason::VMCALL);
        book(&mut vcpu, guest, 0);
        let tsc = vcpu.backend.tsc();
        session.pause(&mut vcpu, Pause::End { book_gpa: BOOK_GPA, tsc });
        book(&mut vcpu, whole_tally, 1);
        vcpu.machine.exit = Some(crate::machine::GuestExit { status: 0, book_gpa: BOOK_GPA });
        let end = vcpu.run(|_| Err("the script is over"), |_, _| {});
        let end = End { outcome: Outcome::Exited, failure: None::<&str>, ..end };
        let ending = session.finish(&mut vcpu, &end);
        (text, ending)
    }

    fn verdict(log: &str) -> String {
        let record = parse(log.lines().last().unwrap().as_bytes()).unwrap();
        assert_eq!(record.kind, Kind::Verdict);
        format!("{}: {}", record.text("result").unwrap(), record.text("detail").unwrap())
    }

    #[test]
    fn books_that_agree_balance() {
        let (log, ending) = log(5, 5, 5, 5, 1);
        assert_eq!((verdict(&log).as_str(), ending), ("balanced: 6 exits, every book agrees", Ending::Pass));
        assert!(log.lines().all(|line| parse(line.as_bytes()).is_ok()), "{log}");
    }

    #[test]
    fn any_book_that_differs_is_named() {
        for (iterations, exits, guest, tally, passed, expected) in [
            (6, 5, 5, 5, 1, "differs: workload cpuid: its books differ"),
            (5, 6, 5, 6, 1, "differs: workload cpuid: its books differ"),
            (5, 5, 4, 5, 1, "differs: workload cpuid: its books differ"),
            (5, 5, 5, 4, 1, "differs: reason 10 CPUID: the ledger has 5, the guest 4"),
            (5, 5, 5, 5, 0, "failed: workload cpuid: its books differ"),
        ] {
            let (log, ending) = log(iterations, exits, guest, tally, passed);
            assert_eq!((verdict(&log).as_str(), ending), (expected, Ending::Fail));
        }
    }
}
