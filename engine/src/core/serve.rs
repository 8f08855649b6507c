//! Standing in for a peer whose disk cannot: its reads, and, once it gave its disk up, its writes and flushes.
//!
//! This copy is then the only good one. An error of its disk is told to whoever asked, and never makes it Inconsistent.

use super::durable::Then;
use super::links::Phase;
use super::replica::{Holder, Purpose, Replica};
use super::requests::FlushOwner;
use super::types::*;
use crate::payload::Payload;
use crate::wire::{DiskState, GoodbyeReason, Message, Role};

/// A read of a peer's application, on its way to this node's disk.
pub(super) struct Answer {
    peer: PeerSlot,
    connection: ConnectionId,
    id: u64,
    offset: u64,
    len: u32,
}

impl Replica {
    /// Whether `slot` has no disk and goes on through this node's, now or in a moment.
    pub(super) fn stands_in_for(&self, slot: PeerSlot) -> bool {
        matches!(self.peers[slot].phase(), Some(Phase::Diskless { .. }))
    }

    /// Whether this copy has what `slot` lacks: it must stay usable, whatever its disk says.
    pub(super) fn is_only_copy(&self, slot: PeerSlot) -> bool {
        self.superblock.peers[slot].bitmap_generation != 0 && self.superblock.disk == DiskState::UpToDate
    }

    /// Nobody will ask for this flush any more. What was acknowledged must not be lost with this node's power, once the
    /// other one is back as a copy: as the last Primary's, this copy would win.
    pub(super) fn service_ended(&mut self) {
        if self.is_attached() {
            self.start_flush(FlushOwner::Nobody);
        }
    }

    /// The Primary has given its disk up. What it lacks from here on is tracked under a new generation, durably,
    /// before the first write that it lacks.
    pub(super) fn on_detached(&mut self, slot: PeerSlot) {
        let fit = self.follows(slot)
            && self.peers[slot].is_established()
            && self.peers[slot].draining.is_none()
            && self.role == Role::Secondary
            && self.promotion.is_none()
            && !self.promoting
            && self.quiescing.is_none()
            && self.is_attached()
            && self.superblock.disk == DiskState::UpToDate;
        let name = self.peers[slot].name.clone();
        let connection = match &self.peers[slot].link {
            Some(link) if fit => link.id,
            _ => {
                let text = format!("{} cannot stand in for {name} now", self.config.node);
                // With a hole in this copy the other one is the better: it must not stay stale as well.
                let reason = match self.superblock.disk {
                    DiskState::UpToDate => GoodbyeReason::Busy,
                    _ => GoodbyeReason::Diskless,
                };
                return self.close_with(slot, reason, &text);
            }
        };
        if let Some(known) = &mut self.peers[slot].known {
            known.disk = DiskState::Diskless;
        }
        self.set_phase(slot, Phase::Diskless { served: false });
        self.settle_unanswered(slot);
        self.stand_in_error = None;
        self.open_generation(&format!("{name} has given its disk up"));
        // Should the other one be lost, this node may go on without a word.
        self.superblock.last_primary = true;
        self.save_superblock(Then::StandingIn {
            peer: slot,
            connection,
        });
    }

    pub(super) fn standing_in(&mut self, slot: PeerSlot, connection: ConnectionId) {
        let name = self.peers[slot].name.clone();
        let Some(link) = self.peers[slot]
            .link
            .as_mut()
            .filter(|link| link.id == connection)
        else {
            return;
        };
        link.phase = Phase::Diskless { served: true };
        let text = format!("{} stands in for {name}, whose disk failed", self.config.node);
        self.tell(
            Severity::Warning,
            "disk.standing_in",
            text,
            Some(slot),
            self.generation_fields(),
        );
        self.send(slot, Message::DetachedOk);
    }

    /// Answered in its turn: after every write that the peer sent before it, and that it may overlap.
    pub(super) fn on_read_request(&mut self, slot: PeerSlot, id: u64, offset: u64, len: u32) {
        let connection = match &self.peers[slot].link {
            Some(link) if matches!(link.phase, Phase::Established | Phase::Diskless { .. }) => link.id,
            _ => return self.protocol_error(slot, "a read from a node that is no copy"),
        };
        if !self.is_inside(offset, u64::from(len)) {
            return self.protocol_error(slot, "a read outside the device");
        }
        if self.superblock.disk != DiskState::UpToDate || !self.is_attached() {
            let status = Errno::EIO.0 as u16;
            return self.send(slot, Message::ReadFailed { id, status });
        }
        self.remote_bytes += u64::from(len);
        let index = self.answers.insert(Answer {
            peer: slot,
            connection,
            id,
            offset,
            len,
        });
        let end = offset + u64::from(len);
        if self.ranges.acquire(Holder::Answer(index), offset, end) {
            self.start_answer(index);
        }
    }

    pub(super) fn start_answer(&mut self, index: usize) {
        if let Some(answer) = self.answers.get(index) {
            let (offset, len) = (answer.offset, answer.len);
            self.disk(Purpose::Answer(index), DiskOp::Read { offset, len });
        }
    }

    pub(super) fn answer_read(&mut self, index: usize, result: Result<Option<Payload>, Errno>) {
        let Some(answer) = self.answers.remove(index) else {
            return;
        };
        self.remote_bytes -= u64::from(answer.len);
        self.release_range(Holder::Answer(index));
        let id = answer.id;
        let message = match result {
            Ok(Some(payload)) => Message::ReadData {
                id,
                offset: answer.offset,
                payload,
            },
            Ok(None) | Err(_) => {
                let errno = result.err().unwrap_or(Errno::EIO);
                self.note_disk_error("read", errno);
                let status = errno.0.unsigned_abs() as u16;
                Message::ReadFailed { id, status }
            }
        };
        let alive = self.peers[answer.peer].is_on(answer.connection);
        if alive {
            self.send(answer.peer, message);
        }
    }
}
