//! The books of a run: windows around workloads, comparison of the guest's book with the ledger, and the records.
//!
//! Everything here happens while no exit is open, so that it costs the account nothing.

mod recorded;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use tollgate_abi::ExitReason;
use tollgate_abi::ending::Ending;
use tollgate_abi::exit_reason::{Controls, Need, ROWS, Status};
use tollgate_abi::hypercall::{BOOK_BYTES, Book as GuestBook};
use tollgate_abi::key::{KINDS, Key};
use tollgate_abi::profile::Profile;
use tollgate_abi::record::{Kind, MAX_LINE_BYTES, Writer};
use tollgate_abi::scenario::Scenario;
use tollgate_abi::virtualization::Facts;
use tollgate_abi::workload::{KeyPrediction, Outcome, Workload};

use self::recorded::Traced;
use crate::bench::{self, Handed};
use crate::board::{Board, Ended};
use crate::exit::{Backend, Pause};
use crate::handlers::apic;
use crate::keys::{KeyFigures, PartFigures};
use crate::ledger::{Book, Figures, Imbalance};
use crate::machine::{GuestExit, Machine};
use crate::vcpu::Vcpu;

/// What is written and what was found in the course of a run.
#[derive(Debug)]
pub struct Session<W> {
    out: W,
    window: Option<Window>,
    differing: Option<&'static Workload>,
    differing_scenario: Option<&'static Scenario>,
    /// A vCPU that still ran when a window was opened or closed, or when the guest ended.
    restless: Option<usize>,
    /// Exits that are not in the guest's book: those that scenarios provoked and, at the end, the monitor's own looks.
    unbooked: [u64; ROWS],
    /// What the verdict is to say besides.
    postscript: Option<String>,
    /// By vCPU, what of its trace has been written.
    traced: Vec<Traced>,
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
    looks_before: u64,
    /// Of each reason, for a microbenchmark; else empty.
    cycles_before: Vec<u64>,
    /// Of each key that the workload predicts, in its order.
    keys_before: Vec<u64>,
    start_tsc: u64,
}

/// The last record.
struct Verdict<'a> {
    ending: Ending,
    result: &'static str,
    detail: fmt::Arguments<'a>,
}

