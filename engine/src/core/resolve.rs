//! The end of a split brain: the victim saves what it is about to lose, then goes back to the common ancestor.
//!
//! Both sides come to the same [`Plan`](super::handshake::Plan) at the handshake. The survivor sends its marks; the
//! victim joins them with its own, has the blocks saved, makes its marks durable, and then rewinds, in one superblock
//! write, to the generation from which both started. From there on it is an ordinary target: the connection is made
//! anew, and whatever is cut off later is taken up by the ordinary rules. Before that write nothing of the victim has
//! changed, so a failure or a crash leaves the split brain as it was, for the next handshake to find.
//!
//! A promotion of the victim is refused as long as the connection on which it gives way lives. Together with the rule
//! that nothing may be under way when the bundle begins, this keeps every write away from its disk until it is rewound.

use super::durable::Then;
use super::fault::{planted, Fault};
use super::handshake::{Plan, Resolution, Side, Verdict, Who, BY_PERSON};
use super::links::Phase;
use super::mark_exchange::bounded_runs;
use super::replica::Replica;
use super::types::*;
use crate::meta::Bitmap;
use crate::wire::{BlockRun, DiskState, Generations, GoodbyeReason, Intent, Message, NodeState, HISTORY_LEN};

/// A survivor that sends no marks for so many times the peers' timeout has an engine that hangs, though it is heard.
const MARKS_PATIENCE: u64 = 10;

