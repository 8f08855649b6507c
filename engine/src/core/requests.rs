//! The application's I/O on the Primary.

use super::arbitration::Ack;
use super::detach::Attachment;
use super::fault::{planted, Fault};
use super::links::Peer;
use super::replica::{describe, Holder, PeerMask, Purpose, Replica};
use super::types::*;
use crate::payload::Payload;
use crate::wire::{Message, Protocol, Role};

/// The changing part of a write, shared by the application's and the peers' writes.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Data(Payload),
    Zero { unmap: bool, trim: bool },
}

/// A write of the application, until every node has confirmed or lost it.
pub(super) struct LocalWrite {
    id: RequestId,
    change: Change,
    pub(super) offset: u64,
    pub(super) len: u64,
    fua: bool,
    /// When disk and peers were given it.
    started: Time,
    replied: bool,
    local_done: bool,
    failed: Option<Errno>,
    /// The error of the disk that stands in for this node's.
    refused: Option<Errno>,
    /// Peers whose confirmation the reply waits for.
    need: PeerMask,
    /// Peers that have not reported it done.
    unacked: PeerMask,
    /// Peers that were lost before they confirmed it, or never had it.
    lacking: PeerMask,
}

pub(super) enum FlushOwner {
    Request(RequestId),
    Cleaning,
    Quiesce,
    /// A peer that is about to be disconnected in good order.
    Drain(PeerSlot),
    /// What a verify's repair wrote.
    Repair,
    /// Its request was failed; the answers of disk and peers are still to come.
    Nobody,
}

pub(super) struct LocalFlush {
    pub(super) owner: FlushOwner,
    local_done: bool,
    failed: Option<Errno>,
    /// As of a write; or an older error, of which the application was not told yet.
    refused: Option<Errno>,
    /// Peers that were sent it, and those that have not answered.
    sent: PeerMask,
    need: PeerMask,
    /// Peers on which it may not be stable: lost before they answered, or never asked.
    lacking: PeerMask,
}

/// What a connection carries whose answer has not come yet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sent {
    Write {
        index: usize,
        bytes: u64,
    },
    Flush(usize),
    /// Blocks of the peer that differed, overwritten with this node's.
    Repair {
        chunk: u64,
        offset: u64,
        len: u64,
    },
}

/// Protocols A and B acknowledge before the peer's disk has it; beyond this much they wait like C.
pub(super) const UNACKED_BYTES_MAX: u64 = 8 << 20;

pub(super) fn disk_op(change: &Change, offset: u64, len: u64, fua: bool) -> DiskOp {
    match change {
        Change::Data(payload) => DiskOp::Write {
            offset,
            payload: payload.clone(),
            fua,
        },
        Change::Zero { unmap, .. } => DiskOp::Zero {
            offset,
            len,
            unmap: *unmap,
            fua,
        },
    }
}

impl Replica {
    pub(super) fn on_request(&mut self, id: RequestId, kind: RequestKind) {
        self.last_request = self.now;
        self.verify_saw_request(id);
        if self.role != Role::Primary || self.quiescing.is_some() {
            return self.reply(id, Err(Errno::ESHUTDOWN));
        }
        if self.attachment == Attachment::Failed {
            return self.reply(id, Err(Errno::EIO));
        }
        match kind {
            RequestKind::Read { offset, len } => {
                if !self.is_inside(offset, u64::from(len)) {
                    return self.reply(id, Err(Errno::EINVAL));
                }
                self.counters.reads += 1;
                self.counters.read_bytes += u64::from(len);
                self.reads_in_flight += 1;
                self.in_flight_bytes += u64::from(len);
                self.count_read(offset, len);
                let read = |asked| Purpose::Read {
                    id,
                    offset,
                    len,
                    asked,
                };
                if !self.is_attached() {
                    self.read_through(id, offset, len, Errno::EIO);
                } else if let Some(data) = self.remembered(offset, len) {
                    self.recall(read(None), data);
                } else {
                    self.uses_disk();
                    self.disk(read(Some(self.now)), DiskOp::Read { offset, len });
                }
            }
            RequestKind::Write { offset, payload, fua } => {
                self.counters.writes += 1;
                self.counters.written_bytes += payload.len() as u64;
                let len = payload.len() as u64;
                self.queue_write(id, Change::Data(payload), offset, len, fua);
            }
            RequestKind::WriteZeroes {
                offset,
                len,
                fua,
                unmap,
            } => {
                self.counters.zeroes += 1;
                self.counters.zeroed_bytes += len;
                self.queue_write(id, Change::Zero { unmap, trim: false }, offset, len, fua);
            }
            RequestKind::Trim { offset, len, fua } => {
                self.counters.trims += 1;
                self.counters.trimmed_bytes += len;
                self.queue_write(
                    id,
                    Change::Zero {
                        unmap: true,
                        trim: true,
                    },
                    offset,
                    len,
                    fua,
                );
            }
            RequestKind::Flush => {
                self.counters.flushes += 1;
                self.start_flush(FlushOwner::Request(id));
            }
        }
    }

