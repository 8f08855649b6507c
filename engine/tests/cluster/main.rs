//! Two real replica cores on a virtual clock, network and disks: no file, no socket, no thread.
//!
//! `CLUSTER_SEEDS=n` runs n seeds (default 150), `CLUSTER_SEED=n` replays one and prints its trace.

mod disk;
mod oracle;
mod resolution;
mod rng;
mod scripted;
mod world;

use _engine::core::*;
use _engine::payload::Payload;
use _engine::wire::{DiskState, Protocol};

use oracle::Oracle;
use world::{Cable, World, BLOCK, SIZE};

const MS: u64 = 1_000_000;

/// A workload that fails over, and an oracle that watches it.
struct Run {
    world: World,
    oracle: Oracle,
    primary: usize,
    crashes: u64,
    failovers: u64,
    power_cuts: u64,
}

impl Run {
    /// Both nodes up, first sync done, `a` Primary.
    fn new(seed: u64, protocol: Protocol) -> Run {
        let mut world = World::new(seed, protocol);
        world.start(0, false);
        world.start(1, false);
        world.run_until("both wait for the first sync", |w| {
            w.replication(0) == "Waiting" && w.replication(1) == "Waiting"
        });
        world.command(
            0,
            Command::SyncFrom {
                source: SyncSource::Myself,
            },
        );
        world.run_until("first sync", both_established);
        world.command(0, Command::Promote { force: false });
        world.run_until("promotion", |w| w.nodes[0].exported);
        Run {
            world,
            oracle: Oracle::new(),
            primary: 0,
            crashes: 0,
            failovers: 0,
            power_cuts: 0,
        }
    }

    fn fail(&self, seed: u64, why: &str) -> ! {
        panic!("seed {seed}: {why}\nreplay: CLUSTER_SEED={seed} cargo test --test cluster -- --nocapture");
    }

    fn collect(&mut self) -> Result<(), String> {
        for (node, id, result) in std::mem::take(&mut self.world.replies) {
            let data = result.as_ref().ok().and_then(|data| data.as_deref());
            self.oracle
                .replied(id, result.is_ok(), data)
                .map_err(|error| format!("node {node}: {error}"))?;
        }
        Ok(())
    }

    fn issue(&mut self) {
        if !self.world.nodes[self.primary].exported {
            return;
        }
        let world = &mut self.world;
        let n = self.primary;
        // Few places, so that writes overlap; two extents, so that the write-intent log matters.
        let base = if world.rng.chance(3) {
            SIZE / BLOCK - 20
        } else {
            1015
        };
        let first = base + world.rng.below(16);
        let count = 1 + world.rng.below(4);
        let fua = world.rng.chance(5);
        let (offset, len) = (first * BLOCK, count * BLOCK);
        match world.rng.below(10) {
            0 => {
                let id = world.request(n, RequestKind::Flush);
                self.oracle.flush_issued(id);
            }
            1 => {
                let id = world.request(
                    n,
                    RequestKind::Read {
                        offset,
                        len: len as u32,
                    },
                );
                self.oracle.read_issued(id, first, count);
            }
            2 => {
                let order = self.oracle.next_order();
                let kind = if world.rng.chance(2) {
                    RequestKind::Trim { offset, len, fua }
                } else {
                    RequestKind::WriteZeroes {
                        offset,
                        len,
                        fua,
                        unmap: false,
                    }
                };
                let id = world.request(n, kind);
                self.oracle.issued(id, order, 0, first, count, fua);
            }
            _ => {
                let order = self.oracle.next_order();
                let payload = Payload::copy_from(&Oracle::stamp_bytes(order, count));
                let id = world.request(n, RequestKind::Write { offset, payload, fua });
                self.oracle.issued(id, order, order, first, count, fua);
            }
        }
    }

