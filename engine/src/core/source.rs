//! Resync, the source's half: compares chunk by chunk and sends what differs.
//!
//! A chunk's range is held from before it is read until the target has it, so the application's writes to
//! it wait for one chunk at most, and never race it. The marks of a chunk are cleared in one place,
//! [`Replica::clear_marks`], for one of two reasons: equal strong checksums, or a verified transfer.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_128;

use super::durable::Then;
use super::fault::{planted, Fault};
use super::links::Phase;
use super::marks::Evidence;
use super::replica::{describe, Holder, Purpose, Replica};
use super::types::*;
use crate::payload::Payload;
use crate::wire::{DiskState, GoodbyeReason, Message, Status, CHUNK_BLOCKS_MAX};

/// Bytes of one chunk, unless a block is larger.
pub const CHUNK_BYTES: u64 = 256 << 10;
/// Chunks under way when the application is idle, and when it is not.
const WINDOW_IDLE: usize = 32;
const WINDOW_BUSY: usize = 4;
/// The application counts as busy this long after its last request.
const BUSY_FOR: Time = 200_000_000;
/// After this many chunks in a row of which every block differed, asking first is a waste; every so many chunks
/// it is tried again.
const STREAK_UNASKED: u32 = 8;
const UNASKED_MAX: u32 = 15;
/// The target hears what is left after this many chunks.
const PROGRESS_EVERY: u32 = 16;

/// How far a resync is, on either side. Byte counts are of marked blocks unless they say otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub to_peer: bool,
    pub total_blocks: u64,
    pub left_blocks: u64,
    /// Compared and found equal, in bytes of chunks.
    pub same_bytes: u64,
    /// Data bytes that crossed the wire.
    pub sent_bytes: u64,
    pub started: Time,
    /// When it finished or broke off.
    pub ended: Option<Time>,
    pub finished: bool,
}

impl Progress {
    pub(super) fn new(to_peer: bool, started: Time) -> Progress {
        Progress {
            to_peer,
            total_blocks: 0,
            left_blocks: 0,
            same_bytes: 0,
            sent_bytes: 0,
            started,
            ended: None,
            finished: false,
        }
    }
}

struct SourceChunk {
    offset: u64,
    len: u32,
    /// What was read, until the target says that it differs.
    data: Option<Payload>,
    /// All of it is zeroes: the target needs no data to write it.
    zero: bool,
    /// Its checksum, or its data, was sent; before that, no answer can mean anything.
    told: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// The superblock is being made ready for the peer's new generation.
    Saving,
    Sent,
}

/// A resync towards one peer.
pub(super) struct Source {
    /// Superblocks under way that say what the target is about to lack.
    saves: u32,
    /// The target's marks have arrived.
    marks_known: bool,
    /// The target's marks have arrived: comparing has begun, and writes are mirrored.
    pub(super) running: bool,
    cursor: u64,
    chunks: BTreeMap<u64, SourceChunk>,
    /// Chunks that wait until their extents are in the write-intent log.
    unlogged: Vec<u64>,
    ending: Ending,
    completed: u32,
    /// Chunks in a row that differed entirely, and chunks sent unasked since one was asked about.
    streak: u32,
    unasked: u32,
    pub(super) progress: Progress,
}

impl Source {
    pub(super) fn extents_in_flight(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.chunks
            .values()
            .map(|chunk| (chunk.offset, u64::from(chunk.len)))
    }
}

impl Replica {
    fn source_mut(&mut self, slot: PeerSlot) -> Option<&mut Source> {
        match &mut self.peers[slot].link.as_mut()?.phase {
            Phase::Source(source) => Some(source),
            _ => None,
        }
    }

