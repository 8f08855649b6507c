//! A random walk of two nodes' histories: only reachable pairs of states, and the truth beside them.
//!
//! The model does what the core does to its metadata, a step at a time, with a block for an extent: a write enters
//! the write-intent log first, is mirrored or marked, and opens a generation when a peer is about to lack it
//! (`durable.rs`, `requests.rs`); a crash leaves what was durable (`Replica::new`); a resync goes block by block
//! and ends in two saves (`source.rs`, `target.rs`); a cleaning cycle flushes, saves marks, then clears the log
//! (`cleaning.rs`); the end of a split brain rewinds (`resolve.rs`).
//!
//! The truth knows nothing of generations and marks. It is what each block of each copy holds, what applications
//! were promised, and, of each node, whether it has told an application something without its peer since both were one:
//! acknowledged a write, a flush while the peer might lack something, or began to serve by force. From that follows
//! what a verdict must be; see [`Walk::judge`].
//!
//! Who uses force on an Inconsistent copy declares that mixture to be the truth.

use super::tests::{mirror, mirrored_name};
use super::*;
use crate::core::durable::push_history;
use crate::core::resolve::before;
use crate::wire::{Generations, HISTORY_LEN};
use std::collections::BTreeMap;

const BLOCKS: usize = 6;
/// A set of blocks.
type Blocks = u8;
const ALL: Blocks = (1 << BLOCKS) - 1;
/// What a block holds: the number of a write.
type Contents = [u32; BLOCKS];
const STEPS: u64 = 2_000_000;

type Decide = fn(&Side, &Side) -> Verdict;

#[derive(Clone)]
struct Node {
    // Durable.
    current: u64,
    history: [u64; HISTORY_LEN],
    bitmap: u64,
    full_sync: bool,
    saved_marks: Blocks,
    log: Blocks,
    disk: DiskState,
    role_primary: bool,
    last_primary: bool,
    clean: bool,
    resource_id: [u8; 16],
    // Of this life.
    up: bool,
    primary: bool,
    crashed_primary: bool,
    marks: Blocks,
    suspect: Blocks,
    unflushed: Blocks,
    // The disk: as it is read, and as a power cut leaves it at worst.
    cached: Contents,
    stable: Contents,
    // Truth: it has told an application something without its peer.
    changed: bool,
}

