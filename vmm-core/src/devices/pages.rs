//! The devices whose registers are pages of the machine, by its row.

use tollgate_abi::machine::{BehindPage, Model};

/// The devices behind pages.
#[derive(Clone, Copy, Debug)]
pub struct Pages(&'static Model);

impl Pages {
    /// The devices of a machine.
    pub const fn new(model: &'static Model) -> Self {
        Self(model)
    }

    /// The device behind a guest-physical address, and the address' place in its page.
    pub fn reach(&self, gpa: u64) -> Option<(BehindPage, u32)> {
        self.0.behind_page(gpa)
    }

    /// Whether the local APIC's registers are a page, too, so that its mode can be changed.
    pub fn have_local_apic(&self) -> bool {
        self.0.pages.iter().any(|page| page.behind == BehindPage::LocalApic)
    }
}
