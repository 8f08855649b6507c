//! Resync, the target's half: answers checksums, takes what differs, and becomes a copy again.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_128;

use super::durable::Then;
use super::fault::{planted, Fault};
use super::links::Phase;
use super::mark_exchange::bounded_runs;
use super::marks::Evidence;
use super::replica::{Holder, Purpose, Replica};
use super::source::{Progress, CHUNK_BYTES};
use super::types::*;
use crate::payload::Payload;
use crate::wire::{DiskState, Message, Status, CHUNK_BLOCKS_MAX, HISTORY_LEN};

/// Chunks that a source may have under way here, at most.
const CHUNKS_MAX: usize = 256;

/// A resync from one peer.
pub(super) struct Target {
    /// This copy is durably marked as incomplete, and the marks went out.
    pub(super) ready: bool,
    /// Whose copy this becomes, until it is noted in the metadata.
    resource_id: Option<[u8; 16]>,
    /// The source's chunk numbers, and where they are kept.
    chunks: BTreeMap<u64, u64>,
    end: Option<(u64, [u64; HISTORY_LEN], [u8; 16])>,
    pub(super) progress: Progress,
}

/// What the source wants done with a chunk.
enum Task {
    Compare { hash: u128, zero: bool },
    Take(Payload),
}

/// A chunk that is compared or written here. It outlives its connection until the disk is done with it.
pub(super) struct TargetChunk {
    peer: PeerSlot,
    connection: ConnectionId,
    /// The source's number for it.
    id: u64,
    offset: u64,
    len: u32,
    task: Task,
    /// Disk operations under way.
    outstanding: u32,
    /// The source was told that it differs, and sends data.
    differs: bool,
    ended: bool,
    failed: Option<Errno>,
    orphan: bool,
}

impl TargetChunk {
    /// Bytes that came with it and stay in memory until they are on the disk.
    fn held_bytes(&self) -> u64 {
        match &self.task {
            Task::Take(payload) => payload.len() as u64,
            Task::Compare { .. } => 0,
        }
    }
}

impl Replica {
    fn target_mut(&mut self, slot: PeerSlot) -> Option<&mut Target> {
        match &mut self.peers[slot].link.as_mut()?.phase {
            Phase::Target(target) => Some(target),
            _ => None,
        }
    }

    /// Marks this copy as incomplete, durably, before one block of it changes.
    pub(super) fn begin_target(&mut self, slot: PeerSlot, source_resource_id: [u8; 16]) {
        let Some(connection) = self.peers[slot].link.as_ref().map(|link| link.id) else {
            return;
        };
        let name = self.peers[slot].name.clone();
        self.superseded(&name);
        let target = Target {
            ready: false,
            resource_id: Some(source_resource_id),
            chunks: BTreeMap::new(),
            end: None,
            progress: Progress::new(false, self.now),
        };
        self.set_phase(slot, Phase::Target(Box::new(target)));
        self.has_hole = false;
        self.superblock.disk = DiskState::Inconsistent;
        self.superblock.role_primary = false;
        self.superblock.last_primary = false;
        self.save_superblock(Then::TargetReady {
            peer: slot,
            connection,
        });
    }

    pub(super) fn target_ready(&mut self, slot: PeerSlot, connection: ConnectionId) {
        if !self.peers[slot].is_on(connection) {
            return;
        }
        let Some(target) = self.target_mut(slot) else {
            return;
        };
        target.ready = true;
        self.peers[slot].goes_well();
        let block_size = u64::from(self.superblock.block_size_bytes);
        self.peers[slot].mark_suspects(block_size);
        // A copy that never had data adds nothing: the source knows how far the first sync came.
        let has_data = self.superblock.current != 0 && !planted(Fault::TargetMarksUnsent);
        let runs = if has_data {
            bounded_runs(&self.peers[slot].dirty)
        } else {
            Vec::new()
        };
        self.send_runs(slot, &runs);
    }

