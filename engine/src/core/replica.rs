//! The replica: one node's half of a resource, as a state machine.
//!
//! This file holds the state and the dispatch of events. The behaviour stands beside it, one concern a file:
//! `requests` (the application's I/O), `remote` (a peer's I/O), `links` (connections and handshake), `source` and
//! `target` (resync), `resolve` (split brain), `commands`, `durable` (superblock, write-intent log, generations), `detach`
//! (failed disks), `heal` (reads through the peer), `hold` (deciding between an array's copies), `serve` (standing in for a peer), `cleaning`, `verify` (comparing both copies), `warm_up` (what
//! a take-over will read).

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::arbitration::Arbitration;
use super::cleaning::Cleaning;
use super::commands::{HeldPromotion, Promotion, Quiesce, SyncAsked};
use super::detach::{Attachment, BeforeDetach};
use super::durable::MetaPurpose;
use super::fault::{planted, Fault};
use super::heal::Heal;
use super::hold::Hold;
use super::links::Peer;
use super::ranges::RangeQueue;
use super::remote::RemoteWrite;
use super::requests::{LocalFlush, LocalWrite};
use super::serve::Answer;
use super::slab::Slab;
use super::target::TargetChunk;
use super::types::*;
use super::verify::{Compare, Saving, Verify};
use super::warm_up::WarmUp;
use crate::latency::Histogram;
use crate::meta::{Bitmap, Layout, Superblock};
use crate::payload::Payload;
use crate::wire::{DiskState, Role};

/// A set of peers, one bit a slot.
pub(super) type PeerMask = u8;

/// What a range of the backing device is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Local(usize),
    Remote(usize),
    Source(u64),
    Target(u64),
    Heal(usize),
    Answer(usize),
    Verify(u64),
    Compare(usize),
    Hold(u64),
}

/// Why a disk operation was started.
#[derive(Debug)]
pub(super) enum Purpose {
    Read {
        id: RequestId,
        offset: u64,
        len: u32,
        /// When the disk was asked; none where memory answers.
        asked: Option<Time>,
    },
    LocalWrite(usize),
    LocalFlush(usize),
    RemoteWrite(usize),
    Heal(usize),
    Answer(usize),
    RemoteFlush {
        peer: PeerSlot,
        connection: ConnectionId,
        seq: u64,
    },
    SourceRead {
        peer: PeerSlot,
        chunk: u64,
    },
    TargetRead(u64),
    TargetWrite {
        chunk: u64,
        bytes: u64,
    },
    AdoptFlush {
        peer: PeerSlot,
        connection: ConnectionId,
    },
    /// Of this region.
    WarmUp(u64),
    /// Of this chunk, that this node compares with the peer's, or the peer with its own.
    Verify(u64),
    Compare(usize),
    /// Of what is held.
    Hold,
}

impl Purpose {
    fn is_read(&self) -> bool {
        matches!(
            self,
            Purpose::Read { .. }
                | Purpose::Answer(_)
                | Purpose::SourceRead { .. }
                | Purpose::TargetRead(_)
                | Purpose::WarmUp(_)
                | Purpose::Verify(_)
                | Purpose::Compare(_)
        )
    }
}

/// What the metadata held when the resource was opened.
pub struct ReplicaMetadata {
    pub superblock: Superblock,
    pub layout: Layout,
    /// Out-of-sync bitmap of each peer slot.
    pub bitmaps: Vec<Bitmap>,
    /// Extents of the write-intent log.
    pub intent: Bitmap,
}

#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct IoCounters {
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub written_bytes: u64,
    pub flushes: u64,
    pub trims: u64,
    pub trimmed_bytes: u64,
    pub zeroes: u64,
    pub zeroed_bytes: u64,
    /// Reads that the disk failed, that the peer answered, and that were mended here.
    pub healed_reads: u64,
    pub healed_bytes: u64,
}

