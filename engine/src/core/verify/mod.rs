//! Verify: compares both copies while they are in use; proves them the same, or finds the blocks that are not.
//!
//! Whoever drives it reads a chunk and sends its checksum, and the other node reads the same. Neither holds anything up
//! meanwhile, so a chunk that is being written may only seem to differ. Such a one is compared again, in order: the
//! driver holds its range from before it reads until it has the answer, and the other one reads it after every write
//! that was sent before. What differs then does differ, and only that is a finding.
//!
//! That order holds because every write comes from the driver, the Primary: a verify ends as soon as the other node is
//! one. A finding is no mark: which copy is right nobody knows, and no handshake decides by it. The Primary's copy
//! overwrites the other one's only where a person says so (`repair`).

mod follower;
mod pace;
mod repair;

use std::collections::{BTreeMap, VecDeque};

use xxhash_rust::xxh3::xxh3_128;

use super::commands::failed;
use super::durable::{METADATA_FAILED, METADATA_REMEDY};
use super::links::Peer;
use super::replica::{describe, Holder, Purpose, Replica};
use super::source::CHUNK_BYTES;
use super::types::*;
use crate::payload::Payload;
use crate::wire::{feature, Message, Role, Status, CHUNK_BLOCKS_MAX};

pub(super) use follower::{Compare, Saving};
use pace::Pace;
use repair::Repair;

/// What was proved is told in pieces of this many bytes, or after this time.
const TOLD_BYTES: u64 = 64 << 20;
const TOLD_EVERY: Time = 1_000_000_000;
/// A copy that differs in more blocks than this is not one to be compared block by block.
const FINDINGS_MAX: usize = 4096;

enum Stage {
    /// As it is at this moment.
    Reading,
    Asked(Payload),
    /// For its range.
    Queued,
    ReadingInOrder,
    AskedInOrder(Payload),
    /// So many runs of blocks are on their way to the peer's disk.
    Writing(usize),
    Ended(Outcome),
}

enum Outcome {
    Same,
    /// It is marked: that it differs is known.
    Skipped,
    /// These blocks: offset, length, and the checksum of either copy.
    Differs(Vec<(u64, u32, u128, u128)>),
}

struct Chunk {
    offset: u64,
    len: u64,
    /// The part of it that is compared in order.
    span: (u64, u32),
    since: Time,
    stage: Stage,
}

/// A comparison that this node drives.
pub(super) struct Verify {
    slot: PeerSlot,
    connection: ConnectionId,
    /// What is next, and where the range ends that it lies in.
    cursor: u64,
    end: u64,
    /// Further ranges, as offset and end.
    later: VecDeque<(u64, u64)>,
    /// In the order of the device. One that has ended stays until those before it have.
    chunks: BTreeMap<u64, Chunk>,
    max_rate: Option<u64>,
    next_at: Time,
    pace: Pace,
    /// Proved and not told yet, as offset and end; and when something was told last.
    untold: (u64, u64),
    told_at: Time,
    findings: usize,
    repair: Option<Repair>,
}

impl Verify {
    fn is_at_its_end(&self) -> bool {
        self.cursor >= self.end && self.later.is_empty()
    }

    fn has_room(&self, now: Time) -> bool {
        self.chunks.len() < self.pace.window(now) && !self.repair.as_ref().is_some_and(Repair::waits)
    }
}

impl Replica {
    // ---- commands ------------------------------------------------------------------------------------

    pub(super) fn verify_command(&mut self, id: CommandId, offset: u64, len: u64, max_rate: Option<u64>) {
        if !self.is_inside(offset, len) || max_rate == Some(0) {
            let error = failed(
                format!("{len} bytes from {offset} on are not inside the device, or the rate is none"),
                "use a control plane and an engine of the same version".into(),
            );
            return self.done(id, Err(error));
        }
        match self.may_verify() {
            Err(error) => self.done(id, Err(error)),
            Ok((slot, connection)) => {
                let block_size = u64::from(self.superblock.block_size_bytes);
                let end = (offset + len)
                    .next_multiple_of(block_size)
                    .min(self.superblock.data_size_bytes);
                let ranges = [(offset / block_size * block_size, end)].into();
                self.begin_verify(slot, connection, ranges, max_rate, None);
                self.done(id, Ok(()));
                self.pump_verify();
            }
        }
    }

    pub(super) fn verify_stop(&mut self, id: CommandId) {
        if self.verify.as_ref().is_some_and(|verify| verify.repair.is_some()) {
            let error = failed(
                "a repair is under way, and takes a moment".into(),
                "wait for it".into(),
            );
            return self.done(id, Err(error));
        }
        self.cut_verify("stopped", false);
        self.done(id, Ok(()));
    }

