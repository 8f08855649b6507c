//! Two real cores and the arbiter's register: each rule of docs/spec/arbitration.md, and the races between them.

mod failover;
mod forced;
mod handover;
mod reads;
mod register;
mod restart;

use std::collections::BTreeSet;

use _engine::core::*;
use _engine::payload::Payload;
use _engine::wire::Protocol;

use crate::both_established;
use crate::world::{Cable, Reach, World, BLOCK};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const TIMES: ArbitrationConfig = ArbitrationConfig {
    beacon_ns: 250 * MS,
    lease_ns: 2_000 * MS,
    patience_ns: 750 * MS,
    answer_ns: 5_000 * MS,
    drift_ppm: 1_000,
    automatic: true,
};
const A: usize = 0;
const B: usize = 1;

fn configuration(epoch: u64, primary: &str, in_sync: &[&str]) -> Configuration {
    Configuration {
        epoch,
        primary: primary.into(),
        in_sync: in_sync.iter().map(ToString::to_string).collect::<BTreeSet<_>>(),
    }
}

fn world(seed: u64, protocol: Protocol, times: ArbitrationConfig) -> World {
    let mut world = World::new(seed, protocol);
    world.arbitration = Some(times);
    world.start(A, false);
    world.start(B, false);
    world.run_until("both wait", |w| {
        w.replication(A) == "Waiting" && w.replication(B) == "Waiting"
    });
    world
}

/// In step, `a` Primary, both in sync at the arbiter.
fn pair_with(seed: u64, protocol: Protocol, times: ArbitrationConfig) -> World {
    let mut world = world(seed, protocol, times);
    let source = SyncSource::Myself;
    done(&mut world, A, Command::SyncFrom { source }).expect("the first sync");
    world.run_until("the first sync", both_established);
    done(&mut world, A, Command::Promote { force: false }).expect("a promotion");
    grown(&mut world);
    world
}

fn pair(seed: u64) -> World {
    pair_with(seed, Protocol::C, TIMES)
}

/// The register names both in sync, and the Primary goes by it.
fn grown(world: &mut World) {
    world.run_until("both are in sync", |w| {
        let held = w.register.clone();
        both_established(w)
            && held.as_ref().is_some_and(|held| held.in_sync.len() == 2)
            && (0..2).any(|n| serving(w, n) == held)
    });
}

fn arbitration(world: &World, n: usize) -> ArbitrationStatus {
    let status = world.status(n).expect("it is up");
    status.arbitration.expect("an arbiter is asked")
}

fn serving(world: &World, n: usize) -> Option<Configuration> {
    world.status(n)?.arbitration?.configuration
}

fn is_primary(world: &World, n: usize) -> bool {
    world.nodes[n].replica.is_some() && world.nodes[n].exported
}

fn done(world: &mut World, n: usize, command: Command) -> Result<(), CommandError> {
    let id = world.command(n, command);
    world.run_until("a command", |w| w.commands.contains_key(&id));
    world.commands.remove(&id).expect("just seen")
}

fn start_write(world: &mut World, n: usize, block: u64, stamp: u8) -> RequestId {
    let payload = Payload::copy_from(&[stamp; BLOCK as usize]);
    let kind = RequestKind::Write {
        offset: block * BLOCK,
        payload,
        fua: false,
    };
    world.request(n, kind)
}

fn start_read(world: &mut World, n: usize, block: u64) -> RequestId {
    let (offset, len) = (block * BLOCK, BLOCK as u32);
    world.request(n, RequestKind::Read { offset, len })
}

fn reply(world: &World, id: RequestId) -> Option<Result<Option<Payload>, Errno>> {
    let found = world.replies.iter().find(|(_, reply, _)| *reply == id);
    found.map(|(_, _, result)| result.clone())
}

fn replied(world: &mut World, id: RequestId) -> Result<Option<Payload>, Errno> {
    world.run_until("a reply", |w| reply(w, id).is_some());
    reply(world, id).expect("just seen")
}

fn write(world: &mut World, n: usize, block: u64, stamp: u8) {
    let id = start_write(world, n, block, stamp);
    assert!(replied(world, id).is_ok());
}

fn stamp(world: &World, n: usize, block: u64) -> u8 {
    world.nodes[n].data.read(block * BLOCK, 1)[0]
}

/// Everything is well again: in step, one Primary, both in sync, equal copies, and no split brain on the way.
fn healed(world: &mut World) {
    grown(world);
    world.run(SECOND);
    assert!(
        world.nodes[A].data.contents() == world.nodes[B].data.contents(),
        "the copies differ"
    );
    assert_eq!((0..2).filter(|n| is_primary(world, *n)).count(), 1);
    for node in &world.nodes {
        assert!(!node.records.contains(&"split_brain.found"), "{:?}", node.records);
    }
}

fn cut(world: &mut World) {
    world.set_cable(Cable::Cut);
    world.run_until("both have lost the other", |w| {
        (0..2).all(|n| w.nodes[n].replica.is_none() || w.replication(n) == "Off")
    });
}

/// Neither can reach the arbiter.
fn without_arbiter(world: &mut World, reach: Reach) {
    for node in &mut world.nodes {
        node.reach = reach;
    }
}
