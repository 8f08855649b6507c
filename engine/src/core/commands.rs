//! The control plane's commands: connect and disconnect, promote and demote, the first sync, stop.

use super::links::{Peer, Phase};
use super::replica::{describe, PeerMask, Replica, Then, METADATA_FAILED, METADATA_REMEDY};
use super::requests::FlushOwner;
use super::types::*;
use crate::wire::{DiskState, GoodbyeReason, Message, Role};

/// Asking every connected peer whether this node may become Primary.
pub(super) struct Promotion {
    command: Option<CommandId>,
    waiting: PeerMask,
    forced: bool,
    pub(super) deadline: Time,
}

/// All activity is coming to its end.
pub(super) struct Quiesce {
    command: CommandId,
    stop: bool,
    flushing: bool,
}

/// A request to a peer to be the first source.
pub(super) struct SyncAsked {
    command: CommandId,
    peer: PeerSlot,
}

fn refused(message: String, remedy: String) -> CommandError {
    CommandError {
        kind: ErrorKind::Unsafe,
        message,
        remedy,
    }
}

fn failed(message: String, remedy: String) -> CommandError {
    CommandError {
        kind: ErrorKind::Failed,
        message,
        remedy,
    }
}

impl Replica {
    pub(super) fn on_command(&mut self, id: CommandId, command: Command, by: String) {
        let decides = matches!(
            command,
            Command::Promote { .. } | Command::Demote | Command::SyncFrom { .. }
        );
        let handshaking = self
            .peers
            .iter()
            .any(|p| matches!(p.phase(), Some(Phase::Hello | Phase::State { .. })));
        if decides
            && !self.stopped
            && (handshaking || self.promotion.is_some() || self.promoting || self.allowing)
        {
            return self.deferred.push((id, command, by));
        }
        if self.stopped {
            return self.done(
                id,
                Err(failed("the resource is down".into(), "blockpair up".into())),
            );
        }
        if decides && self.quiescing.is_some() {
            let error = failed("a demote or stop is under way".into(), "wait for it".into());
            return self.done(id, Err(error));
        }
        self.askers.insert(id, by);
        match command {
            Command::Connect { peer } => {
                if self.peers[peer].link.is_none() {
                    self.connect_peer(peer);
                }
                self.done(id, Ok(()));
            }
            Command::Disconnect { peer } => self.disconnect(id, peer),
            Command::Promote { force } => self.promote(id, force),
            Command::Demote => self.demote(id),
            Command::SyncFrom { source } => self.sync_from(id, source),
            Command::Resolve { .. } => {
                let error = failed(
                    "this build cannot resolve a split brain yet".into(),
                    "make one copy anew".into(),
                );
                self.done(id, Err(error));
            }
            Command::Stop => self.quiesce(id, true),
        }
    }

    fn done(&mut self, id: CommandId, result: Result<(), CommandError>) {
        self.askers.remove(&id);
        self.out.push(Action::CommandDone { id, result });
    }

    pub(super) fn run_deferred(&mut self) {
        for (id, command, by) in std::mem::take(&mut self.deferred) {
            self.on_command(id, command, by);
        }
    }

    /// Commands that wait for something that will not happen any more.
    pub(super) fn fail_commands(&mut self, message: &str, remedy: &str) {
        let promotion = self.promotion.take().and_then(|promotion| promotion.command);
        let quiesce = self.quiescing.take().map(|quiesce| quiesce.command);
        let asked = self.sync_asked.take().map(|asked| asked.command);
        let deferred: Vec<CommandId> = self.deferred.drain(..).map(|(id, ..)| id).collect();
        for id in deferred.into_iter().chain(promotion).chain(quiesce).chain(asked) {
            self.done(id, Err(failed(message.to_owned(), remedy.to_owned())));
        }
    }

