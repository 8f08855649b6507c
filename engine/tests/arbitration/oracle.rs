//! What the walk knows: who was promised what.

use std::collections::BTreeMap;

use _engine::core::*;
use _engine::payload::Payload;
use _engine::wire::DiskState;

use crate::world::{World, BLOCK};

pub const BLOCKS: u64 = 12;
pub const NAMES: [&str; 2] = ["a", "b"];

enum Open {
    Write {
        block: u64,
        stamp: u64,
    },
    /// What must not be older than this is read.
    Read {
        block: u64,
        floor: u64,
    },
    Flush {
        acknowledged: BTreeMap<u64, u64>,
    },
}

#[derive(Default)]
pub struct Oracle {
    open: BTreeMap<RequestId, (usize, Open)>,
    /// The newest acknowledged stamp of each block; and of what was flushed after that.
    acknowledged: BTreeMap<u64, u64>,
    flushed: BTreeMap<u64, u64>,
    stamps: u64,
    /// Power is cut: only what was flushed is promised.
    pub power: bool,
    /// A person has forced something: nothing is promised any more.
    pub forced: bool,
    registers: usize,
    /// The arbiter has lost its record since its last change: what follows is given by both nodes together.
    pub forgotten: bool,
    pub acknowledgements: u64,
    pub reads: u64,
}

fn stamp_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

impl Oracle {
    fn floor(&self) -> &BTreeMap<u64, u64> {
        if self.power {
            &self.flushed
        } else {
            &self.acknowledged
        }
    }

    /// Its requests get no answer any more; and what was not flushed, power has taken.
    pub fn died(&mut self, n: usize, power: bool) {
        if power {
            self.acknowledged.clone_from(&self.flushed);
        }
        self.open.retain(|_, (node, _)| *node != n);
    }

    pub fn write(&mut self, world: &mut World, n: usize, fua: bool) {
        let block = world.rng.below(BLOCKS);
        let busy = |(_, open): &(usize, Open)| matches!(open, Open::Write { block: b, .. } if *b == block);
        // One at a time a block: the stamps tell which is newer.
        if self.open.values().any(busy) {
            return;
        }
        self.stamps += 1;
        let stamp = self.stamps;
        let mut bytes = vec![0; BLOCK as usize];
        bytes[..8].copy_from_slice(&stamp.to_le_bytes());
        let payload = Payload::copy_from(&bytes);
        let offset = block * 91 * BLOCK;
        let kind = RequestKind::Write { offset, payload, fua };
        let id = world.next_request();
        self.open.insert(id, (n, Open::Write { block, stamp }));
        world.note(format!("{} is to write {stamp} to block {block}", NAMES[n]));
        world.request_as(id, n, kind);
    }

    pub fn read(&mut self, world: &mut World, n: usize) {
        let block = world.rng.below(BLOCKS);
        let floor = self.floor().get(&block).copied().unwrap_or(0);
        let kind = RequestKind::Read {
            offset: block * 91 * BLOCK,
            len: BLOCK as u32,
        };
        let id = world.next_request();
        self.open.insert(id, (n, Open::Read { block, floor }));
        world.request_as(id, n, kind);
    }

    pub fn flush(&mut self, world: &mut World, n: usize) {
        let acknowledged = self.acknowledged.clone();
        let id = world.next_request();
        world.note(format!("{} is to flush", NAMES[n]));
        self.open.insert(id, (n, Open::Flush { acknowledged }));
        world.request_as(id, n, RequestKind::Flush);
    }

    /// Takes in what has happened since the last call.
    ///
    /// # Errors
    /// The invariant that does not hold any more.
    pub fn look(&mut self, world: &mut World) -> Result<(), String> {
        let mut written = Vec::new();
        for (n, id, result) in std::mem::take(&mut world.replies) {
            let Some((_, open)) = self.open.remove(&id) else {
                continue;
            };
            let Ok(data) = result else { continue };
            match open {
                Open::Write { block, stamp } => {
                    world.note(format!("{} acknowledges {stamp} of block {block}", NAMES[n]));
                    self.acknowledgements += 1;
                    self.acknowledged.insert(block, stamp);
                    written.push(block);
                }
                Open::Read { block, floor } => {
                    self.reads += 1;
                    let found = stamp_of(&data.expect("a read has data"));
                    if found < floor && !self.forced {
                        return Err(format!(
                            "a stale read: {} answers {found} for block {block}, where {floor} was acknowledged before",
                            NAMES[n]
                        ));
                    }
                }
                Open::Flush { acknowledged } => {
                    world.note(format!("{} has flushed", NAMES[n]));
                    for (block, stamp) in acknowledged {
                        let newest = self.flushed.entry(block).or_default();
                        *newest = stamp.max(*newest);
                    }
                    written.extend(0..BLOCKS);
                }
            }
        }
        let changed = world.registers.len() != self.registers;
        if changed {
            self.changes(world)?;
        }
        if changed || !written.is_empty() {
            self.durable(world)?;
        }
        let split = world
            .nodes
            .iter()
            .any(|node| node.records.contains(&"split_brain.found"));
        if split && !self.forced {
            return Err("I3: a split brain, and nobody forced anything".into());
        }
        Ok(())
    }

    fn changes(&mut self, world: &World) -> Result<(), String> {
        for pair in world.registers[self.registers.saturating_sub(1)..].windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            let anew = std::mem::take(&mut self.forgotten);
            if !before.in_sync.contains(&after.primary) && !self.forced && !anew {
                return Err(format!("I4: {after:?} after {before:?}"));
            }
        }
        self.registers = world.registers.len();
        Ok(())
    }

    /// I1: on every node in sync. A target of a resync is in sync at the arbiter for a while, and no candidate.
    fn durable(&self, world: &World) -> Result<(), String> {
        let Some(held) = world.register.as_ref().filter(|_| !self.forced) else {
            return Ok(());
        };
        let members = (0..2).filter(|n| held.in_sync.contains(NAMES[*n]));
        for n in members {
            if self.power && world.superblock(n).disk == DiskState::Inconsistent {
                continue;
            }
            for (block, stamp) in self.floor() {
                let found = stamp_of(&world.nodes[n].data.read(block * 91 * BLOCK, 8));
                if found < *stamp {
                    return Err(format!(
                        "I1: {stamp} of block {block} was acknowledged, and {} in {held:?} has {found}",
                        NAMES[n]
                    ));
                }
            }
        }
        Ok(())
    }

    /// In the end: both have all of it.
    ///
    /// # Errors
    /// What is missing.
    pub fn all_there(&self, world: &World) -> Result<(), String> {
        if world.nodes[0].data.contents() != world.nodes[1].data.contents() {
            return Err("the copies differ in the end".into());
        }
        for (block, stamp) in self.floor() {
            let found = stamp_of(&world.nodes[0].data.read(block * 91 * BLOCK, 8));
            if found < *stamp && !self.forced {
                return Err(format!(
                    "I1: {stamp} of block {block} is lost in the end: {found}"
                ));
            }
        }
        Ok(())
    }
}
