//! The replication protocol, version 1: what two nodes say to each other, and how it looks in bytes.

mod message;

pub use message::*;