/// What this node's disk took for the application's requests, from when it was asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DiskLatency {
    pub(super) disk_reads: Histogram,
    pub(super) disk_writes: Histogram,
}

/// See the module's documentation.
pub struct Replica {
    pub(super) config: ReplicaConfig,
    pub(super) layout: Layout,
    pub(super) superblock: Superblock,
    pub(super) role: Role,
    /// Was Primary, and waits until this time for its peer's word before it goes on alone.
    pub(super) resuming: Option<Time>,
    /// Died as Primary, and no handshake has settled since what its last writes left behind.
    pub(super) crashed_primary: bool,
    pub(super) promotion: Option<Promotion>,
    /// The decision to be Primary is on its way to the metadata: it counts from here on.
    pub(super) promoting: bool,
    /// It is durable, and waits until the former Primary's last writes are on the disk.
    pub(super) promoted_when_drained: Option<HeldPromotion>,
    /// No Primary any more; its metadata do not say so yet.
    pub(super) demoting: bool,
    /// The permission for a peer to be Primary is on its way to the metadata: this node must not ask now. Where it was asked
    /// last.
    pub(super) allowing: Option<(PeerSlot, ConnectionId)>,
    /// A write of the peer was lost here since the last handshake.
    pub(super) has_hole: bool,
    /// No new requests: demote or stop is under way.
    pub(super) quiescing: Option<Quiesce>,
    pub(super) sync_asked: Option<SyncAsked>,
    pub(super) stopped: bool,
    /// Who asked for the commands that are not answered yet.
    pub(super) askers: BTreeMap<CommandId, String>,
    pub(super) deferred: Vec<(CommandId, Command, String)>,
    pub(super) disk_error: Option<String>,
    /// A flush failed, and no flush of the application has said so yet.
    pub(super) flush_error: Option<Errno>,
    pub(super) attachment: Attachment,
    /// A metadata write has failed.
    pub(super) meta_failed: bool,
    /// The last write of the superblock failed: its copy may be torn.
    pub(super) superblock_failed: bool,
    pub(super) before_detach: Option<BeforeDetach>,
    /// While this node stands in for another: an error that no flush of the other one has heard of.
    pub(super) stand_in_error: Option<Errno>,
    /// Writes of the other one that wait for the write-intent log.
    pub(super) unlogged: Vec<usize>,
    pub(super) peers: Vec<Peer>,

    /// Write-intent log: bits as they are, or are being made, durable.
    pub(super) intent: Bitmap,
    /// Set in `intent`, not durable yet.
    pub(super) intent_pending: HashSet<u64>,
    /// New in `intent_pending`, and not yet part of a metadata write.
    pub(super) intent_unsaved: Vec<u64>,
    pub(super) intent_writing: bool,
    /// Extents written since the cleaning cycle began.
    pub(super) touched: Bitmap,
    pub(super) cleaning: Cleaning,

    pub(super) ranges: RangeQueue<Holder>,
    pub(super) writes: Slab<LocalWrite>,
    pub(super) flushes: Slab<LocalFlush>,
    pub(super) heals: Slab<Heal>,
    pub(super) remote: Slab<RemoteWrite>,
    pub(super) answers: Slab<Answer>,
    pub(super) target_chunks: BTreeMap<u64, TargetChunk>,
    pub(super) purposes: Slab<Purpose>,
    pub(super) meta: Slab<MetaPurpose>,
    /// Writes that wait for the write-intent log or a new generation, in order.
    pub(super) to_start: VecDeque<usize>,
    /// Completed on every node that is still there, but the loss of the others is not durable yet.
    pub(super) writes_to_reply: VecDeque<usize>,
    pub(super) flushes_to_reply: VecDeque<usize>,
    pub(super) bumping: bool,
    pub(super) reads_in_flight: usize,
    pub(super) in_flight_bytes: u64,
    pub(super) remote_bytes: u64,
    /// Flushes of the peers that the disk works on.
    pub(super) remote_flushes: usize,
    /// Pieces of resync data that wait for the disk, and their bytes.
    pub(super) target_writes: usize,
    pub(super) target_bytes: u64,
    pub(super) last_request: Time,
    pub(super) next_chunk: u64,
    pub(super) next_bundle: u64,
    pub(super) counters: IoCounters,
    pub(super) latency: DiskLatency,
    pub(super) warm_up: WarmUp,
    /// A comparison of both copies that this node drives.
    pub(super) verify: Option<Box<Verify>>,
    /// Chunks of one that a peer drives.
    pub(super) compares: Slab<Compare>,
    /// A range that is held for a decision between this disk's own copies.
    pub(super) hold: Option<Box<Hold>>,
    /// What a peer is about to repair here.
    pub(super) saving: Option<Saving>,

