//! The versions of an emulator that can produce an exit.

use core::fmt;

/// A version of an emulator: the numbers before and after the first dot.
pub type Release = (u16, u16);

/// The versions of an emulator that can produce an exit, by one of its processors at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulated {
    /// Every version.
    Always,
    /// No version that is known.
    Never,
    /// This version and those after it.
    From(Release),
    /// The versions before this one.
    Before(Release),
}

impl Emulated {
    /// True if the version is among these; an unknown version is only if every version is.
    pub fn by(self, version: Option<Release>) -> bool {
        match (self, version) {
            (Emulated::Always, _) => true,
            (Emulated::From(first), Some(version)) => version >= first,
            (Emulated::Before(end), Some(version)) => version < end,
            (Emulated::Never | Emulated::From(_) | Emulated::Before(_), _) => false,
        }
    }
}

/// Follows the emulator's name: ` from 3.0 on`; nothing where it is every version or none.
impl fmt::Display for Emulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Emulated::Always | Emulated::Never => Ok(()),
            Emulated::From((major, minor)) => write!(f, " from {major}.{minor} on"),
            Emulated::Before((major, minor)) => write!(f, " before {major}.{minor}"),
        }
    }
}

/// The platforms that can produce an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// The processor that is needed, for people.
    pub needs: &'static str,
    /// Versions of Bochs that have a model of such a processor.
    pub bochs: Emulated,
    /// Versions of QEMU whose own emulation is such a processor.
    pub qemu: Emulated,
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needs, bochs, qemu } = self;
        f.write_str(needs)?;
        let mut opening = " (";
        for (name, versions) in [("Bochs", bochs), ("QEMU", qemu)] {
            if matches!(versions, Emulated::From(_) | Emulated::Before(_)) {
                write!(f, "{opening}{name}{versions}")?;
                opening = ", ";
            }
        }
        f.write_str(if opening == ", " { ")" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::Emulated::{Always, Before, From, Never};
    use super::*;
    use std::string::ToString;

    #[test]
    fn versions_are_compared_by_number() {
        let versions = [None, Some((2, 7)), Some((3, 0)), Some((10, 0))];
        let check = |emulated: Emulated, expected| assert_eq!(versions.map(|version| emulated.by(version)), expected);
        check(Always, [true; 4]);
        check(Never, [false; 4]);
        check(From((3, 0)), [false, false, true, true]);
        check(Before((9, 1)), [false, true, true, false]);
    }

    #[test]
    fn places_say_which_versions() {
        let places = |bochs, qemu| Places { needs: "a processor", bochs, qemu }.to_string();
        assert_eq!(places(Always, Never), "a processor");
        assert_eq!(places(From((3, 1)), Before((9, 1))), "a processor (Bochs from 3.1 on, QEMU before 9.1)");
    }
}
