//! The model's two nodes and what can happen to them; see the walk for what each step stands for.

use super::super::*;
use super::{Blocks, Contents, Decide, ALL, BLOCKS};
use crate::core::durable::push_history;
use crate::core::resolve::before;
use crate::wire::HISTORY_LEN;
use std::collections::BTreeMap;

#[derive(Clone)]
pub(super) struct Node {
    // Durable.
    pub(super) current: u64,
    pub(super) history: [u64; HISTORY_LEN],
    pub(super) bitmap: u64,
    pub(super) full_sync: bool,
    pub(super) saved_marks: Blocks,
    pub(super) log: Blocks,
    pub(super) disk: DiskState,
    pub(super) role_primary: bool,
    pub(super) last_primary: bool,
    pub(super) clean: bool,
    pub(super) resource_id: [u8; 16],
    // Of this life.
    pub(super) up: bool,
    pub(super) primary: bool,
    pub(super) crashed_primary: bool,
    pub(super) marks: Blocks,
    pub(super) suspect: Blocks,
    pub(super) unflushed: Blocks,
    // The disk: as it is read, and as a power cut leaves it at worst.
    pub(super) cached: Contents,
    pub(super) stable: Contents,
    // Truth: it has told an application something without its peer.
    pub(super) changed: bool,
}

impl Node {
    pub(super) fn blank(contents: Contents) -> Node {
        Node {
            current: 0,
            history: [0; HISTORY_LEN],
            bitmap: 0,
            full_sync: true,
            saved_marks: 0,
            log: 0,
            disk: DiskState::Inconsistent,
            role_primary: false,
            last_primary: false,
            clean: true,
            resource_id: [0; 16],
            up: true,
            primary: false,
            crashed_primary: false,
            marks: ALL,
            suspect: 0,
            unflushed: 0,
            cached: contents,
            stable: contents,
            changed: false,
        }
    }

    pub(super) fn is_usable(&self) -> bool {
        self.disk != DiskState::Inconsistent
    }

    pub(super) fn side(&self, name: &str) -> Side {
        let blank = tests::side(name, self.current, self.bitmap, &self.history);
        Side {
            state: NodeState {
                role: if self.primary {
                    Role::Primary
                } else {
                    Role::Secondary
                },
                disk: self.disk,
                dirty_blocks: u64::from(self.marks.count_ones()),
                suspect_extents: u64::from(self.suspect.count_ones()),
                full_sync: self.full_sync,
                crashed_primary: self.crashed_primary,
                last_primary: self.last_primary,
                ..blank.state.clone()
            },
            resource_id: self.resource_id,
            ..blank
        }
    }

    pub(super) fn flush(&mut self) {
        self.stable = self.cached;
    }

    /// A generation is wanted only where the peer is not known, durably, to be behind.
    pub(super) fn open_generation_unless_tracked(&mut self, new: u64) {
        if self.bitmap == 0 && !self.full_sync {
            self.open_generation(new);
        }
    }

    pub(super) fn open_generation(&mut self, new: u64) {
        if self.bitmap == 0 {
            self.bitmap = self.current;
        }
        push_history(&mut self.history, self.current);
        self.current = new;
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    Down,
    Waiting,
    Established,
    Sync { source: usize, ending: bool },
}

pub(super) struct Walk {
    pub(super) random: u64,
    pub(super) decide: Decide,
    pub(super) nodes: [Node; 2],
    pub(super) link: Link,
    pub(super) version: u32,
    /// Truth: what an application that was told must find, while there is one line of data.
    pub(super) acknowledged: Contents,
    pub(super) flushed: Contents,
    /// Who served last, and not in vain: with its cache goes what was only acknowledged.
    pub(super) server: usize,
    pub(super) counts: BTreeMap<&'static str, u64>,
    pub(super) over: bool,
}

pub(super) fn bit(block: usize) -> Blocks {
    1 << block
}

impl Walk {
    pub(super) fn new(seed: u64, decide: Decide) -> Walk {
        Walk {
            random: seed << 32,
            decide,
            nodes: [Node::blank([1; BLOCKS]), Node::blank([2; BLOCKS])],
            link: Link::Down,
            version: 2,
            acknowledged: [0; BLOCKS],
            flushed: [0; BLOCKS],
            server: 0,
            counts: BTreeMap::new(),
            over: false,
        }
    }

