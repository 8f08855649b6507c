//! The control plane's commands: taken in, put off, answered; and those that end things: disconnect, demote, stop.

mod first_sync;
mod promotion;
mod resolve;

use super::detach::Attachment;
use super::durable::{Then, METADATA_FAILED, METADATA_REMEDY};
use super::fault::{planted, Fault};
use super::links::{Peer, Phase};
use super::replica::{describe, Replica};
use super::requests::FlushOwner;
use super::types::*;
use crate::wire::{GoodbyeReason, Role};

pub(super) use first_sync::SyncAsked;
pub(super) use promotion::{HeldPromotion, Promotion};
pub(super) use resolve::Resolve;

/// All activity is coming to its end.
pub(in crate::core) struct Quiesce {
    command: CommandId,
    stop: bool,
    flushing: bool,
}

pub(in crate::core) fn refused(message: String, remedy: String) -> CommandError {
    CommandError {
        kind: ErrorKind::Unsafe,
        message,
        remedy,
    }
}

pub(in crate::core) fn failed(message: String, remedy: String) -> CommandError {
    CommandError {
        kind: ErrorKind::Failed,
        message,
        remedy,
    }
}

impl Replica {
    pub(in crate::core) fn on_command(&mut self, id: CommandId, command: Command, by: String) {
        let decides = matches!(
            command,
            Command::Promote { .. } | Command::Demote | Command::SyncFrom { .. } | Command::Resolve { .. }
        );
        let handshaking = self
            .peers
            .iter()
            .any(|p| matches!(p.phase(), Some(Phase::Hello | Phase::State { .. })));
        // A person who forces does not wait for what another one waits for.
        let forces = matches!(command, Command::Promote { force: true });
        let campaigns = self.is_asked_to_campaign() && !forces;
        let busy = handshaking
            || self.promotion.is_some()
            || self.promoting
            || self.allowing.is_some()
            || self.demoting;
        if decides && !self.stopped && (busy || campaigns) {
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
            Command::Connect { peer } => self.connect(id, peer),
            Command::Disconnect { peer } => self.disconnect(id, peer),
            Command::Promote { force } => self.promote(id, force),
            Command::Demote => self.demote(id),
            Command::SyncFrom { source } => self.sync_from(id, source),
            Command::Resolve { victim, bundle } => self.resolve(id, victim, bundle),
            Command::WarmUp => self.warm_up_command(id),
            Command::Verify {
                offset,
                len,
                max_rate,
            } => self.verify_command(id, offset, len, max_rate),
            Command::VerifyStop => self.verify_stop(id),
            Command::Repair { runs } => self.repair_command(id, runs),
            Command::Hold { offset, len } => self.hold_command(id, offset, len),
            Command::Settle { ticket, runs, why } => self.settle_command(id, ticket, &runs, why),
            Command::Stop => self.quiesce(id, true),
        }
    }

    pub(in crate::core) fn done(&mut self, id: CommandId, result: Result<(), CommandError>) {
        self.askers.remove(&id);
        self.out.push(Action::CommandDone { id, result });
    }

    pub(in crate::core) fn run_deferred(&mut self) {
        for (id, command, by) in std::mem::take(&mut self.deferred) {
            self.on_command(id, command, by);
        }
    }

    /// Commands that wait for something that will not happen any more.
    pub(in crate::core) fn fail_commands(&mut self, message: &str, remedy: &str) {
        let promotion = self.promotion.take().and_then(|promotion| promotion.command);
        let quiesce = self.quiescing.take().map(|quiesce| quiesce.command);
        let asked = self.sync_asked.take().map(|asked| asked.command);
        let mut waiting: Vec<CommandId> = self.deferred.drain(..).map(|(id, ..)| id).collect();
        for peer in &mut self.peers {
            waiting.append(&mut peer.reconnect);
        }
        waiting.append(&mut self.take_resolves());
        waiting.extend(self.drop_campaign());
        waiting.append(&mut self.drop_warm_up());
        for id in waiting.into_iter().chain(promotion).chain(quiesce).chain(asked) {
            self.done(id, Err(failed(message.to_owned(), remedy.to_owned())));
        }
    }

