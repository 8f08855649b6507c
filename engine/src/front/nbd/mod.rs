//! The server side of the NBD protocol (fixed newstyle), without I/O.
//!
//! A [`Session`] is fed what a client sent and says what the client wants; it never sees a socket, a clock
//! or a thread. Who calls it owns the [`ReceiveBuffer`], the sockets and every payload: the session reads
//! headers only, so a write's payload goes from the socket straight into the buffer it will be written from,
//! and a read's payload leaves straight from the buffer it was read into.
//!
//! ```
//! use std::sync::Arc;
//! use _engine::front::nbd::{Event, Export, ExportInfo, Kind, Session};
//!
//! let export = Arc::new(Export::new(ExportInfo::new("r0", 1 << 30)).unwrap());
//! let (mut session, mut out) = (Session::transmission(export), Vec::new());
//! // A 4 KiB read at 8192, as a kernel sends it.
//! let mut bytes = Vec::new();
//! bytes.extend_from_slice(&0x2560_9513_u32.to_be_bytes());
//! bytes.extend_from_slice(&[0, 0, 0, 0]);
//! bytes.extend_from_slice(&7_u64.to_be_bytes());
//! bytes.extend_from_slice(&8192_u64.to_be_bytes());
//! bytes.extend_from_slice(&4096_u32.to_be_bytes());
//! let step = session.next(&bytes, &mut out).unwrap();
//! let Some(Event::Request(request)) = step.event else { panic!() };
//! assert_eq!((request.kind, request.offset, request.length), (Kind::Read, 8192, 4096));
//! // Later: the header, and after it the 4096 bytes from where they were read to.
//! session.replies().read(&mut out, &request);
//! assert_eq!(out.len(), 16);
//! ```

mod buffer;
mod error;
mod export;
mod handshake;
mod reply;
mod session;
mod transmission;
mod wire;

pub use buffer::ReceiveBuffer;
pub use error::{ErrorCode, ProtocolError};
pub use export::{Export, ExportError, ExportInfo};
pub use reply::{Extent, Replies};
pub use session::{Event, Session, Step, MIN_RECEIVE_BUFFER};
pub use transmission::{Kind, Request};
