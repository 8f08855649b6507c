//! Becoming Primary: by command, by force, or again after a restart; each only with the word of every connected peer.

use super::{failed, refused};
use crate::core::durable::Then;
use crate::core::links::Phase;
use crate::core::replica::{PeerMask, Replica};
use crate::core::resolve::Resolving;
use crate::core::types::*;
use crate::wire::{DiskState, Message, Role};

/// Asking every connected peer whether this node may become Primary.
pub(in crate::core) struct Promotion {
    pub(super) command: Option<CommandId>,
    pub(super) waiting: PeerMask,
    pub(super) forced: bool,
    pub(in crate::core) deadline: Time,
}

/// A promotion that is durable, and whom to tell when it counts.
pub(in crate::core) struct HeldPromotion {
    pub(in crate::core) command: Option<CommandId>,
}

impl Replica {
    pub(super) fn promote(&mut self, id: CommandId, force: bool) {
        if self.role == Role::Primary && force && self.is_suspended() {
            return self.force_on(id);
        }
        if self.role == Role::Primary {
            return self.done(id, Ok(()));
        }
        if let Err(error) = self.may_promote(force) {
            return self.done(id, Err(error));
        }
        if self.superblock.current == 0 {
            return self.choose_as_first_source(Some(id), None, true);
        }
        if force {
            if let Some(waiting) = self.drop_campaign() {
                let error = failed(
                    "a promotion by force came after it".into(),
                    "none is needed".into(),
                );
                self.done(waiting, Err(error));
            }
        } else if self.join_campaign(id) {
            return;
        }
        self.begin_promotion(Some(id), force);
    }

