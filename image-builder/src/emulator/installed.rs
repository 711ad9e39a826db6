//! The emulator that is installed, as it speaks of itself: its version, its options, its processor models.
//!
//! The program itself is asked, by `--help` or `--version`, without an image, bounded in time and in output.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::Engine;
use super::family::{Family, Version};
use super::process::ask;

/// An emulator that is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The emulator's family.
    pub family: Family,
    /// The emulator's program.
    pub program: PathBuf,
    /// Its name and version as it prints them. A baseline has this line, and compares only with the same one.
    pub title: String,
    /// Its version, if it tells one that can be read.
    pub version: Option<Version>,
    /// Its help on options; empty where it prints none.
    help: String,
    /// The processor models that it lists; empty where it lists none.
    models: Vec<String>,
}

/// The emulators that were asked already: one process asks each program once.
static ASKED: Mutex<Vec<(Engine, Installed)>> = Mutex::new(Vec::new());

impl Installed {
    /// The emulator that `program` is.
    pub fn of(engine: Engine, program: &Path) -> Self {
        let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |(of, known): &&(Engine, Self)| *of == engine && known.program == program;
        if let Some((_, known)) = asked.iter().find(same) {
            return known.clone();
        }
        let new = match engine {
            Engine::Bochs => Self::bochs(program, &ask(program, &["--help"]), &ask(program, &["--help", "cpu"])),
            Engine::Kvm | Engine::Tcg => Self::qemu(program, &ask(program, &["--version"])),
        };
        asked.push((engine, new.clone()));
        new
    }

    fn bochs(program: &Path, help: &str, cpu: &str) -> Self {
        let title = help.lines().map(str::trim).find(|line| line.contains("Emulator "));
        // One name a line, after a heading and before an empty line.
        let listed =
            cpu.lines().skip_while(|line| !line.contains("CPU models")).skip(1).skip_while(|line| line.is_empty());
        let models = listed.take_while(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned()).collect();
        Self { help: help.to_owned(), models, ..Self::called(Family::Bochs, program, title) }
    }

    fn qemu(program: &Path, said: &str) -> Self {
        Self::called(Family::Qemu, program, said.lines().find(|line| line.contains("version ")))
    }

    fn called(family: Family, program: &Path, title: Option<&str>) -> Self {
        let version = title.and_then(|title| {
            let words = title.split_whitespace();
            words.skip_while(|word| !matches!(*word, "Emulator" | "version")).nth(1).and_then(Version::parse)
        });
        let title = title.map_or_else(|| format!("{}, of an unknown version", family.name()), str::to_owned);
        Self { family, program: program.to_owned(), title, version, help: String::new(), models: Vec::new() }
    }

    /// Whether its help lists an option.
    pub fn help_lists(&self, option: &str) -> bool {
        self.help.split_whitespace().any(|word| word == option)
    }

    /// Whether the program tells its options.
    pub fn has_help(&self) -> bool {
        !self.help.trim().is_empty()
    }

    /// Whether it has a processor model, without the features added behind a `+`; `None` if it doesn't list its models.
    pub fn has_model(&self, name: &str) -> Option<bool> {
        let name = name.split('+').next().unwrap_or(name);
        (!self.models.is_empty()).then(|| self.models.iter().any(|model| model == name))
    }
}

#[cfg(test)]
impl Installed {
    /// An emulator of this version, about which nothing else is known.
    pub(crate) fn for_tests(family: Family, version: Option<Version>) -> Self {
        Self { version, ..Self::called(family, Path::new("emulator"), None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bochs(version: &str) -> Installed {
        let help = format!(
            "Usage: bochs [flags]\n  -rc filename  execute\n====\n      Bochs x86 Emulator {version}\n  Built\n"
        );
        let cpu = "00000000000i[      ] LTDL\nSupported CPU models:\n\npentium\ntigerlake\n\n00000i[SIM   ] quit_sim\n";
        Installed::bochs(Path::new("bochs"), &help, cpu)
    }

    #[test]
    fn bochs_tells_its_version_its_options_and_its_models() {
        let found = bochs("3.0");
        assert_eq!((found.title.as_str(), found.version), ("Bochs x86 Emulator 3.0", Some(Version::new(3, 0))));
        assert!(found.help_lists("-rc") && !found.help_lists("-debugger"));
        assert_eq!((found.has_model("tigerlake"), found.has_model("bx_generic")), (Some(true), Some(false)));
        assert_eq!((bochs("2.7.1").version, bochs("from git").version), (Some(Version::new(2, 7)), None));
    }

    #[test]
    fn qemu_tells_its_version() {
        let said = "QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)\nCopyright\n";
        let found = Installed::qemu(Path::new("qemu"), said);
        assert_eq!((found.title.as_str(), found.version), (said.lines().next().unwrap(), Some(Version::new(10, 0))));
    }

    #[test]
    fn one_that_says_nothing_is_of_an_unknown_version() {
        let found = Installed::bochs(Path::new("bochs"), "", "");
        assert_eq!((found.title.as_str(), found.version), ("Bochs, of an unknown version", None));
        assert_eq!((found.help_lists("-rc"), found.has_model("tigerlake")), (false, None));
    }
}