    pub(super) fn commands_on_time(&mut self) {
        if self
            .promotion
            .as_ref()
            .is_some_and(|promotion| self.now >= promotion.deadline)
        {
            self.promotion_failed(failed(
                "the peer did not answer in time".into(),
                "try again".into(),
            ));
        }
        if self.resuming.is_some_and(|deadline| self.now >= deadline) && self.may_resume_alone() {
            self.notice(
                Severity::Warning,
                "role.resumed_alone",
                "no peer answered: going on as Primary alone, as before the daemon ended",
            );
            self.resuming = None;
            self.become_primary(None, false);
        }
    }

    /// Nothing is under way that decides whether this node may be Primary.
    pub(super) fn may_resume_alone(&self) -> bool {
        let handshaking = |p: &Peer| matches!(p.phase(), Some(Phase::Hello | Phase::State { .. }));
        self.promotion.is_none() && !self.promoting && !self.allowing && !self.peers.iter().any(handshaking)
    }

    pub(super) fn fail_command(&mut self, command: Option<CommandId>) {
        if let Some(id) = command {
            self.done(id, Err(failed(METADATA_FAILED.into(), METADATA_REMEDY.into())));
        }
    }

    // ---- disconnect ----------------------------------------------------------------------------------

    fn disconnect(&mut self, id: CommandId, slot: PeerSlot) {
        let deadline = self.now + self.config.peer_timeout_ns;
        let follower = self.peers[slot]
            .known
            .as_ref()
            .is_some_and(|known| known.role == Role::Secondary);
        let mirrored = self.peers[slot].is_mirrored();
        if let Some((commands, _)) = &mut self.peers[slot].draining {
            return commands.push(id);
        }
        self.peers[slot].refusal = None;
        self.peers[slot].draining = Some((vec![id], deadline));
        if mirrored && follower {
            // What the peer confirmed becomes stable there, so that nothing is suspect afterwards.
            self.start_flush(FlushOwner::Drain(slot));
        } else {
            self.drained(slot);
        }
    }

    // ---- promote -------------------------------------------------------------------------------------

    fn promote(&mut self, id: CommandId, force: bool) {
        if self.role == Role::Primary {
            return self.done(id, Ok(()));
        }
        if let Err(error) = self.may_promote(force) {
            return self.done(id, Err(error));
        }
        if self.superblock.current == 0 {
            return self.choose_as_first_source(Some(id), None, true);
        }
        self.begin_promotion(Some(id), force);
    }

    fn may_promote(&self, force: bool) -> Result<(), CommandError> {
        let node = &self.config.node;
        let resource = &self.config.resource;
        if self.metadata_failed {
            return Err(failed(
                format!("{resource} on {node} has no usable disk"),
                "mend or replace it, then `blockpair down` and `up`".into(),
            ));
        }
        for peer in &self.peers {
            if let Some(Phase::Target(_)) = peer.phase() {
                return Err(refused(
                    format!(
                        "{node} is receiving its copy of {resource} from {} right now",
                        peer.name
                    ),
                    format!("wait for it: blockpair sync {resource} --wait"),
                ));
            }
        }
        if self.superblock.current == 0 && !force {
            return Err(refused(
                format!("{resource} never had data: which node's disk is the right one is not known"),
                format!("blockpair sync {resource} --from {node}, or promote --force to choose this node"),
            ));
        }
        if self.superblock.disk == DiskState::Inconsistent && self.superblock.current != 0 && !force {
            return Err(refused(
                format!("the copy of {resource} on {node} is Inconsistent: a resync was cut off"),
                "bring the source back; --force would serve a mixture of old and new data".into(),
            ));
        }
        let alone = self
            .peers
            .iter()
            .filter(|peer| !peer.is_connected())
            .map(|peer| &peer.name)
            .next();
        if let (Some(peer), false, false) = (alone, force, self.superblock.last_primary) {
            return Err(refused(
                format!(
                    "{peer} cannot be asked: it may be Primary of {resource} now, and may have newer data"
                ),
                format!(
                    "connect it; or, only when {peer} is certainly stopped: blockpair promote {resource} --force"
                ),
            ));
        }
        Ok(())
    }