    pub(super) fn begin_source(&mut self, slot: PeerSlot, whole: bool) {
        let block_size = u64::from(self.superblock.block_size_bytes);
        let now = self.now;
        let peer = &mut self.peers[slot];
        if whole {
            peer.dirty.set_all();
        }
        peer.mark_suspects(block_size);
        if let Some(known) = &mut peer.known {
            known.disk = DiskState::Inconsistent;
        }
        let unsaved = whole && !self.superblock.peers[slot].full_sync;
        let source = Source {
            saves: 0,
            marks_known: false,
            running: false,
            cursor: 0,
            chunks: BTreeMap::new(),
            unlogged: Vec::new(),
            ending: Ending::No,
            completed: 0,
            streak: 0,
            unasked: 0,
            progress: Progress::new(true, now),
        };
        self.set_phase(slot, Phase::Source(Box::new(source)));
        if unsaved {
            self.superblock.peers[slot].full_sync = true;
            self.save_source(slot);
        }
    }

    /// Nothing is compared before what the superblock says of it now is durable.
    fn save_source(&mut self, slot: PeerSlot) {
        let Some(connection) = self.peers[slot].link.as_ref().map(|link| link.id) else {
            return;
        };
        if let Some(source) = self.source_mut(slot) {
            source.saves += 1;
        }
        self.save_superblock(Then::SourceSaved {
            peer: slot,
            connection,
        });
    }

    /// The target may learn now whose copy it becomes: should this node die, its marks say what is missing there.
    pub(super) fn source_saved(&mut self, slot: PeerSlot, connection: ConnectionId) {
        let same = self.peers[slot].is_on(connection);
        if let Some(source) = self.source_mut(slot).filter(|_| same) {
            source.saves -= 1;
            if source.saves == 0 && source.marks_known {
                self.run_source(slot);
            }
        }
    }

    pub(super) fn on_source_message(&mut self, slot: PeerSlot, message: Message) {
        if self.source_mut(slot).is_none() {
            return self.protocol_error(slot, "a resync answer to a node that is no source");
        }
        match message {
            Message::BitmapRuns { runs, last } => {
                let blocks = self.peers[slot].dirty.len();
                for run in runs {
                    let inside = run.first.checked_add(run.count).is_some_and(|end| end <= blocks);
                    if !inside {
                        return self.protocol_error(slot, "marks outside the device");
                    }
                    self.peers[slot].dirty.set(run.first, run.count);
                }
                let Some(source) = self.source_mut(slot).filter(|_| last) else {
                    return;
                };
                if std::mem::replace(&mut source.marks_known, true) {
                    return self.protocol_error(slot, "marks after the resync began");
                }
                self.part_from_target(slot);
                if self.source_mut(slot).is_some_and(|source| source.saves == 0) {
                    self.run_source(slot);
                }
            }
            Message::ChunkSame { id } => self.on_chunk_same(slot, id),
            Message::ChunkDiffers { id, hashes } => self.on_chunk_differs(slot, id, &hashes),
            Message::ChunkDone { id, status } => self.on_chunk_done(slot, id, status),
            Message::ResyncEnded { current } => self.on_resync_ended(slot, current),
            _ => {}
        }
    }

    /// From here on the target, which has noted it durably, is a mixture of both copies. Where the two share a
    /// generation, this one leaves it first: a target that a person forces to be Primary half-way is a split brain then,
    /// and not the newer copy.
    fn part_from_target(&mut self, slot: PeerSlot) {
        let peer = &self.peers[slot];
        let theirs = peer.known.as_ref().map(|known| known.generations.current);
        let shared = theirs == Some(self.superblock.current);
        if shared {
            self.open_generation("a peer's copy is about to be overwritten");
        }
        if shared || self.bumping {
            self.save_source(slot);
        }
    }

    /// Both sides' marks are together: start comparing.
    fn run_source(&mut self, slot: PeerSlot) {
        let blocks = self.peers[slot].dirty.count();
        let Some(source) = self.source_mut(slot) else {
            return;
        };
        source.running = true;
        source.progress.total_blocks = blocks;
        source.progress.left_blocks = blocks;
        self.peers[slot].goes_well();
        let name = self.peers[slot].name.clone();
        let bytes = blocks * u64::from(self.superblock.block_size_bytes);
        let fields = vec![("blocks", blocks.to_string())];
        self.record("sync.started", format!("to {name}"), None, Some(slot), fields);
        self.notice(
            Severity::Info,
            "resync.started",
            format!("to {name}: {bytes} bytes to compare"),
        );
        self.send(slot, Message::ResyncStart { blocks });
        self.pump_source(slot);
        self.retry_replies();
        self.retry_starts();
    }

