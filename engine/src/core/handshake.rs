//! The verdict of a handshake: which way to sync, if at all.
//!
//! One pure function over both nodes' states; the rules stand in order, the first that matches wins. The order
//! is DRBD's (its `drbd_uuid_compare`), with two of its known errors mended: equal generations with
//! dirty bits are never "no sync", and a history slot of zero is no ancestor. Calling it with the sides swapped
//! yields the mirror image, so both nodes reach the same conclusion without a word more.

use super::fault::{planted, Fault};

use crate::wire::{DiskState, Generations, NodeState, Role};

/// One side's inputs.
#[derive(Clone, Debug)]
pub struct Side {
    pub name: String,
    pub state: NodeState,
    /// The resource id that its metadata carries; zero before its first sync began.
    pub resource_id: [u8; 16],
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

fn verdict(rule: &'static str, direction: Direction) -> Verdict {
    Verdict { rule, direction }
}

fn remembers(generations: &Generations, id: u64) -> bool {
    id != 0 && generations.history.contains(&id)
}

fn is_marked(state: &NodeState) -> bool {
    state.dirty_blocks > 0 || state.suspect_extents > 0 || state.full_sync
}

/// A disk that may be read as the truth.
fn is_usable(state: &NodeState) -> bool {
    !matches!(state.disk, DiskState::Diskless | DiskState::Inconsistent)
}

/// Decides from `own` point of view.
pub fn decide(own: &Side, peer: &Side) -> Verdict {
    use Direction::{Established, Refuse, Source, SplitBrain, Target, Wait};
    let (s, p) = (&own.state, &peer.state);
    let (us, up) = (s.generations.current, p.generations.current);
    let (bs, bp) = (s.generations.bitmap, p.generations.bitmap);

    if s.disk == DiskState::Diskless || p.disk == DiskState::Diskless {
        return verdict("diskless", Refuse);
    }
    if us == 0 && up == 0 {
        return verdict("both-new", Wait);
    }
    if us == 0 || up == 0 {
        // A target that already carries this resource's id was cut off in its first sync: the source's
        // marks still say what it lacks. Any other new disk lacks everything.
        let scope = if own.resource_id == peer.resource_id {
            Scope::Marked
        } else {
            Scope::Whole
        };
        return if us == 0 {
            guarded("self-new", Target(scope), s, p)
        } else {
            guarded("peer-new", Source(scope), s, p)
        };
    }
    if us == up {
        if s.role == Role::Primary && p.role == Role::Primary {
            return verdict("two-primaries", Refuse);
        }
        if !is_marked(s) && !is_marked(p) && is_usable(s) && is_usable(p) {
            return verdict("same", Established);
        }
        return match preferred_source(own, peer) {
            Some(true) => verdict("same-dirty", Source(Scope::Marked)),
            Some(false) => verdict("same-dirty", Target(Scope::Marked)),
            None => verdict("no-good-copy", Refuse),
        };
    }
    match (us == bp, up == bs) {
        (true, true) => return verdict("crossed", Refuse),
        (true, false) => return guarded("peer-ahead", Target(Scope::Marked), s, p),
        (false, true) => return guarded("self-ahead", Source(Scope::Marked), s, p),
        (false, false) => {}
    }
    match (remembers(&p.generations, us), remembers(&s.generations, up)) {
        (true, true) => return verdict("split-brain-old", SplitBrain),
        (true, false) => return guarded("peer-far-ahead", Target(Scope::Whole), s, p),
        (false, true) => return guarded("self-far-ahead", Source(Scope::Whole), s, p),
        (false, false) => {}
    }
    if bs != 0 && bs == bp {
        return verdict("split-brain", SplitBrain);
    }
    if s.generations
        .history
        .iter()
        .any(|id| remembers(&p.generations, *id))
    {
        return verdict("split-brain-old", SplitBrain);
    }
    verdict("unrelated-data", Refuse)
}

/// An unusable disk is never a source.
fn guarded(rule: &'static str, direction: Direction, own: &NodeState, peer: &NodeState) -> Verdict {
    let source = if matches!(direction, Direction::Source(_)) {
        own
    } else {
        peer
    };
    if is_usable(source) {
        verdict(rule, direction)
    } else {
        verdict("no-good-copy", Direction::Refuse)
    }
}

/// Whose copy wins among equal generations; `None` when neither may be read. True: own.
fn preferred_source(own: &Side, peer: &Side) -> Option<bool> {
    let (s, p) = (&own.state, &peer.state);
    match (is_usable(s), is_usable(p)) {
        (false, false) => return None,
        (true, false) => return Some(true),
        (false, true) => return Some(false),
        (true, true) => {}
    }
    let standing = |state: &NodeState| {
        (
            state.role == Role::Primary,
            state.crashed_primary,
            state.last_primary,
        )
    };
    match standing(s).cmp(&standing(p)) {
        std::cmp::Ordering::Greater => Some(true),
        std::cmp::Ordering::Less => Some(false),
        std::cmp::Ordering::Equal => Some(own.name < peer.name || planted(Fault::VerdictNotMirrored)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::HISTORY_LEN;
    use proptest::prelude::*;

    fn side(name: &str, current: u64, bitmap: u64, history: &[u64]) -> Side {
        let mut ids = [0; HISTORY_LEN];
        ids[..history.len()].copy_from_slice(history);
        Side {
            name: name.into(),
            state: NodeState {
                role: Role::Secondary,
                disk: if current == 0 {
                    DiskState::Inconsistent
                } else {
                    DiskState::Consistent
                },
                generations: Generations {
                    current,
                    bitmap,
                    history: ids,
                },
                dirty_blocks: 0,
                suspect_extents: 0,
                full_sync: false,
                crashed_primary: false,
                last_primary: false,
                epoch: 0,
                promised: 0,
                diverged_at_s: 0,
                changed_at_s: 0,
                handshake: true,
            },
            resource_id: [u8::from(current != 0); 16],
        }
    }

    fn mirror(direction: &Direction) -> Direction {
        match direction {
            Direction::Source(scope) => Direction::Target(*scope),
            Direction::Target(scope) => Direction::Source(*scope),
            other => other.clone(),
        }
    }

    #[test]
    fn every_rule_by_example() {
        use Direction::*;
        let cases = [
            (side("a", 0, 0, &[]), side("b", 0, 0, &[]), "both-new", Wait),
            (
                side("a", 5, 0, &[]),
                side("b", 0, 0, &[]),
                "peer-new",
                Source(Scope::Whole),
            ),
            (side("a", 5, 0, &[]), side("b", 5, 0, &[]), "same", Established),
            (
                side("a", 6, 5, &[5]),
                side("b", 5, 0, &[]),
                "self-ahead",
                Source(Scope::Marked),
            ),
            (
                side("a", 5, 0, &[]),
                side("b", 6, 5, &[5]),
                "peer-ahead",
                Target(Scope::Marked),
            ),
            (
                side("a", 8, 7, &[7, 5]),
                side("b", 5, 0, &[]),
                "self-far-ahead",
                Source(Scope::Whole),
            ),
            (
                side("a", 6, 5, &[5]),
                side("b", 7, 5, &[5]),
                "split-brain",
                SplitBrain,
            ),
            (
                side("a", 6, 0, &[5]),
                side("b", 7, 4, &[5]),
                "split-brain-old",
                SplitBrain,
            ),
            (
                side("a", 6, 0, &[]),
                side("b", 7, 0, &[]),
                "unrelated-data",
                Refuse,
            ),
        ];
        for (a, b, rule, direction) in cases {
            assert_eq!(decide(&a, &b), Verdict { rule, direction }, "{a:?} {b:?}");
        }
    }

    #[test]
    fn equal_generations_with_marks_are_never_established() {
        for mark in 0..3 {
            let (mut a, mut b) = (side("a", 5, 0, &[]), side("b", 5, 0, &[]));
            match mark {
                0 => a.state.dirty_blocks = 16,
                1 => b.state.suspect_extents = 1,
                _ => b.state.full_sync = true,
            }
            b.state.crashed_primary = true;
            assert_eq!(decide(&a, &b).direction, Direction::Target(Scope::Marked));
            a.state.role = Role::Primary;
            assert_eq!(decide(&a, &b).direction, Direction::Source(Scope::Marked));
        }
    }

    #[test]
    fn a_cut_off_first_sync_goes_on_and_a_fresh_disk_starts_over() {
        let (a, mut b) = (side("a", 5, 0, &[]), side("b", 0, 0, &[]));
        assert_eq!(decide(&a, &b).direction, Direction::Source(Scope::Whole));
        b.resource_id = a.resource_id;
        assert_eq!(decide(&a, &b).direction, Direction::Source(Scope::Marked));
    }

    fn any_side(name: &'static str) -> impl Strategy<Value = Side> {
        let flags = (
            any::<bool>(),
            0u8..4,
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
        );
        (0u64..5, 0u64..5, prop::collection::vec(0u64..5, 0..3), flags).prop_map(
            move |(current, bitmap, history, (primary, disk, dirty, full, crashed, last))| {
                let mut side = side(name, current, bitmap, &history);
                side.state.role = if primary { Role::Primary } else { Role::Secondary };
                side.state.disk = [
                    DiskState::Diskless,
                    DiskState::Inconsistent,
                    DiskState::Consistent,
                    DiskState::UpToDate,
                ][usize::from(disk)];
                side.state.dirty_blocks = u64::from(dirty);
                side.state.full_sync = full;
                side.state.crashed_primary = crashed;
                side.state.last_primary = last;
                side
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn verdicts_mirror_and_sources_are_usable(a in any_side("a"), b in any_side("b")) {
            let (ours, theirs) = (decide(&a, &b), decide(&b, &a));
            prop_assert_eq!(&theirs.direction, &mirror(&ours.direction));
            match ours.direction {
                Direction::Source(_) => prop_assert!(is_usable(&a.state)),
                Direction::Target(_) => prop_assert!(is_usable(&b.state)),
                Direction::Established => {
                    prop_assert!(!is_marked(&a.state) && !is_marked(&b.state));
                    prop_assert_eq!(a.state.generations.current, b.state.generations.current);
                }
                _ => {}
            }
        }
    }
}
