//! What is durable: the superblock and what waits for it, the write-intent log, the generation ids.

use super::fault::{planted, Fault};
use super::links::Peer;
use super::replica::Replica;
use super::types::*;
use crate::meta::EXTENT_BYTES;
use crate::payload::Payload;
use crate::wire::HISTORY_LEN;

/// What goes on once a superblock is durable.
#[derive(Debug)]
pub(super) enum Then {
    Nothing,
    GenerationBumped,
    Promoted {
        command: Option<CommandId>,
    },
    /// A Primary goes on in another epoch.
    EpochEntered {
        command: Option<CommandId>,
    },
    /// A follower is in its Primary's epoch.
    EpochAdopted {
        epoch: u64,
    },
    /// This node confirms nothing of an older epoch any more.
    Promised,
    Demoted {
        command: CommandId,
    },
    /// All is flushed and marked, before a demote or a stop.
    MarksSaved {
        command: CommandId,
        stop: bool,
    },
    PromotionAllowed,
    FirstSyncChosen {
        command: Option<CommandId>,
        asked_by: Option<(PeerSlot, ConnectionId)>,
        promote: bool,
    },
    SourceSaved {
        peer: PeerSlot,
        connection: ConnectionId,
    },
    TargetReady {
        peer: PeerSlot,
        connection: ConnectionId,
    },
    /// A Primary gives its disk up; also when it cannot be saved.
    DetachSaved,
    /// This copy goes on for a peer without a disk.
    StandingIn {
        peer: PeerSlot,
        connection: ConnectionId,
    },
    SendResyncEnd {
        peer: PeerSlot,
        connection: ConnectionId,
    },
    Adopted {
        peer: PeerSlot,
        connection: ConnectionId,
    },
    VictimMarked {
        peer: PeerSlot,
        connection: ConnectionId,
    },
    Rewound {
        peer: PeerSlot,
        connection: ConnectionId,
    },
    Stopped {
        command: CommandId,
    },
}

/// Why a metadata write was started.
#[derive(Debug)]
pub(super) enum MetaPurpose {
    Superblock(Then),
    /// These extents may be written once it is durable.
    IntentSet(Vec<u64>),
    IntentCleared,
    BitmapPages,
}

impl Replica {
    pub(super) fn write_meta(&mut self, purpose: MetaPurpose, writes: Vec<MetaWrite>) {
        let token = Token(self.meta.insert(purpose) as u64);
        self.out.push(Action::Meta {
            token,
            writes,
            after_failure: self.meta_failed,
        });
    }

    /// Writes the superblock as it is now to the copy that is not the newest.
    pub(super) fn save_superblock(&mut self, then: Then) {
        if !self.is_attached() {
            return self.abandon(then);
        }
        self.write_superblock(then);
    }

    /// Also when nothing else is written any more.
    pub(super) fn write_superblock(&mut self, then: Then) {
        // What a failed write left of its copy is not known: that one is written again, never the good one.
        self.superblock.sequence += 1 + u64::from(std::mem::take(&mut self.superblock_failed));
        let mut copy = crate::meta::next_copy(self.superblock.sequence);
        if planted(Fault::SuperblockCopyFixed) {
            copy = 0;
        }
        let write = MetaWrite {
            offset: self.layout.superblock_offset(copy),
            bytes: self.superblock.encode(),
        };
        self.write_meta(MetaPurpose::Superblock(then), vec![write]);
    }

