//! When this node's disk or its metadata fail: it gives them up, and says so.
//!
//! A Secondary just goes; a Primary goes on through a peer in step ([ADR 6]). From then on nothing is written to the
//! metadata: the write-intent log as it stands tells, at the next start, what this disk may lack. Only a start (`down`
//! and `up`) attaches again, and its handshake compares and resyncs.
//!
//! [ADR 6]: ../../../../docs/adr/0006-going-on-through-the-peer.md

use super::durable::{MetaPurpose, Then, METADATA_FAILED, METADATA_REMEDY};
use super::links::Phase;
use super::replica::{describe, Replica};
use super::types::*;
use crate::meta::Superblock;
use crate::wire::{DiskState, GoodbyeReason, Message, NodeState, Role};

/// Whether this node has a disk to work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attachment {
    Attached,
    /// A Primary whose disk failed. Its superblock says so first, as far as it can; then the peer is asked to go on,
    /// and nothing is acknowledged until it does.
    Detaching(PeerSlot),
    /// Every write and flush is the peer's alone, and every read.
    Served(PeerSlot),
    /// Nobody stands in: all I/O fails.
    Failed,
}

/// The superblock from before it said that this copy is stale, for the case that no other one is better.
pub(super) struct BeforeDetach {
    superblock: Superblock,
    /// It does say so, unless that write failed.
    saved: bool,
    /// The stand-in has no disk either.
    wanted_back: bool,
}

/// This copy is stale from here on, and this node is not the one to go on alone.
pub(super) fn mark_stale(superblock: &mut Superblock) {
    superblock.disk = DiskState::Inconsistent;
    superblock.role_primary = false;
    superblock.last_primary = false;
    superblock.clean = false;
}

impl Replica {
    pub(super) fn is_attached(&self) -> bool {
        self.attachment == Attachment::Attached
    }

    /// The peer whose copy stands in for this node's, or is being asked to.
    pub(super) fn stand_in(&self) -> Option<PeerSlot> {
        match self.attachment {
            Attachment::Detaching(slot) | Attachment::Served(slot) => Some(slot),
            Attachment::Attached | Attachment::Failed => None,
        }
    }

    pub(super) fn is_detaching(&self) -> bool {
        matches!(self.attachment, Attachment::Detaching(_))
    }

    /// The peer that reads, where this node's disk cannot.
    pub(super) fn reader(&self) -> Option<PeerSlot> {
        self.stand_in().or_else(|| self.good_peer())
    }

    /// Whether this copy takes in the writes of `slot`, which has them all itself.
    pub(super) fn follows(&self, slot: PeerSlot) -> bool {
        let peer = &self.peers[slot];
        match peer.phase() {
            Some(Phase::Established) => peer.is_known_as(Role::Primary),
            Some(Phase::Target(_)) => true,
            _ => false,
        }
    }

    /// A peer whose copy is as good as this Primary's, and takes part in every write.
    pub(super) fn good_peer(&self) -> Option<PeerSlot> {
        let good = |slot: &PeerSlot| {
            let peer = &self.peers[*slot];
            let follows =
                |known: &NodeState| known.disk == DiskState::UpToDate && known.role == Role::Secondary;
            peer.draining.is_none() && peer.is_established() && peer.known.as_ref().is_some_and(follows)
        };
        let serves = self.role == Role::Primary && self.is_attached();
        (0..self.peers.len()).find(good).filter(|_| serves)
    }

    /// Whether another node has all that this one has: only then is this copy given up for an error.
    fn is_expendable(&self) -> bool {
        self.role == Role::Secondary && (0..self.peers.len()).any(|slot| self.follows(slot))
    }

    /// An error of the backing device; true when the disk is, or was already, given up: then the error means
    /// nothing more.
    pub(super) fn detaches_for(&mut self, what: &str, errno: Errno) -> bool {
        self.note_disk_error(what, errno);
        if !self.is_attached() {
            return true;
        }
        if self.config.on_io_error == OnIoError::PassOn || self.stopped {
            return false;
        }
        let why = format!("{what} failed: {}", describe(errno));
        if let Some(slot) = self.can_be_served() {
            self.begin_detach(slot, &why, true);
        } else if self.is_expendable() {
            self.give_up(&why, true);
        }
        !self.is_attached()
    }

    /// Without metadata nothing can be promised any more.
    pub(super) fn metadata_write_failed(&mut self, errno: Errno) {
        if !self.is_attached() {
            return;
        }
        let why = format!("metadata of {}: {}", self.config.resource, describe(errno));
        self.disk_error = Some(why.clone());
        self.notice(Severity::Error, "metadata.failed", why.clone());
        // One copy of the superblock may be on its way, and fail: the other one must stay as it is.
        let save = !(self.meta.iter()).any(|(_, purpose)| matches!(purpose, MetaPurpose::Superblock(_)));
        match self.can_be_served().filter(|_| !self.stopped) {
            Some(slot) => self.begin_detach(slot, &why, save),
            None => self.give_up(&why, save),
        }
    }

    /// The stand-in must know all that there is: with a third node it would not be the only one to be told.
    fn can_be_served(&self) -> Option<PeerSlot> {
        self.good_peer().filter(|_| self.peers.len() == 1)
    }

