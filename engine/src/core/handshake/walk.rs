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
//! Who uses force on an Inconsistent copy declares that mixture to be the truth, and parts from the copy it was to become.

mod model;

use self::model::{Link, Walk};
use super::tests::{mirror, mirrored_name};
use super::*;
use crate::wire::HISTORY_LEN;
use std::collections::BTreeMap;

const BLOCKS: usize = 6;
/// A set of blocks.
type Blocks = u8;
const ALL: Blocks = (1 << BLOCKS) - 1;
/// What a block holds: the number of a write.
type Contents = [u32; BLOCKS];
const STEPS: u64 = 2_000_000;

type Decide = fn(&Side, &Side) -> Verdict;

impl Walk {
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
                Direction::Source(_) if b.primary && !a.primary => {
                    return Err("the Primary has nothing newer against it, and is the target")
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
