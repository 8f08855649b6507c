//! Both copies are compared while they are in use: what differs is found, exactly, and nothing else; and it is mended
//! where a person says so.

use std::collections::BTreeMap;

use _engine::core::*;
use _engine::payload::Payload;
use _engine::wire::{BlockRun, Protocol};

use crate::world::{Cable, World, BLOCK, SIZE};
use crate::{both_established, pair, MS};

const BLOCKS: u64 = SIZE / BLOCK;

fn write(world: &mut World, n: usize, block: u64, stamp: u8) {
    let payload = Payload::copy_from(&[stamp; BLOCK as usize]);
    world.request(
        n,
        RequestKind::Write {
            offset: block * BLOCK,
            payload,
            fua: false,
        },
    );
}

/// As many requests as an application has open.
const DEPTH: usize = 32;

/// Anything that changes a few neighbouring blocks of `among`.
fn load(world: &mut World, n: usize, among: std::ops::Range<u64>) {
    let open = world.status(n).map_or(0, |status| status.requests.in_flight);
    if open >= DEPTH {
        return;
    }
    let first = among.start + world.rng.below(among.end - among.start);
    let count = (1 + world.rng.below(8)).min(among.end - first);
    let (offset, len) = (first * BLOCK, count * BLOCK);
    let stamp = 1 + world.rng.below(200) as u8;
    let kind = match world.rng.below(12) {
        0 => RequestKind::Trim {
            offset,
            len,
            fua: false,
        },
        1 => RequestKind::WriteZeroes {
            offset,
            len,
            fua: true,
            unmap: false,
        },
        2 => RequestKind::Flush,
        3 => RequestKind::Read {
            offset,
            len: len as u32,
        },
        _ => RequestKind::Write {
            offset,
            payload: Payload::copy_from(&vec![stamp; len as usize]),
            fua: false,
        },
    };
    world.request(n, kind);
}

fn start(world: &mut World, n: usize, offset: u64, len: u64) -> Result<(), CommandError> {
    let id = world.command(
        n,
        Command::Verify {
            offset,
            len,
            max_rate: None,
        },
    );
    world.run_until("a verify to begin", |w| w.commands.contains_key(&id));
    world.commands.remove(&id).expect("just seen")
}

fn ended(world: &World, n: usize) -> Option<&Option<Cut>> {
    match world.nodes[n].verified.last() {
        Some(Verified::Ended { cut }) => Some(cut),
        _ => None,
    }
}

/// Compares everything from `n`, with a write, or something else of the application's, every so often.
fn verify_under_load(world: &mut World, n: usize, writer: usize, among: std::ops::Range<u64>, pause: Time) {
    start(world, n, 0, SIZE).expect("a verify");
    while ended(world, n).is_none() {
        load(world, writer, among.clone());
        let pause = world.rng.below(pause);
        world.run(pause);
    }
    assert_eq!(ended(world, n), Some(&None));
}

/// What a node's record says: the blocks that differ, and how many bytes were the same.
fn told(world: &World, n: usize) -> (BTreeMap<u64, (u128, u128)>, u64) {
    let (mut found, mut same) = (BTreeMap::new(), 0u64);
    for what in &world.nodes[n].verified {
        match what {
            Verified::Found {
                offset,
                len,
                own,
                peer,
            } => {
                assert_eq!((offset % BLOCK, u64::from(*len)), (0, BLOCK));
                assert!(
                    found.insert(offset / BLOCK, (*own, *peer)).is_none(),
                    "told twice"
                );
            }
            Verified::Proved { len, .. } => same += len,
            Verified::Skipped { .. } | Verified::Ended { .. } => {}
        }
    }
    (found, same)
}

/// Differences on either side, and which blocks they are in.
fn plant(world: &mut World, places: u64, among: std::ops::Range<u64>) -> Vec<u64> {
    let mut planted = Vec::new();
    for _ in 0..places {
        let block = among.start + world.rng.below(among.end - among.start);
        let n = world.rng.below(2) as usize;
        // One bit, a part of a block, or all of it.
        let len = [1, 100, BLOCK][world.rng.below(3) as usize];
        let offset = block * BLOCK + world.rng.below(BLOCK - len + 1);
        let mut bytes = world.nodes[n].data.read(offset, len as usize);
        for byte in &mut bytes {
            *byte ^= 1 << world.rng.below(8);
        }
        world.nodes[n].data.write(offset, &bytes, true);
    }
    for block in among {
        let (offset, len) = (block * BLOCK, BLOCK as usize);
        if world.nodes[0].data.read(offset, len) != world.nodes[1].data.read(offset, len) {
            planted.push(block);
        }
    }
    planted
}

