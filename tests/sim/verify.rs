//! Both copies are compared in the midst of everything else: whatever is found must have changed by itself. In the end
//! something does, beside an application that writes, and all of it must be found, where it is, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use _engine::core::*;

use crate::disk::{FOREIGN, PAGE, PAGES, SIZE};
use crate::plan::{places, Op};
use crate::run::Run;
use crate::world::{Violation, MS, NAMES};

/// Differences that are planted at most.
const PLANTED_MAX: u64 = 50;

#[derive(Default)]
pub struct Comparing {
    /// Commands without an answer yet: of which node, and in which life of it.
    asked: BTreeMap<CommandId, (usize, u32)>,
    /// The life of each node in which it began one that has not ended.
    under_way: [Option<u32>; 2],
    /// Why the last one that each node drove was cut short; None: it was not.
    cut: [Option<Cut>; 2],
    /// Where blocks begin that have changed by themselves.
    planted: BTreeSet<u64>,
    found: [BTreeSet<u64>; 2],
    /// Bytes that each node was told to be the same.
    proved: [u64; 2],
}

impl Run {
    /// Has a node compare so many pages.
    pub fn compare(&mut self, n: usize, first: usize, count: usize) {
        if !self.world.is_up(n) {
            return;
        }
        let (offset, len) = (first as u64 * PAGE, count as u64 * PAGE);
        let id = self.world.command(
            n,
            Command::Verify {
                offset,
                len,
                max_rate: None,
            },
        );
        self.comparing
            .asked
            .insert(id, (n, self.world.nodes[n].life));
    }

    /// What differs has changed by itself.
    pub fn check_verified(&mut self) -> Result<(), Violation> {
        let (world, comparing) = (&mut self.world, &mut self.comparing);
        let lives = [0, 1].map(|n| world.nodes[n].replica.as_ref().map(|_| world.nodes[n].life));
        for (n, now) in lives.into_iter().enumerate() {
            comparing.under_way[n] = comparing.under_way[n].filter(|life| now == Some(*life));
        }
        comparing.asked.retain(|id, (n, life)| {
            let Some(result) = world.commands.get(id) else {
                return lives[*n] == Some(*life);
            };
            if result.is_ok() {
                world.counts.add("verifies", 1);
                comparing.under_way[*n] = lives[*n].filter(|now| now == life);
            }
            false
        });
        for (n, what) in std::mem::take(&mut world.verified) {
            match what {
                Verified::Found { offset, len, .. } => {
                    let first = (offset / PAGE) as usize;
                    let pages = first..first + len as usize / PAGE as usize;
                    let lost = world.lost.range(pages).next().is_some();
                    if !lost && !comparing.planted.contains(&offset) {
                        let [a, b] = [0, 1].map(|n| world.nodes[n].data.current(first));
                        return Err(format!(
                            "V: {} says that the block at page {first} differs ({a}, {b} there), and nothing changed by itself",
                            NAMES[n]
                        ));
                    }
                    world
                        .counts
                        .add("findings of what a disk had lost", u64::from(lost));
                    comparing.found[n].insert(offset);
                }
                Verified::Proved { len, .. } => comparing.proved[n] += len,
                Verified::Skipped { .. } => {
                    world.counts.add("marked ranges that a verify left out", 1)
                }
                Verified::Ended { cut } => {
                    let how = if cut.is_some() {
                        "verifies cut short"
                    } else {
                        "verifies to the end"
                    };
                    world.counts.add(how, 1);
                    comparing.under_way[n] = None;
                    comparing.cut[n] = cut;
                }
            }
        }
        Ok(())
    }

    /// Each that began has ended, or does so by itself.
    pub fn verifies_end(&mut self) -> Result<(), Violation> {
        self.expect("the end of a verify", |run| {
            run.comparing.asked.is_empty() && run.comparing.under_way == [None; 2]
        })
    }

    /// On either disk something changes that nobody wrote.
    pub fn plant_and_find(&mut self) -> Result<(), Violation> {
        let Some(n) = (0..2).find(|n| self.world.nodes[*n].exported) else {
            return Err(format!("nobody is Primary in the end: {}", self.describe()));
        };
        self.verifies_end()?;
        self.plant();
        (self.comparing.proved, self.comparing.found) = Default::default();
        self.compare(n, 0, PAGES);
        let to_the_end = self.world.counts.get("verifies to the end");
        self.wait(60_000 * MS, |run| {
            let first = 1015 + run.world.rng.below(16) as usize;
            run.issue(Op::Write {
                first,
                count: 1,
                fua: false,
            });
            run.comparing.asked.is_empty() && run.comparing.under_way[n].is_none()
        })?;
        if self.world.counts.get("verifies to the end") == to_the_end {
            return Err(format!(
                "V: {} did not compare everything: {:?}; {}",
                NAMES[n],
                self.comparing.cut[n],
                self.describe()
            ));
        }
        // The other node is told, and every write has its answer.
        self.expect("every request has its answer", |run| !run.oracle.has_open())?;
        let comparing = &self.comparing;
        for node in [n, 1 - n] {
            if comparing.found[node] != comparing.planted {
                let missed = &comparing.planted - &comparing.found[node];
                return Err(format!(
                    "V: {} knows nothing of what changed at {missed:?}",
                    NAMES[node]
                ));
            }
        }
        let differ = comparing.planted.len() as u64 * u64::from(self.world.settings.block_size);
        if comparing.proved[n] + differ != SIZE {
            return Err(format!(
                "V: {} bytes were the same and {differ} not, of {SIZE}",
                comparing.proved[n]
            ));
        }
        Ok(())
    }

    fn plant(&mut self) {
        let per_block = u64::from(self.world.settings.block_size) / PAGE;
        let block_of = |page: usize| page as u64 / per_block;
        // What the application writes over is mended by that.
        let written: BTreeSet<u64> = places().into_iter().map(block_of).collect();
        for stamp in 0..1 + self.world.rng.below(PLANTED_MAX) {
            let page = self.world.rng.below(PAGES as u64) as usize;
            let n = self.world.rng.below(2) as usize;
            if !written.contains(&block_of(page)) {
                self.world.nodes[n]
                    .data
                    .write(page, 2 * FOREIGN + stamp, true);
            }
        }
        let [a, b] = &self.world.nodes;
        self.comparing.planted = (0..PAGES)
            .filter(|page| a.data.current(*page) != b.data.current(*page))
            .map(|page| block_of(page) * per_block * PAGE)
            .collect();
        let count = self.comparing.planted.len() as u64;
        self.world.counts.add("planted differences", count);
    }
}
