//! A range that is held while the control plane decides which copy of it in the array below this node's disk is right.
//!
//! Copies that differ in an array cannot decide it between themselves: the peer's does. The range is held from before
//! the peer is asked until its blocks are written here, or not: so nothing is written to it meanwhile on this node, and
//! what the peer says has every write that this disk has, and no other. Who decides reads the array's members in that time. However
//! long that takes, no write waits longer than [`PATIENCE`]: then the range is free again, and nothing was changed.

use super::commands::failed;
use super::links::Phase;
use super::replica::{Holder, Purpose, Replica};
use super::source::CHUNK_BYTES;
use super::types::*;
use crate::payload::Payload;
use crate::wire::{BlockRun, DiskState, Message};

/// How long a range is held for an answer or a decision, at most.
const PATIENCE: Time = 2_000_000_000;
/// Questions to the peer are numbered from here on: those of reads have their places in memory.
const FIRST_QUESTION: u64 = 1 << 63;

enum Stage {
    /// For its range.
    Queued,
    Asked,
    /// The peer's data, for whoever decides.
    Held(Payload),
    /// It is decided; the write-intent log comes before the disk.
    Logging(Decided),
    /// So many runs are on their way to the disk.
    Writing {
        left: usize,
        bytes: u64,
        why: String,
        failed: Option<Errno>,
    },
}

struct Decided {
    data: Payload,
    /// Offset and length of each.
    runs: Vec<(u64, u64)>,
    why: String,
}

pub(super) struct Hold {
    ticket: u64,
    /// Who waits for what comes next.
    command: Option<CommandId>,
    peer: PeerSlot,
    connection: ConnectionId,
    offset: u64,
    len: u32,
    until: Time,
    stage: Stage,
}

impl Hold {
    pub(super) fn range(&self) -> (u64, u64) {
        (self.offset, u64::from(self.len))
    }

    fn writes(&self) -> bool {
        matches!(self.stage, Stage::Writing { .. })
    }
}

impl Replica {
    /// What keeps this copy and that peer's from being two of the same data, both in use.
    pub(super) fn why_not_in_step(&self, slot: PeerSlot) -> Option<String> {
        let peer = &self.peers[slot];
        let name = &peer.name;
        let resyncs = |phase: Option<&Phase>| matches!(phase, Some(Phase::Source(_) | Phase::Target(_)));
        if self.peers.iter().any(|peer| resyncs(peer.phase())) {
            return Some("a resync is under way".into());
        }
        if !peer.is_established() || peer.draining.is_some() {
            return Some(format!("{name} is not connected, or not in step"));
        }
        if self.quiescing.is_some() || self.stopped {
            return Some("a demote or stop is under way".into());
        }
        if !self.is_attached() || self.superblock.disk != DiskState::UpToDate {
            return Some(format!("the copy of {} is not UpToDate", self.config.node));
        }
        let known = peer.known.as_ref();
        (known.is_none_or(|known| known.disk != DiskState::UpToDate))
            .then(|| format!("the copy of {name} is not UpToDate"))
    }

    fn hold_refused(&self, why: String) -> CommandError {
        failed(why, format!("blockpair status {}", self.config.resource))
    }

    pub(super) fn hold_command(&mut self, id: CommandId, offset: u64, len: u64) {
        let block_size = u64::from(self.superblock.block_size_bytes);
        let whole = self.is_inside(offset, len)
            && offset.is_multiple_of(block_size)
            && (len.is_multiple_of(block_size) || offset + len == self.superblock.data_size_bytes);
        if !whole || len > CHUNK_BYTES.max(block_size) {
            let error = failed(
                format!("{len} bytes from {offset} on are no blocks of the device, or too many to hold"),
                "use a control plane and an engine of the same version".into(),
            );
            return self.done(id, Err(error));
        }
        if self.hold.is_some() {
            let error = self.hold_refused("another range is held already".into());
            return self.done(id, Err(error));
        }
        let slot = (0..self.peers.len()).find(|slot| self.why_not_in_step(*slot).is_none());
        let link = slot.and_then(|slot| self.peers[slot].link.as_ref().map(|link| (slot, link.id)));
        let Some((peer, connection)) = link else {
            let why = match self.peers.len() {
                0 => "there is no peer that could decide".into(),
                _ => self.why_not_in_step(0).unwrap_or_default(),
            };
            let error = self.hold_refused(why);
            return self.done(id, Err(error));
        };
        let ticket = self.next_chunk;
        self.next_chunk += 1;
        self.hold = Some(Box::new(Hold {
            ticket,
            command: Some(id),
            peer,
            connection,
            offset,
            len: len as u32,
            until: self.now + PATIENCE,
            stage: Stage::Queued,
        }));
        if self.ranges.acquire(Holder::Hold(ticket), offset, offset + len) {
            self.ask_for_hold(ticket);
        }
    }

