//! What a peer that only asks is told, and what the asking side needs of itself: nothing changes by it.

use super::replica::Replica;
use super::types::PeerSlot;
use crate::meta::EXTENT_BYTES;
use crate::wire::{BlockRun, Hello, Intent, NodeState, BITMAP_RUNS_MAX};

/// Runs that a consultation lists, at most; beyond, the counts in the state have to do.
pub const CONSULTED_RUNS_MAX: usize = 16 * BITMAP_RUNS_MAX;

/// One side's inputs of a handshake, as they are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consultation {
    pub hello: Hello,
    pub state: NodeState,
    /// Blocks marked for the other side, suspect ones included, in rising order and apart from each other; `None`
    /// where there are too many runs.
    pub marks: Option<Vec<BlockRun>>,
}

impl Replica {
    /// What a connection to this peer would begin with on this side. `report`: for the Hello's intent.
    pub fn consultation(&self, slot: PeerSlot, report: bool) -> Consultation {
        let mut hello = self.own_hello(slot, 0);
        hello.intent = Intent::Consult { report };
        Consultation {
            hello,
            state: self.own_state(slot, true),
            marks: self.marked_runs(slot),
        }
    }

    fn marked_runs(&self, slot: PeerSlot) -> Option<Vec<BlockRun>> {
        let peer = &self.peers[slot];
        let per_extent = EXTENT_BYTES / u64::from(self.superblock.block_size_bytes);
        let blocks = peer.dirty.len();
        let suspects = peer.suspect.runs().map(|(first, count)| {
            let end = ((first + count) * per_extent).min(blocks);
            (first * per_extent, end - first * per_extent)
        });
        let all = suspects.chain(peer.dirty.runs());
        let runs: Vec<BlockRun> = all
            .take(CONSULTED_RUNS_MAX + 1)
            .map(|(first, count)| BlockRun { first, count })
            .collect();
        (runs.len() <= CONSULTED_RUNS_MAX).then(|| union(runs))
    }
}

/// The same blocks in rising order, in runs that are apart from each other.
pub fn union(mut runs: Vec<BlockRun>) -> Vec<BlockRun> {
    runs.sort_unstable_by_key(|run| run.first);
    let mut joined: Vec<BlockRun> = Vec::with_capacity(runs.len());
    for run in runs {
        match joined.last_mut() {
            Some(last) if run.first <= last.first + last.count => {
                let end = (run.first + run.count).max(last.first + last.count);
                last.count = end - last.first;
            }
            _ => joined.push(run),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_union_has_every_block_once() {
        let run = |first, count| BlockRun { first, count };
        let runs = vec![run(9, 1), run(0, 4), run(2, 1), run(3, 3), run(6, 1), run(20, 2)];
        assert_eq!(union(runs), [run(0, 7), run(9, 1), run(20, 2)]);
        assert_eq!(union(Vec::new()), []);
    }
}
