//! Connections to the peers: dialling, the handshake, silence, and what the loss of one leaves behind.

use std::collections::{HashSet, VecDeque};

use super::fault::{planted, Fault};
use super::handshake::{decide, Direction, Scope, Side};
use super::replica::{Replica, Then};
use super::requests::Sent;
use super::source::{Progress, Source};
use super::target::Target;
use super::types::*;
use crate::meta::Bitmap;
use crate::wire::{self, DiskState, Generations, GoodbyeReason, Hello, Intent, Message, NodeState, Role};

const MILLISECOND: Time = 1_000_000;
/// First pause between two tries to reach a peer; doubles up to the last.
const RETRY_FIRST: Time = 50 * MILLISECOND;
const RETRY_LAST: Time = 2_000 * MILLISECOND;
/// A peer that refuses is asked again this often, and so many times, before a person is waited for.
const RETRY_REFUSED: Time = 5_000 * MILLISECOND;
const REFUSALS_MAX: u32 = 5;
/// Operations that a connection remembers from its oldest unanswered one on. Past this many, requests wait:
/// one write that hangs on the peer must not cost memory without end.
const SENT_MAX: usize = 1 << 16;

/// What a connection is doing.
pub(super) enum Phase {
    /// `Hello` was sent.
    Hello,
    /// Versions agree, our state was sent: its generations must not change until the verdict.
    State {
        peer_hello: Box<Hello>,
        sent: Box<NodeState>,
    },
    /// Neither copy ever had data.
    Waiting,
    Established,
    Source(Box<Source>),
    Target(Box<Target>),
}

/// Replicated operations received on a connection, by sequence number: which are still on their way to the disk.
#[derive(Default)]
pub(super) struct ReceiveWindow {
    /// Everything before this is done.
    base: u64,
    done: VecDeque<bool>,
}

impl ReceiveWindow {
    /// Takes in the next number; false when it is not the next,
    /// or when more lie behind one that hangs than an honest peer sends.
    pub(super) fn receive(&mut self, seq: u64) -> bool {
        let next = self.base + self.done.len() as u64 + 1;
        let fits = seq == next && self.done.len() < 2 * SENT_MAX;
        if fits {
            self.done.push_back(false);
        }
        fits
    }

    pub(super) fn complete(&mut self, seq: u64) {
        if let Some(done) = self.done.get_mut((seq - self.base - 1) as usize) {
            *done = true;
        }
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.base += 1;
        }
    }

    /// Whether everything before `seq` is done.
    pub(super) fn settled_before(&self, seq: u64) -> bool {
        self.base + 1 >= seq
    }
}

/// One connection to one peer.
pub(super) struct Link {
    pub(super) id: ConnectionId,
    pub(super) phase: Phase,
    /// Sent and unanswered, by sequence number; the first entry's number is `sent_base + 1`.
    sent: VecDeque<Option<Sent>>,
    sent_base: u64,
    pub(super) unacked_bytes: u64,
    pub(super) received: ReceiveWindow,
    /// Flushes of the peer that wait for writes received before them.
    pub(super) waiting_flushes: VecDeque<u64>,
    opened: Time,
    last_received: Time,
    last_sent: Time,
}

impl Link {
    fn new(id: ConnectionId, now: Time) -> Link {
        Link {
            id,
            phase: Phase::Hello,
            sent: VecDeque::new(),
            sent_base: 0,
            unacked_bytes: 0,
            received: ReceiveWindow::default(),
            waiting_flushes: VecDeque::new(),
            opened: now,
            last_received: now,
            last_sent: now,
        }
    }

    /// Enters an operation and returns its sequence number.
    pub(super) fn push_sent(&mut self, sent: Sent) -> u64 {
        if let Sent::Write { bytes, .. } = sent {
            self.unacked_bytes += bytes;
        }
        self.sent.push_back(Some(sent));
        self.sent_base + self.sent.len() as u64
    }

    fn peek_sent(&self, seq: u64) -> Option<Sent> {
        *self
            .sent
            .get(usize::try_from(seq.checked_sub(self.sent_base + 1)?).ok()?)?
    }