    /// The range is ours: every write before it went out before the question does.
    pub(super) fn ask_for_hold(&mut self, ticket: u64) {
        let first = |hold: &Hold| hold.ticket == ticket;
        let Some(hold) = self.hold.as_deref_mut().filter(|hold| first(hold)) else {
            return;
        };
        hold.stage = Stage::Asked;
        let (slot, offset, len) = (hold.peer, hold.offset, hold.len);
        let (block, blocks) = self.blocks_of(offset, u64::from(len));
        let marked = self.peers[slot].dirty.next_set(block);
        if marked.is_some_and(|marked| marked < block + blocks) {
            return self.end_hold(Err("it is marked out of sync: the resync decides"));
        }
        let id = FIRST_QUESTION | ticket;
        self.send(slot, Message::ReadRequest { id, offset, len });
    }

    /// False for an answer to somebody else's question.
    pub(super) fn hold_answered(&mut self, slot: PeerSlot, id: u64, answer: Option<(u64, Payload)>) -> bool {
        if id & FIRST_QUESTION == 0 {
            return false;
        }
        let asked = |hold: &Hold| {
            hold.peer == slot && FIRST_QUESTION | hold.ticket == id && matches!(hold.stage, Stage::Asked)
        };
        let Some(hold) = self.hold.as_deref_mut().filter(|hold| asked(hold)) else {
            // Its patience was over.
            return true;
        };
        let Some((offset, data)) = answer else {
            self.end_hold(Err("the peer cannot read it either"));
            return true;
        };
        if (offset, data.len() as u64) != hold.range() {
            self.protocol_error(slot, "data that were not asked for");
            return true;
        }
        // The Primary may have read its own disk after a write that waits here for this range.
        let (start, end) = (offset, offset + data.len() as u64);
        if self
            .ranges
            .waiting(start, end)
            .any(|holder| matches!(holder, Holder::Remote(_)))
        {
            self.end_hold(Err("a write to it has come meanwhile"));
            return true;
        }
        hold.stage = Stage::Held(data.clone());
        let (ticket, command) = (hold.ticket, hold.command.take());
        self.out.push(Action::Held { ticket, data });
        if let Some(id) = command {
            self.done(id, Ok(()));
        }
        true
    }

    /// It is decided: these blocks of what is held become the peer's, or none.
    pub(super) fn settle_command(&mut self, id: CommandId, ticket: u64, runs: &[BlockRun], why: String) {
        let block_size = u64::from(self.superblock.block_size_bytes);
        let held = |hold: &Hold| hold.ticket == ticket && matches!(hold.stage, Stage::Held(_));
        let Some(hold) = self.hold.as_deref_mut().filter(|hold| held(hold)) else {
            let error = self.hold_refused("that range is not held any more: it took too long".into());
            return self.done(id, Err(error));
        };
        let (start, len) = hold.range();
        let mut ranges = Vec::new();
        let (mut from, last) = (start / block_size, (start + len).div_ceil(block_size));
        for run in runs {
            let end = run.first.checked_add(run.count);
            match end.filter(|end| run.first >= from && run.count > 0 && *end <= last) {
                Some(end) => {
                    let to = (end * block_size).min(start + len);
                    ranges.push((run.first * block_size, to - run.first * block_size));
                    from = end;
                }
                None => {
                    let error = failed(
                        "blocks that are not held".into(),
                        "use a control plane and an engine of the same version".into(),
                    );
                    return self.done(id, Err(error));
                }
            }
        }
        hold.command = Some(id);
        if ranges.is_empty() {
            return self.end_hold(Ok(()));
        }
        let Stage::Held(data) = &hold.stage else {
            return;
        };
        let data = data.clone();
        hold.stage = Stage::Logging(Decided {
            data,
            runs: ranges,
            why,
        });
        self.write_decided();
    }

