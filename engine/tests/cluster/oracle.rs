//! What every block may hold: the crash oracle.
//!
//! A block may hold any value from the last one that is promised to survive up to the last one that was issued;
//! anything older, or foreign, is a failure. Promised is what was acknowledged, or, once a power cut
//! was in play, what was acknowledged before a flush that was acknowledged.

use std::collections::HashMap;

use _engine::core::RequestId;

use crate::world::{BLOCK, SIZE};

/// Number of a write; every block it covers holds this number over and over (0 for zeroes).
pub type Stamp = u64;

#[derive(Clone, Default)]
struct Block {
    /// Order of issue and contents of all writes so far.
    issued: Vec<(u64, Stamp)>,
    acknowledged: u64,
    stable: u64,
}

enum Open {
    Write {
        order: u64,
        first: u64,
        count: u64,
        fua: bool,
    },
    /// The acknowledged state when the flush was issued.
    Flush {
        promised: Vec<(u64, u64)>,
    },
    Read {
        first: u64,
        floor: Vec<u64>,
    },
}

pub struct Oracle {
    blocks: Vec<Block>,
    open: HashMap<RequestId, Open>,
    order: u64,
    pub acknowledged: u64,
    pub flushed: u64,
}

impl Oracle {
    pub fn new() -> Oracle {
        Oracle {
            blocks: vec![Block::default(); (SIZE / BLOCK) as usize],
            open: HashMap::new(),
            order: 0,
            acknowledged: 0,
            flushed: 0,
        }
    }

    pub fn stamp_bytes(stamp: Stamp, blocks: u64) -> Vec<u8> {
        stamp.to_le_bytes().repeat((blocks * BLOCK / 8) as usize)
    }

    /// Numbers a write before it is issued.
    pub fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    pub fn issued(&mut self, id: RequestId, order: u64, stamp: Stamp, first: u64, count: u64, fua: bool) {
        for block in first..first + count {
            self.blocks[block as usize].issued.push((order, stamp));
        }
        self.open.insert(
            id,
            Open::Write {
                order,
                first,
                count,
                fua,
            },
        );
    }

    pub fn flush_issued(&mut self, id: RequestId) {
        let promised = (self.blocks.iter().enumerate())
            .filter(|(_, block)| block.acknowledged > block.stable)
            .map(|(n, block)| (n as u64, block.acknowledged))
            .collect();
        self.open.insert(id, Open::Flush { promised });
    }

    pub fn read_issued(&mut self, id: RequestId, first: u64, count: u64) {
        let floor = (first..first + count)
            .map(|n| self.blocks[n as usize].acknowledged)
            .collect();
        self.open.insert(id, Open::Read { first, floor });
    }

    pub fn replied(&mut self, id: RequestId, ok: bool, data: Option<&[u8]>) -> Result<(), String> {
        match self.open.remove(&id) {
            Some(Open::Write {
                order,
                first,
                count,
                fua,
            }) if ok => {
                self.acknowledged += 1;
                for n in first..first + count {
                    let block = &mut self.blocks[n as usize];
                    block.acknowledged = block.acknowledged.max(order);
                    if fua {
                        block.stable = block.stable.max(order);
                    }
                }
            }
            Some(Open::Flush { promised }) if ok => {
                self.flushed += 1;
                for (n, order) in promised {
                    let block = &mut self.blocks[n as usize];
                    block.stable = block.stable.max(order);
                }
            }
            Some(Open::Read { first, floor }) => {
                if let (true, Some(data)) = (ok, data) {
                    for (n, floor) in floor.into_iter().enumerate() {
                        let bytes = &data[n * BLOCK as usize..(n + 1) * BLOCK as usize];
                        self.check_block(first + n as u64, bytes, floor)?;
                    }
                }
            }
            None => return Err(format!("{id:?} was answered twice, or never asked")),
            _ => {}
        }
        Ok(())
    }

    /// The node that served them is gone: nobody will answer.
    pub fn forget_open(&mut self) {
        self.open.clear();
    }

    pub fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Power went: only what was flushed is promised still.
    pub fn power_was_cut(&mut self) {
        for block in &mut self.blocks {
            block.acknowledged = block.stable;
        }
    }

    fn check_block(&self, n: u64, bytes: &[u8], floor: u64) -> Result<(), String> {
        let stamp = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        if bytes.chunks(8).any(|word| word != stamp.to_le_bytes()) {
            return Err(format!("block {n} is a mixture"));
        }
        let block = &self.blocks[n as usize];
        let allowed = (floor == 0 && stamp == 0)
            || block
                .issued
                .iter()
                .any(|(order, value)| *order >= floor && *value == stamp);
        if allowed {
            return Ok(());
        }
        let age = block
            .issued
            .iter()
            .rev()
            .find(|(_, value)| *value == stamp)
            .map(|(order, _)| *order);
        Err(format!(
            "block {n} holds write {age:?} (stamp {stamp}), but {floor} is promised"
        ))
    }

    pub fn check_disk(&self, contents: &[u8]) -> Result<(), String> {
        for (n, bytes) in contents.chunks(BLOCK as usize).enumerate() {
            self.check_block(n as u64, bytes, self.blocks[n].acknowledged)?;
        }
        Ok(())
    }
}
