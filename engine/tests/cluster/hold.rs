//! While a range is held, this disk and the peer's answer have the same writes: what differs then does differ.

use _engine::core::*;
use _engine::payload::Payload;
use _engine::wire::{BlockRun, Protocol};

use crate::world::{World, BLOCK};
use crate::{both_established, pair, MS};

/// The application writes all over the blocks that are looked at.
const BLOCKS: u64 = 512;
const HELD: u64 = 8;

fn load(world: &mut World) {
    let open = world.status(0).map_or(0, |status| status.requests.in_flight);
    if open < 32 {
        let block = world.rng.below(BLOCKS);
        let stamp = 1 + world.rng.below(200) as u8;
        let fua = world.rng.chance(4);
        world.request(
            0,
            RequestKind::Write {
                offset: block * BLOCK,
                payload: Payload::copy_from(&[stamp; BLOCK as usize]),
                fua,
            },
        );
    }
}

#[test]
fn under_load_nothing_is_imagined_to_differ_and_nothing_that_was_written_is_lost() {
    for seed in 1..=16 {
        let protocol = [Protocol::A, Protocol::B, Protocol::C][(seed % 3) as usize];
        let mut world = pair(seed, protocol);
        let mut decided = [0, 0];
        for _ in 0..60 {
            // The Primary or the Secondary: either one's array may be looked at.
            let n = world.rng.below(2) as usize;
            let first = world.rng.below(BLOCKS - HELD);
            let (offset, len) = (first * BLOCK, HELD * BLOCK);
            let id = world.command(n, Command::Hold { offset, len });
            while !world.commands.contains_key(&id) {
                load(&mut world);
                let pause = world.rng.below(MS / 10);
                world.run(pause);
            }
            // A write that came to the Secondary meanwhile may be in the answer: it is asked for again.
            let Some((ticket, data)) = world.nodes[n].held.take() else {
                assert!(world.commands[&id].is_err());
                continue;
            };
            let own = world.nodes[n].data.read(offset, len as usize);
            assert!(
                own[..] == data[..],
                "seed {seed}: a write in flight seems to differ"
            );
            // As a member that lies does: only this node's disk.
            let block = first + world.rng.below(HELD);
            world.nodes[n]
                .data
                .write(block * BLOCK, &[0xEE; BLOCK as usize], true);
            for _ in 0..world.rng.below(4) {
                load(&mut world);
                let pause = world.rng.below(MS / 10);
                world.run(pause);
            }
            let runs = vec![BlockRun {
                first: block,
                count: 1,
            }];
            let why = "a member differed".into();
            let id = world.command(n, Command::Settle { ticket, runs, why });
            world.run_until("the decision", |w| w.commands.contains_key(&id));
            assert!(
                world.commands[&id].is_ok(),
                "seed {seed}: {:?}",
                world.commands[&id]
            );
            decided[n] += 1;
        }
        assert!(
            decided.iter().all(|count| *count > 5),
            "seed {seed}: {decided:?} of 60"
        );
        world.run(2_000 * MS);
        assert!(
            world.nodes[0].data.contents() == world.nodes[1].data.contents(),
            "seed {seed}"
        );
    }
}

#[test]
fn who_dies_while_it_is_healed_takes_no_good_copy_with_it() {
    const AT: u64 = 5 * BLOCK;
    const GOOD: [u8; BLOCK as usize] = [7; BLOCK as usize];
    let mut half_done = 0;
    for seed in 1..=60 {
        for n in [0, 1] {
            let mut world = pair(seed, Protocol::C);
            let payload = Payload::copy_from(&GOOD);
            let kind = RequestKind::Write {
                offset: AT,
                payload,
                fua: true,
            };
            world.request(0, kind);
            // The write-intent log has forgotten it.
            world.run(10_000 * MS);
            world.nodes[n].data.write(AT, &[0xEE; BLOCK as usize], true);
            let (offset, len) = (AT, BLOCK);
            let id = world.command(n, Command::Hold { offset, len });
            world.run_until("the peer's data", |w| w.commands.contains_key(&id));
            let (ticket, _) = world.nodes[n].held.take().expect("nothing else is written");
            let (first, count) = (AT / BLOCK, 1);
            let runs = vec![BlockRun { first, count }];
            let why = "a member differed".into();
            world.command(n, Command::Settle { ticket, runs, why });
            let pause = world.rng.below(2 * MS);
            world.run(pause);
            world.crash(n, seed % 2 == 0);
            half_done += u64::from(world.nodes[n].data.read(AT, BLOCK as usize)[..] != GOOD[..]);
            world.run(100 * MS);
            world.start(n, n == 0);
            world.run_until("both again", both_established);
            world.run(1_000 * MS);
            let peers = world.nodes[1 - n].data.read(AT, BLOCK as usize);
            assert!(peers[..] == GOOD[..], "seed {seed}: what decided was overwritten");
        }
    }
    assert!(half_done > 10, "{half_done}");
}
