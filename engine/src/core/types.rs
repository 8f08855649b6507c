//! What goes into the core and what comes out.

use std::collections::BTreeSet;

use crate::payload::Payload;
use crate::wire::{BlockRun, Generations, GoodbyeReason, Message, Protocol, SplitBrainPolicy};

/// Monotonic time in nanoseconds, from an arbitrary origin; always an argument, never read.
pub type Time = u64;

/// Index of a peer in the configuration and in the metadata.
pub type PeerSlot = usize;

/// One TCP connection; never reused in the life of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Names one application request; the driver chooses it and gets it back with the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Names one disk or metadata operation; the core chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// Names one control command; the driver chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(pub u64);

/// A system error number as the kernel gave it (EIO, ENOSPC, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    pub const EIO: Errno = Errno(libc::EIO);
    pub const EINVAL: Errno = Errno(libc::EINVAL);
    pub const ENOSPC: Errno = Errno(libc::ENOSPC);
    pub const ESHUTDOWN: Errno = Errno(libc::ESHUTDOWN);
    pub const EROFS: Errno = Errno(libc::EROFS);
}

/// What an application asks of the device. Ranges are inside the device and non-empty: the frontend checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestKind {
    Read {
        offset: u64,
        len: u32,
    },
    Write {
        offset: u64,
        payload: Payload,
        fua: bool,
    },
    WriteZeroes {
        offset: u64,
        len: u64,
        fua: bool,
        unmap: bool,
    },
    Trim {
        offset: u64,
        len: u64,
        fua: bool,
    },
    Flush,
}

/// An operation on the backing device's data area; offsets in bytes from its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOp {
    Read {
        offset: u64,
        len: u32,
    },
    /// `fua`: stable before it completes.
    Write {
        offset: u64,
        payload: Payload,
        fua: bool,
    },
    /// Reads as zeroes afterwards. `unmap`: may deallocate. Used for TRIM too, so that both copies stay equal.
    Zero {
        offset: u64,
        len: u64,
        unmap: bool,
        fua: bool,
    },
    /// All completed writes are stable.
    Flush,
}

/// A page-aligned write into the metadata region; offset in bytes from the region's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaWrite {
    pub offset: u64,
    pub bytes: Payload,
}

/// Commands of the control plane; each is answered by exactly one [`Action::CommandDone`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Connect {
        peer: PeerSlot,
    },
    Disconnect {
        peer: PeerSlot,
    },
    Promote {
        force: bool,
    },
    Demote,
    /// Makes a node the source of the first full sync (or starts a whole resync by checksum).
    SyncFrom {
        source: SyncSource,
    },
    /// Ends a split brain: the victim's changes go, once they are saved in a bundle. Done when the resync has
    /// started, or was refused.
    Resolve {
        victim: Victim,
        /// False: nothing is saved of what goes; recorded as such.
        bundle: bool,
    },
    /// Compares both copies of these bytes. Done when that has begun; [`Action::Verified`] says what comes of it.
    Verify {
        offset: u64,
        len: u64,
        /// Bytes a second, at most.
        max_rate: Option<u64>,
    },
    /// Ends the comparison that was asked for here, if there is one.
    VerifyStop,
    /// Overwrites these blocks of the peer with this Primary's, once the peer has saved them in a bundle. In rising
    /// order, apart from each other. Done when they are written, flushed, and compared.
    Repair {
        runs: Vec<BlockRun>,
    },
    /// Holds these blocks, so that nothing is written to them, and fetches the peer's copy of them. Done with
    /// [`Action::Held`], or not at all.
    Hold {
        offset: u64,
        len: u64,
    },
    /// Writes these blocks of what is held as the peer has them, and lets go. In rising order, apart from each other.
    Settle {
        ticket: u64,
        runs: Vec<BlockRun>,
        /// For the history.
        why: String,
    },
    /// Reads what the Primary reads most, so that a switchover to this node finds it in memory.
    WarmUp,
    /// Ends all activity and makes the metadata clean; the driver stops afterwards.
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncSource {
    Myself,
    Peer(PeerSlot),
}

/// What came of comparing both copies, in bytes. A node that was compared hears it too, but for [`Verified::Ended`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Both copies of this are the same.
    Proved { offset: u64, len: u64 },
    /// This is marked, and was not compared.
    Skipped { offset: u64, len: u64 },
    /// One block that differs: the XXH3-128 of this node's and of the peer's.
    Found {
        offset: u64,
        len: u32,
        own: u128,
        peer: u128,
    },
    /// What this node was asked to compare is compared, or the rest of it is not.
    Ended { cut: Option<Cut> },
}

/// Why a comparison did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub why: String,
    /// It may go on when that is over: a lost connection, a resync, a change of roles.
    pub passing: bool,
}

