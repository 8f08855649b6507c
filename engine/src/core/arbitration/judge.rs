//! The decisions: pure functions over a frozen look at the node. What it wants of the arbiter, what it may put there,
//! what an answer means, what may complete. Nothing in here changes anything.

use std::collections::BTreeSet;

use crate::core::fault::{planted, Fault};
use crate::core::types::*;

/// What the connection to the peer is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Gone,
    /// The handshake is under way.
    Meeting,
    /// The peer is receiving its copy from here, or follows while that ends.
    Catching,
    /// Both copies are the same and kept so.
    Equal,
    /// Connected, and this copy is not the one that the other follows.
    Other,
}

/// A frozen look at the node.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub me: &'a str,
    pub peer: &'a str,
    pub link: Link,
    /// The epoch that this node last took part in, and the highest one it has promised; both durable.
    pub epoch: u64,
    pub promised: u64,
    /// The highest epoch or promise that the peer has shown, and the highest epoch that it has taken part in.
    pub seen: u64,
    pub entered: u64,
    /// Values that this node has asked the arbiter for since it started.
    pub asked: &'a [Configuration],
}

impl View<'_> {
    /// Above everything that anybody is known to have promised.
    fn next_epoch(&self, held: u64) -> u64 {
        held.max(self.epoch).max(self.promised).max(self.seen) + 1
    }

    fn configuration(&self, epoch: u64, primary: &str, with_peer: bool) -> Configuration {
        let mut in_sync = BTreeSet::from([self.me.to_owned()]);
        if with_peer {
            in_sync.insert(self.peer.to_owned());
        }
        Configuration {
            epoch,
            primary: primary.to_owned(),
            in_sync,
        }
    }
}

/// What a node may want of the arbiter; the names of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Create,
    Shrink,
    Promote,
    Resume,
    Grow,
    Handover,
    Renew,
    Reseed,
    /// What the register holds, after a swap of unknown outcome that is not wanted any more.
    Look,
}

impl Want {
    pub(super) fn name(self) -> Option<&'static str> {
        Some(match self {
            Want::Create => "create",
            Want::Shrink => "shrink",
            Want::Promote => "promote",
            Want::Resume => "resume",
            Want::Grow => "grow",
            Want::Handover => "handover",
            Want::Renew => "renew",
            Want::Reseed => "reseed",
            Want::Look => return None,
        })
    }
}

/// A Primary's standing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reign<'a> {
    /// What it has entered.
    pub serving: &'a Configuration,
    /// What it takes the register to hold: as entered, or as read since.
    pub held: Option<&'a Configuration>,
    /// The peer's confirmation is waited for, whatever the register says.
    pub joint: bool,
    /// Entered by force, and not confirmed by the arbiter since; and whether that was read since.
    pub forced: bool,
    pub read: bool,
    /// The follower's word not to campaign holds.
    pub lease: bool,
    /// The arbiter has no record, or an older one than this node knows.
    pub lost: bool,
    /// The peer has adopted this epoch, durably.
    pub adopted: bool,
    /// Entered by giving the arbiter its record again, or from there.
    pub reseeded: bool,
    /// Nobody knows what became of a swap.
    pub unresolved: bool,
    /// The peer is being let go by a person.
    pub parting: bool,
}

/// ACK: whether a write waits for the peer too.
pub(super) fn needs_peer(serving: &Configuration, joint: bool, peer: &str) -> bool {
    joint || serving.in_sync.contains(peer)
}

/// FENCE: whether somebody has promised more than this Primary's epoch.
pub(super) fn is_fenced(serving: &Configuration, seen: u64) -> bool {
    seen > serving.epoch && !planted(Fault::FenceIgnored)
}

/// What may become of a write that every node still there has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) enum Ack {
    /// Every node in sync has it.
    Now,
    /// This node holds the epoch alone: it is answered once the peer's lack of it is on record.
    Alone,
    /// Until the arbiter has said so, or the peer has it.
    Wait,
}

