//! The frame format and the bookkeeping every contender shares, so that only the I/O differs.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

pub const HEADER: usize = 28;
pub const BLOCK: usize = 4096;
pub const FRAME: usize = HEADER + BLOCK;
pub const REPLY: usize = 16;
/// Requests a node can hold; twice the deepest queue the load generator uses.
pub const SLOTS: usize = 64;
const MAGIC: u32 = 0x626c_6b70;

/// One block, aligned so that O_DIRECT accepts it.
#[repr(align(4096))]
pub struct Page(pub [u8; BLOCK]);

/// Writes a frame's header: magic, flags, cookie, byte offset, payload length.
pub fn put_header(out: &mut [u8], cookie: u64, offset: u64) {
    out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..8].fill(0);
    out[8..16].copy_from_slice(&cookie.to_le_bytes());
    out[16..24].copy_from_slice(&offset.to_le_bytes());
    out[24..28].copy_from_slice(&(BLOCK as u32).to_le_bytes());
}

fn put_reply(out: &mut Vec<u8>, cookie: u64) {
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes());
    out.extend_from_slice(&cookie.to_le_bytes());
}

/// The cookie of one reply; an error if it is not a reply or reports a failed write.
pub fn parse_reply(bytes: &[u8]) -> io::Result<u64> {
    if u32_at(bytes, 0) != MAGIC || u32_at(bytes, 4) != 0 {
        return Err(io::Error::other(format!(
            "not a successful reply: {:02x?}",
            &bytes[..8]
        )));
    }
    Ok(u64_at(bytes, 8))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A receive buffer that keeps an incomplete tail for the next read.
pub struct Rx {
    buf: Box<[u8]>,
    filled: usize,
}

impl Rx {
    pub fn new() -> Self {
        Self {
            buf: vec![0; 2 * SLOTS * FRAME].into_boxed_slice(),
            filled: 0,
        }
    }

    pub fn space(&mut self) -> &mut [u8] {
        &mut self.buf[self.filled..]
    }

    pub fn received(&mut self, count: usize) {
        self.filled += count;
    }

    pub fn bytes(&self) -> &[u8] {
        &self.buf[..self.filled]
    }

    pub fn consume(&mut self, count: usize) {
        self.buf.copy_within(count..self.filled, 0);
        self.filled -= count;
    }
}

struct Slot {
    header: [u8; HEADER],
    page: Arc<Page>,
    offset: u64,
    client_cookie: u64,
    parts: u8,
}

/// A primary (which forwards and waits for its peer's ack: protocol C) or a secondary (which does not).
pub struct Node {
    replicates: bool,
    slots: Vec<Slot>,
    free: Vec<usize>,
    forward: VecDeque<usize>,
    /// Bytes of the front frame that are sent already.
    forward_sent: usize,
    /// Replies not yet sent upstream.
    pub replies: Vec<u8>,
}

impl Node {
    pub fn new(replicates: bool) -> Self {
        let slot = |_| Slot {
            header: [0; HEADER],
            page: Arc::new(Page([0; BLOCK])),
            offset: 0,
            client_cookie: 0,
            parts: 0,
        };
        Self {
            replicates,
            slots: (0..SLOTS).map(slot).collect(),
            free: (0..SLOTS).collect(),
            forward: VecDeque::new(),
            forward_sent: 0,
            replies: Vec::new(),
        }
    }

    /// Takes every complete frame of `bytes`, appends its slot to `accepted`; returns the bytes used.
    pub fn accept(&mut self, bytes: &[u8], accepted: &mut Vec<usize>) -> io::Result<usize> {
        let mut used = 0;
        for frame in bytes.chunks_exact(FRAME) {
            if u32_at(frame, 0) != MAGIC || u32_at(frame, 24) as usize != BLOCK {
                return Err(io::Error::other(format!(
                    "bad frame header {:02x?}",
                    &frame[..HEADER]
                )));
            }
            let index = self
                .free
                .pop()
                .ok_or_else(|| io::Error::other(format!("over {SLOTS} requests in flight")))?;
            let slot = &mut self.slots[index];
            slot.client_cookie = u64_at(frame, 8);
            slot.offset = u64_at(frame, 16);
            put_header(&mut slot.header, index as u64, slot.offset);
            let page = Arc::get_mut(&mut slot.page).expect("a free slot's page is not shared");
            page.0.copy_from_slice(&frame[HEADER..]);
            // Local write; and, on a primary, the forwarded frame leaving and its ack coming back.
            slot.parts = 1;
            if self.replicates {
                slot.parts = 3;
                self.forward.push_back(index);
            }
            accepted.push(index);
            used += FRAME;
        }
        Ok(used)
    }

    /// Where and what a slot's local write is.
    pub fn local_write(&self, slot: usize) -> (u64, Arc<Page>) {
        (self.slots[slot].offset, Arc::clone(&self.slots[slot].page))
    }

    /// One part of a request is done; the reply is queued when all are.
    pub fn part_done(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.parts -= 1;
        if slot.parts == 0 {
            put_reply(&mut self.replies, slot.client_cookie);
            self.free.push(index);
        }
    }

    /// Takes the peer's acks from `bytes`; returns the bytes used.
    pub fn acks(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut used = 0;
        for ack in bytes.chunks_exact(REPLY) {
            self.part_done(parse_reply(ack)? as usize);
            used += REPLY;
        }
        Ok(used)
    }

    /// The frames still to be sent to the peer, as slices for one gathered write.
    pub fn forward_slices(&self) -> Vec<IoSlice<'_>> {
        let mut skip = self.forward_sent;
        let mut slices = Vec::with_capacity(2 * self.forward.len());
        for &index in &self.forward {
            let slot = &self.slots[index];
            for part in [&slot.header[..], &slot.page.0[..]] {
                if skip < part.len() {
                    slices.push(IoSlice::new(&part[skip..]));
                }
                skip = skip.saturating_sub(part.len());
            }
        }
        slices
    }

    /// `count` more bytes of `forward_slices` left for the peer.
    pub fn forwarded(&mut self, count: usize) {
        self.forward_sent += count;
        while self.forward_sent >= FRAME {
            self.forward_sent -= FRAME;
            let index = self.forward.pop_front().expect("a sent frame was queued");
            self.part_done(index);
        }
    }
}