    pub(super) fn reply(&mut self, id: RequestId, result: Result<Option<Payload>, Errno>) {
        self.verify_saw_reply(id);
        self.out.push(Action::Reply { id, result });
    }

    pub(super) fn read_done(
        &mut self,
        id: RequestId,
        offset: u64,
        len: u32,
        result: Result<Option<Payload>, Errno>,
    ) {
        match result {
            Err(errno) => self.read_failed(id, offset, len, errno),
            // Given up meanwhile: what a disk says after it lost a flush may be older than what was acknowledged.
            Ok(_) if !self.is_attached() => self.read_through(id, offset, len, Errno::EIO),
            data => self.read_answered(id, len, data),
        }
    }

    pub(super) fn read_answered(&mut self, id: RequestId, len: u32, result: Result<Option<Payload>, Errno>) {
        let result = match result {
            Ok(Some(data)) => match self.hold_read(id, len, data) {
                Some(answer) => answer,
                None => return,
            },
            other => other,
        };
        self.end_read(id, len, result);
    }

    pub(super) fn end_read(&mut self, id: RequestId, len: u32, result: Result<Option<Payload>, Errno>) {
        self.reads_in_flight -= 1;
        self.in_flight_bytes -= u64::from(len);
        self.reply(id, result);
        self.quiesce_step();
    }

    pub(super) fn note_disk_error(&mut self, what: &str, errno: Errno) {
        let text = format!("backing device: {what} failed: {}", describe(errno));
        if self.disk_error.as_ref() != Some(&text) {
            self.notice(Severity::Error, "disk.error", text.clone());
            self.disk_error = Some(text);
        }
    }

    // ---- writes --------------------------------------------------------------------------------------

    fn queue_write(&mut self, id: RequestId, change: Change, offset: u64, len: u64, fua: bool) {
        if !self.is_inside(offset, len) {
            return self.reply(id, Err(Errno::EINVAL));
        }
        let write = LocalWrite {
            id,
            change,
            offset,
            len,
            fua,
            started: self.now,
            replied: false,
            local_done: false,
            failed: None,
            refused: None,
            need: 0,
            unacked: 0,
            lacking: 0,
        };
        self.in_flight_bytes += write.memory();
        let index = self.writes.insert(write);
        if self.ranges.acquire(Holder::Local(index), offset, offset + len) {
            self.prepare_write(index);
        }
    }

    /// The range is ours: start, or wait for what must be durable first.
    pub(super) fn prepare_write(&mut self, index: usize) {
        if self.may_start(index) {
            self.start_write(index);
        } else {
            self.to_start.push_back(index);
        }
    }

    fn may_start(&mut self, index: usize) -> bool {
        let Some(write) = self.writes.get(index) else {
            return true;
        };
        if write.replied {
            return true;
        }
        if !self.is_attached() {
            // Nothing is logged here any more: the stand-in does, once it is one.
            return !self.is_detaching();
        }
        let (offset, len) = (write.offset, write.len);
        if !self.may_begin_write() {
            return false;
        }
        let logged = self.intent_is_durable(offset, len);
        let tracked = self.generation_is_tracked();
        if !tracked {
            self.want_new_generation();
        }
        logged && tracked
    }

    /// Tries again, in order, what waited for metadata or for a verdict.
    pub(super) fn retry_starts(&mut self) {
        for _ in 0..self.to_start.len() {
            let Some(index) = self.to_start.pop_front() else {
                break;
            };
            if self.may_start(index) {
                self.start_write(index);
            } else {
                self.to_start.push_back(index);
            }
        }
    }

