//! Replies of the transmission phase: the header bytes that precede a payload, or the whole reply.

use std::fmt::Display;

use super::error::ErrorCode;
use super::transmission::{Kind, Request};
use super::wire::{chunk, state, Writer, MAX_STRING, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC};

/// The identifier under which a client is given `base:allocation`.
pub(super) const ALLOCATION_CONTEXT_ID: u32 = 1;

/// Most extents in one reply: 32 KiB of them. The client asks again for what is left out.
const MAX_EXTENTS: usize = 4096;

/// A run of bytes of one allocation status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes, a multiple of the export's minimum block.
    pub length: u64,
    /// Not allocated: a write here may run out of space.
    pub hole: bool,
    /// Reads as zeroes.
    pub zero: bool,
}

impl Extent {
    fn flags(self) -> u32 {
        (if self.hole { state::HOLE } else { 0 }) | (if self.zero { state::ZERO } else { 0 })
    }
}

/// Writes replies in the form the client negotiated. A copy stays valid as long as its session, so a reply can
/// be written without the session at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replies {
    structured: bool,
}

impl Replies {
    pub(super) fn new(structured: bool) -> Replies {
        Replies { structured }
    }

    /// Whether the client negotiated structured replies.
    pub fn structured(self) -> bool {
        self.structured
    }

    /// The header of a read's success: exactly `request.length` bytes of payload must follow it in the stream,
    /// so the read must have succeeded before.
    pub fn read(self, out: &mut Vec<u8>, request: &Request) {
        if !self.structured {
            simple(out, 0, request.cookie);
        } else if request.length == 0 {
            chunk(out, chunk::NONE, request.cookie, 0);
        } else {
            // A read is at most the export's longest payload, far below the 8 bytes that are missing here.
            chunk(out, chunk::OFFSET_DATA, request.cookie, 8 + request.length);
            out.put_u64(request.offset);
        }
    }

    /// The success of a request without payload in its reply.
    pub fn done(self, out: &mut Vec<u8>, cookie: u64) {
        if self.structured {
            chunk(out, chunk::NONE, cookie, 0);
        } else {
            simple(out, 0, cookie);
        }
    }

    /// The failure of any request. `reason` is for people, reaches only clients with structured replies and is
    /// not formatted for others.
    pub fn error(self, out: &mut Vec<u8>, cookie: u64, code: ErrorCode, reason: &dyn Display) {
        if !self.structured {
            return simple(out, code.number(), cookie);
        }
        let mut text = reason.to_string();
        text.truncate(text.floor_boundary(MAX_STRING));
        // At most MAX_STRING, so both lengths fit.
        let length = text.len() as u16;
        chunk(out, chunk::ERROR, cookie, 6 + u32::from(length));
        out.put_u32(code.number());
        out.put_u16(length);
        out.put(text.as_bytes());
    }

    /// The answer to a block status request: `extents` describe consecutive runs from `request.offset` on. What
    /// lies beyond the request is cut off, equal neighbours are joined, and a request for one extent gets one.
    /// Extents may cover less than was asked for; with none at all, the whole range is reported as allocated.
    ///
    /// # Panics
    /// If `request` is no block status request (which a session lets through only with structured replies).
    pub fn block_status(self, out: &mut Vec<u8>, request: &Request, extents: &[Extent]) {
        let Kind::BlockStatus { one } = request.kind else {
            panic!("block status in reply to a {:?} request", request.kind)
        };
        assert!(
            self.structured,
            "block status in reply to a client without structured replies"
        );
        let header = out.len();
        chunk(out, chunk::BLOCK_STATUS, request.cookie, 0);
        out.put_u32(ALLOCATION_CONTEXT_ID);
        let limit = if one { 1 } else { MAX_EXTENTS };
        let mut written = 0;
        let mut left = request.length;
        let mut runs = extents.iter().filter(|extent| extent.length > 0).peekable();
        while let Some(first) = runs.next() {
            let mut length = first.length;
            while let Some(next) = runs.next_if(|next| next.flags() == first.flags()) {
                length = length.saturating_add(next.length);
            }
            let length = u32::try_from(length).unwrap_or(u32::MAX).min(left);
            out.put_u32(length);
            out.put_u32(first.flags());
            (left, written) = (left - length, written + 1);
            if left == 0 || written == limit {
                break;
            }
        }
        if written == 0 {
            out.put_u32(request.length);
            out.put_u32(0);
        }
        let payload = (out.len() - header - CHUNK_HEADER) as u32; // at most 4 + 8 * MAX_EXTENTS
        out[header + CHUNK_HEADER - 4..header + CHUNK_HEADER].copy_from_slice(&payload.to_be_bytes());
    }
}

