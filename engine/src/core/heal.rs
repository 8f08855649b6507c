//! Reads that this node's disk cannot answer: the peer's copy does, and what it says is written back here.
//!
//! The range is held from before the question until the block is mended, so a write that overlaps waits: what is
//! written back is never older than what lies there.

use super::replica::{Holder, Purpose, Replica};
use super::types::*;
use crate::payload::Payload;
use crate::wire::{Message, Status, PAYLOAD_MAX};

enum Stage {
    /// For its range.
    Queued,
    Asked,
    /// The application has its answer; the write-intent log comes before the disk.
    Logging(Payload),
    Writing,
}

/// A read of the application, on its way through the peer.
pub(super) struct Heal {
    id: RequestId,
    /// What the application asked for.
    offset: u64,
    len: u32,
    /// The whole blocks around it.
    start: u64,
    end: u64,
    /// One frame carries all of them: what comes may be written back.
    mends: bool,
    peer: PeerSlot,
    /// Its error, should the peer not know either.
    errno: Errno,
    stage: Stage,
}

impl Heal {
    pub(super) fn range(&self) -> (u64, u64) {
        (self.start, self.end - self.start)
    }
}

impl Replica {
    /// The disk failed a read: the peer is asked, or the application hears of it.
    pub(super) fn read_failed(&mut self, id: RequestId, offset: u64, len: u32, errno: Errno) {
        self.note_disk_error("read", errno);
        self.read_through(id, offset, len, errno);
    }

    /// Asks the peer; without one, `errno` is the answer.
    pub(super) fn read_through(&mut self, id: RequestId, offset: u64, len: u32, errno: Errno) {
        let Some(peer) = self.reader().filter(|_| len <= PAYLOAD_MAX) else {
            return self.read_answered(id, len, Err(errno));
        };
        let block_size = u64::from(self.superblock.block_size_bytes);
        let end = offset + u64::from(len);
        let whole = (
            offset / block_size * block_size,
            end.next_multiple_of(block_size)
                .min(self.superblock.data_size_bytes),
        );
        let mends = whole.1 - whole.0 <= u64::from(PAYLOAD_MAX);
        let (start, end) = if mends { whole } else { (offset, end) };
        let index = self.heals.insert(Heal {
            id,
            offset,
            len,
            start,
            end,
            mends,
            peer,
            errno,
            stage: Stage::Queued,
        });
        if self.ranges.acquire(Holder::Heal(index), start, end) {
            self.ask_for_heal(index);
        }
    }

    /// The range is ours: every write before it went out before the question does.
    pub(super) fn ask_for_heal(&mut self, index: usize) {
        let Some(heal) = self.heals.get_mut(index) else {
            return;
        };
        heal.stage = Stage::Asked;
        let (slot, offset, len) = (heal.peer, heal.start, (heal.end - heal.start) as u32);
        // A connection that ended has ended this too.
        let id = index as u64;
        self.send(slot, Message::ReadRequest { id, offset, len });
    }

    pub(super) fn on_read_data(&mut self, slot: PeerSlot, id: u64, offset: u64, payload: Payload) {
        if self.hold_answered(slot, id, Some((offset, payload.clone()))) {
            return;
        }
        let fits = |heal: &Heal| (offset, payload.len() as u64) == heal.range();
        let Some(index) = self
            .asked_for(slot, id)
            .filter(|i| self.heals.get(*i).is_some_and(fits))
        else {
            return self.protocol_error(slot, "data that were not asked for");
        };
        let Some(heal) = self.heals.get_mut(index) else {
            return;
        };
        let first = (heal.offset - heal.start) as usize;
        let asked = payload.slice(first..first + heal.len as usize);
        let mends = heal.mends;
        heal.stage = Stage::Logging(payload);
        let id = heal.id;
        self.reply(id, Ok(Some(asked)));
        if mends {
            self.write_healed(index);
        } else {
            self.end_heal(index);
        }
    }