    /// Sends the frame to each mirrored peer, marks the others, and submits the local write.
    fn start_write(&mut self, index: usize) {
        let Some(write) = self.writes.get(index) else {
            return;
        };
        if write.replied {
            // Failed while it waited (superseded, or the metadata broke): it never touches a disk.
            self.forget_write(index);
            self.release_range(Holder::Local(index));
            return self.quiesce_step();
        }
        if let Attachment::Served(slot) = self.attachment {
            return self.start_served_write(index, slot);
        }
        let (offset, len, fua, change) = (write.offset, write.len, write.fua, write.change.clone());
        let (mut need, mut unacked, mut lacking) = (0, 0, 0);
        for slot in 0..self.peers.len() {
            let bit = 1 << slot;
            if self.peers[slot].is_mirrored() {
                let early = self.send_write(slot, index, &change, offset, len, fua);
                unacked |= bit;
                if !early && !planted(Fault::AckBeforePeer) {
                    need |= bit;
                }
                for extent in self.extents_of(offset, len) {
                    self.peers[slot].unflushed.insert(extent);
                }
            } else {
                lacking |= bit;
                if !planted(Fault::UnmirroredUnmarked) {
                    self.mark_dirty(slot, offset, len);
                }
            }
        }
        let started = self.now;
        if let Some(write) = self.writes.get_mut(index) {
            write.started = started;
            write.need = need;
            write.unacked = unacked;
            write.lacking = lacking;
        }
        for extent in self.extents_of(offset, len) {
            self.touched.set(extent, 1);
        }
        let op = disk_op(&change, offset, len, fua);
        self.uses_disk();
        self.disk(Purpose::LocalWrite(index), op);
    }

    /// Returns true when the reply need not wait for this peer (protocol A, with room).
    pub(super) fn send_write(
        &mut self,
        slot: PeerSlot,
        index: usize,
        change: &Change,
        offset: u64,
        len: u64,
        fua: bool,
    ) -> bool {
        let protocol = self.config.protocol;
        let Some(link) = self.peers[slot].link.as_mut() else {
            return true;
        };
        let bytes = match change {
            Change::Data(payload) => payload.len() as u64,
            Change::Zero { .. } => 0,
        };
        let seq = link.push_sent(Sent::Write { index, bytes });
        let early = protocol == Protocol::A && !fua && link.unacked_bytes <= UNACKED_BYTES_MAX;
        let message = match change.clone() {
            Change::Data(payload) => Message::Write {
                seq,
                offset,
                payload,
                fua,
            },
            Change::Zero { trim: true, .. } => Message::Trim {
                seq,
                offset,
                len,
                fua,
            },
            Change::Zero { unmap, .. } => Message::WriteZeroes {
                seq,
                offset,
                len,
                fua,
                unmap,
            },
        };
        self.send(slot, message);
        early
    }

    pub(super) fn local_write_done(&mut self, index: usize, result: Result<(), Errno>) {
        let Some(write) = self.writes.get_mut(index) else {
            return;
        };
        write.local_done = true;
        let (offset, len, fua) = (write.offset, write.len, write.fua);
        if result.is_ok() && write.is_data() {
            self.latency.disk_writes.record(self.now - write.started);
        }
        if let Err(errno) = result {
            write.failed = Some(errno);
            // What the block holds now is unknown here, and may differ from every peer.
            for slot in 0..self.peers.len() {
                self.mark_dirty(slot, offset, len);
            }
            if !self.detaches_for("write", errno) && fua {
                // Made stable by a flush of its own, which may have been told of other writes' loss.
                self.lost_what_was_not_flushed(errno);
            }
        }
        self.release_range(Holder::Local(index));
        self.try_complete_write(index);
    }

    /// The peer has it in memory: protocol B's confirmation.
    pub(super) fn write_received(&mut self, slot: PeerSlot, index: usize) {
        let protocol = self.config.protocol;
        if let Some(write) = self.writes.get_mut(index) {
            if protocol == Protocol::B && !write.fua && self.attachment == Attachment::Attached {
                write.need &= !(1 << slot);
                self.try_complete_write(index);
            }
        }
    }

    /// The peer is gone, and may not have it: its copy is marked dirty by then.
    pub(super) fn write_lost(&mut self, slot: PeerSlot, index: usize) {
        if let Some(write) = self.writes.get_mut(index) {
            write.lacking |= write.need & (1 << slot);
        }
        self.write_settled(slot, index);
    }

    /// Every peer has what it did not confirm, by a resync: nothing that is open waits for it any more.
    pub(super) fn nothing_lacks(&mut self) {
        for (_, write) in self.writes.iter_mut() {
            write.lacking = 0;
        }
        for (_, flush) in self.flushes.iter_mut() {
            flush.lacking = 0;
        }
    }

