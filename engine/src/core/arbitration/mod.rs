//! Who may write: epochs, acknowledgements, and the arbiter's register (docs/spec/arbitration.md).
//!
//! `judge` decides, over a frozen look at the node; `state` is what a node keeps between two events; the rest carries
//! out: `reign` what a Primary does, `campaign` how a node becomes one, `fence` what epochs mean between the two nodes,
//! `lease` the follower's word, `force` a person's.

mod campaign;
mod fence;
mod force;
mod judge;
#[cfg(test)]
mod judge_tests;
mod lease;
mod reign;
mod state;
mod status;

pub(super) use judge::Ack;
pub(super) use state::Arbitration;
pub use status::ArbitrationStatus;

use super::links::Phase;
use super::replica::Replica;
use super::types::*;
use crate::wire::Role;
use judge::{Link, View, Want};
use state::{Ask, Pause, LOOK_EVERY};

/// Arbitration is between two nodes.
const PEER: PeerSlot = 0;

impl Configuration {
    /// What every configuration keeps to, wherever it comes from.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn check(&self) -> Result<(), String> {
        if self.epoch == 0 {
            return Err("its epoch is 0, and the first one is 1".into());
        }
        if self.primary.is_empty() || self.in_sync.iter().any(String::is_empty) {
            return Err("it names a node without a name".into());
        }
        if self.in_sync.is_empty() {
            return Err("no node is in sync in it".into());
        }
        Ok(())
    }

    /// For people.
    fn text(&self) -> String {
        let in_sync: Vec<&str> = self.in_sync.iter().map(String::as_str).collect();
        format!(
            "epoch {}, Primary {}, in sync {}",
            self.epoch,
            self.primary,
            in_sync.join(", ")
        )
    }
}

impl Replica {
    /// The ask that waits for the arbiter's answer, if one does.
    pub fn open_ask(&self) -> Option<u64> {
        self.arbitration.as_ref()?.ask.as_ref().map(|ask| ask.id)
    }

    /// Taken once more at the end of each event: does what the state now calls for.
    pub(super) fn arbitrate(&mut self) {
        if self.arbitration.is_none() || self.is_steady() {
            return;
        }
        if self.stopped {
            return self.withdraw();
        }
        match self.role {
            Role::Primary => self.reign_step(),
            Role::Secondary => self.campaign_step(),
        }
    }

    /// A Primary whose peer follows, and that wants nothing: nearly always.
    fn is_steady(&self) -> bool {
        self.arbitration.as_ref().is_some_and(|a| {
            let calm = a.ask.is_none()
                && self.now < a.look_at
                && a.want.is_none()
                && !a.forced
                && !a.lost
                && !a.unresolved;
            self.role == Role::Primary
                && calm
                && self.peers[PEER].is_mirrored()
                && a.serving
                    .as_ref()
                    .is_some_and(|serving| serving.epoch >= a.seen && serving.in_sync.len() > 1)
        })
    }

    /// Whether an arbiter is asked who may write.
    pub fn is_arbitrated(&self) -> bool {
        self.arbitration.is_some()
    }

    /// When it is to be looked at again.
    pub(super) fn arbitration_due(&self) -> Option<Time> {
        let a = self.arbitration.as_ref().filter(|_| !self.stopped)?;
        let due = match self.role {
            Role::Primary => self.reign_due(a),
            Role::Secondary => self.campaign_due(a),
        };
        due.filter(|at| *at > self.now)
    }

    pub(super) fn on_arbiter_says(&mut self, ask: u64, says: Option<Configuration>) {
        let Some(a) = self.arbitration.as_mut() else {
            return;
        };
        // LATE: of an ask that was superseded.
        if a.ask.take_if(|open| open.id == ask).is_none() {
            return;
        }
        a.unresolved = false;
        a.look_at = self.now + LOOK_EVERY;
        match self.role {
            Role::Primary => self.reign_hears(says),
            Role::Secondary => self.campaign_heard(says),
        }
    }

    // ---- small pieces --------------------------------------------------------------------------------

    fn link_view(&self) -> Link {
        let peer = &self.peers[PEER];
        match peer.phase() {
            None | Some(Phase::Unwanted) => Link::Gone,
            Some(Phase::Hello | Phase::State { .. }) => Link::Meeting,
            Some(Phase::Established) if peer.dirty.is_empty() && peer.suspect.is_empty() => Link::Equal,
            Some(Phase::Established | Phase::Source(_)) => Link::Catching,
            Some(_) => Link::Other,
        }
    }

    fn view<'a>(&'a self, a: &'a Arbitration) -> View<'a> {
        View {
            me: &self.config.node,
            peer: &self.peers[PEER].name,
            link: self.link_view(),
            epoch: self.superblock.epoch,
            promised: self.superblock.promised,
            seen: a.seen,
            entered: a.peer_epoch,
            asked: &a.asked,
        }
    }

    /// Puts a request, in the place of any before it.
    fn put(&mut self, request: AskRequest) {
        let Some(a) = self.arbitration.as_mut() else {
            return;
        };
        if let AskRequest::Swap { next, .. } = &request {
            a.remember_asked(next);
        }
        let id = a.ask_id();
        a.ask = Some(Ask {
            id,
            request: request.clone(),
        });
        self.out.push(Action::Ask { ask: id, request });
    }

    fn withdraw(&mut self) {
        if let Some(ask) = self.arbitration.as_mut().and_then(|a| a.ask.take()) {
            self.out.push(Action::Withdraw { ask: ask.id });
        }
    }

    fn set_want(&mut self, want: Option<Want>) {
        let now = self.now;
        if let Some(a) = self.arbitration.as_mut() {
            if a.want.map(|(want, _)| want) != want {
                a.want = want.map(|want| (want, now));
            }
        }
    }

    pub(super) fn connection_ended(&mut self, connection: ConnectionId) {
        if let Some(a) = self.arbitration.as_mut() {
            a.last_link = Some(connection);
        }
        self.arbitration_changed();
    }

    /// Something has changed that an answer may depend on: the next try need not wait.
    pub(super) fn arbitration_changed(&mut self) {
        if let Some(a) = self.arbitration.as_mut() {
            a.pause = Pause::default();
        }
    }

    /// The configuration epoch that every frame carries: durable, where that means something.
    pub(super) fn frame_epoch(&self) -> u64 {
        let arbitrated = self.arbitration.as_ref().map(|a| a.frame_epoch);
        arbitrated.unwrap_or(self.superblock.epoch)
    }

    /// By command: this node stays Secondary, whatever its peer was when it was met last.
    pub(super) fn put_down(&mut self) {
        self.dethrone();
        if let Some(a) = self.arbitration.as_mut() {
            a.put_down = true;
        }
    }

    /// No Primary any more, by command or because another one is.
    pub(super) fn dethrone(&mut self) {
        self.withdraw();
        let Some(a) = self.arbitration.as_mut() else {
            return;
        };
        a.serving = None;
        a.entering = None;
        a.held = None;
        a.joint = false;
        a.forced = false;
        a.forcing = false;
        a.lost = false;
        a.unresolved = false;
        a.lease_until = None;
        a.want = None;
        a.pause = Pause::default();
    }
}
