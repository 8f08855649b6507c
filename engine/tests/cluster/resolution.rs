//! The end of a split brain between two real cores: by every policy, by hand from either side, with a crash of either
//! node after every single event. Each ends in equal copies, and nothing of the victim is lost: what its bundle and
//! the survivor's copy hold together is its device as it was.

mod crashes;

use _engine::core::*;
use _engine::payload::Payload;
use _engine::wire::{Protocol, SplitBrainPolicy as Policy};

use crate::both_established;
use crate::world::{Cable, World, BLOCK};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
/// Who wrote a block: what is in it.
const COMMON: u64 = 1;
const OF_A: u64 = 2;
const OF_B: u64 = 3;

/// Which blocks each side changes alone.
#[derive(Clone, Copy)]
struct Changes {
    a: &'static [u64],
    b: &'static [u64],
}

const BOTH: Changes = Changes {
    a: &[10, 11, 12, 13, 1500],
    b: &[12, 13, 14, 2000],
};
const NONE_AT_B: Changes = Changes { a: BOTH.a, b: &[] };

fn write(world: &mut World, n: usize, block: u64, stamp: u64) {
    let payload = Payload::copy_from(&[stamp as u8; BLOCK as usize]);
    let kind = RequestKind::Write {
        offset: block * BLOCK,
        payload,
        fua: false,
    };
    request(world, n, kind);
}

fn request(world: &mut World, n: usize, kind: RequestKind) {
    let id = world.request(n, kind);
    world.run_until("a reply", |w| w.replies.iter().any(|(_, reply, _)| *reply == id));
    assert!(world.replies.iter().all(|(_, _, result)| result.is_ok()));
    world.replies.clear();
}

fn done(world: &mut World, n: usize, command: Command) -> Result<(), CommandError> {
    let id = world.command(n, command);
    world.run_until("a command", |w| w.commands.contains_key(&id));
    world.commands.remove(&id).expect("just seen")
}

/// Two nodes in step, and blocks that both have.
fn pair(policy: Policy, priority: [u32; 2]) -> World {
    pair_of_seed(7, policy, priority)
}

fn pair_of_seed(seed: u64, policy: Policy, priority: [u32; 2]) -> World {
    let mut world = World::new(seed, Protocol::C);
    world.policy = policy;
    world.priority = priority;
    world.start(0, false);
    world.start(1, false);
    world.run_until("both wait", |w| {
        w.replication(0) == "Waiting" && w.replication(1) == "Waiting"
    });
    let source = SyncSource::Myself;
    done(&mut world, 0, Command::SyncFrom { source }).expect("the first sync");
    world.run_until("the first sync", both_established);
    done(&mut world, 0, Command::Promote { force: false }).expect("a promotion");
    for block in [10, 12, 14, 100] {
        write(&mut world, 0, block, COMMON);
    }
    // Without it all is suspect, and the marks would not be needed.
    request(&mut world, 0, RequestKind::Flush);
    world
}

/// Each writes without the other; `a` does so first. Both are Secondary in the end, apart, and all is flushed.
fn split(world: &mut World, changes: Changes) {
    world.set_cable(Cable::Cut);
    world.run_until("a knows", |w| w.replication(0) == "Off");
    world.run_until("b knows", |w| w.replication(1) == "Off");
    for block in changes.a {
        write(world, 0, *block, OF_A);
    }
    done(world, 0, Command::Demote).expect("a is demoted");
    world.run(2 * SECOND);
    done(world, 1, Command::Promote { force: true }).expect("b is Primary");
    for block in changes.b {
        write(world, 1, *block, OF_B);
    }
    done(world, 1, Command::Demote).expect("b is demoted");
    for node in &mut world.nodes {
        node.records.clear();
    }
}

fn contents(world: &World) -> [Vec<u8>; 2] {
    [0, 1].map(|n| world.nodes[n].data.contents().to_vec())
}