    /// The peer has it on disk, or its confirmation will not come.
    pub(super) fn write_settled(&mut self, slot: PeerSlot, index: usize) {
        if let Some(write) = self.writes.get_mut(index) {
            write.need &= !(1 << slot);
            write.unacked &= !(1 << slot);
            self.try_complete_write(index);
        }
    }

    pub(super) fn write_range(&self, index: usize) -> Option<(u64, u64)> {
        self.writes.get(index).map(|write| (write.offset, write.len))
    }

    /// When disk and peers were given it.
    pub(super) fn write_started(&self, index: usize) -> Option<Time> {
        self.writes.get(index).map(|write| write.started)
    }

    /// The peer has confirmed that its disk has it.
    pub(super) fn write_confirmed(&mut self, slot: PeerSlot, index: usize) {
        if let Some(write) = self.writes.get(index).filter(|write| write.is_data()) {
            self.peers[slot].latency.record(self.now - write.started);
        }
    }

    pub(super) fn try_complete_write(&mut self, index: usize) {
        let Some(write) = self.writes.get(index) else {
            return;
        };
        if !write.local_done {
            return;
        }
        if write.need == 0 && !write.replied && !self.is_detaching() {
            let waits = match self.may_acknowledge(write.lacking != 0) {
                Ack::Now => false,
                Ack::Alone => write.failed.is_none() && !self.generation_is_tracked(),
                Ack::Wait => true,
            };
            if waits {
                self.want_new_generation();
                self.writes_to_reply.push_back(index);
                return;
            }
            let Some(write) = self.writes.get(index) else {
                return;
            };
            let (id, result) = (write.id, write.failed.or(write.refused).map_or(Ok(None), Err));
            self.reply(id, result);
            if let Some(write) = self.writes.get_mut(index) {
                write.replied = true;
            }
        }
        if self
            .writes
            .get(index)
            .is_some_and(|write| write.replied && write.unacked == 0)
        {
            self.forget_write(index);
            self.quiesce_step();
        }
    }

    fn forget_write(&mut self, index: usize) {
        if let Some(write) = self.writes.remove(index) {
            self.in_flight_bytes -= write.memory();
        }
    }

    /// Replies that waited until the loss of a peer was durable.
    pub(super) fn retry_replies(&mut self) {
        for _ in 0..self.writes_to_reply.len() {
            let Some(index) = self.writes_to_reply.pop_front() else {
                break;
            };
            self.try_complete_write(index);
        }
        for _ in 0..self.flushes_to_reply.len() {
            let Some(index) = self.flushes_to_reply.pop_front() else {
                break;
            };
            self.try_complete_flush(index);
        }
    }

    // ---- flushes -------------------------------------------------------------------------------------

    pub(super) fn start_flush(&mut self, owner: FlushOwner) {
        let only = if let FlushOwner::Drain(slot) = owner {
            Some(slot)
        } else {
            None
        };
        let local_done = only.is_some() || !self.is_attached();
        let tells = matches!(owner, FlushOwner::Request(_)) && !self.is_attached();
        let refused = self.flush_error.take_if(|_| tells);
        let index = self.flushes.insert(LocalFlush {
            owner,
            local_done,
            failed: None,
            refused,
            sent: 0,
            need: 0,
            lacking: 0,
        });
        let (mut need, mut lacking) = (0, 0);
        for slot in 0..self.peers.len() {
            let follows = self.peers[slot].is_known_as(Role::Secondary);
            let wanted = only.map_or(follows && self.peers[slot].is_mirrored(), |peer| peer == slot)
                && !self.is_detaching()
                && !planted(Fault::FlushNotForwarded);
            let Some(link) = self.peers[slot].link.as_mut().filter(|_| wanted) else {
                lacking |= 1 << slot;
                continue;
            };
            let seq = link.push_sent(Sent::Flush(index));
            self.peers[slot].begin_cover(seq);
            self.send(slot, Message::Flush { seq });
            need |= 1 << slot;
        }
        if let Some(flush) = self.flushes.get_mut(index) {
            flush.sent = need;
            flush.need = need;
            flush.lacking = lacking;
        }
        if local_done {
            self.try_complete_flush(index);
        } else {
            self.disk(Purpose::LocalFlush(index), DiskOp::Flush);
        }
    }

