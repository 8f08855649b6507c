//! One walk.

use std::collections::BTreeMap;

use _engine::core::*;
use _engine::wire::Protocol;

use crate::oracle::Oracle;
use crate::world::{Cable, Reach, World};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const ACTIONS: u64 = 70;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Processes end; their disks keep everything.
    Kills,
    /// Machines lose power, and what was not flushed.
    Power,
    /// And the arbiter now and then loses its record.
    Forgets,
    /// A person forces now and then.
    Forces,
    /// Nobody is promoted without a person.
    ByHand,
}

#[derive(Debug, Default)]
pub struct Walked {
    pub acknowledged: u64,
    pub reads: u64,
    /// How often each rule was carried through.
    pub rules: BTreeMap<&'static str, u64>,
}

struct Walk {
    world: World,
    oracle: Oracle,
    kind: Kind,
    forces: u64,
}

/// # Errors
/// The invariant that did not hold.
pub fn walk(seed: u64, kind: Kind) -> Result<Walked, String> {
    let mut world = World::new(seed, Protocol::C);
    let drift_ppm = [0, 1_000, 20_000][world.rng.below(3) as usize];
    world.arbitration = Some(ArbitrationConfig {
        beacon_ns: 250 * MS,
        lease_ns: 2_000 * MS,
        patience_ns: 750 * MS,
        answer_ns: 5_000 * MS,
        drift_ppm,
        automatic: kind != Kind::ByHand,
    });
    for node in &mut world.nodes {
        let span = 2 * u64::from(drift_ppm) + 1;
        node.drift_ppm = world.rng.below(span) as i64 - i64::from(drift_ppm);
    }
    let mut oracle = Oracle::default();
    oracle.power = kind == Kind::Power;
    let mut walk = Walk {
        world,
        oracle,
        kind,
        forces: 0,
    };
    let result = walk.all_of_it();
    if result.is_err() && std::env::var_os("TRACE").is_some() {
        walk.world.trace.iter().for_each(|line| println!("{line}"));
    }
    result.map(|()| walk.walked())
}

impl Walk {
    fn all_of_it(&mut self) -> Result<(), String> {
        self.begin()?;
        for _ in 0..ACTIONS {
            self.act();
            let span = [MS / 4, 2 * MS, 50 * MS, 400 * MS, 3 * SECOND][self.world.rng.below(5) as usize];
            let pause = self.world.rng.below(span);
            self.run(pause)?;
        }
        self.heal()
    }

    fn run(&mut self, span: u64) -> Result<(), String> {
        let end = self.world.now + span;
        while self.world.next_at().is_some_and(|at| at <= end) {
            self.world.step();
            self.oracle.look(&mut self.world)?;
        }
        self.world.now = end;
        Ok(())
    }