    fn take_sent(&mut self, seq: u64) -> Option<Sent> {
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

    /// Its socket is not being read: that nothing is heard is no silence of the peer's.
    fn unread(&mut self, now: Time) {
        self.last_received = now;
    }

    /// When patience ends: with a peer that is silent, or that never ends its handshake.
    fn deadline(&self, patience: Time) -> Time {
        let since = match self.phase {
            Phase::Hello | Phase::State { .. } => self.opened,
            _ => self.last_received,
        };
        since + patience
    }

    pub(super) fn unanswered(&self) -> usize {
        self.sent.iter().filter(|entry| entry.is_some()).count()
    }
}

/// What this node knows of, and has marked for, one peer.
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) dial: bool,
    /// An administrator wants the connection, and nothing forbids it.
    pub(super) wanted: bool,
    pub(super) link: Option<Link>,
    dialing: bool,
    retry_at: Option<Time>,
    failures: u32,
    refusals: u32,
    pub(super) refusal: Option<Refusal>,
    pub(super) rule: Option<&'static str>,
    /// Its last known state.
    pub(super) known: Option<NodeState>,
    pub(super) last_contact: Option<Time>,
    /// Blocks known or suspected to differ.
    pub(super) dirty: Bitmap,
    /// Extents that may differ since a crash here or an unflushed disconnect there.
    pub(super) suspect: Bitmap,
    /// Extents with writes that the peer confirmed, or may have, and has not flushed since.
    pub(super) unflushed: HashSet<u64>,
    /// The part of those that a flush under way will settle, and that flush.
    pub(super) covered: HashSet<u64>,
    cover_seq: Option<u64>,
    /// A disconnect in good order: commands to answer, and when patience ends.
    pub(super) draining: Option<(Vec<CommandId>, Time)>,
    pub(super) last_resync: Option<Progress>,
}

impl Peer {
    pub(super) fn new(
        config: &PeerConfig,
        mut dirty: Bitmap,
        full_sync: bool,
        suspect: &Bitmap,
        now: Time,
    ) -> Peer {
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
            known: None,
            last_contact: None,
            dirty,
            suspect: suspects,
            unflushed: HashSet::new(),
            covered: HashSet::new(),
            cover_seq: None,
            draining: None,
            last_resync: None,
        }
    }

    pub(super) fn phase(&self) -> Option<&Phase> {
        self.link.as_ref().map(|link| &link.phase)
    }

    pub(super) fn is_established(&self) -> bool {
        matches!(self.phase(), Some(Phase::Established))
    }

    pub(super) fn is_source_running(&self) -> bool {
        matches!(self.phase(), Some(Phase::Source(source)) if source.running)
    }

    /// Whether the application's writes go to this peer.
    pub(super) fn is_mirrored(&self) -> bool {
        self.draining.is_none() && (self.is_established() || self.is_source_running())
    }

    /// Nothing is marked for it, and all that it confirmed it has flushed.
    pub(super) fn has_everything_stable(&self) -> bool {
        self.dirty.is_empty()
            && self.suspect.is_empty()
            && self.unflushed.is_empty()
            && self.covered.is_empty()
    }

    /// Our state is on its way: the verdict will be made over it.
    pub(super) fn is_shaking_hands(&self) -> bool {
        matches!(self.phase(), Some(Phase::State { .. }))
    }

    pub(super) fn has_room(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.sent.len() < SENT_MAX)
    }

    pub(super) fn is_connected(&self) -> bool {
        !matches!(self.phase(), None | Some(Phase::Hello | Phase::State { .. }))
    }

    pub(super) fn begin_cover(&mut self, seq: u64) {
        if self.cover_seq.is_none() {
            self.covered = std::mem::take(&mut self.unflushed);
            self.cover_seq = Some(seq);
        }
    }

    fn end_cover(&mut self, seq: u64) {
        if self.cover_seq == Some(seq) {
            self.covered.clear();
            self.cover_seq = None;
        }
    }

    pub(super) fn next_timeout(&self, config: &ReplicaConfig) -> Option<Time> {
        let redial = self
            .retry_at
            .filter(|_| self.wanted && self.dial && self.link.is_none() && !self.dialing);
        let link = self.link.as_ref().map(|link| {
            (link.last_sent + config.peer_timeout_ns / 4).min(link.deadline(config.peer_timeout_ns))
        });
        let drain = self.draining.as_ref().map(|(_, deadline)| *deadline);
        [redial, link, drain].into_iter().flatten().min()
    }

    /// Turns suspect extents into marked blocks: from here on they are compared like any other.
    pub(super) fn mark_suspects(&mut self, block_size: u64) {
        let per_extent = crate::meta::EXTENT_BYTES / block_size;
        for (first, count) in self.suspect.runs() {
            let start = first * per_extent;
            let end = ((first + count) * per_extent).min(self.dirty.len());
            self.dirty.set(start, end - start);
        }
        self.suspect.clear_all();
    }
}

