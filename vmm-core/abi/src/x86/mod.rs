//! Numbers of the architecture, by the names that the manuals give them, each once: bits of registers, MSRs, exceptions, features
//! in CPUID, VM-execution controls.
//!
//! Crates with such numbers name them differently from the manuals (PAGING for PG), or end before the newer controls and
//! features. This module has no dependency, so that the tables of this crate can be made of the numbers at compile time.

pub mod control;
pub mod controls;
pub mod cpuid;
pub mod exception;
pub mod msr;
pub mod segment;

/// Constants in a column: a name, the number of its bit, and its meaning.
macro_rules! bits {
    ($type:ty: $($name:ident $bit:literal $about:literal;)*) => {
        $(#[doc = $about] pub const $name: $type = 1 << $bit;)*
    };
}
use bits;