/// Whose changes a resolution gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    Myself,
    Peer(PeerSlot),
}

/// Who may write in an epoch, and which nodes have every write that was acknowledged: what the arbiter's register holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// From 1.
    pub epoch: u64,
    pub primary: String,
    pub in_sync: BTreeSet<String>,
}

/// What this node wants of the arbiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskRequest {
    /// What the register holds.
    Read,
    /// To make it `next`, durably, if it is `expected`; then what the register holds, read after the swap, whatever came
    /// of it.
    Swap {
        expected: Option<Configuration>,
        next: Configuration,
    },
}

/// Who is to blame for a refused command decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The command could lose or fork data: exit code 3.
    Unsafe,
    /// It failed, or makes no sense now: exit code 1.
    Failed,
}

/// A refusal that a person can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandError {
    pub kind: ErrorKind,
    pub message: String,
    pub remedy: String,
}

/// What happened, seen by the core.
#[derive(Clone, Debug)]
pub enum Event {
    Request {
        id: RequestId,
        kind: RequestKind,
    },
    DiskDone {
        token: Token,
        result: Result<Option<Payload>, Errno>,
    },
    MetaDone {
        token: Token,
        result: Result<(), Errno>,
    },
    /// A TCP connection to this peer exists (either side dialled).
    ConnectionOpened {
        peer: PeerSlot,
        connection: ConnectionId,
    },
    /// The connection ended without a word, or after garbage; `why` is for people.
    ConnectionLost {
        peer: PeerSlot,
        connection: ConnectionId,
        why: String,
    },
    /// Of the process at the other end of a connection that ended without a word, nothing is left: its machine answers,
    /// and refuses its port. It holds no word of this node's any more.
    PeerProcessGone {
        peer: PeerSlot,
        connection: ConnectionId,
    },
    /// A checked message. Messages of a connection arrive in the order sent.
    Received {
        peer: PeerSlot,
        connection: ConnectionId,
        /// Of its frame: the sender's when it sent it. Zero for a Hello.
        epoch: u64,
        message: Message,
    },
    Command {
        id: CommandId,
        command: Command,
        /// Who asked, for the history: "root via blockpair promote". Empty: nobody, the resource starts.
        by: String,
    },
    /// The victim's blocks are stable and verified, or nothing was saved and why, for people. Also of
    /// [`Action::RecordDiscard`]: that they go unsaved is durably in the history, or why it is not.
    BundleSaved {
        token: Token,
        result: Result<(), String>,
    },
    /// What the arbiter holds, read after this [`Action::Ask`] was put, and after its swap. Of an older ask it is ignored.
    ArbiterSays {
        ask: u64,
        configuration: Option<Configuration>,
    },
    /// Time has reached [`next_timeout`](super::Replica::next_timeout), and all that had arrived by then was handed in before:
    /// only here is silence held against a peer.
    Timeout,
}

/// What the driver shall do. Actions on one connection or one disk are executed in the order given.
#[derive(Clone, Debug)]
pub enum Action {
    Disk {
        token: Token,
        op: DiskOp,
    },
    /// Hand this back by [`Event::DiskDone`], as if the disk had read it: by then the time is known anew.
    Recall {
        token: Token,
        data: Payload,
    },
    /// Durable, all of it, before [`Event::MetaDone`]. Metadata operations run one after the other, and each may build on
    /// those before it: once one has failed, those behind it fail untouched, but for what was asked for `after_failure`.
    Meta {
        token: Token,
        writes: Vec<MetaWrite>,
        /// The core knows that one has failed.
        after_failure: bool,
    },
    Send {
        peer: PeerSlot,
        connection: ConnectionId,
        /// For its frame.
        epoch: u64,
        message: Message,
    },
    /// Close after what is queued was sent.
    Close {
        peer: PeerSlot,
        connection: ConnectionId,
    },
    /// One attempt to reach the peer: ends in [`Event::ConnectionOpened`] or [`Event::ConnectionLost`].
    Dial {
        peer: PeerSlot,
    },
    Reply {
        id: RequestId,
        result: Result<Option<Payload>, Errno>,
    },
    /// The export may be offered (only while Primary), or must be withdrawn.
    Export {
        open: bool,
    },
    CommandDone {
        id: CommandId,
        result: Result<(), CommandError>,
    },
    Notice(Notice),
    /// For the history. It comes before the answer to the command that caused it: a driver that makes it durable first
    /// never tells a person of what its history does not say. Nothing else waits for it.
    Record(Record),
    /// Copy these blocks of this node's device to a safe place; ends in [`Event::BundleSaved`].
    SaveBundle {
        token: Token,
        bundle: BundleRequest,
    },
    /// In a bundle's place, where a person wants none: nothing goes before the history durably says so. Ends in
    /// [`Event::BundleSaved`].
    RecordDiscard {
        token: Token,
        record: Record,
    },
    /// Nobody waits for this bundle any more; what is there of it may go.
    DropBundle {
        token: Token,
    },
    /// For the record of what is proved and found.
    Verified(Verified),
    /// The peer's copy of the range that is held; before its command is done.
    Held {
        ticket: u64,
        data: Payload,
    },
    /// Ask the arbiter, for as long as it takes. One ask is open at a time: this one supersedes any before it.
    Ask {
        ask: u64,
        request: AskRequest,
    },
    /// Nobody waits for this ask any more. A swap under way may still come to be.
    Withdraw {
        ask: u64,
    },
}