    /// Keeps the window of chunks full; ends the resync when nothing is marked any more.
    pub(super) fn pump_source(&mut self, slot: PeerSlot) {
        let busy = self.last_request != 0 && self.now < self.last_request + BUSY_FOR;
        let window = if busy { WINDOW_BUSY } else { WINDOW_IDLE };
        while let Some((first, offset, len)) = self.next_chunk_range(slot, window) {
            let chunk = self.next_chunk;
            self.next_chunk += 1;
            let block_size = u64::from(self.superblock.block_size_bytes);
            let Some(source) = self.source_mut(slot) else {
                break;
            };
            source.cursor = first + u64::from(len).div_ceil(block_size);
            source.chunks.insert(
                chunk,
                SourceChunk {
                    offset,
                    len,
                    data: None,
                    zero: false,
                    told: false,
                },
            );
            if self
                .ranges
                .acquire(Holder::Source(chunk), offset, offset + u64::from(len))
            {
                self.start_source_read(chunk);
            }
        }
        if planted(Fault::MarksLeftAtResyncEnd) && self.source_mut(slot).is_some_and(|s| s.completed > 0) {
            let all = self.peers[slot].dirty.len();
            self.peers[slot].dirty.settle(0, all, Evidence::VerifiedTransfer);
        }
        let dirty = self.peers[slot].dirty.is_empty();
        let Some(source) = self.source_mut(slot) else {
            return;
        };
        if source.running && dirty && source.chunks.is_empty() && source.ending == Ending::No {
            source.ending = Ending::Saving;
            let Some(connection) = self.peers[slot].link.as_ref().map(|link| link.id) else {
                return;
            };
            // From here on the peer may carry our generation: should it be lost now, the next write
            // opens a new one, and a peer that never got this far is compared whole.
            self.superblock.peers[slot].bitmap_generation = 0;
            self.superblock.peers[slot].full_sync = false;
            self.save_superblock(Then::SendResyncEnd {
                peer: slot,
                connection,
            });
        }
    }

    /// First marked block at or after the cursor, and the byte range of marked blocks in its chunk.
    fn next_chunk_range(&mut self, slot: PeerSlot, window: usize) -> Option<(u64, u64, u32)> {
        let block_size = u64::from(self.superblock.block_size_bytes);
        let per_chunk = (CHUNK_BYTES / block_size).clamp(1, u64::from(CHUNK_BLOCKS_MAX));
        let size = self.superblock.data_size_bytes;
        let source = self.source_mut(slot)?;
        if !source.running || source.chunks.len() >= window || source.ending != Ending::No {
            return None;
        }
        let (cursor, idle) = (source.cursor, source.chunks.is_empty());
        let dirty = &self.peers[slot].dirty;
        let first = match dirty.next_set(cursor) {
            Some(first) => first,
            // Marks behind the cursor: once round again, when all that is under way is settled.
            None if idle => dirty.next_set(0)?,
            None => return None,
        };
        let chunk_end = ((first / per_chunk + 1) * per_chunk).min(dirty.len());
        let mut end = first + 1;
        while let Some(next) = dirty.next_set(end).filter(|next| *next < chunk_end) {
            end = dirty.next_clear(next).unwrap_or(chunk_end).min(chunk_end);
        }
        let offset = first * block_size;
        let len = (end * block_size).min(size) - offset;
        Some((first, offset, len as u32))
    }