impl Replica {
    // ---- time ----------------------------------------------------------------------------------------

    pub(super) fn links_on_time(&mut self) {
        for slot in 0..self.peers.len() {
            if !self.accepts_messages(slot) {
                let now = self.now;
                if let Some(link) = self.peers[slot].link.as_mut() {
                    link.unread(now);
                }
            }
            let peer = &self.peers[slot];
            if let Some(link) = &peer.link {
                if self.now >= link.deadline(self.config.peer_timeout_ns) {
                    let seconds = self.config.peer_timeout_ns as f64 / 1e9;
                    let id = link.id;
                    self.out.push(Action::Close {
                        peer: slot,
                        connection: id,
                    });
                    self.drop_link(slot, &format!("no word for {seconds} s"));
                } else if self.now >= link.last_sent + self.config.peer_timeout_ns / 4 {
                    let sent_ns = self.now;
                    self.send(slot, Message::Ping { sent_ns });
                }
            } else if peer.wanted
                && peer.dial
                && !peer.dialing
                && !self.stopped
                && peer.retry_at.is_some_and(|at| self.now >= at)
            {
                let peer = &mut self.peers[slot];
                peer.dialing = true;
                peer.retry_at = None;
                self.out.push(Action::Dial { peer: slot });
            }
            if self.peers[slot]
                .draining
                .as_ref()
                .is_some_and(|(_, deadline)| self.now >= *deadline)
            {
                self.drained(slot);
            }
        }
    }

    fn retry_later(&mut self, slot: PeerSlot, pause: Time) {
        self.peers[slot].retry_at = Some(self.now + pause);
    }

    // ---- connections ---------------------------------------------------------------------------------

    pub(super) fn connect_peer(&mut self, slot: PeerSlot) {
        let now = self.now;
        let peer = &mut self.peers[slot];
        peer.wanted = true;
        peer.refusals = 0;
        peer.failures = 0;
        peer.refusal = None;
        peer.retry_at = Some(now);
    }

    pub(super) fn on_connection_opened(&mut self, slot: PeerSlot, connection: ConnectionId) {
        self.peers[slot].dialing = false;
        if !self.peers[slot].wanted || self.stopped || self.metadata_failed {
            let text = format!("{} does not want a connection now", self.config.node);
            let message = Message::Goodbye {
                reason: GoodbyeReason::Disconnect,
                text,
            };
            self.out.push(Action::Send {
                peer: slot,
                connection,
                message,
            });
            self.out.push(Action::Close {
                peer: slot,
                connection,
            });
            return;
        }
        if let Some(old) = self.peers[slot].link.as_ref().map(|link| link.id) {
            // Only one connection a peer exists at its end: a new one means that the old one is dead.
            self.out.push(Action::Close {
                peer: slot,
                connection: old,
            });
            self.drop_link(slot, "replaced by a new connection");
        }
        self.peers[slot].link = Some(Link::new(connection, self.now));
        let nonce = self.random_id();
        let hello = self.own_hello(slot, nonce);
        self.send(slot, Message::Hello(hello));
    }

