//! The handshake on a connection: who speaks, what state it is in, and what the verdict sets going.

use super::Phase;
use crate::core::durable::Then;
use crate::core::handshake::{plan, Direction, Plan, Scope, Side};
use crate::core::replica::Replica;
use crate::core::types::*;
use crate::wire::{self, DiskState, Generations, GoodbyeReason, Hello, Intent, Message, NodeState, Role};

use super::{REFUSALS_MAX, RETRY_REFUSED};

impl Replica {
    /// Who this node is, as a peer is told and as its answer is held against.
    pub(in crate::core) fn own_hello(&self, slot: PeerSlot, nonce: u64) -> Hello {
        Hello {
            version_min: wire::VERSION_MIN,
            version_max: wire::VERSION_MAX,
            features: wire::feature::ALL,
            resource: self.config.resource.clone(),
            resource_id: self.superblock.resource_id,
            node: self.config.node.clone(),
            peer: self.peers[slot].name.clone(),
            data_size_bytes: self.superblock.data_size_bytes,
            block_size_bytes: self.superblock.block_size_bytes,
            protocol: self.config.protocol,
            channel: 0,
            nonce,
            intent: self.intent(slot),
            policy: self.config.policy,
            priority: self.config.priority,
            session: None,
        }
    }

    pub(super) fn on_hello(&mut self, slot: PeerSlot, hello: Hello) {
        match hello.intent {
            Intent::Consult { .. } => {
                return self.protocol_error(slot, "it only asks, on a connection for replication");
            }
            Intent::Join => return self.protocol_error(slot, "it joins a session on its first connection"),
            _ => {}
        }
        let own = self.own_hello(slot, 0);
        let session = match wire::negotiate(&own, &hello) {
            Ok(session) => session,
            Err((reason, text)) => {
                self.resolve_failed(slot, &text);
                let peer = &mut self.peers[slot];
                peer.refusals += 1;
                let standalone = peer.refusals >= REFUSALS_MAX;
                if peer.refusal.as_ref().is_none_or(|refusal| refusal.text != text) {
                    self.notice(Severity::Error, "peer.refused", text.clone());
                }
                self.close_with(slot, reason, &text);
                self.peers[slot].refusal = Some(Refusal { reason, text });
                self.peers[slot].wanted &= !standalone;
                return self.retry_later(slot, RETRY_REFUSED);
            }
        };
        let state = self.own_state(slot, true);
        if let Some(link) = self.peers[slot].link.as_mut() {
            link.features = session.features;
            link.phase = Phase::State {
                peer_hello: Box::new(hello),
                sent: Box::new(state.clone()),
            };
        }
        self.send(slot, Message::State(state));
    }

    pub(in crate::core) fn own_state(&self, slot: PeerSlot, handshake: bool) -> NodeState {
        let (record, peer) = (&self.superblock.peers[slot], &self.peers[slot]);
        NodeState {
            role: if self.promoting { Role::Primary } else { self.role },
            disk: if self.is_attached() {
                self.superblock.disk
            } else {
                DiskState::Diskless
            },
            generations: Generations {
                current: self.superblock.current,
                bitmap: record.bitmap_generation,
                history: self.superblock.history,
            },
            dirty_blocks: peer.dirty.count(),
            suspect_extents: peer.suspect.count(),
            full_sync: record.full_sync,
            crashed_primary: self.crashed_primary,
            last_primary: self.superblock.last_primary,
            epoch: self.superblock.epoch,
            promised: self.superblock.promised,
            diverged_at_s: self.superblock.diverged_at_s,
            changed_at_s: self.superblock.changed_at_s,
            resuming: self.resuming.is_some(),
            handshake,
        }
    }

    /// Tells every connected peer what this node is now.
    pub(in crate::core) fn announce_state(&mut self) {
        for slot in 0..self.peers.len() {
            if self.peers[slot].is_connected() {
                let state = self.own_state(slot, false);
                self.send(slot, Message::State(state));
            }
        }
    }

    pub(super) fn on_state(&mut self, slot: PeerSlot, state: NodeState) {
        let peer_is_primary = state.role == Role::Primary;
        let expected = self.peers[slot].is_shaking_hands();
        if state.handshake != expected {
            return self.protocol_error(slot, "a state at the wrong time");
        }
        self.peers[slot].known = Some(state.clone());
        if expected && !self.may_meet(slot, &state) {
            return;
        }
        if !expected {
            self.heard_state(slot, &state);
            if self.peers[slot].link.is_none() {
                return;
            }
        }
        let ahead = self.stands_in_for(slot);
        if peer_is_primary
            && self.superblock.last_primary
            && self.role == Role::Secondary
            && !expected
            && !ahead
        {
            self.superblock.last_primary = false;
            self.save_superblock(Then::Nothing);
        }
        if expected {
            self.judge(slot);
        }
    }