/// ACK. `lacking`: the peer was lost before it confirmed.
pub(super) fn acknowledge(needs_peer: bool, fenced: bool, lacking: bool) -> Ack {
    match (fenced, needs_peer, lacking) {
        (true, ..) => Ack::Wait,
        (false, true, true) if !planted(Fault::ShrinkSkipped) => Ack::Wait,
        (false, true, false) => Ack::Now,
        _ => Ack::Alone,
    }
}

/// LEASE: until when a Primary may read, from when it sent what the peer's word answers. Both clocks may run wrong.
pub(super) fn lease_end(sent: Time, lease_ns: Time, drift_ppm: u32) -> Time {
    let drift = u128::from(drift_ppm);
    let left = u128::from(lease_ns) * (1_000_000 - drift) / (1_000_000 + drift);
    sent.saturating_add(left as Time)
}

/// RESEED: the arbiter has its record from this Primary, and the peer is not in that epoch yet. Where an arbiter was moved, the
/// peer may still go by the older record at the other one: until it does not, this node goes on with it, or not at all.
pub(super) fn is_unadopted(reign: &Reign) -> bool {
    reign.reseeded && !reign.adopted
}

/// What a Primary wants of the arbiter now.
pub(super) fn primary_wants(view: &View, reign: &Reign) -> Option<Want> {
    let needs = needs_peer(reign.serving, reign.joint, view.peer);
    let connected = matches!(view.link, Link::Catching | Link::Equal) && !reign.parting;
    if reign.lost {
        // RESEED: together, or by a person.
        return (connected && reign.adopted)
            .then_some(Want::Reseed)
            .or(Some(Want::Look));
    }
    if reign.forced {
        return Some(if reign.read { Want::Renew } else { Want::Look });
    }
    let ahead = reign.held.is_some_and(|held| held.epoch > reign.serving.epoch);
    let overtaken = is_fenced(reign.serving, view.seen) || ahead;
    if needs && !connected {
        return Some(match (is_unadopted(reign), overtaken) {
            (false, _) => Want::Shrink,
            (true, true) => Want::Renew,
            (true, false) => Want::Look,
        });
    }
    if overtaken {
        return Some(Want::Renew);
    }
    let grown = reign.serving.in_sync.contains(view.peer);
    if !grown && view.link == Link::Equal && connected && reign.lease {
        return Some(Want::Grow);
    }
    reign.unresolved.then_some(Want::Look)
}

/// The swap that a Primary puts for a want: what it takes the register to hold, and what shall be there.
pub(super) fn primary_swap(view: &View, reign: &Reign, want: Want) -> AskRequest {
    let expected = match (reign.lost || reign.forced, reign.held) {
        (true, held) => held.cloned(),
        (false, held) => Some(held.unwrap_or(reign.serving).clone()),
    };
    let known = expected
        .as_ref()
        .map_or(0, |held| held.epoch)
        .max(reign.serving.epoch);
    let with_peer = match want {
        Want::Grow => true,
        // All that both know in sync.
        Want::Reseed => view.link == Link::Equal,
        // A register that is ahead says who has everything by then; only what this node keeps itself it may say.
        Want::Renew => {
            view.link == Link::Equal
                && expected
                    .as_ref()
                    .is_some_and(|held| held.in_sync.contains(view.peer))
                && reign.serving.in_sync.contains(view.peer)
        }
        _ => false,
    };
    AskRequest::Swap {
        next: view.configuration(view.next_epoch(known), view.me, with_peer),
        expected,
    }
}

/// What an answer means to a Primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// One that it asked for: it goes on in that.
    Enter,
    /// Another node is Primary, in this epoch.
    Superseded,
    /// RESEED: the arbiter has no record, or an older one.
    Lost,
    /// This is what the register holds; nothing else follows.
    Held,
}

pub(super) fn primary_hears(view: &View, reign: &Reign, says: Option<&Configuration>) -> Heard {
    let Some(says) = says.filter(|says| says.epoch >= reign.serving.epoch || reign.forced) else {
        // What a person has forced, the arbiter is told of, also alone.
        return if reign.forced { Heard::Held } else { Heard::Lost };
    };
    if says.primary != view.me {
        // What was there before a person forced this node is brought up to date, not obeyed.
        let older = reign.forced && says.epoch < reign.serving.epoch;
        return if older { Heard::Held } else { Heard::Superseded };
    }
    // ONCE: never one that was entered before, nor one that an earlier life of this node has asked for.
    if says.epoch > reign.serving.epoch && view.asked.contains(says) {
        Heard::Enter
    } else {
        Heard::Held
    }
}