    /// The chunk's range is ours. Its extents must be in the write-intent log before marks may go: what the
    /// target confirms and has not flushed is suspect should this node die.
    pub(super) fn start_source_read(&mut self, chunk: u64) {
        let Some(slot) = self.slot_of_chunk(chunk) else {
            return;
        };
        let Some(entry) = self.source_mut(slot).and_then(|source| source.chunks.get(&chunk)) else {
            return;
        };
        let (offset, len) = (entry.offset, entry.len);
        if self.intent_is_durable(offset, u64::from(len)) {
            for extent in self.extents_of(offset, u64::from(len)) {
                self.touched.set(extent, 1);
            }
            self.disk(
                Purpose::SourceRead { peer: slot, chunk },
                DiskOp::Read { offset, len },
            );
        } else if let Some(source) = self.source_mut(slot) {
            source.unlogged.push(chunk);
        }
    }

    /// The write-intent log grew: chunks that waited for it go on.
    pub(super) fn retry_sources(&mut self) {
        for slot in 0..self.peers.len() {
            let Some(source) = self.source_mut(slot) else {
                continue;
            };
            for chunk in std::mem::take(&mut source.unlogged) {
                self.start_source_read(chunk);
            }
        }
    }

    fn slot_of_chunk(&self, chunk: u64) -> Option<PeerSlot> {
        (0..self.peers.len()).find(|slot| {
            matches!(self.peers[*slot].phase(), Some(Phase::Source(s)) if s.chunks.contains_key(&chunk))
        })
    }

    pub(super) fn source_read_done(
        &mut self,
        slot: PeerSlot,
        chunk: u64,
        result: Result<Option<Payload>, Errno>,
    ) {
        let Some(entry) = self
            .source_mut(slot)
            .and_then(|source| source.chunks.get_mut(&chunk))
        else {
            return;
        };
        match result {
            Ok(Some(data)) => {
                let (offset, len) = (entry.offset, entry.len);
                // The target writes zeroes over the whole chunk: only if all of it is marked.
                let zero = is_zero(&data) && self.is_marked(slot, offset, len);
                if !zero && self.goes_unasked(slot, offset, len) {
                    if let Some(entry) = self
                        .source_mut(slot)
                        .and_then(|source| source.chunks.get_mut(&chunk))
                    {
                        entry.told = true;
                    }
                    let message = Message::ChunkWhole {
                        id: chunk,
                        offset,
                        payload: data,
                    };
                    return self.send(slot, message);
                }
                let hash = xxh3_128(&data);
                if let Some(entry) = self
                    .source_mut(slot)
                    .and_then(|source| source.chunks.get_mut(&chunk))
                {
                    entry.data = Some(data);
                    entry.zero = zero;
                    entry.told = true;
                }
                self.send(
                    slot,
                    Message::ChunkHash {
                        id: chunk,
                        offset,
                        len,
                        hash,
                        zero,
                    },
                );
            }
            Ok(None) | Err(_) => {
                let errno = result.err().unwrap_or(Errno::EIO);
                let offset = entry.offset;
                self.note_disk_error("read", errno);
                let text = format!(
                    "resync stopped: {} cannot read {} bytes into its device: {}",
                    self.config.node,
                    offset,
                    describe(errno)
                );
                self.refuse_peer(slot, GoodbyeReason::Refused, &text);
            }
        }
    }

    /// Every block of the range.
    fn is_marked(&self, slot: PeerSlot, offset: u64, len: u32) -> bool {
        let (first, count) = self.blocks_of(offset, u64::from(len));
        self.peers[slot].dirty.count_range(first, count) == count
    }

    /// Whether a chunk is sent without asking for the target's checksums: when all of it is marked, and lately
    /// everything marked differed in full, as in the first sync of a new disk.
    fn goes_unasked(&mut self, slot: PeerSlot, offset: u64, len: u32) -> bool {
        let marked = self.is_marked(slot, offset, len);
        let Some(source) = self.source_mut(slot) else {
            return false;
        };
        if !marked || source.streak < STREAK_UNASKED || source.unasked >= UNASKED_MAX {
            source.unasked = 0;
            return false;
        }
        source.unasked += 1;
        source.progress.sent_bytes += u64::from(len);
        true
    }

