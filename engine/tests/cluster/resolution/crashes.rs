//! The same with crashes, cuts and full disks: at every step, and at random.

use super::*;

/// A node that dials or one that listens asks, the survivor or the victim.
const FEW_WORDS: [(usize, Victim, usize); 2] = [WORDS[0], WORDS[3]];

/// The bitmap of one does not reach back to what both remember.
fn forget_ancestor(world: &mut World, n: usize) {
    world.crash(n, false);
    world.edit_superblock(n, |superblock| superblock.peers[0].bitmap_generation = 0);
    world.start(n, false);
}

#[test]
fn a_split_of_long_ago_is_saved_and_compared_whole() {
    for policy in [Policy::Priority, Policy::DiscardLeastChanges] {
        for k in [None, Some(25), Some(40), Some(60)] {
            let mut world = pair(policy, [1, 0]);
            split(&mut world, BOTH);
            forget_ancestor(&mut world, 0);
            world.set_cable(Cable::Fine);
            let was = contents(&world);
            if policy == Policy::DiscardLeastChanges {
                world.run_until("the split brain is found", apart);
                let victim = Victim::Myself;
                world.command(1, Command::Resolve { victim, bundle: true });
            }
            if let Some(k) = k {
                crash_after(&mut world, 1, k, true);
                world.run(20 * SECOND);
                if !both_established(&mut world) {
                    let victim = Victim::Peer(0);
                    done(&mut world, 0, Command::Resolve { victim, bundle: true }).expect("a resolution");
                }
            }
            world.run_until("equal copies", both_established);
            check(&world, &was, 1, true);
            let bundle = world.nodes[1].bundle.as_ref().expect("a bundle");
            assert_eq!(
                bundle.len() as u64,
                crate::world::SIZE / BLOCK,
                "the whole device"
            );
            assert!(world
                .trace
                .iter()
                .any(|line| line.contains("rule split-brain-old")));
        }
    }
}

/// A crash of `node` after its `k`th event from here on; false if everything was over before.
fn crash_after(world: &mut World, node: usize, k: u64, power: bool) -> bool {
    let end = world.nodes[node].events + k;
    while world.nodes[node].events < end {
        if both_established(world) {
            return false;
        }
        world.step();
    }
    world.crash(node, power);
    world.run(world.now % SECOND);
    world.start(node, false);
    true
}

#[test]
fn a_crash_of_either_node_after_any_event_of_an_automatic_resolution_loses_nothing() {
    for node in 0..2 {
        for k in 0.. {
            let mut world = pair(Policy::Priority, [1, 0]);
            split(&mut world, BOTH);
            let was = contents(&world);
            world.set_cable(Cable::Fine);
            let crashed = crash_after(&mut world, node, k, k % 2 == 0);
            world.run_until("equal copies", both_established);
            check(&world, &was, 1, true);
            if !crashed {
                assert!(k > 10, "a resolution is more than {k} events");
                break;
            }
        }
    }
}

#[test]
fn a_crash_of_either_node_after_any_event_of_a_person_s_resolution_loses_nothing() {
    for (asked, victim, loser) in FEW_WORDS {
        for node in 0..2 {
            for k in 0.. {
                let mut world = pair(Policy::Manual, [0, 0]);
                split(&mut world, BOTH);
                world.set_cable(Cable::Fine);
                world.run_until("the split brain is found", apart);
                let was = contents(&world);
                world.command(asked, Command::Resolve { victim, bundle: true });
                let crashed = crash_after(&mut world, node, k, k % 2 == 1);
                world.run(20 * SECOND);
                if !both_established(&mut world) {
                    // The person was not answered, or is not connected any more: the same again.
                    let rewound = world.nodes[loser].records.contains(&"split_brain.resolved");
                    assert!(rewound || contents(&world) == was, "something was overwritten");
                    done(&mut world, asked, Command::Resolve { victim, bundle: true }).expect("a resolution");
                }
                world.run_until("equal copies", both_established);
                check(&world, &was, loser, true);
                if !crashed {
                    assert!(k > 10, "a resolution is more than {k} events");
                    break;
                }
            }
        }
    }
}

/// Cuts, crashes and full disks at random, while persons and policies try to end it.
fn stormy(seed: u64) {
    let by_policy = seed.is_multiple_of(2);
    let policy = if by_policy {
        Policy::DiscardYoungerPrimary
    } else {
        Policy::Manual
    };
    let mut world = pair_of_seed(seed, policy, [0, 0]);
    split(&mut world, BOTH);
    if seed % 7 == 3 {
        forget_ancestor(&mut world, (seed / 7 % 2) as usize);
    }
    let was = contents(&world);
    world.bundle_time = [5 * MS, 500 * MS, 5 * SECOND][(seed % 3) as usize];
    let resolve = |world: &mut World| {
        // Younger: b.
        let (n, victim) = [(1, Victim::Myself), (0, Victim::Peer(0))][world.rng.below(2) as usize];
        if world.nodes[n].replica.is_some() {
            world.command(n, Command::Resolve { victim, bundle: true });
        }
    };
    for _ in 0..20 {
        match world.rng.below(10) {
            0 => world.set_cable(Cable::Cut),
            1 => world.set_cable(Cable::Silent),
            2 => {
                let n = world.rng.below(2) as usize;
                world.set_cable(Cable::Mute(n));
            }
            3 | 4 => {
                let (n, power) = (world.rng.below(2) as usize, world.rng.chance(2));
                world.crash(n, power);
            }
            5 => world.bundles_fail = world.rng.chance(2),
            6 => resolve(&mut world),
            _ => {
                world.set_cable(Cable::Fine);
                for n in 0..2 {
                    if world.nodes[n].replica.is_none() {
                        world.start(n, false);
                    } else {
                        world.command(n, Command::Connect { peer: 0 });
                    }
                }
            }
        }
        let span = [MS, 20 * MS, 400 * MS, 6 * SECOND][world.rng.below(4) as usize];
        let span = 1 + world.rng.below(span);
        world.run(span);
    }
    world.bundles_fail = false;
    world.set_cable(Cable::Fine);
    for n in 0..2 {
        if world.nodes[n].replica.is_none() {
            world.start(n, false);
        }
    }
    for _ in 0..3 {
        world.run(15 * SECOND);
        if both_established(&mut world) {
            break;
        }
        let victim = Victim::Peer(0);
        world.command(0, Command::Resolve { victim, bundle: true });
    }
    assert!(both_established(&mut world), "seed {seed}: apart for ever");
    check(&world, &was, 1, true);
}

#[test]
fn whatever_happens_meanwhile_nothing_is_lost() {
    let seeds = std::env::var("RESOLUTION_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(60) {
        stormy(seed);
    }
}

#[test]
fn what_a_victim_lost_in_doubt_when_it_died_as_primary_is_saved() {
    for power in [false, true] {
        let mut world = pair(Policy::DiscardYoungerPrimary, [0, 0]);
        split(&mut world, NONE_AT_B);
        done(&mut world, 1, Command::Promote { force: true }).expect("b is Primary");
        for block in BOTH.b {
            write(&mut world, 1, *block, OF_B);
        }
        world.crash(1, power);
        world.start(1, false);
        let was = contents(&world);
        world.set_cable(Cable::Fine);
        world.run_until("equal copies", both_established);
        check(&world, &was, 1, true);
    }
}