/// Why a node wants to be Primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) enum Origin {
    Person,
    /// The Primary is lost.
    Automatic,
    /// It was Primary when its daemon ended.
    Resume,
    /// What became of an earlier campaign is not known: it is Primary if the register says so, and not otherwise.
    Settle,
}

/// A campaign, as far as an answer's meaning goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bid {
    pub origin: Origin,
    /// The peer is connected, is no Primary, and has said that this node may be.
    pub word: bool,
    /// This node's own word not to campaign still holds.
    pub bound: bool,
    /// This copy is one that may be served.
    pub usable: bool,
    /// No other node is known to have been Primary after this one.
    pub last: bool,
}

/// Why a campaign goes no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Acknowledged writes may be missing here.
    NotInSync(Configuration),
    /// Only a person makes the first configuration.
    NoRecord,
    /// The arbiter's record is gone or old, and the peer is not here to go by.
    Lost(Option<Configuration>),
    /// Another node was made Primary.
    NotMine(Configuration),
    Unusable,
}

/// What an answer means to a node that wants to be Primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is.
    Won(Configuration),
    /// It may ask for this, once the promise of its epoch is durable.
    Swap {
        want: Want,
        expected: Option<Configuration>,
        next: Configuration,
    },
    /// It may, once its word has run out.
    Bound,
    Refused(Refusal),
}

pub(super) fn campaign_hears(view: &View, bid: &Bid, says: Option<&Configuration>) -> Answer {
    if !bid.usable {
        return Answer::Refused(Refusal::Unusable);
    }
    if let Some(says) = says.filter(|says| says.primary == view.me && says.epoch > view.epoch) {
        if view.asked.contains(says) {
            return Answer::Won(says.clone());
        }
    }
    let equal = view.link == Link::Equal && bid.word;
    let known = says.map_or(0, |says| says.epoch);
    let swap = |want, with_peer| Answer::Swap {
        want,
        expected: says.cloned(),
        next: view.configuration(view.next_epoch(known), view.me, with_peer),
    };
    let Some(says) = says.filter(|says| says.epoch >= view.epoch.max(view.entered)) else {
        // CREATE: nobody has ever gone by an arbiter; RESEED: somebody has.
        let never = says.is_none() && view.epoch == 0 && view.promised == 0 && view.seen == 0;
        return match (never, bid.origin) {
            // The peer may have had one, and know more of the arbiter.
            (true, Origin::Person) if bid.last => swap(Want::Create, false),
            (_, Origin::Settle) => Answer::Refused(Refusal::Lost(says.cloned())),
            (true, _) if bid.word => swap(Want::Create, false),
            (true, _) => Answer::Refused(Refusal::NoRecord),
            (false, _) if bid.word => swap(Want::Reseed, equal),
            (false, _) => Answer::Refused(Refusal::Lost(says.cloned())),
        };
    };
    if matches!(bid.origin, Origin::Resume | Origin::Settle) && says.primary != view.me {
        return Answer::Refused(Refusal::NotMine(says.clone()));
    }
    if !says.in_sync.contains(view.me) && !planted(Fault::StalePromoted) {
        return Answer::Refused(Refusal::NotInSync(says.clone()));
    }
    // LEASE: whom it was given to may be reading. Where the register names this node, it had run out before that was
    // asked for, and since then it was given to nobody of an older epoch.
    if bid.bound && !bid.word && says.primary != view.me && !planted(Fault::WordBroken) {
        return Answer::Bound;
    }
    let want = match (says.primary == view.me, bid.word) {
        (true, _) => Want::Resume,
        (false, true) => Want::Handover,
        (false, false) => Want::Promote,
    };
    swap(want, equal && says.in_sync.contains(view.peer))
}