    pub(super) fn may_promote(&self, force: bool) -> Result<(), CommandError> {
        let node = &self.config.node;
        let resource = &self.config.resource;
        if !self.is_attached() {
            return Err(failed(
                format!("{resource} on {node} has no usable disk"),
                "mend or replace it, then `blockpair down` and `up`".into(),
            ));
        }
        for peer in &self.peers {
            if let Some(Phase::Resolving(Resolving::Victim(_))) = peer.phase() {
                return Err(refused(
                    format!(
                        "{node} is giving up its changes to {resource}, for those of {}",
                        peer.name
                    ),
                    format!("wait for the resync: blockpair sync {resource} --wait"),
                ));
            }
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
        // Once there was an epoch, an arbiter says what is known: the last Primary knows nothing, where it does not ask
        // that any more, and its peer perhaps does. Before the first epoch the arbiter has nothing to say.
        let arbitrated = self.superblock.epoch > 0;
        let known = if arbitrated {
            self.arbitration.is_some()
        } else {
            self.superblock.last_primary
        };
        if self.arbitration.is_some() && self.superblock.peers.iter().any(|peer| peer.split_brain) && !force {
            return Err(refused(
                format!("{resource} has split, and nobody has said whose changes count"),
                format!("blockpair resolve {resource}"),
            ));
        }
        if let (Some(peer), false, false) = (alone, force, known) {
            return Err(refused(
                format!(
                    "{peer} is not connected: it may be Primary of {resource} now, and may have newer data"
                ),
                format!(
                    "wait for it: blockpair wait {resource} --until connected; or, only when {peer} is certainly \
                     stopped: blockpair promote {resource} --force"
                ),
            ));
        }
        Ok(())
    }

    pub(in crate::core) fn begin_promotion(&mut self, command: Option<CommandId>, forced: bool) {
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

    pub(super) fn promotion_step(&mut self) {
        if let Some(Promotion { command, forced, .. }) = self.promotion.take_if(|p| p.waiting == 0) {
            if self.arbitration.is_some() {
                return self.peers_agree(command, forced);
            }
            let alone = !self.peers.iter().any(|peer| peer.is_connected());
            self.become_primary(command, forced && alone);
        }
    }

    pub(in crate::core) fn become_primary(&mut self, command: Option<CommandId>, forced: bool) {
        let node = &self.config.node;
        let (what, text) = match (forced, command) {
            (true, _) => (
                "role.forced",
                format!("{node} becomes Primary by force, without its peer's word"),
            ),
            (false, Some(_)) => ("role.primary", format!("{node} becomes Primary")),
            (false, None) if self.is_failing_over() => (
                "role.primary",
                format!("{node} becomes Primary by itself: the one before it is lost"),
            ),
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
        if self.arbitration.is_none() && self.resuming.is_none() {
            self.enter_unarbitrated();
        }
        self.superblock.role_primary = true;
        self.superblock.clean = false;
        self.superblock.last_primary = true;
        self.promoting = true;
        self.save_superblock(Then::Promoted { command });
    }

    /// The role is durable. What the former Primary had on its way to this disk comes first: whoever reads here
    /// from now on must not see such a write appear later.
    pub(in crate::core) fn promoted(&mut self, command: Option<CommandId>) {
        if self.promoting && self.has_peers_writes() {
            self.promoted_when_drained = Some(HeldPromotion { command });
            return;
        }
        let reigns = std::mem::take(&mut self.promoting);
        self.campaign_over(reigns);
        if !reigns {
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
        self.warm_up_as_primary();
        self.announce_state();
        self.ask_for_lease();
        if let Some(id) = command {
            self.done(id, Ok(()));
        }
        self.quiesce_step();
        self.run_deferred();
    }

    pub(in crate::core) fn has_peers_writes(&self) -> bool {
        self.remote.len() > 0 || self.target_writes > 0
    }

    /// A write of a peer ended: it may have been the last that a promotion waited for.
    pub(in crate::core) fn peers_write_ended(&mut self) {
        if !self.has_peers_writes() {
            if let Some(HeldPromotion { command }) = self.promoted_when_drained.take() {
                self.promoted(command);
            }
        }
    }

    pub(super) fn promotion_failed(&mut self, error: CommandError) {
        let Some(promotion) = self.promotion.take() else {
            return;
        };
        let message = error.message.clone();
        if let Some(id) = promotion.command {
            self.done(id, Err(error));
        } else if self.resuming.is_some() && self.arbitration.is_some() {
            // The arbiter says whether there is another one; until then it tries again.
            self.resume_later();
        } else {
            self.not_resumed(&message);
        }
        self.run_deferred();
    }

    /// Another node is Primary, or is to be: this one does not go on where its daemon ended.
    pub(in crate::core) fn not_resumed(&mut self, message: &str) {
        if self.resuming.take().is_some() {
            self.notice(
                Severity::Error,
                "role.not_resumed",
                format!("not Primary any more: {message}"),
            );
            self.superblock.role_primary = false;
            self.save_superblock(Then::Nothing);
        }
    }

    /// The peer is Primary by now, and beyond whatever this node may have asked for.
    pub(in crate::core) fn lost_to(&mut self, command: CommandId, name: &str) {
        let resource = &self.config.resource;
        let error = refused(
            format!("{name} is Primary of {resource} meanwhile"),
            format!(
                "to move it here: blockpair switchover {resource}; or demote it there first: \
                 blockpair demote {resource} (on {name})"
            ),
        );
        self.done(command, Err(error));
    }

    pub(in crate::core) fn promotion_lost_peer(&mut self, slot: PeerSlot) {
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
        if promotion.command.is_some() && self.arbitration.is_some() {
            // Without it, it is the arbiter's to say.
            self.promotion_step();
        } else if promotion.command.is_some() {
            let error = failed(format!("{name} was lost while it was asked"), "try again".into());
            self.promotion_failed(error);
        } else {
            // A resume goes on waiting for its deadline.
            self.promotion = None;
        }
    }

    pub(in crate::core) fn on_promote_request(&mut self, slot: PeerSlot) {
        let connection = self.peers[slot].link.as_ref().map(|link| link.id);
        // Both asked at once: the first name wins on both sides.
        let mine_wins = self.promotion.is_some() && self.config.node < self.peers[slot].name;
        let busy = self.role == Role::Primary
            || self.promoting
            // One permission at a time: each costs a metadata write.
            || self.allowing.is_some_and(|(peer, _)| peer != slot)
            || self.resuming.is_some()
            || self.quiescing.is_some()
            || self.is_staked()
            || self.superblock.role_primary && !self.crashed_primary;
        let Some(connection) = connection.filter(|_| !busy && !mine_wins) else {
            return self.send(slot, Message::PromoteReply { allowed: false });
        };
        if self.allowing.replace((slot, connection)).is_some() {
            // Its first try ran out of patience: the yes that is on its way to the disk answers this one.
            return;
        }
        self.superblock.last_primary = false;
        self.save_superblock(Then::PromotionAllowed);
    }

    pub(in crate::core) fn promotion_allowed(&mut self) {
        // What was asked of this node meanwhile comes after the permission, on the same connection.
        let asked = self.allowing.take();
        if let Some((slot, _)) = asked.filter(|(slot, connection)| self.peers[*slot].is_on(*connection)) {
            self.send(slot, Message::PromoteReply { allowed: true });
            if let Some(a) = self.arbitration.as_mut() {
                a.yielded = true;
                a.put_down = false;
            }
        }
        self.run_deferred();
    }

    pub(in crate::core) fn on_promote_reply(&mut self, slot: PeerSlot, allowed: bool) {
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
                format!(
                    "to move it here: blockpair switchover {resource}; or demote it there first: \
                     blockpair demote {resource} (on {name})"
                ),
            ));
        }
    }

    /// A handshake ended while this node waits to be Primary again.
    pub(in crate::core) fn resume_if_settled(&mut self) {
        let settled = self
            .peers
            .iter()
            .any(|p| matches!(p.phase(), Some(Phase::Established | Phase::Source(_))));
        let under_way = self.promotion.is_some() || self.promoting || self.is_staked();
        if self.resuming.is_some() && !under_way && settled {
            self.begin_promotion(None, false);
        }
    }
}