    pub(in crate::core) fn commands_on_time(&mut self) {
        if let Some(promotion) = self.promotion.as_ref().filter(|p| self.now >= p.deadline) {
            let silent = |slot: &usize| promotion.waiting & (1 << slot) != 0;
            let names: Vec<&str> = (0..self.peers.len())
                .filter(silent)
                .map(|slot| self.peers[slot].name.as_str())
                .collect();
            let (node, resource) = (&self.config.node, &self.config.resource);
            self.promotion_failed(failed(
                format!(
                    "{} did not answer in time whether {node} may be Primary of {resource}: it notes that on its disk \
                     first, which may be slow",
                    names.join(" and ")
                ),
                format!("try again: blockpair promote {resource}"),
            ));
        }
        if self
            .resumes_alone_at()
            .is_some_and(|deadline| self.now >= deadline)
        {
            self.notice(
                Severity::Warning,
                "role.resumed_alone",
                "no peer answered: going on as Primary alone, as before the daemon ended",
            );
            self.become_primary(None, false);
        }
    }

    /// When a node that was Primary goes on without its peer's word; never while something is under way that decides
    /// whether it may, and not at all where an arbiter is asked, or was: it may have named the peer meanwhile.
    pub(in crate::core) fn resumes_alone_at(&self) -> Option<Time> {
        let handshaking = |p: &Peer| matches!(p.phase(), Some(Phase::Hello | Phase::State { .. }));
        let deciding = self.promotion.is_some() || self.promoting || self.allowing.is_some();
        let arbitrated = self.arbitration.is_some() || self.superblock.epoch > 0;
        let may = !arbitrated && !deciding && !self.peers.iter().any(handshaking);
        self.resuming.filter(|_| may)
    }

    pub(in crate::core) fn fail_command(&mut self, command: Option<CommandId>) {
        if let Some(id) = command {
            self.done(id, Err(failed(METADATA_FAILED.into(), METADATA_REMEDY.into())));
        }
    }

    // ---- connect and disconnect ----------------------------------------------------------------------

    fn connect(&mut self, id: CommandId, slot: PeerSlot) {
        if !self.is_attached() {
            let text = format!("{} has no usable disk", self.config.node);
            return self.done(id, Err(failed(text, METADATA_REMEDY.into())));
        }
        if let Some(resolve) = &mut self.peers[slot].resolve {
            resolve.was_wanted = true;
        }
        let at_once = self.peers[slot].draining.is_none() || planted(Fault::ConnectForgotten);
        if !at_once && self.quiescing.is_some() {
            let error = failed("a demote or stop is under way".into(), "wait for it".into());
            return self.done(id, Err(error));
        }
        self.record_wish(id, slot, "peer.connect", "connects to");
        if at_once {
            self.connect_peer(slot);
            return self.done(id, Ok(()));
        }
        // The disconnect that it is to undo comes first.
        self.peers[slot].reconnect.push(id);
    }

    /// A person keeps the nodes apart, or ends that: what a split brain came of.
    fn record_wish(&mut self, id: CommandId, slot: PeerSlot, what: &'static str, verb: &str) {
        if self.askers.get(&id).is_some_and(|by| !by.is_empty()) {
            let text = format!("{} {verb} {}", self.config.node, self.peers[slot].name);
            self.record(what, text, Some(id), Some(slot), Vec::new());
        }
    }

