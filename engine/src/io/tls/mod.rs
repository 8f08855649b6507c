//! TLS 1.3 between nodes, sans I/O: both sides show a certificate of the cluster's CA, and each is the node that the
//! other expects. Bytes of a socket in, bytes of a socket out; `io::channel` moves them.

mod session;
#[cfg(test)]
mod tests;
mod trust;
mod words;

pub use session::{Session, State, RECORD_MAX};
pub use trust::{Trust, TrustStore};
pub use words::{is_refusal, refusal};

/// A TLS record of a handshake begins with this byte; no frame of blockpair does.
pub const FIRST_BYTE: u8 = 0x16;
