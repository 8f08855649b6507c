//! A peer's writes, as they arrive here.

use super::durable::Then;
use super::fault::{planted, Fault};
use super::links::Phase;
use super::replica::{Holder, Purpose, Replica};
use super::requests::{disk_op, Change};
use super::types::*;
use crate::wire::{DiskState, GoodbyeReason, Message, Protocol, Role};

/// A write of the Primary on its way to this node's disk.
pub(super) struct RemoteWrite {
    peer: PeerSlot,
    connection: ConnectionId,
    seq: u64,
    change: Change,
    offset: u64,
    len: u64,
    fua: bool,
    /// On behalf of a peer without a disk: what it changes, that peer lacks.
    served: bool,
}

impl RemoteWrite {
    fn memory(&self) -> u64 {
        match &self.change {
            Change::Data(payload) => payload.len() as u64,
            Change::Zero { .. } => 0,
        }
    }
}

impl Replica {
    pub(super) fn on_replicated(&mut self, slot: PeerSlot, message: Message) {
        // A flush changes nothing, and one that was sent before a change of roles is honest.
        let is_flush = matches!(message, Message::Flush { .. });
        let follows = match self.peers[slot].phase() {
            Some(Phase::Established) => is_flush || self.role == Role::Secondary && !self.promoting,
            Some(Phase::Target(target)) => target.ready,
            Some(Phase::Diskless { served }) => *served,
            _ => false,
        };
        if !follows {
            return self.protocol_error(slot, "replicated writes to a node that does not follow");
        }
        let (seq, change, offset, len, fua) = match message {
            Message::Write {
                seq,
                offset,
                payload,
                fua,
            } => {
                let len = payload.len() as u64;
                (seq, Change::Data(payload), offset, len, fua)
            }
            Message::WriteZeroes {
                seq,
                offset,
                len,
                fua,
                unmap,
            } => (seq, Change::Zero { unmap, trim: false }, offset, len, fua),
            Message::Trim {
                seq,
                offset,
                len,
                fua,
            } => (
                seq,
                Change::Zero {
                    unmap: true,
                    trim: true,
                },
                offset,
                len,
                fua,
            ),
            Message::Flush { seq } => return self.on_remote_flush(slot, seq),
            _ => return,
        };
        if !self.is_inside(offset, len) {
            return self.protocol_error(slot, "a write outside the device");
        }
        let Some(link) = self.peers[slot].link.as_mut() else {
            return;
        };
        if !link.received.receive(seq) {
            return self.protocol_error(slot, "a hole in the sequence of writes, or too many under way");
        }
        let connection = link.id;
        if self.config.protocol == Protocol::B {
            self.send(slot, Message::Received { seq });
        }
        let write = RemoteWrite {
            peer: slot,
            connection,
            seq,
            change,
            offset,
            len,
            fua,
            served: self.stands_in_for(slot),
        };
        self.remote_bytes += write.memory();
        let index = self.remote.insert(write);
        if self.ranges.acquire(Holder::Remote(index), offset, offset + len) {
            self.start_remote_write(index);
        }
    }

    pub(super) fn start_remote_write(&mut self, index: usize) {
        if !self.is_attached() {
            return self.forget_remote_write(index);
        }
        if !self.log_served_write(index) {
            return self.unlogged.push(index);
        }
        if let Some(write) = self.remote.get(index) {
            let op = disk_op(&write.change, write.offset, write.len, write.fua);
            let (peer, connection, seq) = (write.peer, write.connection, write.seq);
            self.uses_disk();
            self.disk(Purpose::RemoteWrite(index), op);
            if planted(Fault::ConfirmedBeforeDisk) {
                self.answer(peer, connection, seq, Ok(()));
            }
        }
    }

    pub(super) fn remote_write_done(&mut self, index: usize, result: Result<(), Errno>) {
        let Some(write) = self.remote.remove(index) else {
            return;
        };
        self.remote_bytes -= write.memory();
        self.release_range(Holder::Remote(index));
        let result = result.or_else(|errno| match planted(Fault::FailedWriteConfirmed) {
            true => Ok(()),
            false => Err(errno),
        });
        if let Err(errno) = result {
            let now = self.peers[write.peer].link.as_ref().map(|link| link.id);
            if self.is_only_copy(write.peer) {
                self.note_disk_error("write", errno);
                // Made stable by a flush of its own, which may have been told of other writes' loss.
                self.stand_in_error = self.stand_in_error.or(Some(errno).filter(|_| write.fua));
            } else {
                self.has_hole |= now == Some(write.connection);
                self.copy_has_a_hole("write", errno);
            }
        }
        if let Some(link) = self.peers[write.peer]
            .link
            .as_mut()
            .filter(|link| link.id == write.connection)
        {
            link.received.complete(write.seq);
        }
        if !planted(Fault::ConfirmedBeforeDisk) {
            self.answer(write.peer, write.connection, write.seq, result);
        }
        self.start_remote_flushes(write.peer);
        self.peers_write_ended();
    }