    pub(super) fn local_flush_done(&mut self, index: usize, result: Result<(), Errno>) {
        if let Err(errno) = result {
            if !self.detaches_for("flush", errno) {
                self.lost_what_was_not_flushed(errno);
            }
        }
        let attached = self.is_attached();
        if let Some(flush) = self.flushes.get_mut(index) {
            flush.local_done = true;
            if matches!(flush.owner, FlushOwner::Request(_)) {
                // Counts whoever stands in before this one is answered: see `hand_over_requests`.
                flush.refused = flush.refused.or(self.flush_error.take());
            } else if attached {
                // What a disk says that was given up means nothing.
                flush.failed = flush.failed.or(result.err());
            }
        }
        self.try_complete_flush(index);
    }

    /// The kernel drops what it could not write back, and says so once: to one flush of those under way, and to
    /// none that comes later. Whatever was written since the last good flush may be gone from this disk.
    pub(super) fn lost_what_was_not_flushed(&mut self, errno: Errno) {
        // The write-intent log holds at least all of that: extents leave it only after a flush.
        for peer in &mut self.peers {
            for (first, count) in self.intent.runs() {
                peer.suspect.set(first, count);
            }
        }
        if self.role == Role::Secondary {
            self.stand_in_error = Some(errno);
            return self.lost_replicated_writes(errno);
        }
        for (_, flush) in self.flushes.iter_mut() {
            flush.failed = flush.failed.or(Some(errno));
        }
        // The application is told, also when it was no flush of its own that failed.
        self.flush_error = Some(errno);
    }

    /// The peer is gone, and what it confirmed may not be stable there.
    pub(super) fn flush_lost(&mut self, slot: PeerSlot, index: usize) {
        if let Some(flush) = self.flushes.get_mut(index) {
            flush.lacking |= flush.need & (1 << slot);
        }
        self.flush_settled(slot, index);
    }

    pub(super) fn flush_settled(&mut self, slot: PeerSlot, index: usize) {
        if let Some(flush) = self.flushes.get_mut(index) {
            flush.need &= !(1 << slot);
            self.try_complete_flush(index);
        }
    }

    fn try_complete_flush(&mut self, index: usize) {
        let Some(flush) = self.flushes.get(index) else {
            return;
        };
        if !flush.local_done || flush.need != 0 || self.is_detaching() {
            return;
        }
        // A flush promises stability on every in-sync node: a peer that was lost with data of ours still
        // unflushed must be known as behind, durably, before the promise is given without it.
        let lost_unflushed = self
            .peers
            .iter()
            .any(|peer| !(peer.is_mirrored() || peer.has_everything_stable()));
        let request = matches!(flush.owner, FlushOwner::Request(_));
        let unstable = flush.lacking != 0 && !self.peers.iter().all(Peer::has_everything_stable);
        if request && self.may_acknowledge(unstable) == Ack::Wait {
            self.flushes_to_reply.push_back(index);
            return;
        }
        let alone = self.may_acknowledge(unstable) == Ack::Alone;
        if request && alone && lost_unflushed && !self.generation_is_tracked() {
            self.want_new_generation();
            self.flushes_to_reply.push_back(index);
            return;
        }
        let Some(flush) = self.flushes.remove(index) else {
            return;
        };
        let result = flush.failed.or(flush.refused).map_or(Ok(()), Err);
        match flush.owner {
            FlushOwner::Request(id) => {
                self.reply(id, result.map(|()| None));
                self.quiesce_step();
            }
            FlushOwner::Cleaning => self.cleaning_flushed(result),
            FlushOwner::Quiesce => self.quiesce_flushed(result),
            FlushOwner::Drain(slot) => self.drained(slot),
            FlushOwner::Repair => self.repair_flushed(result),
            FlushOwner::Nobody => {}
        }
    }

    // ---- through a peer that stands in ---------------------------------------------------------------

    /// Everything that is open depends on `slot` alone: what this node's disk did with it means nothing, and what
    /// the peer was told early or not at all counts.
    pub(super) fn hand_over_requests(&mut self, slot: PeerSlot) {
        let bit = 1 << slot;
        let mut writes = Vec::new();
        for (index, write) in self.writes.iter_mut() {
            write.failed = None;
            if !write.replied {
                write.need |= write.unacked & bit;
                writes.push(index);
            }
        }
        let mut unsent = Vec::new();
        for (index, flush) in self.flushes.iter_mut() {
            flush.failed = None;
            if flush.sent & bit == 0 {
                flush.sent |= bit;
                flush.need |= bit;
                unsent.push(index);
            }
        }
        for index in unsent {
            if let Some(link) = self.peers[slot].link.as_mut() {
                let seq = link.push_sent(Sent::Flush(index));
                self.send(slot, Message::Flush { seq });
            }
        }
        for index in writes {
            self.try_complete_write(index);
        }
        self.complete_flushes();
    }

