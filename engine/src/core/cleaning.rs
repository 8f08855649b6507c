//! Keeps what a crash costs small: extents that rest leave the write-intent log.
//!
//! A cycle flushes both sides, then persists the bitmaps, then clears those extents that were not touched
//! meanwhile and in which nothing is unflushed or suspect for any peer. Each step is durable before the next
//! begins, so at no instant does a difference lose its last persistent mark (invariant I2).

use super::durable::{meta_writes, MetaPurpose, Then};
use super::fault::{planted, Fault};
use super::links::Phase;
use super::replica::Replica;
use super::requests::FlushOwner;
use super::types::*;

/// Pause between two cycles.
const INTERVAL: Time = 2_000_000_000;
/// Bitmap pages a metadata write carries, at most.
const PAGES_MAX: usize = 256;

enum Stage {
    Idle,
    Flushing(Vec<u64>),
    Pages(Vec<u64>),
}

pub(super) struct Cleaning {
    due: Time,
    stage: Stage,
}

impl Cleaning {
    pub(super) fn idle(now: Time) -> Cleaning {
        Cleaning {
            due: now + INTERVAL,
            stage: Stage::Idle,
        }
    }

    /// Ends the cycle under way: its flush and its writes mean nothing any more.
    pub(super) fn stop(&mut self) {
        self.stage = Stage::Idle;
    }
}

impl Replica {
    pub(super) fn cleaning_due(&self) -> Option<Time> {
        let idle = matches!(self.cleaning.stage, Stage::Idle);
        (idle && !self.stopped && self.quiescing.is_none()).then_some(self.cleaning.due)
    }

    pub(super) fn clean_on_time(&mut self) {
        let idle = matches!(self.cleaning.stage, Stage::Idle);
        if !idle || self.now < self.cleaning.due || self.quiescing.is_some() || self.stopped {
            return;
        }
        self.cleaning.due = self.now + INTERVAL;
        for slot in 0..self.peers.len() {
            self.pump_source(slot);
        }
        let mut resting: Vec<u64> = (self.intent.runs())
            .flat_map(|(first, count)| first..first + count)
            .filter(|extent| !self.touched.test(*extent))
            .collect();
        self.touched.clear_all();
        self.keep_quiet(&mut resting);
        let changed =
            (0..self.peers.len()).any(|slot| self.persists_bitmap(slot) && self.has_changed_pages(slot));
        if self.is_attached() && (!resting.is_empty() || changed) {
            self.cleaning.stage = Stage::Flushing(resting);
            self.start_flush(FlushOwner::Cleaning);
        }
    }

    fn has_changed_pages(&self, slot: PeerSlot) -> bool {
        self.peers[slot].dirty.changed_pages().next().is_some()
    }

    /// A bitmap that the full-sync flag stands for is not worth writing, until a resync eats into it.
    fn persists_bitmap(&self, slot: PeerSlot) -> bool {
        !self.superblock.peers[slot].full_sync || self.peers[slot].is_source_running()
    }

    /// Drops extents with operations under way.
    fn keep_quiet(&self, extents: &mut Vec<u64>) {
        let mut busy = std::collections::HashSet::new();
        for (_, write) in self.writes.iter() {
            busy.extend(self.extents_of(write.offset, write.len));
        }
        for (_, heal) in self.heals.iter() {
            let (offset, len) = heal.range();
            busy.extend(self.extents_of(offset, len));
        }
        if let Some(hold) = &self.hold {
            let (offset, len) = hold.range();
            busy.extend(self.extents_of(offset, len));
        }
        for (offset, len) in self.remote_ranges() {
            busy.extend(self.extents_of(offset, len));
        }
        for peer in &self.peers {
            if let Some(Phase::Source(source)) = peer.phase() {
                for (offset, len) in source.extents_in_flight() {
                    busy.extend(self.extents_of(offset, len));
                }
            }
        }
        extents.retain(|extent| !busy.contains(extent) && !self.intent_pending.contains(extent));
    }

