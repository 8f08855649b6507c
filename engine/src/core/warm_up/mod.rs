//! The Secondary knows what the Primary reads most, and reads it before it is asked: at a take-over, or before a planned one.
//!
//! The Primary counts its reads by region, and every few seconds tells its peers the hottest. A node that becomes Primary,
//! or is asked to, reads those regions from its disk in the background. Where the page cache is between, that is enough.
//! A disk that is driven past it is remembered in the engine instead, and reads are answered from there: it is the one
//! place that serves whatever comes after a take-over, the kernel's device, a file system on it, or a virtual machine.
//! What is remembered goes with the first change that is on its way to the disk, and a minute after it was of use.

mod sketch;
mod store;

use std::collections::{BTreeSet, VecDeque};

use serde::Serialize;

use super::commands::failed;
use super::fault::{planted, Fault};
use super::replica::{Purpose, Replica};
use super::types::*;
use crate::payload::Payload;
use crate::wire::{feature, HotRange, Message, Role, HOT_RANGES_MAX};

use sketch::{ReadSketch, REGION_BYTES};
use store::{regions_of, Store};

const SECOND: Time = 1_000_000_000;
/// A peer hears what is hot so long after it has come, and from then on at most this often. One message is 16 KiB at most.
const TOLD_AFTER: Time = SECOND;
const TOLD_EVERY: Time = 5 * SECOND;
/// Bytes that are read ahead in a second, at most.
const BYTES_A_SECOND: u64 = 64 << 20;
/// Regions that are read ahead at a time; one only, while others use the disk.
const DEPTH: usize = 2;
/// Others use the disk for so long after the last operation of theirs. Meanwhile reading ahead rests, after each region,
/// for this many times what that took: it has a quarter of the disk's time at most.
const BUSY_FOR: Time = SECOND / 20;
const RESTS: u64 = 3;
/// What was read ahead is kept for so long: by then who reads it again has it in a cache of its own.
const KEPT_FOR: Time = 60 * SECOND;

/// A region on its way from the disk.
struct Filling {
    region: u64,
    since: Time,
    /// It changes meanwhile: what comes is worth nothing.
    spoiled: bool,
}

/// Reading ahead, and what came of it.
pub(super) struct WarmUp {
    sketch: ReadSketch,
    /// The regions that the Primary reads most, by its last word, the hottest first.
    learned: Vec<u64>,
    to_read: VecDeque<u64>,
    filling: Vec<Filling>,
    /// How many reads there may be at a time, as it was found last, and when the next may start.
    depth: usize,
    next_at: Time,
    /// The last operation on the disk that somebody waits for.
    busy_at: Option<Time>,
    started: Time,
    read_bytes: u64,
    store: Store,
    /// From then on what is in `store` is of no use.
    kept_until: Option<Time>,
    /// Commands that are done when everything is read.
    waiting: Vec<CommandId>,
    answered: u64,
}

/// What became of the peer's hot ranges here, in bytes, and reads.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WarmUpStatus {
    /// Known to be hot at the Primary.
    pub known_bytes: u64,
    /// Still to be read ahead.
    pub left_bytes: u64,
    pub held_bytes: u64,
    /// Reads of the application that were answered from memory.
    pub answered_reads: u64,
}

impl WarmUp {
    pub(super) fn new() -> WarmUp {
        WarmUp {
            sketch: ReadSketch::new(),
            learned: Vec::new(),
            to_read: VecDeque::new(),
            filling: Vec::new(),
            depth: DEPTH,
            next_at: 0,
            busy_at: None,
            started: 0,
            read_bytes: 0,
            store: Store::default(),
            kept_until: None,
            waiting: Vec::new(),
            answered: 0,
        }
    }

    fn is_reading(&self) -> bool {
        !self.to_read.is_empty() || !self.filling.is_empty()
    }

    pub(super) fn status(&self) -> WarmUpStatus {
        let left = self.to_read.len() + self.filling.len();
        WarmUpStatus {
            known_bytes: self.learned.len() as u64 * REGION_BYTES,
            left_bytes: left as u64 * REGION_BYTES,
            held_bytes: self.store.bytes(),
            answered_reads: self.answered,
        }
    }
}

impl Replica {
    // ---- the Primary tells ---------------------------------------------------------------------------

    pub(super) fn count_read(&mut self, offset: u64, len: u32) {
        self.warm_up.sketch.count(offset, u64::from(len));
    }

