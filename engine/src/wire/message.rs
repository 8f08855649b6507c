//! The messages of the replication protocol.
//!
//! A connection opens with [`Hello`] from both sides, then [`NodeState`] from both sides; the verdict over the
//! two states decides what follows (see `core::handshake`). Every message after `Hello` travels in a
//! frame that carries the sender's epoch, a sequence number, a header check and, over any payload, its XXH3-64.

use crate::payload::Payload;

/// The newest and the oldest protocol version that this build speaks.
pub const VERSION_MAX: u16 = 1;
pub const VERSION_MIN: u16 = 1;

/// Optional abilities, one bit each, in use when both sides offer them. Unknown bits are ignored.
pub mod feature {
    /// TRIM travels as such (both sides read zeroes after it).
    pub const TRIM: u64 = 1 << 0;
    /// WRITE_ZEROES travels as such.
    pub const WRITE_ZEROES: u64 = 1 << 1;
    /// Resync by comparison of XXH3-128 checksums a chunk.
    pub const CHECKSUM_RESYNC: u64 = 1 << 2;
    /// A Primary tells what it reads most ([`Message::HotRanges`](super::Message::HotRanges)).
    pub const HOT_RANGES: u64 = 1 << 4;
    /// Both copies can be compared while they are in use ([`Message::VerifyChunk`](super::Message::VerifyChunk)).
    pub const VERIFY: u64 = 1 << 5;
    pub const ALL: u64 = TRIM | WRITE_ZEROES | CHECKSUM_RESYNC | HOT_RANGES | VERIFY;
    /// A session of several paths (see [`Hello::session`](super::Hello::session), which says it): the driver's to
    /// offer, not the core's.
    pub const PATHS: u64 = 1 << 3;
}

/// Largest payload of one frame, in bytes; larger is a protocol error before any memory is taken.
pub const PAYLOAD_MAX: u32 = 32 << 20;
/// Largest number of blocks in one chunk of a resync or a verify, and so of checksums in one
/// [`Message::ChunkDiffers`] or [`Message::VerifyDiffers`].
pub const CHUNK_BLOCKS_MAX: u32 = 1024;
/// Largest number of runs in one [`Message::BitmapRuns`] or [`Message::VerifySave`].
pub const BITMAP_RUNS_MAX: usize = 4096;
/// Largest number of ranges in one [`Message::HotRanges`].
pub const HOT_RANGES_MAX: usize = 1024;
/// Longest name of a resource or a node, in bytes.
pub const NAME_MAX: usize = 64;
/// Longest text of a [`Message::Report`], in bytes.
pub const REPORT_MAX: usize = 64 << 10;
/// Longest text of a [`Message::Goodbye`] or a [`Message::VerifySaved`], in bytes.
pub const TEXT_MAX: usize = 512;
/// Largest number of paths of one session.
pub const PATHS_MAX: usize = 16;
/// Number of earlier generations that a node remembers.
pub const HISTORY_LEN: usize = 8;

/// When a write is acknowledged to the application (DRBD's names).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Protocol {
    /// Local write done, frame queued.
    A,
    /// The peer has it in memory.
    B,
    /// The peer's write is done.
    C,
}

/// Who loses a split brain without a person. A side that is Primary, and a survivor without a usable copy, leave it
/// to a person with every policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum SplitBrainPolicy {
    /// Nobody.
    Manual = 1,
    /// A side that changed nothing since the split.
    #[default]
    DiscardZeroChanges = 2,
    /// The side that changed fewer blocks.
    DiscardLeastChanges = 3,
    /// The side that went on alone earlier, by the clocks.
    DiscardOlderPrimary = 4,
    /// The side that went on alone later, by the clocks.
    DiscardYoungerPrimary = 5,
    /// The side with the lower configured priority.
    Priority = 6,
}