    /// For a peer without a disk: that it lacks this write is on record before the write can exist. False while the
    /// write-intent log is being written.
    fn log_served_write(&mut self, index: usize) -> bool {
        let Some(write) = self.remote.get(index) else {
            return true;
        };
        let (slot, offset, len) = (write.peer, write.offset, write.len);
        let served = write.served || self.stands_in_for(slot);
        if served && !self.intent_is_durable(offset, len) {
            if let Some(write) = self.remote.get_mut(index) {
                write.served = true;
            }
            return false;
        }
        if served {
            self.mark_dirty(slot, offset, len);
            for extent in self.extents_of(offset, len) {
                self.touched.set(extent, 1);
            }
        }
        true
    }

    /// The write-intent log grew.
    pub(super) fn retry_unlogged(&mut self) {
        for index in std::mem::take(&mut self.unlogged) {
            self.start_remote_write(index);
        }
    }

    /// There is no disk to write it to, and its sender knows.
    fn forget_remote_write(&mut self, index: usize) {
        if let Some(write) = self.remote.remove(index) {
            self.remote_bytes -= write.memory();
            self.release_range(Holder::Remote(index));
        }
    }

    /// A peer's writes on their way, as ranges.
    pub(super) fn remote_ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.remote.iter().map(|(_, write)| (write.offset, write.len))
    }

    /// This copy lacks a write that the Primary has: it is no good until it was resynced.
    pub(super) fn copy_has_a_hole(&mut self, what: &str, errno: Errno) {
        if !self.detaches_for(what, errno) && self.superblock.disk != DiskState::Inconsistent {
            self.superblock.disk = DiskState::Inconsistent;
            self.save_superblock(Then::Nothing);
        }
    }

    /// A flush of this node's own took the error that a flush of the Primary's would have had. What the Primary
    /// had on its way here when a connection ended, it has marked itself.
    pub(super) fn lost_replicated_writes(&mut self, errno: Errno) {
        for slot in 0..self.peers.len() {
            if self.follows(slot) {
                self.has_hole = true;
                self.copy_has_a_hole("flush", errno);
                self.close_with(
                    slot,
                    GoodbyeReason::Busy,
                    "a flush failed: this copy must be compared again",
                );
            }
        }
    }

    /// Answers on the connection that asked, if it still stands.
    fn answer(&mut self, slot: PeerSlot, connection: ConnectionId, seq: u64, result: Result<(), Errno>) {
        if self.peers[slot].is_on(connection) {
            let status = result.err().map_or(0, |errno| errno.0.unsigned_abs() as u16);
            self.send(slot, Message::Done { seq, status });
        }
    }

    fn on_remote_flush(&mut self, slot: PeerSlot, seq: u64) {
        let Some(link) = self.peers[slot].link.as_mut() else {
            return;
        };
        if !link.received.receive(seq) {
            return self.protocol_error(slot, "a hole in the sequence of writes");
        }
        link.waiting_flushes.push_back(seq);
        self.start_remote_flushes(slot);
    }

    /// A flush covers every write that was sent before it, also one that is only in memory here.
    fn start_remote_flushes(&mut self, slot: PeerSlot) {
        loop {
            let Some(link) = self.peers[slot].link.as_mut() else {
                return;
            };
            match link.waiting_flushes.front() {
                Some(&seq) if link.received.settled_before(seq) => {
                    link.waiting_flushes.pop_front();
                    // Later flushes need not wait for this one, only for writes.
                    link.received.complete(seq);
                    let connection = link.id;
                    self.remote_flushes += 1;
                    self.disk(
                        Purpose::RemoteFlush {
                            peer: slot,
                            connection,
                            seq,
                        },
                        DiskOp::Flush,
                    );
                }
                _ => return,
            }
        }
    }

    pub(super) fn remote_flush_done(
        &mut self,
        slot: PeerSlot,
        connection: ConnectionId,
        seq: u64,
        result: Result<(), Errno>,
    ) {
        self.remote_flushes -= 1;
        let stands_in = self.stands_in_for(slot);
        let result = match self.stand_in_error.take_if(|_| stands_in) {
            Some(errno) => result.and(Err(errno)),
            None => result,
        };
        if let Err(errno) = result {
            let now = self.peers[slot].link.as_ref().map(|link| link.id);
            if self.role == Role::Primary {
                // Asked for when both were Secondary: by now this is the copy that the other one lacks.
                if !self.detaches_for("flush", errno) {
                    self.lost_what_was_not_flushed(errno);
                }
            } else if self.is_only_copy(slot) {
                self.note_disk_error("flush", errno);
            } else {
                self.has_hole |= now == Some(connection);
                self.copy_has_a_hole("flush", errno);
            }
        }
        self.answer(slot, connection, seq, result);
    }
}