    pub(super) fn on_meta_done(&mut self, token: Token, result: Result<(), Errno>) {
        let Some(purpose) = self.meta.remove(token.0 as usize) else {
            debug_assert!(false, "completion of an unknown metadata write");
            return;
        };
        if let Err(errno) = result {
            self.meta_failed = true;
            self.superblock_failed |= matches!(purpose, MetaPurpose::Superblock(_));
            self.metadata_write_failed(errno);
        }
        if !self.is_attached() {
            // Also what was written after the failure: nothing builds on it.
            match purpose {
                MetaPurpose::Superblock(Then::DetachSaved) => self.detach_saved(),
                MetaPurpose::Superblock(then) => self.abandon(then),
                _ => {}
            }
            return;
        }
        match purpose {
            MetaPurpose::Superblock(then) => self.superblock_saved(then),
            MetaPurpose::IntentSet(extents) => {
                for extent in extents {
                    self.intent_pending.remove(&extent);
                }
                self.intent_writing = false;
                self.retry_starts();
                self.retry_sources();
                self.retry_heals();
                self.write_decided();
                self.retry_unlogged();
            }
            MetaPurpose::IntentCleared => {}
            MetaPurpose::BitmapPages => self.bitmap_pages_saved(),
        }
    }

    fn superblock_saved(&mut self, then: Then) {
        match then {
            // The disk was given up before this was saved: see `on_meta_done`.
            Then::Nothing | Then::DetachSaved => {}
            Then::GenerationBumped => self.generation_bumped(),
            Then::Promoted { command } => self.promoted(command),
            Then::EpochEntered { command } => self.epoch_entered(command),
            Then::EpochAdopted { epoch } => self.epoch_adopted(epoch),
            Then::Promised => self.promised(),
            Then::Demoted { command } => self.demoted(command),
            Then::MarksSaved { command, stop } => self.marks_saved(command, stop),
            Then::PromotionAllowed => self.promotion_allowed(),
            Then::FirstSyncChosen {
                command,
                asked_by,
                promote,
            } => {
                self.first_sync_chosen(command, asked_by, promote);
            }
            Then::SourceSaved { peer, connection } => self.source_saved(peer, connection),
            Then::TargetReady { peer, connection } => self.target_ready(peer, connection),
            Then::StandingIn { peer, connection } => self.standing_in(peer, connection),
            Then::SendResyncEnd { peer, connection } => self.send_resync_end(peer, connection),
            Then::Adopted { peer, connection } => self.adopted(peer, connection),
            Then::VictimMarked { peer, connection } => self.victim_marked(peer, connection),
            Then::Rewound { peer, connection } => self.rewound(peer, connection),
            Then::Stopped { command } => self.done(command, Ok(())),
        }
    }

    /// The metadata failed under a command: its caller must not wait for ever.
    fn abandon(&mut self, then: Then) {
        match then {
            Then::Promoted { command } | Then::FirstSyncChosen { command, .. } => {
                self.promoting = false;
                self.resuming = None;
                self.campaign_over(false);
                self.fail_command(command);
            }
            Then::EpochEntered { command } => self.fail_command(command),
            Then::Demoted { command } | Then::MarksSaved { command, stop: false } => {
                self.fail_command(Some(command));
                self.demote_ended();
            }
            // It has stopped all the same; that it was no clean stop is what the metadata says.
            Then::Stopped { command } | Then::MarksSaved { command, stop: true } => {
                self.done(command, Ok(()))
            }
            Then::PromotionAllowed => self.allowing = None,
            Then::Nothing
            | Then::EpochAdopted { .. }
            | Then::Promised
            | Then::GenerationBumped
            | Then::DetachSaved
            | Then::StandingIn { .. }
            | Then::SourceSaved { .. }
            | Then::TargetReady { .. }
            | Then::SendResyncEnd { .. }
            | Then::Adopted { .. }
            | Then::VictimMarked { .. }
            | Then::Rewound { .. } => {}
        }
    }

    // ---- write-intent log ----------------------------------------------------------------------------

    pub(super) fn extents_of(&self, offset: u64, len: u64) -> std::ops::RangeInclusive<u64> {
        offset / EXTENT_BYTES..=(offset + len - 1) / EXTENT_BYTES
    }

