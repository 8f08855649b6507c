//! A person ends a split brain: says so to the other node, and hears what came of it.

use super::{failed, refused};
use crate::core::durable::{METADATA_FAILED, METADATA_REMEDY};
use crate::core::fault::{planted, Fault};
use crate::core::handshake::{Direction, Plan, Side};
use crate::core::links::Phase;
use crate::core::replica::Replica;
use crate::core::types::*;
use crate::wire::{GoodbyeReason, Intent, Role};

/// How long a resolve tries to reach the other node.
const PATIENCE: Time = 10_000_000_000;

/// A person's decision at this node, until the resync that follows from it is about to start.
pub(in crate::core) struct Resolve {
    command: CommandId,
    victim: Victim,
    bundle: bool,
    /// When it is given up for want of a handshake that comes to a verdict.
    pub(in crate::core) deadline: Option<Time>,
    /// Whether the connection was wanted without it, and why not: so it is again when this comes to nothing.
    pub(super) was_wanted: bool,
    refusal: Option<Refusal>,
}

impl Resolve {
    fn intent(&self) -> Intent {
        let bundle = self.bundle;
        match self.victim {
            Victim::Myself => Intent::DiscardMine { bundle },
            Victim::Peer(_) => Intent::DiscardYours { bundle },
        }
    }
}

impl Replica {
    pub(in crate::core) fn resolve(&mut self, id: CommandId, victim: Victim, bundle: bool) {
        let slot = match victim {
            Victim::Peer(slot) => slot,
            Victim::Myself => (self.superblock.peers.iter().position(|peer| peer.split_brain)).unwrap_or(0),
        };
        if let Err(error) = self.may_resolve(slot, victim) {
            return self.done(id, Err(error));
        }
        self.peers[slot].resolve = Some(Resolve {
            command: id,
            victim,
            bundle,
            deadline: Some(self.now + PATIENCE),
            was_wanted: self.peers[slot].wanted,
            refusal: self.peers[slot].refusal.clone(),
        });
        self.connect_peer(slot);
    }

    fn may_resolve(&self, slot: PeerSlot, victim: Victim) -> Result<(), CommandError> {
        let (resource, node) = (&self.config.resource, &self.config.node);
        let Some(peer) = self.peers.get(slot) else {
            return Err(failed(
                format!("{resource} has no peer"),
                "nothing is to be resolved".into(),
            ));
        };
        if !self.is_attached() {
            return Err(failed(METADATA_FAILED.into(), METADATA_REMEDY.into()));
        }
        let resolving = matches!(peer.phase(), Some(Phase::Resolving(_)));
        if resolving || peer.resolve.is_some() {
            return Err(failed(
                format!("the split brain with {} is being resolved", peer.name),
                "wait for it".into(),
            ));
        }
        if peer.is_connected() {
            return Err(failed(
                format!(
                    "{node} and {} are connected: there is no split brain to resolve",
                    peer.name
                ),
                format!("see `blockpair status {resource}`"),
            ));
        }
        if victim == Victim::Myself && self.is_in_use() {
            return Err(refused(
                format!("{node} would give up its changes to {resource}, but it is Primary"),
                format!("stop what uses it and demote it first: blockpair demote {resource} (on {node})"),
            ));
        }
        Ok(())
    }

    pub(in crate::core) fn is_in_use(&self) -> bool {
        (self.role == Role::Primary || self.promoting || self.resuming.is_some())
            && !planted(Fault::PrimaryDiscarded)
    }

    /// What this node wants of its next connection to a peer.
    pub(in crate::core) fn intent(&self, slot: PeerSlot) -> Intent {
        (self.peers[slot].resolve.as_ref()).map_or(Intent::Replicate, Resolve::intent)
    }

    pub(in crate::core) fn end_resolve(&mut self, slot: PeerSlot, result: Result<(), CommandError>) {
        if let Some(resolve) = self.peers[slot].resolve.take() {
            self.done(resolve.command, result);
        }
    }

    pub(in crate::core) fn resolve_command(&self, slot: PeerSlot) -> Option<CommandId> {
        self.peers[slot].resolve.as_ref().map(|resolve| resolve.command)
    }

    pub(in crate::core) fn resolve_failed(&mut self, slot: PeerSlot, message: &str) {
        let peer = &mut self.peers[slot];
        if let Some(resolve) = peer.resolve.as_mut().filter(|resolve| !resolve.was_wanted) {
            peer.wanted = false;
            peer.refusal = peer.refusal.take().or(resolve.refusal.take());
        }
        let remedy = format!("see `blockpair status {}`", self.config.resource);
        self.end_resolve(slot, Err(failed(message.into(), remedy)));
    }

    pub(in crate::core) fn take_resolves(&mut self) -> Vec<CommandId> {
        let resolves = self.peers.iter_mut().filter_map(|peer| peer.resolve.take());
        resolves.map(|resolve| resolve.command).collect()
    }

    pub(in crate::core) fn resolve_on_time(&mut self) {
        for slot in 0..self.peers.len() {
            let deadline = self.peers[slot]
                .resolve
                .as_ref()
                .and_then(|resolve| resolve.deadline);
            if deadline.is_some_and(|at| self.now >= at) {
                let name = &self.peers[slot].name;
                let text = match self.peers[slot].phase() {
                    None => format!("{name} cannot be reached"),
                    // What hangs there would hang the next command, too.
                    Some(_) => format!("{name} does not answer: its daemon or its network hangs"),
                };
                self.resolve_failed(slot, &text);
                self.close_with(slot, GoodbyeReason::Busy, &text);
            }
        }
    }

    /// A verdict: what follows from it takes its time, and patience begins anew only when this connection is lost.
    pub(in crate::core) fn resolve_is_heard(&mut self, slot: PeerSlot) {
        if let Some(resolve) = &mut self.peers[slot].resolve {
            resolve.deadline = None;
        }
    }

    /// A connection without a verdict, however many there are, buys no more time: its end leaves the deadline as it is.
    pub(in crate::core) fn resolve_lost_link(&mut self, slot: PeerSlot) {
        let deadline = self.now + PATIENCE;
        if let Some(resolve) = &mut self.peers[slot].resolve {
            resolve.deadline.get_or_insert(deadline);
        }
    }

    /// What a verdict means for the resolve that this node's Hello asked for, and for one that it was waiting to see
    /// the end of.
    pub(in crate::core) fn answer_resolve(&mut self, slot: PeerSlot, own: &Side, peer: &Side, plan: &Plan) {
        let command = self.resolve_command(slot);
        let outcome = self.peers[slot].outcome.take();
        if let Some(outcome) = outcome.filter(|outcome| outcome.came_true(&plan.verdict, &peer.state)) {
            self.record(
                "split_brain.resolved",
                outcome.text,
                command,
                Some(slot),
                outcome.fields,
            );
        }
        if !own.intent.resolves() {
            return;
        }
        let resource = &self.config.resource;
        let result = match (own.intent, &plan.verdict.direction) {
            (Intent::DiscardMine { .. }, Direction::Target(_))
            | (Intent::DiscardYours { .. }, Direction::Source(_)) => Ok(()),
            (_, Direction::SplitBrain) if plan.resolution.is_some() => return,
            (_, Direction::SplitBrain) => Err(refused(
                plan.reason.clone(),
                format!("blockpair resolve {resource} shows both sides"),
            )),
            _ => Err(failed(
                format!("there is no split brain to resolve (rule {})", plan.verdict.rule),
                format!("the ordinary rules have decided; see `blockpair status {resource}`"),
            )),
        };
        self.end_resolve(slot, result);
    }
}
