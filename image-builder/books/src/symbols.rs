//! The functions of a guest, by the addresses of their code: of its ELF file, or of a kernel's `System.map`. A log says which ELF
//! file it is of (`guest=` among its options), so that no function of another guest is named.

use std::fmt;

use crate::log::printable;
use object::{Object, ObjectKind, ObjectSegment, ObjectSymbol, SymbolKind};
use tollgate_abi::command_line::Options;
use tollgate_abi::machine::RELOCATED_GPA;
use tollgate_abi::record::Record;
use tollgate_abi::record::records::read;

/// Functions in ascending order.
#[derive(Debug, Default)]
pub struct Symbols {
    functions: Vec<Function>,
}

#[derive(Debug)]
struct Function {
    start: u64,
    end: u64,
    name: String,
}

/// The defect of a file that is to be a kernel's `System.map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// A line is not an address, a type and a name.
    Line(usize),
    /// No line is a function's.
    NoFunction,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapError::Line(number) => write!(f, "line {number} is not an address, a type and a name"),
            MapError::NoFunction => f.write_str("it names no function"),
        }
    }
}

impl Symbols {
    /// The functions of an ELF file; none if it names none. One that runs anywhere has been relocated.
    pub fn of(elf: &[u8]) -> Self {
        let Ok(file) = object::File::parse(elf) else { return Self::default() };
        let alignments = file.segments().map(|segment| segment.align()).filter(|align| align.is_power_of_two());
        let relocated = RELOCATED_GPA.checked_next_multiple_of(alignments.max().unwrap_or(1)).unwrap_or(0);
        let shift = if file.kind() == ObjectKind::Dynamic { relocated } else { 0 };
        let code = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0);
        let mut functions: Vec<_> = code
            .filter_map(|symbol| {
                let name = format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?));
                let start = symbol.address().saturating_add(shift);
                Some(Function { start, end: start.saturating_add(symbol.size()), name })
            })
            .collect();
        functions.sort_by(|a, b| (a.start, a.end, &a.name).cmp(&(b.start, b.end, &b.name)));
        Self { functions }
    }

    /// The functions of a kernel's `System.map`, which has a line for each symbol: its address, its type as nm(1) has it, its name. A
    /// function ends where the next symbol begins; the last one is taken to have a single byte.
    ///
    /// # Errors
    /// It is none, or names no function.
    pub fn of_map(text: &[u8]) -> Result<Self, MapError> {
        let mut symbols = Vec::new();
        for (number, line) in (1..).zip(text.split(|&byte| byte == b'\n')).filter(|(_, line)| !line.is_empty()) {
            symbols.push(map_line(line).ok_or(MapError::Line(number))?);
        }
        symbols.sort_by_key(|&(address, ..)| address);
        let mut functions: Vec<Function> = Vec::new();
        for (at, &(start, kind, name)) in symbols.iter().enumerate() {
            let is_known = functions.last().is_some_and(|last| last.start == start);
            if is_known || !matches!(kind, b't' | b'T' | b'w' | b'W') {
                continue;
            }
            let next = symbols[at..].iter().map(|&(address, ..)| address).find(|&address| address > start);
            let end = next.unwrap_or(start.saturating_add(1));
            functions.push(Function { start, end, name: printable(name) });
        }
        if functions.is_empty() { Err(MapError::NoFunction) } else { Ok(Self { functions }) }
    }

    /// An address as Linux names it: the function, the distance from its beginning, and its length; `None` if none is known.
    pub fn place(&self, address: u64) -> Option<String> {
        let Function { start, end, name } = self.function(address)?;
        Some(format!("{name}+{:#x}/{:#x}", address - start, end - start))
    }

    /// First and end address of each function.
    pub fn spans(&self) -> impl Iterator<Item = (u64, u64)> {
        self.functions.iter().map(|function| (function.start, function.end))
    }

    /// The function at an address; empty if none is known.
    pub fn find(&self, rip: u64) -> &str {
        self.function(rip).map_or("", |function| &function.name)
    }

    fn function(&self, rip: u64) -> Option<&Function> {
        let before = self.functions.partition_point(|function| function.start <= rip).wrapping_sub(1);
        self.functions.get(before).filter(|function| rip < function.end)
    }
}

/// A line of a `System.map`: address, type and name.
fn map_line(line: &[u8]) -> Option<(u64, u8, &str)> {
    let line = str::from_utf8(line).ok()?;
    let (address, rest) = line.split_once(' ')?;
    let (kind, name) = rest.split_once(' ')?;
    let &[kind] = kind.as_bytes() else { return None };
    let is_hexadecimal = address.bytes().all(|digit| digit.is_ascii_hexdigit());
    let address = u64::from_str_radix(address, 16).ok().filter(|_| is_hexadecimal)?;
    Some((address, kind, name.trim_end())).filter(|(.., name)| !name.is_empty())
}

/// The mark of the guest in the first record of a run, if it has one: a checksum of the guest's file.
pub(crate) fn mark_of(record: &Record<'_>) -> Option<u32> {
    let options = read::Tollgate::of(record).ok()?.options?.to_string();
    Options::parse(&options).ok()?.guest
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &[u8] = b"0000000000000000 D __per_cpu_start\n\
        ffffffff81000000 T _text\n\
        ffffffff81000000 T startup_64\n\
        ffffffff81000040 t default_idle\n\
        ffffffff81000050 D jiffies\n\
        ffffffff81000100 W weak_one\n";

    #[test]
    fn an_address_is_named_as_linux_names_it() {
        let symbols = Symbols::of_map(MAP).unwrap();
        let place = |address| symbols.place(address);
        assert_eq!(place(0xffff_ffff_8100_0003).as_deref(), Some("_text+0x3/0x40"));
        assert_eq!(place(0xffff_ffff_8100_004f).as_deref(), Some("default_idle+0xf/0x10"));
        assert_eq!(place(0xffff_ffff_8100_0100).as_deref(), Some("weak_one+0x0/0x1"));
        for outside in [0, 0xffff_ffff_8100_0050, 0xffff_ffff_8100_0101, u64::MAX] {
            assert_eq!(place(outside), None, "{outside:#x}");
        }
        let reversed: Vec<&[u8]> = MAP.split(|&byte| byte == b'\n').rev().collect();
        let reversed = Symbols::of_map(&reversed.join(&b'\n')).unwrap();
        assert_eq!(reversed.place(0xffff_ffff_8100_0044).as_deref(), Some("default_idle+0x4/0x10"));
    }

    #[test]
    fn a_map_that_is_none_is_refused_by_its_line() {
        let refused = |text: &str| Symbols::of_map(text.as_bytes()).unwrap_err();
        assert_eq!(refused("ffff T a\n\nmain.c: a file\n"), MapError::Line(3));
        for line in ["+f T a", "f TT a", "f T ", "f", "x T a", "10000000000000000 T a"] {
            assert_eq!(refused(line), MapError::Line(1), "{line}");
        }
        // Debian's file in /boot.
        let stub = "ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n";
        assert_eq!((refused(stub), refused("")), (MapError::NoFunction, MapError::NoFunction));
        assert_eq!(Symbols::of_map(b"ff T a\xff\n").unwrap_err(), MapError::Line(1));
    }

    #[test]
    fn a_file_of_another_kind_has_no_functions() {
        assert_eq!(Symbols::of(b"no ELF file").find(0x10_0000), "");
    }
}
