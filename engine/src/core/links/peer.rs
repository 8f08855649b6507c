//! What this node knows of one peer, and of the connection to it.

use std::collections::{HashSet, VecDeque};

use crate::core::commands::Resolve;
use crate::core::marks::Marks;
use crate::core::requests::Sent;
use crate::core::resolve::{Outcome, Resolving};
use crate::core::source::{Progress, Source};
use crate::core::target::Target;
use crate::core::types::*;
use crate::latency::Histogram;
use crate::meta::Bitmap;
use crate::wire::{Hello, Intent, NodeState, Role};

/// Operations that a connection remembers from its oldest unanswered one on. Past this many, requests wait:
/// one write that hangs on the peer must not cost memory without end.
const SENT_MAX: usize = 1 << 16;

/// What a connection is doing.
pub(in crate::core) enum Phase {
    /// The peer dialled, and this node wants no connection, unless the peer's Hello says that a person does.
    Unwanted,
    /// `Hello` was sent.
    Hello,
    /// Versions agree, our state was sent: its generations must not change until the verdict.
    State {
        peer_hello: Box<Hello>,
        sent: Box<NodeState>,
    },
    /// A split brain is being resolved: its victim saves what it gives up.
    Resolving(Resolving),
    /// Neither copy ever had data.
    Waiting,
    Established,
    /// The peer gave its disk up: this copy stands in, once that is on record (`served`).
    Diskless {
        served: bool,
    },
    Source(Box<Source>),
    Target(Box<Target>),
}

/// Replicated operations received on a connection, by sequence number: which are still on their way to the disk.
#[derive(Default)]
pub(in crate::core) struct ReceiveWindow {
    /// Everything before this is done.
    pub(super) base: u64,
    pub(super) done: VecDeque<bool>,
}

impl ReceiveWindow {
    /// Takes in the next number; false when it is not the next,
    /// or when more lie behind one that hangs than an honest peer sends.
    pub(in crate::core) fn receive(&mut self, seq: u64) -> bool {
        let next = self.base + self.done.len() as u64 + 1;
        let fits = seq == next && self.done.len() < 2 * SENT_MAX;
        if fits {
            self.done.push_back(false);
        }
        fits
    }

    pub(in crate::core) fn complete(&mut self, seq: u64) {
        if let Some(done) = self.done.get_mut((seq - self.base - 1) as usize) {
            *done = true;
        }
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.base += 1;
        }
    }

    /// Whether everything before `seq` is done.
    pub(in crate::core) fn settled_before(&self, seq: u64) -> bool {
        self.base + 1 >= seq
    }
}

/// One connection to one peer.
pub(in crate::core) struct Link {
    pub(in crate::core) id: ConnectionId,
    pub(in crate::core) phase: Phase,
    /// Sent and unanswered, by sequence number; the first entry's number is `sent_base + 1`.
    pub(super) sent: VecDeque<Option<Sent>>,
    pub(super) sent_base: u64,
    pub(in crate::core) unacked_bytes: u64,
    pub(in crate::core) received: ReceiveWindow,
    /// Flushes of the peer that wait for writes received before them.
    pub(in crate::core) waiting_flushes: VecDeque<u64>,
    /// What this node's Hello said of it.
    pub(super) intent: Intent,
    pub(super) opened: Time,
    pub(super) last_received: Time,
    pub(super) last_sent: Time,
    /// The last beacon.
    pub(super) pinged: Time,
    /// Those that both ends offer.
    pub(in crate::core) features: u64,
    /// When the peer was told what is read most, and of which reads.
    pub(in crate::core) told_at: Time,
    pub(in crate::core) told_version: u64,
}

impl Link {
    pub(super) fn new(id: ConnectionId, now: Time) -> Link {
        Link {
            id,
            phase: Phase::Unwanted,
            sent: VecDeque::new(),
            sent_base: 0,
            unacked_bytes: 0,
            received: ReceiveWindow::default(),
            waiting_flushes: VecDeque::new(),
            intent: Intent::Replicate,
            opened: now,
            last_received: now,
            last_sent: now,
            pinged: now,
            features: 0,
            told_at: now,
            told_version: 0,
        }
    }

    /// Enters an operation and returns its sequence number.
    pub(in crate::core) fn push_sent(&mut self, sent: Sent) -> u64 {
        if let Sent::Write { bytes, .. } = sent {
            self.unacked_bytes += bytes;
        }
        self.sent.push_back(Some(sent));
        self.sent_base + self.sent.len() as u64
    }

    pub(super) fn peek_sent(&self, seq: u64) -> Option<Sent> {
        *self
            .sent
            .get(usize::try_from(seq.checked_sub(self.sent_base + 1)?).ok()?)?
    }

    pub(super) fn take_sent(&mut self, seq: u64) -> Option<Sent> {
        let index = usize::try_from(seq.checked_sub(self.sent_base + 1)?).ok()?;
        let sent = self.sent.get_mut(index)?.take();
        while self.sent.front().is_some_and(Option::is_none) {
            self.sent.pop_front();
            self.sent_base += 1;
        }
        if let Some(Sent::Write { bytes, .. }) = sent {
            self.unacked_bytes -= bytes;
        }
        sent
    }

