//! The frame: a fixed header of 64 bytes, then `payload_len` bytes.
//!
//! All numbers are little-endian.
//!
//! | at | bytes | field            | meaning                                                              |
//! |---:|------:|------------------|----------------------------------------------------------------------|
//! |  0 |     4 | `magic`          | the bytes `BPRF`                                                     |
//! |  4 |     1 | `kind`           | which message ([`Kind`])                                             |
//! |  5 |     1 | `flags`          | FUA 1, UNMAP 2, ZERO 4, LAST 8, ALLOWED 16, ORDERED 32               |
//! |  6 |     2 | `status`         | errno of Done, ChunkDone (0: fine), ReadFailed and VerifyFailed; reason of Goodbye |
//! |  8 |     4 | `payload_len`    | bytes after the header; bounded by the kind                          |
//! | 12 |     4 | `reserved`       | 0                                                                    |
//! | 16 |     8 | `epoch`          | the sender's configuration epoch                                     |
//! | 24 |     8 | `seq`            | sequence number; id of a chunk or read; `sent_ns` of Ping and Pong; `current` of ResyncEnded; `received` of PathAcknowledge; `turn` of PathResume |
//! | 32 |     8 | `offset`         | first byte on the device                                             |
//! | 40 |     8 | `length`         | bytes on the device, where no payload says it; `blocks` of ResyncStart; `lease_ns` of Pong; `received` of PathResume |
//! | 48 |     8 | `payload_digest` | XXH3-64 of the payload; 0 without one                                |
//! | 56 |     8 | `header_check`   | XXH3-64 of the 56 bytes before it                                    |
//!
//! The header check is verified before any other field is believed, so a damaged length never takes memory;
//! the payload's digest is verified before a message is handed on, so damaged data never reaches a disk.
//! Fields and flags that a kind does not use are 0, and anything else is refused: versions to come may give
//! them a meaning without an old receiver guessing.
//!
//! **Frozen for all versions:** this header, and the bodies of Hello and Goodbye (see `body`), as far as they
//! are described here. Two nodes must always understand each other's first frame and the reason for a refusal.
//! In these two kinds a receiver ignores unknown flags, unused fields and bytes after the known body. Everything
//! else may differ from version 2 on.
//!
//! Kinds with a *bulk* payload (Write, ReadData, ChunkData, ChunkWhole) carry raw block data, meant to be read into its own
//! aligned buffer. All other payloads are small *bodies*, decoded where they lie in the receive buffer.

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use super::message::{BITMAP_RUNS_MAX, CHUNK_BLOCKS_MAX, HOT_RANGES_MAX, PAYLOAD_MAX, REPORT_MAX, TEXT_MAX};

/// Bytes of every frame's header.
pub const HEADER_LEN: usize = 64;
/// First bytes of every frame, in every version.
pub const MAGIC: [u8; 4] = *b"BPRF";
/// Longest Hello body that is accepted: room for what later versions append.
pub const HELLO_BODY_MAX: usize = 1024;
/// Longest frame whose payload is a body: a receive buffer must hold this many contiguous bytes.
pub const INLINE_FRAME_MAX: usize = HEADER_LEN + RUN_LEN * BITMAP_RUNS_MAX;
const _: () = assert!(REPORT_MAX <= RUN_LEN * BITMAP_RUNS_MAX);

pub(super) const HELLO_BODY_MIN: usize = 60;
pub(super) const STATE_LEN: usize = 136;
pub(super) const HASH_LEN: usize = 16;
pub(super) const RUN_LEN: usize = 16;
pub(super) const RESYNC_END_LEN: usize = 88;
/// Of both copies of a block.
pub(super) const HASH_PAIR_LEN: usize = 2 * HASH_LEN;

pub(super) mod flag {
    pub const FUA: u8 = 1 << 0;
    pub const UNMAP: u8 = 1 << 1;
    pub const ZERO: u8 = 1 << 2;
    pub const LAST: u8 = 1 << 3;
    pub const ALLOWED: u8 = 1 << 4;
    pub const ORDERED: u8 = 1 << 5;
}

macro_rules! kinds {
    ($($name:ident = $number:literal),+ $(,)?) => {
        /// The `kind` byte of a frame.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind { $($name = $number),+ }

        impl Kind {
            fn from_byte(byte: u8) -> Option<Kind> {
                match byte { $($number => Some(Kind::$name),)+ _ => None }
            }
        }
    };
}

