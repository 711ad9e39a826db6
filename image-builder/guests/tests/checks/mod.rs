//! Looks at lowered kernels: at their memory as a kernel reads it, and at the rules for all of them.
#![allow(dead_code, reason = "each test binary uses a part of this module")]

use std::fmt::Write;
use std::fs;
use std::path::Path;

use tollgate_guests::{Lowered, Segment};

/// The first segment of this meaning.
pub(crate) fn segment<'a>(lowered: &'a Lowered, what: &str) -> &'a Segment {
    lowered.segments.iter().find(|segment| segment.what == what).unwrap_or_else(|| panic!("no {what}"))
}

/// A little-endian number.
pub(crate) fn number(bytes: &[u8], offset: usize, length: usize) -> u64 {
    bytes[offset..offset + length].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// No two segments overlap, all lie in memory, and the entry point lies in one of the kernel's.
pub(crate) fn check_places(lowered: &Lowered, memory_bytes: u64) {
    let mut sorted: Vec<&Segment> = lowered.segments.iter().collect();
    sorted.sort_by_key(|segment| segment.gpa);
    for pair in sorted.windows(2) {
        assert!(pair[0].end() <= pair[1].gpa, "{pair:?}");
    }
    assert!(sorted.iter().all(|segment| segment.bytes.len() as u64 <= segment.memory_bytes));
    // The first page has the mark of a placed guest.
    assert!(sorted[0].gpa >= 0x1000 && sorted.last().unwrap().end() <= memory_bytes);
    let holds_entry = |segment: &&&Segment| (segment.gpa..segment.end()).contains(&lowered.entry.rip);
    assert_eq!(sorted.iter().find(holds_entry).unwrap().what, "kernel");
}

/// The page below the stack's top is nobody else's.
pub(crate) fn check_stack(lowered: &Lowered, bytes: u64) {
    let stack = lowered.entry.rsp - bytes..lowered.entry.rsp;
    let shares = |segment: &&Segment| segment.gpa < stack.end && stack.start < segment.end();
    assert_eq!(lowered.segments.iter().find(shares), None, "{stack:x?}");
    assert!(stack.start >= 0x1000);
}

/// The machine's memory as a kernel reads it.
pub(crate) struct Memory<'a>(pub(crate) &'a Lowered);

impl<'a> Memory<'a> {
    /// The bytes from an address on to the end of the segment that has it.
    pub(crate) fn from(&self, gpa: u64) -> &'a [u8] {
        let segment = self.0.segments.iter().find(|segment| (segment.gpa..segment.end()).contains(&gpa));
        let segment = segment.unwrap_or_else(|| panic!("nothing lies at {gpa:#x}"));
        &segment.bytes[(gpa - segment.gpa) as usize..]
    }

    pub(crate) fn word(&self, gpa: u64) -> u64 {
        number(self.from(gpa), 0, 4)
    }

    pub(crate) fn long(&self, gpa: u64) -> u64 {
        number(self.from(gpa), 0, 8)
    }

    /// The text up to a NUL.
    pub(crate) fn text(&self, gpa: u64) -> String {
        let bytes = self.from(gpa);
        let end = bytes.iter().position(|&byte| byte == 0).unwrap();
        String::from_utf8(bytes[..end].to_vec()).unwrap()
    }
}

/// Lines of sixteen bytes each, but for those of zeros.
pub(crate) fn dump(gpa: u64, bytes: &[u8]) -> String {
    let mut dump = String::new();
    for (line, bytes) in bytes.chunks(16).enumerate().filter(|(_, bytes)| bytes.iter().any(|&byte| byte != 0)) {
        let hex: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String =
            bytes.iter().map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { '.' }).collect();
        writeln!(dump, "{:05x}  {:47}  {text}", gpa as usize + 16 * line, hex.join(" ")).unwrap();
    }
    dump
}

/// Compares with a golden file; `TOLLGATE_BLESS=1` writes it anew.
pub(crate) fn check_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("TOLLGATE_BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(path).unwrap());
}

/// The whole of a lowered kernel: its state, its places, and the bytes of these segments.
pub(crate) fn shown(lowered: &Lowered, whole: &[&str]) -> String {
    let mut text = format!("{}\n{:x?}\n", lowered.about, lowered.entry);
    for segment in &lowered.segments {
        writeln!(text, "{segment:?}").unwrap();
        if whole.contains(&segment.what) {
            text += &dump(segment.gpa, &segment.bytes);
        }
    }
    text
}