    fn begin_promotion(&mut self, command: Option<CommandId>, forced: bool) {
        let mut waiting = 0;
        for slot in 0..self.peers.len() {
            if self.peers[slot].is_connected() {
                waiting |= 1 << slot;
                self.send(slot, Message::PromoteRequest);
            }
        }
        let deadline = self.now + self.config.peer_timeout_ns;
        self.promotion = Some(Promotion {
            command,
            waiting,
            forced,
            deadline,
        });
        self.promotion_step();
    }

    fn promotion_step(&mut self) {
        if let Some(Promotion { command, forced, .. }) = self.promotion.take_if(|p| p.waiting == 0) {
            let alone = !self.peers.iter().any(|peer| peer.is_connected());
            self.become_primary(command, forced && alone);
        }
    }

    fn become_primary(&mut self, command: Option<CommandId>, forced: bool) {
        let node = &self.config.node;
        let (what, text) = match (forced, command) {
            (true, _) => (
                "role.forced",
                format!("{node} becomes Primary by force, without its peer's word"),
            ),
            (false, Some(_)) => ("role.primary", format!("{node} becomes Primary")),
            (false, None) => (
                "role.resumed",
                format!("{node} is Primary again, as before its daemon ended"),
            ),
        };
        self.record(what, text, command, None, self.generation_fields());
        if forced {
            self.notice(
                Severity::Warning,
                "role.forced",
                "promoted by --force without its peer's word: if the peer wrote too, the data have split",
            );
            self.superblock.forced = true;
            self.superblock.disk = DiskState::UpToDate;
            if !self.generation_is_tracked() {
                // At once, not with the first write: should both die now, the older Primary's copy, which may
                // have lost in a power cut what was acknowledged, must not win at the next handshake.
                self.open_generation("promoted by force");
            }
        }
        self.superblock.role_primary = true;
        self.superblock.clean = false;
        self.superblock.last_primary = true;
        self.promoting = true;
        self.save_superblock(Then::Promoted { command });
    }

    /// The role is durable. What the former Primary had on its way to this disk comes first: whoever reads here
    /// from now on must not see such a write appear later.
    pub(super) fn promoted(&mut self, command: Option<CommandId>) {
        if self.promoting && self.has_peers_writes() {
            self.promoted_when_drained = Some(command);
            return;
        }
        if !std::mem::take(&mut self.promoting) {
            // A handshake found newer data meanwhile.
            if let Some(id) = command {
                let error = refused(
                    "the peer turned out to have newer data".into(),
                    "wait for the resync, then try again".into(),
                );
                self.done(id, Err(error));
            }
            self.quiesce_step();
            return self.run_deferred();
        }
        self.role = Role::Primary;
        self.resuming = None;
        self.notice(
            Severity::Info,
            "role.primary",
            format!("{} is Primary", self.config.node),
        );
        self.out.push(Action::Export { open: true });
        self.announce_state();
        if let Some(id) = command {
            self.done(id, Ok(()));
        }
        self.quiesce_step();
        self.run_deferred();
    }

    fn has_peers_writes(&self) -> bool {
        self.remote.len() > 0 || self.target_writes > 0
    }

    /// A write of a peer ended: it may have been the last that a promotion waited for.
    pub(super) fn peers_write_ended(&mut self) {
        if !self.has_peers_writes() {
            if let Some(command) = self.promoted_when_drained.take() {
                self.promoted(command);
            }
        }
    }

    fn promotion_failed(&mut self, error: CommandError) {
        let Some(promotion) = self.promotion.take() else {
            return;
        };
        let message = error.message.clone();
        if let Some(id) = promotion.command {
            self.done(id, Err(error));
        } else if self.resuming.take().is_some() {
            self.notice(
                Severity::Error,
                "role.not_resumed",
                format!("not Primary any more: {message}"),
            );
            self.superblock.role_primary = false;
            self.save_superblock(Then::Nothing);
        }
        self.run_deferred();
    }