    fn disconnect(&mut self, id: CommandId, slot: PeerSlot) {
        let deadline = self.now + self.config.peer_timeout_ns;
        let follower = self.peers[slot].is_known_as(Role::Secondary);
        let mirrored = self.peers[slot].is_mirrored();
        for connect in std::mem::take(&mut self.peers[slot].reconnect) {
            let error = failed("a disconnect came after it".into(), "connect again".into());
            self.done(connect, Err(error));
        }
        if let Some((commands, _)) = &mut self.peers[slot].draining {
            return commands.push(id);
        }
        if self.stand_in() == Some(slot) || self.stands_in_for(slot) {
            let name = &self.peers[slot].name;
            let (without, with) = match self.stand_in() {
                Some(_) => (&self.config.node, name),
                None => (name, &self.config.node),
            };
            let resource = &self.config.resource;
            let error = refused(
                format!("{without} has no disk and goes on through {with}: all I/O would fail"),
                format!("demote it first: blockpair demote {resource} (on {without})"),
            );
            return self.done(id, Err(error));
        }
        self.record_wish(id, slot, "peer.disconnect", "disconnects from");
        self.resolve_failed(slot, "disconnected by an administrator");
        self.peers[slot].refusal = None;
        self.peers[slot].draining = Some((vec![id], deadline));
        if mirrored && follower {
            // What the peer confirmed becomes stable there, so that nothing is suspect afterwards.
            self.start_flush(FlushOwner::Drain(slot));
        } else {
            self.drained(slot);
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
        if self.is_suspended() {
            let error = failed(
                "its writes wait: what is open cannot be brought to an end now".into(),
                format!(
                    "see `blockpair status {}` for what they wait for",
                    self.config.resource
                ),
            );
            return self.done(id, Err(error));
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
    pub(in crate::core) fn quiesce_step(&mut self) {
        let Some(quiesce) = &self.quiescing else { return };
        if quiesce.stop && self.is_suspended() && self.has_unanswered() {
            // Nobody who was promised anything is let down: these were never acknowledged.
            return self.fail_all_requests(Errno::ESHUTDOWN);
        }
        if quiesce.flushing || self.promoting || self.has_requests_in_flight() {
            return;
        }
        if let Some(quiesce) = &mut self.quiescing {
            quiesce.flushing = true;
        }
        if self.attachment == Attachment::Failed {
            // There is nothing left that a flush could make stable.
            return self.quiesce_flushed(Ok(()));
        }
        self.start_flush(FlushOwner::Quiesce);
    }

    pub(in crate::core) fn quiesce_flushed(&mut self, result: Result<(), Errno>) {
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
            // First: nobody who waits may set something going while the connections end.
            self.fail_commands("the resource is going down", "blockpair up");
            if !self.is_attached() {
                self.attachment = Attachment::Failed;
            }
            let text = format!("{} is shutting down", self.config.node);
            for slot in 0..self.peers.len() {
                self.peers[slot].wanted = false;
                self.close_with(slot, GoodbyeReason::Busy, &text);
            }
            self.out.push(Action::Export { open: false });
            // No request may come between here and the last write.
            self.role = Role::Secondary;
            self.dethrone();
            self.stopped = true;
            if !self.is_attached() {
                return self.done(command, Ok(()));
            }
            self.save_all_bitmaps();
            if result.is_ok() {
                return self.save_superblock(Then::MarksSaved { command, stop });
            }
            // Which writes are stable is not known: the log goes on to say so.
            self.superblock.clean = false;
            self.save_superblock(Then::Stopped { command });
        } else {
            self.role = Role::Secondary;
            self.put_down();
            // At once: from here on a handshake may find that this copy is the one to give way.
            self.out.push(Action::Export { open: false });
            let text = format!("{} becomes Secondary", self.config.node);
            self.record(
                "role.secondary",
                text,
                Some(command),
                None,
                self.generation_fields(),
            );
            if !self.is_attached() {
                self.demoted(command);
                return self.end_service();
            }
            self.demoting = true;
            self.save_all_bitmaps();
            self.save_superblock(Then::MarksSaved { command, stop });
        }
    }

    /// The write-intent log may go now, and not before: a page of marks can fail while what is queued behind it succeeds.
    pub(in crate::core) fn marks_saved(&mut self, command: CommandId, stop: bool) {
        self.clean_all();
        if stop {
            self.superblock.clean = !self.crashed_primary;
            return self.save_superblock(Then::Stopped { command });
        }
        self.superblock.role_primary = false;
        self.superblock.clean = true;
        self.save_superblock(Then::Demoted { command });
    }

    pub(in crate::core) fn demoted(&mut self, command: CommandId) {
        self.notice(
            Severity::Info,
            "role.secondary",
            format!("{} is Secondary", self.config.node),
        );
        self.announce_state();
        self.done(command, Ok(()));
        self.demote_ended();
    }

    /// What was asked meanwhile comes after it.
    pub(in crate::core) fn demote_ended(&mut self) {
        self.demoting = false;
        self.run_deferred();
    }
}
