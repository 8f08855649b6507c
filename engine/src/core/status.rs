//! What an administrator, and a script, sees of a replica.

use serde::Serialize;

use super::arbitration::ArbitrationStatus;
use super::links::{Peer, Phase};
use super::replica::{IoCounters, Replica};
use super::source::Progress;
use super::types::*;
use super::warm_up::WarmUpStatus;
use crate::latency::{bounds_seconds, Histogram};
use crate::meta::EXTENT_BYTES;
use crate::wire::{DiskState, GoodbyeReason, Protocol, Role, SplitBrainPolicy};

#[derive(Clone, Debug, Serialize)]
pub struct CoreStatus {
    pub resource: String,
    pub resource_id: Option<String>,
    pub node: String,
    pub role: Role,
    pub resuming: bool,
    pub disk: DiskState,
    pub disk_error: Option<String>,
    /// The peer whose copy stands in for this node's.
    pub served_by: Option<String>,
    pub size_bytes: u64,
    pub block_size_bytes: u32,
    pub extent_size_bytes: u64,
    pub protocol: Protocol,
    /// Who loses a split brain without a person, and this node's number for the policy `priority`.
    pub split_brain_policy: SplitBrainPolicy,
    pub priority: u32,
    pub generation: GenerationStatus,
    pub hot_extents: u64,
    pub suspended: Option<String>,
    pub requests: RequestStatus,
    pub io: IoCounters,
    pub latency: LatencyStatus,
    pub warm_up: WarmUpStatus,
    pub arbitration: Option<ArbitrationStatus>,
    pub peers: Vec<PeerStatus>,
}