    /// Forgets what is unanswered, and returns it, oldest first.
    pub(super) fn take_all_sent(&mut self) -> Vec<Sent> {
        self.sent_base += self.sent.len() as u64;
        self.unacked_bytes = 0;
        std::mem::take(&mut self.sent).into_iter().flatten().collect()
    }

    /// Its socket is not being read: that nothing is heard is no silence of the peer's.
    pub(super) fn unread(&mut self, now: Time) {
        self.last_received = now;
    }

    fn is_meeting(&self) -> bool {
        matches!(self.phase, Phase::Unwanted | Phase::Hello | Phase::State { .. })
    }

    /// How long the peer may be silent.
    pub(super) fn patience(&self, config: &ReplicaConfig) -> Time {
        match &config.arbitration {
            Some(times) if !self.is_meeting() => times.patience_ns,
            _ => config.peer_timeout_ns,
        }
    }

    /// When patience ends: with a peer that is silent, or that never ends its handshake.
    pub(super) fn deadline(&self, config: &ReplicaConfig) -> Time {
        let since = if self.is_meeting() {
            self.opened
        } else {
            self.last_received
        };
        since + self.patience(config)
    }

    /// When the peer must hear something; never before the Hello, which comes first. A beacon comes whatever else is
    /// sent: the lease rests on its answer.
    pub(super) fn ping_at(&self, config: &ReplicaConfig) -> Option<Time> {
        let at = match &config.arbitration {
            Some(times) => self.pinged + times.beacon_ns,
            None => self.last_sent + config.peer_timeout_ns / 4,
        };
        (!matches!(self.phase, Phase::Unwanted)).then_some(at)
    }

    pub(in crate::core) fn unanswered(&self) -> usize {
        self.sent.iter().filter(|entry| entry.is_some()).count()
    }

    /// Writes that the peer has not confirmed, oldest first.
    pub(in crate::core) fn unconfirmed_writes(&self) -> impl Iterator<Item = usize> + '_ {
        self.sent.iter().flatten().filter_map(|sent| match sent {
            Sent::Write { index, .. } => Some(*index),
            Sent::Flush(_) | Sent::Repair { .. } => None,
        })
    }
}

/// What this node knows of, and has marked for, one peer.
pub(in crate::core) struct Peer {
    pub(in crate::core) name: String,
    pub(in crate::core) dial: bool,
    /// An administrator wants the connection, and nothing forbids it.
    pub(in crate::core) wanted: bool,
    pub(in crate::core) link: Option<Link>,
    pub(super) dialing: bool,
    pub(super) retry_at: Option<Time>,
    pub(super) failures: u32,
    pub(super) refusals: u32,
    pub(in crate::core) refusal: Option<Refusal>,
    pub(in crate::core) rule: Option<&'static str>,
    /// A person at this node ends that.
    pub(in crate::core) resolve: Option<Resolve>,
    /// The peer is at work to end it: what the history is told when it has.
    pub(in crate::core) outcome: Option<Outcome>,
    /// Its last known state.
    pub(in crate::core) known: Option<NodeState>,
    pub(in crate::core) last_contact: Option<Time>,
    /// Blocks known or suspected to differ.
    pub(in crate::core) dirty: Marks,
    /// Extents that may differ since a crash here or an unflushed disconnect there.
    pub(in crate::core) suspect: Bitmap,
    /// Extents with writes that the peer confirmed, or may have, and has not flushed since.
    pub(in crate::core) unflushed: HashSet<u64>,
    /// The part of those that a flush under way will settle, and that flush.
    pub(in crate::core) covered: HashSet<u64>,
    pub(super) cover_seq: Option<u64>,
    /// A disconnect in good order: commands to answer, and when patience ends.
    pub(in crate::core) draining: Option<(Vec<CommandId>, Time)>,
    /// Connects that came meanwhile: carried out when it has ended.
    pub(in crate::core) reconnect: Vec<CommandId>,
    pub(in crate::core) last_resync: Option<Progress>,
    /// From the sending of a write to its word that its disk has it.
    pub(in crate::core) latency: Histogram,
}

impl Peer {
    pub(in crate::core) fn new(
        config: &PeerConfig,
        bitmap: Bitmap,
        full_sync: bool,
        suspect: &Bitmap,
        now: Time,
    ) -> Peer {
        let mut dirty = Marks::new(bitmap);
        if full_sync {
            dirty.set_all();
        }
        let mut suspects = Bitmap::new(suspect.len());
        for (first, count) in suspect.runs() {
            suspects.set(first, count);
        }
        Peer {
            name: config.name.clone(),
            dial: config.dial,
            wanted: false,
            link: None,
            dialing: false,
            retry_at: Some(now),
            failures: 0,
            refusals: 0,
            refusal: None,
            rule: None,
            resolve: None,
            outcome: None,
            known: None,
            last_contact: None,
            dirty,
            suspect: suspects,
            unflushed: HashSet::new(),
            covered: HashSet::new(),
            cover_seq: None,
            draining: None,
            reconnect: Vec::new(),
            last_resync: None,
            latency: Histogram::default(),
        }
    }