type Fields = Vec<(&'static str, String)>;

/// A connection on which a split brain is being resolved.
pub(super) enum Resolving {
    /// The victim is at work; whether it went through is what the next handshake shows.
    Survivor,
    Victim(Box<VictimWork>),
}

impl Resolving {
    /// How far it is, for people.
    pub(super) fn step(&self) -> &'static str {
        match self {
            Resolving::Survivor => "waiting-for-victim",
            Resolving::Victim(work) => match work.step {
                Step::Marks { .. } | Step::Settling => "exchanging-marks",
                Step::Saving(_) if work.bundle => "saving-bundle",
                Step::Saving(_) | Step::Marking | Step::Rewinding => "rewinding",
            },
        }
    }

    /// When the survivor must have said more.
    pub(super) fn due(&self) -> Option<Time> {
        match self {
            Resolving::Victim(work) => match work.step {
                Step::Marks { due } => Some(due),
                _ => None,
            },
            Resolving::Survivor => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The survivor's marks are on their way; until then the next of them has to come.
    Marks { due: Time },
    /// They are here; a write of a time before may still be under way, and must not change what is saved.
    Settling,
    /// What is given up is being saved, or that it is not is being recorded.
    Saving(Token),
    /// It is saved, or need not be: the marks are being made durable.
    Marking,
    /// They are, and the superblock is on its way: nothing can hold it back.
    Rewinding,
}

/// What the victim knows of its own end.
pub(super) struct VictimWork {
    step: Step,
    rule: &'static str,
    why: String,
    bundle: bool,
    own: Generations,
    survivor: Generations,
    /// What the resync may overwrite. Not this node's bitmap: if it comes to nothing, nothing has changed.
    union: Bitmap,
    /// Some of it this node has changed since the split: without any, nothing is lost.
    has_changes: bool,
    outcome: Outcome,
}

/// What the history is told when the split brain has ended.
pub(super) struct Outcome {
    pub(super) text: String,
    pub(super) fields: Fields,
    /// Where the victim goes back to; none for a split brain whose ancestor is too old: it becomes like a new disk.
    ancestor: Option<u64>,
}

impl Outcome {
    /// Whether a handshake as the source shows the victim as the rewind leaves it. A victim that comes back as anything
    /// else (another disk, a copy that was brought back) has not given up what this tells of.
    pub(super) fn came_true(&self, verdict: &Verdict, victim: &NodeState) -> bool {
        let (rule, current) = self.ancestor.map_or(("peer-new", 0), |id| ("self-ahead", id));
        verdict.rule == rule
            && victim.generations.current == current
            && victim.disk == DiskState::Inconsistent
    }
}

impl Replica {
    // ---- the handshake found a victim ----------------------------------------------------------------

    pub(super) fn begin_resolution(
        &mut self,
        slot: PeerSlot,
        own: &Side,
        peer: &Side,
        plan: &Plan,
        resolution: Resolution,
    ) {
        let (victim, survivor) = match resolution.victim {
            Who::Own => (own, peer),
            Who::Peer => (peer, own),
        };
        let (node, state) = (&victim.name, &victim.state);
        let why = match resolution.by {
            BY_PERSON => plan.reason.clone(),
            policy => format!("policy {policy}, {}", plan.reason),
        };
        let text = format!(
            "{node} gives up its changes and becomes a copy of {}: {why}",
            survivor.name
        );
        self.notice(Severity::Warning, "peer.split_brain_resolving", text.clone());
        let is_recent = plan.verdict.rule == "split-brain";
        let bundle = match (resolution.bundle, victim.is_marked() || !is_recent) {
            (_, false) => "not needed",
            (true, true) => "saved",
            (false, true) => "none",
        };
        let outcome = Outcome {
            text,
            ancestor: is_recent.then_some(state.generations.bitmap),
            fields: vec![
                ("victim", node.clone()),
                ("survivor", survivor.name.clone()),
                ("by", resolution.by.into()),
                ("rule", plan.verdict.rule.into()),
                ("bundle", bundle.into()),
                ("blocks", state.dirty_blocks.to_string()),
                ("suspect_extents", state.suspect_extents.to_string()),
                ("generation", format!("{:016x}", state.generations.current)),
            ],
        };
        let marks = self.all_marks(slot);
        if resolution.victim == Who::Peer {
            self.peers[slot].outcome = Some(outcome);
            self.set_phase(slot, Phase::Resolving(Resolving::Survivor));
            return self.send_runs(slot, &bounded_runs(&marks));
        }
        let mut union = Bitmap::new(marks.len());
        if is_recent {
            // As the resync will be told of them: gaps that a long list covers included.
            for run in bounded_runs(&marks) {
                union.set(run.first, run.count);
            }
        } else {
            union.set_all();
        }
        let work = VictimWork {
            step: Step::Marks {
                due: self.marks_due(),
            },
            rule: plan.verdict.rule,
            why,
            bundle: resolution.bundle,
            own: state.generations,
            survivor: survivor.state.generations,
            has_changes: !union.is_empty(),
            union,
            outcome,
        };
        self.set_phase(slot, Phase::Resolving(Resolving::Victim(Box::new(work))));
    }

    fn marks_due(&self) -> Time {
        self.now + MARKS_PATIENCE * self.config.peer_timeout_ns
    }

    /// Until its changes are safe a victim cannot be promoted: it waits for a survivor that lives, not for ever.
    pub(super) fn resolutions_on_time(&mut self) {
        for slot in 0..self.peers.len() {
            let due = match self.peers[slot].phase() {
                Some(Phase::Resolving(resolving)) => resolving.due(),
                _ => None,
            };
            if due.is_some_and(|at| self.now >= at) {
                let name = &self.peers[slot].name;
                let text =
                    format!("{name} does not send its marks, though it is connected: its daemon hangs");
                self.notice(Severity::Error, "peer.split_brain_kept", text.clone());
                self.resolution_ended(slot, &text);
                self.resolve_failed(slot, &text);
                self.close_with(slot, GoodbyeReason::Busy, &text);
            }
        }
    }

    fn victim_mut(&mut self, slot: PeerSlot) -> Option<&mut VictimWork> {
        match &mut self.peers[slot].link.as_mut()?.phase {
            Phase::Resolving(Resolving::Victim(work)) => Some(work),
            _ => None,
        }
    }

    /// All that one says to the other meanwhile are the survivor's marks.
    pub(super) fn on_resolving_message(&mut self, slot: PeerSlot, message: Message) {
        let due = self.marks_due();
        let in_marks = |work: &&mut VictimWork| matches!(work.step, Step::Marks { .. });
        let Some(work) = self.victim_mut(slot).filter(in_marks) else {
            return self.protocol_error(slot, "an unexpected message while a split brain is resolved");
        };
        let Message::BitmapRuns { runs, last } = message else {
            return self.protocol_error(slot, "something else than marks while a split brain is resolved");
        };
        let blocks = work.union.len();
        for run in runs {
            if run.first.checked_add(run.count).is_none_or(|end| end > blocks) {
                return self.protocol_error(slot, "marks outside the device");
            }
            if !planted(Fault::BundleLacksSurvivorMarks) {
                work.union.set(run.first, run.count);
            }
        }
        work.step = if last { Step::Settling } else { Step::Marks { due } };
    }

    /// After every event: whether a bundle can begin.
    pub(super) fn save_bundles(&mut self) {
        for slot in 0..self.peers.len() {
            let settling = |work: &mut VictimWork| work.step == Step::Settling;
            if self.victim_mut(slot).is_some_and(settling)
                && self.writes.len() == 0
                && !self.has_peers_writes()
            {
                self.save_bundle(slot);
            }
        }
    }

    /// Everything that the resync may overwrite is known, and nothing changes it: have it saved.
    fn save_bundle(&mut self, slot: PeerSlot) {
        let token = Token(self.next_bundle);
        let (block_size_bytes, data_size_bytes) =
            (self.superblock.block_size_bytes, self.superblock.data_size_bytes);
        let Some(work) = self.victim_mut(slot) else {
            return;
        };
        if !work.has_changes || planted(Fault::RewindBeforeBundle) {
            return self.save_marks(slot);
        }
        work.step = Step::Saving(token);
        if !work.bundle {
            return self.record_discard(slot, token);
        }
        let bundle = BundleRequest {
            peer: slot,
            rule: work.rule,
            why: work.why.clone(),
            victim: work.own,
            survivor: work.survivor,
            block_size_bytes,
            data_size_bytes,
            runs: (work.union.runs())
                .map(|(first, count)| BlockRun { first, count })
                .collect(),
        };
        self.next_bundle += 1;
        self.out.push(Action::SaveBundle { token, bundle });
    }

    /// All that will be left of the victim's changes is what the history says of them.
    fn record_discard(&mut self, slot: PeerSlot, token: Token) {
        let Some(work) = self.victim_mut(slot) else {
            return;
        };
        let (why, fields) = (work.why.clone(), work.outcome.fields.clone());
        let text = format!(
            "{} is about to give up its changes without a bundle: {why}",
            self.config.node
        );
        let command = self.resolve_command(slot);
        let record = self.record_of("split_brain.discarding", text, command, Some(slot), fields);
        self.next_bundle += 1;
        self.out.push(Action::RecordDiscard { token, record });
    }

    pub(super) fn on_bundle_saved(&mut self, token: Token, result: Result<(), String>) {
        if self.repair_saved(token, &result) {
            return;
        }
        let waits = |work: &mut VictimWork| work.step == Step::Saving(token);
        let Some(slot) = (0..self.peers.len()).find(|slot| self.victim_mut(*slot).is_some_and(waits)) else {
            // Its connection is gone, and with it what it was for.
            return;
        };
        let mut bundle = true;
        if let Some(work) = self.victim_mut(slot) {
            work.step = Step::Marking;
            bundle = work.bundle;
        }
        match result {
            Err(_) if planted(Fault::BundleFailureIgnored) => self.save_marks(slot),
            Ok(()) => self.save_marks(slot),
            Err(why) => {
                let node = &self.config.node;
                let mut text = format!("{node} keeps its changes: they could not be saved: {why}");
                if !bundle {
                    text = format!(
                        "{node} keeps its changes: that they go unsaved could not be recorded: {why}"
                    );
                }
                let name = if bundle {
                    "bundle.failed"
                } else {
                    "discard.unrecorded"
                };
                self.notice(Severity::Error, name, text.clone());
                self.resolve_failed(slot, &text);
                self.refuse_peer(slot, GoodbyeReason::Refused, &text);
            }
        }
    }

    /// The connection ends before the split brain did, and one of the two nodes wants it so: on both the history says
    /// why. Not of a victim that is past that.
    pub(super) fn resolution_ended(&mut self, slot: PeerSlot, why: &str) {
        let past = (self.victim_mut(slot)).is_some_and(|work| work.step == Step::Rewinding);
        if past || !matches!(self.peers[slot].phase(), Some(Phase::Resolving(_))) {
            return;
        }
        self.record(
            "split_brain.kept",
            why,
            None,
            Some(slot),
            self.generation_fields(),
        );
    }

    /// The connection on which it was resolved is gone.
    pub(super) fn resolving_lost(&mut self, resolving: Resolving) {
        if let Resolving::Victim(work) = resolving {
            if let Step::Saving(token) = work.step {
                self.out.push(Action::DropBundle { token });
            }
        }
    }

    // ---- the rewind ----------------------------------------------------------------------------------

    /// The victim's own marks first: the rewound copy must still say what it changed. The superblock behind them says
    /// that they are durable, and so is what a cleaning cycle had written before.
    fn save_marks(&mut self, slot: PeerSlot) {
        if !self.is_as_planned(slot) {
            return;
        }
        let Some(connection) = self.peers[slot].link.as_ref().map(|link| link.id) else {
            return;
        };
        if let Some(work) = self.victim_mut(slot) {
            work.step = Step::Marking;
        }
        // What is suspect is so by the write-intent log, which stays as it is.
        self.save_all_bitmaps();
        self.save_superblock(Then::VictimMarked {
            peer: slot,
            connection,
        });
    }

    /// What was decided on is what is here. Promotions and writes are refused meanwhile; should anything have changed
    /// all the same, this copy is kept, and the next handshake decides anew.
    fn is_as_planned(&mut self, slot: PeerSlot) -> bool {
        let (current, bitmap) = (
            self.superblock.current,
            self.superblock.peers[slot].bitmap_generation,
        );
        let as_planned = !self.is_in_use()
            && self
                .victim_mut(slot)
                .is_some_and(|work| (work.own.current, work.own.bitmap) == (current, bitmap));
        if !as_planned {
            let text = "the copy that gives way changed meanwhile";
            self.close_with(slot, GoodbyeReason::Busy, text);
        }
        as_planned
    }

    /// Back to the common ancestor, in one write: this copy is the target of whoever is ahead of that.
    pub(super) fn victim_marked(&mut self, slot: PeerSlot, connection: ConnectionId) {
        let same = self.peers[slot].is_on(connection);
        if !same || !self.is_as_planned(slot) {
            return;
        }
        let Some(work) = self.victim_mut(slot) else {
            return;
        };
        work.step = Step::Rewinding;
        let (text, mut fields) = (work.outcome.text.clone(), work.outcome.fields.clone());
        let is_recent = work.rule == "split-brain";
        let superblock = &mut self.superblock;
        let parent = superblock.peers[slot].bitmap_generation;
        if is_recent {
            superblock.history = before(&superblock.history, parent);
            superblock.current = parent;
        } else {
            // Which blocks differ from the ancestor is not known: like a new disk.
            superblock.history = [0; HISTORY_LEN];
            superblock.current = 0;
            superblock.resource_id = [0; 16];
            superblock.peers[slot].full_sync = true;
            self.peers[slot].dirty.set_all();
        }
        superblock.peers[slot].bitmap_generation = 0;
        superblock.peers[slot].split_brain = false;
        superblock.disk = DiskState::Inconsistent;
        superblock.role_primary = false;
        superblock.last_primary = false;
        superblock.forced = false;
        superblock.diverged_at_s = 0;
        self.crashed_primary = false;
        fields.push(("rewound_to", format!("{:016x}", self.superblock.current)));
        let command = self.resolve_command(slot);
        if !planted(Fault::ResolutionUnrecorded) {
            self.record("split_brain.resolved", text, command, Some(slot), fields);
        }
        self.save_superblock(Then::Rewound {
            peer: slot,
            connection,
        });
    }

    /// An ordinary target from here on: the next handshake says so to both.
    pub(super) fn rewound(&mut self, slot: PeerSlot, connection: ConnectionId) {
        if matches!(self.intent(slot), Intent::DiscardMine { .. }) {
            self.end_resolve(slot, Ok(()));
        }
        if self.peers[slot].is_on(connection) {
            let text = format!("{} gave its changes up: the resync follows", self.config.node);
            self.close_with(slot, GoodbyeReason::Busy, &text);
        }
    }
}

/// A history as it was before `id` became current; none if it does not know `id`.
pub(super) fn before(history: &[u64; HISTORY_LEN], id: u64) -> [u64; HISTORY_LEN] {
    let mut earlier = [0; HISTORY_LEN];
    if let Some(at) = history.iter().position(|entry| *entry == id) {
        let known = &history[at + 1..];
        earlier[..known.len()].copy_from_slice(known);
    }
    earlier
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_goes_back_to_before_its_ancestor() {
        assert_eq!(before(&[5, 4, 3, 0, 0, 0, 0, 0], 4), [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(before(&[5, 4, 3, 0, 0, 0, 0, 0], 9), [0; 8]);
    }
}
