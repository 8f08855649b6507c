//! Connections to the peers: dialling, messages, silence, and what the loss of one leaves behind.

mod peer;
mod verdict;

use super::durable::Then;
use super::fault::{planted, Fault};
use super::replica::Replica;
use super::requests::Sent;
use super::types::*;
use crate::wire::{self, DiskState, GoodbyeReason, Hello, Message, Role};

use peer::Link;
pub(super) use peer::{Peer, Phase};
pub(crate) use verdict::refusal_text;

const MILLISECOND: Time = 1_000_000;
/// First pause between two tries to reach a peer; doubles up to the last.
const RETRY_FIRST: Time = 50 * MILLISECOND;
const RETRY_LAST: Time = 2_000 * MILLISECOND;
/// A peer that refuses is asked again this often, and so many times, before a person is waited for.
const RETRY_REFUSED: Time = 5_000 * MILLISECOND;
const REFUSALS_MAX: u32 = 5;

impl Replica {
    // ---- time ----------------------------------------------------------------------------------------

    /// `all_heard`: nothing that has arrived waits unread. A thread that was held up is not to take that for a peer's silence.
    pub(super) fn links_on_time(&mut self, all_heard: bool) {
        for slot in 0..self.peers.len() {
            if !self.accepts_messages(slot) {
                let now = self.now;
                if let Some(link) = self.peers[slot].link.as_mut() {
                    link.unread(now);
                }
            }
            let peer = &self.peers[slot];
            if let Some(link) = &peer.link {
                if self.now >= link.deadline(&self.config) && all_heard {
                    let seconds = link.patience(&self.config) as f64 / 1e9;
                    let id = link.id;
                    self.out.push(Action::Close {
                        peer: slot,
                        connection: id,
                    });
                    self.drop_link(slot, &format!("no word for {seconds} s"));
                } else if link.ping_at(&self.config).is_some_and(|at| self.now >= at) {
                    let sent_ns = self.now;
                    if let Some(link) = self.peers[slot].link.as_mut() {
                        link.pinged = sent_ns;
                    }
                    self.send(slot, Message::Ping { sent_ns });
                }
            }
            if self.peers[slot]
                .draining
                .as_ref()
                .is_some_and(|(_, deadline)| self.now >= *deadline)
            {
                self.drained(slot);
            }
            // Last: what ended just now may have left a connect to carry out.
            if self.peers[slot].draining.is_none() {
                for id in std::mem::take(&mut self.peers[slot].reconnect) {
                    self.connect_peer(slot);
                    self.done(id, Ok(()));
                }
            }
            let peer = &mut self.peers[slot];
            if !self.stopped && peer.redial_at().is_some_and(|at| self.now >= at) {
                peer.dialing = true;
                peer.retry_at = None;
                self.out.push(Action::Dial { peer: slot });
            }
        }
    }

    fn retry_later(&mut self, slot: PeerSlot, pause: Time) {
        // Two that dial at the same time must not go on doing so in step: each connection would end the other.
        let pause = if self.peers[slot].dial {
            pause
        } else {
            pause + pause / 2
        };
        self.peers[slot].retry_at = Some(self.now + pause);
    }

    // ---- connections ---------------------------------------------------------------------------------

    pub(super) fn connect_peer(&mut self, slot: PeerSlot) {
        let now = self.now;
        let peer = &mut self.peers[slot];
        match peer.phase() {
            None => {}
            Some(Phase::Unwanted) => self.greet(slot),
            Some(_) => return,
        }
        let peer = &mut self.peers[slot];
        peer.wanted = true;
        peer.refusals = 0;
        peer.failures = 0;
        peer.refusal = None;
        peer.retry_at = Some(now);
    }

