//! Guests of a few instructions for the machine `pc`, and their runs in the emulators.

use std::io::Write;
use std::time::Duration;

use iced_x86::code_asm::*;
use tollgate::emulator::models::Model;
use tollgate::emulator::versions::Behaviour;
use tollgate::emulator::{Boot, Engine, Limits, Machine, PLATFORMS, Session, Target, installed};
use tollgate::image::{MONITOR_ELF, Placed, Rom};
use tollgate_abi::guest_image::Entry;
use tollgate_abi::machine::Kind;
use tollgate_abi::machine::pc::{SERIAL_PORT, SLEEP_CONTROL_PORT, SLEEP_TYPE_OFF};
use tollgate_books::account::Account;

/// The guest's code, its first page table, and its memory.
pub(crate) const CODE: u64 = 0x10_0000;
pub(crate) const TABLES: u64 = 0x1000;
pub(crate) const MEMORY_BYTES: u64 = 64 << 20;
/// A place far behind the code: more than one block of the emulator's memory away.
pub(crate) const FAR: u64 = 40 << 20;
pub(crate) const FAR_TEXT: &[u8] = b"far\n";

/// The ticks after which a run is ended.
pub(crate) const LIMIT_TICKS: u64 = 50_000_000;

/// The place of the handler of [`interruptible`]'s interrupts, its vector, and its tables: GDT, IDT, and the operands that load them.
const HANDLER: u64 = 0x18_0000;
pub(crate) const VECTOR: u8 = 0x41;
const GDT: u64 = 0x7000;
const IDT: u64 = 0x8000;
const GDTR: u64 = 0x7800;
const IDTR: u64 = 0x7810;
/// A flat 64-bit code segment, and a flat data segment.
const SEGMENTS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const CODE_SELECTOR: u64 = 0x10;
const DATA_SELECTOR: u32 = 0x18;