    pub(super) fn on_target_message(&mut self, slot: PeerSlot, message: Message) {
        if !self.target_mut(slot).is_some_and(|target| target.ready) {
            return self.protocol_error(slot, "resync data to a node that is no target");
        }
        if self.target_mut(slot).is_some_and(|target| target.end.is_some()) {
            return self.protocol_error(slot, "resync data after its end");
        }
        match message {
            Message::ResyncStart { blocks } if blocks > self.peers[slot].dirty.len() => {
                self.protocol_error(slot, "more blocks to compare than there are");
            }
            Message::ResyncStart { blocks } => {
                let resource_id = self.target_mut(slot).and_then(|target| target.resource_id.take());
                if let Some(resource_id) = resource_id.filter(|_| self.superblock.resource_id == [0; 16]) {
                    // A first sync that is cut off can go on where it was: by now the source has noted,
                    // durably, all that this copy lacks.
                    self.superblock.resource_id = resource_id;
                    self.save_superblock(Then::Nothing);
                }
                if let Some(target) = self.target_mut(slot) {
                    let first = target.progress.total_blocks == 0;
                    if first {
                        target.progress.total_blocks = blocks;
                    }
                    target.progress.left_blocks = blocks;
                    if first {
                        let name = self.peers[slot].name.clone();
                        let bytes = blocks * u64::from(self.superblock.block_size_bytes);
                        let text = format!("from {name}: {bytes} bytes to compare");
                        let fields = vec![("blocks", blocks.to_string())];
                        self.record("sync.started", format!("from {name}"), None, Some(slot), fields);
                        self.notice(Severity::Info, "resync.started", text);
                    }
                }
            }
            Message::ChunkHash {
                id,
                offset,
                len,
                hash,
                zero,
            } => self.on_chunk(slot, id, offset, len, Task::Compare { hash, zero }),
            Message::ChunkWhole { id, offset, payload } => {
                let len = payload.len() as u32;
                self.on_chunk(slot, id, offset, len, Task::Take(payload));
            }
            Message::ChunkData { id, offset, payload } => self.on_chunk_data(slot, id, offset, payload),
            Message::ChunkEnd { id } => self.on_chunk_end(slot, id),
            Message::ResyncEnd {
                current,
                history,
                resource_id,
            } => {
                let Some(target) = self.target_mut(slot) else {
                    return;
                };
                if !target.chunks.is_empty() || current == 0 {
                    return self.protocol_error(slot, "a resync that ends with chunks under way");
                }
                target.end = Some((current, history, resource_id));
                let Some(connection) = self.peers[slot].link.as_ref().map(|link| link.id) else {
                    return;
                };
                if planted(Fault::LabelBeforeFlush) {
                    return self.adopt_flush_done(slot, connection, Ok(()));
                }
                // The label follows the data: flush first, adopt afterwards.
                self.disk(
                    Purpose::AdoptFlush {
                        peer: slot,
                        connection,
                    },
                    DiskOp::Flush,
                );
            }
            _ => {}
        }
    }

    fn on_chunk(&mut self, slot: PeerSlot, id: u64, offset: u64, len: u32, task: Task) {
        let block_size = self.superblock.block_size_bytes;
        let blocks = len.div_ceil(block_size);
        if !self.is_inside(offset, u64::from(len))
            || !offset.is_multiple_of(u64::from(block_size))
            || blocks > CHUNK_BLOCKS_MAX
            || u64::from(len) > CHUNK_BYTES.max(u64::from(block_size))
        {
            return self.protocol_error(slot, "a chunk outside the device or too large");
        }
        let key = self.next_chunk;
        self.next_chunk += 1;
        let Some(connection) = self.peers[slot].link.as_ref().map(|link| link.id) else {
            return;
        };
        let Some(target) = self.target_mut(slot) else {
            return;
        };
        if target.chunks.len() >= CHUNKS_MAX || target.chunks.insert(id, key).is_some() {
            return self.protocol_error(slot, "too many chunks, or one twice");
        }
        let chunk = TargetChunk {
            peer: slot,
            connection,
            id,
            offset,
            len,
            task,
            outstanding: 0,
            differs: false,
            ended: false,
            failed: None,
            orphan: false,
        };
        self.target_bytes += chunk.held_bytes();
        self.target_writes += usize::from(chunk.held_bytes() > 0);
        self.target_chunks.insert(key, chunk);
        if self
            .ranges
            .acquire(Holder::Target(key), offset, offset + u64::from(len))
        {
            self.start_target_chunk(key);
        }
    }

    /// The chunk's range is ours: read what is there, or write what was sent.
    pub(super) fn start_target_chunk(&mut self, key: u64) {
        let Some(chunk) = self.target_chunks.get_mut(&key) else {
            return;
        };
        chunk.outstanding += 1;
        let offset = chunk.offset;
        if let Task::Take(payload) = &chunk.task {
            let payload = payload.clone();
            let (slot, bytes) = (chunk.peer, payload.len() as u64);
            chunk.ended = true;
            let op = DiskOp::Write {
                offset,
                payload,
                fua: false,
            };
            self.disk(Purpose::TargetWrite { chunk: key, bytes }, op);
            if let Some(target) = self.target_mut(slot) {
                target.progress.sent_bytes += bytes;
            }
        } else {
            let len = chunk.len;
            self.disk(Purpose::TargetRead(key), DiskOp::Read { offset, len });
        }
    }