    /// The cycles and promises that rest on the metadata end with them.
    fn freeze(&mut self, attachment: Attachment, why: &str) {
        let text = format!("{} gives its disk up: {why}", self.config.node);
        self.tell(
            Severity::Error,
            "disk.detached",
            text,
            None,
            self.generation_fields(),
        );
        self.attachment = attachment;
        self.bumping = false;
        self.cleaning.stop();
        for id in self.drop_warm_up() {
            self.fail_command(Some(id));
        }
        self.retry_heals();
        self.write_decided();
        self.retry_unlogged();
    }

    /// This node's disk and metadata are not used any more, and its peers hear of it. `save`: the superblock may be
    /// written once more.
    fn give_up(&mut self, why: &str, save: bool) {
        if save && self.is_expendable() {
            // That this may fail is accepted.
            mark_stale(&mut self.superblock);
            self.save_superblock(Then::Nothing);
        }
        self.freeze(Attachment::Failed, why);
        self.fail_all_requests(Errno::EIO);
        self.say_diskless(why);
        if let Some(held) = self.promoted_when_drained.take() {
            self.promoting = false;
            self.fail_command(held.command);
        }
        self.fail_commands(METADATA_FAILED, METADATA_REMEDY);
    }

    fn say_diskless(&mut self, why: &str) {
        let text = format!("{} has no usable disk: {why}", self.config.node);
        for slot in 0..self.peers.len() {
            // To a peer that asks for a stand-in, Diskless means that its own copy is the better one.
            let reason = match self.stands_in_for(slot) {
                true => GoodbyeReason::Busy,
                false => GoodbyeReason::Diskless,
            };
            self.refuse_peer(slot, reason, &text);
        }
    }

    // ---- a Primary goes on through its peer ----------------------------------------------------------

    /// The order matters: should this node die after it told the peer and before its metadata said so, it would come
    /// back as the last Primary, beside one that went on.
    fn begin_detach(&mut self, slot: PeerSlot, why: &str, save: bool) {
        if save {
            self.before_detach = Some(BeforeDetach {
                superblock: self.superblock.clone(),
                saved: false,
                wanted_back: false,
            });
            mark_stale(&mut self.superblock);
            self.save_superblock(Then::DetachSaved);
        }
        self.freeze(Attachment::Detaching(slot), why);
        if !save {
            self.ask_to_stand_in();
        }
    }

    /// The superblock says that this copy is stale, or cannot.
    pub(super) fn detach_saved(&mut self) {
        if let Some(before) = &mut self.before_detach {
            before.saved = true;
        }
        self.ask_to_stand_in();
        self.take_back();
    }

    fn ask_to_stand_in(&mut self) {
        if let Attachment::Detaching(slot) = self.attachment {
            self.send(slot, Message::Detached);
        }
    }

    /// The peer has given its disk up before it heard of this one's: its copy is stale too. Then this one is the
    /// better, and must not be thought stale when both are back.
    pub(super) fn stand_in_has_no_disk(&mut self, slot: PeerSlot) {
        if self.attachment == Attachment::Detaching(slot) {
            if let Some(before) = &mut self.before_detach {
                before.wanted_back = true;
            }
            self.take_back();
        }
    }

    fn take_back(&mut self) {
        let ready = |before: &mut BeforeDetach| before.saved && before.wanted_back;
        if let Some(BeforeDetach { superblock, .. }) = self.before_detach.take_if(ready) {
            let sequence = self.superblock.sequence;
            self.superblock = superblock;
            self.superblock.sequence = sequence;
            self.write_superblock(Then::Nothing);
        }
    }

    /// The peer's copy is durably ahead of this one: all that is open depends on it alone.
    pub(super) fn on_detached_ok(&mut self, slot: PeerSlot) {
        if self.attachment != Attachment::Detaching(slot) {
            return self.protocol_error(slot, "a stand-in that nobody asked for");
        }
        self.attachment = Attachment::Served(slot);
        let name = self.peers[slot].name.clone();
        let text = format!("{} has no disk: reads and writes go to {name}", self.config.node);
        self.tell(
            Severity::Warning,
            "disk.served",
            text,
            Some(slot),
            self.generation_fields(),
        );
        // `flush_error` stays, told or not: what was lost with it, while alone, the stand-in never had.
        self.hand_over_requests(slot);
        self.retry_starts();
    }

    /// Before what was sent on its connection is settled: it would be acknowledged.
    pub(super) fn stand_in_lost(&mut self, slot: PeerSlot, why: &str) {
        if self.stand_in() != Some(slot) {
            return;
        }
        self.attachment = Attachment::Failed;
        let name = &self.peers[slot].name;
        let text = format!(
            "{name} was lost, whose disk stood in for {}: {why}; all I/O fails",
            self.config.node
        );
        self.tell(
            Severity::Error,
            "disk.lost_stand_in",
            text.clone(),
            Some(slot),
            Vec::new(),
        );
        let reason = GoodbyeReason::Diskless;
        self.peers[slot].wanted = false;
        self.peers[slot].refusal = Some(Refusal { reason, text });
        self.fail_flushes(Errno::EIO);
        self.fail_all_requests(Errno::EIO);
        self.complete_flushes();
    }

    /// No request is open, and none will come: the stand-in is not needed any more.
    pub(super) fn end_service(&mut self) {
        if self.stand_in().is_some() {
            self.attachment = Attachment::Failed;
            self.say_diskless("demoted while its peer stood in");
        }
    }
}
