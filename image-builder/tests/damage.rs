//! ROMs whose bytes are not those that were written, in the emulators: each says so on the serial port, and nothing of it runs.

use std::mem::offset_of;
use std::time::Duration;

use tollgate::emulator::models::Model;
use tollgate::emulator::{Boot, Ended, Engine, Limits, Machine, PLATFORMS, Session, Target};
use tollgate::images;
use tollgate_abi::guest_image::{
    DIRECTORY_OFFSET, Directory, MEMORY_IN_DIRECTORY, SEGMENT_COUNT_IN_DIRECTORY, SEGMENTS_IN_DIRECTORY, Segment,
};
use tollgate_abi::packed::{PLACE_IN_DIRECTORY, PackedMonitor, SUMS_OFFSET, sums};
use tollgate_books::account::Account;
use tollgate_books::failure::Status;

/// The account of a run of this ROM, whose options ask for little.
fn account(target: Target, rom: &[u8], damage: &str) -> Account {
    let (place, boot) = (tempfile::tempdir().unwrap(), Boot::Rom(rom));
    let launch = Machine::new(target, boot).prepare(place.path(), boot, false);
    let launch = launch.unwrap_or_else(|missing| panic!("this test needs Bochs and QEMU. {missing}"));
    let session = Session::run(&launch, Limits::within(Duration::from_secs(60)), |_| {}).unwrap();
    let log = session.log.unwrap_or_else(|error| panic!("{damage}: {error}\n{}", session.said));
    assert!(matches!(session.ended, Ended::Exited(_)), "{damage}: {:?}", session.ended);
    Account::new(&log, None, Some(launch.platform.name))
}

fn bochs() -> Target {
    Target::bochs(Model::by_name("tigerlake").unwrap())
}

fn tcg() -> Target {
    Target::of(PLATFORMS.iter().find(|row| row.engine == Engine::Tcg).unwrap())
}

fn rom() -> Vec<u8> {
    images::build(None, "workloads=cpuid:1").unwrap().bytes
}

/// The ROM with sums of what it is now, as of a tool that packs or places wrongly.
fn summed(mut rom: Vec<u8>) -> Vec<u8> {
    let sums = sums(&rom[..SUMS_OFFSET]).map(u64::to_le_bytes);
    rom[SUMS_OFFSET..][..sums.as_flattened().len()].copy_from_slice(sums.as_flattened());
    rom
}

fn says_so(target: Target, rom: &[u8], damage: &str) {
    let account = account(target, rom, damage);
    assert_eq!(account.status, Status::Platform, "{damage}: {}", account.verdict);
    let verdict = account.verdict.to_string();
    assert!(verdict.starts_with("refused: the ROM is damaged") && account.remedy.is_some(), "{damage}: {verdict}");
}

#[test]
fn a_bit_that_changed_is_found_wherever_it_is() {
    let rom = rom();
    let page = rom[DIRECTORY_OFFSET..].first_chunk().unwrap();
    let (monitor, directory) = (PackedMonitor::read(page), Directory::read(page, rom.len() as u64).unwrap());
    let segment = directory.segments().next().unwrap();
    let (guest, guest_bytes) = (segment.image_offset as usize, segment.packed_bytes as usize);
    assert_eq!(account(tcg(), &summed(rom.clone()), "none").status, Status::Balanced);
    for (i, (part, at)) in [
        ("the first byte", 0),
        ("the monitor's middle", monitor.packed_bytes as usize / 2),
        ("the monitor's end", monitor.packed_bytes as usize - 1),
        ("the guest's beginning", guest),
        ("the guest's middle", guest + guest_bytes / 2),
        ("the bytes that nothing was written to", DIRECTORY_OFFSET - 1),
        ("the place of a segment", DIRECTORY_OFFSET + SEGMENTS_IN_DIRECTORY + offset_of!(Segment, gpa) + 2),
        ("the options", SUMS_OFFSET - 1),
        ("a sum", SUMS_OFFSET),
        ("the other sum", SUMS_OFFSET + 15),
    ]
    .into_iter()
    .enumerate()
    {
        let mut damaged = rom.clone();
        damaged[at] ^= 1 << (i % 8);
        says_so(bochs(), &damaged, part);
        says_so(tcg(), &damaged, part);
    }
}

