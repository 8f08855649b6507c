//! Bytes to messages and back, sans I/O.

use super::body;
use super::frame::{flag, FrameError, Header, Kind, HEADER_LEN};
use super::message::{Hello, Message};
use crate::payload::Payload;

/// Appends the frame of `message` to `out`, but for bulk data: what is returned must be sent right after it,
/// from its own memory.
///
/// # Panics
/// When the message breaks a bound that its sender must keep: an empty payload or one above
/// [`PAYLOAD_MAX`](super::PAYLOAD_MAX), more runs, checksums or name bytes than their constants allow.
pub fn encode(message: &Message, epoch: u64, out: &mut Vec<u8>) -> Option<Payload> {
    let mut header = Header::new(Kind::of(message), epoch);
    let start = out.len();
    // Bodies are laid down first: the header in front of them needs their length and digest.
    out.resize(start + HEADER_LEN, 0);
    let bulk = fill(message, &mut header, out);
    match &bulk {
        Some(payload) => header.describe(payload),
        None => header.describe(&out[start + HEADER_LEN..]),
    }
    out[start..start + HEADER_LEN].copy_from_slice(&header.to_bytes());
    bulk
}

/// Sets the header's fields and appends the body, or returns the bulk payload.
fn fill(message: &Message, header: &mut Header, out: &mut Vec<u8>) -> Option<Payload> {
    let when = |condition: bool, flag: u8| if condition { flag } else { 0 };
    match message {
        Message::Hello(hello) => body::put_hello(out, hello),
        Message::State(state) => body::put_state(out, state),
        Message::Goodbye { reason, text } => {
            header.status = *reason as u16;
            body::put_short_text(out, text);
        }
        Message::Ping { sent_ns: seq }
        | Message::Flush { seq }
        | Message::Received { seq }
        | Message::ChunkSame { id: seq }
        | Message::ChunkEnd { id: seq }
        | Message::ResyncEnded { current: seq }
        | Message::VerifySame { id: seq }
        | Message::PathAcknowledge { received: seq } => header.seq = *seq,
        Message::Pong { sent_ns, lease_ns } => (header.seq, header.length) = (*sent_ns, *lease_ns),
        Message::PathResume { turn, received } => (header.seq, header.length) = (*turn, *received),
        Message::Write {
            seq,
            offset,
            payload,
            fua,
        } => {
            (header.seq, header.offset, header.flags) = (*seq, *offset, when(*fua, flag::FUA));
            return Some(payload.clone());
        }
        Message::WriteZeroes {
            seq,
            offset,
            len,
            fua,
            unmap,
        } => {
            (header.seq, header.offset, header.length) = (*seq, *offset, *len);
            header.flags = when(*fua, flag::FUA) | when(*unmap, flag::UNMAP);
        }
        Message::Trim {
            seq,
            offset,
            len,
            fua,
        } => {
            (header.seq, header.offset, header.length) = (*seq, *offset, *len);
            header.flags = when(*fua, flag::FUA);
        }
        Message::Done { seq, status }
        | Message::ChunkDone { id: seq, status }
        | Message::VerifyFailed { id: seq, status }
        | Message::ReadFailed { id: seq, status } => {
            (header.seq, header.status) = (*seq, *status);
        }
        Message::ReadRequest { id, offset, len } => {
            (header.seq, header.offset, header.length) = (*id, *offset, u64::from(*len));
        }
        Message::PromoteRequest | Message::SyncRequest | Message::Detached | Message::DetachedOk => {}
        Message::PromoteReply { allowed } | Message::SyncReply { allowed } => {
            header.flags = when(*allowed, flag::ALLOWED);
        }
        Message::BitmapRuns { runs, last } => {
            header.flags = when(*last, flag::LAST);
            body::put_runs(out, runs);
        }
        Message::HotRanges { ranges } => body::put_hot_ranges(out, ranges),
        Message::ResyncStart { blocks } => header.length = *blocks,
        Message::ChunkHash {
            id,
            offset,
            len,
            hash,
            zero,
        } => {
            (header.seq, header.offset, header.length) = (*id, *offset, u64::from(*len));
            header.flags = when(*zero, flag::ZERO);
            body::put_hashes(out, &[*hash]);
        }
        Message::ChunkDiffers { id, hashes } | Message::VerifyDiffers { id, hashes } => {
            header.seq = *id;
            body::put_hashes(out, hashes);
        }
        Message::ReadData { id, offset, payload }
        | Message::ChunkData { id, offset, payload }
        | Message::ChunkWhole { id, offset, payload } => {
            (header.seq, header.offset) = (*id, *offset);
            return Some(payload.clone());
        }
        Message::ResyncEnd {
            current,
            history,
            resource_id,
        } => body::put_resync_end(out, *current, history, resource_id),
        Message::Report { text } => out.extend_from_slice(text.as_bytes()),
        Message::VerifyChunk {
            id,
            offset,
            len,
            hash,
            ordered,
        } => {
            (header.seq, header.offset, header.length) = (*id, *offset, u64::from(*len));
            header.flags = when(*ordered, flag::ORDERED);
            body::put_hashes(out, &[*hash]);
        }
        Message::VerifyProved { offset, len } => (header.offset, header.length) = (*offset, *len),
        Message::VerifyFound {
            offset,
            len,
            own,
            peer,
        } => {
            (header.offset, header.length) = (*offset, u64::from(*len));
            body::put_hashes(out, &[*own, *peer]);
        }
        Message::VerifySave { runs } => body::put_runs(out, runs),
        Message::VerifySaved { saved, text } => {
            header.flags = when(*saved, flag::ALLOWED);
            body::put_short_text(out, text);
        }
    }
    None
}