    fn begin_verify(
        &mut self,
        slot: PeerSlot,
        connection: ConnectionId,
        mut ranges: VecDeque<(u64, u64)>,
        max_rate: Option<u64>,
        repair: Option<Repair>,
    ) {
        let (cursor, end) = ranges.pop_front().unwrap_or((0, 0));
        self.verify = Some(Box::new(Verify {
            slot,
            connection,
            cursor,
            end,
            later: ranges,
            chunks: BTreeMap::new(),
            max_rate,
            next_at: self.now,
            pace: Pace::new(),
            untold: (cursor, cursor),
            told_at: self.now,
            findings: 0,
            repair,
        }));
    }

    /// With whom, and on which connection.
    fn may_verify(&self) -> Result<(PeerSlot, ConnectionId), CommandError> {
        let (resource, node) = (&self.config.resource, &self.config.node);
        let see = format!("blockpair status {resource}");
        if !self.is_attached() {
            return Err(failed(METADATA_FAILED.into(), METADATA_REMEDY.into()));
        }
        if self.verify.is_some() {
            return Err(failed(
                format!("the copies of {resource} are being compared already"),
                format!("wait for it, or, where it was asked for: blockpair verify {resource} --stop"),
            ));
        }
        let Some(slot) = (0..self.peers.len()).max_by_key(|slot| self.peers[*slot].is_established()) else {
            return Err(failed(
                format!("{resource} has no peer, and so one copy only"),
                "there is nothing to compare it with".into(),
            ));
        };
        if let Some(why) = self.why_no_verify(slot) {
            return Err(failed(why, see));
        }
        let (name, link) = (&self.peers[slot].name, self.peers[slot].link.as_ref());
        match link {
            Some(link) if link.features & feature::VERIFY != 0 => Ok((slot, link.id)),
            Some(_) => Err(failed(
                format!("the blockpair on {name} is too old to compare copies"),
                "install the same blockpair on both nodes".into(),
            )),
            None => Err(failed(format!("{name} is not connected to {node}"), see)),
        }
    }

    /// What keeps the two copies from being compared now.
    fn why_no_verify(&self, slot: PeerSlot) -> Option<String> {
        if let Some(why) = self.why_not_in_step(slot) {
            return Some(why);
        }
        let Peer { name, known, .. } = &self.peers[slot];
        // Its writes would not be in the order of ours.
        let leads =
            self.allowing.is_some() || known.as_ref().is_some_and(|known| known.role == Role::Primary);
        leads.then(|| format!("{name} is Primary, and drives the comparison: run it on {name}"))
    }

    // ---- time ----------------------------------------------------------------------------------------

    /// After every event: what has changed meanwhile may end it, before any answer that it might have spoiled is heard.
    pub(super) fn verify_on_time(&mut self) {
        let Some(verify) = &self.verify else {
            return;
        };
        let (slot, connection, told_at) = (verify.slot, verify.connection, verify.told_at);
        if !self.peers[slot].is_on(connection) {
            return self.cut_verify("the connection was lost", true);
        }
        if let Some(why) = self.why_no_verify(slot) {
            return self.cut_verify(&why, true);
        }
        if self.now >= told_at + TOLD_EVERY {
            self.tell_proved();
        }
        self.pump_verify();
    }

    pub(super) fn verify_due(&self) -> Option<Time> {
        let verify = self.verify.as_ref()?;
        let untold = verify.untold.0 < verify.untold.1;
        let tell = untold.then_some(verify.told_at + TOLD_EVERY);
        let more = !verify.is_at_its_end() && verify.has_room(self.now);
        let next = (more && verify.next_at > self.now).then_some(verify.next_at);
        [tell, next].into_iter().flatten().min()
    }

    /// The application asked for something.
    pub(super) fn verify_saw_request(&mut self, id: RequestId) {
        if let Some(verify) = &mut self.verify {
            verify.pace.asked(id, self.now);
        }
    }

    /// It has its answer.
    pub(super) fn verify_saw_reply(&mut self, id: RequestId) {
        if let Some(verify) = &mut self.verify {
            verify.pace.answered(id, self.now);
        }
    }

    // ---- chunk by chunk ------------------------------------------------------------------------------

