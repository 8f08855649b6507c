//! The replication protocol, version 1: what two nodes say to each other, and how it looks in bytes.
//!
//! Sans I/O: [`encode`] makes bytes, [`Decoder`] reads them, [`negotiate`] compares two Hellos.

mod body;
mod codec;
mod frame;
mod message;
mod negotiate;
#[cfg(test)]
mod tests;

pub use codec::{decode_hello, encode, Decoder, HelloStep, Step};
pub use frame::{FrameError, Kind, HEADER_LEN, HELLO_BODY_MAX, INLINE_FRAME_MAX, MAGIC};
pub use message::*;
pub use negotiate::{negotiate, Session};