    /// SplitMix64.
    pub(super) fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    pub(super) fn id(&mut self) -> u64 {
        self.next() | 1
    }

    pub(super) fn is_mirrored(&self, n: usize) -> bool {
        match self.link {
            Link::Established => true,
            Link::Sync { source, .. } => source == n,
            _ => false,
        }
    }

    pub(super) fn differing(&self) -> Blocks {
        let [a, b] = &self.nodes;
        (0..BLOCKS)
            .filter(|n| a.cached[*n] != b.cached[*n])
            .fold(0, |set, n| set | bit(n))
    }

    pub(super) fn write(&mut self, n: usize) {
        if !self.nodes[n].primary {
            return;
        }
        let block = self.below(BLOCKS as u64) as usize;
        self.version += 1;
        let version = self.version;
        let mirrored = self.is_mirrored(n);
        let id = self.id();
        let node = &mut self.nodes[n];
        node.log |= bit(block);
        node.cached[block] = version;
        if mirrored {
            node.unflushed |= bit(block);
            self.nodes[1 - n].cached[block] = version;
        } else {
            node.open_generation_unless_tracked(id);
            node.marks |= bit(block);
            node.changed = true;
        }
        self.acknowledged[block] = version;
        self.server = n;
    }

    /// On its way to either disk when something happens.
    pub(super) fn write_interrupted(&mut self, n: usize) {
        if !self.nodes[n].primary || !self.is_mirrored(n) {
            return;
        }
        let block = self.below(BLOCKS as u64) as usize;
        self.version += 1;
        let version = self.version;
        self.nodes[n].log |= bit(block);
        self.nodes[n].unflushed |= bit(block);
        for at in 0..2 {
            if self.chance(2) {
                self.nodes[at].cached[block] = version;
            }
        }
        let power = self.chance(2);
        match self.below(3) {
            0 => return self.crash(n, power),
            1 => self.crash(1 - n, power),
            _ => self.cut(),
        }
        // The Primary is still there: the write ends well, without its peer.
        let id = self.id();
        let node = &mut self.nodes[n];
        node.marks |= bit(block);
        node.cached[block] = version;
        node.open_generation_unless_tracked(id);
        node.changed = true;
        self.acknowledged[block] = version;
        self.server = n;
    }

    pub(super) fn flush(&mut self, n: usize) {
        if !self.nodes[n].primary {
            return;
        }
        let mirrored = self.is_mirrored(n);
        let id = self.id();
        let node = &mut self.nodes[n];
        if mirrored {
            node.unflushed = 0;
            self.nodes[1 - n].flush();
        } else if node.marks | node.suspect != 0 {
            node.open_generation_unless_tracked(id);
            node.changed = true;
        }
        self.nodes[n].flush();
        if self.server == n {
            self.flushed = self.acknowledged;
        }
    }

    pub(super) fn drop_link(&mut self) {
        if let Link::Sync { source, .. } = self.link {
            if self.chance(2) {
                // Data that the target has written, and not confirmed.
                let block = self.below(BLOCKS as u64) as usize;
                if self.nodes[source].marks & bit(block) != 0 {
                    self.nodes[source].log |= bit(block);
                    self.nodes[1 - source].cached[block] = self.nodes[source].cached[block];
                }
            }
        }
        for node in &mut self.nodes {
            node.suspect |= std::mem::take(&mut node.unflushed);
        }
        self.link = Link::Down;
    }

    pub(super) fn cut(&mut self) {
        self.drop_link();
    }

    pub(super) fn crash(&mut self, n: usize, power: bool) {
        if !self.nodes[n].up {
            return;
        }
        self.drop_link();
        let mut contents = self.nodes[n].cached;
        if power {
            for (block, content) in contents.iter_mut().enumerate() {
                if self.chance(2) {
                    *content = self.nodes[n].stable[block];
                }
            }
            self.nodes[n].stable = contents;
            if self.server == n {
                self.acknowledged = self.flushed;
            }
        }
        let node = &mut self.nodes[n];
        node.cached = contents;
        node.crashed_primary = node.role_primary && !node.clean;
        node.primary = false;
        node.up = false;
        node.marks = if node.full_sync { ALL } else { node.saved_marks };
        node.suspect = node.log;
        node.unflushed = 0;
    }