/// What a split brain's victim is about to lose, and what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleRequest {
    /// The survivor.
    pub peer: PeerSlot,
    /// The handshake's rule that found the split brain.
    pub rule: &'static str,
    /// Who or what made this node the victim, for people.
    pub why: String,
    /// Both sides' generations at the handshake.
    pub victim: Generations,
    pub survivor: Generations,
    pub block_size_bytes: u32,
    pub data_size_bytes: u64,
    /// In rising order, apart from each other: every block that the resync may overwrite.
    pub runs: Vec<BlockRun>,
}

/// One entry of the history: a decision, or what came of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Record {
    /// Stable, dotted: `role.promoted`, `sync.started`, `split_brain.found`.
    pub what: &'static str,
    pub text: String,
    /// Who asked for it, where somebody did.
    pub by: Option<String>,
    pub peer: Option<String>,
    /// Inputs and outcomes by stable names.
    pub fields: Vec<(&'static str, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Warning,
    Error,
}

/// Something for the log and the event stream: stable name, text for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Notice {
    pub severity: Severity,
    /// Stable, dotted: `peer.connected`, `resync.finished`.
    pub name: &'static str,
    pub text: String,
}

/// What an error of the backing device means. An error of the metadata always detaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnIoError {
    /// The disk is given up, where another node has a good copy: the node goes on without it.
    #[default]
    Detach,
    /// The error goes to whoever asked; what it leaves behind is marked.
    PassOn,
}

/// Fixed properties of a resource on this node.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    pub resource: String,
    pub node: String,
    pub protocol: Protocol,
    pub peers: Vec<PeerConfig>,
    /// Silence after which a peer counts as lost.
    pub peer_timeout_ns: Time,
    /// How long a node that was Primary waits for its peer's word before it resumes alone.
    pub resume_wait_ns: Time,
    /// Seed for generation ids and nonces: a run is a function of it.
    pub seed: u64,
    /// Who loses a split brain without a person; the same on both nodes.
    pub policy: SplitBrainPolicy,
    /// For [`SplitBrainPolicy::Priority`]: the higher one survives.
    pub priority: u32,
    pub on_io_error: OnIoError,
    /// Generation that another node is known to have gone beyond, while these metadata could not be written: 0 none.
    pub stale_generation: u64,
    /// Seconds since 1970 at [`Time`] 0. Labels only: no decision about a copy's safety looks at it.
    pub wall_offset_s: u64,
    /// None: nobody is asked who may write; a person promotes.
    pub arbitration: Option<ArbitrationConfig>,
    /// None: nothing is read ahead of a take-over.
    pub read_ahead: Option<ReadAhead>,
}

/// What a node does with what its Primary reads most, once it takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAhead {
    /// At most so much is read.
    pub bytes: u64,
    /// Nothing between the engine and the disk remembers what was read: the core does.
    pub keep: bool,
}

/// The times of arbitration; the same on both nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArbitrationConfig {
    /// A peer hears something at least this often.
    pub beacon_ns: Time,
    /// How long a follower's word not to campaign holds, from when it received what it answers.
    pub lease_ns: Time,
    /// Silence after which a peer counts as lost.
    pub patience_ns: Time,
    /// How far a clock may run wrong, in millionths.
    pub drift_ppm: u32,
    /// How long the arbiter may take to answer: what whoever asks for a promotion waits over the lease.
    pub answer_ns: Time,
    /// Whether this node campaigns without a person, when the Primary is lost.
    pub automatic: bool,
}

impl ArbitrationConfig {
    /// How long whoever asks for a promotion waits for the arbiter.
    pub(super) fn promotion_patience(&self) -> Time {
        self.lease_ns.saturating_add(self.answer_ns)
    }
}

#[derive(Clone, Debug)]
pub struct PeerConfig {
    pub name: String,
    /// This node dials; the other listens. Exactly one side of a pair dials.
    pub dial: bool,
}

/// A refusal at the handshake, kept for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: GoodbyeReason,
    pub text: String,
}