    fn judge(&mut self, slot: PeerSlot) {
        let Some(link) = self.peers[slot].link.as_mut() else {
            return;
        };
        let intent = link.intent;
        let Phase::State { peer_hello, sent } = std::mem::replace(&mut link.phase, Phase::Hello) else {
            return;
        };
        let Some(peer_state) = self.peers[slot].known.clone() else {
            return;
        };
        let said = (sent.role, sent.epoch);
        let own = Side {
            // As it was said, also if the command was answered since.
            intent,
            ..Side::new(&self.own_hello(slot, 0), *sent)
        };
        let peer = Side::new(&peer_hello, peer_state);
        let plan = plan(&own, &peer);
        let verdict = &plan.verdict;
        let fields = vec![
            ("rule", verdict.rule.to_owned()),
            ("direction", format!("{:?}", verdict.direction)),
            ("own", summary(&own.state)),
            ("peer", summary(&peer.state)),
            ("nonce", format!("{:016x}", peer_hello.nonce)),
        ];
        let name = self.peers[slot].name.clone();
        let text = format!("{name}: {} (rule {})", in_words(&verdict.direction), verdict.rule);
        self.tell(Severity::Info, "handshake.verdict", text, Some(slot), fields);
        let state = &mut self.peers[slot];
        state.rule = Some(verdict.rule);
        if !matches!(verdict.direction, Direction::Source(_) | Direction::Target(_)) {
            state.failures = 0;
        }
        state.refusals = 0;
        state.refusal = None;
        // One that was answered only because of a split brain goes on like any other.
        state.wanted = true;
        let split_brain = verdict.direction == Direction::SplitBrain;
        if self.superblock.peers[slot].split_brain != split_brain {
            self.superblock.peers[slot].split_brain = split_brain;
            self.save_superblock(Then::Nothing);
        }
        self.resolve_is_heard(slot);
        self.answer_resolve(slot, &own, &peer, &plan);
        match plan.verdict.direction {
            // What the peer would take for this generation is the one before it.
            Direction::Established if own.state.generations.current != self.superblock.current => {
                let text = "a new generation was opened while the handshake was under way";
                self.close_with(slot, GoodbyeReason::Busy, text);
            }
            Direction::Established => self.establish(slot),
            Direction::Source(scope) => self.begin_source(slot, scope == Scope::Whole),
            Direction::Target(_) if self.has_risen_since(slot, said) => {
                let text = "promoted while the handshake was under way";
                self.close_with(slot, GoodbyeReason::Busy, text);
            }
            Direction::Target(_) => self.begin_target(slot, peer_hello.resource_id),
            Direction::Wait => self.set_phase(slot, Phase::Waiting),
            Direction::SplitBrain => self.split_brain(slot, &own, &peer, &plan),
            Direction::Refuse => {
                let text = refusal_text(plan.verdict.rule, &self.config.node, &name);
                self.notice(Severity::Error, "peer.refused", text.clone());
                self.refuse_peer(slot, GoodbyeReason::Refused, &text);
            }
        }
        if self.peers[slot].is_connected() {
            let state = self.own_state(slot, false);
            // Promoted while the handshake was under way: it was over what was said before.
            if self.arbitration.is_some() && (state.role, state.epoch) != said {
                self.send(slot, Message::State(state));
            }
        }
        self.handshake_settled();
    }

    /// Both have gone on alone: one gives way now, or both stay as they are until a person says which one does.
    fn split_brain(&mut self, slot: PeerSlot, own: &Side, peer: &Side, plan: &Plan) {
        let name = &self.peers[slot].name;
        let mut text = format!(
            "split brain: {} and {name} were both written without each other",
            self.config.node
        );
        if plan.resolution.is_none() {
            let resource = &self.config.resource;
            text = format!(
                "{text}; nothing was overwritten. {}. See `blockpair resolve {resource}`",
                plan.reason
            );
        }
        let mut fields = self.generation_fields();
        fields.push(("rule", plan.verdict.rule.into()));
        fields.push(("policy", own.policy.name().into()));
        self.record("split_brain.found", text.clone(), None, Some(slot), fields);
        self.notice(Severity::Error, "peer.split_brain", text.clone());
        match plan.resolution {
            Some(resolution) => self.begin_resolution(slot, own, peer, plan, resolution),
            None => self.refuse_peer(slot, GoodbyeReason::Refused, &text),
        }
    }

