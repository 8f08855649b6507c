//! How a node becomes Primary: PROMOTE, HANDOVER, RESUME, CREATE. It reads the register first and promises afterwards, so
//! that with the arbiter out of reach a connection that comes back is enough to go on.

use super::judge::{self, Answer, Bid, Link, Origin, Refusal, Want};
use super::state::{Arbitration, Campaign, Stage};
use super::PEER;
use crate::core::commands::{failed, refused};
use crate::core::durable::Then;
use crate::core::fault::{planted, Fault};
use crate::core::links::Phase;
use crate::core::replica::Replica;
use crate::core::types::*;
use crate::wire::{DiskState, GoodbyeReason, NodeState, Role};

impl Replica {
    /// `word`: the peer is connected, and has said on this connection that this node may be Primary.
    pub(in crate::core) fn begin_campaign(
        &mut self,
        origin: Origin,
        command: Option<CommandId>,
        word: Option<ConnectionId>,
    ) {
        let now = self.now;
        let Some(a) = self.arbitration.as_mut() else {
            return;
        };
        let deadline = command.map(|_| now + a.config.promotion_patience());
        let want = match (origin, word) {
            (Origin::Resume | Origin::Settle, _) => Want::Resume,
            (_, Some(_)) => Want::Handover,
            (_, None) => Want::Promote,
        };
        a.campaign = Some(Campaign {
            origin,
            command,
            word,
            stage: Stage::Begin,
            want,
            deadline,
        });
        self.withdraw();
        self.set_want(Some(want));
    }

    /// The peers that are connected have nothing against this node's being Primary.
    pub(in crate::core) fn peers_agree(&mut self, command: Option<CommandId>, forced: bool) {
        let word = self.peers[PEER]
            .link
            .as_ref()
            .filter(|_| self.peers[PEER].is_connected())
            .map(|link| link.id);
        if forced {
            return self.force_reign(command, word.is_none());
        }
        match (command, word) {
            (None, Some(_)) if self.resuming.is_some() && self.may_resume_with_peer() => {
                // ONCE: reconciled with the peer, which has promised nothing higher; nobody else was Primary since.
                let both = [&self.config.node, &self.peers[PEER].name];
                let configuration = Configuration {
                    epoch: self.superblock.epoch,
                    primary: self.config.node.clone(),
                    in_sync: both.into_iter().cloned().collect(),
                };
                if let Some(a) = self.arbitration.as_mut() {
                    a.entering = Some(configuration);
                    // And the register is looked at, though nothing waits for it.
                    a.unresolved = true;
                    a.campaign = None;
                }
                self.withdraw();
                self.become_primary(None, false);
            }
            (None, word) if self.resuming.is_some() => self.begin_campaign(Origin::Resume, None, word),
            (None, word) => self.begin_campaign(Origin::Settle, None, word),
            (command, word) => self.begin_campaign(Origin::Person, command, word),
        }
    }

    fn may_resume_with_peer(&self) -> bool {
        let epoch = self.superblock.epoch;
        let seen = self.arbitration.as_ref().map_or(0, |a| a.seen);
        epoch > 0 && self.superblock.promised == epoch && seen <= epoch
    }

    /// This copy has all that it ever acknowledged, and may be served.
    pub(super) fn is_candidate(&self) -> bool {
        let receives = matches!(
            self.peers[PEER].phase(),
            Some(Phase::Target(_) | Phase::Resolving(_))
        );
        self.is_attached()
            && self.superblock.current != 0
            && (self.superblock.disk == DiskState::UpToDate || planted(Fault::StalePromoted))
            && !self.superblock.peers[PEER].split_brain
            && !receives
    }

    /// Nothing is under way that decides who is Primary.
    fn is_free(&self) -> bool {
        self.resuming.is_none()
            && self.promotion.is_none()
            && !self.promoting
            && self.allowing.is_none()
            && !self.demoting
            && self.quiescing.is_none()
    }