    /// None: no arbiter is asked, and a person promotes.
    pub(super) arbitration: Option<Arbitration>,

    random: u64,
    pub(super) now: Time,
    pub(super) out: Vec<Action>,
}

impl Replica {
    /// A replica over metadata that was just opened. It starts as Secondary and dials its peers; with
    /// `resume`, a node whose daemon died as Primary becomes Primary again once its peer agrees or stays silent.
    pub fn new(config: ReplicaConfig, metadata: ReplicaMetadata, resume: bool, now: Time) -> Replica {
        let ReplicaMetadata {
            mut superblock,
            layout,
            bitmaps,
            intent,
        } = metadata;
        while superblock.peers.len() < config.peers.len() {
            superblock.peers.push(crate::meta::PeerRecord {
                name: config.peers[superblock.peers.len()].name.clone(),
                bitmap_generation: 0,
                full_sync: true,
                split_brain: false,
            });
        }
        if config.stale_generation != 0 && superblock.current == config.stale_generation {
            super::detach::mark_stale(&mut superblock);
        }
        let crashed_primary = superblock.role_primary && !superblock.clean;
        let nothing = Bitmap::new_intent(intent.len());
        let suspects = if planted(Fault::SuspectsIgnored) {
            &nothing
        } else {
            &intent
        };
        let peers = config
            .peers
            .iter()
            .zip(bitmaps)
            .enumerate()
            .map(|(slot, (peer, bitmap))| {
                Peer::new(peer, bitmap, superblock.peers[slot].full_sync, suspects, now)
            })
            .collect();
        // The arbiter's word is enough after a loss of power too, where a daemon has no memory of its role.
        let resume = resume || config.arbitration.is_some_and(|times| times.automatic);
        let resuming =
            (resume && superblock.role_primary && superblock.last_primary && superblock.current != 0)
                .then(|| now + config.resume_wait_ns);
        let extents = layout.extents();
        Replica {
            random: config.seed,
            arbitration: (config.arbitration)
                .map(|times| Arbitration::new(times, superblock.epoch, config.resume_wait_ns, now)),
            config,
            layout,
            superblock,
            role: Role::Secondary,
            resuming,
            crashed_primary,
            promotion: None,
            promoting: false,
            promoted_when_drained: None,
            demoting: false,
            allowing: None,
            has_hole: false,
            quiescing: None,
            sync_asked: None,
            stopped: false,
            askers: BTreeMap::new(),
            deferred: Vec::new(),
            disk_error: None,
            flush_error: None,
            attachment: Attachment::Attached,
            meta_failed: false,
            superblock_failed: false,
            before_detach: None,
            stand_in_error: None,
            unlogged: Vec::new(),
            peers,
            intent,
            intent_pending: HashSet::new(),
            intent_unsaved: Vec::new(),
            intent_writing: false,
            touched: Bitmap::new(extents),
            cleaning: Cleaning::idle(now),
            ranges: RangeQueue::new(),
            writes: Slab::new(),
            flushes: Slab::new(),
            heals: Slab::new(),
            remote: Slab::new(),
            answers: Slab::new(),
            target_chunks: BTreeMap::new(),
            purposes: Slab::new(),
            meta: Slab::new(),
            to_start: VecDeque::new(),
            writes_to_reply: VecDeque::new(),
            flushes_to_reply: VecDeque::new(),
            bumping: false,
            reads_in_flight: 0,
            in_flight_bytes: 0,
            remote_bytes: 0,
            remote_flushes: 0,
            target_writes: 0,
            target_bytes: 0,
            last_request: 0,
            next_chunk: 1,
            next_bundle: 1,
            counters: IoCounters::default(),
            latency: DiskLatency::default(),
            warm_up: WarmUp::new(),
            verify: None,
            hold: None,
            compares: Slab::new(),
            saving: None,
            now,
            out: Vec::new(),
        }
    }

