//! What a seed does: a list of steps, made before the run, so that any of them can be left out of a replay.

use _engine::core::{ArbitrationConfig, Errno, OnIoError};
use _engine::wire::{Protocol, SplitBrainPolicy};

use crate::disk::PAGES;
use crate::network::Cable;
use crate::rng::Rng;
use crate::witness::{Ill, Road};
use crate::world::{Arbitrated, Part, MS};

/// Which node a step is about: roles change as a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Primary,
    Secondary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Write {
        first: usize,
        count: usize,
        fua: bool,
    },
    Zero {
        first: usize,
        count: usize,
        fua: bool,
        trim: bool,
    },
    Read {
        first: usize,
        count: usize,
    },
    Flush,
    Cable(Cable),
    /// The next frame loses a bit.
    Damage,
    Crash {
        who: Who,
        power: bool,
    },
    /// The Primary dies; a person promotes the survivor if it was in sync.
    Failover {
        power: bool,
        survivor_too: bool,
        replaced: bool,
    },
    Disconnect {
        who: Who,
    },
    Connect {
        who: Who,
    },
    /// The Primary's resource goes down in good order, and up again.
    Restart,
    Switchover,
    Pause {
        who: Who,
        ms: u64,
    },
    Fail {
        who: Who,
        part: Part,
        errno: Errno,
        times: u32,
    },
    /// The Secondary gets another disk.
    Replace,
    /// A person asks for it, not by force.
    Promote {
        who: Who,
    },
    Demote {
        who: Who,
    },
    /// A machine is paused, and its clock with it.
    StandStill {
        who: Who,
        ms: u64,
    },
    /// Neither its peer nor the witness can be reached from there.
    Isolate {
        who: Who,
    },
    Witness(Ill),
    Road {
        who: Who,
        road: Road,
    },
    /// Both copies of so many pages are compared.
    Verify {
        who: Who,
        first: usize,
        count: usize,
    },
    /// Everything that is down comes up, and the cable is mended.
    Heal,
}

#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Its number in the whole plan.
    pub number: usize,
    pub op: Op,
    /// What the world does until the next step.
    pub pause_us: u64,
    /// Chances of the world from here on: other steps may go without changing this one's.
    pub seed: u64,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub protocol: Protocol,
    pub block_size: u32,
    pub on_io_error: OnIoError,
    pub steps: Vec<Step>,
    /// Before this step come two Primaries, by force, and the end of that; after the last one, if there is none such.
    pub split: Option<usize>,
    pub policy: SplitBrainPolicy,
    pub priority: [u32; 2],
    /// Whether an arbiter says who may write, or a person.
    pub arbitrated: Option<Arbitrated>,
    /// Whether both copies are compared now and then, and differences planted in the end.
    pub verifies: bool,
}

/// Places that the workload writes: few, so that writes overlap, and across two borders of extents.
pub fn places() -> Vec<usize> {
    (1015..1036).chain(PAGES - 20..PAGES).collect()
}

fn request(rng: &mut Rng) -> Op {
    let base = if rng.chance(3) { PAGES - 20 } else { 1015 };
    let first = base + rng.below(16) as usize;
    let count = 1 + rng.below(4) as usize;
    let fua = rng.chance(6);
    match rng.below(12) {
        0 | 1 => Op::Flush,
        2 => Op::Read { first, count },
        3 => Op::Zero {
            first,
            count,
            fua,
            trim: rng.chance(2),
        },
        _ => Op::Write { first, count, fua },
    }
}

fn disturbance(rng: &mut Rng) -> Op {
    let who = if rng.chance(2) {
        Who::Primary
    } else {
        Who::Secondary
    };
    match rng.below(24) {
        0 => Op::Cable(Cable::Cut),
        1 => Op::Cable(Cable::Silent),
        2 => Op::Cable(Cable::Mute(rng.below(2) as usize)),
        3 => Op::Cable(Cable::Slow),
        4 => Op::Damage,
        5..=7 => Op::Crash {
            who: Who::Secondary,
            power: rng.chance(2),
        },
        8 | 9 => Op::Crash {
            who: Who::Primary,
            power: rng.chance(2),
        },
        10..=12 => Op::Failover {
            power: rng.chance(2),
            survivor_too: rng.chance(3),
            replaced: rng.chance(6),
        },
        13 if rng.chance(3) => Op::Connect { who },
        13 => Op::Disconnect { who },
        14 => Op::Restart,
        15 => Op::Switchover,
        16 => Op::Pause {
            who,
            ms: 1 + rng.below(8_000),
        },
        17 => {
            let part = [
                Part::Read,
                Part::Write,
                Part::Write,
                Part::Flush,
                Part::Meta,
            ][rng.below(5) as usize];
            let full = part == Part::Write && rng.chance(2);
            Op::Fail {
                who,
                part,
                errno: if full { Errno::ENOSPC } else { Errno::EIO },
                times: 1 + rng.below(3) as u32,
            }
        }
        18 if rng.chance(3) => Op::Replace,
        _ => Op::Heal,
    }
}

/// Where an arbiter decides, it and the way to it are disturbed as well, and nobody promotes by force.
fn arbitrated_disturbance(rng: &mut Rng, protocol: Protocol) -> Op {
    let who = if rng.chance(2) {
        Who::Primary
    } else {
        Who::Secondary
    };
    match rng.below(30) {
        0..=2 => Op::Witness(match rng.below(9) {
            0..=2 => Ill::Killed,
            3 | 4 => Ill::Started,
            5 | 6 => Ill::Frozen {
                ms: 1 + rng.below(10_000),
            },
            7 => Ill::Lost,
            _ => Ill::Restored {
                back: 1 + rng.below(4),
            },
        }),
        3..=5 => Op::Road {
            who,
            road: [
                Road::Slow,
                Road::Lossy,
                Road::Deaf,
                Road::Mute,
                Road::Cut,
                Road::Fine,
            ][rng.below(6) as usize],
        },
        6 | 7 => Op::Isolate { who },
        8 if rng.chance(2) => Op::Promote { who },
        8 if rng.chance(2) => Op::Demote { who },
        // What a paused machine acknowledged by protocol A nobody can know.
        9 | 10 if protocol != Protocol::A => Op::StandStill {
            who,
            ms: 1 + rng.below(10_000),
        },
        11 => Op::Pause {
            who,
            ms: 1 + rng.below(10_000),
        },
        _ => disturbance(rng),
    }
}

