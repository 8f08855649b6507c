//! FENCE: what epochs mean between the two nodes. Any contact carries the higher one.

use super::judge::Link;
use super::PEER;
use crate::core::durable::Then;
use crate::core::fault::{planted, Fault};
use crate::core::replica::Replica;
use crate::core::types::*;
use crate::wire::{GoodbyeReason, Message, NodeState, Role};

impl Replica {
    /// The epoch that this node is Primary in, or is about to be.
    fn reigning_epoch(&self) -> Option<u64> {
        let a = self.arbitration.as_ref()?;
        let entering = a.entering.as_ref().filter(|_| self.promoting);
        let reigning = entering.or(a.serving.as_ref().filter(|_| self.role == Role::Primary));
        reigning.map(|configuration| configuration.epoch)
    }

    /// Takes note of a frame's epoch.
    pub(in crate::core) fn saw_epoch(&mut self, epoch: u64) {
        if let Some(a) = self.arbitration.as_mut() {
            a.peer_epoch = a.peer_epoch.max(epoch);
            a.seen = a.seen.max(epoch);
        }
    }

    /// Whether a change of the peer's may reach this disk: not one of an epoch that this node has promised to end.
    pub(in crate::core) fn is_of_old_epoch(&self, epoch: u64, message: &Message) -> bool {
        let writes = matches!(
            message,
            Message::Write { .. } | Message::WriteZeroes { .. } | Message::Trim { .. }
        );
        writes && self.arbitration.is_some() && epoch < self.superblock.promised
    }

    /// The peer's state at the handshake: whether it may go on. The connection has been closed where it may not.
    pub(in crate::core) fn may_meet(&mut self, slot: PeerSlot, state: &NodeState) -> bool {
        let Some(a) = self.arbitration.as_mut() else {
            self.follow_unarbitrated(state);
            return true;
        };
        a.met = true;
        a.yielded = false;
        a.put_down = false;
        a.seen = a.seen.max(state.epoch).max(state.promised);
        a.peer_epoch = a.peer_epoch.max(state.epoch);
        // RESEED takes both above what was promised, and needs the connection; until then nothing is answered here.
        let (seen, lost) = (a.seen, a.lost);
        let theirs = (state.role == Role::Primary).then_some(state.epoch);
        if planted(Fault::FenceIgnored) {
            return true;
        }
        if let Some(own) = self.reigning_epoch() {
            if state.epoch > own && !self.promoting {
                // It was Primary in that epoch, or is.
                let name = self.peers[slot].name.clone();
                self.superseded_by_contact(state.epoch, &name);
                self.close_with(slot, GoodbyeReason::Busy, "superseded by a higher epoch");
                return false;
            }
            match theirs {
                Some(theirs) if theirs != own => {
                    self.close_with(slot, GoodbyeReason::Busy, "a higher epoch has a Primary");
                    return false;
                }
                Some(_) => return true,
                None => {}
            }
            if seen > own && !lost {
                // RENEW, or SHRINK, above it; the next handshake is in that epoch.
                self.close_with(slot, GoodbyeReason::Busy, "a higher epoch was promised");
                return false;
            }
            return true;
        }
        let promised = self.superblock.promised;
        match theirs {
            Some(theirs) if theirs < promised && !self.may_follow_below_promise() => {
                self.close_with(slot, GoodbyeReason::Busy, "a higher epoch was promised here");
                false
            }
            Some(theirs) => {
                self.give_way(slot);
                self.adopt_epoch(theirs);
                true
            }
            None if self.is_staked() => {
                self.close_with(slot, GoodbyeReason::Busy, "this node asks to be Primary");
                false
            }
            None => true,
        }
    }

    /// RESEED: whether this node meets a Primary of an older epoch than it has promised to end, one that knows as well that
    /// the arbiter has lost what it knew. Its promise holds: it confirms no write before both are above it. A copy that is
    /// incomplete cannot ask the arbiter, and can come of no promise either.
    fn may_follow_below_promise(&self) -> bool {
        let waits = self.arbitration.as_ref().filter(|a| !a.is_staked());
        waits.is_some_and(|a| a.lost || !self.is_candidate())
    }

    /// The peer is Primary, and beyond what this node has promised: the register cannot name this one any more.
    fn give_way(&mut self, slot: PeerSlot) {
        if let Some(id) = self.drop_campaign() {
            let name = self.peers[slot].name.clone();
            self.lost_to(id, &name);
        }
    }

