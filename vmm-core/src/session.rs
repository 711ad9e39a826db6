//! The books of a run: windows around workloads, comparison of the guest's book with the ledger, and the records.
//!
//! Everything here happens while no exit is open, so that it costs the account nothing.

mod account;
mod counted;
mod marks;
mod recorded;
mod scenario;
mod smis;
mod window;

pub use counted::Counted;
pub use scenario::{BeforeScenario, TimedScenario};

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use tollgate_abi::exit_reason::{LOOKS, ROWS};
use tollgate_abi::hypercall::{BOOK_BYTES, Book as GuestBook};
use tollgate_abi::judgement::Judgement;
use tollgate_abi::record::{MAX_LINE_BYTES, MONITOR, records};
use tollgate_abi::scenario::Scenario;
use tollgate_abi::workload::{Outcome, Workload};

use self::recorded::Traced;
use self::smis::Smis;
use crate::board::Board;
use crate::console::Console;
use crate::exit::{Backend, Pause};
use crate::handlers::ipi;
use crate::ledger::Book;
use crate::machine::Machine;
use crate::vcpu::Vcpu;

/// A run's output, and its findings so far.
#[derive(Debug)]
pub struct Session<W> {
    out: Counted<W>,
    /// Whether this session began the log, so that it knows the number of its records.
    began: bool,
    window: Option<window::Window>,
    differing: Option<&'static Workload>,
    differing_scenario: Option<&'static Scenario>,
    /// A vCPU that still ran when a window was opened or closed, or when the guest ended.
    restless: Option<usize>,
    /// Exits that are not in the guest's book: those that scenarios provoked and, at the end, the monitor's own looks.
    unbooked: [u64; ROWS],
    /// Whether the guest keeps a book with which the ledger is compared.
    guest_keeps_book: bool,
    /// Whether a guest without a book may end however it likes.
    any_end_will_do: bool,
    /// A sentence for the verdict, besides its own.
    postscript: Option<String>,
    /// The written part of each vCPU's trace.
    traced: Vec<Traced>,
    /// The count of system-management interrupts, where the processor has one.
    smis: Option<Smis>,
}

/// The most bytes of guest output in one record: escaped, a byte takes four, and the record has to fit its line.
const CONSOLE_RECORD_BYTES: usize = 900;
const _: () = assert!(4 * CONSOLE_RECORD_BYTES + 100 < MAX_LINE_BYTES);