/// Bytes of a structured reply chunk's header.
const CHUNK_HEADER: usize = 20;

fn simple(out: &mut Vec<u8>, error: u32, cookie: u64) {
    let mut reply = [0; 16];
    reply[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    reply[4..8].copy_from_slice(&error.to_be_bytes());
    reply[8..].copy_from_slice(&cookie.to_be_bytes());
    out.put(&reply);
}

/// The header of a reply's only chunk.
fn chunk(out: &mut Vec<u8>, kind: u16, cookie: u64, length: u32) {
    let mut header = [0; CHUNK_HEADER];
    header[..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
    header[4..6].copy_from_slice(&chunk::FLAG_DONE.to_be_bytes());
    header[6..8].copy_from_slice(&kind.to_be_bytes());
    header[8..16].copy_from_slice(&cookie.to_be_bytes());
    header[16..].copy_from_slice(&length.to_be_bytes());
    out.put(&header);
}

trait FloorBoundary {
    /// The last character boundary at or before `limit` bytes.
    fn floor_boundary(&self, limit: usize) -> usize;
}

impl FloorBoundary for str {
    fn floor_boundary(&self, limit: usize) -> usize {
        (0..=limit.min(self.len()))
            .rev()
            .find(|&at| self.is_char_boundary(at))
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIMPLE: Replies = Replies { structured: false };
    const STRUCTURED: Replies = Replies { structured: true };

    fn request(kind: Kind, offset: u64, length: u32) -> Request {
        Request {
            cookie: 0x0102_0304_0506_0708,
            kind,
            offset,
            length,
            fua: false,
        }
    }

    fn bytes(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn simple_replies_are_byte_exact() {
        let read = request(Kind::Read, 512, 1024);
        let success = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(bytes(|out| SIMPLE.read(out, &read)), success);
        assert_eq!(bytes(|out| SIMPLE.done(out, read.cookie)), success);
        let failure = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(
            bytes(|out| SIMPLE.error(out, read.cookie, ErrorCode::Io, &"disk")),
            failure
        );
    }

    #[test]
    fn structured_replies_are_byte_exact() {
        let head = |kind: [u8; 2], length: u8| {
            let mut head = vec![
                0x66, 0x8e, 0x33, 0xef, 0, 1, kind[0], kind[1], 1, 2, 3, 4, 5, 6, 7, 8,
            ];
            head.extend([0, 0, 0, length]);
            head
        };
        let read = request(Kind::Read, 512, 16);
        let data = [head([0, 1], 24), vec![0, 0, 0, 0, 0, 0, 2, 0]].concat();
        assert_eq!(bytes(|out| STRUCTURED.read(out, &read)), data);
        assert_eq!(
            bytes(|out| STRUCTURED.read(out, &request(Kind::Read, 0, 0))),
            head([0, 0], 0)
        );
        assert_eq!(bytes(|out| STRUCTURED.done(out, read.cookie)), head([0, 0], 0));
        let error = [head([0x80, 1], 10), vec![0, 0, 0, 28, 0, 4], b"full".to_vec()].concat();
        assert_eq!(
            bytes(|out| STRUCTURED.error(out, read.cookie, ErrorCode::NoSpace, &"full")),
            error
        );
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let reason = "x".to_owned() + &"\u{e9}".repeat(4000);
        let out = bytes(|out| STRUCTURED.error(out, 1, ErrorCode::Io, &reason));
        let text = std::str::from_utf8(&out[26..]).expect("whole characters");
        assert_eq!(text.len(), 4095);
        assert_eq!(out[24..26], 4095_u16.to_be_bytes());
    }

    /// The descriptors of a block status reply.
    fn descriptors(out: &[u8]) -> Vec<(u32, u32)> {
        assert_eq!(out[4..8], [0, 1, 0, 5]);
        assert_eq!(out[16..20], ((out.len() - 20) as u32).to_be_bytes());
        assert_eq!(out[20..24], ALLOCATION_CONTEXT_ID.to_be_bytes());
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        assert_eq!(out[24..].len() % 8, 0);
        out[24..]
            .chunks(8)
            .map(|d| (number(&d[..4]), number(&d[4..])))
            .collect()
    }

    fn status(one: bool, length: u32, extents: &[Extent]) -> Vec<(u32, u32)> {
        let request = request(Kind::BlockStatus { one }, 0, length);
        descriptors(&bytes(|out| STRUCTURED.block_status(out, &request, extents)))
    }

    const fn extent(length: u64, hole: bool, zero: bool) -> Extent {
        Extent { length, hole, zero }
    }

    #[test]
    fn block_status_joins_cuts_and_limits_extents() {
        let data = extent(4096, false, false);
        let hole = extent(8192, true, true);
        assert_eq!(
            status(false, 32768, &[data, hole, data]),
            [(4096, 0), (8192, 3), (4096, 0)]
        );
        assert_eq!(status(false, 32768, &[data, data, hole]), [(8192, 0), (8192, 3)]);
        assert_eq!(status(false, 6144, &[data, hole, data]), [(4096, 0), (2048, 3)]);
        assert_eq!(status(false, 4096, &[data, hole]), [(4096, 0)]);
        assert_eq!(status(true, 32768, &[data, hole]), [(4096, 0)]);
        assert_eq!(status(true, 2048, &[hole]), [(2048, 3)]);
        assert_eq!(status(false, 4096, &[]), [(4096, 0)]);
        assert_eq!(
            status(false, u32::MAX, &[extent(1 << 40, false, true)]),
            [(u32::MAX, 2)]
        );
        let stripes: Vec<_> = (0..10_000).map(|i| extent(512, i % 2 == 0, false)).collect();
        assert_eq!(status(false, u32::MAX, &stripes).len(), MAX_EXTENTS);
    }

    proptest! {
        #[test]
        fn block_status_keeps_the_rules_of_the_protocol(
            one: bool,
            length in 1u32..1_000_000,
            runs in prop::collection::vec((0u64..100_000, any::<bool>(), any::<bool>()), 0..50),
        ) {
            let extents: Vec<_> = runs.iter().map(|&(length, hole, zero)| extent(length, hole, zero)).collect();
            let descriptors = status(one, length, &extents);
            let total: u64 = descriptors.iter().map(|d| u64::from(d.0)).sum();
            prop_assert!(!descriptors.is_empty() && descriptors.iter().all(|d| d.0 > 0));
            prop_assert!(!one || descriptors.len() == 1);
            prop_assert!(total <= u64::from(length));
            prop_assert!(descriptors.windows(2).all(|pair| pair[0].1 != pair[1].1));
            // Each byte has the status it was given.
            let mut at = 0;
            for (length, flags) in &descriptors {
                let mut end = 0;
                let given = extents.iter().find(|e| { end += e.length; at < end });
                if let Some(given) = given {
                    prop_assert_eq!(given.flags(), *flags);
                }
                at += u64::from(*length);
            }
        }
    }
}
