//! A machine that an image runs on: a row of the table of platforms, and on Bochs a model of its processor.

use std::path::Path;

use tollgate_abi::virtualization::Extension;
use tollgate_books::failure::Failure;

use super::models::Model;
use super::platforms::{BOCHS, Engine, Platform};
use super::{Boot, Launch};

/// A machine that an image runs on.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The platform's row in the table.
    pub platform: &'static Platform,
    /// The processor's model, if there is a choice.
    pub model: Option<&'static Model>,
}

impl Target {
    /// A model of Bochs.
    pub const fn bochs(model: &'static Model) -> Self {
        Self { platform: &BOCHS, model: Some(model) }
    }

    /// A platform that has one processor.
    pub const fn of(platform: &'static Platform) -> Self {
        Self { platform, model: None }
    }

    /// The target's name in tables.
    pub fn name(self) -> &'static str {
        self.model.map_or(self.platform.name, |model| model.name)
    }

    /// The program that executes the image.
    pub fn engine(self) -> Engine {
        self.platform.engine
    }

    /// The extension that the image finds there. A model without one counts as VT-x, for its messages.
    pub fn extension(self) -> Extension {
        self.model.map_or(self.platform.extension, |model| model.offers.extension().unwrap_or_default())
    }

    /// The limit of a run that is given up after so many seconds: TSC ticks that a usual machine executes in that time.
    pub fn limit_ticks(self, seconds: u64, audit: bool) -> u64 {
        let (plain, audited) = self.platform.ticks_a_second;
        seconds.saturating_mul(if audit { audited } else { plain })
    }
}

/// The machine that is made for an image.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// The platform, and its processor.
    pub target: Target,
    /// Memory in MiB. Bochs' start takes longer with more: half a second from 512 MiB on.
    pub memory_mib: u16,
    /// Processors. vCPU n runs on processor n; one beyond the vCPUs can send INIT and SIPI.
    pub cpus: u32,
}

impl Machine {
    /// One processor with the usual memory.
    pub fn new(target: Target, boot: Boot<'_>) -> Self {
        Self { target, memory_mib: boot.memory_mib(), cpus: 1 }
    }

    /// Writes the files that the emulator needs to start from `boot` into `directory`, and returns the way to start it there.
    ///
    /// # Errors
    /// The platform does not work here, there is no firmware, or the directory can't be written.
    pub fn prepare(self, directory: &Path, boot: Boot<'_>, audit: bool) -> Result<Launch, Failure> {
        (self.target.platform.prepare)(directory, boot, self, audit)
    }
}