/// The accounts of all vCPUs.
type Books = [&'static dyn Book];

fn keeps(books: &Books) -> bool {
    books.first().is_some_and(|book| book.keeps())
}

/// The counts of all vCPUs' ledgers, summed.
fn counts(books: &Books) -> [u64; ROWS] {
    let mut sums = [0; ROWS];
    for book in books {
        sums.iter_mut().zip(book.ledger().counts()).for_each(|(sum, count)| *sum += count);
    }
    sums
}

/// The vCPUs' exits that were the monitor's own looks at a guest that ran long, by their place in [`LOOKS`].
fn looks(books: &Books) -> [u64; LOOKS.len()] {
    LOOKS.map(|reason| books.iter().map(|book| book.ledger().looks_of(reason)).sum())
}

/// Performs a guest's request between two stretches of its execution, on any vCPU; `Some` if the guest is over then.
#[inline(never)]
pub fn pause_anywhere<B: Backend>(vcpu: &mut Vcpu<B>, pause: Pause) -> Option<Outcome> {
    let machine = &mut vcpu.machine;
    match pause {
        Pause::Profile(profile) => vcpu.set_profile(profile),
        Pause::Console { gpa, bytes } => {
            let mut console = machine.shared.board.console.lock();
            console.reserve(bytes, |room| {
                // The range was checked at the request.
                let _ = machine.memory.read(gpa, room);
            });
            return shown(&mut console, machine);
        }
        Pause::Print | Pause::Look => return print(machine),
        Pause::Halted => {
            return ipi::rest(&mut vcpu.backend, machine).then_some(Outcome::HaltedForEver);
        }
        // Windows are vCPU 0's.
        Pause::ModeChanged | Pause::Begin { .. } | Pause::End { .. } => {}
    }
    None
}

/// Takes the text of the machine's serial port for the log; `Some` if that ends the guest.
fn print(machine: &Machine) -> Option<Outcome> {
    let mut console = machine.shared.board.console.lock();
    let lost = machine.shared.devices.serial.take(|byte| console.append(&[byte], 0));
    console.append(&[], lost);
    shown(&mut console, machine)
}

/// Keeps the account for marks that the console shows now; `Some` if it shows the text that ends the guest.
fn shown(console: &mut Console, machine: &Machine) -> Option<Outcome> {
    console.marks.as_mut()?.keep(|| marks::now(machine)).then_some(Outcome::TextShown)
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
            out: Counted::new(out),
            began: true,
            window: None,
            differing: None,
            differing_scenario: None,
            restless: None,
            unbooked: [0; ROWS],
            guest_keeps_book: true,
            any_end_will_do: true,
            postscript: None,
            traced: Vec::new(),
            smis: None,
        }
    }

    /// A session that writes no more than the end of a log, of which others have written the rest.
    pub fn at_end(out: W) -> Self {
        Self { began: false, ..Self::new(out) }
    }

    /// The output that the records go to, for anything but records.
    pub fn sink(&mut self) -> &mut W {
        &mut self.out.sink
    }

    /// The output for records.
    pub fn out(&mut self) -> &mut Counted<W> {
        &mut self.out
    }

    /// Has the guest's book left out: it keeps none, and nobody predicts its exits. A guest that is to end itself fails otherwise.
    pub fn leave_out_guest_book(&mut self, is_to_end_itself: bool) {
        (self.guest_keeps_book, self.any_end_will_do) = (false, !is_to_end_itself);
    }

    /// Gives the verdict a sentence besides its own.
    pub fn set_postscript(&mut self, postscript: Option<String>) {
        self.postscript = postscript;
    }

    /// Writes the verdict, which is the last record.
    #[inline(never)]
    pub fn write_verdict(&mut self, result: Judgement, detail: fmt::Arguments<'_>, remedy: Option<&str>) {
        let postscript = self.postscript.take();
        let (separator, postscript) = postscript.as_deref().map_or(("", ""), |postscript| ("; ", postscript));
        let record = records::Verdict {
            result: result.word(),
            detail: Some(&format_args!("{detail}{separator}{postscript}")),
            remedy: remedy.as_ref().map(|remedy| remedy as &dyn fmt::Display),
            records: self.began.then_some(self.out.records),
        };
        let _ = record.write(&mut self.out);
    }

    /// Writes a line for the person who reads the log, as the guest's own are written.
    #[inline(never)]
    pub fn remark(&mut self, text: fmt::Arguments<'_>) {
        let _ = records::Console { by: Some(MONITOR), text: &text }.write(&mut self.out);
    }

    #[inline(never)]
    fn print_console(&mut self, board: &Board) {
        let mut console = board.console.lock();
        let (bytes, dropped) = console.contents();
        // A terminal's lines end in CR LF.
        let lines = bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        for line in lines.flat_map(|line| line.chunks(CONSOLE_RECORD_BYTES)) {
            let _ = records::Console { by: None, text: &Bytes(line) }.write(&mut self.out);
        }
        if dropped > 0 {
            self.remark(format_args!("({dropped} bytes did not fit the console's buffer)"));
        }
        console.clear();
        if let Some(marks) = &mut console.marks {
            marks.take_reached(|mark, reached| self.mark(mark, reached));
        }
    }

    /// Notes a vCPU that had not been taken off line when the guest ended.
    pub fn still_ran(&mut self, vcpu: usize) {
        self.restless = self.restless.or(Some(vcpu));
    }
}

/// A number that a record has only if it is not 0.
fn any(number: u64) -> Option<u64> {
    (number > 0).then_some(number)
}

