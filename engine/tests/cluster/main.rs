//! Real replica cores without file, socket or thread: scripted tests of one, and of two on a virtual clock, network and
//! disks. Random histories are the simulator's business (`tests/sim`).

mod arbitration;
mod disk;
mod hold;
mod resolution;
#[path = "../../../tests/sim/rng.rs"]
mod rng;
mod scripted;
mod verify;
mod world;

use _engine::core::*;
use _engine::payload::Payload;
use _engine::wire::Protocol;

use world::{Cable, World, BLOCK, SIZE};

const MS: u64 = 1_000_000;

/// Both nodes up, first sync done, `a` Primary.
fn pair(seed: u64, protocol: Protocol) -> World {
    let mut world = World::new(seed, protocol);
    world.start(0, false);
    world.start(1, false);
    world.run_until("both wait for the first sync", |w| {
        w.replication(0) == "Waiting" && w.replication(1) == "Waiting"
    });
    let source = SyncSource::Myself;
    world.command(0, Command::SyncFrom { source });
    world.run_until("first sync", both_established);
    world.command(0, Command::Promote { force: false });
    world.run_until("promotion", |w| w.nodes[0].exported);
    world
}

fn both_established(world: &mut World) -> bool {
    world.replication(0) == "Established" && world.replication(1) == "Established"
}

#[test]
fn commands_at_any_instant_are_answered_once_and_leave_one_primary() {
    for seed in 1..=200 {
        let mut world = pair(seed, Protocol::C);
        let mut asked = Vec::new();
        for _ in 0..60 {
            let n = world.rng.below(2) as usize;
            match world.rng.below(8) {
                0 | 1 => asked.push(world.command(n, Command::Promote { force: false })),
                2 | 3 => asked.push(world.command(n, Command::Demote)),
                4 => asked.push(world.command(n, Command::Disconnect { peer: 0 })),
                5 => world.set_cable(Cable::Cut),
                _ => {
                    world.set_cable(Cable::Fine);
                    for n in 0..2 {
                        asked.push(world.command(n, Command::Connect { peer: 0 }));
                    }
                }
            }
            for n in 0..2 {
                let payload = Payload::copy_from(&vec![1 + n as u8; BLOCK as usize]);
                let offset = world.rng.below(SIZE / BLOCK) * BLOCK;
                world.request(
                    n,
                    RequestKind::Write {
                        offset,
                        payload,
                        fua: false,
                    },
                );
            }
            let span = [MS / 4, 2 * MS, 50 * MS][world.rng.below(3) as usize];
            let pause = world.rng.below(span);
            world.run(pause);
            let primaries = (0..2).filter(|n| world.nodes[*n].exported).count();
            assert!(
                primaries <= 1,
                "seed {seed}: two Primaries, and nobody forced one"
            );
        }
        world.set_cable(Cable::Fine);
        world.run(10_000 * MS);
        for n in 0..2 {
            world.command(n, Command::Connect { peer: 0 });
        }
        world.run_until("both in step again", both_established);
        for id in asked {
            assert!(
                world.commands.contains_key(&id),
                "seed {seed}: {id:?} has no answer"
            );
        }
        world.run(1_000 * MS);
        assert!(
            world.nodes[0].data.contents() == world.nodes[1].data.contents(),
            "seed {seed}: the copies differ"
        );
    }
}