#[derive(Clone, Debug, Serialize)]
pub struct GenerationStatus {
    pub current: String,
    pub history: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct RequestStatus {
    pub in_flight: usize,
    pub in_flight_bytes: u64,
}

/// What this node's disk took for the application's requests; how long each bucket but the last counts to.
#[derive(Clone, Debug, Serialize)]
pub struct LatencyStatus {
    pub bounds_seconds: Vec<f64>,
    pub disk_reads: Histogram,
    pub disk_writes: Histogram,
}

/// How far a peer is behind the Primary: the age of the oldest write that its disk is not known to have (none where
/// that is not known), and what all of those changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LagStatus {
    pub seconds: Option<f64>,
    pub bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct RefusalStatus {
    pub reason: GoodbyeReason,
    pub text: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct PeerStatus {
    pub slot: PeerSlot,
    pub name: String,
    pub connection: &'static str,
    pub replication: &'static str,
    pub role: Option<Role>,
    pub disk: Option<DiskState>,
    pub last_contact_seconds: Option<f64>,
    pub refusal: Option<RefusalStatus>,
    pub rule: Option<&'static str>,
    /// The last handshake found that both nodes have gone on alone; nothing of it has been overwritten since.
    pub split_brain: bool,
    /// How far the end of a split brain is: exchanging-marks, saving-bundle, rewinding, waiting-for-victim.
    pub resolving: Option<&'static str>,
    pub out_of_sync_bytes: u64,
    pub suspect_bytes: u64,
    pub full_sync: bool,
    pub resync: Option<ResyncStatus>,
    pub last_resync: Option<ResyncStatus>,
    pub unacked: usize,
    /// Only the Primary knows.
    pub lag: Option<LagStatus>,
    /// From the sending of a write to the peer's word that its disk has it.
    pub latency: Histogram,
}

#[derive(Clone, Debug, Serialize)]
pub struct ResyncStatus {
    pub direction: &'static str,
    pub total_bytes: u64,
    pub done_bytes: u64,
    pub same_bytes: u64,
    pub sent_bytes: u64,
    pub elapsed_seconds: f64,
    pub rate_bytes_per_second: f64,
    pub eta_seconds: Option<f64>,
    pub finished: bool,
}

fn seconds(from: Time, to: Time) -> f64 {
    to.saturating_sub(from) as f64 / 1e9
}

impl ResyncStatus {
    fn new(progress: &Progress, block_size: u64, now: Time) -> ResyncStatus {
        let elapsed = seconds(progress.started, progress.ended.unwrap_or(now));
        let left = progress.left_blocks * block_size;
        let done = progress.total_blocks.saturating_sub(progress.left_blocks) * block_size;
        let rate = if elapsed > 0.0 { done as f64 / elapsed } else { 0.0 };
        ResyncStatus {
            direction: if progress.to_peer { "to_peer" } else { "from_peer" },
            total_bytes: progress.total_blocks * block_size,
            done_bytes: done,
            same_bytes: progress.same_bytes,
            sent_bytes: progress.sent_bytes,
            elapsed_seconds: elapsed,
            rate_bytes_per_second: rate,
            eta_seconds: (progress.ended.is_none() && rate > 0.0).then(|| left as f64 / rate),
            finished: progress.finished,
        }
    }
}

impl Replica {
    pub fn status(&self, now: Time) -> CoreStatus {
        let superblock = &self.superblock;
        CoreStatus {
            resource: self.config.resource.clone(),
            resource_id: self.resource_id_text(),
            node: self.config.node.clone(),
            role: self.role,
            resuming: self.resuming.is_some(),
            disk: self.disk_state(),
            disk_error: self.disk_error.clone(),
            served_by: self.stand_in().map(|slot| self.peers[slot].name.clone()),
            size_bytes: superblock.data_size_bytes,
            block_size_bytes: superblock.block_size_bytes,
            extent_size_bytes: EXTENT_BYTES,
            protocol: self.config.protocol,
            split_brain_policy: self.config.policy,
            priority: self.config.priority,
            generation: GenerationStatus {
                current: format!("{:016x}", superblock.current),
                history: (superblock.history.iter())
                    .filter(|id| **id != 0)
                    .map(|id| format!("{id:016x}"))
                    .collect(),
            },
            hot_extents: self.intent.count(),
            suspended: self.suspended(),
            requests: RequestStatus {
                in_flight: self.writes.len() + self.flushes.len() + self.reads_in_flight,
                in_flight_bytes: self.in_flight_bytes,
            },
            io: self.counters,
            latency: LatencyStatus {
                bounds_seconds: bounds_seconds().to_vec(),
                disk_reads: self.latency.disk_reads,
                disk_writes: self.latency.disk_writes,
            },
            warm_up: self.warm_up.status(),
            arbitration: self.arbitration_status(now),
            peers: self
                .peers
                .iter()
                .enumerate()
                .map(|(slot, peer)| self.peer_status(slot, peer, now))
                .collect(),
        }
    }

    /// 32 hexadecimal digits, once the first sync has drawn it.
    pub(super) fn resource_id_text(&self) -> Option<String> {
        let id = u128::from_be_bytes(self.superblock.resource_id);
        (id != 0).then(|| format!("{id:032x}"))
    }

    /// Why writes wait, if they do.
    fn suspended(&self) -> Option<String> {
        if self.quiescing.is_some() {
            return Some("the resource is being demoted or stopped".into());
        }
        if self.writes.len() == 0 {
            return None;
        }
        self.peers.iter().find_map(|peer| {
            let silent = self.now.saturating_sub(peer.last_contact?);
            (peer.is_mirrored() && silent > self.config.peer_timeout_ns / 2).then(|| {
                format!(
                    "{} is silent for {:.1} s; writes go on without it after {:.1} s",
                    peer.name,
                    silent as f64 / 1e9,
                    self.config.peer_timeout_ns as f64 / 1e9
                )
            })
        })
    }

    fn peer_status(&self, slot: PeerSlot, peer: &Peer, now: Time) -> PeerStatus {
        let block_size = u64::from(self.superblock.block_size_bytes);
        let size = self.superblock.data_size_bytes;
        let resync = match peer.phase() {
            Some(Phase::Source(source)) => Some(&source.progress),
            Some(Phase::Target(target)) => Some(&target.progress),
            _ => None,
        };
        PeerStatus {
            slot,
            name: peer.name.clone(),
            connection: match peer.phase() {
                Some(Phase::Resolving(_)) => "Connected",
                _ if peer.is_connected() => "Connected",
                None | Some(Phase::Unwanted) if !peer.wanted => "StandAlone",
                _ => "Connecting",
            },
            replication: match peer.phase() {
                Some(Phase::Established | Phase::Diskless { .. }) => "Established",
                Some(Phase::Source(_)) => "SyncSource",
                Some(Phase::Target(_)) => "SyncTarget",
                Some(Phase::Waiting) => "Waiting",
                _ => "Off",
            },
            role: peer.known.as_ref().map(|known| known.role),
            disk: peer.known.as_ref().map(|known| known.disk),
            last_contact_seconds: peer.last_contact.map(|at| seconds(at, now)),
            refusal: peer.refusal.as_ref().map(|refusal| RefusalStatus {
                reason: refusal.reason,
                text: refusal.text.clone(),
            }),
            rule: peer.rule,
            split_brain: self.superblock.peers[slot].split_brain,
            resolving: match peer.phase() {
                Some(Phase::Resolving(resolving)) => Some(resolving.step()),
                _ => None,
            },
            out_of_sync_bytes: (peer.dirty.count() * block_size).min(size),
            suspect_bytes: (peer.suspect.count() * EXTENT_BYTES).min(size),
            full_sync: self.superblock.peers[slot].full_sync,
            resync: resync.map(|progress| ResyncStatus::new(progress, block_size, now)),
            last_resync: peer
                .last_resync
                .as_ref()
                .map(|progress| ResyncStatus::new(progress, block_size, now)),
            unacked: peer.link.as_ref().map_or(0, |link| link.unanswered()),
            lag: (self.role == Role::Primary).then(|| self.lag(slot, now)),
            latency: peer.latency,
        }
    }

    fn lag(&self, slot: PeerSlot, now: Time) -> LagStatus {
        let peer = &self.peers[slot];
        let marked = (peer.dirty.count() * u64::from(self.superblock.block_size_bytes))
            .min(self.superblock.data_size_bytes);
        let (mut oldest, mut bytes) = (None, marked);
        for index in peer.link.iter().flat_map(|link| link.unconfirmed_writes()) {
            oldest = oldest.or(self.write_started(index));
            bytes += self.write_range(index).map_or(0, |(_, len)| len);
        }
        let seconds = match (peer.dirty.is_empty(), peer.dirty.since(), oldest) {
            (true, _, None) => Some(0.0),
            (true, _, Some(oldest)) => Some(seconds(oldest, now)),
            (false, None, _) => None,
            (false, Some(since), oldest) => Some(seconds(since.min(oldest.unwrap_or(since)), now)),
        };
        LagStatus { seconds, bytes }
    }
}