/// Displays bytes as Latin-1, of which the record's escapes make ASCII.
struct Bytes<'a>(&'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&byte| f.write_char(if byte.is_ascii() { byte as char } else { '?' }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ended::{Ended, GuestExit};
    use crate::exit::{GuestRegisters, Processor};
    use tollgate_abi::ExitReason;
    use tollgate_abi::ending::Ending;

    use crate::ledger::{Account, Ledger};
    use crate::script::{Script, machine_with, machines};
    use tollgate_abi::hypercall::{BOOK_MAGIC, MESSAGE_BYTES};
    use tollgate_abi::record::{Kind, parse};

    const BOOK_GPA: u64 = 0x4000;

    fn log(iterations: u64, exits: u64, guest: u64, whole_tally: u64, passed: u64) -> (String, Ending) {
        looked_at((0, 0), iterations, exits, guest, whole_tally, passed)
    }

    /// A window of `cpuid` with so many exits, a guest that books so many, and the end of the guest. In the window there are
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
        let mut vcpu = Vcpu::new(Script::default(), machine_with(Box::leak(Box::new([ledger]))));
        let exit = |vcpu: &mut Vcpu<Script>, reason: ExitReason| {
            vcpu.backend.reason = u32::from(reason.0);
            vcpu.backend.elapse(10);
            let stamp = vcpu.backend.tsc();
            vcpu.backend.elapse(50);
            let _ = vcpu.drive(ledger, &mut GuestRegisters::default(), stamp);
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
        (0..looks).for_each(|_| ledger.is_look(ExitReason::EXTERNAL_INTERRUPT));
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
        vcpu.machine.shared.board.end(0, Ended { exit, ..Ended::of(Outcome::Exited) });
        let ending = session.finish(&vcpu.machine, &books, || 0);
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
    fn who_is_asked_to_stop_in_a_pause_does_not_go_on() {
        let pause = |asked: bool| {
            let mut text = String::new();
            let mut session = Session::new(&mut text);
            let ledger: &'static Ledger = Box::leak(Box::new(Ledger::new()));
            let books: [&'static dyn Book; 1] = [ledger];
            let mut vcpu = Vcpu::new(Script::default(), machine_with(Box::leak(Box::new([ledger]))));
            if asked {
                vcpu.machine.shared.board.ask_to_stop(0);
            }
            let number = Workload::by_name("cpuid").unwrap().number();
            session.pause(&mut vcpu, &books, Pause::Begin { number, iterations: 1 })
        };
        assert_eq!([pause(false), pause(true)], [None, Some(Outcome::StoppedByAnother)]);
    }

    /// The verdict on a guest that keeps no book and ended so, after one exit. The ledger has the exit's cycles, or not.
    fn without_book(outcome: Outcome, has_cycles: bool, is_to_end_itself: bool) -> (String, Ending) {
        let mut text = String::new();
        let mut session = Session::new(&mut text);
        session.leave_out_guest_book(is_to_end_itself);
        let ledger: &'static Ledger = Box::leak(Box::new(Ledger::new()));
        let books: [&'static dyn Book; 1] = [ledger];
        let machine = machine_with(Box::leak(Box::new([ledger])));
        ledger.first_entry();
        let opened = ledger.open(ExitReason::CPUID);
        if has_cycles {
            ledger.close(opened, 0, || 50);
        }
        ledger.no_entry_followed();
        machine.shared.board.end(0, Ended::of(outcome));
        let ending = session.finish(&machine, &books, || 0);
        (verdict(&text), ending)
    }

    #[test]
    fn a_guest_without_a_book_ends_as_it_likes_but_for_what_could_not_be_run() {
        for outcome in [Outcome::TripleFault, Outcome::Exited, Outcome::LimitReached, Outcome::OutsideMemory] {
            let detail = std::format!("1 exits; the guest keeps no book, and ended as {} at 0x0", outcome.name());
            assert_eq!(without_book(outcome, true, false), (std::format!("balanced: {detail}"), Ending::Pass));
        }
        for outcome in [Outcome::EntryFailed, Outcome::UnhandledExit] {
            let (verdict, ending) = without_book(outcome, true, false);
            assert!(verdict.starts_with("stopped: the guest ended as ") && ending == Ending::Fail, "{verdict}");
        }
        let (verdict, ending) = without_book(Outcome::Exited, false, false);
        assert!(
            verdict.starts_with("differs: the ledger of vCPU 0 does not add up") && ending == Ending::Fail,
            "{verdict}"
        );
    }

    #[test]
    fn a_kernel_that_does_not_end_itself_has_failed_with_its_account() {
        for outcome in [Outcome::PoweredOff, Outcome::Reset, Outcome::TripleFault, Outcome::HaltedForEver] {
            let (verdict, ending) = without_book(outcome, true, true);
            let result = if outcome.is_intended() { "balanced" } else { "stopped" };
            let name = outcome.name();
            assert_eq!(verdict, std::format!("{result}: 1 exits; the guest keeps no book, and ended as {name} at 0x0"));
            assert_eq!(ending, if outcome.is_intended() { Ending::Pass } else { Ending::Fail });
        }
    }

    #[test]
    fn a_fault_of_the_monitor_on_another_processor_is_the_verdict_below_the_account() {
        let mut text = String::new();
        let mut session = Session::new(&mut text);
        let ledgers: [&'static Ledger; 2] = [(); 2].map(|()| &*Box::leak(Box::new(Ledger::new())));
        let books = ledgers.map(|ledger| ledger as &'static dyn Book);
        let [first, _] = machines();
        ledgers.iter().for_each(|ledger| ledger.first_entry());
        let opened = ledgers[0].open(ExitReason::CPUID);
        ledgers[0].close(opened, 0, || 50);
        let _in_its_handler = ledgers[1].open(ExitReason::WBINVD);
        first.shared.board.end(0, Ended::of(Outcome::Exited));
        assert!(first.shared.board.fail(1, format_args!("the monitor took exception 6")));
        let ending = session.finish(&first, &books, || 0);
        let expected = "fault: the monitor took exception 6, on the processor of vCPU 1";
        assert_eq!((verdict(&text).as_str(), ending), (expected, Ending::Fail));
        let records: Vec<_> = text.lines().map(|line| parse(line.as_bytes()).unwrap()).collect();
        let of_kind = |kind: Kind| records.iter().filter(move |record| record.kind == kind);
        assert_eq!(of_kind(Kind::Total).map(|total| total.number("exits")).collect::<Vec<_>>(), [Some(1), Some(1)]);
        let stop = of_kind(Kind::Stop).next().unwrap();
        assert_eq!(
            (stop.number("vcpu"), stop.text("outcome").unwrap().to_string()),
            (Some(1), "monitor-fault".to_owned())
        );
    }

    #[test]
    fn the_verdict_has_a_postscript_where_one_is_set() {
        let mut text = String::new();
        let mut session = Session::new(&mut text);
        session.set_postscript(Some("the log can't be saved: the stick is full".to_owned()));
        session.write_verdict(Judgement::Refused, format_args!("no VT-x"), Some("buy one"));
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
