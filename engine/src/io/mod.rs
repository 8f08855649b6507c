//! The driver: executes the core's actions on real disks and sockets, one native thread a resource.

pub mod disk;
mod event;
pub mod failure;
pub mod metadata;