    /// PROMOTE without a person: the Primary is lost; or what this node has promised may have come true.
    fn campaigns_by_itself(&self, a: &Arbitration) -> Option<Origin> {
        let peer = &self.peers[PEER];
        let may = a.config.automatic
            && self.superblock.epoch > 0
            && peer.wanted
            && self.is_free()
            && self.is_candidate();
        // One of an epoch before this node's own was overtaken, and is nobody to take over from.
        let reigned = |known: &NodeState| {
            known.role == Role::Primary && a.peer_epoch.max(known.epoch) >= self.superblock.epoch
        };
        let was_primary = match &peer.known {
            _ if a.put_down => false,
            Some(known) if a.met => reigned(known) || known.resuming || a.yielded,
            _ => self.now >= a.cold_until,
        };
        let unsettled = self.superblock.promised > self.superblock.epoch;
        let begun = a.campaign.is_some();
        match self.link_view() {
            _ if !may => None,
            Link::Meeting if !begun => None,
            Link::Gone | Link::Meeting if was_primary => Some(Origin::Automatic),
            Link::Gone | Link::Meeting if unsettled => Some(Origin::Settle),
            Link::Equal | Link::Catching if unsettled && peer.is_known_as(Role::Secondary) => {
                Some(Origin::Settle)
            }
            _ => None,
        }
    }

    pub(super) fn campaign_due(&self, a: &Arbitration) -> Option<Time> {
        let Some(campaign) = &a.campaign else {
            let resume = self.resuming.map(|_| a.start_until.max(a.pause.until()));
            let cold = (a.config.automatic && !a.met && !a.put_down).then_some(a.cold_until);
            let settles = self.campaigns_by_itself(a).map(|_| a.pause.until());
            return resume.into_iter().chain(cold).chain(settles).min();
        };
        let next = match &campaign.stage {
            Stage::Paused(until) => Some(*until),
            Stage::Begin => Some(a.pause.until()),
            Stage::Bound(_) => Some(a.word_until),
            _ => None,
        };
        next.into_iter().chain(campaign.deadline).min()
    }

    pub(super) fn campaign_step(&mut self) {
        let now = self.now;
        let Some(a) = &self.arbitration else { return };
        let link = self.link_view();
        let Some(campaign) = &a.campaign else {
            if self.promotion.is_some() || self.promoting {
                return;
            }
            if self.resuming.is_some() {
                if link == Link::Gone && now >= a.start_until {
                    self.begin_campaign(Origin::Resume, None, None);
                    return self.campaign_step();
                }
                if now >= a.pause.until() {
                    self.resume_if_settled();
                }
                if self.promotion.is_some() || self.promoting {
                    return;
                }
            } else if let Some(origin) = self.campaigns_by_itself(a) {
                if matches!(link, Link::Gone | Link::Meeting) {
                    self.begin_campaign(origin, None, None);
                    return self.campaign_step();
                }
                if now >= a.pause.until() {
                    // With its peer's word.
                    if let Some(a) = self.arbitration.as_mut() {
                        a.pause.longer(now);
                    }
                    return self.begin_promotion(None, false);
                }
                return;
            }
            self.set_want(None);
            return self.withdraw();
        };
        if campaign.deadline.is_some_and(|deadline| now >= deadline) {
            return self.campaign_out_of_time();
        }
        let staked = a.is_staked();
        let connected = !matches!(link, Link::Gone | Link::Meeting);
        let word_holds = campaign.word.is_some_and(|on| self.peers[PEER].is_on(on)) && connected;
        if !staked {
            let goes_on = match campaign.origin {
                Origin::Automatic => self.campaigns_by_itself(a) == Some(Origin::Automatic),
                Origin::Settle => word_holds || !connected && self.campaigns_by_itself(a).is_some(),
                Origin::Resume => {
                    let apart = matches!(link, Link::Gone | Link::Meeting);
                    self.resuming.is_some() && (apart || word_holds)
                }
                Origin::Person => true,
            };
            if !goes_on {
                return self.end_campaign();
            }
            if campaign.origin == Origin::Person && connected && !word_holds {
                // The peer has come back meanwhile: now it is asked too.
                let command = campaign.command;
                if let Some(a) = self.arbitration.as_mut() {
                    a.campaign = None;
                }
                self.withdraw();
                return self.begin_promotion(command, false);
            }
        }
        let stage = campaign.stage.clone();
        if let Some(campaign) = self.arbitration.as_mut().and_then(|a| a.campaign.as_mut()) {
            campaign.word = campaign.word.filter(|_| word_holds);
        }
        let bound_until = self.arbitration.as_ref().map_or(0, |a| a.word_until);
        match stage {
            Stage::Begin if now >= self.pause_until() => self.read_register(),
            Stage::Paused(until) if now >= until => self.read_register(),
            Stage::Bound(says) if now >= bound_until || word_holds => self.campaign_judges(says),
            _ => {}
        }
    }