    /// Should this node die in the middle of it, the log says that the blocks may differ: where the peer's copy would
    /// win then. After the death of the last Primary its own wins, which may be the wrong one still, over the only one
    /// that is known to be right; unlogged, the two differ as they did before.
    pub(super) fn write_decided(&mut self) {
        let (peer, (offset, len)) = match self.hold.as_deref() {
            Some(hold) if matches!(hold.stage, Stage::Logging(_)) => (hold.peer, hold.range()),
            _ => return,
        };
        if !self.is_attached() {
            return self.end_hold(Err("the disk was given up"));
        }
        if self.follows(peer) && !self.intent_is_durable(offset, len) {
            return;
        }
        for extent in self.extents_of(offset, len) {
            self.touched.set(extent, 1);
        }
        let Some(hold) = self.hold.as_deref_mut() else {
            return;
        };
        let Stage::Logging(decided) = std::mem::replace(&mut hold.stage, Stage::Queued) else {
            return;
        };
        hold.stage = Stage::Writing {
            left: decided.runs.len(),
            bytes: decided.runs.iter().map(|(_, len)| len).sum(),
            why: decided.why,
            failed: None,
        };
        for (at, len) in decided.runs {
            let first = (at - offset) as usize;
            // Stable at once: what comes of it is looked at on the members.
            let op = DiskOp::Write {
                offset: at,
                payload: decided.data.slice(first..first + len as usize),
                fua: true,
            };
            self.disk(Purpose::Hold, op);
        }
    }

    /// One run is on the disk, or is not.
    pub(super) fn settled(&mut self, result: Result<(), Errno>) {
        let Some(hold) = self.hold.as_deref_mut() else {
            return;
        };
        let (offset, len) = hold.range();
        let Stage::Writing {
            left,
            bytes,
            why,
            failed,
            ..
        } = &mut hold.stage
        else {
            return;
        };
        *left -= 1;
        *failed = failed.or(result.err());
        if *left > 0 {
            return;
        }
        let (bytes, why, failed) = (*bytes, std::mem::take(why), *failed);
        let Some(errno) = failed else {
            let text = format!("{bytes} bytes at {offset} and behind were written anew from the peer: {why}");
            let fields = vec![("offset", offset.to_string()), ("bytes", bytes.to_string())];
            self.tell(Severity::Warning, "disk.healed", text, None, fields);
            return self.end_hold(Ok(()));
        };
        for slot in 0..self.peers.len() {
            self.mark_dirty(slot, offset, len);
        }
        if !self.detaches_for("write", errno) {
            self.lost_what_was_not_flushed(errno);
        }
        self.end_hold(Err("the write failed"));
    }

    fn end_hold(&mut self, result: Result<(), &str>) {
        let Some(hold) = self.hold.take() else {
            return;
        };
        self.release_range(Holder::Hold(hold.ticket));
        if let Some(id) = hold.command {
            let result = result.map_err(|why| self.hold_refused(why.to_owned()));
            self.done(id, result);
        }
        if hold.writes() {
            self.quiesce_step();
        }
    }

    /// After every event. What is being written is written.
    pub(super) fn hold_on_time(&mut self) {
        let Some(hold) = self.hold.as_deref().filter(|hold| !hold.writes()) else {
            return;
        };
        if !self.peers[hold.peer].is_on(hold.connection) {
            return self.end_hold(Err("the connection was lost"));
        }
        if let Some(why) = self.why_not_in_step(hold.peer) {
            return self.end_hold(Err(&why));
        }
        if self.now >= hold.until {
            self.end_hold(Err("it took too long"));
        }
    }

    pub(super) fn hold_due(&self) -> Option<Time> {
        let hold = self.hold.as_deref()?;
        (!hold.writes()).then_some(hold.until)
    }

    /// Whether something of it is on its way to the disk.
    pub(super) fn hold_writes(&self) -> bool {
        self.hold.as_deref().is_some_and(Hold::writes)
    }
}