    /// One disturbance.
    fn disturb(&mut self) {
        let (primary, secondary) = (self.primary, 1 - self.primary);
        let world = &mut self.world;
        match world.rng.below(12) {
            0 => world.set_cable(Cable::Cut),
            1 => world.set_cable(Cable::Silent),
            2 => {
                let node = world.rng.below(2) as usize;
                world.set_cable(Cable::Mute(node));
            }
            3 | 4 => {
                let power = world.rng.chance(2);
                world.crash(secondary, power);
                self.power_cuts += u64::from(power);
                self.crashes += 1;
            }
            5 => {
                world.command(primary, Command::Disconnect { peer: 0 });
            }
            6 | 7 => self.primary_dies(),
            8 => {
                // Planned: the resource goes down in good order, and comes back as what it was.
                let id = world.command(primary, Command::Stop);
                world.run_until("stop", |w| w.commands.contains_key(&id));
                let _ = self.collect();
                self.world.crash(primary, false);
                self.world.start(primary, true);
            }
            _ => {
                world.set_cable(Cable::Fine);
                for n in 0..2 {
                    if world.nodes[n].replica.is_none() {
                        let resume = world.rng.chance(2);
                        world.start(n, resume && n == primary);
                    } else {
                        world.command(n, Command::Connect { peer: 0 });
                    }
                }
            }
        }
    }

    fn primary_dies(&mut self) {
        let (primary, secondary) = (self.primary, 1 - self.primary);
        // Only then may a person force the survivor: a Primary that has already gone on without it
        // (a new generation) has acknowledged writes that it lacks.
        let generation = |world: &World, n: usize| world.status(n).map(|status| status.generation.current);
        let in_sync = self.world.replication(primary) == "Established"
            && self.world.replication(secondary) == "Established"
            && generation(&self.world, primary) == generation(&self.world, secondary);
        let power = self.world.rng.chance(2);
        self.world.crash(primary, power);
        self.crashes += 1;
        let _ = self.collect();
        self.oracle.forget_open();
        if power {
            self.power_cuts += 1;
            self.oracle.power_was_cut();
        }
        if in_sync && self.world.rng.chance(2) {
            // A person knows that it is dead, and promotes the survivor.
            self.world.run_until("the survivor notices", |w| {
                w.replication(secondary) != "Established"
            });
            self.world.command(secondary, Command::Promote { force: true });
            self.world
                .run_until("the survivor is Primary", |w| w.nodes[secondary].exported);
            self.primary = secondary;
            self.failovers += 1;
        } else {
            let pause = self.world.rng.below(4_000 * MS);
            self.world.run(pause);
            self.world.start(primary, true);
        }
    }

    /// Everything heals; both copies must become equal, and right.
    fn converge(&mut self) -> Result<(), String> {
        self.world.set_cable(Cable::Fine);
        for n in 0..2 {
            if self.world.nodes[n].replica.is_none() {
                self.world.start(n, n == self.primary);
            } else {
                self.world.command(n, Command::Connect { peer: 0 });
            }
        }
        let primary = self.primary;
        self.world.run_until("both in step again", both_established);
        self.world.run(10_000 * MS);
        self.world.command(primary, Command::Promote { force: false });
        self.world
            .run_until("the Primary serves again", |w| w.nodes[primary].exported);
        self.collect()?;
        for _ in 0..10 {
            self.issue();
        }
        let id = self.world.request(primary, RequestKind::Flush);
        self.oracle.flush_issued(id);
        for _ in 0..400 {
            self.world.run(10 * MS);
            self.collect()?;
            if !self.oracle.has_open() {
                break;
            }
        }
        if self.oracle.has_open() {
            return Err("requests without an answer".into());
        }
        if self.world.nodes[0].data.contents() != self.world.nodes[1].data.contents() {
            return Err("the copies differ, and nothing says so".into());
        }
        self.oracle.check_disk(self.world.nodes[0].data.contents())?;
        for n in 0..2 {
            let status = self.world.status(n).ok_or("a node is down")?;
            if status.peers[0].out_of_sync_bytes != 0 || status.disk != DiskState::UpToDate {
                return Err(format!("node {n} is not clean: {status:?}"));
            }
        }
        // At rest, the write-intent log empties itself.
        self.world.run(10_000 * MS);
        let hot = self.world.status(primary).map_or(1, |status| status.hot_extents);
        if hot != 0 {
            return Err(format!("{hot} extents stay in the write-intent log"));
        }
        Ok(())
    }
}

fn both_established(world: &mut World) -> bool {
    world.replication(0) == "Established" && world.replication(1) == "Established"
}