    /// A person does not wait; nor does a node that begins anew after a change.
    fn pause_until(&self) -> Time {
        let a = self.arbitration.as_ref();
        let asked = a
            .and_then(|a| a.campaign.as_ref())
            .is_some_and(|c| c.command.is_some());
        a.filter(|_| !asked).map_or(0, |a| a.pause.until())
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(campaign) = self.arbitration.as_mut().and_then(|a| a.campaign.as_mut()) {
            campaign.stage = stage;
        }
    }

    fn read_register(&mut self) {
        self.set_stage(Stage::Reading);
        self.put(AskRequest::Read);
    }

    pub(super) fn campaign_heard(&mut self, says: Option<Configuration>) {
        let waiting = self.arbitration.as_ref().and_then(|a| a.campaign.as_ref());
        if waiting.is_some_and(|c| matches!(c.stage, Stage::Reading | Stage::Swapping)) {
            self.campaign_judges(says);
        }
    }

    fn campaign_judges(&mut self, says: Option<Configuration>) {
        let Some(a) = &self.arbitration else { return };
        let Some(campaign) = &a.campaign else { return };
        let bid = Bid {
            origin: campaign.origin,
            word: campaign.word.is_some(),
            bound: self.now < a.word_until,
            usable: self.is_candidate(),
            last: self.superblock.last_primary,
        };
        let answer = judge::campaign_hears(&self.view(a), &bid, says.as_ref());
        if let Some(a) = self.arbitration.as_mut() {
            a.lost = matches!(answer, Answer::Refused(Refusal::Lost(_)));
        }
        match answer {
            Answer::Won(configuration) => self.campaign_won(configuration),
            Answer::Bound => self.set_stage(Stage::Bound(says)),
            Answer::Refused(refusal) => self.campaign_refused(refusal),
            Answer::Swap { want, expected, next } => {
                let epoch = next.epoch;
                if let Some(campaign) = self.arbitration.as_mut().and_then(|a| a.campaign.as_mut()) {
                    campaign.want = want;
                }
                self.set_want(Some(want));
                let request = AskRequest::Swap { expected, next };
                if !bid.word {
                    // FENCE: what this node confirms on it would be of an epoch that it is about to end.
                    self.close_with(PEER, GoodbyeReason::Busy, "this node asks to be Primary");
                }
                if want == Want::Create || planted(Fault::PromiseNotDurable) {
                    // Nobody else can have promised anything.
                    self.set_stage(Stage::Swapping);
                    return self.put(request);
                }
                // FENCE: durable before it is acted on.
                self.superblock.promised = self.superblock.promised.max(epoch);
                self.set_stage(Stage::Promising(request));
                self.save_superblock(Then::Promised);
            }
        }
    }

    /// The promise is durable.
    pub(in crate::core) fn promised(&mut self) {
        let Some(a) = &self.arbitration else { return };
        let Some(campaign) = &a.campaign else { return };
        let Stage::Promising(request) = campaign.stage.clone() else {
            return;
        };
        // Of two promises under way the higher one counts.
        let AskRequest::Swap { next, .. } = &request else {
            return;
        };
        if next.epoch > self.superblock.promised {
            return;
        }
        self.set_stage(Stage::Swapping);
        self.put(request);
    }

    fn campaign_won(&mut self, configuration: Configuration) {
        let Some(a) = self.arbitration.as_mut() else {
            return;
        };
        let Some(campaign) = a.campaign.as_mut() else {
            return;
        };
        campaign.stage = Stage::Won;
        let command = campaign.command.take();
        campaign.deadline = None;
        let origin = campaign.origin;
        let text = format!("the arbiter names {}: {}", self.config.node, configuration.text());
        let fields = vec![("epoch", configuration.epoch.to_string())];
        self.superblock.epoch = configuration.epoch;
        self.superblock.promised = self.superblock.promised.max(configuration.epoch);
        if campaign.want == Want::Reseed {
            a.reseeded = Some(configuration.epoch);
        }
        a.entering = Some(configuration);
        self.record("epoch.won", text.clone(), command, None, fields);
        self.notice(Severity::Info, "epoch.won", text);
        let wrote_last = self.superblock.last_primary || origin == Origin::Resume;
        if !wrote_last && !self.generation_is_tracked() {
            // At once: what the former Primary wrote and nobody acknowledged is of the older generation.
            self.open_generation("promoted without the former Primary");
        }
        self.become_primary(command, false);
    }