    fn pump_verify(&mut self) {
        while let Some((offset, len, skip)) = self.next_verify_chunk() {
            let id = self.next_chunk;
            self.next_chunk += 1;
            let now = self.now;
            let Some(verify) = &mut self.verify else {
                return;
            };
            let in_order = verify.repair.as_ref().is_some_and(Repair::writes);
            verify.chunks.insert(
                id,
                Chunk {
                    offset,
                    len,
                    span: (offset, len as u32),
                    since: now,
                    stage: if skip {
                        Stage::Ended(Outcome::Skipped)
                    } else {
                        Stage::Reading
                    },
                },
            );
            if skip {
                self.report_verified();
                continue;
            }
            if let Some(rate) = verify.max_rate {
                let takes = u128::from(len) * 1_000_000_000 / u128::from(rate);
                verify.next_at = verify.next_at.max(now) + takes as Time;
            }
            if in_order {
                self.queue_in_order(id);
            } else {
                let op = DiskOp::Read {
                    offset,
                    len: len as u32,
                };
                self.disk(Purpose::Verify(id), op);
            }
        }
        if self
            .verify
            .as_ref()
            .is_some_and(|v| v.is_at_its_end() && v.chunks.is_empty())
        {
            self.verify_pass_ended();
        }
    }

    /// Offset and length of what comes next, and whether it is left out because it is marked.
    fn next_verify_chunk(&mut self) -> Option<(u64, u64, bool)> {
        let block_size = u64::from(self.superblock.block_size_bytes);
        let per_chunk = (CHUNK_BYTES / block_size).clamp(1, u64::from(CHUNK_BLOCKS_MAX));
        let now = self.now;
        let verify = self.verify.as_mut()?;
        if now < verify.next_at || !verify.has_room(now) {
            return None;
        }
        if verify.cursor >= verify.end {
            (verify.cursor, verify.end) = verify.later.pop_front()?;
        }
        let (first, end) = (verify.cursor / block_size, verify.end.div_ceil(block_size));
        let marks = &self.peers[verify.slot].dirty;
        let (to, skip) = if marks.is_empty() {
            ((first / per_chunk + 1) * per_chunk, false)
        } else if marks.test(first) {
            (marks.next_clear(first).unwrap_or(end), true)
        } else {
            let marked = marks.next_set(first).unwrap_or(end);
            (marked.min((first / per_chunk + 1) * per_chunk), false)
        };
        let (offset, to) = (verify.cursor, (to * block_size).min(verify.end));
        verify.cursor = to;
        Some((offset, to - offset, skip))
    }

    fn verify_chunk(&mut self, id: u64) -> Option<&mut Chunk> {
        self.verify.as_mut()?.chunks.get_mut(&id)
    }

    pub(super) fn verify_read(&mut self, id: u64, result: Result<Option<Payload>, Errno>) {
        let node = self.config.node.clone();
        let Some(verify) = self.verify.as_mut() else {
            return;
        };
        let slot = verify.slot;
        // It was cut, and another one begun.
        let Some(chunk) = verify.chunks.get_mut(&id) else {
            return;
        };
        let ordered = matches!(chunk.stage, Stage::ReadingInOrder);
        let (offset, len) = chunk.span;
        let data = match result {
            Ok(Some(data)) => data,
            Ok(None) | Err(_) => {
                let errno = result.err().unwrap_or(Errno::EIO);
                self.note_disk_error("read", errno);
                let why = format!("{node} cannot read {len} bytes at {offset}: {}", describe(errno));
                return self.cut_verify(&why, false);
            }
        };
        let hash = xxh3_128(&data);
        chunk.stage = if ordered {
            Stage::AskedInOrder(data)
        } else {
            Stage::Asked(data)
        };
        self.send(
            slot,
            Message::VerifyChunk {
                id,
                offset,
                len,
                hash,
                ordered,
            },
        );
    }

    /// True for the answer to a chunk of a verify that has ended: nobody waits for it.
    fn is_of_the_past(&self, id: u64) -> bool {
        id < self.next_chunk && !self.verify.as_ref().is_some_and(|v| v.chunks.contains_key(&id))
    }

    fn on_verify_same(&mut self, slot: PeerSlot, id: u64) {
        if self.is_of_the_past(id) {
            return;
        }
        match self.verify_chunk(id).map(|chunk| &chunk.stage) {
            Some(Stage::Asked(_)) => self.verify_chunk_ended(id, Outcome::Same),
            Some(Stage::AskedInOrder(_)) => {
                self.release_range(Holder::Verify(id));
                self.verify_chunk_ended(id, Outcome::Same);
            }
            _ => self.protocol_error(slot, "an answer about a chunk that was not sent to be verified"),
        }
    }