    pub(super) fn on_connection_lost(&mut self, slot: PeerSlot, connection: ConnectionId, why: &str) {
        if self.peers[slot]
            .link
            .as_ref()
            .is_some_and(|link| link.id == connection)
        {
            self.drop_link(slot, why);
        } else if self.peers[slot].dialing {
            let peer = &mut self.peers[slot];
            peer.dialing = false;
            peer.failures += 1;
            let pause = (RETRY_FIRST << peer.failures.min(6)).min(RETRY_LAST);
            self.retry_later(slot, pause);
        }
    }

    /// Ends the connection in the state machine; the caller has closed the socket, or it is gone.
    pub(super) fn drop_link(&mut self, slot: PeerSlot, why: &str) {
        let Some(link) = self.peers[slot].link.take() else {
            return;
        };
        let was_connected = !matches!(link.phase, Phase::Hello | Phase::State { .. });
        self.retry_later(slot, RETRY_FIRST << self.peers[slot].failures.min(5));
        if was_connected {
            let name = self.peers[slot].name.clone();
            self.notice(
                Severity::Warning,
                "peer.lost",
                format!("connection to {name} ended: {why}"),
            );
        } else {
            self.peers[slot].failures += 1;
        }
        // What the peer confirmed and did not flush may be gone with it.
        let peer = &mut self.peers[slot];
        peer.cover_seq = None;
        for extent in peer.unflushed.drain().chain(peer.covered.drain()) {
            if !planted(Fault::UnflushedForgotten) {
                peer.suspect.set(extent, 1);
            }
        }
        match link.phase {
            Phase::Source(source) => self.source_ended(slot, *source),
            Phase::Target(target) => self.target_ended(slot, *target),
            _ => {}
        }
        // What it did not confirm may be missing there: marked before anyone is answered without it.
        let mut writes = Vec::new();
        let mut flushes = Vec::new();
        for sent in link.sent.into_iter().flatten() {
            match sent {
                Sent::Write { index, .. } => writes.push(index),
                Sent::Flush(index) => flushes.push(index),
            }
        }
        for index in &writes {
            if let Some((offset, len)) = self.write_range(*index) {
                self.mark_dirty(slot, offset, len);
            }
        }
        for index in writes {
            self.write_settled(slot, index);
        }
        for index in flushes {
            self.flush_settled(slot, index);
        }
        self.end_draining(slot);
        self.promotion_lost_peer(slot);
        self.handshake_settled();
    }

    /// Answers whoever waited for this disconnect.
    fn end_draining(&mut self, slot: PeerSlot) {
        if let Some((commands, _)) = self.peers[slot].draining.take() {
            for id in commands {
                self.out.push(Action::CommandDone { id, result: Ok(()) });
            }
        }
    }

    /// Says why, closes, and leaves the next move to a person.
    pub(super) fn refuse_peer(&mut self, slot: PeerSlot, reason: GoodbyeReason, text: &str) {
        self.peers[slot].wanted = false;
        self.peers[slot].refusal = Some(Refusal {
            reason,
            text: text.to_owned(),
        });
        self.close_with(slot, reason, text);
    }

    pub(super) fn close_with(&mut self, slot: PeerSlot, reason: GoodbyeReason, text: &str) {
        if let Some(id) = self.peers[slot].link.as_ref().map(|link| link.id) {
            let mut text = text.to_owned();
            while text.len() > wire::TEXT_MAX {
                text.pop();
            }
            self.send(
                slot,
                Message::Goodbye {
                    reason,
                    text: text.clone(),
                },
            );
            self.out.push(Action::Close {
                peer: slot,
                connection: id,
            });
            self.drop_link(slot, &text);
        }
    }

    /// The flush before a disconnect is through, or its time is up.
    pub(super) fn drained(&mut self, slot: PeerSlot) {
        self.peers[slot].wanted = false;
        self.close_with(
            slot,
            GoodbyeReason::Disconnect,
            "disconnected by an administrator",
        );
        self.end_draining(slot);
    }

    pub(super) fn send(&mut self, slot: PeerSlot, message: Message) {
        let now = self.now;
        if let Some(link) = self.peers[slot].link.as_mut() {
            link.last_sent = now;
            let connection = link.id;
            self.out.push(Action::Send {
                peer: slot,
                connection,
                message,
            });
        }
    }

