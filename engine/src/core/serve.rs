//! Standing in for a peer whose disk cannot: its reads.

use super::links::Phase;
use super::replica::{Holder, Purpose, Replica};
use super::types::*;
use crate::payload::Payload;
use crate::wire::{DiskState, Message};

/// A read of a peer's application, on its way to this node's disk.
pub(super) struct Answer {
    peer: PeerSlot,
    connection: ConnectionId,
    id: u64,
    offset: u64,
    len: u32,
}

impl Replica {
    /// Answered in its turn: after every write that the peer sent before it, and that it may overlap.
    pub(super) fn on_read_request(&mut self, slot: PeerSlot, id: u64, offset: u64, len: u32) {
        let connection = match &self.peers[slot].link {
            Some(link) if matches!(link.phase, Phase::Established) => link.id,
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
        let alive = self.peers[answer.peer]
            .link
            .as_ref()
            .is_some_and(|link| link.id == answer.connection);
        if alive {
            self.send(answer.peer, message);
        }
    }
}