    pub(super) fn on_connection_opened(&mut self, slot: PeerSlot, connection: ConnectionId) {
        self.peers[slot].dialing = false;
        if self.stopped || !self.is_attached() {
            let (reason, text) = if self.is_attached() {
                (GoodbyeReason::Disconnect, self.no_wish())
            } else {
                let text = format!("{} has no usable disk", self.config.node);
                (GoodbyeReason::Diskless, text)
            };
            let message = Message::Goodbye { reason, text };
            let epoch = self.frame_epoch();
            self.out.push(Action::Send {
                peer: slot,
                connection,
                epoch,
                message,
            });
            self.out.push(Action::Close {
                peer: slot,
                connection,
            });
            return self.retry_later(slot, RETRY_LAST);
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
        if self.peers[slot].wanted {
            self.greet(slot);
        }
    }

    /// Who this node is, and what it wants.
    fn greet(&mut self, slot: PeerSlot) {
        let nonce = self.random_id();
        let hello = self.own_hello(slot, nonce);
        if let Some(link) = self.peers[slot].link.as_mut() {
            link.phase = Phase::Hello;
            link.intent = hello.intent;
        }
        self.send(slot, Message::Hello(hello));
    }

    /// Only a person's decision about a split brain is a reason to talk now.
    fn on_unwanted_hello(&mut self, slot: PeerSlot, hello: Hello) {
        // A split brain keeps apart only until something has changed: the other node's restart, its new disk.
        let is_split = self.superblock.peers[slot].split_brain && self.peers[slot].refusal.is_some();
        if hello.intent.resolves() || is_split {
            self.greet(slot);
            return self.on_hello(slot, hello);
        }
        let text = self.no_wish();
        self.close_with(slot, GoodbyeReason::Disconnect, &text);
    }

    fn no_wish(&self) -> String {
        format!("{} does not want a connection now", self.config.node)
    }

    pub(super) fn on_connection_lost(&mut self, slot: PeerSlot, connection: ConnectionId, why: &str) {
        if self.peers[slot].is_on(connection) {
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
        if self.peers[slot].link.is_some() {
            self.stand_in_lost(slot, why);
        }
        let Some(mut link) = self.peers[slot].link.take() else {
            return;
        };
        let was_connected = !matches!(link.phase, Phase::Unwanted | Phase::Hello | Phase::State { .. });
        if was_connected {
            self.connection_ended(link.id);
        }
        self.resolve_lost_link(slot);
        self.retry_later(slot, RETRY_FIRST << self.peers[slot].failures.min(5));
        if was_connected {
            let name = self.peers[slot].name.clone();
            self.notice(
                Severity::Warning,
                "peer.lost",
                format!("connection to {name} ended: {why}"),
            );
        }
        let came_to_nothing = match &link.phase {
            Phase::Source(source) => !source.running,
            Phase::Target(target) => !target.ready,
            _ => !was_connected,
        };
        if came_to_nothing {
            self.peers[slot].failures += 1;
        }
        self.fail_heals(Some(slot));
        self.verify_lost_link(slot);
        let sent = link.take_all_sent();
        match link.phase {
            Phase::Source(source) => self.source_ended(slot, *source),
            Phase::Target(target) => self.target_ended(slot, *target),
            Phase::Diskless { .. } => self.service_ended(),
            Phase::Resolving(resolving) => self.resolving_lost(resolving),
            _ => {}
        }
        self.settle(slot, sent);
        self.end_draining(slot);
        self.promotion_lost_peer(slot);
        self.handshake_settled();
    }

    /// The peer's disk is gone, not its connection: no answer to what was sent means anything any more.
    pub(super) fn settle_unanswered(&mut self, slot: PeerSlot) {
        if let Some(link) = self.peers[slot].link.as_mut() {
            let sent = link.take_all_sent();
            self.settle(slot, sent);
        }
    }

    /// Nothing that the peer has not flushed can be counted on, and nothing waits for it.
    fn settle(&mut self, slot: PeerSlot, sent: Vec<Sent>) {
        // What the peer confirmed and did not flush may be gone with it.
        let peer = &mut self.peers[slot];
        peer.cover_seq = None;
        for extent in peer.unflushed.drain().chain(peer.covered.drain()) {
            if !planted(Fault::UnflushedForgotten) {
                peer.suspect.set(extent, 1);
            }
        }
        // What it did not confirm may be missing there: marked before anyone is answered without it.
        let mut writes = Vec::new();
        let mut flushes = Vec::new();
        for sent in sent {
            match sent {
                Sent::Write { index, .. } => writes.push(index),
                Sent::Flush(index) => flushes.push(index),
                // Half of it may be there.
                Sent::Repair { offset, len, .. } => self.mark_dirty(slot, offset, len),
            }
        }
        for index in &writes {
            if let Some(((offset, len), since)) = self.write_range(*index).zip(self.write_started(*index)) {
                self.mark_dirty_since(slot, offset, len, since);
            }
        }
        for index in writes {
            self.write_lost(slot, index);
        }
        for index in flushes {
            self.flush_lost(slot, index);
        }
    }

    /// Answers whoever waited for this disconnect.
    fn end_draining(&mut self, slot: PeerSlot) {
        if let Some((commands, _)) = self.peers[slot].draining.take() {
            for id in commands {
                self.done(id, Ok(()));
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
            // Busy is no decision: the next handshake begins anew.
            if reason != GoodbyeReason::Busy {
                self.resolution_ended(slot, &text);
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
            let epoch = self.frame_epoch();
            self.out.push(Action::Send {
                peer: slot,
                connection,
                epoch,
                message,
            });
        }
    }

    // ---- messages ------------------------------------------------------------------------------------

    pub(super) fn on_message(
        &mut self,
        slot: PeerSlot,
        connection: ConnectionId,
        epoch: u64,
        message: Message,
    ) {
        let now = self.now;
        let peer = &mut self.peers[slot];
        let Some(link) = peer.link.as_mut().filter(|link| link.id == connection) else {
            return;
        };
        link.last_received = now;
        peer.last_contact = Some(now);
        if self.is_of_old_epoch(epoch, &message) {
            return self.close_with(slot, GoodbyeReason::Busy, "a write of an epoch that has ended");
        }
        self.saw_epoch(epoch);
        let Some(link) = self.peers[slot].link.as_ref() else {
            return;
        };
        match (message, &link.phase) {
            (Message::Goodbye { reason, text }, _) => self.on_goodbye(slot, reason, text),
            (Message::Hello(hello), Phase::Unwanted) => self.on_unwanted_hello(slot, hello),
            (_, Phase::Unwanted) => self.protocol_error(slot, "another message before its hello"),
            (Message::Hello(hello), Phase::Hello) => self.on_hello(slot, hello),
            (Message::State(_), Phase::Hello) => self.protocol_error(slot, "a state before its hello"),
            (Message::State(state), _) => self.on_state(slot, state),
            (Message::Ping { sent_ns }, _) => self.on_ping(slot, epoch, sent_ns),
            (Message::Pong { sent_ns, lease_ns }, _) => self.on_pong(sent_ns, lease_ns),
            (Message::Received { .. } | Message::Done { .. }, Phase::Diskless { .. }) => {
                // Of what was sent before: it is settled.
            }
            (Message::Received { seq }, _) => self.on_received(slot, seq),
            (Message::Done { seq, status }, _) => self.on_done(slot, seq, status),
            (message, Phase::Resolving(_)) => self.on_resolving_message(slot, message),
            (message, Phase::Hello | Phase::State { .. }) => {
                self.protocol_error(slot, &format!("{} before the handshake ended", kind_of(&message)));
            }
            (message, _) => self.on_connected_message(slot, message),
        }
    }

    fn on_connected_message(&mut self, slot: PeerSlot, message: Message) {
        match message {
            Message::Write { .. }
            | Message::WriteZeroes { .. }
            | Message::Trim { .. }
            | Message::Flush { .. } => self.on_replicated(slot, message),
            Message::Detached => self.on_detached(slot),
            Message::DetachedOk => self.on_detached_ok(slot),
            Message::ReadRequest { id, offset, len } => self.on_read_request(slot, id, offset, len),
            Message::ReadData { id, offset, payload } => self.on_read_data(slot, id, offset, payload),
            Message::ReadFailed { id, status } => self.on_read_failed(slot, id, status),
            Message::HotRanges { ranges } => self.on_hot_ranges(slot, &ranges),
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
            Message::VerifyChunk { .. }
            | Message::VerifySame { .. }
            | Message::VerifyDiffers { .. }
            | Message::VerifyFailed { .. }
            | Message::VerifyProved { .. }
            | Message::VerifyFound { .. }
            | Message::VerifySave { .. }
            | Message::VerifySaved { .. } => self.on_verify_message(slot, message),
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
        let refused = status != 0 && self.stand_in() == Some(slot);
        if refused {
            self.refused_by_stand_in(sent, Errno(i32::from(status)));
        } else if status != 0 {
            // Put it back among what the peer lacks, then let the peer go: it has a hole.
            let range = match sent {
                Sent::Write { index, .. } => self.write_range(index),
                Sent::Repair { offset, len, .. } => Some((offset, len)),
                Sent::Flush(_) => None,
            };
            if let Some((offset, len)) = range {
                self.mark_dirty(slot, offset, len);
            }
            self.peer_disk_failed(slot, status);
        }
        let lost = status != 0 && !refused;
        if let Sent::Write { index, .. } = sent {
            if status == 0 {
                self.write_confirmed(slot, index);
            }
        }
        match sent {
            Sent::Write { index, .. } if lost => self.write_lost(slot, index),
            Sent::Write { index, .. } => self.write_settled(slot, index),
            Sent::Flush(index) if lost => self.flush_lost(slot, index),
            Sent::Flush(index) => {
                if status == 0 {
                    self.peers[slot].end_cover(seq);
                }
                self.flush_settled(slot, index);
            }
            Sent::Repair { chunk, .. } if !lost => self.repair_written(chunk),
            Sent::Repair { .. } => {}
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
        let connected = self.peers[slot].is_connected();
        let unwanted = matches!(self.peers[slot].phase(), Some(Phase::Unwanted));
        let peer_is_primary = self.peers[slot].is_known_as(Role::Primary);
        if let Some(id) = self.peers[slot].link.as_ref().map(|link| link.id) {
            self.out.push(Action::Close {
                peer: slot,
                connection: id,
            });
        }
        if reason == GoodbyeReason::Diskless {
            self.stand_in_has_no_disk(slot);
        }
        // Before the end of this connection lets commands go on that waited for it, and may want another.
        if reason != GoodbyeReason::Busy {
            self.resolution_ended(slot, &text);
            self.resolve_failed(slot, &text);
        }
        if reason == GoodbyeReason::Refused && !unwanted {
            self.peers[slot].wanted = false;
        }
        self.drop_link(slot, &text);
        if unwanted {
            return;
        }
        match reason {
            GoodbyeReason::Disconnect => {
                self.retry_later(slot, RETRY_LAST);
                if established && peer_is_primary && self.superblock.disk == DiskState::UpToDate {
                    // It goes on writing without this copy.
                    self.superblock.disk = DiskState::Outdated;
                    self.save_superblock(Then::Nothing);
                }
            }
            GoodbyeReason::Diskless => {
                // Asked again until it has another disk: then the handshake finds what is marked for it.
                self.retry_later(slot, RETRY_LAST);
                if let Some(known) = &mut self.peers[slot].known {
                    known.disk = DiskState::Diskless;
                }
                if connected {
                    self.notice(Severity::Error, "peer.disk_failed", text.clone());
                }
            }
            GoodbyeReason::Busy | GoodbyeReason::ProtocolError => return,
            // It comes up there, as after a boot: tried again as after any connection that came to nothing.
            GoodbyeReason::UnknownResource | GoodbyeReason::Refused => {}
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
}

fn kind_of(message: &Message) -> String {
    let text = format!("{message:?}");
    text.split([' ', '(', '{']).next().unwrap_or("message").to_owned()
}