    /// When `slot` is to hear what is hot here.
    fn told_at(&self, slot: PeerSlot) -> Option<Time> {
        let link = self.peers[slot].link.as_ref()?;
        let fits = self.role == Role::Primary
            && self.peers[slot].is_mirrored()
            && link.features & feature::HOT_RANGES != 0
            && link.told_version != self.warm_up.sketch.version();
        let pause = if link.told_version == 0 {
            TOLD_AFTER
        } else {
            TOLD_EVERY
        };
        fits.then_some(link.told_at + pause)
    }

    fn tell_what_is_hot(&mut self) {
        for slot in 0..self.peers.len() {
            if self.told_at(slot).is_none_or(|at| self.now < at) {
                continue;
            }
            let (now, version) = (self.now, self.warm_up.sketch.version());
            let ranges = (self.warm_up.sketch.hottest(HOT_RANGES_MAX).into_iter())
                .map(|region| self.region_range(region))
                .map(|(offset, len)| HotRange { offset, len })
                .collect();
            if let Some(link) = self.peers[slot].link.as_mut() {
                (link.told_at, link.told_version) = (now, version);
            }
            self.send(slot, Message::HotRanges { ranges });
        }
    }

    /// Where a region lies: offset and length.
    fn region_range(&self, region: u64) -> (u64, u64) {
        let offset = region * REGION_BYTES;
        (offset, REGION_BYTES.min(self.superblock.data_size_bytes - offset))
    }

    // ---- the Secondary learns, and reads ahead -------------------------------------------------------

    fn regions_max(&self) -> usize {
        let bytes = self.config.read_ahead.map_or(0, |wanted| wanted.bytes);
        (bytes / REGION_BYTES) as usize
    }

    pub(super) fn on_hot_ranges(&mut self, slot: PeerSlot, ranges: &[HotRange]) {
        if ranges
            .iter()
            .any(|range| !self.is_inside(range.offset, range.len))
        {
            return self.protocol_error(slot, "hot ranges outside the device");
        }
        if self.role == Role::Primary || self.promoting {
            // Sent before this node took over.
            return;
        }
        let most = self.regions_max();
        let mut seen = BTreeSet::new();
        self.warm_up.learned = (ranges.iter())
            .flat_map(|range| regions_of(range.offset, range.len))
            .filter(|region| seen.insert(*region))
            .take(most)
            .collect();
    }

    /// This node is Primary from here on.
    pub(super) fn warm_up_as_primary(&mut self) {
        let learned = std::mem::take(&mut self.warm_up.learned);
        self.read_ahead(learned);
    }

    /// Done when everything that the Primary reads most was read here.
    pub(super) fn warm_up_command(&mut self, id: CommandId) {
        let (node, resource) = (&self.config.node, &self.config.resource);
        if self.role == Role::Primary {
            let error = failed(
                format!("{node} is Primary of {resource}: it is its peer that can be warmed up"),
                format!("blockpair status {resource}"),
            );
            return self.done(id, Err(error));
        }
        if !self.is_attached() || self.quiescing.is_some() {
            let error = failed(
                format!("{resource} on {node} has no usable disk, or is going down"),
                format!("blockpair status {resource}"),
            );
            return self.done(id, Err(error));
        }
        self.warm_up.waiting.push(id);
        self.read_ahead(self.warm_up.learned.clone());
    }

    fn read_ahead(&mut self, regions: Vec<u64>) {
        let (now, warm_up) = (self.now, &mut self.warm_up);
        if !warm_up.is_reading() {
            (warm_up.started, warm_up.read_bytes) = (now, 0);
        }
        warm_up.to_read = regions.into();
        warm_up.kept_until = None;
        self.pump_warm_up();
    }

    fn pump_warm_up(&mut self) {
        self.warm_up.depth = if self.disk_is_busy() { 1 } else { DEPTH };
        while self.warm_up.filling.len() < self.warm_up.depth && self.now >= self.warm_up.next_at {
            let Some(region) = self.warm_up.to_read.pop_front() else {
                break;
            };
            let (offset, len) = self.region_range(region);
            let known = self.warm_up.store.has(region)
                || self
                    .warm_up
                    .filling
                    .iter()
                    .any(|filling| filling.region == region);
            // What is being written is in nobody's cache for long, and may be read half old, half new.
            if known || !self.is_attached() || !self.ranges.is_free(offset, offset + len) {
                continue;
            }
            self.warm_up.next_at = self.now + len * SECOND / BYTES_A_SECOND;
            self.warm_up.filling.push(Filling {
                region,
                since: self.now,
                spoiled: false,
            });
            let op = DiskOp::Read {
                offset,
                len: len as u32,
            };
            self.disk(Purpose::WarmUp(region), op);
        }
        if !self.warm_up.is_reading() {
            self.end_warm_up();
        }
    }