    fn on_verify_differs(&mut self, slot: PeerSlot, id: u64, hashes: &[u128]) {
        if self.is_of_the_past(id) {
            return;
        }
        let block_size = self.superblock.block_size_bytes as usize;
        let found = match self.verify_chunk(id).map(|chunk| (chunk.span.0, &chunk.stage)) {
            Some((base, Stage::Asked(data) | Stage::AskedInOrder(data))) => {
                differing(base, data, hashes, block_size)
            }
            _ => Vec::new(),
        };
        let (Some(first), Some(last)) = (found.first(), found.last()) else {
            return self.protocol_error(slot, "a difference in a chunk that has none, or was not sent");
        };
        let span = (first.0, (last.0 + u64::from(last.1) - first.0) as u32);
        let Some(chunk) = self.verify_chunk(id) else {
            return;
        };
        if let Stage::AskedInOrder(data) = &chunk.stage {
            let (base, data) = (chunk.span.0, data.clone());
            return self.differs_in_order(id, base, &data, found);
        }
        chunk.span = span;
        self.queue_in_order(id);
    }

    fn differs_in_order(&mut self, id: u64, base: u64, data: &Payload, found: Vec<(u64, u32, u128, u128)>) {
        let Some(verify) = &self.verify else {
            return;
        };
        if verify.repair.as_ref().is_some_and(Repair::writes) {
            return self.write_repairs(id, base, data, &found);
        }
        let marks = &self.peers[verify.slot].dirty;
        let block_size = u64::from(self.superblock.block_size_bytes);
        let unmarked: Vec<_> = (found.into_iter())
            .filter(|(offset, ..)| !marks.test(offset / block_size))
            .collect();
        self.release_range(Holder::Verify(id));
        let outcome = if unmarked.is_empty() {
            Outcome::Skipped
        } else {
            Outcome::Differs(unmarked)
        };
        self.verify_chunk_ended(id, outcome);
    }

    fn on_verify_failed(&mut self, slot: PeerSlot, id: u64, status: Status) {
        if self.is_of_the_past(id) {
            return;
        }
        let name = self.peers[slot].name.clone();
        let Some(chunk) = self.verify_chunk(id) else {
            return self.protocol_error(slot, "an answer about a chunk that was not sent to be verified");
        };
        let ((offset, len), errno) = (chunk.span, Errno(i32::from(status)));
        if errno.0 == libc::EBUSY {
            return self.cut_verify(&format!("{name} does not follow any more"), true);
        }
        let why = format!("{name} cannot read {len} bytes at {offset}: {}", describe(errno));
        self.cut_verify(&why, false);
    }

    fn queue_in_order(&mut self, id: u64) {
        let Some(chunk) = self.verify_chunk(id) else {
            return;
        };
        chunk.stage = Stage::Queued;
        let (offset, len) = chunk.span;
        if self
            .ranges
            .acquire(Holder::Verify(id), offset, offset + u64::from(len))
        {
            self.start_verify_in_order(id);
        }
    }

    /// The range is ours: every write to it has gone to the peer before, and the next one waits.
    pub(super) fn start_verify_in_order(&mut self, id: u64) {
        if let Some(chunk) = self.verify_chunk(id) {
            chunk.stage = Stage::ReadingInOrder;
            let (offset, len) = chunk.span;
            self.disk(Purpose::Verify(id), DiskOp::Read { offset, len });
        }
    }

    fn verify_chunk_ended(&mut self, id: u64, outcome: Outcome) {
        let now = self.now;
        let Some(verify) = &mut self.verify else {
            return;
        };
        if let Some(chunk) = verify.chunks.get_mut(&id) {
            chunk.stage = Stage::Ended(outcome);
            let rest = verify.pace.rest(now - chunk.since, now);
            if rest > 0 {
                verify.next_at = verify.next_at.max(now + rest);
            }
        }
        self.report_verified();
        self.pump_verify();
    }

    // ---- what came of it -----------------------------------------------------------------------------

    /// Takes in what has ended, in the order of the device.
    fn report_verified(&mut self) {
        loop {
            let Some(verify) = &mut self.verify else {
                return;
            };
            let ended = matches!(
                verify.chunks.first_key_value(),
                Some((
                    _,
                    Chunk {
                        stage: Stage::Ended(_),
                        ..
                    }
                ))
            );
            let Some((_, chunk)) = ended.then(|| verify.chunks.pop_first()).flatten() else {
                return;
            };
            if verify.repair.as_ref().is_some_and(Repair::writes) {
                continue;
            }
            let (offset, end) = (chunk.offset, chunk.offset + chunk.len);
            match chunk.stage {
                Stage::Ended(Outcome::Same) => self.proved(offset, end),
                Stage::Ended(Outcome::Skipped) => {
                    self.tell_proved();
                    let len = chunk.len;
                    self.out.push(Action::Verified(Verified::Skipped { offset, len }));
                }
                Stage::Ended(Outcome::Differs(found)) => self.found(offset, end, found),
                _ => {}
            }
        }
    }