/// The account of every vCPU.
type Books = [&'static dyn Book];

fn keeps(books: &Books) -> bool {
    books.first().is_some_and(|book| book.keeps())
}

/// What each vCPU's ledger has, summed.
fn counts(books: &Books) -> [u64; ROWS] {
    let mut sums = [0; ROWS];
    for book in books {
        sums.iter_mut().zip(book.ledger().counts()).for_each(|(sum, count)| *sum += count);
    }
    sums
}

/// How many of the vCPUs' external interrupts were the monitor's own looks at a guest that ran long.
fn looks(books: &Books) -> u64 {
    books.iter().map(|book| book.ledger().looks()).sum()
}

/// What the vCPUs together have of each key that a workload predicts.
fn key_counts(workload: &Workload, books: &Books) -> Vec<u64> {
    let mut sums: Vec<_> = workload.keys().map(|_| 0).collect();
    for book in books {
        book.keys(&mut |reason, figures| {
            for (sum, predicted) in sums.iter_mut().zip(workload.keys()) {
                if reason == predicted.reason && figures.key.is_some_and(|(_, key)| key == predicted.key) {
                    *sum += figures.part.count;
                }
            }
        });
    }
    sums
}

/// What the vCPUs together have of the variant that a scenario is about, where variants are kept.
fn variant_count(scenario: &Scenario, books: &Books) -> Option<u64> {
    let name = scenario.variant.filter(|_| books.iter().any(|book| book.keeps_keys()))?;
    let mut sum = 0;
    for book in books {
        book.variants(&mut |figures| {
            if (figures.reason, figures.name) == (scenario.reason, name) {
                sum += figures.part.count;
            }
        });
    }
    Some(sum)
}

/// What the ledger had before a scenario.
#[derive(Debug)]
pub struct BeforeScenario {
    runs: u64,
    rows: [u64; ROWS],
    variant: Option<u64>,
}

/// What was predicted and what was found of one key in a window.
struct KeyBooks {
    key: &'static KeyPrediction,
    predicted: u64,
    observed: u64,
}

impl KeyBooks {
    fn agree(&self) -> bool {
        self.predicted == self.observed
    }
}

/// What a workload predicts of keys, where they are kept.
#[inline(never)]
fn compare_keys(window: &Window, books: &Books, facts: Facts) -> Vec<KeyBooks> {
    let Window { workload, iterations, .. } = *window;
    if !books.iter().any(|book| book.keeps_keys()) {
        return Vec::new();
    }
    let found = key_counts(workload, books);
    let keys = workload.keys().zip(window.keys_before.iter().zip(found));
    keys.map(|(key, (&before, after))| KeyBooks {
        key,
        predicted: key.predict(workload.on, iterations, books.len() as u64, facts),
        // A key that lost its slot meanwhile counts from when it got it back.
        observed: after.saturating_sub(before),
    })
    .collect()
}

/// TSC ticks that the other vCPUs have to become quiet at the edge of a window.
const QUIET_TICKS: u64 = 1 << 27;

/// Waits until no other vCPU runs, so that the ledgers stand still. The first that does not stop is the error.
fn wait_until_quiet<B: Backend>(vcpu: &Vcpu<B>) -> Result<(), usize> {
    let (board, this) = (vcpu.machine.board, vcpu.machine.vcpu);
    let start = vcpu.backend.tsc();
    loop {
        match board.first_busy(this) {
            None => return Ok(()),
            Some(busy) if board.culprit().is_some() || vcpu.backend.tsc().wrapping_sub(start) > QUIET_TICKS => {
                return Err(busy);
            }
            Some(_) => core::hint::spin_loop(),
        }
    }
}

/// Does what a guest asked for between two stretches of its execution, on any vCPU; `Some` if it is over then.
#[inline(never)]
pub fn pause_anywhere<B: Backend>(vcpu: &mut Vcpu<B>, pause: Pause) -> Option<Outcome> {
    let machine = &mut vcpu.machine;
    match pause {
        Pause::Profile(profile) => vcpu.set_profile(profile),
        Pause::Console { gpa, bytes } => {
            let mut console = machine.board.console.lock();
            // The range was checked when it was asked for.
            let _ = machine.memory.read(gpa, console.reserve(bytes));
        }
        Pause::Halted => {
            return apic::rest(&mut vcpu.backend, machine).then_some(Outcome::HaltedForEver);
        }
        // Windows are vCPU 0's.
        Pause::ModeChanged | Pause::Begin { .. } | Pause::End { .. } => {}
    }
    None
}

fn read_book(machine: &Machine, gpa: u64) -> Option<GuestBook> {
    let mut bytes = [0; BOOK_BYTES];
    machine.memory.read(gpa, &mut bytes).ok()?;
    GuestBook::from_bytes(&bytes)
}

impl<W: Write> Session<W> {
    /// A session that writes its records to `out`. Errors of the sink are dropped: there is nowhere to report them.
    pub fn new(out: W) -> Self {
        Self {
            out,
            window: None,
            differing: None,
            differing_scenario: None,
            restless: None,
            unbooked: [0; ROWS],
            postscript: None,
            traced: Vec::new(),
        }
    }

    /// Where the records go.
    pub fn sink(&mut self) -> &mut W {
        &mut self.out
    }

    /// Has the verdict say something besides.
    pub fn set_postscript(&mut self, postscript: Option<String>) {
        self.postscript = postscript;
    }

    /// Writes the verdict, which is the last record.
    #[inline(never)]
    pub fn write_verdict(&mut self, result: &str, detail: fmt::Arguments<'_>, remedy: Option<&str>) {
        let postscript = self.postscript.take();
        let (separator, postscript) = postscript.as_deref().map_or(("", ""), |postscript| ("; ", postscript));
        let record = self.record(Kind::Verdict).word("result", result);
        let record = record.text("detail", format_args!("{detail}{separator}{postscript}"));
        let _ = match remedy {
            Some(remedy) => record.text("remedy", remedy),
            None => record,
        }
        .finish();
    }

    /// Starts a record.
    pub fn record(&mut self, kind: Kind) -> Writer<'_, W> {
        Writer::new(&mut self.out, kind)
    }

    /// Does what the guest asked for between two stretches of vCPU 0's execution; `Some` if it is over then.
    pub fn pause<B: Backend>(&mut self, vcpu: &mut Vcpu<B>, books: &Books, pause: Pause) -> Option<Outcome> {
        match pause {
            Pause::Begin { number, iterations } => {
                let workload = Workload::by_number(number).expect("the number was checked when it was asked for");
                self.begin(vcpu, books, workload, iterations);
            }
            Pause::End { book_gpa, samples_gpa, tsc, call_cycles } => {
                self.end(vcpu, books, book_gpa, Handed { samples_gpa, call_cycles }, tsc);
            }
            elsewhere => return pause_anywhere(vcpu, elsewhere),
        }
        vcpu.machine.board.culprit().map(|_| Outcome::StoppedByAnother)
    }

    #[inline(never)]
    fn begin<B: Backend>(&mut self, vcpu: &mut Vcpu<B>, books: &Books, workload: &'static Workload, iterations: u64) {
        self.restless = self.restless.or(wait_until_quiet(vcpu).err());
        self.print_console(vcpu.machine.board);
        self.empty_rings(books);
        let record = self.record(Kind::Begin).word("workload", workload.name).word("profile", workload.profile.name());
        let _ = record.number("iterations", iterations).finish();
        vcpu.set_profile(workload.profile);
        let keys_before = key_counts(workload, books);
        let (before, looks_before, cycles_before) = (counts(books), looks(books), bench::cycles(workload, books));
        let start_tsc = vcpu.backend.tsc();
        self.window =
            Some(Window { workload, iterations, before, looks_before, cycles_before, keys_before, start_tsc });
    }

    #[inline(never)]
    fn end<B: Backend>(&mut self, vcpu: &mut Vcpu<B>, books: &Books, book_gpa: u64, handed: Handed, tsc: u64) {
        let Some(mut window) = self.window.take() else { return };
        self.restless = self.restless.or(wait_until_quiet(vcpu).err());
        let mut observed = counts(books);
        for (after, before) in observed.iter_mut().zip(window.before) {
            *after -= before;
        }
        // The call that ends the window is not part of it.
        let ending_call = &mut observed[ExitReason::VMCALL.ledger_row()];
        *ending_call = ending_call.saturating_sub(1);
        self.print_console(vcpu.machine.board);
        self.empty_rings(books);
        let book = read_book(&vcpu.machine, book_gpa);
        let keys = compare_keys(&window, books, vcpu.machine.facts);
        let looks = looks(books) - window.looks_before;
        self.compare(&window, &observed, looks, &keys, book, tsc, &vcpu.machine, keeps(books));
        let cycles = [core::mem::take(&mut window.cycles_before), bench::cycles(window.workload, books)];
        bench::write(self, window.workload, &observed, cycles, &vcpu.machine.memory, handed);
        vcpu.set_profile(Profile::Minimal);
    }

    #[inline(never)]
    #[expect(clippy::too_many_arguments, reason = "all that a workload's verdict depends on")]
    fn compare(
        &mut self,
        window: &Window,
        observed: &[u64; ROWS],
        looks: u64,
        keys: &[KeyBooks],
        book: Option<GuestBook>,
        tsc: u64,
        machine: &Machine,
        keeps: bool,
    ) {
        let Window { workload, iterations, start_tsc, .. } = *window;
        let (vcpus, controls) = (machine.ledgers.len() as u64, &machine.controls);
        let predicted = |row: usize| {
            workload.predict(ExitReason(row as u16), iterations, vcpus, machine.facts, |reason| controls.enable(reason))
        };
        let guest = |row: usize| book.map_or(0, |book| book.tally[row]);
        let looks = |row: usize| if row == ExitReason::EXTERNAL_INTERRUPT.ledger_row() { looks } else { 0 };
        let agrees = |row: usize| [predicted(row), guest(row)] == [observed[row].wrapping_sub(looks(row)); 2];
        let (verdict, message) = match &book {
            None => ("failed", "the guest handed over no book"),
            Some(book) if book.passed == 0 => ("failed", book.message()),
            Some(_) if !keeps => ("unaccounted", ""),
            Some(_) if (0..ROWS).all(agrees) && keys.iter().all(KeyBooks::agree) => ("balanced", ""),
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
            let _ = with_looks(record.number("observed", observed[row]), looks(row)).finish();
        }
        for &KeyBooks { key, predicted, observed } in keys {
            let Some((_, kind)) = KINDS.iter().find(|(reason, _)| *reason == key.reason) else { continue };
            let record = self.record(Kind::KeyCount).word("workload", workload.name);
            let record = record.number("reason", key.reason.0.into()).hex("key", key.key);
            let record = record.text("name", Key(*kind, key.key)).number("predicted", predicted);
            let _ = record.number("observed", observed).finish();
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

    /// What the ledger has before so many runs, to be handed to [`Session::scenario`].
    pub fn before_scenario(&self, books: &Books, scenario: &Scenario, runs: u64) -> BeforeScenario {
        BeforeScenario { runs, rows: counts(books), variant: variant_count(scenario, books) }
    }

    /// Compares what a scenario provoked in its runs with what it predicts.
    #[inline(never)]
    pub fn scenario(
        &mut self,
        books: &Books,
        scenario: &'static Scenario,
        before: &BeforeScenario,
        failure: Option<&dyn fmt::Display>,
    ) {
        let mut observed = counts(books);
        for (row, count) in observed.iter_mut().enumerate() {
            *count -= before.rows[row];
            self.unbooked[row] += *count;
        }
        let row = scenario.reason.ledger_row();
        let predicted = if keeps(books) { before.runs } else { 0 };
        let variant = variant_count(scenario, books).zip(before.variant).map(|(after, before)| after - before);
        let stray =
            (0..ROWS).find(|&other| observed[other] > if other == row { variant.unwrap_or(u64::MAX) } else { 0 });
        let observed = variant.unwrap_or(observed[row]);
        let balanced = observed == predicted && stray.is_none() && failure.is_none();
        if !balanced {
            self.differing_scenario = self.differing_scenario.or(Some(scenario));
        }
        let record = self.record(Kind::Scenario).word("scenario", scenario.name);
        let record = record.number("reason", scenario.reason.0.into());
        let record = record.word("verdict", if balanced { "balanced" } else { "differs" });
        let record = record.number("predicted", predicted).number("observed", observed);
        let _ = match (failure, stray) {
            (Some(failure), _) => record.text("detail", failure),
            (None, Some(other)) => {
                let variant = if other == row { " of another kind" } else { "" };
                record.text("detail", format_args!("{:?}{variant} came up", ExitReason(other as u16)))
            }
            _ => record,
        }
        .finish();
    }

    #[inline(never)]
    fn print_console(&mut self, board: &Board) {
        let mut console = board.console.lock();
        let (bytes, dropped) = console.contents();
        for line in bytes.split(|&byte| byte == b'\n').flat_map(|line| line.chunks(CONSOLE_RECORD_BYTES)) {
            let _ = self.record(Kind::Console).text("text", Bytes(line)).finish();
        }
        if dropped > 0 {
            let _ = self
                .record(Kind::Console)
                .text("text", format_args!("({dropped} bytes did not fit the console's buffer)"))
                .finish();
        }
        console.clear();
    }

    /// Writes the account and the verdict, once every vCPU has ended.
    #[inline(never)]
    pub fn finish(&mut self, machine: &Machine, books: &Books) -> Ending {
        let board = machine.board;
        self.print_console(board);
        let culprit = board.culprit().unwrap_or(0);
        let mut ended = board.ended(culprit).unwrap_or_else(|| Ended::of(Outcome::UnhandledExit));
        let book = ended.exit.and_then(|GuestExit { book_gpa, .. }| read_book(machine, book_gpa));
        self.empty_rings(books);
        if keeps(books) {
            for (number, &account) in books.iter().enumerate() {
                self.ledger(number, account, &machine.enabled_in_any_profile, board.elapsed_tsc(number));
            }
            let tally = book.iter().flat_map(|book| book.tally.iter().enumerate());
            for (number, &count) in tally.filter(|&(_, &count)| count > 0) {
                let _ = self.record(Kind::Tally).number("reason", number as u64).number("guest", count).finish();
            }
        }
        if ended.outcome == Outcome::Exited && book.is_none() {
            ended.outcome = Outcome::ExitedWithoutBook;
        }
        let record = self.record(Kind::Stop);
        let record = if books.len() > 1 { record.number("vcpu", culprit as u64) } else { record };
        let record = record.word("outcome", ended.outcome.name()).hex("rip", ended.rip);
        let record = record.hex("reason", ended.reason.into()).hex("qualification", ended.qualification);
        let _ = if ended.detail.is_empty() { record } else { record.text("detail", &ended.detail) }.finish();
        self.unbooked[ExitReason::EXTERNAL_INTERRUPT.ledger_row()] += looks(books);
        let imbalance = books
            .iter()
            .enumerate()
            .find_map(|(number, account)| account.ledger().check().err().map(|imbalance| (number, imbalance)));
        self.judge(&counts(books), imbalance, keeps(books), culprit, &ended, book.as_ref(), books.len())
    }

    #[inline(never)]
    fn ledger(&mut self, vcpu: usize, account: &dyn Book, enabled: &Controls, elapsed_tsc: u64) {
        let ledger = account.ledger();
        for number in 0..ROWS {
            let reason = ExitReason(number as u16);
            let (figures, status) = (ledger.figures(reason), reason.row_status(enabled));
            // The first vCPU's rows tell the status of every reason; of the others, those are enough that have exits.
            if figures.count > 0 || status != Status::Undefined && vcpu == 0 {
                self.row(vcpu, number, status, &figures, ledger.looks_of(reason));
            }
        }
        self.recorded(vcpu, account);
        account.keys(&mut |reason, key| self.key(vcpu, reason, key));
        account.variants(&mut |variant| {
            let record = self.record(Kind::Variant).number("vcpu", vcpu as u64);
            let record = record.number("reason", variant.reason.0.into()).text("name", variant.name);
            let _ = part(record, &variant.part).finish();
        });
        let record = self.record(Kind::Total).number("vcpu", vcpu as u64).number("exits", ledger.exits());
        let record = record.number("entries", ledger.entries()).number("cycles", ledger.cycles());
        let _ = record.number("elapsed", elapsed_tsc).finish();
    }

    #[inline(never)]
    fn row(&mut self, vcpu: usize, number: usize, status: Status, row: &Figures, looks: u64) {
        let record = self.record(Kind::Exit).number("vcpu", vcpu as u64).number("reason", number as u64);
        let record = record.text("name", ExitReason(number as u16).name());
        let record = record.word("status", status.as_str()).number("count", row.count).number("cycles", row.cycles);
        let record = record.number("min", row.min()).number("max", row.max());
        let record = if row.count > 0 { record.histogram("histogram", &row.histogram) } else { record };
        let _ = with_looks(record, looks).finish();
    }

    #[inline(never)]
    fn key(&mut self, vcpu: usize, reason: ExitReason, figures: &KeyFigures) {
        let record = self.record(Kind::Key).number("vcpu", vcpu as u64).number("reason", reason.0.into());
        let record = match figures.key {
            Some((kind, key)) => record.hex("key", key).text("name", Key(kind, key)),
            None => record.text("name", "others"),
        };
        let _ = part(record, &figures.part).finish();
    }

    #[inline(never)]
    #[expect(clippy::too_many_arguments, reason = "all that a verdict depends on")]
    fn judge(
        &mut self,
        counts: &[u64; ROWS],
        imbalance: Option<(usize, Imbalance)>,
        keeps: bool,
        culprit: usize,
        ended: &Ended,
        book: Option<&GuestBook>,
        vcpus: usize,
    ) -> Ending {
        let unbooked = self.unbooked;
        let booked = |book: &GuestBook, row: usize| book.tally[row] + unbooked[row];
        let unequal = |book: &GuestBook| (0..ROWS).find(|&row| keeps && booked(book, row) != counts[row]);
        let fail = |result, detail| Verdict { ending: Ending::Fail, result, detail };
        if let (true, Some((vcpu, imbalance))) = (keeps, imbalance) {
            return self
                .verdict(&fail("differs", format_args!("the ledger of vCPU {vcpu} does not add up: {imbalance}")));
        }
        let Some(book) = book.filter(|_| ended.outcome == Outcome::Exited) else {
            let (outcome, rip) = (ended.outcome.name(), ended.rip);
            return if vcpus > 1 {
                self.verdict(&fail("stopped", format_args!("vCPU {culprit} ended as {outcome} at {rip:#x}")))
            } else {
                self.verdict(&fail("stopped", format_args!("the guest ended as {outcome} at {rip:#x}")))
            };
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
        let status = ended.exit.map_or(0, |exit| exit.status);
        if book.passed == 0 || status != 0 {
            return self.verdict(&fail(
                "failed",
                format_args!("exit status {status}: {}", NonEmpty(book.message(), "no message")),
            ));
        }
        if let Some(restless) = self.restless {
            return self.verdict(&fail(
                "failed",
                format_args!("vCPU {restless} still ran when a workload began or ended, or the guest did"),
            ));
        }
        if let Some(row) = unequal(book) {
            let reason = ExitReason(row as u16);
            let (ledger, guest) = (counts[row], booked(book, row));
            return self.verdict(&fail(
                "differs",
                format_args!("reason {row} {}: the ledger has {ledger}, the guest {guest}", reason.name()),
            ));
        }
        let exits: u64 = counts.iter().sum();
        let detail =
            if keeps { format_args!("{exits} exits, every book agrees") } else { format_args!("accounting is off") };
        self.verdict(&Verdict { ending: Ending::Pass, result: "balanced", detail })
    }

    /// Notes a vCPU that had not been taken off line when the guest ended.
    pub fn still_ran(&mut self, vcpu: usize) {
        self.restless = self.restless.or(Some(vcpu));
    }

    fn verdict(&mut self, verdict: &Verdict<'_>) -> Ending {
        self.write_verdict(verdict.result, verdict.detail, None);
        verdict.ending
    }
}

/// Adds the figures of a part.
fn part<'w, W: Write + ?Sized>(record: Writer<'w, W>, part: &PartFigures) -> Writer<'w, W> {
    let record = record.number("count", part.count).number("cycles", part.cycles);
    record.number("min", part.min).number("max", part.max)
}

/// Adds how many of the exits that were counted are the monitor's own looks, if any are.
#[inline(never)]
fn with_looks<W: Write + ?Sized>(record: Writer<'_, W>, looks: u64) -> Writer<'_, W> {
    if looks > 0 { record.number("looks", looks) } else { record }
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
    use crate::keys::Keyed;
    use crate::ledger::{Account, Ledger};
    use crate::script::{Script, machine};
    use tollgate_abi::hypercall::{BOOK_MAGIC, MESSAGE_BYTES};
    use tollgate_abi::record::parse;
    use tollgate_abi::scenario::RUNS;

    const BOOK_GPA: u64 = 0x4000;

    fn log(iterations: u64, exits: u64, guest: u64, whole_tally: u64, passed: u64) -> (String, Ending) {
        looked_at((0, 0), iterations, exits, guest, whole_tally, passed)
    }

    /// A window of `cpuid` with so many exits, a guest that says so many, and the end of the guest. Within, there are so many
    /// external interrupts, and looks among them.
    fn looked_at(
        (interrupts, looks): (u64, u64),
        iterations: u64,
        exits: u64,
        guest: u64,
        whole_tally: u64,
        passed: u64,
    ) -> (String, Ending) {
        let mut text = String::new();
        let mut session = Session::new(&mut text);
        let ledger: &'static Ledger = Box::leak(Box::new(Ledger::new()));
        let books: [&'static dyn Book; 1] = [ledger];
        let mut vcpu = Vcpu::new(Script::default(), Machine { ledgers: Box::leak(Box::new([ledger])), ..machine() });
        let exit = |vcpu: &mut Vcpu<Script>, reason: ExitReason| {
            vcpu.backend.reason = u32::from(reason.0);
            vcpu.backend.elapse(10);
            let stamp = vcpu.backend.tsc();
            vcpu.backend.elapse(50);
            let _ = vcpu.exit(ledger, &mut GuestRegisters::default(), stamp);
        };
        let book = |vcpu: &mut Vcpu<Script>, cpuids: u64, vmcalls: u64| {
            for (at, value) in [
                (0, BOOK_MAGIC),
                (8, passed),
                (16 + MESSAGE_BYTES as u64 + 8 * u64::from(ExitReason::CPUID.0), cpuids),
                (16 + MESSAGE_BYTES as u64 + 8 * u64::from(ExitReason::VMCALL.0), vmcalls),
            ] {
                vcpu.machine.memory.write_u64(BOOK_GPA + at, value).unwrap();
            }
        };
        let number = Workload::by_name("cpuid").unwrap().number();
        assert_eq!(session.pause(&mut vcpu, &books, Pause::Begin { number, iterations }), None);
        (0..exits).for_each(|_| exit(&mut vcpu, ExitReason::CPUID));
        (0..interrupts).for_each(|_| ledger.close(ledger.open(ExitReason::EXTERNAL_INTERRUPT), 0, || 50));
        (0..looks).for_each(|_| ledger.is_look());
        exit(&mut vcpu, ExitReason::VMCALL);
        book(&mut vcpu, guest, 0);
        let tsc = vcpu.backend.tsc();
        assert_eq!(
            session.pause(&mut vcpu, &books, Pause::End { book_gpa: BOOK_GPA, samples_gpa: 0, tsc, call_cycles: 0 }),
            None
        );
        book(&mut vcpu, whole_tally, 1);
        ledger.first_entry();
        ledger.no_entry_followed();
        let exit = Some(GuestExit { status: 0, book_gpa: BOOK_GPA });
        vcpu.machine.board.end(0, Ended { exit, ..Ended::of(Outcome::Exited) });
        let ending = session.finish(&vcpu.machine, &books);
        (text, ending)
    }

    /// The record of a scenario about #OF, run where so many exits of these vectors came up.
    fn scenario_record(exits: &[(u64, u64)]) -> (String, u64, String) {
        let keyed: &'static Keyed = Box::leak(Box::default());
        let books: [&'static dyn Book; 1] = [keyed];
        let book = |vector: u64| {
            keyed.expect(ExitReason::EXCEPTION_OR_NMI, || Some(vector), || 0);
            keyed.close(keyed.open(ExitReason::EXCEPTION_OR_NMI), 0, || 50);
        };
        book(4);
        let mut text = String::new();
        let mut session = Session::new(&mut text);
        let scenario = Scenario::by_name("overflow").unwrap();
        let before = session.before_scenario(&books, scenario, RUNS);
        exits.iter().for_each(|&(vector, times)| (0..times).for_each(|_| book(vector)));
        session.scenario(&books, scenario, &before, None);
        let record = parse(text.trim_end().as_bytes()).unwrap();
        let detail = record.text("detail").map(|text| text.to_string()).unwrap_or_default();
        (record.text("verdict").unwrap().to_string(), record.number("observed").unwrap(), detail)
    }

    #[test]
    fn a_scenario_about_a_variant_wants_that_one() {
        let differs = |observed, detail: &str| ("differs".to_owned(), observed, detail.to_owned());
        let stray = "0 (Exception or non-maskable interrupt) of another kind came up";
        assert_eq!(scenario_record(&[(4, RUNS)]), ("balanced".to_owned(), RUNS, String::new()));
        assert_eq!(scenario_record(&[(6, RUNS)]), differs(0, stray));
        assert_eq!(scenario_record(&[(4, RUNS), (6, 1)]), differs(RUNS, stray));
        assert_eq!(scenario_record(&[(4, RUNS - 1)]), differs(RUNS - 1, ""));
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
    fn the_monitors_looks_are_in_no_book_of_the_guests() {
        let (log, ending) = looked_at((3, 3), 5, 5, 5, 5, 1);
        assert_eq!((verdict(&log).as_str(), ending), ("balanced: 9 exits, every book agrees", Ending::Pass));
        let of_reason_1 = |kind: Kind| {
            let mut records = log.lines().map(|line| parse(line.as_bytes()).unwrap());
            let row = records.find(|record| record.kind == kind && record.number("reason") == Some(1)).unwrap();
            ["predicted", "guest", "observed", "count", "looks"].map(|key| row.number(key))
        };
        assert_eq!(of_reason_1(Kind::Count), [Some(0), Some(0), Some(3), None, Some(3)]);
        assert_eq!(of_reason_1(Kind::Exit), [None, None, None, Some(3), Some(3)]);
        let (log, _) = looked_at((3, 2), 5, 5, 5, 5, 1);
        assert_eq!(verdict(&log), "differs: workload cpuid: its books differ");
        assert!(!super::tests::log(5, 5, 5, 5, 1).0.contains("looks"));
    }

    #[test]
    fn the_verdict_has_a_postscript_where_one_is_set() {
        let mut text = String::new();
        let mut session = Session::new(&mut text);
        session.set_postscript(Some("the log can't be saved: the stick is full".to_owned()));
        session.write_verdict("refused", format_args!("no VT-x"), Some("buy one"));
        assert_eq!(verdict(&text), "refused: no VT-x; the log can't be saved: the stick is full");
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