impl SplitBrainPolicy {
    pub const ALL: [SplitBrainPolicy; 6] = [
        SplitBrainPolicy::Manual,
        SplitBrainPolicy::DiscardZeroChanges,
        SplitBrainPolicy::DiscardLeastChanges,
        SplitBrainPolicy::DiscardOlderPrimary,
        SplitBrainPolicy::DiscardYoungerPrimary,
        SplitBrainPolicy::Priority,
    ];

    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            SplitBrainPolicy::Manual => "manual",
            SplitBrainPolicy::DiscardZeroChanges => "discard-zero-changes",
            SplitBrainPolicy::DiscardLeastChanges => "discard-least-changes",
            SplitBrainPolicy::DiscardOlderPrimary => "discard-older-primary",
            SplitBrainPolicy::DiscardYoungerPrimary => "discard-younger-primary",
            SplitBrainPolicy::Priority => "priority",
        }
    }
}

/// What the sender of a Hello wants of this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// To replicate, whatever the verdict says.
    Replicate,
    /// To end a split brain by giving up its own changes; `bundle` false: without saving them.
    DiscardMine { bundle: bool },
    /// To end a split brain by giving up the receiver's changes.
    DiscardYours { bundle: bool },
    /// Only to know what a connect would do: the receiver tells its Hello, its State and its marks, and nothing
    /// changes. `report`: and what its control plane says of the data.
    Consult { report: bool },
    /// Another path of the session that the Hello names, nothing else.
    Join,
}

impl Intent {
    /// Whether a person has said whose changes go.
    pub fn resolves(self) -> bool {
        matches!(self, Intent::DiscardMine { .. } | Intent::DiscardYours { .. })
    }
}

/// What tells one session from another, and proves that a further path belongs to it: random, and known to its two
/// nodes alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionId(pub [u8; 16]);

impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It is a secret.
        f.write_str("SessionId")
    }
}

/// A session of several paths, in the Hellos of its connections (see [`crate::session`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionHello {
    pub id: SessionId,
    /// Which of its paths this connection is, and how many there are, in the order of the side that dials.
    pub path: u16,
    pub paths: u16,
}

/// The first frame of either side: who is there, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub version_min: u16,
    pub version_max: u16,
    pub features: u64,
    /// Resource as named in the configuration.
    pub resource: String,
    /// Drawn at the first sync; all zero while the resource has never had data.
    pub resource_id: [u8; 16],
    /// The sender, and whom it wants to talk to.
    pub node: String,
    pub peer: String,
    /// Usable bytes of the sender's backing device.
    pub data_size_bytes: u64,
    pub block_size_bytes: u32,
    pub protocol: Protocol,
    /// Which of several connections between the two nodes this is; 0 carries everything in version 1.
    pub channel: u16,
    /// Random, fresh a connection: both are logged with the verdict.
    pub nonce: u64,
    pub intent: Intent,
    pub policy: SplitBrainPolicy,
    pub priority: u32,
    /// Of who dialled: offered; of the other: accepted.
    pub session: Option<SessionHello>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Role {
    Primary,
    Secondary,
}

/// DRBD's disk states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum DiskState {
    /// No backing device, or it failed.
    Diskless,
    /// In the middle of becoming a copy: not usable, never a source.
    Inconsistent,
    /// A usable copy of the past; known to be behind.
    Outdated,
    /// A usable copy; whether it is the newest is not known without the peer.
    Consistent,
    UpToDate,
}

/// Generation ids: 0 stands for none everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generations {
    /// Of the data as it is.
    pub current: u64,
    /// From which one the sender tracks changes for the receiver.
    pub bitmap: u64,
    /// Newest first.
    pub history: [u64; HISTORY_LEN],
}

/// Inputs of the handshake's verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    pub role: Role,
    pub disk: DiskState,
    pub generations: Generations,
    /// Blocks marked out of sync for the receiver.
    pub dirty_blocks: u64,
    /// Extents that may differ since a crash or an unflushed disconnect.
    pub suspect_extents: u64,
    /// The sender's whole device is out of sync for the receiver.
    pub full_sync: bool,
    /// The sender was Primary when its daemon or machine died.
    pub crashed_primary: bool,
    /// The sender was the last Primary that it knows of.
    pub last_primary: bool,
    /// Configuration epoch, and the highest one promised.
    pub epoch: u64,
    pub promised: u64,
    /// By the sender's clock, seconds since 1970, 0 unknown: when it opened its current generation by going on alone,
    /// and when it last noted a change. Labels, and the input of the two policies by age.
    pub diverged_at_s: u64,
    pub changed_at_s: u64,
    /// The sender died as Primary and waits for its peer's word before it goes on as one: its data are in use.
    pub resuming: bool,
    /// True in the first state of a connection, which a verdict must follow; false in updates.
    pub handshake: bool,
}