fn apart(world: &mut World) -> bool {
    (0..2).all(|n| {
        world.status(n).is_some_and(|status| {
            let peer = &status.peers[0];
            peer.connection == "StandAlone" && peer.split_brain
        })
    })
}

fn settled(world: &mut World) -> bool {
    both_established(world) || apart(world)
}

/// The copies are equal, the survivor's, and nothing of the victim's is lost.
fn check(world: &World, was: &[Vec<u8>; 2], victim: usize, bundle: bool) {
    let now = contents(world);
    assert!(now[0] == now[1], "the copies differ");
    assert!(now[0] == was[1 - victim], "that is not what the survivor had");
    let nothing = Default::default();
    let saved = world.nodes[victim].bundle.as_ref().unwrap_or(&nothing);
    assert_eq!(!saved.is_empty(), bundle);
    if bundle {
        for (block, was) in was[victim].chunks(BLOCK as usize).enumerate() {
            let at = block * BLOCK as usize;
            let shown = saved
                .get(&(block as u64))
                .map_or(&now[victim][at..at + was.len()], Vec::as_slice);
            assert!(shown == was, "block {block} of the victim is lost");
        }
    }
    for node in &world.nodes {
        assert!(node.records.contains(&"split_brain.found"), "{:?}", node.records);
    }
}

fn check_resolved(world: &World) {
    for node in &world.nodes {
        assert!(
            node.records.contains(&"split_brain.resolved"),
            "{:?}",
            node.records
        );
    }
}

#[test]
fn every_policy_ends_it_or_leaves_it_to_a_person() {
    // The victim, and whether it has something to save.
    type Case = (Policy, [u32; 2], Changes, Option<(usize, bool)>);
    let cases: [Case; 10] = [
        (Policy::Manual, [0, 1], NONE_AT_B, None),
        (Policy::DiscardZeroChanges, [0, 0], BOTH, None),
        (Policy::DiscardZeroChanges, [0, 0], NONE_AT_B, Some((1, false))),
        (Policy::DiscardLeastChanges, [0, 0], BOTH, Some((1, true))),
        (Policy::DiscardLeastChanges, [0, 0], NONE_AT_B, Some((1, false))),
        (Policy::DiscardOlderPrimary, [0, 0], BOTH, Some((0, true))),
        (Policy::DiscardYoungerPrimary, [0, 0], BOTH, Some((1, true))),
        (Policy::Priority, [0, 1], BOTH, Some((0, true))),
        (Policy::Priority, [1, 0], BOTH, Some((1, true))),
        (Policy::Priority, [1, 1], BOTH, None),
    ];
    for (policy, priority, changes, expected) in cases {
        let mut world = pair(policy, priority);
        split(&mut world, changes);
        let was = contents(&world);
        world.set_cable(Cable::Fine);
        world.run_until("an end", settled);
        match expected {
            Some((victim, bundle)) => {
                assert!(both_established(&mut world), "{policy:?}");
                check(&world, &was, victim, bundle);
                check_resolved(&world);
            }
            None => {
                assert!(apart(&mut world), "{policy:?}");
                assert!(contents(&world) == was, "something was overwritten");
            }
        }
    }
}

#[test]
fn a_policy_leaves_a_primary_alone() {
    for policy in [Policy::DiscardLeastChanges, Policy::DiscardYoungerPrimary] {
        let mut world = pair(policy, [0, 0]);
        split(&mut world, BOTH);
        done(&mut world, 1, Command::Promote { force: false }).expect("b is Primary");
        let was = contents(&world);
        world.set_cable(Cable::Fine);
        world.run_until("an end", settled);
        assert!(apart(&mut world) && contents(&world) == was);
        // Nor does a person get around that, from either side.
        for (n, victim) in [(1, Victim::Myself), (0, Victim::Peer(0))] {
            let error =
                done(&mut world, n, Command::Resolve { victim, bundle: true }).expect_err("a refusal");
            assert_eq!(error.kind, ErrorKind::Unsafe);
            assert!(
                format!("{} {}", error.message, error.remedy).contains("demote"),
                "{error:?}"
            );
        }
        done(&mut world, 1, Command::Demote).expect("b is demoted");
        let victim = Victim::Peer(0);
        done(&mut world, 0, Command::Resolve { victim, bundle: true }).expect("a resolution");
        world.run_until("equal copies", both_established);
        check(&world, &was, 1, true);
    }
}

