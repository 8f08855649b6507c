//! What a Primary asks of the arbiter, and which of its writes, flushes and reads wait for that.

use super::judge::{self, Ack, Heard, Link, Reign, Want};
use super::state::{Arbitration, Pause, LOOK_EVERY};
use super::PEER;
use crate::core::detach::Attachment;
use crate::core::durable::Then;
use crate::core::fault::{planted, Fault};
use crate::core::replica::Replica;
use crate::core::types::*;
use crate::wire::{GoodbyeReason, Role};

impl Replica {
    pub(super) fn reign<'a>(&'a self, a: &'a Arbitration, serving: &'a Configuration) -> Reign<'a> {
        Reign {
            serving,
            held: a.held.as_ref(),
            joint: a.joint,
            forced: a.forced,
            read: a.read,
            lease: a.lease_until.is_some_and(|until| until > self.now),
            lost: a.lost,
            adopted: a.peer_epoch >= serving.epoch,
            reseeded: a.reseeded == Some(serving.epoch),
            unresolved: a.unresolved || self.now >= a.look_at,
            parting: self.peers[PEER].draining.is_some(),
        }
    }

    pub(super) fn reign_due(&self, a: &Arbitration) -> Option<Time> {
        // It wants something, and pauses.
        let idle = a.ask.is_none() && a.entering.is_none();
        let pauses = a.want.is_some().then(|| a.pause.until());
        pauses.into_iter().chain([a.look_at]).min().filter(|_| idle)
    }

    pub(super) fn reign_step(&mut self) {
        let Some(a) = &self.arbitration else { return };
        let Some(serving) = &a.serving else { return };
        if a.entering.is_some() {
            return;
        }
        if !self.is_attached() {
            // All that it has now is the peer's copy.
            self.set_want(None);
            return self.withdraw();
        }
        let (view, reign) = (self.view(a), self.reign(a, serving));
        let want = judge::primary_wants(&view, &reign);
        let request = match want {
            None => None,
            Some(Want::Look) => Some(AskRequest::Read),
            Some(want) => Some(judge::primary_swap(&view, &reign, want)),
        };
        let open = a.ask.as_ref().map(|ask| &ask.request);
        if open.is_some() && open == request.as_ref() {
            return self.set_want(want);
        }
        let given_up = matches!(open, Some(AskRequest::Swap { .. }));
        let read = matches!(open, Some(AskRequest::Read));
        let paused = self.now < a.pause.until();
        self.set_want(want);
        match request {
            None if given_up => {
                // What became of it must be known before the next one builds on it.
                if let Some(a) = self.arbitration.as_mut() {
                    a.unresolved = true;
                }
                self.set_want(Some(Want::Look));
                self.put(AskRequest::Read);
            }
            None if read => self.withdraw(),
            None => {}
            Some(_) if paused && !given_up => {}
            Some(request) => {
                let with_peer = match &request {
                    AskRequest::Swap { next, .. } => next.in_sync.len() > 1,
                    AskRequest::Read => false,
                };
                if let Some(a) = self.arbitration.as_mut().filter(|_| with_peer) {
                    // GROW: its confirmation counts before the register can say so.
                    a.joint |= !planted(Fault::GrownBeforeJoint);
                }
                self.tell_want(want);
                self.put(request);
            }
        }
    }

    /// One line for each loss.
    fn tell_want(&mut self, want: Option<Want>) {
        let text = match want {
            Some(Want::Shrink) => format!(
                "{} is lost: writes wait until the arbiter says that {} goes on alone",
                self.peers[PEER].name, self.config.node
            ),
            Some(Want::Renew) => format!(
                "{} has promised a higher epoch: writes wait until the arbiter says that {} is still Primary",
                self.peers[PEER].name, self.config.node
            ),
            _ => return,
        };
        self.tell_once("arbiter.asked", Severity::Warning, text);
    }

    pub(super) fn tell_once(&mut self, name: &'static str, severity: Severity, text: String) {
        let Some(a) = self.arbitration.as_mut() else {
            return;
        };
        if a.told.as_ref() != Some(&text) {
            a.told = Some(text.clone());
            self.notice(severity, name, text);
        }
    }

    pub(super) fn reign_hears(&mut self, says: Option<Configuration>) {
        let now = self.now;
        let Some(a) = &self.arbitration else { return };
        let Some(serving) = &a.serving else { return };
        let reign = self.reign(a, serving);
        let heard = judge::primary_hears(&self.view(a), &reign, says.as_ref());
        match heard {
            Heard::Enter => {
                let reseeded = reign.lost || judge::is_unadopted(&reign);
                if let Some(says) = says {
                    if let Some(a) = self.arbitration.as_mut().filter(|_| reseeded) {
                        a.reseeded = Some(says.epoch);
                    }
                    self.enter(says, None);
                }
            }
            Heard::Superseded => {
                if let Some(says) = says {
                    self.superseded_by(&says);
                }
            }
            Heard::Lost => {
                let known = serving.epoch;
                let found = says.as_ref().map_or("no record".into(), Configuration::text);
                let text = format!(
                    "the arbiter has {found} of {}, where epoch {known} is known: it has lost what it knew. Both \
                     nodes together give it the record again",
                    self.config.resource
                );
                if let Some(a) = self.arbitration.as_mut() {
                    a.lost = true;
                    a.held = says;
                    a.pause.longer(now);
                }
                self.tell_once("arbiter.lost", Severity::Error, text);
            }
            Heard::Held => {
                let Some(a) = self.arbitration.as_mut() else {
                    return;
                };
                if a.held == says {
                    a.pause.longer(now);
                } else {
                    a.pause = Pause::default();
                }
                a.lost = false;
                a.read = true;
                if let (Some(serving), Some(says)) = (&mut a.serving, &says) {
                    if says.epoch == serving.epoch && says.in_sync != serving.in_sync {
                        // As a restart with the peer's word took it: the register counts, and the stricter rule.
                        *serving = says.clone();
                        a.joint = true;
                    }
                }
                a.held = says;
            }
        }
    }

    /// The arbiter says so: it counts once this node's metadata do too.
    pub(super) fn enter(&mut self, configuration: Configuration, command: Option<CommandId>) {
        self.superblock.epoch = configuration.epoch;
        self.superblock.promised = self.superblock.promised.max(configuration.epoch);
        if let Some(a) = self.arbitration.as_mut() {
            a.entering = Some(configuration);
        }
        self.save_superblock(Then::EpochEntered { command });
    }

    pub(in crate::core) fn epoch_entered(&mut self, command: Option<CommandId>) {
        let is_primary = self.role == Role::Primary;
        let entered = self.arbitration.as_mut().and_then(|a| a.entering.take());
        if let Some(entered) = entered.filter(|_| is_primary) {
            let text = format!("{} goes on: {}", self.config.node, entered.text());
            let fields = vec![
                ("epoch", entered.epoch.to_string()),
                (
                    "in_sync",
                    entered.in_sync.iter().cloned().collect::<Vec<_>>().join(","),
                ),
            ];
            self.reign_in(entered);
            self.tell(Severity::Info, "epoch.entered", text, None, fields);
            self.announce_state();
            // A peer that waited for the higher epoch need not wait longer.
            self.redial_now();
            self.go_on();
        }
        if let Some(id) = command {
            self.done(id, Ok(()));
        }
    }

    /// From here on this node acts in `configuration`.
    pub(super) fn reign_in(&mut self, configuration: Configuration) {
        let now = self.now;
        if let Some(a) = self.arbitration.as_mut() {
            a.put_down = false;
            a.frame_epoch = a.frame_epoch.max(configuration.epoch);
            a.forced = std::mem::take(&mut a.forcing);
            a.read = false;
            a.held = (!a.forced).then(|| configuration.clone());
            // RESEED: nothing is answered without the peer before it is in this epoch too.
            a.joint = a.reseeded == Some(configuration.epoch);
            a.serving = Some(configuration);
            a.lost = false;
            a.want = None;
            a.superseded = None;
            a.told = None;
            a.pause = Pause::default();
            a.look_at = now + LOOK_EVERY;
        }
    }

    /// What a refused write left marked keeps the peer from being in step, and only a new meeting compares it.
    pub(super) fn meet_again_over_marks(&mut self) {
        let peer = &self.peers[PEER];
        let marked = !peer.dirty.is_empty() || !peer.suspect.is_empty();
        let serving = self.arbitration.as_ref().and_then(|a| a.serving.as_ref());
        let outside = serving.is_some_and(|serving| !serving.in_sync.contains(&peer.name));
        if peer.is_established() && marked && outside {
            let text = "blocks that a failed write left marked are compared again";
            self.close_with(PEER, GoodbyeReason::Busy, text);
        }
    }

    /// What waited for the arbiter, or for the peer, goes on as far as it may.
    pub(in crate::core) fn go_on(&mut self) {
        self.retry_replies();
        self.retry_starts();
        self.release_reads();
        self.quiesce_step();
    }

    // ---- what waits ----------------------------------------------------------------------------------

    /// Whether the peer's confirmation belongs to every write now.
    pub(super) fn needs_peer(&self) -> bool {
        self.arbitration.as_ref().is_some_and(|a| {
            a.serving
                .as_ref()
                .is_some_and(|serving| judge::needs_peer(serving, a.joint, &self.peers[PEER].name))
        })
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.arbitration.as_ref().is_some_and(|a| {
            a.serving
                .as_ref()
                .is_some_and(|serving| judge::is_fenced(serving, a.seen))
        })
    }

    /// A write that every node still there has confirmed.
    pub(in crate::core) fn may_acknowledge(&self, lacking: bool) -> Ack {
        if self.arbitration.is_none() || matches!(self.attachment, Attachment::Served(_)) {
            return Ack::Alone;
        }
        judge::acknowledge(self.needs_peer(), self.is_fenced(), lacking)
    }

    /// Whether a write may start: not before it can complete without opening a generation that nobody has granted.
    pub(in crate::core) fn may_begin_write(&self) -> bool {
        self.arbitration.is_none()
            || !self.is_fenced()
                && (!self.needs_peer() || self.peers[PEER].is_mirrored() || planted(Fault::ShrinkSkipped))
    }

    /// Only in an epoch that this node holds alone: a superseded Primary must find its generation in the new one's past.
    pub(in crate::core) fn may_open_generation(&self) -> bool {
        self.arbitration.is_none()
            || self.role == Role::Secondary
            || !self.is_fenced() && (!self.needs_peer() || planted(Fault::ShrinkSkipped))
    }

    /// Both copies are the same: nothing that is open is lacking at the peer any more.
    pub(in crate::core) fn peer_caught_up(&mut self) {
        if self.arbitration.is_some() {
            self.nothing_lacks();
            self.go_on();
        }
    }

    /// Everything waits for the arbiter.
    pub(in crate::core) fn is_suspended(&self) -> bool {
        self.role == Role::Primary
            && self.arbitration.is_some()
            && self.is_attached()
            && (self.is_fenced() || self.needs_peer() && !self.peers[PEER].is_mirrored())
    }

    pub(super) fn link_is(&self, link: Link) -> bool {
        self.link_view() == link
    }
}