    /// The peer has said what it is now.
    pub(in crate::core) fn heard_state(&mut self, slot: PeerSlot, state: &NodeState) {
        let Some(a) = self.arbitration.as_mut() else {
            return self.follow_unarbitrated(state);
        };
        a.seen = a.seen.max(state.epoch).max(state.promised);
        a.yielded &= state.role != Role::Primary;
        a.put_down &= state.role != Role::Primary;
        if state.role != Role::Primary || self.reigning_epoch().is_some() {
            return;
        }
        if state.epoch < self.superblock.promised && !self.may_follow_below_promise() {
            self.close_with(slot, GoodbyeReason::Busy, "a higher epoch was promised here");
        } else {
            self.give_way(slot);
            self.adopt_epoch(state.epoch);
        }
    }

    /// UNARBITRATED: who becomes Primary of what an arbiter once decided about, and does no more, takes an epoch all the
    /// same: what the arbiter remembers is older than that, should it be asked again.
    pub(in crate::core) fn enter_unarbitrated(&mut self) {
        if self.superblock.epoch > 0 {
            self.superblock.epoch = self.superblock.epoch.max(self.superblock.promised) + 1;
            self.superblock.promised = self.superblock.epoch;
        }
    }

    fn follow_unarbitrated(&mut self, state: &NodeState) {
        if state.role == Role::Primary && self.role == Role::Secondary {
            self.adopt_epoch(state.epoch);
        }
    }

    /// Both copies are the same again: that this node was superseded is past, also where nobody is Primary.
    pub(in crate::core) fn caught_up(&mut self) {
        if let Some(a) = self.arbitration.as_mut() {
            a.superseded = None;
        }
    }

    /// Follows a Primary into its epoch; frames say so once it is durable.
    fn adopt_epoch(&mut self, epoch: u64) {
        if let Some(a) = self.arbitration.as_mut() {
            a.superseded = None;
            a.told = None;
        }
        if epoch > self.superblock.epoch {
            self.superblock.epoch = epoch;
            self.superblock.promised = self.superblock.promised.max(epoch);
            self.save_superblock(Then::EpochAdopted { epoch });
        }
    }

    pub(in crate::core) fn epoch_adopted(&mut self, epoch: u64) {
        if let Some(a) = self.arbitration.as_mut() {
            a.frame_epoch = a.frame_epoch.max(epoch);
        }
        self.announce_state();
    }

    /// The peer itself has been Primary in a higher epoch: it says so, and so does this node from here on, whatever an
    /// arbiter says that knows less.
    fn superseded_by_contact(&mut self, epoch: u64, name: &str) {
        self.superseded_in(epoch, name, &format!("{name} has been Primary in epoch {epoch}"));
        self.superblock.epoch = self.superblock.epoch.max(epoch);
        self.save_superblock(Then::EpochAdopted { epoch });
    }

    /// The arbiter names another node.
    pub(super) fn superseded_by(&mut self, says: &Configuration) {
        let why = format!("the arbiter has {}", says.text());
        self.superseded_in(says.epoch, &says.primary, &why);
        if !self.link_is(Link::Gone) {
            self.close_with(PEER, GoodbyeReason::Busy, "superseded by a higher epoch");
        }
    }

    /// This node is Primary no more: what nobody has acknowledged fails, and the next handshake makes it a target.
    fn superseded_in(&mut self, epoch: u64, by: &str, why: &str) {
        let text = format!("{by} has become Primary meanwhile: {why}");
        if let Some(a) = self.arbitration.as_mut() {
            a.superseded = Some(text);
        }
        self.superblock.promised = self.superblock.promised.max(epoch);
        self.superblock.role_primary = false;
        self.superblock.last_primary = false;
        self.superseded(by);
        self.end_service();
        self.save_superblock(Then::Nothing);
        if let Some(a) = self.arbitration.as_mut() {
            a.pause.longer(self.now);
        }
        self.redial_now();
    }

    /// The next try to reach the peer need not wait.
    pub(super) fn redial_now(&mut self) {
        let now = self.now;
        let peer = &mut self.peers[PEER];
        if peer.link.is_none() {
            peer.retry_soon(now + 1_000_000);
        }
    }
}
