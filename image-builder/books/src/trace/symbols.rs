//! The functions of a guest, by the addresses of their code. A log says which guest it is of (`guest=` among its options), so
//! that no function of another guest is named.

use object::{Object, ObjectSymbol, SymbolKind};
use tollgate_abi::command_line::Options;
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

impl Symbols {
    /// The functions of an ELF file; none if it names none.
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
        Self { functions }
    }

    /// First and end address of each function.
    pub fn spans(&self) -> impl Iterator<Item = (u64, u64)> {
        self.functions.iter().map(|function| (function.start, function.end))
    }

    /// The function at an address; empty if none is known.
    pub fn find(&self, rip: u64) -> &str {
        let before = self.functions.partition_point(|function| function.start <= rip).wrapping_sub(1);
        let function = self.functions.get(before).filter(|function| rip < function.end);
        function.map_or("", |function| &function.name)
    }
}

/// The mark of the guest in the first record of a run, if it has one: a checksum of the guest's file.
pub(super) fn mark_of(record: &Record<'_>) -> Option<u32> {
    let options = read::Tollgate::of(record).ok()?.options?.to_string();
    Options::parse(&options).ok()?.guest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_kind_has_no_functions() {
        assert_eq!(Symbols::of(b"no ELF file").find(0x10_0000), "");
    }
}