    /// Whether the arbiter has named this node since it said what it was: a handshake over that is no reason to give
    /// up what may be the only good copy; the next one is in the new epoch.
    pub(in crate::core) fn has_risen_since(&self, slot: PeerSlot, said: (Role, u64)) -> bool {
        let risen = self.promoting || (self.role, self.superblock.epoch) != said;
        let known = self.peers[slot].known.as_ref();
        let above =
            known.is_some_and(|known| known.role == Role::Primary && known.epoch > self.superblock.epoch);
        self.arbitration.is_some() && (self.promoting || self.role == Role::Primary) && risen && !above
    }

    /// The role is durable, or will not be: the campaign is over.
    pub(in crate::core) fn campaign_over(&mut self, reigns: bool) {
        let entering = self.arbitration.as_mut().and_then(|a| {
            a.campaign = None;
            a.entering.take()
        });
        if let Some(entering) = entering.filter(|_| reigns) {
            let unresolved = self.arbitration.as_ref().is_some_and(|a| a.unresolved);
            self.reign_in(entering);
            if let Some(a) = self.arbitration.as_mut() {
                a.unresolved = unresolved;
            }
            self.meet_again_over_marks();
        }
    }

    /// The peer would not have it, or did not answer: asked again after a pause.
    pub(in crate::core) fn resume_later(&mut self) {
        let now = self.now;
        if let Some(a) = self.arbitration.as_mut() {
            a.pause.longer(now);
        }
    }

    fn end_campaign(&mut self) {
        if let Some(a) = self.arbitration.as_mut() {
            a.campaign = None;
        }
        self.withdraw();
        self.set_want(None);
        self.resume_if_settled();
        self.run_deferred();
    }

    /// A command's campaign ends with this; one of the node's own goes on, where there is reason to.
    fn campaign_fails(&mut self, error: CommandError) {
        let command = self
            .arbitration
            .as_mut()
            .and_then(|a| a.campaign.as_mut())
            .and_then(|campaign| campaign.command.take());
        self.end_campaign();
        if let Some(id) = command {
            self.done(id, Err(error));
        }
    }

    fn campaign_out_of_time(&mut self) {
        let staked = self.arbitration.as_ref().is_some_and(Arbitration::is_staked);
        let resource = &self.config.resource;
        let more = if staked {
            "; should the arbiter have granted it all the same, the next try finds out"
        } else {
            ""
        };
        let error = failed(
            format!("the arbiter cannot be reached, or refuses: nobody says that this node may write {resource}{more}"),
            format!(
                "see `blockpair status {resource}`; or, only when the peer is certainly stopped: \
                 blockpair promote {resource} --force"
            ),
        );
        let own = match self.resuming {
            Some(_) => Some(Origin::Resume),
            None => self
                .arbitration
                .as_ref()
                .and_then(|a| self.campaigns_by_itself(a)),
        };
        let Some(campaign) = self.arbitration.as_mut().and_then(|a| a.campaign.as_mut()) else {
            return;
        };
        let Some(own) = own else {
            return self.campaign_fails(error);
        };
        // What this node wants by itself goes on: what the arbiter has begun for it, a fence say, is not begun anew.
        campaign.origin = own;
        campaign.deadline = None;
        if let Some(id) = campaign.command.take() {
            self.done(id, Err(error));
        }
    }