    /// True when every extent of the range is durably in the log; asks for those that are not.
    pub(super) fn intent_is_durable(&mut self, offset: u64, len: u64) -> bool {
        if planted(Fault::IntentSkipped) {
            return true;
        }
        let mut durable = true;
        for extent in self.extents_of(offset, len) {
            if !self.intent.test(extent) {
                self.intent.set(extent, 1);
                self.intent_pending.insert(extent);
                self.intent_unsaved.push(extent);
            }
            durable &= self.intent_pending.is_empty()
                || !self.intent_pending.contains(&extent)
                || planted(Fault::IntentNotAwaited);
        }
        durable
    }

    /// One metadata write for all extents asked for since the last one was started.
    pub(super) fn save_intent(&mut self) {
        if self.intent_writing || self.intent_unsaved.is_empty() || !self.is_attached() {
            return;
        }
        self.intent_writing = true;
        let extents = std::mem::take(&mut self.intent_unsaved);
        let writes = self.changed_intent_pages();
        self.write_meta(MetaPurpose::IntentSet(extents), writes);
    }

    pub(super) fn changed_intent_pages(&mut self) -> Vec<MetaWrite> {
        let base = self.layout.intent_offset();
        meta_writes(base, self.intent.take_changed(usize::MAX))
    }

    // ---- generations ---------------------------------------------------------------------------------

    /// True when every peer either follows this node's writes or is known, durably, to lack them.
    pub(super) fn generation_is_tracked(&self) -> bool {
        !self.bumping
            && self
                .peers
                .iter()
                .zip(&self.superblock.peers)
                .all(|(peer, record)| {
                    peer.is_mirrored()
                        || record.bitmap_generation != 0
                        || record.full_sync
                        || planted(Fault::GenerationNotOpened)
                })
    }

    /// Opens a new generation, lazily: only when a write is about to exist that a peer lacks.
    pub(super) fn want_new_generation(&mut self) {
        // A handshake's verdict is being made over the present generation.
        let waits = self.bumping || !self.is_attached() || !self.may_open_generation();
        if waits || self.peers.iter().any(Peer::is_shaking_hands) {
            return;
        }
        self.bumping = true;
        self.open_generation("writing without every peer");
        self.save_superblock(Then::GenerationBumped);
    }

    /// Goes on under a new generation; the caller saves it.
    pub(super) fn open_generation(&mut self, why: &str) {
        let old = self.superblock.current;
        let new = self.random_id();
        push_history(&mut self.superblock.history, old);
        self.superblock.current = new;
        self.superblock.diverged_at_s = self.wall_s();
        self.superblock.changed_at_s = self.superblock.diverged_at_s;
        for slot in 0..self.peers.len() {
            let record = &mut self.superblock.peers[slot];
            if !self.peers[slot].is_mirrored() && record.bitmap_generation == 0 {
                record.bitmap_generation = old;
            }
        }
        self.notice(
            Severity::Info,
            "generation.new",
            format!("new generation {new:016x} after {old:016x}: {why}"),
        );
    }

    /// Seconds since 1970; a label, never a reason.
    fn wall_s(&self) -> u64 {
        self.config.wall_offset_s + self.now / 1_000_000_000
    }

    pub(super) fn generation_fields(&self) -> Vec<(&'static str, String)> {
        vec![("generation", format!("{:016x}", self.superblock.current))]
    }

    fn generation_bumped(&mut self) {
        self.bumping = false;
        self.retry_replies();
        self.retry_starts();
    }
}

pub(super) const METADATA_FAILED: &str = "the disk or its metadata failed";
pub(super) const METADATA_REMEDY: &str = "mend or replace it, then `blockpair down` and `up`";

pub(super) fn push_history(history: &mut [u64; HISTORY_LEN], id: u64) {
    if id != 0 && history[0] != id {
        history.rotate_right(1);
        history[0] = id;
    }
}

pub(super) fn meta_writes(base: u64, pages: Vec<(usize, Payload)>) -> Vec<MetaWrite> {
    pages
        .into_iter()
        .map(|(page, bytes)| MetaWrite {
            offset: base + (page * crate::meta::PAGE_BYTES) as u64,
            bytes,
        })
        .collect()
}