    pub(super) fn on_read_failed(&mut self, slot: PeerSlot, id: u64, _status: Status) {
        if self.hold_answered(slot, id, None) {
            return;
        }
        match self.asked_for(slot, id) {
            Some(index) => self.fail_heal(index),
            None => self.protocol_error(slot, "an answer to a read that nobody asked for"),
        }
    }

    /// The read of this number that `slot` was asked for and has not answered.
    fn asked_for(&self, slot: PeerSlot, id: u64) -> Option<usize> {
        let index = usize::try_from(id).ok()?;
        let heal = self.heals.get(index)?;
        (heal.peer == slot && matches!(heal.stage, Stage::Asked)).then_some(index)
    }

    /// Should this node die in the middle of it, the log says that the block may differ.
    fn write_healed(&mut self, index: usize) {
        let Some(heal) = self.heals.get(index) else {
            return;
        };
        let ((offset, len), Stage::Logging(payload)) = (heal.range(), &heal.stage) else {
            return;
        };
        let payload = payload.clone();
        if !self.is_attached() {
            return self.end_heal(index);
        }
        if !self.intent_is_durable(offset, len) {
            return;
        }
        for extent in self.extents_of(offset, len) {
            self.touched.set(extent, 1);
        }
        if let Some(heal) = self.heals.get_mut(index) {
            heal.stage = Stage::Writing;
        }
        // Stable at once: a write into a cache succeeds on any disk, and proves nothing.
        let op = DiskOp::Write {
            offset,
            payload,
            fua: true,
        };
        self.disk(Purpose::Heal(index), op);
    }

    /// The write-intent log grew, or nothing will be logged any more.
    pub(super) fn retry_heals(&mut self) {
        let logging: Vec<usize> = (self.heals.iter())
            .filter(|(_, heal)| matches!(heal.stage, Stage::Logging(_)))
            .map(|(index, _)| index)
            .collect();
        for index in logging {
            self.write_healed(index);
        }
    }

    pub(super) fn healed(&mut self, index: usize, result: Result<(), Errno>) {
        let Some((offset, len)) = self.heals.get(index).map(Heal::range) else {
            return;
        };
        match result {
            Ok(()) => {
                self.counters.healed_reads += 1;
                self.counters.healed_bytes += len;
                let text =
                    format!("{len} bytes at {offset} could not be read, and were mended from the peer");
                let fields = vec![("offset", offset.to_string()), ("bytes", len.to_string())];
                self.tell(Severity::Warning, "disk.healed", text, None, fields);
            }
            Err(errno) => {
                for slot in 0..self.peers.len() {
                    self.mark_dirty(slot, offset, len);
                }
                if !self.detaches_for("write", errno) {
                    // The flush in it may have been told of other writes' loss.
                    self.lost_what_was_not_flushed(errno);
                }
            }
        }
        self.end_heal(index);
    }

    fn fail_heal(&mut self, index: usize) {
        if let Some(heal) = self.heals.get(index) {
            let (id, errno) = (heal.id, heal.errno);
            self.reply(id, Err(errno));
            self.end_heal(index);
        }
    }

    fn end_heal(&mut self, index: usize) {
        if let Some(heal) = self.heals.remove(index) {
            self.reads_in_flight -= 1;
            self.in_flight_bytes -= u64::from(heal.len);
            self.release_range(Holder::Heal(index));
            self.quiesce_step();
        }
    }

    /// Nobody will answer these any more: `slot`'s connection is gone, or with `None` all requests are to fail.
    pub(super) fn fail_heals(&mut self, slot: Option<PeerSlot>) {
        let open: Vec<usize> = (self.heals.iter())
            .filter(|(_, heal)| matches!(heal.stage, Stage::Queued | Stage::Asked))
            .filter(|(_, heal)| slot.is_none_or(|slot| slot == heal.peer))
            .map(|(index, _)| index)
            .collect();
        for index in open {
            self.fail_heal(index);
        }
    }
}
