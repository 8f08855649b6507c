//! The first sync, and a resync asked for: whose data are the right ones.

use super::{failed, refused};
use crate::core::durable::Then;
use crate::core::links::Phase;
use crate::core::replica::Replica;
use crate::core::types::*;
use crate::wire::{DiskState, GoodbyeReason, Message};

/// A request to a peer to be the first source.
pub(in crate::core) struct SyncAsked {
    pub(super) command: CommandId,
    pub(super) peer: PeerSlot,
}

impl Replica {
    pub(super) fn sync_from(&mut self, id: CommandId, source: SyncSource) {
        let resource = self.config.resource.clone();
        if self.superblock.current == 0 {
            return match source {
                SyncSource::Myself => self.choose_as_first_source(Some(id), None, false),
                SyncSource::Peer(_) if self.sync_asked.is_some() => {
                    let error = failed("the peer is being asked already".into(), "wait for it".into());
                    self.done(id, Err(error));
                }
                SyncSource::Peer(slot) if matches!(self.peers[slot].phase(), Some(Phase::Waiting)) => {
                    self.sync_asked = Some(SyncAsked {
                        command: id,
                        peer: slot,
                    });
                    self.send(slot, Message::SyncRequest);
                }
                SyncSource::Peer(slot) => {
                    let name = self.peers[slot].name.clone();
                    let error = failed(
                        format!("{name} is not connected"),
                        format!("bring it up (blockpair up {resource}), then try again"),
                    );
                    self.done(id, Err(error));
                }
            };
        }
        let own_is_source = matches!(source, SyncSource::Myself);
        let result = match source {
            SyncSource::Peer(slot) => self.resync_with(slot, own_is_source),
            SyncSource::Myself => {
                (0..self.peers.len()).try_for_each(|slot| self.resync_with(slot, own_is_source))
            }
        };
        self.done(id, result);
    }

    /// Both have had data: the generations decide the direction; this only sets things going.
    pub(super) fn resync_with(&mut self, slot: PeerSlot, own_is_source: bool) -> Result<(), CommandError> {
        let name = self.peers[slot].name.clone();
        let source_now = match self.peers[slot].phase() {
            Some(Phase::Source(_)) => true,
            Some(Phase::Target(_)) => false,
            Some(Phase::Established) => {
                if !self.peers[slot].dirty.is_empty() {
                    // Marks from a failed local write: the next handshake finds them.
                    self.close_with(slot, GoodbyeReason::Busy, "a resync was asked for");
                }
                return Ok(());
            }
            _ => {
                return Err(failed(
                    format!("{name} is not connected"),
                    format!("see `blockpair status {}`", self.config.resource),
                ))
            }
        };
        if source_now == own_is_source {
            return Ok(());
        }
        let source = if source_now { &self.config.node } else { &name };
        Err(refused(
            format!("the copy of {source} is the newer one, and a resync from it is running"),
            format!("leave out --from; {source} stays the source"),
        ))
    }

    /// This node's disk becomes the first generation of the resource.
    pub(super) fn choose_as_first_source(
        &mut self,
        command: Option<CommandId>,
        asked_by: Option<(PeerSlot, ConnectionId)>,
        promote: bool,
    ) {
        self.superblock.current = self.random_id();
        if self.superblock.resource_id == [0; 16] {
            let (high, low) = (self.random_id(), self.random_id());
            self.superblock.resource_id[..8].copy_from_slice(&high.to_le_bytes());
            self.superblock.resource_id[8..].copy_from_slice(&low.to_le_bytes());
        }
        self.superblock.disk = DiskState::UpToDate;
        self.superblock.last_primary = true;
        let text = format!("{} is the source of the first sync", self.config.node);
        let peer = asked_by.map(|(slot, _)| slot);
        self.record("sync.first_source", text, command, peer, self.generation_fields());
        self.save_superblock(Then::FirstSyncChosen {
            command,
            asked_by,
            promote,
        });
    }

    pub(in crate::core) fn first_sync_chosen(
        &mut self,
        command: Option<CommandId>,
        asked_by: Option<(PeerSlot, ConnectionId)>,
        promote: bool,
    ) {
        let text = format!("{} holds the first generation of the data", self.config.node);
        self.notice(Severity::Info, "resync.first_source", text);
        if let Some((slot, connection)) = asked_by {
            if self.peers[slot].is_on(connection) {
                self.send(slot, Message::SyncReply { allowed: true });
            }
        }
        for slot in 0..self.peers.len() {
            if matches!(self.peers[slot].phase(), Some(Phase::Waiting)) {
                self.close_with(slot, GoodbyeReason::Busy, "the first source was chosen");
            }
        }
        match command {
            Some(id) if promote => self.begin_promotion(Some(id), false),
            Some(id) => self.done(id, Ok(())),
            None => {}
        }
    }

    pub(in crate::core) fn on_sync_request(&mut self, slot: PeerSlot) {
        let waiting = matches!(self.peers[slot].phase(), Some(Phase::Waiting));
        match self.peers[slot].link.as_ref().map(|link| link.id) {
            Some(connection) if waiting && self.superblock.current == 0 => {
                self.choose_as_first_source(None, Some((slot, connection)), false);
            }
            _ => self.send(slot, Message::SyncReply { allowed: false }),
        }
    }

    pub(in crate::core) fn on_sync_reply(&mut self, slot: PeerSlot, allowed: bool) {
        let name = self.peers[slot].name.clone();
        let Some(asked) = self.sync_asked.take() else {
            return;
        };
        let result = if allowed {
            Ok(())
        } else {
            Err(failed(
                format!("{name} does not take itself for the first source: it has data already"),
                format!("see `blockpair status {}`", self.config.resource),
            ))
        };
        self.done(asked.command, result);
    }
}
