//! The functions of a guest, by the addresses of their code. A log says which guest it is of (`guest=` among its options), so that no
//! function of another is named.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use object::{Object, ObjectSymbol, SymbolKind};
use tollgate_abi::command_line::Options;
use tollgate_abi::record::{self, Kind, MAX_LINE_BYTES};

use crate::failure::Failure;
use crate::image::{GUEST_ELF, guest_file, guest_mark};

/// Functions in ascending order.
#[derive(Debug, Default)]
pub struct Symbols {
    functions: Vec<Function>,
    /// The one that was found last.
    last: Cell<usize>,
}

#[derive(Debug)]
struct Function {
    start: u64,
    end: u64,
    name: String,
}

/// Lines of a log in which its first record has to come.
const LINES_TO_HEADER: usize = 10_000;

impl Symbols {
    /// Those of an ELF file; none if it has none.
    pub fn of(elf: &[u8]) -> Self {
        let Ok(file) = object::File::parse(elf) else { return Self::default() };
        let code = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0);
        let mut functions: Vec<_> = code
            .filter_map(|symbol| {
                let name = format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?));
                Some(Function { start: symbol.address(), end: symbol.address().saturating_add(symbol.size()), name })
            })
            .collect();
        functions.sort_by(|a, b| (a.start, a.end, &a.name).cmp(&(b.start, b.end, &b.name)));
        Self { functions, last: Cell::new(0) }
    }

    /// Those of the guest that a log is of: the one in `guest`, or the built-in one. None, with a word on standard error, if that
    /// is another.
    ///
    /// # Errors
    /// The guest that is named can't be read, or is not the log's.
    pub fn for_log(log: &Path, guest: Option<&Path>) -> Result<Self, Failure> {
        let mark = mark_of(log);
        let bytes = guest.map(guest_file).transpose()?;
        let elf = bytes.as_deref().unwrap_or(GUEST_ELF);
        match (mark, guest) {
            (Some(mark), _) if mark == guest_mark(elf) => Ok(Self::of(elf)),
            (_, Some(guest)) => Err(Failure::usage(format_args!("{} is not the guest of that run", guest.display()))
                .remedy("name the file that the run had, or leave --guest out for a trace without symbols")),
            (_, None) => {
                eprintln!(
                    "tollgate: the run had another guest than the built-in one: functions are not named; --guest tells which"
                );
                Ok(Self::default())
            }
        }
    }

    /// The function at an address; empty if none is known.
    pub fn find(&self, rip: u64) -> &str {
        let at =
            |index: usize| self.functions.get(index).filter(|function| (function.start..function.end).contains(&rip));
        let index = match at(self.last.get()) {
            Some(_) => self.last.get(),
            None => self.functions.partition_point(|function| function.start <= rip).wrapping_sub(1),
        };
        self.last.set(index);
        at(index).map_or("", |function| &function.name)
    }
}

/// What a log says of its guest.
fn mark_of(log: &Path) -> Option<u32> {
    let mut lines = BufReader::new(File::open(log).ok()?);
    for _ in 0..LINES_TO_HEADER {
        let mut line = Vec::new();
        (&mut lines).take(MAX_LINE_BYTES as u64 + 2).read_until(b'\n', &mut line).ok()?;
        if line.is_empty() {
            return None;
        }
        if let Ok(record) = record::parse(&line)
            && record.kind == Kind::Tollgate
        {
            let options = record.text("options")?.to_string();
            return Options::parse(&options).ok()?.guest;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_guest_has_functions_and_what_lies_outside_has_none() {
        let symbols = Symbols::of(GUEST_ELF);
        assert!(symbols.functions.len() > 100);
        let function = symbols.functions.first().unwrap();
        for rip in [function.start, function.end - 1] {
            assert!(!symbols.find(rip).is_empty());
        }
        assert_eq!((symbols.find(0), symbols.find(u64::MAX)), ("", ""));
        assert_eq!(Symbols::of(b"no ELF file").find(0x10_0000), "");
    }

    #[test]
    fn no_function_of_another_guest_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (log, elf) = (directory.path().join("serial.log"), directory.path().join("guest.elf"));
        std::fs::write(&elf, GUEST_ELF).unwrap();
        let names = |options: &str, guest: Option<&Path>| {
            let mut text = String::from("noise\n");
            let record = record::Writer::new(&mut text, Kind::Tollgate).number("protocol", record::PROTOCOL);
            record.text("options", options).finish().unwrap();
            std::fs::write(&log, text).unwrap();
            Symbols::for_log(&log, guest)
                .map(|symbols| !symbols.functions.is_empty())
                .map_err(|failure| failure.to_string())
        };
        let own = format!("trace=9 guest={:#x}", guest_mark(GUEST_ELF));
        assert_eq!((names(&own, None), names(&own, Some(&elf))), (Ok(true), Ok(true)));
        assert_eq!((names("trace=9 guest=0x1", None), names("trace=9", None)), (Ok(false), Ok(false)));
        assert!(names("trace=9 guest=0x1", Some(&elf)).unwrap_err().contains("is not the guest of that run"));
    }
}