    /// Somebody has the disk work, who waits for it.
    pub(super) fn uses_disk(&mut self) {
        self.warm_up.busy_at = Some(self.now);
    }

    fn disk_is_busy(&self) -> bool {
        (self.warm_up.busy_at).is_some_and(|at| self.now < at + BUSY_FOR)
    }

    /// An error is for whoever reads there to find: nobody has asked for this.
    pub(super) fn region_read(&mut self, region: u64, result: Result<Option<Payload>, Errno>) {
        let Some(at) = (self.warm_up.filling.iter()).position(|filling| filling.region == region) else {
            return;
        };
        let Filling { spoiled, since, .. } = self.warm_up.filling.swap_remove(at);
        if self.disk_is_busy() {
            let rest = RESTS * (self.now - since);
            self.warm_up.next_at = self.warm_up.next_at.max(self.now + rest);
        }
        if let (Ok(Some(data)), false, true) = (result, spoiled, self.is_attached()) {
            self.warm_up.read_bytes += data.len() as u64;
            if self.config.read_ahead.is_some_and(|wanted| wanted.keep) {
                self.warm_up.store.keep(region, data);
            }
        }
        self.pump_warm_up();
    }

    fn end_warm_up(&mut self) {
        if self.warm_up.read_bytes > 0 {
            let seconds = (self.now - self.warm_up.started) as f64 / 1e9;
            let mib = self.warm_up.read_bytes as f64 / f64::from(1 << 20);
            let text = format!("{mib:.1} MiB that the Primary read most were read ahead in {seconds:.1} s");
            self.notice(Severity::Info, "warm_up.finished", text);
            self.warm_up.read_bytes = 0;
        }
        if self.warm_up.store.bytes() > 0 {
            self.warm_up.kept_until.get_or_insert(self.now + KEPT_FOR);
        }
        for id in std::mem::take(&mut self.warm_up.waiting) {
            self.done(id, Ok(()));
        }
    }

    /// Nothing more is read ahead, and nothing remembered; who waits for it is for the caller to answer.
    pub(super) fn drop_warm_up(&mut self) -> Vec<CommandId> {
        self.warm_up.to_read.clear();
        self.warm_up.read_bytes = 0;
        self.forget_all();
        std::mem::take(&mut self.warm_up.waiting)
    }

    pub(super) fn forget_all(&mut self) {
        self.warm_up.store.clear();
        self.warm_up.kept_until = None;
        for filling in &mut self.warm_up.filling {
            filling.spoiled = true;
        }
    }

    pub(super) fn warm_up_due(&self) -> Option<Time> {
        let told = (0..self.peers.len()).filter_map(|slot| self.told_at(slot)).min();
        let warm_up = &self.warm_up;
        let next =
            (!warm_up.to_read.is_empty() && warm_up.filling.len() < warm_up.depth).then_some(warm_up.next_at);
        [told, next, warm_up.kept_until].into_iter().flatten().min()
    }

    pub(super) fn warm_up_on_time(&mut self) {
        self.tell_what_is_hot();
        if !self.warm_up.to_read.is_empty() {
            self.pump_warm_up();
        }
        if self.warm_up.kept_until.is_some_and(|until| self.now >= until) {
            self.warm_up.store.clear();
            self.warm_up.kept_until = None;
        }
    }

    // ---- what is remembered --------------------------------------------------------------------------

    /// What a read of the disk would say, if that is known.
    pub(super) fn remembered(&mut self, offset: u64, len: u32) -> Option<Payload> {
        let data = self.warm_up.store.get(offset, u64::from(len))?;
        self.warm_up.answered += 1;
        Some(data)
    }

    /// Answers from memory; not at once, for that a read may be answered rests on what time it is.
    pub(super) fn recall(&mut self, purpose: Purpose, data: Payload) {
        let token = Token(self.purposes.insert(purpose) as u64);
        self.out.push(Action::Recall { token, data });
    }

    /// Before any operation reaches the disk: what it changes is remembered no more.
    pub(super) fn forget_changed(&mut self, op: &DiskOp) {
        let (offset, len) = match op {
            DiskOp::Read { .. } | DiskOp::Flush => return,
            DiskOp::Write { offset, payload, .. } => (*offset, payload.len() as u64),
            DiskOp::Zero { offset, len, .. } => (*offset, *len),
        };
        if planted(Fault::WarmUpStale) {
            return;
        }
        self.warm_up.store.changes(offset, len);
        let touched = regions_of(offset, len);
        for filling in &mut self.warm_up.filling {
            filling.spoiled |= touched.contains(&filling.region);
        }
    }
}
