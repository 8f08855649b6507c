//! Who gives way: each policy by example, and every pair of a small universe.

use super::tests::side;
use super::*;
use crate::wire::SplitBrainPolicy as Policy;

/// Both started from generation 5 and went on alone.
fn split(policy: Policy) -> (Side, Side) {
    let (mut a, mut b) = (side("a", 6, 5, &[5]), side("b", 7, 5, &[5]));
    a.policy = policy;
    b.policy = policy;
    (a, b)
}

/// As [`split`], but the bitmaps do not reach back to what both remember.
fn split_long_ago(policy: Policy) -> (Side, Side) {
    let (mut a, b) = split(policy);
    a.state.generations.bitmap = 0;
    (a, b)
}

fn victim(a: &Side, b: &Side) -> Option<Who> {
    plan(a, b).resolution.map(|resolution| resolution.victim)
}

#[test]
fn each_policy_by_example() {
    type Set = fn(&mut Side, &mut Side);
    let nothing: Set = |_, _| {};
    let cases: [(Policy, Set, Option<Who>); 16] = [
        (Policy::Manual, nothing, None),
        (Policy::Manual, |_, b| b.state.dirty_blocks = 1, None),
        // Nothing is lost either way: the first name stays, or the one in use.
        (Policy::DiscardZeroChanges, nothing, Some(Who::Peer)),
        (
            Policy::DiscardZeroChanges,
            |_, b| b.state.role = Role::Primary,
            Some(Who::Own),
        ),
        (
            Policy::DiscardZeroChanges,
            |_, b| b.state.resuming = true,
            Some(Who::Own),
        ),
        (
            Policy::DiscardZeroChanges,
            |a, _| a.state.dirty_blocks = 1,
            Some(Who::Peer),
        ),
        (
            Policy::DiscardZeroChanges,
            |_, b| b.state.suspect_extents = 1,
            Some(Who::Own),
        ),
        (
            Policy::DiscardZeroChanges,
            |a, b| (a.state.dirty_blocks, b.state.full_sync) = (1, true),
            None,
        ),
        (
            Policy::DiscardLeastChanges,
            |a, b| (a.state.dirty_blocks, b.state.dirty_blocks) = (9, 10),
            Some(Who::Own),
        ),
        (
            // An extent is 1024 blocks of 4 KiB.
            Policy::DiscardLeastChanges,
            |a, b| (a.state.suspect_extents, b.state.dirty_blocks) = (1, 1023),
            Some(Who::Peer),
        ),
        (Policy::DiscardLeastChanges, nothing, None),
        (
            Policy::DiscardOlderPrimary,
            |a, b| (a.state.diverged_at_s, b.state.diverged_at_s) = (100, 99),
            Some(Who::Peer),
        ),
        (
            Policy::DiscardYoungerPrimary,
            |a, b| (a.state.diverged_at_s, b.state.diverged_at_s) = (100, 99),
            Some(Who::Own),
        ),
        (
            Policy::DiscardYoungerPrimary,
            |a, _| a.state.diverged_at_s = 100,
            None,
        ),
        (Policy::Priority, |a, _| a.priority = 1, Some(Who::Peer)),
        (Policy::Priority, nothing, None),
    ];
    for (policy, set, expected) in cases {
        let (mut a, mut b) = split(policy);
        set(&mut a, &mut b);
        assert_eq!(victim(&a, &b), expected, "{policy:?} {a:?} {b:?}");
    }
}

#[test]
fn amounts_that_are_not_known_stay_for_a_person() {
    for policy in [Policy::DiscardZeroChanges, Policy::DiscardLeastChanges] {
        let (a, mut b) = split_long_ago(policy);
        b.state.dirty_blocks = 1;
        let plan = plan(&a, &b);
        assert_eq!((plan.verdict.rule, plan.resolution), ("split-brain-old", None));
        assert!(plan.reason.contains("not known"), "{}", plan.reason);
    }
}