    fn campaign_refused(&mut self, refusal: Refusal) {
        let now = self.now;
        let error = self.refusal(&refusal);
        let Some(a) = self.arbitration.as_mut() else {
            return;
        };
        if let Refusal::NotInSync(says) | Refusal::NotMine(says) = &refusal {
            self.superblock.promised = self.superblock.promised.max(says.epoch);
        }
        let Some(campaign) = a.campaign.as_mut() else {
            return;
        };
        match campaign.origin {
            Origin::Person => self.campaign_fails(error),
            Origin::Resume if matches!(refusal, Refusal::NotMine(_) | Refusal::NotInSync(_)) => {
                a.campaign = None;
                a.superseded = Some(error.message.clone());
                self.withdraw();
                self.set_want(None);
                self.not_resumed(&error.message);
            }
            Origin::Settle => {
                // Nothing came of it so far; a late answer may yet: it is looked for again.
                a.pause.longer(now);
                self.end_campaign();
            }
            _ => {
                campaign.stage = Stage::Paused(a.pause.longer(now));
                let text = format!("not Primary: {}", error.message);
                self.tell_once("arbiter.refused", Severity::Warning, text);
            }
        }
    }

    fn refusal(&self, refusal: &Refusal) -> CommandError {
        let (node, resource) = (&self.config.node, &self.config.resource);
        let peer = &self.peers[PEER].name;
        let force = format!("blockpair promote {resource} --force");
        match refusal {
            Refusal::NotInSync(says) => refused(
                format!(
                    "the copy of {resource} on {node} may lack acknowledged writes: the arbiter has {}",
                    says.text()
                ),
                match self.link_view() {
                    Link::Equal => format!(
                        "promote {0} again, wait until `blockpair status {resource}` has both in sync, then demote it, \
                         and promote {node}",
                        says.primary
                    ),
                    _ => format!(
                        "bring {} back, and wait for the resync; {force} gives up what {node} lacks",
                        says.primary
                    ),
                },
            ),
            Refusal::NotMine(says) => refused(
                format!("the arbiter has {}", says.text()),
                format!("{node} rejoins by itself; demote {} first to have {node} Primary", says.primary),
            ),
            Refusal::NoRecord => refused(
                format!("the arbiter has never heard of {resource}, and {peer} may have newer data"),
                format!("bring {peer} back, then blockpair promote {resource}; or, only when it is certainly stopped: {force}"),
            ),
            Refusal::Lost(found) => refused(
                format!(
                    "the arbiter has {} of {resource}, where {node} knows of epoch {}: it has lost what it knew",
                    found.as_ref().map_or("no record".into(), Configuration::text),
                    self.superblock.epoch
                ),
                format!("bring {peer} back: both nodes together give it the record again; or, alone: {force}"),
            ),
            Refusal::Unusable => refused(
                format!("the copy of {resource} on {node} is not one to go on with"),
                format!("see `blockpair status {resource}`"),
            ),
        }
    }

    /// Its commands are answered elsewhere.
    pub(in crate::core) fn drop_campaign(&mut self) -> Option<CommandId> {
        let campaign = self.arbitration.as_mut().and_then(|a| a.campaign.take());
        self.withdraw();
        self.set_want(None);
        campaign.and_then(|campaign| campaign.command)
    }

    /// A person asks, while this node campaigns by itself: now it is that person's too.
    pub(in crate::core) fn join_campaign(&mut self, id: CommandId) -> bool {
        let now = self.now;
        let Some(a) = self.arbitration.as_mut() else {
            return false;
        };
        let patience = a.config.promotion_patience();
        let Some(campaign) = a.campaign.as_mut().filter(|c| c.command.is_none()) else {
            return false;
        };
        if campaign.stage == Stage::Won {
            return false;
        }
        campaign.command = Some(id);
        campaign.deadline = Some(now + patience);
        if matches!(campaign.stage, Stage::Paused(_)) {
            campaign.stage = Stage::Begin;
        }
        if campaign.origin != Origin::Resume {
            campaign.origin = Origin::Person;
        }
        true
    }

    /// A person waits for this node to be Primary.
    pub(in crate::core) fn is_asked_to_campaign(&self) -> bool {
        let campaign = self.arbitration.as_ref().and_then(|a| a.campaign.as_ref());
        campaign.is_some_and(|campaign| campaign.command.is_some() || campaign.stage == Stage::Won)
    }

    /// It becomes Primary because the other one is lost.
    pub(in crate::core) fn is_failing_over(&self) -> bool {
        let campaign = self.arbitration.as_ref().and_then(|a| a.campaign.as_ref());
        campaign.is_some_and(|campaign| campaign.origin == Origin::Automatic)
    }

    pub(in crate::core) fn is_staked(&self) -> bool {
        self.arbitration.as_ref().is_some_and(Arbitration::is_staked)
    }
}