impl Node {
    fn blank(contents: Contents) -> Node {
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

    fn is_usable(&self) -> bool {
        self.disk != DiskState::Inconsistent
    }

    fn side(&self, name: &str) -> Side {
        Side {
            name: name.into(),
            state: NodeState {
                role: if self.primary {
                    Role::Primary
                } else {
                    Role::Secondary
                },
                disk: self.disk,
                generations: Generations {
                    current: self.current,
                    bitmap: self.bitmap,
                    history: self.history,
                },
                dirty_blocks: u64::from(self.marks.count_ones()),
                suspect_extents: u64::from(self.suspect.count_ones()),
                full_sync: self.full_sync,
                crashed_primary: self.crashed_primary,
                last_primary: self.last_primary,
                epoch: 0,
                promised: 0,
                diverged_at_s: 0,
                changed_at_s: 0,
                resuming: false,
                handshake: true,
            },
            resource_id: self.resource_id,
            block_size_bytes: 4096,
            intent: Intent::Replicate,
            policy: SplitBrainPolicy::Manual,
            priority: 0,
        }
    }

    fn flush(&mut self) {
        self.stable = self.cached;
    }

    /// A generation is wanted only where the peer is not known, durably, to be behind.
    fn open_generation_unless_tracked(&mut self, new: u64) {
        if self.bitmap == 0 && !self.full_sync {
            self.bitmap = self.current;
            push_history(&mut self.history, self.current);
            self.current = new;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Link {
    Down,
    Waiting,
    Established,
    Sync { source: usize, ending: bool },
}

struct Walk {
    random: u64,
    decide: Decide,
    nodes: [Node; 2],
    link: Link,
    version: u32,
    /// Truth: what an application that was told must find, while there is one line of data.
    acknowledged: Contents,
    flushed: Contents,
    /// Who served last, and not in vain: with its cache goes what was only acknowledged.
    server: usize,
    counts: BTreeMap<&'static str, u64>,
    over: bool,
}

fn bit(block: usize) -> Blocks {
    1 << block
}

impl Walk {
    fn new(seed: u64, decide: Decide) -> Walk {
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
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    fn id(&mut self) -> u64 {
        self.next() | 1
    }

    fn is_mirrored(&self, n: usize) -> bool {
        match self.link {
            Link::Established => true,
            Link::Sync { source, .. } => source == n,
            _ => false,
        }
    }

    fn differing(&self) -> Blocks {
        let [a, b] = &self.nodes;
        (0..BLOCKS)
            .filter(|n| a.cached[*n] != b.cached[*n])
            .fold(0, |set, n| set | bit(n))
    }

    // ---- what happens --------------------------------------------------------------------------------

    fn step(&mut self) -> Result<(), String> {
        let n = self.below(2) as usize;
        match self.below(22) {
            0..=5 => self.write(n),
            6 => self.flush(n),
            7 => self.write_interrupted(n),
            8 => self.cut(),
            9 => {
                let power = self.chance(2);
                self.crash(n, power);
            }
            10 => self.stop(n),
            11 => self.disconnect(n),
            12 => self.promote(n),
            13 => self.force(n),
            14 if self.chance(2) => self.demote(n),
            15 => self.clean(n),
            16 if self.chance(6) => self.replace(n),
            17 => self.resume(n),
            18 => self.nodes[n].up = true,
            _ => return self.go_on(),
        }
        Ok(())
    }

    /// What leads together: start, connect, resync.
    fn go_on(&mut self) -> Result<(), String> {
        for node in &mut self.nodes {
            node.up = true;
        }
        match self.link {
            Link::Down => return self.handshake(),
            Link::Waiting => {
                let n = self.below(2) as usize;
                self.choose_first_source(n);
                self.drop_link();
            }
            Link::Sync { source, ending } => {
                for _ in 0..1 + self.below(2 * BLOCKS as u64) {
                    self.copy_one(source);
                }
                if ending {
                    self.adopt(source);
                } else if self.nodes[source].marks == 0 {
                    // Durable before the target may carry the label.
                    self.nodes[source].bitmap = 0;
                    self.nodes[source].full_sync = false;
                    self.link = Link::Sync { source, ending: true };
                }
            }
            Link::Established => {}
        }
        Ok(())
    }

    fn write(&mut self, n: usize) {
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
    fn write_interrupted(&mut self, n: usize) {
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

    fn flush(&mut self, n: usize) {
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

    fn drop_link(&mut self) {
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

    fn cut(&mut self) {
        self.drop_link();
    }

    fn crash(&mut self, n: usize, power: bool) {
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
    fn clean(&mut self, n: usize) {
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

    fn demote(&mut self, n: usize) {
        if self.nodes[n].up && self.nodes[n].primary {
            self.flush(n);
            self.clean(n);
            let node = &mut self.nodes[n];
            node.primary = false;
            node.role_primary = false;
            node.clean = true;
        }
    }

    fn stop(&mut self, n: usize) {
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

    fn disconnect(&mut self, n: usize) {
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
    fn declare_truth(&mut self, n: usize) {
        let node = &self.nodes[n];
        for block in 0..BLOCKS {
            self.flushed[block] = node.cached[block].min(node.stable[block]);
        }
        self.acknowledged = self.flushed;
        self.server = n;
    }

    // ---- roles ---------------------------------------------------------------------------------------

    fn become_primary(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.role_primary = true;
        node.clean = false;
        node.last_primary = true;
        node.primary = true;
    }

    fn promote(&mut self, n: usize) {
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
    fn resume(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if self.link == Link::Down && node.role_primary && node.last_primary && node.is_usable() {
            node.up = true;
            self.become_primary(n);
        }
    }

    /// A person takes the peer for dead.
    fn force(&mut self, n: usize) {
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

    fn choose_first_source(&mut self, n: usize) {
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
    fn replace(&mut self, n: usize) {
        let peer = &self.nodes[1 - n];
        if peer.current == 0 || !peer.is_usable() {
            return;
        }
        self.crash(n, false);
        self.version += 1;
        self.nodes[n] = Node::blank([self.version; BLOCKS]);
        self.declare_truth(1 - n);
    }

    // ---- the handshake -------------------------------------------------------------------------------

    fn handshake(&mut self) -> Result<(), String> {
        let sides = [self.nodes[0].side("a"), self.nodes[1].side("b")];
        let [ours, theirs] = [
            (self.decide)(&sides[0], &sides[1]),
            (self.decide)(&sides[1], &sides[0]),
        ];
        *self.counts.entry(ours.rule).or_default() += 1;
        if theirs.direction != mirror(&ours.direction) {
            return Err(format!("no mirror images: {ours:?}, {theirs:?}"));
        }
        self.judge(&ours).map_err(|why| {
            let [a, b] = &sides;
            format!(
                "{why}: {ours:?} of {:?} and {:?}; {:?} {:?} promised {:?} changed {} {}",
                a.state,
                b.state,
                self.nodes[0].cached,
                self.nodes[1].cached,
                self.acknowledged,
                self.nodes[0].changed,
                self.nodes[1].changed
            )
        })?;
        match ours.direction {
            Direction::Established => {
                self.link = Link::Established;
                self.establish();
            }
            Direction::Wait => self.link = Link::Waiting,
            Direction::Source(scope) => self.begin_resync(0, scope == Scope::Whole),
            Direction::Target(scope) => self.begin_resync(1, scope == Scope::Whole),
            Direction::SplitBrain => self.resolve(ours.rule),
            // Two Primaries: one of them gives way. Otherwise no verdict will ever come of these two.
            Direction::Refuse if self.nodes[0].primary && self.nodes[1].primary => {
                let n = self.below(2) as usize;
                self.demote(n);
            }
            Direction::Refuse => self.over = true,
        }
        Ok(())
    }

    /// Whether the truth agrees with a verdict, given from the first node's point of view.
    fn judge(&self, verdict: &Verdict) -> Result<(), &'static str> {
        let [a, b] = &self.nodes;
        let new = [a.current == 0, b.current == 0];
        let source = match verdict.direction {
            Direction::Source(_) => Some(0),
            Direction::Target(_) => Some(1),
            _ => None,
        };
        // A node that has told nobody anything which the other lacks never keeps the other from being heard.
        match (new, [a.changed, b.changed]) {
            ([true, true], _) if verdict.direction == Direction::Wait => return Ok(()),
            ([true, true], _) => return Err("neither ever had data"),
            ([true, false], _) | (_, [false, true]) if source != Some(1) && b.is_usable() => {
                return Err("the second is the only one with something to lose")
            }
            ([false, true], _) | (_, [true, false]) if source != Some(0) && a.is_usable() => {
                return Err("the first is the only one with something to lose")
            }
            ([false, false], [true, true]) => {
                return match verdict.direction {
                    Direction::SplitBrain => Ok(()),
                    // Data that a person declared to be the first, beside others.
                    Direction::Refuse if a.resource_id != b.resource_id => Ok(()),
                    _ => Err("both have something that the other lacks"),
                };
            }
            ([false, false], [false, false]) => match verdict.direction {
                Direction::SplitBrain => return Err("neither has anything that the other lacks"),
                Direction::Refuse if (a.is_usable() || b.is_usable()) && !(a.primary && b.primary) => {
                    return Err("refused, with nothing to lose")
                }
                Direction::Source(_) | Direction::Established if b.primary && !a.primary => {
                    if source.is_some() {
                        return Err("the Primary has nothing newer against it, and is the target");
                    }
                }
                Direction::Target(_) if a.primary && !b.primary => {
                    return Err("the Primary has nothing newer against it, and is the target")
                }
                _ => {}
            },
            _ => {}
        }
        let differing = self.differing();
        let Some(source) = source else {
            return match verdict.direction {
                Direction::Established if differing != 0 => Err("copies that differ are called equal"),
                _ => Ok(()),
            };
        };
        let (from, to) = (&self.nodes[source], &self.nodes[1 - source]);
        if !from.is_usable() {
            return Err("an unusable source");
        }
        if let Direction::Source(Scope::Marked) | Direction::Target(Scope::Marked) = verdict.direction {
            let of_target = if to.current == 0 { 0 } else { to.marks | to.suspect };
            if differing & !(from.marks | from.suspect | of_target) != 0 {
                return Err("blocks that differ are not compared");
            }
        }
        if (0..BLOCKS).any(|block| from.cached[block] < self.acknowledged[block]) && !to.changed {
            return Err("the source lacks what was promised");
        }
        Ok(())
    }

    fn establish(&mut self) {
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

    fn begin_resync(&mut self, source: usize, whole: bool) {
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
        let target = &mut self.nodes[1 - source];
        if target.resource_id == [0; 16] {
            target.resource_id = id;
        }
    }

    /// One block is compared: its mark goes, and what the target has of it is not stable yet.
    fn copy_one(&mut self, source: usize) {
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
    fn adopt(&mut self, source: usize) {
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
    fn resolve(&mut self, rule: &str) {
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

/// Many histories from the first sync on; how often each rule decided.
fn walk(steps: u64, decide: Decide) -> Result<BTreeMap<&'static str, u64>, String> {
    let mut counts = BTreeMap::new();
    let mut done = 0;
    let mut seed = 0;
    while done < steps {
        seed += 1;
        let mut walk = Walk::new(seed, decide);
        for step in 0..120 {
            walk.step()
                .map_err(|why| format!("history {seed}, step {step}: {why}"))?;
            done += 1;
            if walk.over {
                break;
            }
        }
        for (rule, count) in walk.counts {
            *counts.entry(rule).or_default() += count;
        }
    }
    Ok(counts)
}

#[test]
fn every_verdict_of_a_random_walk_is_right() {
    let counts = walk(STEPS, decide).unwrap_or_else(|why| panic!("{why}"));
    // Seen from the first node.
    for rule in [
        "both-new",
        "self-new",
        "peer-new",
        "same",
        "same-dirty",
        "self-ahead",
        "peer-ahead",
        "self-far-ahead",
        "peer-far-ahead",
        "split-brain",
        "split-brain-old",
    ] {
        let count = counts.get(rule).copied().unwrap_or(0);
        assert!(
            count > 100,
            "{rule} decided {count} times: the walk does not get there"
        );
    }
}

/// Rules that are wrong in one way each: the walk has to notice every one.
#[test]
fn the_walk_finds_wrong_rules() {
    fn by_name(a: &Side, b: &Side, scope: Scope) -> Direction {
        if a.name < b.name {
            Direction::Source(scope)
        } else {
            Direction::Target(scope)
        }
    }
    fn changed(rule: &str, a: &Side, b: &Side, wrong: fn(&Side, &Side, Direction) -> Direction) -> Verdict {
        let mut verdict = decide(a, b);
        if verdict.rule == rule || verdict.rule == mirrored_name(rule) {
            verdict.direction = wrong(a, b, verdict.direction);
        }
        verdict
    }
    let wrong: [(&str, Decide); 11] = [
        ("marks at equal generations mean nothing", |a, b| {
            changed("same-dirty", a, b, |_, _, _| Direction::Established)
        }),
        ("equal generations: the first name is the source", |a, b| {
            changed("same-dirty", a, b, |a, b, _| by_name(a, b, Scope::Marked))
        }),
        ("both take themselves for the source", |a, b| {
            changed("same-dirty", a, b, |_, _, _| Direction::Source(Scope::Marked))
        }),
        ("who died as Primary has no better standing", |a, b| {
            let [a, b] = [a, b].map(|side| {
                let mut side = side.clone();
                side.state.crashed_primary = false;
                side.state.last_primary = false;
                side
            });
            decide(&a, &b)
        }),
        ("suspects are no marks", |a, b| {
            let [a, b] = [a, b].map(|side| {
                let mut side = side.clone();
                side.state.suspect_extents = 0;
                side
            });
            decide(&a, &b)
        }),
        ("who is ahead is the target", |a, b| {
            changed("peer-ahead", a, b, |_, _, direction| mirror(&direction))
        }),
        ("who is far ahead is the target", |a, b| {
            changed("peer-far-ahead", a, b, |_, _, direction| mirror(&direction))
        }),
        ("a new disk: marks are enough", |a, b| {
            changed("self-new", a, b, |_, _, direction| match direction {
                Direction::Source(_) => Direction::Source(Scope::Marked),
                Direction::Target(_) => Direction::Target(Scope::Marked),
                other => other,
            })
        }),
        ("a split brain: the first name wins", |a, b| {
            changed("split-brain", a, b, |a, b, _| by_name(a, b, Scope::Marked))
        }),
        ("an old split brain: the first name wins", |a, b| {
            changed("split-brain-old", a, b, |a, b, _| by_name(a, b, Scope::Whole))
        }),
        ("no history", |a, b| {
            let [a, b] = [a, b].map(|side| {
                let mut side = side.clone();
                side.state.generations.history = [0; HISTORY_LEN];
                side
            });
            decide(&a, &b)
        }),
    ];
    for (what, decide) in wrong {
        assert!(walk(STEPS, decide).is_err(), "not noticed: {what}");
    }
}
