//! The driver: executes the core's actions on real disks and sockets.

pub mod metadata;
