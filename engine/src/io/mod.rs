//! The driver: executes the core's actions on real disks and sockets, one native thread a resource.

pub mod bundle;
mod channel;
mod client;
mod consult;
mod dial;
pub mod disk;
pub mod engine;
mod event;
pub mod failure;
mod history;
mod history_writer;
mod inbound;
mod inbox;
pub mod listener;
mod meta_writer;
pub mod metadata;
mod peer;
mod poll;
mod reactor;
mod shared;
mod socket;
pub mod tls;
pub mod watchdog;
