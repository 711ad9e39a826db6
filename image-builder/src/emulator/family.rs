//! The families of emulators, and their versions.

use std::fmt;

use super::Engine;

/// The family that an emulator belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Bochs.
    Bochs,
    /// QEMU.
    Qemu,
}

impl Family {
    /// The family's name.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Bochs => "Bochs",
            Family::Qemu => "QEMU",
        }
    }
}

impl Engine {
    /// The emulator that it is.
    pub const fn family(self) -> Family {
        match self {
            Engine::Bochs => Family::Bochs,
            Engine::Kvm | Engine::Tcg => Family::Qemu,
        }
    }
}

/// The parts of a version by which emulators are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The number before the first dot.
    pub major: u16,
    /// The number after the first dot.
    pub minor: u16,
}

impl Version {
    /// `major.minor`.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// The first version in `text`: `10.0.13 (Debian ...)` is 10.0.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