fn assemble(at: u64, write: impl FnOnce(&mut CodeAssembler)) -> (u64, Vec<u8>) {
    let mut code = CodeAssembler::new(64).unwrap();
    write(&mut code);
    (at, code.assemble(at).unwrap())
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A guest of this code. Three tables map its first GiB to itself.
pub(crate) fn guest(write: impl FnOnce(&mut CodeAssembler)) -> Placed {
    of_pieces(vec![assemble(CODE, write)])
}

/// The same with another text, whose address is RSI at its first instruction, and another memory.
pub(crate) fn guest_with(gpa: u64, text: &[u8], memory_bytes: u64, write: impl FnOnce(&mut CodeAssembler)) -> Placed {
    with_text(vec![assemble(CODE, write)], gpa, text, memory_bytes)
}

/// A guest of this code that has interrupts of [`VECTOR`] handled by other code, with the tables that this takes.
pub(crate) fn interruptible(
    write: impl FnOnce(&mut CodeAssembler),
    handler: impl FnOnce(&mut CodeAssembler),
) -> Placed {
    interruptible_by(VECTOR, write, handler)
}

/// The same with another vector.
pub(crate) fn interruptible_by(
    vector: u8,
    write: impl FnOnce(&mut CodeAssembler),
    handler: impl FnOnce(&mut CodeAssembler),
) -> Placed {
    let gate = [HANDLER & 0xffff | CODE_SELECTOR << 16 | 0x8e00 << 32 | HANDLER >> 16 << 48, HANDLER >> 32];
    let operand = |base: u64, bytes: u64| words(&[base << 16 | (bytes - 1), base >> 48])[..10].to_vec();
    let begin = |code: &mut CodeAssembler| {
        code.lgdt(ptr(GDTR)).unwrap();
        code.lidt(ptr(IDTR)).unwrap();
        let mut behind = code.create_label();
        code.push(CODE_SELECTOR as i32).unwrap();
        code.lea(rax, ptr(behind)).unwrap();
        code.push(rax).unwrap();
        // A far return of 64 bits.
        code.db(&[0x48, 0xcb]).unwrap();
        code.set_label(&mut behind).unwrap();
        code.mov(eax, DATA_SELECTOR).unwrap();
        code.mov(ss, eax).unwrap();
        write(code);
    };
    of_pieces(vec![
        (GDT, words(&SEGMENTS)),
        (IDT + 16 * u64::from(vector), words(&gate)),
        (GDTR, operand(GDT, 32)),
        (IDTR, operand(IDT, 4096)),
        assemble(CODE, begin),
        assemble(HANDLER, handler),
    ])
}

fn of_pieces(pieces: Vec<(u64, Vec<u8>)>) -> Placed {
    with_text(pieces, FAR, FAR_TEXT, MEMORY_BYTES)
}

fn with_text(mut pieces: Vec<(u64, Vec<u8>)>, gpa: u64, text: &[u8], memory_bytes: u64) -> Placed {
    let directory: Vec<u64> = (0..512).map(|page| page << 21 | 0x83).collect();
    pieces.extend([
        (TABLES, words(&[TABLES + 0x1003])),
        (TABLES + 0x1000, words(&[TABLES + 0x2003])),
        (TABLES + 0x2000, words(&directory)),
        (gpa, text.to_vec()),
    ]);
    let entry = Entry { rip: CODE, rsp: CODE, rsi: gpa, rdi: 7, cr3: TABLES, ..Entry::default() };
    Placed::new(pieces, gpa + text.len() as u64, entry, Kind::Pc, memory_bytes)
}

/// Sends AL.
pub(crate) fn send(code: &mut CodeAssembler) {
    code.mov(edx, u32::from(SERIAL_PORT)).unwrap();
    code.out(dx, al).unwrap();
}

pub(crate) fn out(code: &mut CodeAssembler, port: u16, value: u8) {
    code.mov(edx, u32::from(port)).unwrap();
    code.mov(eax, u32::from(value)).unwrap();
    code.out(dx, al).unwrap();
}

pub(crate) fn power_off(code: &mut CodeAssembler) {
    out(code, SLEEP_CONTROL_PORT, 1 << 5 | SLEEP_TYPE_OFF << 2);
}

/// Whether the Bochs that is here can't place a guest.
fn bochs_refuses() -> bool {
    installed(Engine::Bochs).is_ok_and(|bochs| bochs.has(Behaviour::RamImagesAtZero))
}

/// Runs a guest on Bochs, with VT-x and with SVM, and on QEMU, audited; returns each account, the guest's text, and the word for its
/// end. A Bochs that can't place a guest has to refuse, and is left out.
pub(crate) fn run(placed: &Placed) -> Vec<(String, Account, String, String)> {
    run_with(placed, "")
}

/// [`run`] with more options of the image.
pub(crate) fn run_with(placed: &Placed, options: &str) -> Vec<(String, Account, String, String)> {
    let options = format!("workloads=none book=none limit={LIMIT_TICKS} {options}");
    let rom = Rom::build(MONITOR_ELF, &placed.guest(), options.trim_end()).unwrap();
    let bochs = ["tigerlake", "zambezi"].map(|model| Target::bochs(Model::by_name(model).unwrap()));
    let tcg = PLATFORMS.iter().find(|row| row.name == "qemu-tcg").unwrap();
    let boot = Boot::RomAndGuest(&rom.bytes, placed);
    let one = |target: Target| {
        let place = tempfile::tempdir().unwrap();
        let launch = match Machine::new(target, boot).prepare(place.path(), boot, true) {
            Ok(launch) => launch,
            Err(refused) if target.engine() == Engine::Bochs && bochs_refuses() => {
                assert!(refused.sentence().contains("can't place a guest in memory"), "{refused}");
                // Past the test runner, which shows no output of a test that passes.
                let _ = writeln!(std::io::stderr(), "left out, {}: {refused}", target.name());
                return None;
            }
            Err(missing) => panic!("{missing}"),
        };
        let session = Session::run(&launch, Limits::within(Duration::from_secs(120)), |_| {}).unwrap();
        let log = session.log.unwrap_or_else(|error| panic!("{error}\n{}", session.said));
        let account = Account::new(&log, session.audit.as_ref(), Some(launch.platform.name));
        let serial = std::fs::read_to_string(&launch.serial).unwrap();
        let text = serial.lines().filter_map(|line| line.strip_prefix("console   text=\"")?.rsplit_once('"'));
        let text = text.map(|(text, _)| text).collect::<Vec<_>>().join("\n");
        let outcome =
            serial.split(" outcome=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
        Some((target.name().to_owned(), account, text, outcome.to_owned()))
    };
    bochs.into_iter().chain([Target::of(tcg)]).filter_map(one).collect()
}