kinds! {
    Hello = 1, Goodbye = 2, State = 3, Ping = 4, Pong = 5,
    Write = 16, WriteZeroes = 17, Trim = 18, Flush = 19, Received = 20, Done = 21,
    ReadRequest = 22, ReadData = 23, ReadFailed = 24,
    PromoteRequest = 32, PromoteReply = 33, SyncRequest = 34, SyncReply = 35,
    Detached = 36, DetachedOk = 37, HotRanges = 40,
    BitmapRuns = 48, ResyncStart = 49, ChunkHash = 50, ChunkSame = 51, ChunkDiffers = 52, ChunkData = 53,
    ChunkEnd = 54, ChunkDone = 55, ResyncEnd = 56, ResyncEnded = 57, ChunkWhole = 58,
    Report = 64,
    PathAcknowledge = 80, PathResume = 81,
    VerifyChunk = 96, VerifySame = 97, VerifyDiffers = 98, VerifyFailed = 99, VerifyProved = 100, VerifyFound = 101,
    VerifySave = 102, VerifySaved = 103,
}

/// Why bytes from a peer are no message. The connection must be closed: what follows cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("not a blockpair frame: it starts with the bytes {found:02x?}")]
    Magic { found: [u8; 4] },
    #[error("frame header damaged: its check is {found:016x}, its bytes give {computed:016x}")]
    HeaderCheck { found: u64, computed: u64 },
    #[error("unknown frame kind {kind}")]
    UnknownKind { kind: u8 },
    #[error("{kind:?} frame with unexpected {field} {value:#x}")]
    Field {
        kind: Kind,
        field: &'static str,
        value: u64,
    },
    #[error("{kind:?} frame with a payload of {len} bytes; {min} to {max} are allowed")]
    PayloadLength {
        kind: Kind,
        len: u32,
        min: u32,
        max: u32,
    },
    #[error("{kind:?} frame with a damaged payload of {len} bytes: its digest is {found:016x}, its bytes give {computed:016x}")]
    Digest {
        kind: Kind,
        len: usize,
        found: u64,
        computed: u64,
    },
    #[error("{kind:?} frame with an invalid body: {what}")]
    Body { kind: Kind, what: String },
    #[error("the first frame is {kind:?}, not Hello")]
    NotHello { kind: Kind },
    #[error("a payload of {given} bytes was delivered where {expected} were announced")]
    PayloadMismatch { given: usize, expected: usize },
}

const SEQ: u8 = 1 << 0;
const OFFSET: u8 = 1 << 1;
const LENGTH: u8 = 1 << 2;
const STATUS: u8 = 1 << 3;

/// What a frame of one kind may contain.
struct Shape {
    flags: u8,
    fields: u8,
    payload_min: usize,
    payload_max: usize,
}

impl Kind {
    /// True when the payload is block data for a buffer of its own.
    pub fn is_bulk(self) -> bool {
        matches!(
            self,
            Kind::Write | Kind::ReadData | Kind::ChunkData | Kind::ChunkWhole
        )
    }

    /// True for the kinds that every version must read; see the module's text.
    fn is_frozen(self) -> bool {
        matches!(self, Kind::Hello | Kind::Goodbye)
    }