#[test]
fn a_person_decides_over_any_policy_and_two_must_agree() {
    let (mut a, mut b) = split(Policy::Manual);
    a.intent = Intent::DiscardMine { bundle: false };
    let expected = Resolution {
        victim: Who::Own,
        by: BY_PERSON,
        bundle: false,
    };
    assert_eq!(plan(&a, &b).resolution, Some(expected));
    // One of them wants the changes saved.
    b.intent = Intent::DiscardYours { bundle: true };
    assert_eq!(
        plan(&a, &b).resolution,
        Some(Resolution {
            bundle: true,
            ..expected
        })
    );
    b.intent = Intent::DiscardMine { bundle: true };
    assert_eq!(plan(&a, &b).resolution, None);
    // Nor does a person discard what is in use.
    b.intent = Intent::Replicate;
    a.state.role = Role::Primary;
    assert!(plan(&a, &b).reason.contains("demote it first"));
}

#[test]
fn a_connection_that_is_no_split_brain_has_no_victim() {
    let (mut a, b) = (side("a", 6, 5, &[5]), side("b", 5, 0, &[]));
    a.intent = Intent::DiscardMine { bundle: true };
    assert_eq!(plan(&a, &b).resolution, None);
    assert_eq!(plan(&a, &b).verdict.rule, "self-ahead");
}

/// Everything that a resolution looks at, in all combinations.
fn variants(base: &Side, intents: &[Intent]) -> Vec<Side> {
    let mut sides = Vec::new();
    for disk in [DiskState::Inconsistent, DiskState::Outdated, DiskState::UpToDate] {
        for intent in intents {
            for bits in 0..128_u32 {
                let bit = |place: u32| bits >> place & 1 == 1;
                let mut side = base.clone();
                side.intent = *intent;
                side.state.disk = disk;
                side.state.role = if bit(0) { Role::Primary } else { Role::Secondary };
                side.state.resuming = bit(1);
                side.state.dirty_blocks = u64::from(bit(2));
                side.state.suspect_extents = u64::from(bit(3));
                side.state.full_sync = bit(4);
                side.state.diverged_at_s = 100 + u64::from(bit(5));
                side.priority = u32::from(bit(6));
                sides.push(side);
            }
        }
    }
    sides
}

fn check(a: &Side, b: &Side) {
    let (ours, theirs) = (plan(a, b), plan(b, a));
    let mirrored = theirs.resolution.map(|theirs| Resolution {
        victim: theirs.victim.mirrored(),
        ..theirs
    });
    assert_eq!(ours.resolution, mirrored, "{a:?} {b:?}");
    assert!(!ours.reason.is_empty());
    let Some(Resolution { victim, by, bundle }) = ours.resolution else {
        return;
    };
    let (loser, survivor) = match victim {
        Who::Own => (a, b),
        Who::Peer => (b, a),
    };
    assert!(!loser.is_in_use(), "{a:?} {b:?}");
    assert!(survivor.is_usable(), "{a:?} {b:?}");
    let person = a.intent.resolves() || b.intent.resolves();
    assert_eq!(by == BY_PERSON, person);
    assert!(bundle || person, "a policy always saves: {a:?} {b:?}");
    assert!(person || a.policy != Policy::Manual);
    let amounts = [Policy::DiscardZeroChanges, Policy::DiscardLeastChanges].contains(&a.policy);
    assert!(person || !amounts || ours.verdict.rule == "split-brain");
    if !person && a.policy == Policy::DiscardZeroChanges {
        assert!(!loser.is_marked());
    }
}

#[test]
fn both_sides_name_the_same_victim_and_never_one_in_use() {
    for policy in Policy::ALL {
        for (a, b) in [split(policy), split_long_ago(policy)] {
            let (ours, theirs) = (
                variants(&a, &[Intent::Replicate]),
                variants(&b, &[Intent::Replicate]),
            );
            for a in &ours {
                for b in &theirs {
                    check(a, b);
                }
            }
        }
    }
}

#[test]
fn nor_does_a_person_get_around_that() {
    let intents = [
        Intent::Replicate,
        Intent::DiscardMine { bundle: true },
        Intent::DiscardMine { bundle: false },
        Intent::DiscardYours { bundle: true },
        Intent::DiscardYours { bundle: false },
    ];
    let (a, b) = split(Policy::DiscardZeroChanges);
    // The marks, times and priorities play no part once a person has spoken.
    let few = |side: &Side| -> Vec<Side> {
        let mut sides = variants(side, &intents);
        sides.retain(|side| !side.state.full_sync && side.state.suspect_extents == 0 && side.priority == 0);
        sides
    };
    let (ours, theirs) = (few(&a), few(&b));
    for a in &ours {
        for b in &theirs {
            check(a, b);
        }
    }
}