/// Half of all seeds are arbitrated. By chances of their own: what the others do does not depend on it.
fn arbitration(seed: u64, protocol: Protocol) -> Option<Arbitrated> {
    let mut rng = Rng::new(seed ^ 0xA4B1);
    if rng.chance(2) {
        return None;
    }
    // Beacon, lease and patience of the three profiles.
    let profiles = [
        (250, 2_000, 750),
        (250, 2_000, 750),
        (50, 300, 150),
        (1_000, 10_000, 3_000),
    ];
    let (beacon, lease, patience) = profiles[rng.below(4) as usize];
    let drift_ppm = [0, 500, 10_000][rng.below(3) as usize];
    let mut drift = || (rng.below(2 * u64::from(drift_ppm) + 1) as i32) - drift_ppm as i32;
    let drifts = [drift(), drift()];
    let config = ArbitrationConfig {
        beacon_ns: beacon * MS,
        lease_ns: lease * MS,
        patience_ns: patience * MS,
        answer_ns: 5_000 * MS,
        drift_ppm,
        automatic: protocol != Protocol::A && !rng.chance(8),
    };
    Some(Arbitrated {
        config,
        drift_ppm: drifts,
    })
}

/// In one of four seeds both copies are compared now and then, mostly where the workload writes. By chances of their own,
/// as above.
fn with_verifies(seed: u64, steps: Vec<Step>) -> (Vec<Step>, bool) {
    let mut rng = Rng::new(seed ^ 0x7E51);
    if !rng.chance(4) {
        return (steps, false);
    }
    let mut all = Vec::new();
    for step in steps {
        if rng.chance(12) {
            let op = compare(&mut rng);
            all.push(Step {
                op,
                pause_us: 0,
                seed: rng.next(),
                ..step
            });
        }
        all.push(step);
    }
    for (number, step) in all.iter_mut().enumerate() {
        step.number = number;
    }
    (all, true)
}

fn compare(rng: &mut Rng) -> Op {
    let who = if rng.chance(6) {
        Who::Secondary
    } else {
        Who::Primary
    };
    let (first, count) = match rng.below(6) {
        0 => (0, PAGES),
        1 | 2 => (PAGES - 64, 64),
        _ => (960, 128),
    };
    Op::Verify { who, first, count }
}

impl Plan {
    pub fn new(seed: u64) -> Plan {
        let mut rng = Rng::new(seed ^ 0x5EED);
        let protocol = [Protocol::C, Protocol::C, Protocol::B, Protocol::A][rng.below(4) as usize];
        let arbitrated = arbitration(seed, protocol);
        let disturbance = |rng: &mut Rng| match arbitrated {
            Some(_) => arbitrated_disturbance(rng, protocol),
            None => disturbance(rng),
        };
        let block_size = if rng.chance(4) { 64 << 10 } else { 4 << 10 };
        let mut steps = Vec::new();
        let mut add = |rng: &mut Rng, op, pause_us| {
            let number = steps.len();
            let seed = rng.next();
            steps.push(Step {
                number,
                op,
                pause_us,
                seed,
            });
        };
        for _ in 0..4 + rng.below(10) {
            for _ in 0..rng.below(25) {
                let op = request(&mut rng);
                let pause = [0, 1_000, 3_000][rng.below(3) as usize];
                let pause = rng.below(pause + 1);
                add(&mut rng, op, pause);
                if rng.chance(40) {
                    // In the middle of it, with operations on their way to every disk.
                    let op = disturbance(&mut rng);
                    let pause = rng.below(2_000);
                    add(&mut rng, op, pause);
                    if let (Op::Disconnect { who }, true) = (op, rng.chance(2)) {
                        // Taken back before it has ended.
                        add(&mut rng, Op::Connect { who }, pause);
                    }
                }
            }
            let op = disturbance(&mut rng);
            if let (Op::Disconnect { who }, true) = (op, rng.chance(2)) {
                let pause = rng.below(3_000);
                add(&mut rng, op, pause);
                add(&mut rng, Op::Connect { who }, 1_000);
                continue;
            }
            let span = if rng.chance(3) { 20_000 } else { 6_000_000 };
            let pause = rng.below(span);
            add(&mut rng, op, pause);
        }
        let count = 2 * steps.len() as u64;
        let (steps, verifies) = with_verifies(seed, steps);
        Plan {
            seed,
            protocol,
            block_size,
            on_io_error: [OnIoError::Detach, OnIoError::PassOn][(seed % 2) as usize],
            steps,
            split: rng.chance(6).then(|| rng.below(count) as usize),
            arbitrated,
            verifies,
            policy: [
                SplitBrainPolicy::Manual,
                SplitBrainPolicy::DiscardZeroChanges,
                SplitBrainPolicy::DiscardLeastChanges,
                SplitBrainPolicy::DiscardOlderPrimary,
                SplitBrainPolicy::DiscardYoungerPrimary,
                SplitBrainPolicy::Priority,
            ][rng.below(6) as usize],
            priority: [rng.below(3) as u32, rng.below(3) as u32],
        }
    }
}