    fn shape(self) -> Shape {
        let (flags, fields, payload_min, payload_max) = match self {
            Kind::Hello => (0, 0, HELLO_BODY_MIN, HELLO_BODY_MAX),
            Kind::Goodbye => (0, STATUS, 0, TEXT_MAX),
            Kind::State => (0, 0, STATE_LEN, STATE_LEN),
            Kind::Ping => (0, SEQ, 0, 0),
            Kind::Pong => (0, SEQ | LENGTH, 0, 0),
            Kind::Write => (flag::FUA, SEQ | OFFSET, 1, PAYLOAD_MAX as usize),
            Kind::WriteZeroes => (flag::FUA | flag::UNMAP, SEQ | OFFSET | LENGTH, 0, 0),
            Kind::Trim => (flag::FUA, SEQ | OFFSET | LENGTH, 0, 0),
            Kind::Flush | Kind::Received => (0, SEQ, 0, 0),
            Kind::Done | Kind::ChunkDone | Kind::ReadFailed => (0, SEQ | STATUS, 0, 0),
            Kind::ReadRequest => (0, SEQ | OFFSET | LENGTH, 0, 0),
            Kind::PromoteRequest | Kind::SyncRequest | Kind::Detached | Kind::DetachedOk => (0, 0, 0, 0),
            Kind::PromoteReply | Kind::SyncReply => (flag::ALLOWED, 0, 0, 0),
            Kind::BitmapRuns => (flag::LAST, 0, 0, RUN_LEN * BITMAP_RUNS_MAX),
            Kind::HotRanges => (0, 0, 0, RUN_LEN * HOT_RANGES_MAX),
            Kind::ResyncStart => (0, LENGTH, 0, 0),
            Kind::ChunkHash => (flag::ZERO, SEQ | OFFSET | LENGTH, HASH_LEN, HASH_LEN),
            Kind::ChunkSame | Kind::ChunkEnd => (0, SEQ, 0, 0),
            Kind::ChunkDiffers => (0, SEQ, HASH_LEN, HASH_LEN * CHUNK_BLOCKS_MAX as usize),
            Kind::ReadData | Kind::ChunkData | Kind::ChunkWhole => (0, SEQ | OFFSET, 1, PAYLOAD_MAX as usize),
            Kind::ResyncEnd => (0, 0, RESYNC_END_LEN, RESYNC_END_LEN),
            Kind::ResyncEnded => (0, SEQ, 0, 0),
            Kind::Report => (0, 0, 0, REPORT_MAX),
            Kind::PathAcknowledge => (0, SEQ, 0, 0),
            Kind::PathResume => (0, SEQ | LENGTH, 0, 0),
            Kind::VerifyChunk => (flag::ORDERED, SEQ | OFFSET | LENGTH, HASH_LEN, HASH_LEN),
            Kind::VerifySame => (0, SEQ, 0, 0),
            Kind::VerifyDiffers => (0, SEQ, HASH_LEN, HASH_LEN * CHUNK_BLOCKS_MAX as usize),
            Kind::VerifyFailed => (0, SEQ | STATUS, 0, 0),
            Kind::VerifyProved => (0, OFFSET | LENGTH, 0, 0),
            Kind::VerifyFound => (0, OFFSET | LENGTH, HASH_PAIR_LEN, HASH_PAIR_LEN),
            Kind::VerifySave => (0, 0, RUN_LEN, RUN_LEN * BITMAP_RUNS_MAX),
            Kind::VerifySaved => (flag::ALLOWED, 0, 0, TEXT_MAX),
        };
        Shape {
            flags,
            fields,
            payload_min,
            payload_max,
        }
    }
}

/// A header's fields. Made by [`Header::read`] only when the check, the kind, and all bounds hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    pub flags: u8,
    pub status: u16,
    pub payload_len: u32,
    pub epoch: u64,
    pub seq: u64,
    pub offset: u64,
    pub length: u64,
    pub payload_digest: u64,
}