    pub(super) fn target_read_done(&mut self, key: u64, result: Result<Option<Payload>, Errno>) {
        let block_size = self.superblock.block_size_bytes as usize;
        let Some(chunk) = self.target_chunks.get_mut(&key) else {
            return;
        };
        chunk.outstanding -= 1;
        if chunk.orphan {
            return self.forget_chunk(key);
        }
        let (slot, id) = (chunk.peer, chunk.id);
        let Task::Compare { hash, zero } = chunk.task else {
            return;
        };
        match result {
            Ok(Some(data)) if xxh3_128(&data) == hash => self.finish_chunk(key, Message::ChunkSame { id }),
            Ok(Some(_)) if zero => {
                chunk.outstanding += 1;
                chunk.ended = true;
                let op = DiskOp::Zero {
                    offset: chunk.offset,
                    len: u64::from(chunk.len),
                    unmap: true,
                    fua: false,
                };
                self.target_writes += 1;
                self.disk(Purpose::TargetWrite { chunk: key, bytes: 0 }, op);
            }
            Ok(Some(data)) => {
                chunk.differs = true;
                let hashes = data.chunks(block_size).map(xxh3_128).collect();
                self.send(slot, Message::ChunkDiffers { id, hashes });
            }
            // What cannot be read may still be written: ask for all of it.
            Ok(None) | Err(_) => {
                chunk.differs = true;
                let len = chunk.len as usize;
                self.note_disk_error("read", result.err().unwrap_or(Errno::EIO));
                let hashes = vec![0; len.div_ceil(block_size)];
                self.send(slot, Message::ChunkDiffers { id, hashes });
            }
        }
    }

    fn chunk_key(&mut self, slot: PeerSlot, id: u64) -> Option<u64> {
        self.target_mut(slot)?.chunks.get(&id).copied()
    }

    fn on_chunk_data(&mut self, slot: PeerSlot, id: u64, offset: u64, payload: Payload) {
        let Some(key) = self.chunk_key(slot, id) else {
            return self.protocol_error(slot, "data for an unknown chunk");
        };
        let Some(chunk) = self.target_chunks.get_mut(&key) else {
            return;
        };
        let end = offset.saturating_add(payload.len() as u64);
        let inside = offset >= chunk.offset && end <= chunk.offset + u64::from(chunk.len);
        if !inside || !chunk.differs || chunk.ended || payload.is_empty() {
            return self.protocol_error(slot, "data outside its chunk");
        }
        chunk.outstanding += 1;
        let bytes = payload.len() as u64;
        self.target_writes += 1;
        self.target_bytes += bytes;
        self.disk(
            Purpose::TargetWrite { chunk: key, bytes },
            DiskOp::Write {
                offset,
                payload,
                fua: false,
            },
        );
        if let Some(target) = self.target_mut(slot) {
            target.progress.sent_bytes += bytes;
        }
    }

    fn on_chunk_end(&mut self, slot: PeerSlot, id: u64) {
        let Some(key) = self.chunk_key(slot, id) else {
            return self.protocol_error(slot, "the end of an unknown chunk");
        };
        let Some(chunk) = self.target_chunks.get_mut(&key) else {
            return;
        };
        if !chunk.differs || chunk.ended {
            return self.protocol_error(slot, "the end of a chunk that was not sent");
        }
        chunk.ended = true;
        self.chunk_step(key);
    }

    pub(super) fn target_write_done(&mut self, key: u64, result: Result<(), Errno>) {
        let Some(chunk) = self.target_chunks.get_mut(&key) else {
            return;
        };
        chunk.outstanding -= 1;
        if let Err(errno) = result {
            chunk.failed = Some(errno);
            if chunk.orphan {
                self.note_disk_error("write", errno);
            } else if self.detaches_for("write", errno) {
                return;
            }
        }
        self.chunk_step(key);
    }

    fn chunk_step(&mut self, key: u64) {
        let Some(chunk) = self.target_chunks.get(&key) else {
            return;
        };
        if chunk.outstanding > 0 {
            return;
        }
        if chunk.orphan {
            return self.forget_chunk(key);
        }
        if chunk.ended {
            let status: Status = chunk.failed.map_or(0, |errno| errno.0.unsigned_abs() as u16);
            let id = chunk.id;
            self.finish_chunk(key, Message::ChunkDone { id, status });
        }
    }