    // ---- messages ------------------------------------------------------------------------------------

    pub(super) fn on_message(&mut self, slot: PeerSlot, connection: ConnectionId, message: Message) {
        let now = self.now;
        let peer = &mut self.peers[slot];
        let Some(link) = peer.link.as_mut().filter(|link| link.id == connection) else {
            return;
        };
        link.last_received = now;
        peer.last_contact = Some(now);
        match (message, &link.phase) {
            (Message::Goodbye { reason, text }, _) => self.on_goodbye(slot, reason, text),
            (Message::Hello(hello), Phase::Hello) => self.on_hello(slot, hello),
            (Message::State(_), Phase::Hello) => self.protocol_error(slot, "a state before its hello"),
            (Message::State(state), _) => self.on_state(slot, state),
            (Message::Ping { sent_ns }, _) => self.send(slot, Message::Pong { sent_ns }),
            (Message::Pong { .. }, _) => {}
            (Message::Received { seq }, _) => self.on_received(slot, seq),
            (Message::Done { seq, status }, _) => self.on_done(slot, seq, status),
            (message, Phase::Established | Phase::Waiting | Phase::Source(_) | Phase::Target(_)) => {
                self.on_connected_message(slot, message);
            }
            (message, Phase::Hello | Phase::State { .. }) => {
                self.protocol_error(slot, &format!("{} before the handshake ended", kind_of(&message)));
            }
        }
    }

    fn on_connected_message(&mut self, slot: PeerSlot, message: Message) {
        match message {
            Message::Write { .. }
            | Message::WriteZeroes { .. }
            | Message::Trim { .. }
            | Message::Flush { .. } => self.on_replicated(slot, message),
            Message::PromoteRequest => self.on_promote_request(slot),
            Message::PromoteReply { allowed } => self.on_promote_reply(slot, allowed),
            Message::SyncRequest => self.on_sync_request(slot),
            Message::SyncReply { allowed } => self.on_sync_reply(slot, allowed),
            Message::BitmapRuns { .. }
            | Message::ChunkSame { .. }
            | Message::ChunkDiffers { .. }
            | Message::ChunkDone { .. }
            | Message::ResyncEnded { .. } => self.on_source_message(slot, message),
            Message::ResyncStart { .. }
            | Message::ChunkHash { .. }
            | Message::ChunkData { .. }
            | Message::ChunkWhole { .. }
            | Message::ChunkEnd { .. }
            | Message::ResyncEnd { .. } => self.on_target_message(slot, message),
            other => self.protocol_error(slot, &format!("unexpected {}", kind_of(&other))),
        }
    }

    pub(super) fn protocol_error(&mut self, slot: PeerSlot, what: &str) {
        let text = format!("{} broke the protocol: {what}", self.peers[slot].name);
        self.notice(Severity::Error, "peer.protocol_error", text.clone());
        self.close_with(slot, GoodbyeReason::ProtocolError, &text);
    }

    fn on_received(&mut self, slot: PeerSlot, seq: u64) {
        let sent = self.peers[slot]
            .link
            .as_ref()
            .and_then(|link| link.peek_sent(seq));
        if let Some(Sent::Write { index, .. }) = sent {
            self.write_received(slot, index);
        }
    }

    fn on_done(&mut self, slot: PeerSlot, seq: u64, status: wire::Status) {
        let Some(sent) = self.peers[slot]
            .link
            .as_mut()
            .and_then(|link| link.take_sent(seq))
        else {
            return self.protocol_error(slot, "an answer to nothing that was sent");
        };
        if status != 0 {
            // Put it back among what the peer lacks, then let the peer go: it has a hole.
            if let Sent::Write { index, .. } = sent {
                if let Some((offset, len)) = self.write_range(index) {
                    self.mark_dirty(slot, offset, len);
                }
            }
            self.peer_disk_failed(slot, status);
        }
        match sent {
            Sent::Write { index, .. } => self.write_settled(slot, index),
            Sent::Flush(index) => {
                if status == 0 {
                    self.peers[slot].end_cover(seq);
                }
                self.flush_settled(slot, index);
            }
        }
    }

