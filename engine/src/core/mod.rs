//! The replica state machine, sans I/O.

mod types;

pub use types::*;
