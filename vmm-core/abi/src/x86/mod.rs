//! Numbers of the architecture, by the names that the manuals give them, each once: registers' bits, MSRs, exceptions, CPUID's
//! features, VM-execution controls.
//!
//! Crates that have such numbers call them otherwise than the manuals (PAGING for PG), or end before the newer controls and features.
//! These have no dependency, so that the tables of this crate can be made of them at compile time.

pub mod control;
pub mod controls;
pub mod cpuid;
pub mod exception;
pub mod msr;

/// Constants in a column: a name, the number of its bit, and what it is.
macro_rules! bits {
    ($type:ty: $($name:ident $bit:literal $about:literal;)*) => {
        $(#[doc = $about] pub const $name: $type = 1 << $bit;)*
    };
}
use bits;