    pub(super) fn peer_disk_failed(&mut self, slot: PeerSlot, status: wire::Status) {
        let why = super::replica::describe(Errno(i32::from(status)));
        let name = &self.peers[slot].name;
        let text =
            format!("the disk of {name} failed ({why}); mend or replace it there, then `blockpair connect`");
        self.notice(Severity::Error, "peer.disk_failed", text.clone());
        if let Some(known) = &mut self.peers[slot].known {
            known.disk = DiskState::Inconsistent;
        }
        self.refuse_peer(slot, GoodbyeReason::Refused, &text);
    }

    fn on_goodbye(&mut self, slot: PeerSlot, reason: GoodbyeReason, text: String) {
        let established = self.peers[slot].is_established();
        let peer_is_primary = self.peers[slot]
            .known
            .as_ref()
            .is_some_and(|known| known.role == Role::Primary);
        if let Some(id) = self.peers[slot].link.as_ref().map(|link| link.id) {
            self.out.push(Action::Close {
                peer: slot,
                connection: id,
            });
        }
        self.drop_link(slot, &text);
        match reason {
            GoodbyeReason::Disconnect => {
                self.retry_later(slot, RETRY_LAST);
                if established && peer_is_primary && self.superblock.disk == DiskState::UpToDate {
                    // It goes on writing without this copy.
                    self.superblock.disk = DiskState::Outdated;
                    self.save_superblock(Then::Nothing);
                }
            }
            GoodbyeReason::Busy | GoodbyeReason::ProtocolError => return,
            GoodbyeReason::UnknownResource => self.retry_later(slot, RETRY_LAST),
            GoodbyeReason::Refused => self.peers[slot].wanted = false,
            _ => {
                self.peers[slot].refusals += 1;
                self.retry_later(slot, RETRY_REFUSED);
                if self.peers[slot].refusals >= REFUSALS_MAX {
                    self.peers[slot].wanted = false;
                }
            }
        }
        self.peers[slot].refusal = Some(Refusal { reason, text });
    }

    // ---- handshake -----------------------------------------------------------------------------------