/// The name of a damage, and the change that makes it.
type Damage = (&'static str, fn(&mut [u8]));

/// Damage that the sums do not show is found as it is unpacked, each kind by another rule.
#[test]
fn a_rom_that_was_made_wrong_is_refused_before_the_monitor_runs() {
    fn put(rom: &mut [u8], offset: usize, number: u64, bytes: usize) {
        rom[DIRECTORY_OFFSET + offset..][..bytes].copy_from_slice(&number.to_le_bytes()[..bytes]);
    }
    /// The offset of the last segment in the directory, and the segment.
    fn last(rom: &[u8]) -> (usize, Segment) {
        let directory = Directory::read(rom[DIRECTORY_OFFSET..].first_chunk().unwrap(), rom.len() as u64).unwrap();
        let (number, segment) = directory.segments().enumerate().last().unwrap();
        assert!(directory.segments().all(|other| other.gpa <= segment.gpa) && segment.file_bytes > 0);
        (SEGMENTS_IN_DIRECTORY + number * size_of::<Segment>(), segment)
    }
    const PACKED_BYTES: usize = PLACE_IN_DIRECTORY + offset_of!(PackedMonitor, packed_bytes);
    const UNPACKED_BYTES: usize = PLACE_IN_DIRECTORY + offset_of!(PackedMonitor, unpacked_bytes);
    const IMAGE_OFFSET: usize = PLACE_IN_DIRECTORY + offset_of!(PackedMonitor, image_offset);
    const GPA: usize = SEGMENTS_IN_DIRECTORY + offset_of!(Segment, gpa);
    const FILE_BYTES: usize = SEGMENTS_IN_DIRECTORY + offset_of!(Segment, file_bytes);
    let damages: [Damage; 12] = [
        ("blocks of a kind that is none", |rom| rom[..DIRECTORY_OFFSET].fill(0xff)),
        ("stored blocks of nothing, without end", |rom| {
            rom[..DIRECTORY_OFFSET].chunks_exact_mut(5).for_each(|block| block.copy_from_slice(&[0, 0, 0, 0xff, 0xff]));
        }),
        ("the monitor's stream ends too early", |rom| put(rom, PACKED_BYTES, 1000, 4)),
        ("the monitor's stream reaches behind the ROM", |rom| {
            let stored = [1, 0xff, 0xff, 0, 0];
            rom[DIRECTORY_OFFSET - stored.len()..DIRECTORY_OFFSET].copy_from_slice(&stored);
            put(rom, IMAGE_OFFSET, (DIRECTORY_OFFSET - stored.len()) as u64, 4);
            put(rom, PACKED_BYTES, u32::MAX.into(), 4);
        }),
        ("another build's monitor", |rom| put(rom, UNPACKED_BYTES, 4096, 4)),
        ("more segments than there can be", |rom| put(rom, SEGMENT_COUNT_IN_DIRECTORY, u32::MAX.into(), 4)),
        ("a segment behind the guest's memory", |rom| put(rom, GPA, u64::MAX - 0xfff, 8)),
        ("a segment that reaches behind it", |rom| {
            let (_, segment) = last(rom);
            put(rom, MEMORY_IN_DIRECTORY, segment.gpa + segment.file_bytes - 1, 8);
        }),
        ("a segment with more bytes than its stream", |rom| put(rom, FILE_BYTES, 0x10_0000, 8)),
        ("a segment with fewer", |rom| put(rom, FILE_BYTES, 0x1000, 8)),
        ("a segment's stream that is longer than the ROM", |rom| {
            let (at, _) = last(rom);
            put(rom, at + offset_of!(Segment, packed_bytes), u64::MAX, 8);
        }),
        ("a segment's stream that is in the directory", |rom| {
            let (at, segment) = last(rom);
            let (from, bytes) = (segment.image_offset as usize, segment.packed_bytes as usize);
            let to = SUMS_OFFSET - bytes;
            assert!(rom[to..SUMS_OFFSET].iter().all(|&byte| byte == 0), "it has room");
            rom.copy_within(from..from + bytes, to);
            put(rom, at + offset_of!(Segment, image_offset), to as u64, 8);
        }),
    ];
    for (damage, change) in damages {
        let mut wrong = rom();
        change(&mut wrong);
        let wrong = summed(wrong);
        says_so(bochs(), &wrong, damage);
        says_so(tcg(), &wrong, damage);
    }
}

/// Streams with a byte that changed, under sums that are right. Most contradict themselves; of the others nothing can be said.
#[test]
fn most_streams_that_changed_contradict_themselves() {
    let rom = rom();
    let place = PackedMonitor::read(rom[DIRECTORY_OFFSET..].first_chunk().unwrap());
    let bytes = place.packed_bytes as usize;
    // In the first hundred bytes the first block's codes are told; a change there is one of everything.
    let refused = [3, 20, 60, 90, bytes / 3, bytes / 2, bytes - 2].into_iter().filter(|&at| {
        let mut changed = rom.clone();
        changed[at] = !changed[at];
        let target = if at % 2 == 0 { bochs() } else { tcg() };
        let (place, changed) = (tempfile::tempdir().unwrap(), summed(changed));
        let boot = Boot::Rom(&changed);
        let launch = Machine::new(target, boot).prepare(place.path(), boot, false).unwrap();
        let session = Session::run(&launch, Limits::within(Duration::from_secs(20)), |_| {}).unwrap();
        session.log.is_ok_and(|log| {
            let verdict = Account::new(&log, None, Some(launch.platform.name)).verdict.to_string();
            verdict.starts_with("refused: the ROM is damaged")
        })
    });
    assert!(refused.count() >= 5);
}