    pub(super) fn cleaning_flushed(&mut self, result: Result<(), Errno>) {
        let stage = std::mem::replace(&mut self.cleaning.stage, Stage::Idle);
        if let (Stage::Flushing(extents), Ok(())) = (stage, result) {
            self.cleaning.stage = Stage::Pages(extents);
            self.save_next_pages();
        }
    }

    /// The next slice of changed bitmap pages, or the end of the cycle.
    fn save_next_pages(&mut self) {
        if self.quiescing.is_some() {
            // The end of all activity saves everything itself.
            self.cleaning.stage = Stage::Idle;
            return;
        }
        for slot in 0..self.peers.len() {
            if self.persists_bitmap(slot) {
                let writes = self.take_pages(slot, PAGES_MAX);
                if !writes.is_empty() {
                    return self.write_meta(MetaPurpose::BitmapPages, writes);
                }
                if self.superblock.peers[slot].full_sync {
                    // Page by page it now says what the flag said at once: a cut-off resync can go on.
                    self.superblock.peers[slot].full_sync = false;
                    self.save_superblock(Then::Nothing);
                }
            }
        }
        let Stage::Pages(mut extents) = std::mem::replace(&mut self.cleaning.stage, Stage::Idle) else {
            return;
        };
        self.keep_quiet(&mut extents);
        extents.retain(|extent| !self.touched.test(*extent) && self.is_settled(*extent));
        for extent in extents {
            self.intent.clear(extent, 1);
        }
        self.save_cleared_intent();
    }

    fn take_pages(&mut self, slot: PeerSlot, limit: usize) -> Vec<MetaWrite> {
        let base = self.layout.bitmap_offset(slot);
        meta_writes(base, self.peers[slot].dirty.take_changed(limit))
    }

    fn save_cleared_intent(&mut self) {
        let writes = self.changed_intent_pages();
        if !writes.is_empty() {
            self.write_meta(MetaPurpose::IntentCleared, writes);
        }
    }

    pub(super) fn bitmap_pages_saved(&mut self) {
        if matches!(self.cleaning.stage, Stage::Pages(_)) {
            self.save_next_pages();
        }
    }

    /// Nothing in the extent is suspect or unflushed for any peer.
    fn is_settled(&self, extent: u64) -> bool {
        self.peers.iter().all(|peer| {
            let compared = !peer.suspect.test(extent) || planted(Fault::IntentClearedEarly);
            compared && !peer.unflushed.contains(&extent) && !peer.covered.contains(&extent)
        })
    }

    /// Everything at once, when all is flushed, all marks are durable and nothing is under way: before demote or stop.
    pub(super) fn clean_all(&mut self) {
        let unsaved = |slot: PeerSlot| !self.superblock.peers[slot].full_sync && self.has_changed_pages(slot);
        if (0..self.peers.len()).any(unsaved) {
            // Marks have come since: the log speaks for them.
            return;
        }
        let mut extents: Vec<u64> = self
            .intent
            .runs()
            .flat_map(|(first, count)| first..first + count)
            .collect();
        // A resync may go on meanwhile: its chunks rely on the log.
        self.keep_quiet(&mut extents);
        for extent in extents {
            if self.is_settled(extent) {
                self.intent.clear(extent, 1);
            }
        }
        self.save_cleared_intent();
    }

    /// What is marked is durable when a superblock is that is saved after this; the write-intent log stays as it is.
    pub(super) fn save_all_bitmaps(&mut self) {
        for slot in 0..self.peers.len() {
            if !self.superblock.peers[slot].full_sync {
                loop {
                    let writes = self.take_pages(slot, PAGES_MAX);
                    if writes.is_empty() {
                        break;
                    }
                    self.write_meta(MetaPurpose::BitmapPages, writes);
                }
            }
        }
    }
}