    /// Who this node is, as a peer is told and as its answer is held against.
    fn own_hello(&self, slot: PeerSlot, nonce: u64) -> Hello {
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
            intent: Intent::Replicate,
            policy: self.config.policy,
            priority: self.config.priority,
        }
    }

    fn on_hello(&mut self, slot: PeerSlot, hello: Hello) {
        let own = self.own_hello(slot, 0);
        if let Err((reason, text)) = wire::negotiate(&own, &hello) {
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
        let state = self.own_state(slot, true);
        if let Some(link) = self.peers[slot].link.as_mut() {
            link.phase = Phase::State {
                peer_hello: Box::new(hello),
                sent: Box::new(state.clone()),
            };
        }
        self.send(slot, Message::State(state));
    }

    fn own_state(&self, slot: PeerSlot, handshake: bool) -> NodeState {
        let (record, peer) = (&self.superblock.peers[slot], &self.peers[slot]);
        NodeState {
            role: if self.promoting { Role::Primary } else { self.role },
            disk: if self.metadata_failed {
                DiskState::Diskless
            } else {
                self.superblock.disk
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
            handshake,
        }
    }

    /// Tells every connected peer what this node is now.
    pub(super) fn announce_state(&mut self) {
        for slot in 0..self.peers.len() {
            if self.peers[slot].is_connected() {
                let state = self.own_state(slot, false);
                self.send(slot, Message::State(state));
            }
        }
    }

    fn on_state(&mut self, slot: PeerSlot, state: NodeState) {
        let peer_is_primary = state.role == Role::Primary;
        let expected = self.peers[slot].is_shaking_hands();
        if state.handshake != expected {
            return self.protocol_error(slot, "a state at the wrong time");
        }
        self.peers[slot].known = Some(state);
        if peer_is_primary && self.superblock.last_primary && self.role == Role::Secondary && !expected {
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
        let Phase::State { peer_hello, sent } = std::mem::replace(&mut link.phase, Phase::Hello) else {
            return;
        };
        let Some(peer_state) = self.peers[slot].known.clone() else {
            return;
        };
        let own = Side {
            name: self.config.node.clone(),
            state: *sent,
            resource_id: self.superblock.resource_id,
        };
        let peer = Side {
            name: peer_hello.node.clone(),
            state: peer_state,
            resource_id: peer_hello.resource_id,
        };
        let verdict = decide(&own, &peer);
        let name = self.peers[slot].name.clone();
        self.notice(
            Severity::Info,
            "handshake.verdict",
            format!(
                "{name}: rule {}, {:?}; own {}; peer {}; nonce {:016x}",
                verdict.rule,
                verdict.direction,
                summary(&own.state),
                summary(&peer.state),
                peer_hello.nonce
            ),
        );
        let fields = vec![
            ("rule", verdict.rule.to_owned()),
            ("direction", format!("{:?}", verdict.direction)),
            ("own", summary(&own.state)),
            ("peer", summary(&peer.state)),
            ("nonce", format!("{:016x}", peer_hello.nonce)),
        ];
        let text = format!("handshake with {name}: rule {}", verdict.rule);
        self.record("handshake.verdict", text, None, Some(slot), fields);
        let state = &mut self.peers[slot];
        state.rule = Some(verdict.rule);
        state.failures = 0;
        state.refusals = 0;
        state.refusal = None;
        match verdict.direction {
            Direction::Established => self.establish(slot),
            Direction::Source(scope) => self.begin_source(slot, scope == Scope::Whole),
            Direction::Target(_) => self.begin_target(slot, peer_hello.resource_id),
            Direction::Wait => self.set_phase(slot, Phase::Waiting),
            Direction::SplitBrain => {
                let text = format!(
                    "split brain: {} and {name} were both written without each other; nothing was overwritten. \
                     Decide whose changes go, and make that copy anew (see `blockpair status`)",
                    self.config.node
                );
                self.record(
                    "split_brain.found",
                    text.clone(),
                    None,
                    Some(slot),
                    self.generation_fields(),
                );
                self.notice(Severity::Error, "peer.split_brain", text.clone());
                self.refuse_peer(slot, GoodbyeReason::Refused, &text);
            }
            Direction::Refuse => {
                let text = refusal_text(verdict.rule, &self.config.node, &name);
                self.notice(Severity::Error, "peer.refused", text.clone());
                self.refuse_peer(slot, GoodbyeReason::Refused, &text);
            }
        }
        self.handshake_settled();
    }

    pub(super) fn set_phase(&mut self, slot: PeerSlot, phase: Phase) {
        if let Some(link) = self.peers[slot].link.as_mut() {
            link.phase = phase;
        }
    }

    /// Both copies are the same: from here on they are kept so.
    pub(super) fn establish(&mut self, slot: PeerSlot) {
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
    }

    /// A handshake ended, well or not: what waited for it goes on.
    fn handshake_settled(&mut self) {
        self.retry_replies();
        self.retry_starts();
        self.run_deferred();
        self.resume_if_settled();
    }

    /// A newer copy exists elsewhere: a Primary without changes of its own stops at once.
    pub(super) fn superseded(&mut self, by: &str) {
        let promoting = std::mem::take(&mut self.promoting);
        if self.role == Role::Primary || self.resuming.is_some() || promoting {
            let text =
                format!("{by} has newer data: this node is Primary no more, its open requests get an error");
            self.record(
                "role.superseded",
                text.clone(),
                None,
                None,
                self.generation_fields(),
            );
            self.notice(Severity::Error, "role.superseded", text);
            self.role = Role::Secondary;
            self.resuming = None;
            self.out.push(Action::Export { open: false });
            self.fail_all_requests(Errno::EIO);
        }
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

fn refusal_text(rule: &str, own: &str, peer: &str) -> String {
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
             overwritten, delete and create the resource there, then `blockpair connect`"
        ),
    }
}

fn kind_of(message: &Message) -> String {
    let text = format!("{message:?}");
    text.split([' ', '(', '{']).next().unwrap_or("message").to_owned()
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
