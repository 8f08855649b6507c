//! The verdict of a handshake: which way to sync, if at all.
//!
//! [`RULES`] are data: each looks at an ordered pair of sides, and the first that matches decides. The order is DRBD's
//! (its `drbd_uuid_compare`), with two of its known errors mended: equal generations with dirty bits are never "no
//! sync", and a history slot of zero is no ancestor. A rule with a direction is stated once, for "the first side is
//! behind the second", and tried both ways round: so the verdicts of the two nodes are mirror images by
//! construction, and both reach the same conclusion without a word more.

mod resolution;
#[cfg(test)]
mod resolution_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod walk;

pub use resolution::{plan, Plan, Resolution, Who, BY_PERSON};

use super::fault::{planted, Fault};
use crate::wire::{DiskState, Hello, Intent, NodeState, Role, SplitBrainPolicy};

/// One side's inputs.
#[derive(Clone, Debug)]
pub struct Side {
    pub name: String,
    pub state: NodeState,
    /// The resource id that its metadata carries; zero before its first sync began.
    pub resource_id: [u8; 16],
    pub block_size_bytes: u32,
    /// What this side wants of the connection, and its half of the policy for a split brain.
    pub intent: Intent,
    pub policy: SplitBrainPolicy,
    pub priority: u32,
}

impl Side {
    /// The sender of these two.
    pub fn new(hello: &Hello, state: NodeState) -> Side {
        Side {
            name: hello.node.clone(),
            state,
            resource_id: hello.resource_id,
            block_size_bytes: hello.block_size_bytes,
            intent: hello.intent,
            policy: hello.policy,
            priority: hello.priority,
        }
    }

    fn current(&self) -> u64 {
        self.state.generations.current
    }

    fn bitmap(&self) -> u64 {
        self.state.generations.bitmap
    }

    fn is_new(&self) -> bool {
        self.current() == 0
    }

    fn remembers(&self, id: u64) -> bool {
        id != 0 && self.state.generations.history.contains(&id)
    }

    /// Something of it may differ from the peer's.
    pub(in crate::core) fn is_marked(&self) -> bool {
        self.state.dirty_blocks > 0 || self.state.suspect_extents > 0 || self.state.full_sync
    }

    /// A disk that may be read as the truth.
    fn is_usable(&self) -> bool {
        !matches!(self.state.disk, DiskState::Diskless | DiskState::Inconsistent)
    }

    /// An application relies on it, or will as soon as its daemon has come back.
    fn is_in_use(&self) -> bool {
        (self.state.role == Role::Primary || self.state.resuming) && !planted(Fault::PrimaryDiscarded)
    }

    fn standing(&self) -> (bool, u64, bool, bool) {
        (
            self.state.role == Role::Primary,
            // Where an arbiter is asked: whoever took part in the higher epoch alone was Primary in it.
            self.state.epoch,
            self.state.crashed_primary,
            self.state.last_primary,
        )
    }
}

/// How much the source has to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The union of what both sides have marked.
    Marked,
    /// Every block.
    Whole,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Nothing differs: replicate.
    Established,
    Source(Scope),
    Target(Scope),
    /// Neither side ever had data: a person names the source.
    Wait,
    SplitBrain,
    Refuse,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Stable name, for logs and status.
    pub rule: &'static str,
    pub direction: Direction,
}