    fn on_chunk_same(&mut self, slot: PeerSlot, chunk: u64) {
        if !self.answers_make_sense(slot, chunk, |entry| entry.data.is_some()) {
            return self.protocol_error(slot, "equal checksums where none was sent");
        }
        let Some(entry) = self.take_chunk(slot, chunk) else {
            return;
        };
        if let Some(source) = self.source_mut(slot) {
            source.progress.same_bytes += u64::from(entry.len);
            source.streak = 0;
        }
        self.confirmed_unflushed(slot, &entry);
        self.clear_marks(slot, entry.offset, entry.len, Evidence::EqualChecksums);
        self.chunk_finished(slot, chunk);
    }

    /// Sends those blocks whose checksums differ, in runs.
    fn on_chunk_differs(&mut self, slot: PeerSlot, chunk: u64, hashes: &[u128]) {
        let block_size = self.superblock.block_size_bytes as usize;
        let Some(entry) = self
            .source_mut(slot)
            .and_then(|source| source.chunks.get_mut(&chunk))
        else {
            return self.protocol_error(slot, "an answer about an unknown chunk");
        };
        let (base, Some(data)) = (entry.offset, entry.data.take()) else {
            return self.protocol_error(slot, "a second answer about a chunk");
        };
        if hashes.len() != data.len().div_ceil(block_size) {
            return self.protocol_error(slot, "a wrong number of checksums");
        }
        let differs: Vec<bool> = data
            .chunks(block_size)
            .zip(hashes)
            .map(|(block, hash)| xxh3_128(block) != *hash)
            .collect();
        let mut block = 0;
        let mut sent = 0;
        while block < differs.len() {
            if !differs[block] {
                block += 1;
                continue;
            }
            let end = (block..differs.len())
                .find(|i| !differs[*i])
                .unwrap_or(differs.len());
            let bytes = block * block_size..(end * block_size).min(data.len());
            sent += bytes.len() as u64;
            let offset = base + bytes.start as u64;
            self.send(
                slot,
                Message::ChunkData {
                    id: chunk,
                    offset,
                    payload: data.slice(bytes),
                },
            );
            block = end;
        }
        if let Some(source) = self.source_mut(slot) {
            source.progress.sent_bytes += sent;
            source.progress.same_bytes += data.len() as u64 - sent;
            let entirely = sent == data.len() as u64;
            source.streak = if entirely { source.streak + 1 } else { 0 };
        }
        if planted(Fault::MarkClearedEarly) {
            self.clear_marks(slot, base, data.len() as u32, Evidence::VerifiedTransfer);
        }
        self.send(slot, Message::ChunkEnd { id: chunk });
    }

    fn on_chunk_done(&mut self, slot: PeerSlot, chunk: u64, status: Status) {
        if status != 0 {
            return self.peer_disk_failed(slot, status);
        }
        if !self.answers_make_sense(slot, chunk, |entry| entry.data.is_none() || entry.zero) {
            return self.protocol_error(slot, "a chunk that is done without its data");
        }
        let Some(entry) = self.take_chunk(slot, chunk) else {
            return;
        };
        self.confirmed_unflushed(slot, &entry);
        self.clear_marks(slot, entry.offset, entry.len, Evidence::VerifiedTransfer);
        self.chunk_finished(slot, chunk);
    }

    /// False for an answer that no honest target gives now: it must not clear a mark.
    fn answers_make_sense(&mut self, slot: PeerSlot, chunk: u64, fits: fn(&SourceChunk) -> bool) -> bool {
        self.source_mut(slot)
            .and_then(|source| source.chunks.get(&chunk))
            .is_some_and(|entry| entry.told && fits(entry))
    }

    /// What the target wrote, or found equal in its cache, is not stable there before its next flush.
    fn confirmed_unflushed(&mut self, slot: PeerSlot, chunk: &SourceChunk) {
        for extent in self.extents_of(chunk.offset, u64::from(chunk.len)) {
            self.peers[slot].unflushed.insert(extent);
        }
    }

    fn take_chunk(&mut self, slot: PeerSlot, chunk: u64) -> Option<SourceChunk> {
        let entry = self
            .source_mut(slot)
            .and_then(|source| source.chunks.remove(&chunk));
        if entry.is_none() {
            self.protocol_error(slot, "an answer about an unknown chunk");
        }
        entry
    }