    pub(in crate::core) fn set_phase(&mut self, slot: PeerSlot, phase: Phase) {
        if let Some(link) = self.peers[slot].link.as_mut() {
            link.phase = phase;
        }
    }

    /// Both copies are the same: from here on they are kept so.
    pub(in crate::core) fn establish(&mut self, slot: PeerSlot) {
        let peer = &self.peers[slot];
        if !(peer.dirty.is_empty() && peer.suspect.is_empty()) {
            // Something was marked after our state was sent: the next handshake will say so.
            return self.close_with(slot, GoodbyeReason::Busy, "marks changed during the handshake");
        }
        self.set_phase(slot, Phase::Established);
        let peer = &mut self.peers[slot];
        let mut peer_is_primary = false;
        if let Some(known) = &mut peer.known {
            known.disk = DiskState::UpToDate;
            peer_is_primary = known.role == Role::Primary;
        }
        let name = peer.name.clone();
        self.crashed_primary = false;
        let before = self.superblock.clone();
        self.superblock.peers[slot].bitmap_generation = 0;
        self.superblock.disk = DiskState::UpToDate;
        self.superblock.role_primary = self.role == Role::Primary || self.resuming.is_some();
        if peer_is_primary {
            self.superblock.last_primary = false;
        }
        if self.superblock != before {
            self.save_superblock(Then::Nothing);
        }
        self.notice(
            Severity::Info,
            "peer.established",
            format!("{name}: copies are equal, replication established"),
        );
        self.caught_up();
        self.arbitration_changed();
        self.peer_caught_up();
    }

    /// A handshake ended, well or not: what waited for it goes on.
    pub(super) fn handshake_settled(&mut self) {
        self.retry_replies();
        self.retry_starts();
        self.run_deferred();
        self.resume_if_settled();
    }

    /// A newer copy exists elsewhere: a Primary without changes of its own stops at once.
    pub(in crate::core) fn superseded(&mut self, by: &str) {
        let promoting = std::mem::take(&mut self.promoting);
        if self.role == Role::Primary || self.resuming.is_some() || promoting {
            let text =
                format!("{by} has newer data: this node is Primary no more, its open requests get an error");
            self.tell(
                Severity::Error,
                "role.superseded",
                text,
                None,
                self.generation_fields(),
            );
            self.role = Role::Secondary;
            self.resuming = None;
            self.dethrone();
            self.out.push(Action::Export { open: false });
            self.fail_all_requests(Errno::EIO);
        }
    }
}

/// What a person makes of it.
fn in_words(direction: &Direction) -> &'static str {
    match direction {
        Direction::Established => "both copies are the same",
        Direction::Source(Scope::Marked) => "this node's copy is newer, and what is marked goes there",
        Direction::Source(Scope::Whole) => "this node's copy is newer, and all of it is compared",
        Direction::Target(Scope::Marked) => "its copy is newer, and what is marked comes from there",
        Direction::Target(Scope::Whole) => "its copy is newer, and all of it is compared",
        Direction::Wait => "neither copy has data yet, a person says which one counts",
        Direction::SplitBrain => "both were written apart from each other: a split brain",
        Direction::Refuse => "no connection, by that rule",
    }
}

fn summary(state: &NodeState) -> String {
    format!(
        "{:?}/{:?} current {:016x} bitmap {:016x} history {:016x},{:016x} dirty {} suspect {}{}{}{} epoch {}",
        state.role,
        state.disk,
        state.generations.current,
        state.generations.bitmap,
        state.generations.history[0],
        state.generations.history[1],
        state.dirty_blocks,
        state.suspect_extents,
        if state.full_sync { " full" } else { "" },
        if state.crashed_primary {
            " crashed-primary"
        } else {
            ""
        },
        if state.last_primary { " last-primary" } else { "" },
        state.epoch,
    )
}

/// Why a rule refuses, and what to do, for people.
pub(crate) fn refusal_text(rule: &str, own: &str, peer: &str) -> String {
    match rule {
        "two-primaries" => {
            format!("{own} and {peer} are both Primary; demote one of them, then `blockpair connect`")
        }
        "no-good-copy" => format!(
            "neither {own} nor {peer} may be the source: the side that is ahead has an incomplete copy; \
             bring the node with the good copy back"
        ),
        "diskless" => format!("{own} or {peer} has no usable disk; mend it, then `blockpair connect`"),
        _ => format!(
            "the data of {own} and {peer} have nothing in common (rule {rule}); if one of them is to be \
             overwritten, begin its copy anew there (`blockpair create NAME --anew`), then `blockpair connect`"
        ),
    }
}
