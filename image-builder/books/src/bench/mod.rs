//! Microbenchmarks as they were measured: distributions of round trips, the parts of a round trip, and comparison with an earlier
//! measurement.

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
