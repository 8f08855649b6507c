//! A payload that is received into its own buffer while it arrives.

use std::io;

use super::socket::{Received, Socket};
use crate::front::nbd::ReceiveBuffer;
use crate::payload::{Buffer, Payload};

/// From this many missing bytes on, a payload is received straight into its buffer; below, one large receive
/// of many small messages is cheaper than two system calls a message.
const DIRECT_MIN: usize = 32 << 10;
/// Received along with the end of a payload: the next header, and no more, so that a payload after it is
/// received straight into its buffer as well.
const AHEAD: usize = 64;

pub struct Filling {
    buffer: Buffer,
    filled: usize,
}

impl Filling {
    pub fn new(len: usize) -> Filling {
        Filling {
            buffer: Buffer::new(len),
            filled: 0,
        }
    }

    /// Takes what has been received already.
    pub fn take_from(&mut self, input: &mut ReceiveBuffer) {
        self.filled += input.take(&mut self.buffer.as_mut_slice()[self.filled..]);
    }

    /// How much it misses.
    pub fn missing(&self) -> usize {
        self.buffer.len() - self.filled
    }

    /// Takes as much of `bytes` as it misses, and says how much that was.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.missing());
        self.buffer.as_mut_slice()[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        count
    }

    pub fn is_full(&self) -> bool {
        self.filled == self.buffer.len()
    }

    pub fn finish(self) -> Payload {
        self.buffer.freeze()
    }
}

/// Receives once: into the payload if it misses much, else into `input`.
pub fn receive(
    socket: &Socket,
    input: &mut ReceiveBuffer,
    filling: &mut Option<Filling>,
) -> io::Result<Received> {
    if let Some(filling) = filling {
        let missing = &mut filling.buffer.as_mut_slice()[filling.filled..];
        if input.data().is_empty() && missing.len() >= DIRECT_MIN {
            let wanted = missing.len();
            let received = socket.receive_both(missing, &mut input.space()[..AHEAD])?;
            if let Received::Bytes { count, .. } = received {
                filling.filled += count.min(wanted);
                input.filled(count.saturating_sub(wanted));
            }
            return Ok(received);
        }
    }
    let space = input.space();
    if space.is_empty() {
        return Ok(Received::Empty);
    }
    let received = socket.receive(space)?;
    if let Received::Bytes { count, .. } = received {
        input.filled(count);
    }
    Ok(received)
}
