//! A comparison as a file of JSON, from which the document can be made again.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Boot;
use crate::failure::Failure;
use crate::output_file;

/// The most bytes of a file that are read.
const MOST_BYTES: u64 = 1 << 20;

/// A comparison, and its conditions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The kernel's package and its version.
    pub kernel: String,
    /// The emulator and its version.
    pub emulator: String,
    /// The processor's model.
    pub processor: String,
    /// The processor's virtualization extension.
    pub extension: String,
    /// The wall times.
    pub wall: Wall,
    /// The boot under Tollgate.
    pub tollgate: Boot,
    /// The boot under KVM.
    pub kvm: Boot,
}

/// A boot's time from the start of the emulator to the first program of user space.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seconds {
    /// By the clock on the wall.
    pub wall: f64,
    /// For which the emulator had a processor.
    pub processor: f64,
}

/// The times of all kinds of boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wall {
    /// The day on which they were taken.
    pub date: String,
    /// The class of the machine.
    pub machine: String,
    /// Boots of each kind, of which the shortest counts.
    pub runs: u32,
    /// Without a hypervisor.
    pub bare: Seconds,
    /// Under Tollgate.
    pub tollgate: Seconds,
    /// The same while the emulator logs every exit.
    pub audited: Seconds,
}

impl Comparison {
    /// The file's text.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// It is no comparison; the sentence says where.
    pub fn from_json(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// Writes it to a file, whole or not at all.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        output_file::write(path, self.to_json().as_bytes())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It can't be read, or has no comparison in it.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let wrong = |cause: String| {
            Failure::usage(format_args!("{} has no comparison in it: {cause}", path.display()))
                .remedy("name a file that `tollgate peer --save` has written")
        };
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text));
        read.map_err(|error| wrong(error.to_string()))?;
        Self::from_json(&text).map_err(wrong)
    }
}