/// Why a side ends a connection; decides whether the other side tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum GoodbyeReason {
    /// An administrator's `disconnect` or `down`: come back later.
    Disconnect = 1,
    UnknownResource = 2,
    OtherResource = 3,
    Version = 4,
    Size = 5,
    BlockSize = 6,
    Protocol = 7,
    /// The verdict forbids this connection (split brain, unrelated data, two primaries).
    Refused = 8,
    ProtocolError = 9,
    UnknownNode = 10,
    /// Busy with another connection of the same peer: try again.
    Busy = 11,
    /// The nodes have different split brain policies.
    Policy = 12,
    /// The sender's disk or metadata failed, and are detached: come back until it has another one.
    Diskless = 13,
}

/// One run of blocks that are out of sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRun {
    pub first: u64,
    pub count: u64,
}

/// A part of the device that is read often, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotRange {
    pub offset: u64,
    pub len: u64,
}

/// Result of a disk operation as it crosses the wire: 0 or an errno.
pub type Status = u16;

/// Everything one node says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Hello(Hello),
    State(NodeState),
    Goodbye {
        reason: GoodbyeReason,
        text: String,
    },
    Ping {
        sent_ns: u64,
    },
    /// `lease_ns`: the sender will not campaign for so long, from when it received the Ping. 0: it gives no such word.
    Pong {
        sent_ns: u64,
        lease_ns: u64,
    },

    // Replication. `seq` counts all of these on one connection, from 1, without holes.
    Write {
        seq: u64,
        offset: u64,
        payload: Payload,
        fua: bool,
    },
    WriteZeroes {
        seq: u64,
        offset: u64,
        len: u64,
        fua: bool,
        unmap: bool,
    },
    Trim {
        seq: u64,
        offset: u64,
        len: u64,
        fua: bool,
    },
    /// Everything sent before this is stable on the receiver when it answers.
    Flush {
        seq: u64,
    },
    /// In memory (protocol B).
    Received {
        seq: u64,
    },
    /// Done: on disk, or failed with an errno.
    Done {
        seq: u64,
        status: Status,
    },

    // A Primary whose disk failed, and the node that stands in for it.
    /// The sender is Primary, and its disk is detached: once it hears [`Message::DetachedOk`], it goes on through
    /// the receiver's copy alone.
    Detached,
    /// The receiver's copy is durably ahead of the sender's of [`Message::Detached`], and keeps track of the difference.
    DetachedOk,
    /// The sender cannot read this itself. Answered after every write that was sent before it.
    ReadRequest {
        id: u64,
        offset: u64,
        len: u32,
    },
    ReadData {
        id: u64,
        offset: u64,
        payload: Payload,
    },
    /// The receiver cannot read it either: an errno.
    ReadFailed {
        id: u64,
        status: Status,
    },

    /// The sender is Primary, and reads these most, the hottest first: all that is known, in the place of what it said
    /// before. Only where both offer [`feature::HOT_RANGES`].
    HotRanges {
        ranges: Vec<HotRange>,
    },

    // Roles.
    /// The sender asks whether it may become Primary.
    PromoteRequest,
    PromoteReply {
        allowed: bool,
    },
    /// The sender asks the receiver to become the source of the first full sync.
    SyncRequest,
    SyncReply {
        allowed: bool,
    },

    // Resync, source to target unless said otherwise.
    /// Target to source: the target's own marks, merged into the source's bitmap before it starts.
    BitmapRuns {
        runs: Vec<BlockRun>,
        last: bool,
    },
    /// What will be compared: bytes in total, for the target's progress display.
    ResyncStart {
        blocks: u64,
    },
    /// XXH3-128 of one chunk of the source's data; `zero`: all of it is zeroes.
    ChunkHash {
        id: u64,
        offset: u64,
        len: u32,
        hash: u128,
        zero: bool,
    },
    /// Target: mine is the same (or is now, after a `zero`).
    ChunkSame {
        id: u64,
    },
    /// Target: mine differs; the checksum of each of its blocks.
    ChunkDiffers {
        id: u64,
        hashes: Vec<u128>,
    },
    /// Data of a run of blocks inside chunk `id`.
    ChunkData {
        id: u64,
        offset: u64,
        payload: Payload,
    },
    /// A chunk's data unasked, where asking lately never paid: answered by [`Message::ChunkDone`].
    ChunkWhole {
        id: u64,
        offset: u64,
        payload: Payload,
    },
    /// No more data for this chunk.
    ChunkEnd {
        id: u64,
    },
    /// Target: the chunk is written, or failed with an errno.
    ChunkDone {
        id: u64,
        status: Status,
    },
    /// Everything is compared: flush, adopt this generation, become UpToDate.
    ResyncEnd {
        current: u64,
        history: [u64; HISTORY_LEN],
        resource_id: [u8; 16],
    },
    /// Target: done, durably.
    ResyncEnded {
        current: u64,
    },

    // Verify: whoever drives it to the other. Only where both offer [`feature::VERIFY`], and in step.
    /// XXH3-128 of one chunk of the sender's data. `ordered`: it changes nothing there until this is answered, and
    /// the receiver reads in the order of arrival, after every write that was sent before.
    VerifyChunk {
        id: u64,
        offset: u64,
        len: u32,
        hash: u128,
        ordered: bool,
    },
    /// The receiver's is the same.
    VerifySame {
        id: u64,
    },
    /// It is not: the checksum of each of the receiver's blocks.
    VerifyDiffers {
        id: u64,
        hashes: Vec<u128>,
    },
    /// The receiver cannot read it, or does not follow any more: an errno.
    VerifyFailed {
        id: u64,
        status: Status,
    },
    /// What came of it, for the receiver's record: these bytes were the same.
    VerifyProved {
        offset: u64,
        len: u64,
    },
    /// This block was not; checksums of the sender's and of the receiver's.
    VerifyFound {
        offset: u64,
        len: u32,
        own: u128,
        peer: u128,
    },
    /// The sender is Primary, and about to overwrite these blocks of the receiver with its own: they are to be saved
    /// first.
    VerifySave {
        runs: Vec<BlockRun>,
    },
    /// They are, verified and durable; or why not, for people.
    VerifySaved {
        saved: bool,
        text: String,
    },

    /// The end of the answer to [`Intent::Consult`]: what the control plane says of the data, opaque here; empty if
    /// it was not asked or says nothing.
    Report {
        text: String,
    },

    // Between the two ends of a session of several paths, and no frames of it.
    /// The sender has received the session's frames up to this number; also said only to be heard.
    PathAcknowledge {
        received: u64,
    },
    /// From here on the session's frames travel on this connection.
    PathResume {
        turn: u64,
        received: u64,
    },
}

impl Message {
    /// Bytes that keeping it costs, about.
    pub fn weight(&self) -> usize {
        std::mem::size_of::<Message>()
            + match self {
                Message::Write { payload, .. }
                | Message::ReadData { payload, .. }
                | Message::ChunkData { payload, .. }
                | Message::ChunkWhole { payload, .. } => payload.len(),
                Message::BitmapRuns { runs, .. } | Message::VerifySave { runs } => {
                    std::mem::size_of_val(&runs[..])
                }
                Message::HotRanges { ranges } => std::mem::size_of_val(&ranges[..]),
                Message::ChunkDiffers { hashes, .. } | Message::VerifyDiffers { hashes, .. } => {
                    std::mem::size_of_val(&hashes[..])
                }
                Message::Goodbye { text, .. }
                | Message::Report { text }
                | Message::VerifySaved { text, .. } => text.len(),
                _ => 0,
            }
    }
}