    fn proved(&mut self, offset: u64, end: u64) {
        if self
            .verify
            .as_ref()
            .is_some_and(|verify| verify.untold.1 != offset)
        {
            self.tell_proved();
        }
        let Some(verify) = &mut self.verify else {
            return;
        };
        if verify.untold.0 == verify.untold.1 {
            verify.untold.0 = offset;
        }
        verify.untold.1 = end;
        if verify.untold.1 - verify.untold.0 >= TOLD_BYTES {
            self.tell_proved();
        }
    }

    fn found(&mut self, offset: u64, end: u64, found: Vec<(u64, u32, u128, u128)>) {
        let mut from = offset;
        let count = found.len();
        for (offset, len, own, peer) in found {
            if from < offset {
                self.proved(from, offset);
            }
            self.tell_proved();
            from = offset + u64::from(len);
            self.out.push(Action::Verified(Verified::Found {
                offset,
                len,
                own,
                peer,
            }));
            if let Some(slot) = self.verify.as_ref().map(|verify| verify.slot) {
                self.send(
                    slot,
                    Message::VerifyFound {
                        offset,
                        len,
                        own,
                        peer,
                    },
                );
            }
        }
        if from < end {
            self.proved(from, end);
        }
        let Some(verify) = &mut self.verify else {
            return;
        };
        verify.findings += count;
        if verify.findings > FINDINGS_MAX {
            let why = format!(
                "more than {FINDINGS_MAX} blocks differ: begin one of the copies anew (`blockpair create --anew`)"
            );
            self.cut_verify(&why, false);
        }
    }

    /// Both nodes have it in their records.
    fn tell_proved(&mut self) {
        let now = self.now;
        let Some(verify) = &mut self.verify else {
            return;
        };
        verify.told_at = now;
        let (slot, (offset, end)) = (verify.slot, verify.untold);
        verify.untold = (end, end);
        if offset < end {
            let len = end - offset;
            self.out.push(Action::Verified(Verified::Proved { offset, len }));
            self.send(slot, Message::VerifyProved { offset, len });
        }
    }

    fn verify_pass_ended(&mut self) {
        if self.verify.as_ref().is_some_and(|verify| verify.repair.is_some()) {
            return self.repair_pass_ended();
        }
        self.tell_proved();
        self.verify = None;
        self.out.push(Action::Verified(Verified::Ended { cut: None }));
    }

    /// It comes to its end before its time: what it holds goes back.
    fn cut_verify(&mut self, why: &str, passing: bool) {
        self.tell_proved();
        let Some(verify) = self.verify.take() else {
            return;
        };
        for (id, chunk) in &verify.chunks {
            if matches!(
                chunk.stage,
                Stage::Queued | Stage::ReadingInOrder | Stage::AskedInOrder(_) | Stage::Writing(_)
            ) {
                self.release_range(Holder::Verify(*id));
            }
        }
        match verify.repair {
            Some(repair) => self.repair_cut(repair, why),
            None => {
                let cut = Cut {
                    why: why.to_owned(),
                    passing,
                };
                self.out
                    .push(Action::Verified(Verified::Ended { cut: Some(cut) }));
            }
        }
    }

    /// Its connection is gone.
    pub(super) fn verify_lost_link(&mut self, slot: PeerSlot) {
        self.saving_lost(slot);
        if self.verify.as_ref().is_some_and(|verify| verify.slot == slot) {
            self.cut_verify("the connection was lost", true);
        }
    }
}

/// The blocks of `data`, which lies at `base`, whose checksums are others: offset, length, and the checksum of either
/// copy. None where the other side's answer does not fit.
fn differing(base: u64, data: &Payload, hashes: &[u128], block_size: usize) -> Vec<(u64, u32, u128, u128)> {
    if hashes.len() != data.len().div_ceil(block_size) {
        return Vec::new();
    }
    (data.chunks(block_size).zip(hashes).enumerate())
        .map(|(at, (block, theirs))| {
            let offset = base + (at * block_size) as u64;
            (offset, block.len() as u32, xxh3_128(block), *theirs)
        })
        .filter(|(.., own, theirs)| own != theirs)
        .collect()
}
