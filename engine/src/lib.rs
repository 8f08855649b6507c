//! The data path of blockpair: everything that moves bytes.
//!
//! * [`core`]: the replica state machine, sans I/O. Events in, actions out; no clock, no socket, no thread.
//! * [`meta`]: the on-disk format: superblock, out-of-sync bitmaps, write-intent log.
//! * [`wire`]: the replication protocol: messages, frames, versions, features.
//! * [`session`]: one stream of frames over several paths between two nodes, sans I/O.
//! * [`bundle`]: the file that keeps what a split brain's victim loses.
//! * [`front`]: block device frontends, as sans-I/O protocol sessions: NBD.
//! * [`latency`]: how long things took, in fixed buckets.
//! * [`io`]: the driver. Executes the core's actions on real disks and sockets.
//! * [`payload`]: shared, aligned, pooled buffers that travel between all of them.
//!
//! `core`, `meta`, `wire`, `session`, `front` and `bundle` never import `io`; nothing but `py` knows Python.

pub mod bundle;
pub mod core;
pub mod front;
pub mod io;
pub mod latency;
pub mod meta;
pub mod payload;
pub mod session;
pub mod wire;

#[cfg(feature = "python")]
mod py;