impl Kind {
    fn of(message: &Message) -> Kind {
        match message {
            Message::Hello(_) => Kind::Hello,
            Message::State(_) => Kind::State,
            Message::Goodbye { .. } => Kind::Goodbye,
            Message::Ping { .. } => Kind::Ping,
            Message::Pong { .. } => Kind::Pong,
            Message::Write { .. } => Kind::Write,
            Message::WriteZeroes { .. } => Kind::WriteZeroes,
            Message::Trim { .. } => Kind::Trim,
            Message::Flush { .. } => Kind::Flush,
            Message::Received { .. } => Kind::Received,
            Message::Done { .. } => Kind::Done,
            Message::Detached => Kind::Detached,
            Message::DetachedOk => Kind::DetachedOk,
            Message::ReadRequest { .. } => Kind::ReadRequest,
            Message::ReadData { .. } => Kind::ReadData,
            Message::ReadFailed { .. } => Kind::ReadFailed,
            Message::PromoteRequest => Kind::PromoteRequest,
            Message::PromoteReply { .. } => Kind::PromoteReply,
            Message::SyncRequest => Kind::SyncRequest,
            Message::SyncReply { .. } => Kind::SyncReply,
            Message::BitmapRuns { .. } => Kind::BitmapRuns,
            Message::HotRanges { .. } => Kind::HotRanges,
            Message::ResyncStart { .. } => Kind::ResyncStart,
            Message::ChunkHash { .. } => Kind::ChunkHash,
            Message::ChunkSame { .. } => Kind::ChunkSame,
            Message::ChunkDiffers { .. } => Kind::ChunkDiffers,
            Message::ChunkData { .. } => Kind::ChunkData,
            Message::ChunkWhole { .. } => Kind::ChunkWhole,
            Message::ChunkEnd { .. } => Kind::ChunkEnd,
            Message::ChunkDone { .. } => Kind::ChunkDone,
            Message::ResyncEnd { .. } => Kind::ResyncEnd,
            Message::ResyncEnded { .. } => Kind::ResyncEnded,
            Message::Report { .. } => Kind::Report,
            Message::PathAcknowledge { .. } => Kind::PathAcknowledge,
            Message::PathResume { .. } => Kind::PathResume,
            Message::VerifyChunk { .. } => Kind::VerifyChunk,
            Message::VerifySame { .. } => Kind::VerifySame,
            Message::VerifyDiffers { .. } => Kind::VerifyDiffers,
            Message::VerifyFailed { .. } => Kind::VerifyFailed,
            Message::VerifyProved { .. } => Kind::VerifyProved,
            Message::VerifyFound { .. } => Kind::VerifyFound,
            Message::VerifySave { .. } => Kind::VerifySave,
            Message::VerifySaved { .. } => Kind::VerifySaved,
        }
    }
}