    /// A cycle of the cleaning: flush, save the marks, then shrink the log.
    pub(super) fn clean(&mut self, n: usize) {
        if !self.nodes[n].up {
            return;
        }
        if self.is_mirrored(n) {
            self.nodes[1 - n].flush();
            self.nodes[n].unflushed = 0;
        }
        let running = matches!(self.link, Link::Sync { source, .. } if source == n);
        let node = &mut self.nodes[n];
        node.flush();
        if !node.full_sync || running {
            node.saved_marks = node.marks;
            node.full_sync = false;
        }
        node.log &= node.suspect | node.unflushed;
    }

    pub(super) fn demote(&mut self, n: usize) {
        if self.nodes[n].up && self.nodes[n].primary {
            self.flush(n);
            self.clean(n);
            let node = &mut self.nodes[n];
            node.primary = false;
            node.role_primary = false;
            node.clean = true;
        }
    }

    pub(super) fn stop(&mut self, n: usize) {
        if !self.nodes[n].up {
            return;
        }
        if self.nodes[n].primary {
            self.flush(n);
        }
        self.drop_link();
        self.clean(n);
        self.nodes[n].clean = !self.nodes[n].crashed_primary;
        self.crash(n, false);
    }

    pub(super) fn disconnect(&mut self, n: usize) {
        let established = self.link == Link::Established;
        if self.is_mirrored(n) && !self.nodes[1 - n].primary {
            self.nodes[1 - n].flush();
            self.nodes[n].unflushed = 0;
        }
        if established && self.nodes[n].primary {
            self.nodes[1 - n].disk = DiskState::Outdated;
        }
        self.drop_link();
    }

    /// Whatever was promised before: this copy is what counts from here on.
    pub(super) fn declare_truth(&mut self, n: usize) {
        let node = &self.nodes[n];
        for block in 0..BLOCKS {
            self.flushed[block] = node.cached[block].min(node.stable[block]);
        }
        self.acknowledged = self.flushed;
        self.server = n;
    }

    // ---- roles ---------------------------------------------------------------------------------------

    pub(super) fn become_primary(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.role_primary = true;
        node.clean = false;
        node.last_primary = true;
        node.primary = true;
    }

    pub(super) fn promote(&mut self, n: usize) {
        let node = &self.nodes[n];
        let may = node.up && node.current != 0 && node.is_usable();
        let asked = match self.link {
            Link::Down => node.last_primary,
            Link::Waiting => false,
            Link::Established => !self.nodes[1 - n].primary,
            Link::Sync { source, .. } => source == n,
        };
        if may && asked {
            if self.link != Link::Down {
                self.nodes[1 - n].last_primary = false;
                self.server = n;
            }
            self.become_primary(n);
        }
    }

    /// Its daemon died as Primary; nobody answers, so that it goes on.
    pub(super) fn resume(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if self.link == Link::Down && node.role_primary && node.last_primary && node.is_usable() {
            node.up = true;
            self.become_primary(n);
        }
    }

    /// A person takes the peer for dead.
    pub(super) fn force(&mut self, n: usize) {
        let id = self.id();
        let node = &mut self.nodes[n];
        if self.link != Link::Down || !node.up || node.primary || node.current == 0 {
            return;
        }
        let whole = node.is_usable();
        node.disk = DiskState::UpToDate;
        node.open_generation_unless_tracked(id);
        node.changed = true;
        self.become_primary(n);
        self.server = n;
        // It may have lost what was not flushed.
        self.acknowledged = self.flushed;
        if !whole {
            self.declare_truth(n);
        }
    }

    pub(super) fn choose_first_source(&mut self, n: usize) {
        let id = self.id();
        let node = &mut self.nodes[n];
        node.current = id;
        if node.resource_id == [0; 16] {
            node.resource_id[..8].copy_from_slice(&id.to_le_bytes());
        }
        node.disk = DiskState::UpToDate;
        node.last_primary = true;
        node.changed = true;
        self.declare_truth(n);
    }