fn run(seed: u64) -> Run {
    let protocol = [Protocol::C, Protocol::C, Protocol::B, Protocol::A][(seed % 4) as usize];
    let mut run = Run::new(seed, protocol);
    for round in 0..12 {
        for _ in 0..run.world.rng.below(25) {
            run.issue();
            if protocol == Protocol::C && run.world.rng.chance(30) {
                // In the middle of it, with operations on their way to every disk.
                run.primary_dies();
            }
            let pause = run.world.rng.below(3 * MS);
            run.world.run(pause);
        }
        if let Err(why) = run.collect() {
            run.fail(seed, &why);
        }
        // Protocols A and B acknowledge before the peer's disk has it: only C survives a failover whole.
        if protocol == Protocol::C || round % 3 != 2 {
            run.disturb_within(protocol);
        }
        let pause = run.world.rng.below(6_000 * MS);
        run.world.run(pause);
        if let Err(why) = run.collect() {
            run.fail(seed, &why);
        }
    }
    if let Err(why) = run.converge() {
        run.fail(seed, &why);
    }
    run
}

impl Run {
    fn disturb_within(&mut self, protocol: Protocol) {
        if protocol == Protocol::C {
            return self.disturb();
        }
        // Without protocol C a dead Primary may take acknowledged writes with it; here it always comes back.
        let secondary = 1 - self.primary;
        match self.world.rng.below(5) {
            0 => self.world.set_cable(Cable::Cut),
            1 => self.world.set_cable(Cable::Silent),
            2 => {
                let power = self.world.rng.chance(2);
                self.world.crash(secondary, power);
                self.crashes += 1;
            }
            _ => {
                self.world.set_cable(Cable::Fine);
                if self.world.nodes[secondary].replica.is_none() {
                    self.world.start(secondary, false);
                }
            }
        }
    }
}

#[test]
fn random_faults_lose_nothing_and_end_in_equal_copies() {
    if let Some(seed) = std::env::var("CLUSTER_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        let run = run(seed);
        for line in &run.world.trace {
            println!("{line}");
        }
        return;
    }
    let seeds = std::env::var("CLUSTER_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(150);
    let (mut crashes, mut failovers, mut power_cuts, mut resyncs, mut writes, mut flushes) =
        (0, 0, 0, 0, 0, 0);
    for seed in 1..=seeds {
        let run = run(seed);
        crashes += run.crashes;
        failovers += run.failovers;
        power_cuts += run.power_cuts;
        resyncs += run.world.resyncs;
        writes += run.oracle.acknowledged;
        flushes += run.oracle.flushed;
    }
    println!(
        "{seeds} seeds: {writes} writes and {flushes} flushes acknowledged, {crashes} crashes \
         ({power_cuts} power cuts), {failovers} failovers, {resyncs} resyncs"
    );
    assert!(
        seeds < 50 || (failovers > 5 && resyncs > 50),
        "the workload lost its teeth"
    );
}

#[test]
fn a_split_brain_is_found_by_both_and_overwrites_nothing() {
    for seed in 1..=40 {
        let mut run = Run::new(seed, Protocol::C);
        let world = &mut run.world;
        world.set_cable(Cable::Cut);
        world.run_until("both alone", |w| {
            w.replication(0) != "Established" && w.replication(1) != "Established"
        });
        world.command(1, Command::Promote { force: true });
        world.run_until("two Primaries", |w| w.nodes[1].exported);
        for n in 0..2 {
            let payload = Payload::copy_from(&vec![1 + n as u8; BLOCK as usize]);
            world.request(
                n,
                RequestKind::Write {
                    offset: seed % 3 * BLOCK,
                    payload,
                    fua: true,
                },
            );
        }
        world.run(1_000 * MS);
        // One of them may have died in between, or both.
        for n in 0..2 {
            if world.rng.chance(3) {
                let power = world.rng.chance(2);
                world.crash(n, power);
                let resume = world.rng.chance(2);
                world.start(n, resume);
            }
        }
        let before = [0, 1].map(|n| world.nodes[n].data.contents().to_vec());
        world.set_cable(Cable::Fine);
        world.run(20_000 * MS);
        for (n, before) in before.iter().enumerate() {
            let status = world.status(n).expect("up");
            let peer = &status.peers[0];
            assert_eq!(peer.connection, "StandAlone", "seed {seed}, node {n}: {peer:?}");
            assert_eq!(peer.rule, Some("split-brain"), "seed {seed}, node {n}");
            assert!(
                world.nodes[n].data.contents() == before.as_slice(),
                "seed {seed}: {n} was overwritten"
            );
        }
    }
}

#[test]
fn commands_at_any_instant_are_answered_once_and_leave_one_primary() {
    for seed in 1..=200 {
        let mut run = Run::new(seed, Protocol::C);
        let mut asked = Vec::new();
        for _ in 0..60 {
            let world = &mut run.world;
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
        let world = &mut run.world;
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