    fn clear_marks(&mut self, slot: PeerSlot, offset: u64, len: u32, evidence: Evidence) {
        let (first, count) = self.blocks_of(offset, u64::from(len));
        self.peers[slot].dirty.settle(first, count, evidence);
    }

    fn chunk_finished(&mut self, slot: PeerSlot, chunk: u64) {
        let left = self.peers[slot].dirty.count();
        let mut report = false;
        if let Some(source) = self.source_mut(slot) {
            source.progress.left_blocks = left;
            source.completed += 1;
            report = source.completed % PROGRESS_EVERY == 0;
        }
        if report {
            self.send(slot, Message::ResyncStart { blocks: left });
        }
        self.release_range(Holder::Source(chunk));
        self.pump_source(slot);
    }

    // ---- the end -------------------------------------------------------------------------------------

    pub(super) fn send_resync_end(&mut self, slot: PeerSlot, connection: ConnectionId) {
        if !self.peers[slot].is_on(connection) {
            return;
        }
        // Since then the peer may have been cut off from our writes: it must not take the label for them.
        if self.peers[slot].draining.is_some() {
            return;
        }
        let Some(source) = self.source_mut(slot) else {
            return;
        };
        source.ending = Ending::Sent;
        let message = Message::ResyncEnd {
            current: self.superblock.current,
            history: self.superblock.history,
            resource_id: self.superblock.resource_id,
        };
        self.send(slot, message);
    }

    fn on_resync_ended(&mut self, slot: PeerSlot, current: u64) {
        let own = self.superblock.current;
        let dirty = !self.peers[slot].dirty.is_empty();
        let now = self.now;
        let Some(source) = self.source_mut(slot) else {
            return;
        };
        if source.ending != Ending::Sent || current != own || dirty {
            let text = "this end of a resync is not the one it was told";
            return self.protocol_error(slot, text);
        }
        source.progress.ended = Some(now);
        source.progress.finished = true;
        let progress = source.progress;
        let seconds = (now - progress.started) as f64 / 1e9;
        self.peers[slot].last_resync = Some(progress);
        let name = self.peers[slot].name.clone();
        let fields = vec![("sent_bytes", progress.sent_bytes.to_string())];
        self.record("sync.finished", format!("to {name}"), None, Some(slot), fields);
        self.notice(
            Severity::Info,
            "resync.finished",
            format!(
                "to {name}: {} bytes compared, {} sent, {seconds:.3} s",
                progress.total_blocks * u64::from(self.superblock.block_size_bytes),
                progress.sent_bytes
            ),
        );
        self.establish(slot);
        self.resume_if_settled();
        self.retry_replies();
        self.retry_starts();
    }

    /// The connection is gone: ranges go back, the remaining marks stay.
    pub(super) fn source_ended(&mut self, slot: PeerSlot, mut source: Source) {
        source.progress.ended = Some(self.now);
        if source.running {
            let fields = vec![("blocks_left", self.peers[slot].dirty.count().to_string())];
            self.record(
                "sync.cut",
                "the resync was cut off; the target stays Inconsistent",
                None,
                Some(slot),
                fields,
            );
        }
        self.peers[slot].last_resync = Some(source.progress);
        for chunk in source.chunks.into_keys() {
            self.release_range(Holder::Source(chunk));
        }
    }
}

/// Whether every byte is zero, at memory speed.
pub fn is_zero(bytes: &[u8]) -> bool {
    // SAFETY: any bit pattern is a valid u64.
    let (head, words, tail) = unsafe { bytes.align_to::<u64>() };
    let quiet = |slice: &[u8]| slice.iter().all(|byte| *byte == 0);
    // Whole cache lines at a time, so that data that is not zero is left early.
    quiet(head)
        && quiet(tail)
        && words
            .chunks(8)
            .all(|line| line.iter().fold(0, |sum, word| sum | word) == 0)
}