    /// Takes in what happened and appends what shall be done.
    pub fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        debug_assert!(now >= self.now, "time went backwards");
        self.now = self.now.max(now);
        std::mem::swap(&mut self.out, actions);
        let all_heard = matches!(event, Event::Timeout);
        match event {
            Event::Request { id, kind } => self.on_request(id, kind),
            Event::DiskDone { token, result } => self.on_disk_done(token, result),
            Event::MetaDone { token, result } => self.on_meta_done(token, result),
            Event::ConnectionOpened { peer, connection } => self.on_connection_opened(peer, connection),
            Event::ConnectionLost {
                peer,
                connection,
                why,
            } => self.on_connection_lost(peer, connection, &why),
            Event::PeerProcessGone { connection, .. } => self.on_peer_process_gone(connection),
            Event::Received {
                peer,
                connection,
                epoch,
                message,
            } => self.on_message(peer, connection, epoch, message),
            Event::Command { id, command, by } => self.on_command(id, command, by),
            Event::BundleSaved { token, result } => self.on_bundle_saved(token, result),
            Event::ArbiterSays { ask, configuration } => self.on_arbiter_says(ask, configuration),
            Event::Timeout => {}
        }
        self.on_time(all_heard);
        self.arbitrate();
        self.save_intent();
        std::mem::swap(&mut self.out, actions);
    }

    /// When [`Event::Timeout`] is due, if nothing else happens before.
    pub fn next_timeout(&self) -> Option<Time> {
        let links = self
            .peers
            .iter()
            .filter_map(|peer| peer.next_timeout(&self.config, self.stopped));
        let own = [
            self.resumes_alone_at(),
            self.promotion.as_ref().map(|p| p.deadline),
            self.cleaning_due(),
            self.arbitration_due(),
            self.warm_up_due(),
            self.verify_due(),
            self.hold_due(),
        ];
        links.chain(own.into_iter().flatten()).min()
    }

    /// False while so much is in flight that frontends must not be read.
    pub fn accepts_requests(&self) -> bool {
        self.in_flight_bytes < IN_FLIGHT_BYTES_MAX
            && self.writes.len() + self.reads_in_flight + self.flushes.len() < IN_FLIGHT_WRITES_MAX
            && self.peers.iter().all(Peer::has_room)
    }

    /// False while so much of the peers' data waits for the disk that their sockets must not be read.
    pub fn accepts_messages(&self, _peer: PeerSlot) -> bool {
        self.remote_bytes + self.target_bytes < IN_FLIGHT_BYTES_MAX
            && self.remote.len() + self.answers.len() + self.remote_flushes + self.target_writes
                < IN_FLIGHT_WRITES_MAX
    }

    /// Whether this node dials that peer, and not the other way round.
    pub fn dials(&self, peer: PeerSlot) -> bool {
        self.peers[peer].dials()
    }

    /// How long a silent peer is borne with.
    pub fn peer_timeout(&self) -> Time {
        self.config.peer_timeout_ns
    }

    /// The configuration epoch that every frame carries.
    pub fn epoch(&self) -> u64 {
        self.frame_epoch()
    }

    /// Of the superblock that was written last.
    pub fn metadata_sequence(&self) -> u64 {
        self.superblock.sequence
    }

    pub fn role(&self) -> Role {
        self.role
    }

    /// That this node is Primary is decided, and on its way to the metadata.
    pub fn is_becoming_primary(&self) -> bool {
        self.promoting || self.promoted_when_drained.is_some()
    }

    /// It has ended all activity, and says nothing of the role that the next one will have.
    pub fn has_stopped(&self) -> bool {
        self.stopped
    }

    fn on_time(&mut self, all_heard: bool) {
        self.resolve_on_time();
        self.resolutions_on_time();
        self.save_bundles();
        self.links_on_time(all_heard);
        self.commands_on_time();
        self.clean_on_time();
        self.warm_up_on_time();
        self.verify_on_time();
        self.hold_on_time();
    }

    // ---- small shared pieces -------------------------------------------------------------------------

    pub(super) fn notice(&mut self, severity: Severity, name: &'static str, text: impl Into<String>) {
        self.out.push(Action::Notice(Notice {
            severity,
            name,
            text: text.into(),
        }));
    }

    /// For the history: durable before the command that caused it is answered.
    pub(super) fn record(
        &mut self,
        what: &'static str,
        text: impl Into<String>,
        command: Option<CommandId>,
        peer: Option<PeerSlot>,
        fields: Vec<(&'static str, String)>,
    ) {
        let record = self.record_of(what, text, command, peer, fields);
        self.out.push(Action::Record(record));
    }

    pub(super) fn record_of(
        &self,
        what: &'static str,
        text: impl Into<String>,
        command: Option<CommandId>,
        peer: Option<PeerSlot>,
        fields: Vec<(&'static str, String)>,
    ) -> Record {
        Record {
            what,
            text: text.into(),
            by: command.and_then(|id| self.askers.get(&id).cloned()),
            peer: peer.map(|slot| self.peers[slot].name.clone()),
            fields,
        }
    }

    /// For the history and for the log, under one name.
    pub(super) fn tell(
        &mut self,
        severity: Severity,
        what: &'static str,
        text: String,
        peer: Option<PeerSlot>,
        fields: Vec<(&'static str, String)>,
    ) {
        self.record(what, text.clone(), None, peer, fields);
        self.notice(severity, what, text);
    }

    pub(super) fn disk(&mut self, purpose: Purpose, op: DiskOp) {
        self.forget_changed(&op);
        let token = Token(self.purposes.insert(purpose) as u64);
        self.out.push(Action::Disk { token, op });
    }

    /// A fresh non-zero id (SplitMix64 over the seed).
    pub(super) fn random_id(&mut self) -> u64 {
        loop {
            self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.random;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            if z != 0 {
                return z;
            }
        }
    }

    /// Blocks touched by a byte range, partly covered ones included.
    pub(super) fn blocks_of(&self, offset: u64, len: u64) -> (u64, u64) {
        let size = u64::from(self.superblock.block_size_bytes);
        let first = offset / size;
        (first, (offset + len).div_ceil(size) - first)
    }

    pub(super) fn mark_dirty(&mut self, peer: PeerSlot, offset: u64, len: u64) {
        self.mark_dirty_since(peer, offset, len, self.now);
    }

    /// For a change that began then.
    pub(super) fn mark_dirty_since(&mut self, peer: PeerSlot, offset: u64, len: u64, since: Time) {
        let (first, count) = self.blocks_of(offset, len);
        self.peers[peer].dirty.set_since(first, count, since);
    }

    pub(super) fn is_inside(&self, offset: u64, len: u64) -> bool {
        len > 0
            && offset
                .checked_add(len)
                .is_some_and(|end| end <= self.superblock.data_size_bytes)
    }

    /// The disk state as others shall see it.
    pub(super) fn disk_state(&self) -> DiskState {
        if !self.is_attached() {
            return DiskState::Diskless;
        }
        match self.superblock.disk {
            DiskState::UpToDate if self.knows_newest() => DiskState::UpToDate,
            DiskState::UpToDate => DiskState::Consistent,
            other => other,
        }
    }

    fn knows_newest(&self) -> bool {
        self.role == Role::Primary
            || self
                .peers
                .iter()
                .any(|peer| peer.is_established() || peer.is_source_running())
            || self.superblock.last_primary && !self.crashed_primary
    }

    // ---- disk completions ----------------------------------------------------------------------------

    fn on_disk_done(&mut self, token: Token, result: Result<Option<Payload>, Errno>) {
        let Some(purpose) = self.purposes.remove(token.0 as usize) else {
            debug_assert!(false, "completion of an unknown operation");
            return;
        };
        if result.is_err() && !purpose.is_read() {
            // What the disk holds now is not known.
            self.forget_all();
        }
        match purpose {
            Purpose::Read {
                id,
                offset,
                len,
                asked,
            } => {
                if let Some(asked) = asked.filter(|_| result.is_ok()) {
                    self.latency.disk_reads.record(self.now - asked);
                }
                self.read_done(id, offset, len, result);
            }
            Purpose::LocalWrite(index) => self.local_write_done(index, result.map(drop)),
            Purpose::LocalFlush(index) => self.local_flush_done(index, result.map(drop)),
            Purpose::RemoteWrite(index) => self.remote_write_done(index, result.map(drop)),
            Purpose::Heal(index) => self.healed(index, result.map(drop)),
            Purpose::Answer(index) => self.answer_read(index, result),
            Purpose::RemoteFlush {
                peer,
                connection,
                seq,
            } => {
                self.remote_flush_done(peer, connection, seq, result.map(drop));
            }
            Purpose::SourceRead { peer, chunk } => self.source_read_done(peer, chunk, result),
            Purpose::TargetRead(chunk) => self.target_read_done(chunk, result),
            Purpose::TargetWrite { chunk, bytes } => {
                self.target_writes -= 1;
                self.target_bytes -= bytes;
                self.target_write_done(chunk, result.map(drop));
                self.peers_write_ended();
            }
            Purpose::AdoptFlush { peer, connection } => {
                self.adopt_flush_done(peer, connection, result.map(drop));
            }
            Purpose::WarmUp(region) => self.region_read(region, result),
            Purpose::Verify(chunk) => self.verify_read(chunk, result),
            Purpose::Compare(index) => self.compare_read(index, result),
            Purpose::Hold => self.settled(result.map(drop)),
        }
    }

    /// Lets those go on who waited for `holder`'s range.
    pub(super) fn release_range(&mut self, holder: Holder) {
        let mut ready = Vec::new();
        self.ranges.release(holder, &mut ready);
        for holder in ready {
            self.range_granted(holder);
        }
    }

    pub(super) fn range_granted(&mut self, holder: Holder) {
        match holder {
            Holder::Local(index) => self.prepare_write(index),
            Holder::Remote(index) => self.start_remote_write(index),
            Holder::Source(chunk) => self.start_source_read(chunk),
            Holder::Target(chunk) => self.start_target_chunk(chunk),
            Holder::Heal(index) => self.ask_for_heal(index),
            Holder::Answer(index) => self.start_answer(index),
            Holder::Verify(chunk) => self.start_verify_in_order(chunk),
            Holder::Compare(index) => self.start_compare(index),
            Holder::Hold(ticket) => self.ask_for_hold(ticket),
        }
    }
}

/// Bytes and operations in flight, at most, in each direction.
pub const IN_FLIGHT_BYTES_MAX: u64 = 64 << 20;
pub const IN_FLIGHT_WRITES_MAX: usize = 4096;

/// An error number as people read it.
pub(super) fn describe(errno: Errno) -> String {
    std::io::Error::from_raw_os_error(errno.0).to_string()
}
