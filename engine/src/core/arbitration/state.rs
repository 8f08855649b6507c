//! What a node knows of the arbitration between two events.

use super::judge::{Origin, Want};
use crate::core::types::*;

/// First pause before a node that cannot get what it wants asks again; doubles up to the last.
const PAUSE_FIRST: Time = 200_000_000;
const PAUSE_LAST: Time = 30_000_000_000;
pub(super) const LOOK_EVERY: Time = 60_000_000_000;
/// Values asked for that are remembered: a late answer is of one of the last few.
const ASKED_MAX: usize = 16;

/// An ask that waits for its answer.
#[derive(Clone, Debug)]
pub(in crate::core) struct Ask {
    pub(in crate::core) id: u64,
    pub(super) request: AskRequest,
}

/// How far a campaign is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Asks as soon as it may.
    Begin,
    /// The register is being read.
    Reading,
    /// It may go on once this node's own word has run out; this is what was read.
    Bound(Option<Configuration>),
    /// The promise is on its way to the metadata.
    Promising(AskRequest),
    /// Nothing but the arbiter's answer says what became of it.
    Swapping,
    /// Won: the role is on its way to the metadata.
    Won,
    Paused(Time),
}

/// This node's way to be Primary.
#[derive(Clone, Debug)]
pub(super) struct Campaign {
    pub(super) origin: Origin,
    pub(super) command: Option<CommandId>,
    /// The peer's word, and on which connection it was given.
    pub(super) word: Option<ConnectionId>,
    pub(super) stage: Stage,
    pub(super) want: Want,
    /// When whoever asked is told that nothing came of it.
    pub(super) deadline: Option<Time>,
}

/// A growing pause.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pause {
    tries: u32,
    until: Time,
}

impl Pause {
    pub(super) fn longer(&mut self, now: Time) -> Time {
        self.until = now + (PAUSE_FIRST << self.tries.min(8)).min(PAUSE_LAST);
        self.tries += 1;
        self.until
    }

    pub(super) fn until(&self) -> Time {
        self.until
    }
}

/// Of a resource whose writer an arbiter names.
pub(in crate::core) struct Arbitration {
    pub(super) config: ArbitrationConfig,
    pub(in crate::core) ask: Option<Ask>,
    next_ask: u64,
    pub(super) asked: Vec<Configuration>,
    /// A Primary acts in this one, and in no other.
    pub(in crate::core) serving: Option<Configuration>,
    /// On its way to the metadata.
    pub(super) entering: Option<Configuration>,
    /// What the register held when it was last heard of.
    pub(super) held: Option<Configuration>,
    pub(super) joint: bool,
    /// Entered by force; and whether the arbiter was read since.
    pub(super) forced: bool,
    pub(super) read: bool,
    /// What is on its way to the metadata is so.
    pub(super) forcing: bool,
    /// When it was last heard of, it had no record, or an older one than this node knows.
    pub(super) lost: bool,
    /// The epoch that was entered by giving the arbiter its record again.
    pub(super) reseeded: Option<u64>,
    /// The peer has this node's leave to become Primary, and has not said since what it is.
    pub(in crate::core) yielded: bool,
    /// A person ended this node's time as Primary, and nothing was heard of the peer since: what it was before is over.
    pub(in crate::core) put_down: bool,
    /// The outcome of a swap that was given up is not known.
    pub(super) unresolved: bool,
    pub(super) campaign: Option<Campaign>,
    /// What frames carry: the epoch that this node has durably taken part in.
    pub(super) frame_epoch: u64,
    /// The highest epoch or promise of the peer's.
    pub(super) seen: u64,
    /// Primary: until when the follower will not campaign.
    pub(super) lease_until: Option<Time>,
    /// Follower: until when this node will not campaign.
    pub(super) word_until: Time,
    /// The highest epoch that the peer has taken part in, durably, as its frames say.
    pub(super) peer_epoch: u64,
    pub(super) pause: Pause,
    /// A Primary that wants nothing looks at the register then: one that has lost what it knew is found while both nodes
    /// are there to give it again.
    pub(super) look_at: Time,
    /// Before this, a node that was Primary waits for its peer rather than for the arbiter.
    pub(super) start_until: Time,
    /// From then on, a node that has not met its peer since it started takes it for lost.
    pub(super) cold_until: Time,
    /// The connection that ended last.
    pub(super) last_link: Option<ConnectionId>,
    /// Since this start the peer was met.
    pub(super) met: bool,
    pub(super) want: Option<(Want, Time)>,
    /// Reads that are done, and wait for the lease.
    pub(in crate::core) held_reads: Vec<(RequestId, u32, crate::payload::Payload)>,
    pub(super) superseded: Option<String>,
    /// What was told of last, so that it is told once.
    pub(super) told: Option<String>,
}

impl Arbitration {
    pub(in crate::core) fn new(
        config: ArbitrationConfig,
        epoch: u64,
        resume_wait_ns: Time,
        now: Time,
    ) -> Arbitration {
        Arbitration {
            config,
            ask: None,
            next_ask: 1,
            asked: Vec::new(),
            serving: None,
            entering: None,
            held: None,
            joint: false,
            forced: false,
            read: false,
            forcing: false,
            lost: false,
            reseeded: None,
            yielded: false,
            put_down: false,
            unresolved: false,
            campaign: None,
            frame_epoch: epoch,
            seen: 0,
            lease_until: None,
            // What it gave before it started again is not known, but for how long it can hold.
            word_until: now + config.lease_ns,
            peer_epoch: 0,
            pause: Pause::default(),
            look_at: now + LOOK_EVERY,
            start_until: now + config.patience_ns,
            cold_until: now + resume_wait_ns,
            last_link: None,
            met: false,
            want: None,
            held_reads: Vec::new(),
            superseded: None,
            told: None,
        }
    }

    pub(super) fn ask_id(&mut self) -> u64 {
        let id = self.next_ask;
        self.next_ask += 1;
        id
    }

    pub(super) fn remember_asked(&mut self, next: &Configuration) {
        if !self.asked.contains(next) {
            if self.asked.len() == ASKED_MAX {
                self.asked.remove(0);
            }
            self.asked.push(next.clone());
        }
    }

    /// A swap of this node's waits for its answer, or may be about to be put.
    pub(super) fn is_staked(&self) -> bool {
        self.campaign.as_ref().is_some_and(|campaign| {
            matches!(campaign.stage, Stage::Promising(_) | Stage::Swapping | Stage::Won)
        })
    }
}