    /// No disk here: the peer keeps the order of what overlaps.
    fn start_served_write(&mut self, index: usize, slot: PeerSlot) {
        let started = self.now;
        if let Some(write) = self.writes.get_mut(index) {
            write.started = started;
            write.local_done = true;
            (write.need, write.unacked) = (1 << slot, 1 << slot);
            let (offset, len, fua, change) = (write.offset, write.len, write.fua, write.change.clone());
            self.send_write(slot, index, &change, offset, len, fua);
            self.release_range(Holder::Local(index));
        }
    }

    /// The stand-in's disk failed an operation: there is no other copy that would have it.
    pub(super) fn refused_by_stand_in(&mut self, sent: Sent, errno: Errno) {
        match sent {
            Sent::Write { index, .. } => {
                let Some(write) = self.writes.get_mut(index) else {
                    return;
                };
                write.refused = Some(errno);
                if write.replied {
                    // Acknowledged early, by protocol A or B, and lost: the next flush says so.
                    self.flush_error = Some(errno);
                    self.fail_flushes(errno);
                }
            }
            // The kernel tells an error to one flush of those under way.
            Sent::Flush(_) => self.fail_flushes(errno),
            // There is no copy left here that it could be repaired from.
            Sent::Repair { .. } => {}
        }
    }

    pub(super) fn fail_flushes(&mut self, errno: Errno) {
        for (_, flush) in self.flushes.iter_mut() {
            flush.refused = flush.refused.or(Some(errno));
        }
    }

    pub(super) fn complete_flushes(&mut self) {
        let open: Vec<usize> = self.flushes.iter().map(|(index, _)| index).collect();
        for index in open {
            self.try_complete_flush(index);
        }
    }

    // ---- failing everything --------------------------------------------------------------------------

    /// Every request that has no answer yet gets `errno`; what is on its way to a disk still ends there.
    pub(super) fn fail_all_requests(&mut self, errno: Errno) {
        let open: Vec<usize> = self
            .writes
            .iter()
            .filter(|(_, w)| !w.replied)
            .map(|(i, _)| i)
            .collect();
        for index in open {
            if let Some(write) = self.writes.get_mut(index).filter(|write| !write.replied) {
                write.replied = true;
                write.need = 0;
                let id = write.id;
                self.reply(id, Err(errno));
                self.try_complete_write(index);
            }
        }
        self.fail_heals(None);
        self.fail_held_reads(errno);
        let open: Vec<usize> = self.flushes.iter().map(|(i, _)| i).collect();
        for index in open {
            let Some(flush) = self.flushes.get_mut(index) else {
                continue;
            };
            if let FlushOwner::Request(id) = flush.owner {
                flush.owner = FlushOwner::Nobody;
                self.reply(id, Err(errno));
            }
        }
        // Those still waiting to start give their ranges back now.
        let waiting: Vec<usize> = self.to_start.drain(..).collect();
        for index in waiting {
            self.start_write(index);
        }
        self.quiesce_step();
    }

    pub(super) fn has_requests_in_flight(&self) -> bool {
        self.reads_in_flight > 0 || self.writes.len() > 0 || self.has_open_flushes() || self.hold_writes()
    }

    /// Whether somebody waits for a write or a flush: one that was failed may be in flight still, and has its answer.
    pub(super) fn has_unanswered(&self) -> bool {
        self.writes.iter().any(|(_, write)| !write.replied) || self.has_open_flushes()
    }

    fn has_open_flushes(&self) -> bool {
        self.flushes
            .iter()
            .any(|(_, flush)| matches!(flush.owner, FlushOwner::Request(_)))
    }
}

impl LocalWrite {
    fn is_data(&self) -> bool {
        matches!(self.change, Change::Data(_))
    }

    fn memory(&self) -> u64 {
        match &self.change {
            Change::Data(payload) => payload.len() as u64,
            Change::Zero { .. } => 0,
        }
    }
}