    /// Answers, and gives the range back.
    fn finish_chunk(&mut self, key: u64, answer: Message) {
        let Some(chunk) = self.target_chunks.remove(&key) else {
            return;
        };
        let alive = self.peers[chunk.peer].is_on(chunk.connection);
        if let Some(target) = self.target_mut(chunk.peer).filter(|_| alive) {
            target.chunks.remove(&chunk.id);
            if matches!(answer, Message::ChunkSame { .. }) {
                target.progress.same_bytes += u64::from(chunk.len);
            }
            self.send(chunk.peer, answer);
        }
        self.release_range(Holder::Target(key));
    }

    fn forget_chunk(&mut self, key: u64) {
        let busy = self
            .target_chunks
            .get(&key)
            .is_some_and(|chunk| chunk.outstanding > 0);
        if busy {
            return;
        }
        if let Some(chunk) = self.target_chunks.remove(&key) {
            if !chunk.ended {
                self.target_writes -= usize::from(chunk.held_bytes() > 0);
                self.target_bytes -= chunk.held_bytes();
            }
            self.release_range(Holder::Target(key));
        }
    }

    /// The connection is gone: chunks that the disk still works on keep their ranges until it is done.
    pub(super) fn target_ended(&mut self, slot: PeerSlot, mut target: Target) {
        target.progress.ended = Some(self.now);
        if target.ready {
            let fields = vec![("blocks_left", target.progress.left_blocks.to_string())];
            self.record(
                "sync.cut",
                "the resync was cut off; this copy stays Inconsistent",
                None,
                Some(slot),
                fields,
            );
        }
        self.peers[slot].last_resync = Some(target.progress);
        for key in target.chunks.into_values() {
            if let Some(chunk) = self.target_chunks.get_mut(&key) {
                chunk.orphan = true;
            }
            self.forget_chunk(key);
        }
    }

    // ---- the end -------------------------------------------------------------------------------------

    pub(super) fn adopt_flush_done(
        &mut self,
        slot: PeerSlot,
        connection: ConnectionId,
        result: Result<(), Errno>,
    ) {
        if !self.peers[slot].is_on(connection) {
            return;
        }
        if self.has_hole {
            // The source hears of the failed write, marks it, and starts over.
            return self.close_with(
                slot,
                crate::wire::GoodbyeReason::Busy,
                "a write failed during the resync",
            );
        }
        if let Err(errno) = result {
            if self.detaches_for("flush", errno) {
                return;
            }
            let text = format!(
                "the flush at the end of the resync failed on {}",
                self.config.node
            );
            return self.refuse_peer(slot, crate::wire::GoodbyeReason::Refused, &text);
        }
        let Some((current, history, resource_id)) = self.target_mut(slot).and_then(|target| target.end)
        else {
            return;
        };
        self.superblock.current = current;
        self.superblock.history = history;
        self.superblock.resource_id = resource_id;
        self.superblock.disk = DiskState::UpToDate;
        self.superblock.forced = false;
        let record = &mut self.superblock.peers[slot];
        record.bitmap_generation = 0;
        record.full_sync = false;
        // The source had these marks in its union: each was compared, or its data came and were verified.
        let all = self.peers[slot].dirty.len();
        self.peers[slot].dirty.settle(0, all, Evidence::VerifiedTransfer);
        self.crashed_primary = false;
        self.save_superblock(Then::Adopted {
            peer: slot,
            connection,
        });
    }

    pub(super) fn adopted(&mut self, slot: PeerSlot, connection: ConnectionId) {
        if !self.peers[slot].is_on(connection) {
            return;
        }
        if self.has_hole {
            return self.close_with(
                slot,
                crate::wire::GoodbyeReason::Busy,
                "a write failed during the resync",
            );
        }
        let now = self.now;
        let current = self.superblock.current;
        let Some(target) = self.target_mut(slot) else {
            return;
        };
        target.progress.ended = Some(now);
        target.progress.finished = true;
        target.progress.left_blocks = 0;
        let progress = target.progress;
        self.peers[slot].last_resync = Some(progress);
        let name = self.peers[slot].name.clone();
        self.disk_error = None;
        let fields = vec![("sent_bytes", progress.sent_bytes.to_string())];
        self.record("sync.finished", format!("from {name}"), None, Some(slot), fields);
        self.notice(
            Severity::Info,
            "resync.finished",
            format!(
                "from {name}: {} bytes received, this copy is UpToDate",
                progress.sent_bytes
            ),
        );
        self.send(slot, Message::ResyncEnded { current });
        self.establish(slot);
        self.announce_state();
    }
}