/// All ways in which a person can say it: at which node, whom, and which node that is.
const WORDS: [(usize, Victim, usize); 4] = [
    (0, Victim::Myself, 0),
    (0, Victim::Peer(0), 1),
    (1, Victim::Myself, 1),
    (1, Victim::Peer(0), 0),
];

#[test]
fn a_person_ends_it_from_either_side_for_either_side() {
    for (n, victim, loser) in WORDS {
        for bundle in [true, false] {
            let mut world = pair(Policy::Manual, [0, 0]);
            split(&mut world, BOTH);
            world.set_cable(Cable::Fine);
            world.run_until("the split brain is found", apart);
            let was = contents(&world);
            done(&mut world, n, Command::Resolve { victim, bundle }).expect("a resolution");
            world.run_until("equal copies", both_established);
            check(&world, &was, loser, bundle);
            check_resolved(&world);
        }
    }
}

#[test]
fn a_survivor_goes_on_writing_meanwhile() {
    let mut world = pair(Policy::Manual, [0, 0]);
    split(&mut world, BOTH);
    world.set_cable(Cable::Fine);
    world.run_until("the split brain is found", apart);
    done(&mut world, 0, Command::Promote { force: false }).expect("a is Primary");
    let was = contents(&world);
    world.bundle_time = 60 * SECOND;
    let victim = Victim::Peer(0);
    let id = world.command(0, Command::Resolve { victim, bundle: true });
    // Longer than a peer may be silent: the connection must live while the bundle is saved.
    for block in 0..20 {
        world.run(SECOND / 2);
        write(&mut world, 0, 3 * block, OF_A);
    }
    world.run_until("a resolution", |w| w.commands.contains_key(&id));
    assert_eq!(world.commands.get(&id), Some(&Ok(())));
    world.run_until("equal copies", both_established);
    let lost = world
        .trace
        .iter()
        .filter(|line| line.contains("no word for"))
        .count();
    assert_eq!(lost, 0, "the connection was lost while the bundle was saved");
    let now = contents(&world);
    assert!(now[0] == now[1]);
    // What only the victim had is in its bundle.
    let saved = world.nodes[1].bundle.as_ref().expect("a bundle");
    for block in BOTH.b {
        let at = (*block * BLOCK) as usize;
        assert_eq!(saved[block], was[1][at..at + BLOCK as usize]);
    }
}

/// A chunk is compared whole: rot between its marked blocks is mended from the survivor, and is not what a bundle is for.
#[test]
fn an_unmarked_block_that_differs_is_mended_and_in_no_bundle() {
    let mut world = pair(Policy::Manual, [0, 0]);
    let changes = Changes {
        a: &[10, 20],
        b: &[12],
    };
    split(&mut world, changes);
    let (gap, rot) = (15, [0xee; BLOCK as usize]);
    world.nodes[1].data.write(gap * BLOCK, &rot, true);
    let was = contents(&world);
    world.set_cable(Cable::Fine);
    world.run_until("the split brain is found", apart);
    let victim = Victim::Peer(0);
    done(&mut world, 0, Command::Resolve { victim, bundle: true }).expect("a resolution");
    world.run_until("equal copies", both_established);
    let now = contents(&world);
    assert!(now[0] == now[1] && now[1] != was[1], "mended");
    let bundle = world.nodes[1].bundle.as_ref().expect("a bundle");
    assert_eq!(bundle.keys().copied().collect::<Vec<_>>(), [10, 12, 20]);
}