/// What the received bytes allow next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet: call again, from the same start, with at least `bytes` bytes (at most
    /// [`INLINE_FRAME_MAX`](super::INLINE_FRAME_MAX)).
    NeedMore { bytes: usize },
    /// A checked message. The first `consumed` bytes are used up.
    Message {
        consumed: usize,
        epoch: u64,
        message: Message,
    },
    /// A checked header. The first `consumed` bytes are used up; the next `payload_len` bytes of the stream (at most
    /// [`PAYLOAD_MAX`](super::PAYLOAD_MAX)) belong into a buffer of their own, for [`Decoder::finish`].
    Payload { consumed: usize, payload_len: usize },
}

/// Reads one connection's frames. After an error the connection must be closed.
///
/// The caller owns the memory: it offers what it has received, and drops what was consumed. Small frames are decoded
/// where they lie; block data is announced by its checked length, so that it can be read from the socket straight
/// into the buffer that goes to the disk.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The header whose bulk payload is on its way.
    pending: Option<Header>,
}

impl Decoder {
    pub fn new() -> Self {
        Decoder::default()
    }

    /// Looks at the unconsumed bytes of the stream. While a bulk payload is awaited, repeats that step with
    /// `consumed` 0.
    ///
    /// # Errors
    /// When the bytes are no frame of this protocol, or damaged; no byte of them was believed.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Step, FrameError> {
        if let Some(header) = &self.pending {
            return Ok(Step::Payload {
                consumed: 0,
                payload_len: header.payload_len as usize,
            });
        }
        let Some(header) = Header::read(bytes)? else {
            return Ok(Step::NeedMore { bytes: HEADER_LEN });
        };
        let payload_len = header.payload_len as usize;
        if header.kind.is_bulk() {
            self.pending = Some(header);
            return Ok(Step::Payload {
                consumed: HEADER_LEN,
                payload_len,
            });
        }
        let consumed = HEADER_LEN + payload_len;
        let Some(body) = bytes.get(HEADER_LEN..consumed) else {
            return Ok(Step::NeedMore { bytes: consumed });
        };
        header.verify(body)?;
        Ok(Step::Message {
            consumed,
            epoch: header.epoch,
            message: small(&header, body)?,
        })
    }

    /// Completes the message whose bulk payload was announced; also returns the sender's epoch.
    ///
    /// # Errors
    /// When the payload is damaged, was not announced, or has not the announced length.
    pub fn finish(&mut self, payload: Payload) -> Result<(u64, Message), FrameError> {
        let Some(header) = self.pending.take() else {
            return Err(FrameError::PayloadMismatch {
                given: payload.len(),
                expected: 0,
            });
        };
        header.verify(&payload)?;
        let (id, offset) = (header.seq, header.offset);
        let message = match header.kind {
            Kind::Write => Message::Write {
                seq: id,
                offset,
                payload,
                fua: header.has(flag::FUA),
            },
            Kind::ReadData => Message::ReadData { id, offset, payload },
            Kind::ChunkWhole => Message::ChunkWhole { id, offset, payload },
            _ => Message::ChunkData { id, offset, payload },
        };
        Ok((header.epoch, message))
    }
}

/// What the bytes of a new connection allow next.
#[derive(Debug, PartialEq, Eq)]
pub enum HelloStep {
    /// Call again with `bytes` bytes at least.
    NeedMore { bytes: usize },
    /// The first `consumed` bytes were it; what follows is for whoever has the connection next.
    Hello {
        consumed: usize,
        epoch: u64,
        hello: Hello,
    },
}

/// Decodes the first frame of a connection, and only that.
///
/// # Errors
/// When the bytes are no frame, damaged, or another kind than Hello.
pub fn decode_hello(bytes: &[u8]) -> Result<HelloStep, FrameError> {
    if let Some(header) = Header::read(bytes)? {
        // Before its body is waited for: only a Hello's is small and expected.
        if header.kind != Kind::Hello {
            return Err(FrameError::NotHello { kind: header.kind });
        }
    }
    match Decoder::new().next(bytes)? {
        Step::Message {
            consumed,
            epoch,
            message: Message::Hello(hello),
        } => Ok(HelloStep::Hello {
            consumed,
            epoch,
            hello,
        }),
        Step::NeedMore { bytes } => Ok(HelloStep::NeedMore { bytes }),
        other => unreachable!("a Hello's header led to {other:?}"),
    }
}