    /// Another disk in a node whose peer has a good copy: that is the truth from there on.
    pub(super) fn replace(&mut self, n: usize) {
        let peer = &self.nodes[1 - n];
        if peer.current == 0 || !peer.is_usable() {
            return;
        }
        self.crash(n, false);
        self.version += 1;
        self.nodes[n] = Node::blank([self.version; BLOCKS]);
        self.declare_truth(1 - n);
    }

    // ---- a resync, and the end of a split brain -----------------------------------------------------

    pub(super) fn establish(&mut self) {
        for n in 0..2 {
            let peer_is_primary = self.nodes[1 - n].primary;
            let node = &mut self.nodes[n];
            node.crashed_primary = false;
            node.bitmap = 0;
            node.disk = DiskState::UpToDate;
            node.role_primary = node.primary;
            node.last_primary &= !peer_is_primary;
        }
    }

    pub(super) fn begin_resync(&mut self, source: usize, whole: bool) {
        let id = self.nodes[source].resource_id;
        let target = &mut self.nodes[1 - source];
        target.primary = false;
        target.disk = DiskState::Inconsistent;
        target.role_primary = false;
        target.last_primary = false;
        target.marks |= std::mem::take(&mut target.suspect);
        let of_target = if target.current == 0 { 0 } else { target.marks };
        let node = &mut self.nodes[source];
        if whole {
            node.full_sync = true;
            node.marks = ALL;
        }
        node.marks |= std::mem::take(&mut node.suspect) | of_target;
        self.link = Link::Sync {
            source,
            ending: false,
        };
        // A cut before the source has its marks: the target does not carry the id yet.
        if self.chance(8) {
            return self.drop_link();
        }
        let new = self.id();
        let theirs = self.nodes[1 - source].current;
        let node = &mut self.nodes[source];
        if node.current == theirs {
            node.open_generation(new);
        }
        // The target is to become like it: a target that a person forces half-way has parted from it.
        node.changed = true;
        let target = &mut self.nodes[1 - source];
        if target.resource_id == [0; 16] {
            target.resource_id = id;
        }
    }

    /// One block is compared: its mark goes, and what the target has of it is not stable yet.
    pub(super) fn copy_one(&mut self, source: usize) {
        let marked = self.nodes[source].marks;
        if marked == 0 {
            return;
        }
        let block = marked.trailing_zeros() as usize;
        let content = self.nodes[source].cached[block];
        self.nodes[1 - source].cached[block] = content;
        let node = &mut self.nodes[source];
        node.log |= bit(block);
        node.unflushed |= bit(block);
        node.marks &= !bit(block);
    }

    /// The label follows the data; from here on both are one again.
    pub(super) fn adopt(&mut self, source: usize) {
        let Node {
            current,
            history,
            resource_id,
            ..
        } = self.nodes[source];
        let target = &mut self.nodes[1 - source];
        target.flush();
        (target.current, target.history, target.resource_id) = (current, history, resource_id);
        target.disk = DiskState::UpToDate;
        (target.bitmap, target.full_sync, target.marks) = (0, false, 0);
        target.crashed_primary = false;
        target.changed = false;
        self.nodes[source].changed = false;
        if self.chance(4) {
            // Cut off before the source hears of it.
            return self.drop_link();
        }
        self.link = Link::Established;
        self.establish();
    }

    /// A person decides, mostly: the victim's marks become durable, then it goes back to the common ancestor.
    pub(super) fn resolve(&mut self, rule: &str) {
        let n = self.below(2) as usize;
        if self.chance(3) || !self.nodes[1 - n].is_usable() {
            return;
        }
        self.demote(n);
        let victim = &mut self.nodes[n];
        victim.marks |= std::mem::take(&mut victim.suspect);
        victim.saved_marks = victim.marks;
        if rule == "split-brain" {
            victim.history = before(&victim.history, victim.bitmap);
            victim.current = victim.bitmap;
        } else {
            (victim.current, victim.history) = (0, [0; HISTORY_LEN]);
            victim.resource_id = [0; 16];
            victim.full_sync = true;
            victim.marks = ALL;
        }
        victim.bitmap = 0;
        victim.disk = DiskState::Inconsistent;
        victim.role_primary = false;
        victim.last_primary = false;
        victim.crashed_primary = false;
        victim.changed = false;
        self.declare_truth(1 - n);
    }
}