impl Header {
    pub fn new(kind: Kind, epoch: u64) -> Self {
        Header {
            kind,
            flags: 0,
            status: 0,
            payload_len: 0,
            epoch,
            seq: 0,
            offset: 0,
            length: 0,
            payload_digest: 0,
        }
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Takes over length and digest of what follows the header.
    ///
    /// # Panics
    /// When the payload is larger or smaller than the kind allows: the peer would refuse it.
    pub fn describe(&mut self, payload: &[u8]) {
        let shape = self.kind.shape();
        assert!(
            (shape.payload_min..=shape.payload_max).contains(&payload.len()),
            "{:?} frame with a payload of {} bytes",
            self.kind,
            payload.len()
        );
        self.payload_len = payload.len() as u32;
        self.payload_digest = digest(payload);
    }

    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = self.kind as u8;
        bytes[5] = self.flags;
        bytes[6..8].copy_from_slice(&self.status.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.seq.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.offset.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.length.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.payload_digest.to_le_bytes());
        let check = xxh3_64(&bytes[..56]);
        bytes[56..64].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Reads and checks the header at the start of `bytes`; `None` while it is incomplete.
    pub fn read(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
        // Strangers are turned away by their first bytes; waiting for 64 of them could take for ever.
        let seen = bytes.len().min(MAGIC.len());
        if bytes[..seen] != MAGIC[..seen] {
            let mut found = [0; 4];
            found[..seen].copy_from_slice(&bytes[..seen]);
            return Err(FrameError::Magic { found });
        }
        let Some(bytes) = bytes.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let (found, computed) = (u64_at(bytes, 56), xxh3_64(&bytes[..56]));
        if found != computed {
            return Err(FrameError::HeaderCheck { found, computed });
        }
        let kind = Kind::from_byte(bytes[4]).ok_or(FrameError::UnknownKind { kind: bytes[4] })?;
        let header = Header {
            kind,
            flags: bytes[5],
            status: u16_at(bytes, 6),
            payload_len: u32_at(bytes, 8),
            epoch: u64_at(bytes, 16),
            seq: u64_at(bytes, 24),
            offset: u64_at(bytes, 32),
            length: u64_at(bytes, 40),
            payload_digest: u64_at(bytes, 48),
        };
        header.check_bounds(u32_at(bytes, 12))?;
        Ok(Some(header))
    }

    fn check_bounds(&self, reserved: u32) -> Result<(), FrameError> {
        let shape = self.kind.shape();
        if !(shape.payload_min..=shape.payload_max).contains(&(self.payload_len as usize)) {
            return Err(FrameError::PayloadLength {
                kind: self.kind,
                len: self.payload_len,
                min: shape.payload_min as u32,
                max: shape.payload_max as u32,
            });
        }
        if self.kind.is_frozen() {
            return Ok(());
        }
        let unless = |used: u8, value: u64| if shape.fields & used != 0 { 0 } else { value };
        let digest_unused = if self.payload_len == 0 {
            self.payload_digest
        } else {
            0
        };
        self.expect_zero("flags", u64::from(self.flags & !shape.flags))?;
        self.expect_zero("reserved field", u64::from(reserved))?;
        self.expect_zero("status", unless(STATUS, u64::from(self.status)))?;
        self.expect_zero("sequence number", unless(SEQ, self.seq))?;
        self.expect_zero("offset", unless(OFFSET, self.offset))?;
        self.expect_zero("length", unless(LENGTH, self.length))?;
        self.expect_zero("payload digest", digest_unused)?;
        self.check_range(&shape)
    }

    fn expect_zero(&self, field: &'static str, value: u64) -> Result<(), FrameError> {
        if value == 0 {
            return Ok(());
        }
        Err(FrameError::Field {
            kind: self.kind,
            field,
            value,
        })
    }

    /// A range on the device is not empty and does not wrap around.
    fn check_range(&self, shape: &Shape) -> Result<(), FrameError> {
        if shape.fields & OFFSET == 0 {
            return Ok(());
        }
        let length = if self.kind.is_bulk() {
            u64::from(self.payload_len)
        } else {
            self.length
        };
        let fits = match self.kind {
            Kind::ChunkHash | Kind::VerifyChunk | Kind::VerifyFound => length <= u64::from(u32::MAX),
            // The answer is one frame.
            Kind::ReadRequest => length <= u64::from(PAYLOAD_MAX),
            _ => true,
        };
        if length == 0 || !fits {
            return Err(FrameError::Field {
                kind: self.kind,
                field: "length",
                value: length,
            });
        }
        if self.offset.checked_add(length).is_none() {
            return Err(FrameError::Field {
                kind: self.kind,
                field: "offset",
                value: self.offset,
            });
        }
        Ok(())
    }

    /// Checks the payload that came with this header.
    pub fn verify(&self, payload: &[u8]) -> Result<(), FrameError> {
        if payload.len() != self.payload_len as usize {
            return Err(FrameError::PayloadMismatch {
                given: payload.len(),
                expected: self.payload_len as usize,
            });
        }
        let computed = digest(payload);
        // An empty payload has no digest; frozen kinds may leave anything there.
        if payload.is_empty() || computed == self.payload_digest {
            return Ok(());
        }
        Err(FrameError::Digest {
            kind: self.kind,
            len: payload.len(),
            found: self.payload_digest,
            computed,
        })
    }
}

fn digest(payload: &[u8]) -> u64 {
    if payload.is_empty() {
        0
    } else {
        xxh3_64(payload)
    }
}

/// The `N` bytes at `at`; callers have checked the length.
pub(super) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of N bytes")
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod page_tests;