/// The message of a frame without bulk payload, whose body was verified.
fn small(header: &Header, body: &[u8]) -> Result<Message, FrameError> {
    let &Header {
        kind,
        status,
        seq,
        offset,
        length,
        ..
    } = header;
    let (fua, allowed) = (header.has(flag::FUA), header.has(flag::ALLOWED));
    Ok(match kind {
        Kind::Hello => Message::Hello(body::hello(body)?),
        Kind::Goodbye => Message::Goodbye {
            reason: body::goodbye_reason(status),
            text: body::short_text(kind, body)?,
        },
        Kind::State => Message::State(body::state(body)?),
        Kind::Ping => Message::Ping { sent_ns: seq },
        Kind::Pong => Message::Pong {
            sent_ns: seq,
            lease_ns: length,
        },
        Kind::WriteZeroes => Message::WriteZeroes {
            seq,
            offset,
            len: length,
            fua,
            unmap: header.has(flag::UNMAP),
        },
        Kind::Trim => Message::Trim {
            seq,
            offset,
            len: length,
            fua,
        },
        Kind::Flush => Message::Flush { seq },
        Kind::Received => Message::Received { seq },
        Kind::Done => Message::Done { seq, status },
        Kind::Detached => Message::Detached,
        Kind::DetachedOk => Message::DetachedOk,
        Kind::ReadRequest => Message::ReadRequest {
            id: seq,
            offset,
            len: length as u32,
        },
        Kind::ReadFailed => Message::ReadFailed { id: seq, status },
        Kind::PromoteRequest => Message::PromoteRequest,
        Kind::PromoteReply => Message::PromoteReply { allowed },
        Kind::SyncRequest => Message::SyncRequest,
        Kind::SyncReply => Message::SyncReply { allowed },
        Kind::BitmapRuns => Message::BitmapRuns {
            runs: body::runs(kind, body)?,
            last: header.has(flag::LAST),
        },
        Kind::HotRanges => Message::HotRanges {
            ranges: body::hot_ranges(body)?,
        },
        Kind::ResyncStart => Message::ResyncStart { blocks: length },
        Kind::ChunkHash => Message::ChunkHash {
            id: seq,
            offset,
            len: length as u32,
            hash: body::hash(body),
            zero: header.has(flag::ZERO),
        },
        Kind::ChunkSame => Message::ChunkSame { id: seq },
        Kind::ChunkDiffers => Message::ChunkDiffers {
            id: seq,
            hashes: body::hashes(kind, body)?,
        },
        Kind::ChunkEnd => Message::ChunkEnd { id: seq },
        Kind::ChunkDone => Message::ChunkDone { id: seq, status },
        Kind::ResyncEnd => {
            let (current, history, resource_id) = body::resync_end(body);
            Message::ResyncEnd {
                current,
                history,
                resource_id,
            }
        }
        Kind::ResyncEnded => Message::ResyncEnded { current: seq },
        Kind::Report => Message::Report {
            text: body::report_text(body)?,
        },
        Kind::PathAcknowledge => Message::PathAcknowledge { received: seq },
        Kind::PathResume => Message::PathResume {
            turn: seq,
            received: length,
        },
        Kind::VerifyChunk => Message::VerifyChunk {
            id: seq,
            offset,
            len: length as u32,
            hash: body::hash(body),
            ordered: header.has(flag::ORDERED),
        },
        Kind::VerifySame => Message::VerifySame { id: seq },
        Kind::VerifyDiffers => Message::VerifyDiffers {
            id: seq,
            hashes: body::hashes(kind, body)?,
        },
        Kind::VerifyFailed => Message::VerifyFailed { id: seq, status },
        Kind::VerifyProved => Message::VerifyProved { offset, len: length },
        Kind::VerifyFound => {
            let (own, peer) = body::hash_pair(body);
            Message::VerifyFound {
                offset,
                len: length as u32,
                own,
                peer,
            }
        }
        Kind::VerifySave => Message::VerifySave {
            runs: body::runs(kind, body)?,
        },
        Kind::VerifySaved => Message::VerifySaved {
            saved: allowed,
            text: body::short_text(kind, body)?,
        },
        Kind::Write | Kind::ReadData | Kind::ChunkData | Kind::ChunkWhole => {
            unreachable!("bulk kinds are completed by finish")
        }
    })
}
