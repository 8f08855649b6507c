//! When this node's disk or its metadata fail: the node gives them up, and says so.
//!
//! From then on nothing is written to the metadata: the write-intent log as it stands tells, at the next start, what
//! this disk may lack. Only a start (`down` and `up`) attaches again, and its handshake compares and resyncs.

use super::durable::{MetaPurpose, Then, METADATA_FAILED, METADATA_REMEDY};
use super::links::Phase;
use super::replica::{describe, Replica};
use super::types::*;
use crate::wire::{DiskState, GoodbyeReason, NodeState, Role};

/// Whether this node has a disk to work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attachment {
    Attached,
    /// Disk and metadata are given up: Diskless.
    Failed,
}

impl Replica {
    pub(super) fn is_attached(&self) -> bool {
        self.attachment == Attachment::Attached
    }

    /// Whether this copy takes in the writes of `slot`, which has them all itself.
    pub(super) fn follows(&self, slot: PeerSlot) -> bool {
        let peer = &self.peers[slot];
        match peer.phase() {
            Some(Phase::Established) => peer
                .known
                .as_ref()
                .is_some_and(|known| known.role == Role::Primary),
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

    /// An error of the backing device under this copy; true when it was given up for it.
    pub(super) fn detaches_for(&mut self, what: &str, errno: Errno) -> bool {
        self.note_disk_error(what, errno);
        let detaches = self.config.on_io_error == OnIoError::Detach
            && self.is_attached()
            && !self.stopped
            && self.is_expendable();
        if detaches {
            let why = format!("{what} failed: {}", describe(errno));
            self.give_up(&why, true);
        }
        detaches
    }

    /// Without metadata nothing can be promised any more. `superblock`: it was a copy of it that failed.
    pub(super) fn metadata_write_failed(&mut self, errno: Errno, superblock: bool) {
        if !self.is_attached() {
            return;
        }
        let why = format!("metadata of {}: {}", self.config.resource, describe(errno));
        self.disk_error = Some(why.clone());
        self.notice(Severity::Error, "metadata.failed", why.clone());
        // A write that fails may leave a torn copy behind: the other one must not be next.
        let superblock = superblock
            || (self.meta.iter()).any(|(_, purpose)| matches!(purpose, MetaPurpose::Superblock(_)));
        self.give_up(&why, !superblock);
    }

    /// This node's disk and metadata are not used any more, and its peers hear of it. `save`: the superblock may be
    /// written once more.
    fn give_up(&mut self, why: &str, save: bool) {
        if save && self.is_expendable() {
            // This copy is stale from here on; that this may not be written is accepted.
            self.superblock.disk = DiskState::Inconsistent;
            self.superblock.role_primary = false;
            self.superblock.last_primary = false;
            self.superblock.clean = false;
            self.save_superblock(Then::Nothing);
        }
        let text = format!("{} gives its disk up: {why}", self.config.node);
        self.record(
            "disk.detached",
            text.clone(),
            None,
            None,
            self.generation_fields(),
        );
        self.notice(Severity::Error, "disk.detached", text);
        self.attachment = Attachment::Failed;
        self.bumping = false;
        self.cleaning.stop();
        self.retry_heals();
        self.fail_all_requests(Errno::EIO);
        let text = format!("{} has no usable disk: {why}", self.config.node);
        for slot in 0..self.peers.len() {
            self.refuse_peer(slot, GoodbyeReason::Diskless, &text);
        }
        if let Some(command) = self.promoted_when_drained.take() {
            self.promoting = false;
            self.fail_command(command);
        }
        self.fail_commands(METADATA_FAILED, METADATA_REMEDY);
    }
}