fn settle(world: &mut World) {
    world.run(1_000 * MS);
    world.replies.clear();
}

#[test]
fn equal_copies_are_proved_so_on_both_nodes() {
    let mut world = pair(3, Protocol::C);
    start(&mut world, 0, 0, SIZE).expect("a verify");
    world.run_until("its end", |w| ended(w, 0).is_some());
    settle(&mut world);
    for n in 0..2 {
        assert_eq!(told(&world, n), (BTreeMap::new(), SIZE));
    }
    assert_eq!(world.chunk_bytes, 0, "a verify sends no data");
}

#[test]
fn a_range_is_compared_by_whole_blocks() {
    let mut world = pair(3, Protocol::C);
    start(&mut world, 0, 3 * BLOCK + 5, 1).expect("a verify");
    world.run_until("its end", |w| ended(w, 0).is_some());
    let proved = Verified::Proved {
        offset: 3 * BLOCK,
        len: BLOCK,
    };
    assert_eq!(world.nodes[0].verified, [proved, Verified::Ended { cut: None }]);
}

#[test]
fn fifty_differences_on_either_side_are_all_found_and_none_is_imagined() {
    for seed in 1..=40 {
        let protocol = [Protocol::A, Protocol::B, Protocol::C][(seed % 3) as usize];
        let mut world = pair(seed, protocol);
        for block in 0..BLOCKS / 3 {
            if world.rng.chance(2) {
                write(&mut world, 0, block, block as u8);
            }
        }
        settle(&mut world);
        // The application keeps to the first part: what it writes over would be mended by that.
        let planted = plant(&mut world, 50, BLOCKS / 3..BLOCKS);
        verify_under_load(&mut world, 0, 0, 0..BLOCKS / 3, MS);
        settle(&mut world);
        let (found, same) = told(&world, 0);
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), planted, "seed {seed}");
        assert_eq!(same, SIZE - planted.len() as u64 * BLOCK);
        let (seen, _) = told(&world, 1);
        let mirrored: BTreeMap<_, _> = found
            .iter()
            .map(|(at, (own, peer))| (*at, (*peer, *own)))
            .collect();
        assert_eq!(seen, mirrored, "seed {seed}: the peer's record");
    }
}

#[test]
fn writes_in_flight_are_no_difference() {
    for seed in 1..=60 {
        let protocol = [Protocol::A, Protocol::B, Protocol::C][(seed % 3) as usize];
        let mut world = pair(seed, protocol);
        // On few blocks: most that is compared is being written.
        let spread = [8, 64, BLOCKS][world.rng.below(3) as usize];
        for _ in 0..2 {
            world.nodes[0].verified.clear();
            verify_under_load(&mut world, 0, 0, 0..spread, MS / 20);
            assert_eq!(told(&world, 0), (BTreeMap::new(), SIZE), "seed {seed}");
        }
    }
}

#[test]
fn no_change_of_roles_and_no_lost_connection_is_a_difference() {
    for seed in 1..=80 {
        let mut world = pair(seed, Protocol::C);
        let mut asked = Vec::new();
        for _ in 0..60 {
            let n = world.rng.below(2) as usize;
            match world.rng.below(12) {
                0 | 1 => asked.push(world.command(n, Command::Promote { force: false })),
                2 | 3 => asked.push(world.command(n, Command::Demote)),
                4 => asked.push(world.command(n, Command::VerifyStop)),
                5 => world.set_cable(Cable::Cut),
                6 => {
                    world.set_cable(Cable::Fine);
                    for n in 0..2 {
                        asked.push(world.command(n, Command::Connect { peer: 0 }));
                    }
                }
                _ => {
                    let max_rate = [None, Some(1 << 20)][world.rng.below(2) as usize];
                    let command = Command::Verify {
                        offset: 0,
                        len: SIZE,
                        max_rate,
                    };
                    asked.push(world.command(n, command));
                }
            }
            for _ in 0..world.rng.below(6) {
                for n in 0..2 {
                    load(&mut world, n, 0..256);
                }
                let pause = world.rng.below(2 * MS);
                world.run(pause);
            }
        }
        world.set_cable(Cable::Fine);
        for n in 0..2 {
            world.command(n, Command::Connect { peer: 0 });
        }
        world.run_until("both in step again", both_established);
        world.run(30_000 * MS);
        for n in 0..2 {
            assert_eq!(told(&world, n).0, BTreeMap::new(), "seed {seed}");
        }
        for id in asked {
            assert!(world.commands.contains_key(&id), "seed {seed}: no answer");
        }
        assert!(world.nodes[0].data.contents() == world.nodes[1].data.contents());
    }
}