    pub(super) fn promotion_lost_peer(&mut self, slot: PeerSlot) {
        let name = self.peers[slot].name.clone();
        if self.sync_asked.as_ref().is_some_and(|asked| asked.peer == slot) {
            if let Some(asked) = self.sync_asked.take() {
                let error = failed(format!("{name} was lost while it was asked"), "try again".into());
                self.done(asked.command, Err(error));
            }
        }
        let Some(promotion) = self.promotion.as_mut().filter(|p| p.waiting & (1 << slot) != 0) else {
            return;
        };
        promotion.waiting &= !(1 << slot);
        if promotion.command.is_some() {
            let error = failed(format!("{name} was lost while it was asked"), "try again".into());
            self.promotion_failed(error);
        } else {
            // A resume goes on waiting for its deadline.
            self.promotion = None;
        }
    }

    pub(super) fn on_promote_request(&mut self, slot: PeerSlot) {
        let connection = self.peers[slot].link.as_ref().map(|link| link.id);
        // Both asked at once: the first name wins on both sides.
        let mine_wins = self.promotion.is_some() && self.config.node < self.peers[slot].name;
        let busy = self.role == Role::Primary
            || self.promoting
            || self.resuming.is_some()
            || self.quiescing.is_some()
            || self.superblock.role_primary && !self.crashed_primary;
        if busy || mine_wins || connection.is_none() {
            return self.send(slot, Message::PromoteReply { allowed: false });
        }
        self.superblock.last_primary = false;
        self.allowing = true;
        let connection = connection.unwrap_or(ConnectionId(0));
        self.save_superblock(Then::PromotionAllowed {
            peer: slot,
            connection,
        });
    }

    pub(super) fn promotion_allowed(&mut self, slot: PeerSlot, connection: ConnectionId) {
        if self.peers[slot]
            .link
            .as_ref()
            .is_some_and(|link| link.id == connection)
        {
            self.send(slot, Message::PromoteReply { allowed: true });
        }
        // What was asked of this node meanwhile comes after the permission, on the same connection.
        self.allowing = false;
        self.run_deferred();
    }

    pub(super) fn on_promote_reply(&mut self, slot: PeerSlot, allowed: bool) {
        let name = self.peers[slot].name.clone();
        let Some(promotion) = self.promotion.as_mut() else {
            return;
        };
        promotion.waiting &= !(1 << slot);
        if allowed {
            self.promotion_step();
        } else {
            // Only the peer knows for certain: what it said last may be older than its last demotion.
            let resource = &self.config.resource;
            self.promotion_failed(refused(
                format!("{name} is Primary of {resource}, or is just becoming it"),
                format!("demote it there first: blockpair demote {resource} (on {name})"),
            ));
        }
    }

    /// A handshake ended while this node waits to be Primary again.
    pub(super) fn resume_if_settled(&mut self) {
        let settled = self
            .peers
            .iter()
            .any(|p| matches!(p.phase(), Some(Phase::Established | Phase::Source(_))));
        if self.resuming.is_some() && self.promotion.is_none() && settled {
            self.begin_promotion(None, false);
        }
    }

    // ---- demote and stop -----------------------------------------------------------------------------

    fn demote(&mut self, id: CommandId) {
        if self.resuming.take().is_some() || self.role == Role::Secondary && self.superblock.role_primary {
            self.superblock.role_primary = false;
            self.save_superblock(Then::Nothing);
        }
        if self.role == Role::Secondary {
            return self.done(id, Ok(()));
        }
        self.quiesce(id, false);
    }

    fn quiesce(&mut self, id: CommandId, stop: bool) {
        if self.quiescing.is_some() {
            let error = failed(
                "a demote or stop is already under way".into(),
                "wait for it".into(),
            );
            return self.done(id, Err(error));
        }
        if stop {
            // The metadata keep the role for the next start.
            self.resuming = None;
        }
        self.quiescing = Some(Quiesce {
            command: id,
            stop,
            flushing: false,
        });
        self.quiesce_step();
    }