#[test]
fn without_room_for_the_bundle_everything_stays() {
    for (n, victim, loser) in WORDS {
        let mut world = pair(Policy::Manual, [0, 0]);
        split(&mut world, BOTH);
        world.set_cable(Cable::Fine);
        world.run_until("the split brain is found", apart);
        let was = contents(&world);
        world.bundles_fail = true;
        let error = done(&mut world, n, Command::Resolve { victim, bundle: true }).expect_err("no room");
        assert!(error.message.contains("no room"), "{error:?}");
        world.run_until("both stay apart", apart);
        world.run(30 * SECOND);
        assert!(apart(&mut world) && contents(&world) == was);
        for node in &world.nodes {
            assert!(node.records.contains(&"split_brain.kept"), "{:?}", node.records);
            assert!(!node.records.contains(&"split_brain.resolved"));
        }
        // Explicitly without one it goes on.
        done(
            &mut world,
            n,
            Command::Resolve {
                victim,
                bundle: false,
            },
        )
        .expect("a resolution");
        world.run_until("equal copies", both_established);
        check(&world, &was, loser, false);
    }
}

#[test]
fn a_victim_is_not_promoted_before_it_is_a_copy_again() {
    let mut world = pair(Policy::Priority, [1, 0]);
    split(&mut world, BOTH);
    let was = contents(&world);
    world.bundle_time = 60 * SECOND;
    world.set_cable(Cable::Fine);
    world.run_until("the bundle is being saved", |w| {
        w.status(1)
            .is_some_and(|s| s.peers[0].resolving == Some("saving-bundle"))
    });
    for force in [false, true] {
        let error = done(&mut world, 1, Command::Promote { force }).expect_err("a refusal");
        assert_eq!(error.kind, ErrorKind::Unsafe);
    }
    world.run_until("equal copies", both_established);
    check(&world, &was, 1, true);
}

#[test]
fn a_bundle_whose_connection_is_gone_discards_nothing() {
    let mut world = pair(Policy::Priority, [1, 0]);
    split(&mut world, BOTH);
    world.bundle_time = 60 * SECOND;
    world.set_cable(Cable::Fine);
    let saving = |w: &mut World| {
        w.status(1)
            .is_some_and(|s| s.peers[0].resolving == Some("saving-bundle"))
    };
    world.run_until("the bundle is being saved", saving);
    world.set_cable(Cable::Cut);
    world.run_until("b knows", |w| {
        w.status(1).is_some_and(|s| s.peers[0].connection != "Connected")
    });
    // Nothing is decided any more: b goes on with its data, and the late answer changes nothing.
    done(&mut world, 1, Command::Promote { force: true }).expect("b is Primary");
    write(&mut world, 1, 14, OF_B + 1);
    world.run(120 * SECOND);
    assert!(!world.nodes[1].records.contains(&"split_brain.resolved"));
    done(&mut world, 1, Command::Demote).expect("b is demoted");
    let was = contents(&world);
    world.set_cable(Cable::Fine);
    world.run_until("equal copies", both_established);
    check(&world, &was, 1, true);
}

#[test]
fn a_stop_does_not_wait_for_the_bundle() {
    let mut world = pair(Policy::Priority, [1, 0]);
    split(&mut world, BOTH);
    let was = contents(&world);
    world.bundle_time = 3_600 * SECOND;
    world.set_cable(Cable::Fine);
    let saving = |w: &mut World| {
        w.status(1)
            .is_some_and(|s| s.peers[0].resolving == Some("saving-bundle"))
    };
    world.run_until("the bundle is being saved", saving);
    done(&mut world, 1, Command::Stop).expect("a stop");
    world.crash(1, false);
    world.bundle_time = MS;
    world.start(1, false);
    world.run_until("equal copies", both_established);
    check(&world, &was, 1, true);
}
