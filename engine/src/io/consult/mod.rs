//! Asking a peer what a connect would do, and answering that: a connection of its own, which never becomes a link.
//!
//! The asker sends its Hello with the intent to consult. The answer is Hello, State, BitmapRuns (none where they
//! would be too many) and, at its end, Report; or a Goodbye. Neither side changes anything.

mod answer;
mod ask;
mod plan;
mod reports;
#[cfg(test)]
mod tests;

pub use answer::Answers;
pub use ask::ask;
pub use plan::plan;
pub use reports::Reports;