    /// When the last request is answered, everything is flushed on every node.
    pub(super) fn quiesce_step(&mut self) {
        let Some(quiesce) = &self.quiescing else { return };
        if quiesce.flushing || self.promoting || self.has_requests_in_flight() {
            return;
        }
        if let Some(quiesce) = &mut self.quiescing {
            quiesce.flushing = true;
        }
        self.start_flush(FlushOwner::Quiesce);
    }

    pub(super) fn quiesce_flushed(&mut self, result: Result<(), Errno>) {
        let Some(Quiesce { command, stop, .. }) = self.quiescing.take() else {
            return;
        };
        if let (Err(errno), false) = (result, stop) {
            let error = failed(
                format!("the flush before demoting failed: {}", describe(errno)),
                "mend the disk, or stop the resource with `blockpair down`".into(),
            );
            return self.done(command, Err(error));
        }
        if stop {
            let text = format!("{} is shutting down", self.config.node);
            for slot in 0..self.peers.len() {
                self.peers[slot].wanted = false;
                self.close_with(slot, GoodbyeReason::Busy, &text);
            }
            self.fail_commands("the resource is going down", "blockpair up");
            self.out.push(Action::Export { open: false });
            // No request may come between here and the last write.
            self.role = Role::Secondary;
            self.stopped = true;
            if self.metadata_failed {
                return self.done(command, Ok(()));
            }
            if result.is_ok() {
                self.clean_all();
            } else {
                // Which writes are stable is not known: the log goes on to say so.
                self.save_all_bitmaps();
            }
            self.superblock.clean = !self.crashed_primary && result.is_ok();
            self.save_superblock(Then::Stopped { command });
        } else {
            self.role = Role::Secondary;
            let text = format!("{} becomes Secondary", self.config.node);
            self.record(
                "role.secondary",
                text,
                Some(command),
                None,
                self.generation_fields(),
            );
            self.clean_all();
            self.superblock.role_primary = false;
            self.superblock.clean = true;
            self.save_superblock(Then::Demoted { command });
        }
    }

    pub(super) fn demoted(&mut self, command: CommandId) {
        self.notice(
            Severity::Info,
            "role.secondary",
            format!("{} is Secondary", self.config.node),
        );
        self.out.push(Action::Export { open: false });
        self.announce_state();
        self.done(command, Ok(()));
    }

    pub(super) fn on_bundle_saved(&mut self, _token: Token, _result: Result<(), String>) {
        debug_assert!(false, "a bundle that nobody asked for");
    }

    // ---- the first sync ------------------------------------------------------------------------------

    fn sync_from(&mut self, id: CommandId, source: SyncSource) {
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
    fn resync_with(&mut self, slot: PeerSlot, own_is_source: bool) -> Result<(), CommandError> {
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
    fn choose_as_first_source(
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

    pub(super) fn first_sync_chosen(
        &mut self,
        command: Option<CommandId>,
        asked_by: Option<(PeerSlot, ConnectionId)>,
        promote: bool,
    ) {
        let text = format!("{} holds the first generation of the data", self.config.node);
        self.notice(Severity::Info, "resync.first_source", text);
        if let Some((slot, connection)) = asked_by {
            if self.peers[slot]
                .link
                .as_ref()
                .is_some_and(|link| link.id == connection)
            {
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

    pub(super) fn on_sync_request(&mut self, slot: PeerSlot) {
        let waiting = matches!(self.peers[slot].phase(), Some(Phase::Waiting));
        match self.peers[slot].link.as_ref().map(|link| link.id) {
            Some(connection) if waiting && self.superblock.current == 0 => {
                self.choose_as_first_source(None, Some((slot, connection)), false);
            }
            _ => self.send(slot, Message::SyncReply { allowed: false }),
        }
    }

    pub(super) fn on_sync_reply(&mut self, slot: PeerSlot, allowed: bool) {
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
