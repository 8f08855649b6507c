//! Every rule by example, and every pair of sides in a small universe.

use super::*;
use crate::wire::{Generations, HISTORY_LEN};
use proptest::prelude::*;

pub(super) fn side(name: &str, current: u64, bitmap: u64, history: &[u64]) -> Side {
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
            resuming: false,
            handshake: true,
        },
        resource_id: [u8::from(current != 0); 16],
        block_size_bytes: 4096,
        intent: Intent::Replicate,
        policy: SplitBrainPolicy::Manual,
        priority: 0,
    }
}

pub(super) fn mirror(direction: &Direction) -> Direction {
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
            Direction::Source(_) => prop_assert!(a.is_usable()),
            Direction::Target(_) => prop_assert!(b.is_usable()),
            Direction::Established => {
                prop_assert!(!a.is_marked() && !b.is_marked());
                prop_assert_eq!(a.state.generations.current, b.state.generations.current);
            }
            _ => {}
        }
    }
}

pub(super) fn mirrored_name(rule: &str) -> &str {
    const PAIRS: [(&str, &str); 3] = [
        ("self-new", "peer-new"),
        ("self-ahead", "peer-ahead"),
        ("self-far-ahead", "peer-far-ahead"),
    ];
    for (one, other) in PAIRS {
        if rule == one {
            return other;
        }
        if rule == other {
            return one;
        }
    }
    rule
}

/// The promises of a verdict, whatever its inputs are.
fn check(a: &Side, b: &Side) {
    let (ours, theirs) = (decide(a, b), decide(b, a));
    assert_eq!(theirs.direction, mirror(&ours.direction), "{a:?} {b:?}");
    assert_eq!(theirs.rule, mirrored_name(ours.rule), "{a:?} {b:?}");
    let (target, source) = match ours.direction {
        Direction::Established => {
            assert_eq!(a.current(), b.current(), "{a:?} {b:?}");
            assert!(!a.is_marked() && !b.is_marked(), "a mark is dropped: {a:?} {b:?}");
            assert!(a.is_usable() && b.is_usable(), "{a:?} {b:?}");
            return;
        }
        Direction::Source(_) => (b, a),
        Direction::Target(_) => (a, b),
        _ => return,
    };
    assert!(source.is_usable(), "an unusable source: {a:?} {b:?}");
    let known = target.is_new()
        || target.current() == source.current()
        || target.current() == source.bitmap()
        || source.remembers(target.current());
    assert!(known, "data that the source never had would go: {a:?} {b:?}");
}

/// Generations over the ids 1 to 3 (0 is none), histories of at most two.
fn universe(name: &'static str) -> Vec<Side> {
    const HISTORIES: [&[u64]; 11] = [
        &[],
        &[1],
        &[2],
        &[3],
        &[1, 2],
        &[2, 1],
        &[1, 3],
        &[3, 1],
        &[2, 3],
        &[3, 2],
        &[0, 1],
    ];
    let mut sides = Vec::new();
    for current in 0..4 {
        for bitmap in 0..4 {
            for history in HISTORIES {
                sides.push(side(name, current, bitmap, history));
            }
        }
    }
    sides
}

const DISKS: [DiskState; 5] = [
    DiskState::Diskless,
    DiskState::Inconsistent,
    DiskState::Outdated,
    DiskState::Consistent,
    DiskState::UpToDate,
];

#[test]
fn every_pair_of_generations_with_and_without_marks() {
    let vary = |sides: Vec<Side>| -> Vec<Side> {
        let marks = sides.into_iter().flat_map(|side| {
            (0..4_u32).map(move |bits| {
                let mut side = side.clone();
                side.state.dirty_blocks = u64::from(bits & 1);
                side.state.role = if bits & 2 == 0 {
                    Role::Secondary
                } else {
                    Role::Primary
                };
                if !side.is_new() {
                    side.state.disk = DiskState::UpToDate;
                }
                side
            })
        });
        marks.collect()
    };
    let (ours, theirs) = (vary(universe("a")), vary(universe("b")));
    for a in &ours {
        for b in &theirs {
            check(a, b);
        }
    }
}

#[test]
fn every_pair_of_disks_flags_and_marks() {
    // One pair of generations for each way in which two can be related.
    let related = [
        (side("a", 0, 0, &[]), side("b", 0, 0, &[])),
        (side("a", 5, 0, &[]), side("b", 0, 0, &[])),
        (side("a", 5, 0, &[4]), side("b", 5, 0, &[4])),
        (side("a", 5, 0, &[4]), side("b", 5, 4, &[4])),
        (side("a", 6, 5, &[5]), side("b", 5, 0, &[])),
        (side("a", 7, 6, &[6, 5]), side("b", 5, 0, &[])),
        (side("a", 6, 5, &[5]), side("b", 7, 5, &[5])),
        (side("a", 6, 0, &[5]), side("b", 7, 0, &[5])),
        (side("a", 6, 0, &[]), side("b", 7, 0, &[])),
    ];
    let flags = |side: &Side| -> Vec<Side> {
        let all = DISKS.iter().flat_map(|disk| {
            (0..128_u32).map(|bits| {
                let mut side = side.clone();
                let bit = |place: u32| bits >> place & 1 == 1;
                side.state.disk = *disk;
                side.state.role = if bit(0) { Role::Primary } else { Role::Secondary };
                side.state.crashed_primary = bit(1);
                side.state.last_primary = bit(2);
                side.state.dirty_blocks = u64::from(bit(3));
                side.state.suspect_extents = u64::from(bit(4));
                side.state.full_sync = bit(5);
                if bit(6) {
                    side.resource_id = [9; 16];
                }
                side
            })
        });
        all.collect()
    };
    for (a, b) in &related {
        let (ours, theirs) = (flags(a), flags(b));
        for a in &ours {
            for b in &theirs {
                check(a, b);
            }
        }
    }
}