/// What follows when a rule matches.
enum Outcome {
    /// The condition says the same of both sides, and so does the outcome.
    Both(Direction),
    /// Equal generations: the side of the better standing is the source.
    ByStanding,
    /// The first side of the pair is the target. `mirrored` is the rule's name seen from the source; when the condition
    /// holds both ways round, `crossed` is what that means.
    FirstIsTarget {
        mirrored: &'static str,
        scope: fn(&Side, &Side) -> Scope,
        crossed: (&'static str, Direction),
    },
}

struct Rule {
    name: &'static str,
    applies: fn(&Side, &Side) -> bool,
    outcome: Outcome,
}

fn marked(_: &Side, _: &Side) -> Scope {
    Scope::Marked
}

fn whole(_: &Side, _: &Side) -> Scope {
    Scope::Whole
}

/// A target that already carries this resource's id was cut off in its first sync: the source's marks still say what
/// it lacks. Any other new disk lacks everything.
fn of_a_new_disk(new: &Side, source: &Side) -> Scope {
    if new.resource_id == source.resource_id {
        Scope::Marked
    } else {
        Scope::Whole
    }
}

static RULES: &[Rule] = &[
    Rule {
        name: "diskless",
        applies: |a, b| [a, b].iter().any(|side| side.state.disk == DiskState::Diskless),
        outcome: Outcome::Both(Direction::Refuse),
    },
    Rule {
        name: "self-new",
        applies: |a, _| a.is_new(),
        outcome: Outcome::FirstIsTarget {
            mirrored: "peer-new",
            scope: of_a_new_disk,
            crossed: ("both-new", Direction::Wait),
        },
    },
    Rule {
        name: "two-primaries",
        applies: |a, b| {
            a.current() == b.current() && [a, b].iter().all(|side| side.state.role == Role::Primary)
        },
        outcome: Outcome::Both(Direction::Refuse),
    },
    Rule {
        name: "same",
        applies: |a, b| {
            a.current() == b.current() && [a, b].iter().all(|side| !side.is_marked() && side.is_usable())
        },
        outcome: Outcome::Both(Direction::Established),
    },
    Rule {
        name: "same-dirty",
        applies: |a, b| a.current() == b.current(),
        outcome: Outcome::ByStanding,
    },
    Rule {
        name: "peer-ahead",
        applies: |a, b| a.current() == b.bitmap(),
        outcome: Outcome::FirstIsTarget {
            mirrored: "self-ahead",
            scope: marked,
            crossed: ("crossed", Direction::Refuse),
        },
    },
    Rule {
        name: "peer-far-ahead",
        applies: |a, b| b.remembers(a.current()),
        outcome: Outcome::FirstIsTarget {
            mirrored: "self-far-ahead",
            scope: whole,
            crossed: ("split-brain-old", Direction::SplitBrain),
        },
    },
    Rule {
        name: "split-brain",
        applies: |a, b| a.bitmap() != 0 && a.bitmap() == b.bitmap(),
        outcome: Outcome::Both(Direction::SplitBrain),
    },
    Rule {
        name: "split-brain-old",
        applies: |a, b| a.state.generations.history.iter().any(|id| b.remembers(*id)),
        outcome: Outcome::Both(Direction::SplitBrain),
    },
    Rule {
        name: "unrelated-data",
        applies: |_, _| true,
        outcome: Outcome::Both(Direction::Refuse),
    },
];

fn verdict(rule: &'static str, direction: Direction) -> Verdict {
    Verdict { rule, direction }
}

/// Decides from `own` point of view.
pub fn decide(own: &Side, peer: &Side) -> Verdict {
    for rule in RULES {
        match &rule.outcome {
            Outcome::Both(direction) if (rule.applies)(own, peer) => {
                return verdict(rule.name, direction.clone())
            }
            Outcome::ByStanding if (rule.applies)(own, peer) => {
                return match preferred_source(own, peer) {
                    Some(true) => verdict(rule.name, Direction::Source(Scope::Marked)),
                    Some(false) => verdict(rule.name, Direction::Target(Scope::Marked)),
                    None => verdict("no-good-copy", Direction::Refuse),
                }
            }
            Outcome::FirstIsTarget {
                mirrored,
                scope,
                crossed,
            } => {
                let (name, direction, source) = match ((rule.applies)(own, peer), (rule.applies)(peer, own)) {
                    (false, false) => continue,
                    (true, true) => return verdict(crossed.0, crossed.1.clone()),
                    (true, false) => (rule.name, Direction::Target(scope(own, peer)), peer),
                    (false, true) => (*mirrored, Direction::Source(scope(peer, own)), own),
                };
                // An unusable disk is never a source.
                return if source.is_usable() {
                    verdict(name, direction)
                } else {
                    verdict("no-good-copy", Direction::Refuse)
                };
            }
            _ => {}
        }
    }
    unreachable!("the last rule always applies")
}

/// Whose copy wins among equal generations; `None` when neither may be read. True: own.
fn preferred_source(own: &Side, peer: &Side) -> Option<bool> {
    match (own.is_usable(), peer.is_usable()) {
        (false, false) => None,
        (true, false) => Some(true),
        (false, true) => Some(false),
        (true, true) => Some(match own.standing().cmp(&peer.standing()) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Less => planted(Fault::VerdictNotMirrored),
            std::cmp::Ordering::Equal => own.name < peer.name,
        }),
    }
}