    fn run_until(&mut self, what: &str, patience: u64, done: impl Fn(&World) -> bool) -> Result<(), String> {
        let end = self.world.now + patience;
        while !done(&self.world) {
            if self.world.now > end {
                return Err(format!("never came to be: {what}"));
            }
            self.world.step();
            self.oracle.look(&mut self.world)?;
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), String> {
        self.world.start(0, false);
        self.world.start(1, false);
        self.run_until("both wait", 10 * SECOND, |w| {
            (0..2).all(|n| w.replication(n) == "Waiting")
        })?;
        let source = SyncSource::Myself;
        self.world.command(0, Command::SyncFrom { source });
        self.run_until("the first sync", 60 * SECOND, in_step)?;
        self.world.command(0, Command::Promote { force: false });
        self.run_until("a Primary", 10 * SECOND, |w| w.nodes[0].exported)
    }

    fn is_awake(&self, n: usize) -> bool {
        self.world.nodes[n].replica.is_some() && self.world.nodes[n].frozen <= self.world.now
    }

    fn act(&mut self) {
        let n = self.world.rng.below(2) as usize;
        for node in 0..2 {
            if self.is_awake(node) && self.world.nodes[node].exported {
                for _ in 0..self.world.rng.below(4) {
                    let fua = self.world.rng.chance(8);
                    self.oracle.write(&mut self.world, node, fua);
                }
                for _ in 0..3 {
                    self.oracle.read(&mut self.world, node);
                }
                if self.world.rng.chance(3) {
                    self.oracle.flush(&mut self.world, node);
                }
            }
        }
        match self.world.rng.below(24) {
            0..=2 => self.crash(n),
            3..=6 => {
                if self.world.nodes[n].replica.is_none() {
                    self.world.start(n, true);
                }
            }
            7..=10 => {
                let cables = [Cable::Cut, Cable::Silent, Cable::Mute(n)];
                let cable = cables[self.world.rng.below(3) as usize];
                self.world.set_cable(cable);
            }
            11..=14 => self.world.set_cable(Cable::Fine),
            15 | 16 => {
                let late = self.world.rng.below(5 * SECOND);
                let reaches = [Reach::Cut, Reach::Deaf, Reach::Late(late)];
                self.world.nodes[n].reach = reaches[self.world.rng.below(3) as usize];
            }
            17 | 18 => self.world.nodes[n].reach = Reach::Fine,
            19 if self.world.rng.chance(2) => {
                // Cut off from everything, and not aware of it.
                self.world.set_cable(Cable::Silent);
                self.world.nodes[n].reach = Reach::Cut;
            }
            19 => {
                let pause = self.world.rng.below(10 * SECOND);
                self.world.nodes[n].frozen = self.world.now + pause;
            }
            20 => self.command(n, Command::Demote),
            21 => self.command(n, Command::Promote { force: false }),
            22 => match self.world.rng.below(3) {
                0 => self.command(n, Command::Disconnect { peer: 0 }),
                _ => self.command(n, Command::Connect { peer: 0 }),
            },
            _ => match self.kind {
                Kind::Forgets => {
                    self.world.note("the arbiter loses its record".into());
                    self.world.register = None;
                    self.oracle.forgotten = true;
                }
                Kind::Forces => {
                    if self.is_awake(n) {
                        self.oracle.forced = true;
                        self.forces += 1;
                        self.command(n, Command::Promote { force: true });
                    }
                }
                _ => self.command(n, Command::Promote { force: false }),
            },
        }
    }

    fn crash(&mut self, n: usize) {
        let power = self.kind == Kind::Power && self.world.rng.chance(2);
        self.world.crash(n, power);
        self.world.nodes[n].frozen = 0;
        self.oracle.died(n, power);
    }

    fn command(&mut self, n: usize, command: Command) {
        if self.is_awake(n) {
            self.world.command(n, command);
        }
    }

    /// Everything works again: so does the resource.
    fn heal(&mut self) -> Result<(), String> {
        self.world.set_cable(Cable::Fine);
        for n in 0..2 {
            self.world.nodes[n].frozen = 0;
            self.world.nodes[n].reach = Reach::Fine;
            if self.world.nodes[n].replica.is_none() {
                self.world.start(n, true);
            }
            self.command(n, Command::Connect { peer: 0 });
        }
        self.run(40 * SECOND)?;
        if self.oracle.forced {
            // What a person has split, a person puts together.
            return Ok(());
        }
        for n in 0..2 {
            if self.kind == Kind::ByHand || !has_primary(&self.world) {
                self.command(n, Command::Promote { force: false });
                self.run(10 * SECOND)?;
            }
        }
        self.run_until("both in sync", 180 * SECOND, |w| {
            let both = w.register.as_ref().is_some_and(|held| held.in_sync.len() == 2);
            in_step(w) && both && has_primary(w)
        })?;
        self.run(SECOND)?;
        self.oracle.all_there(&self.world)
    }

    fn walked(&self) -> Walked {
        let mut rules = BTreeMap::new();
        for pair in self.world.registers.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            let (few, many) = (before.in_sync.len(), after.in_sync.len());
            let rule = match (before.primary == after.primary, few, many) {
                (false, _, 2) => "handover",
                (false, ..) => "promote",
                (true, 2, 1) => "shrink",
                (true, 1, 2) => "grow",
                (true, ..) if after.epoch > before.epoch + 1 => "renew",
                (true, ..) => "resume",
            };
            *rules.entry(rule).or_default() += 1;
        }
        rules.insert("reseed", self.world.reseeds);
        rules.insert("force", self.forces);
        Walked {
            acknowledged: self.oracle.acknowledgements,
            reads: self.oracle.reads,
            rules,
        }
    }
}

fn in_step(world: &World) -> bool {
    (0..2).all(|n| world.replication(n) == "Established")
}

fn has_primary(world: &World) -> bool {
    world.nodes.iter().any(|node| node.exported)
}
