//! What may differ from a peer's copy, as the two nodes tell each other.

use super::replica::Replica;
use super::types::*;
use crate::meta::{Bitmap, EXTENT_BYTES};
use crate::wire::{BlockRun, Message, BITMAP_RUNS_MAX};

/// With more runs than this, near ones are sent as one: they share a chunk anyway.
const RUNS_EXACT_MAX: usize = 65_536;
const RUN_GAP: u64 = 64;

/// Marks as runs. However scattered they are, their list stays bounded: then it covers gaps between them too.
pub(super) fn bounded_runs(marks: &Bitmap) -> Vec<BlockRun> {
    let mut runs: Vec<BlockRun> = Vec::new();
    let mut coarse = false;
    let gap = RUN_GAP.max(marks.len() / RUNS_EXACT_MAX as u64);
    for (first, count) in marks.runs() {
        coarse |= runs.len() >= RUNS_EXACT_MAX;
        match runs
            .last_mut()
            .filter(|last| coarse && first < last.first + last.count + gap)
        {
            Some(last) => last.count = first + count - last.first,
            None => runs.push(BlockRun { first, count }),
        }
    }
    runs
}

impl Replica {
    /// Sends runs, in one message at least; the last one says that it is the last.
    pub(super) fn send_runs(&mut self, slot: PeerSlot, runs: &[BlockRun]) {
        let mut batches = runs.chunks(BITMAP_RUNS_MAX).peekable();
        loop {
            let runs = batches.next().unwrap_or_default().to_vec();
            let last = batches.peek().is_none();
            self.send(slot, Message::BitmapRuns { runs, last });
            if last {
                return;
            }
        }
    }

    /// What may differ from a peer's copy, suspects included.
    pub(super) fn all_marks(&self, slot: PeerSlot) -> Bitmap {
        let peer = &self.peers[slot];
        let mut marks = Bitmap::new(peer.dirty.len());
        if self.superblock.peers[slot].full_sync {
            marks.set_all();
            return marks;
        }
        let per_extent = EXTENT_BYTES / u64::from(self.superblock.block_size_bytes);
        let suspects = (peer.suspect.runs()).map(|(first, count)| (first * per_extent, count * per_extent));
        for (first, count) in peer.dirty.runs().chain(suspects) {
            let end = (first + count).min(marks.len());
            marks.set(first, end - first);
        }
        marks
    }
}
