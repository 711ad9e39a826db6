//! Microbenchmarks as they were measured: distributions of round trips, the parts of which they consist, and comparison with
//! what was measured before.

mod baseline;
mod difference;
mod measured;
mod parts;
mod statistics;

pub use baseline::{Baseline, Budget, Identity, Row, SCHEMA};
pub use difference::{differences, of_budgets};
pub use measured::Measured;
pub use parts::Split;
pub use statistics::{Distribution, Statistics};