#[test]
fn a_rate_is_kept() {
    let mut world = pair(3, Protocol::C);
    let rate = 4 << 20;
    let id = world.command(
        0,
        Command::Verify {
            offset: 0,
            len: SIZE,
            max_rate: Some(rate),
        },
    );
    let began = world.now;
    world.run_until("its end", |w| ended(w, 0).is_some());
    assert!(world.commands[&id].is_ok());
    let seconds = (world.now - began) as f64 / 1e9;
    let wanted = SIZE as f64 / rate as f64;
    assert!((wanted - 0.1..wanted + 0.1).contains(&seconds), "{seconds} s");
}

#[test]
fn one_at_a_time_only_in_step_and_only_from_the_primary() {
    let mut world = pair(3, Protocol::C);
    settle(&mut world);
    assert!(
        start(&mut world, 1, 0, SIZE).is_err(),
        "the Primary has the order"
    );
    start(&mut world, 0, 0, SIZE).expect("a verify");
    assert!(start(&mut world, 0, 0, SIZE).is_err());
    world.set_cable(Cable::Cut);
    world.run_until("its end", |w| ended(w, 0).is_some());
    let cut = ended(&world, 0).cloned().flatten().expect("a reason");
    assert!(cut.passing, "{}", cut.why);
    assert!(start(&mut world, 0, 0, SIZE).is_err());
    // What was written meanwhile is for the resync, and not compared.
    write(&mut world, 0, 7, 9);
    world.set_cable(Cable::Fine);
    world.run_until("the resync", |w| w.replication(0) == "SyncSource");
    assert!(start(&mut world, 0, 0, SIZE).is_err());
    world.run_until("both in step again", both_established);
    start(&mut world, 0, 0, SIZE).expect("a verify");
    world.run_until("its end", |w| ended(w, 0) == Some(&None));
    assert_eq!(told(&world, 0).0, BTreeMap::new());
}

#[test]
fn nobody_primary_either_may_ask_and_a_demote_or_a_disk_that_fails_ends_it() {
    let mut world = pair(3, Protocol::C);
    world.command(0, Command::Demote);
    world.run_until("a demote", |w| !w.nodes[0].exported);
    settle(&mut world);
    start(&mut world, 1, 0, SIZE).expect("a verify");
    // The other one rises: it has the order from now on.
    world.command(0, Command::Promote { force: false });
    world.run_until("its end", |w| ended(w, 1).is_some());
    assert!(ended(&world, 1)
        .and_then(Option::as_ref)
        .is_some_and(|cut| cut.passing));
    world.run_until("the promotion", |w| w.nodes[0].exported);
    start(&mut world, 0, 0, SIZE).expect("a verify");
    world.nodes[1].broken = true;
    world.run_until("its end", |w| ended(w, 0).is_some());
    let cut = ended(&world, 0).cloned().flatten().expect("a reason");
    assert!(!cut.passing && cut.why.contains("b cannot read"), "{}", cut.why);
}

/// Blocks next to each other, as a command has them.
fn runs(blocks: &[u64]) -> Vec<BlockRun> {
    let mut runs: Vec<BlockRun> = Vec::new();
    for block in blocks {
        match runs.last_mut().filter(|run| run.first + run.count == *block) {
            Some(run) => run.count += 1,
            None => runs.push(BlockRun {
                first: *block,
                count: 1,
            }),
        }
    }
    runs
}

