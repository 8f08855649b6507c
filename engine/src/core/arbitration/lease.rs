//! LEASE: the follower's word not to campaign, which the Primary's reads rest on.

use super::judge::{self, Link};
use super::PEER;
use crate::core::detach::Attachment;
use crate::core::fault::{planted, Fault};
use crate::core::links::Phase;
use crate::core::replica::Replica;
use crate::core::types::*;
use crate::payload::Payload;
use crate::wire::{Message, Role};

impl Replica {
    /// Answers a beacon; with this node's word, if it follows its sender.
    pub(in crate::core) fn on_ping(&mut self, slot: PeerSlot, epoch: u64, sent_ns: u64) {
        let follows = matches!(
            self.peers[slot].phase(),
            Some(Phase::Established | Phase::Target(_))
        );
        let free = follows
            && self.role == Role::Secondary
            && !self.promoting
            && self.promotion.is_none()
            && self.peers[slot].is_known_as(Role::Primary)
            && epoch >= self.superblock.promised;
        let now = self.now;
        let mut lease_ns = 0;
        if let Some(a) = self.arbitration.as_mut().filter(|_| free) {
            if a.campaign.is_none() {
                lease_ns = a.config.lease_ns;
                a.word_until = a.word_until.max(now + lease_ns);
            }
        }
        self.send(slot, Message::Pong { sent_ns, lease_ns });
    }

    /// Whom the word was given to is no more.
    pub(in crate::core) fn on_peer_process_gone(&mut self, connection: ConnectionId) {
        let (now, gone) = (self.now, self.link_is(Link::Gone));
        if let Some(a) = self.arbitration.as_mut() {
            if gone && a.last_link == Some(connection) {
                a.word_until = a.word_until.min(now);
            }
        }
    }

    pub(in crate::core) fn on_pong(&mut self, sent_ns: u64, lease_ns: u64) {
        let now = self.now;
        let is_primary = self.role == Role::Primary;
        let Some(a) = self.arbitration.as_mut() else {
            return;
        };
        if !is_primary || lease_ns == 0 || sent_ns > now {
            return;
        }
        let granted = lease_ns.min(a.config.lease_ns);
        let end = judge::lease_end(sent_ns, granted, a.config.drift_ppm);
        a.lease_until = a.lease_until.max(Some(end));
        if !a.held_reads.is_empty() {
            self.release_reads();
        }
    }

    /// A beacon out of turn: what waits for the follower's word need not wait for the next one.
    pub(in crate::core) fn ask_for_lease(&mut self) {
        let sent_ns = self.now;
        if self.arbitration.is_some() && self.peers[PEER].is_connected() {
            self.send(PEER, Message::Ping { sent_ns });
        }
    }

    /// Whether what was read counts: no other node can have become Primary.
    pub(super) fn may_read(&self) -> bool {
        let Some(a) = &self.arbitration else { return true };
        if matches!(self.attachment, Attachment::Served(_)) || planted(Fault::LeaseIgnored) {
            return true;
        }
        let leased = a.lease_until.is_some_and(|until| until > self.now);
        !self.is_fenced() && (leased || !self.needs_peer())
    }

    /// Until when this Primary may serve, as far as is known now: the end of its lease, [`Time::MAX`] where it needs
    /// none. None: it may not now, or is no Primary.
    pub fn serves_until(&self) -> Option<Time> {
        if self.role != Role::Primary || !self.may_read() {
            return None;
        }
        let a = self.arbitration.as_ref().filter(|_| self.needs_peer());
        Some(a.and_then(|a| a.lease_until).unwrap_or(Time::MAX))
    }

    /// What to answer a read that is done; nothing while it must wait.
    pub(in crate::core) fn hold_read(
        &mut self,
        id: RequestId,
        len: u32,
        data: Payload,
    ) -> Option<Result<Option<Payload>, Errno>> {
        if self.arbitration.is_some() && self.role == Role::Secondary {
            // Superseded meanwhile: it may be older than what the new Primary has acknowledged.
            return Some(Err(Errno::EIO));
        }
        if self.may_read() {
            return Some(Ok(Some(data)));
        }
        if let Some(a) = self.arbitration.as_mut() {
            a.held_reads.push((id, len, data));
        }
        None
    }

    pub(in crate::core) fn release_reads(&mut self) {
        if !self.may_read() {
            return;
        }
        let held = self
            .arbitration
            .as_mut()
            .map(|a| std::mem::take(&mut a.held_reads));
        for (id, len, data) in held.unwrap_or_default() {
            self.end_read(id, len, Ok(Some(data)));
        }
    }

    pub(in crate::core) fn fail_held_reads(&mut self, errno: Errno) {
        let held = self
            .arbitration
            .as_mut()
            .map(|a| std::mem::take(&mut a.held_reads));
        for (id, len, _) in held.unwrap_or_default() {
            self.end_read(id, len, Err(errno));
        }
    }
}
