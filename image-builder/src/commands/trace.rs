//! `tollgate trace`, and the trace of a run: the exits of a log one by one, with the functions of its guest by name.

use std::path::Path;

use tollgate_books::failure::{Failure, Status};
use tollgate_books::terminal::Terminal;
use tollgate_books::trace::{Symbols, export};

use crate::image::{GUEST_ELF, guest_file, guest_mark};

/// Writes the trace of a log into a file, with the functions of `map`, or else with those of its guest's file.
///
/// # Errors
/// The log, the guest or the file can't be used; see [`export`].
pub(super) fn write(log: &Path, map: Option<Symbols>, guest: Option<&Path>, out: &Path) -> Result<Status, Failure> {
    export(log, |mark| map.map_or_else(|| symbols(mark, guest), Ok), out)
}

/// The functions of the guest with a mark: the one in `guest`, or the built-in one. None, with a message on standard error, if the
/// mark is another guest's.
fn symbols(mark: Option<u32>, guest: Option<&Path>) -> Result<Symbols, Failure> {
    let bytes = guest.map(guest_file).transpose()?;
    let elf = bytes.as_deref().unwrap_or(GUEST_ELF);
    match (mark, guest) {
        (Some(mark), _) if mark == guest_mark(elf) => Ok(Symbols::of(elf)),
        (_, Some(guest)) => Err(Failure::usage(format_args!("{} is not the guest of that run", guest.display()))
            .remedy("name the file that the run had, or leave --guest out for a trace without symbols")),
        (_, None) => {
            Terminal::of_stderr().tell(
                "tollgate: the run had another guest than the built-in one: functions are not named; --guest tells which"
            );
            Ok(Symbols::default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_guest_has_functions_and_what_lies_outside_has_none() {
        let symbols = Symbols::of(GUEST_ELF);
        assert!(symbols.spans().count() > 100);
        let (start, end) = symbols.spans().next().unwrap();
        for rip in [start, end - 1] {
            assert!(!symbols.find(rip).is_empty());
        }
        assert_eq!((symbols.find(0), symbols.find(u64::MAX)), ("", ""));
    }

    #[test]
    fn no_function_of_another_guest_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let elf = directory.path().join("guest.elf");
        std::fs::write(&elf, GUEST_ELF).unwrap();
        let names = |mark: Option<u32>, guest: Option<&Path>| {
            symbols(mark, guest).map(|symbols| symbols.spans().count() > 0).map_err(|failure| failure.to_string())
        };
        let own = Some(guest_mark(GUEST_ELF));
        assert_eq!((names(own, None), names(own, Some(&elf))), (Ok(true), Ok(true)));
        assert_eq!((names(Some(1), None), names(None, None)), (Ok(false), Ok(false)));
        assert!(names(Some(1), Some(&elf)).unwrap_err().contains("is not the guest of that run"));
    }
}