#[test]
fn a_repair_saves_what_it_overwrites_and_proves_what_it_mended() {
    for seed in 1..=40 {
        let mut world = pair(seed, Protocol::C);
        let planted = plant(&mut world, 50, BLOCKS / 2..BLOCKS);
        let lost: Vec<Vec<u8>> = (planted.iter())
            .map(|block| world.nodes[1].data.read(block * BLOCK, BLOCK as usize))
            .collect();
        let kept = world.nodes[0].data.read(SIZE / 2, (SIZE / 2) as usize);
        verify_under_load(&mut world, 0, 0, 0..BLOCKS / 2, MS);
        settle(&mut world);
        assert_eq!(told(&world, 0).0.into_keys().collect::<Vec<_>>(), planted);
        let resyncs = world.resyncs;
        for n in 0..2 {
            world.nodes[n].verified.clear();
        }
        let runs = runs(&planted);
        let id = world.command(0, Command::Repair { runs });
        while !world.commands.contains_key(&id) {
            load(&mut world, 0, 0..BLOCKS / 2);
            world.run(MS / 10);
        }
        assert!(world.commands[&id].is_ok(), "seed {seed}");
        let bundle = world.nodes[1].bundle.take().expect("a bundle");
        assert_eq!(bundle, planted.iter().copied().zip(lost).collect());
        for n in 0..2 {
            assert_eq!(world.nodes[n].data.read(SIZE / 2, (SIZE / 2) as usize), kept);
            assert!(world.nodes[n].records.contains(&"verify.repairing"));
        }
        settle(&mut world);
        for n in 0..2 {
            // Each of them, and no end of a verify that nobody had asked for.
            assert_eq!(told(&world, n), (BTreeMap::new(), planted.len() as u64 * BLOCK));
            assert!(ended(&world, n).is_none());
        }
        assert_eq!(world.resyncs, resyncs, "both were in step all the time");
        assert!(world.nodes[0].data.contents() == world.nodes[1].data.contents());
    }
}

#[test]
fn a_repair_that_is_cut_off_has_changed_nothing_but_to_the_better() {
    for seed in 1..=80 {
        let mut world = pair(seed, Protocol::C);
        let planted = plant(&mut world, 50, 0..BLOCKS);
        let kept = world.nodes[0].data.contents().to_vec();
        let before = world.nodes[1].data.contents().to_vec();
        let id = world.command(0, Command::Repair { runs: runs(&planted) });
        let pause = world.rng.below(12 * MS);
        world.run(pause);
        world.set_cable(Cable::Cut);
        world.run_until("an answer", |w| w.commands.contains_key(&id));
        world.set_cable(Cable::Fine);
        world.run_until("both in step again", both_established);
        assert!(world.nodes[0].data.contents() == kept);
        let saved = world.nodes[1].bundle.take();
        for block in 0..BLOCKS {
            let at = (block * BLOCK) as usize..((block + 1) * BLOCK) as usize;
            let now = &world.nodes[1].data.contents()[at.clone()];
            if now != &before[at.clone()] {
                assert!(now == &kept[at.clone()], "seed {seed}: block {block}");
                let saved = saved.as_ref().and_then(|bundle| bundle.get(&block));
                assert_eq!(
                    saved.map(Vec::as_slice),
                    Some(&before[at]),
                    "seed {seed}: block {block} was not saved"
                );
            }
        }
    }
}

#[test]
fn only_the_primary_repairs_and_nothing_without_a_bundle() {
    let mut world = pair(3, Protocol::C);
    let planted = plant(&mut world, 1, 0..BLOCKS);
    let repair = || Command::Repair { runs: runs(&planted) };
    let before = world.nodes[1].data.contents().to_vec();
    let id = world.command(1, repair());
    world.run_until("an answer", |w| w.commands.contains_key(&id));
    let error = world.commands[&id].clone().expect_err("refused");
    assert_eq!(error.kind, ErrorKind::Unsafe);
    assert!(error.remedy.contains("blockpair promote"), "{}", error.remedy);
    world.bundles_fail = true;
    let id = world.command(0, repair());
    world.run_until("an answer", |w| w.commands.contains_key(&id));
    let error = world.commands[&id].clone().expect_err("no bundle, no repair");
    assert!(error.message.contains("could not save"), "{}", error.message);
    assert!(world.nodes[1].data.contents() == before);
    world.bundles_fail = false;
    let id = world.command(0, repair());
    world.run_until("an answer", |w| w.commands.contains_key(&id));
    assert!(world.commands[&id].is_ok());
}