    pub(in crate::core) fn phase(&self) -> Option<&Phase> {
        self.link.as_ref().map(|link| &link.phase)
    }

    /// Whether this connection is still the one to it.
    pub(in crate::core) fn is_on(&self, connection: ConnectionId) -> bool {
        self.link.as_ref().is_some_and(|link| link.id == connection)
    }

    /// By its last word.
    pub(in crate::core) fn is_known_as(&self, role: Role) -> bool {
        self.known.as_ref().is_some_and(|known| known.role == role)
    }

    pub(in crate::core) fn is_established(&self) -> bool {
        matches!(self.phase(), Some(Phase::Established))
    }

    pub(in crate::core) fn is_source_running(&self) -> bool {
        matches!(self.phase(), Some(Phase::Source(source)) if source.running)
    }

    /// Whether the application's writes go to this peer.
    pub(in crate::core) fn is_mirrored(&self) -> bool {
        self.draining.is_none() && (self.is_established() || self.is_source_running())
    }

    /// Nothing is marked for it, and all that it confirmed it has flushed.
    pub(in crate::core) fn has_everything_stable(&self) -> bool {
        self.dirty.is_empty()
            && self.suspect.is_empty()
            && self.unflushed.is_empty()
            && self.covered.is_empty()
    }

    /// Our state is on its way: the verdict will be made over it.
    pub(in crate::core) fn is_shaking_hands(&self) -> bool {
        matches!(self.phase(), Some(Phase::State { .. }))
    }

    pub(in crate::core) fn has_room(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.sent.len() < SENT_MAX)
    }

    pub(in crate::core) fn is_connected(&self) -> bool {
        !matches!(
            self.phase(),
            None | Some(Phase::Unwanted | Phase::Hello | Phase::State { .. } | Phase::Resolving(_))
        )
    }

    pub(in crate::core) fn begin_cover(&mut self, seq: u64) {
        if self.cover_seq.is_none() {
            self.covered = std::mem::take(&mut self.unflushed);
            self.cover_seq = Some(seq);
        }
    }

    pub(super) fn end_cover(&mut self, seq: u64) {
        if self.cover_seq == Some(seq) {
            self.covered.clear();
            self.cover_seq = None;
        }
    }

    /// Whether this node makes the connection: one of the two does, and the other too while it has a split brain to end.
    pub(in crate::core) fn dials(&self) -> bool {
        self.dial || self.resolve.is_some()
    }

    /// A handshake came to something: the next loss is the first again.
    pub(in crate::core) fn goes_well(&mut self) {
        self.failures = 0;
    }

    /// The next try is at `at`, or sooner.
    pub(in crate::core) fn retry_soon(&mut self, at: Time) {
        self.failures = 0;
        self.retry_at = Some(self.retry_at.map_or(at, |planned| planned.min(at)));
    }

    /// When this node tries to reach it again.
    pub(super) fn redial_at(&self) -> Option<Time> {
        self.retry_at
            .filter(|_| self.wanted && self.dials() && self.link.is_none() && !self.dialing)
    }

    pub(in crate::core) fn next_timeout(&self, config: &ReplicaConfig, stopped: bool) -> Option<Time> {
        let redial = self.redial_at().filter(|_| !stopped);
        let link = self.link.as_ref().map(|link| link.deadline(config));
        let ping = self.link.as_ref().and_then(|link| link.ping_at(config));
        let drain = self.draining.as_ref().map(|(_, deadline)| *deadline);
        let resolve = self.resolve.as_ref().and_then(|resolve| resolve.deadline);
        let marks = match self.phase() {
            Some(Phase::Resolving(resolving)) => resolving.due(),
            _ => None,
        };
        [redial, link, ping, drain, resolve, marks]
            .into_iter()
            .flatten()
            .min()
    }

    /// Turns suspect extents into marked blocks: from here on they are compared like any other.
    pub(in crate::core) fn mark_suspects(&mut self, block_size: u64) {
        let per_extent = crate::meta::EXTENT_BYTES / block_size;
        for (first, count) in self.suspect.runs() {
            let start = first * per_extent;
            let end = ((first + count) * per_extent).min(self.dirty.len());
            self.dirty.set(start, end - start);
        }
        self.suspect.clear_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receive_window_knows_what_lies_before_a_flush() {
        let mut window = ReceiveWindow::default();
        assert!(window.receive(1) && window.receive(2) && !window.receive(4) && window.receive(3));
        assert!(window.settled_before(1) && !window.settled_before(2));
        window.complete(2);
        assert!(!window.settled_before(2));
        window.complete(1);
        assert!(window.settled_before(3) && !window.settled_before(4));
    }
}
