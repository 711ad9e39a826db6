//! The words of `--on`: each platform's own name, and names for several platforms. All come from the table of platforms.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::platforms::{PLATFORMS, Platform};

/// The names for several platforms, with their lines in the help. A platform's row says which of them it answers to.
const GROUPS: [(&str, &str); 2] = [
    (Choice::AUTO, "Bochs if it is installed, else QEMU"),
    ("qemu", "QEMU: with KVM where that offers nested virtualization, else its own emulation"),
];

/// A word of `--on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice(&'static str);

impl Choice {
    /// The name for all platforms.
    pub const AUTO: &'static str = "auto";

    /// The words and their lines in the help, in the order of the words.
    fn words() -> Vec<(&'static str, &'static str)> {
        let mut words: Vec<_> = GROUPS.into_iter().chain(PLATFORMS.iter().map(|row| (row.name, row.help))).collect();
        words.sort_unstable();
        words.dedup();
        words
    }

    /// Reads a word of the command line.
    pub fn parser() -> impl TypedValueParser<Value = Self> {
        let values = Self::words().into_iter().map(|(word, help)| PossibleValue::new(word).help(help));
        PossibleValuesParser::new(values).map(|word| {
            let known = Self::words().into_iter().find(|(known, _)| *known == word);
            Self(known.map_or(Self::AUTO, |(known, _)| known))
        })
    }

    /// True if the word allows a run on this platform.
    pub fn allows(self, row: &Platform) -> bool {
        self.0 == Self::AUTO || self.0 == row.name || row.group == Some(self.0)
    }

    /// True if the word is a name for several platforms.
    pub fn leaves_a_choice(self) -> bool {
        GROUPS.iter().any(|(group, _)| *group == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(word: &'static str) -> Vec<&'static str> {
        let mut names: Vec<_> = PLATFORMS.iter().filter(|row| Choice(word).allows(row)).map(|row| row.name).collect();
        names.dedup();
        names
    }

    #[test]
    fn a_word_allows_its_platform_or_its_group() {
        assert_eq!(names("auto"), ["bochs", "qemu-kvm", "qemu-tcg"]);
        assert_eq!(names("qemu"), ["qemu-kvm", "qemu-tcg"]);
        for row in &PLATFORMS {
            assert_eq!(names(row.name), [row.name]);
            assert!(!Choice(row.name).leaves_a_choice());
            assert!(row.group.is_none_or(|group| Choice(group).leaves_a_choice()), "{}", row.name);
        }
    }

    #[test]
    fn each_word_is_there_once() {
        assert_eq!(
            Choice::words().iter().map(|(word, _)| *word).collect::<Vec<_>>(),
            ["auto", "bochs", "qemu", "qemu-kvm", "qemu-tcg"]
        );
    }
}
