//! The replica state machine, sans I/O.
//!
//! [`Replica::handle`] takes an [`Event`] and the time, and appends [`Action`]s; [`Replica::next_timeout`] says
//! when it wants to be woken. There is no clock, no system call, no thread and no Python in here: one
//! seed and one sequence of events replay a run exactly.

mod arbitration;
mod cleaning;
mod commands;
mod consultation;
mod detach;
mod durable;
pub mod fault;
pub mod handshake;
mod heal;
mod hold;
mod links;
mod mark_exchange;
mod marks;
mod ranges;
mod remote;
mod replica;
mod requests;
mod resolve;
mod serve;
mod slab;
mod source;
mod status;
mod target;
mod types;
mod verify;
mod warm_up;

pub use arbitration::ArbitrationStatus;
pub use consultation::{union, Consultation, CONSULTED_RUNS_MAX};
pub(crate) use links::refusal_text;
pub use replica::{IoCounters, Replica, ReplicaMetadata, IN_FLIGHT_BYTES_MAX, IN_FLIGHT_WRITES_MAX};
pub use source::is_zero;
pub use status::{CoreStatus, GenerationStatus, PeerStatus, RefusalStatus, RequestStatus, ResyncStatus};
pub use types::*;
pub use warm_up::WarmUpStatus;
