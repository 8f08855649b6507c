//! Split brains: how one comes to be, what may and may not happen while it lasts, and its end.

use std::collections::{BTreeMap, HashMap};

use _engine::core::*;

use crate::bundles::{apart_stamp, apart_writer};
use crate::disk::{stamped, Stamp, PAGE};
use crate::network::Cable;
use crate::rng::Rng;
use crate::run::Run;
use crate::witness::Road;
use crate::world::{Part, Violation, MS, NAMES};

struct ApartWrite {
    node: usize,
    first: usize,
    count: usize,
    stamp: Stamp,
}

/// What each node was asked for while the data had split.
#[derive(Default)]
pub struct Apart {
    open: HashMap<RequestId, ApartWrite>,
    number: u64,
    /// The newest answered write of each page, node by node: stable, for each was sent with FUA.
    answered: [BTreeMap<usize, Stamp>; 2],
    /// Resolutions that a person asked for: node, its life, and the command.
    resolves: Vec<(usize, u32, CommandId)>,
}

impl Run {
    // ---- writes of one node alone --------------------------------------------------------------------

    fn write_apart(&mut self, n: usize) {
        if !self.world.nodes[n].exported {
            return;
        }
        let places = crate::plan::places();
        let first = places[self.world.rng.below(places.len() as u64 - 4) as usize];
        let count = 1 + self.world.rng.below(3) as usize;
        let count = count.min(crate::disk::PAGES - first);
        self.apart.number += 1;
        let stamp = apart_stamp(n, self.apart.number);
        let kind = RequestKind::Write {
            offset: first as u64 * PAGE,
            payload: stamped(first, count, stamp),
            fua: true,
        };
        let id = self.world.request(n, kind);
        let write = ApartWrite {
            node: n,
            first,
            count,
            stamp,
        };
        self.apart.open.insert(id, write);
        self.oracle.used.extend(first..first + count);
    }

    pub fn apart_reply(&mut self, id: RequestId, ok: bool) {
        let Some(write) = self.apart.open.remove(&id).filter(|_| ok) else {
            return;
        };
        let now = self.world.now;
        self.world.answered.insert(write.stamp, now);
        for page in write.first..write.first + write.count {
            let newest = self.apart.answered[write.node].entry(page).or_insert(0);
            *newest = write.stamp.max(*newest);
        }
    }

    /// I6: what was answered is there, unless its node said that it gives it up.
    pub fn check_apart(&self) -> Result<(), Violation> {
        for (n, answered) in self.apart.answered.iter().enumerate() {
            let node = &self.world.nodes[n];
            for (page, stamp) in answered.iter().filter(|_| !node.safe.gave_way) {
                let holds = node.data.current(*page);
                if apart_writer(holds) != Some(n) || holds < *stamp {
                    return Err(format!(
                        "I6: page {page} of {} held {stamp:#x}, now {holds:#x}, and nobody resolved anything",
                        NAMES[n]
                    ));
                }
            }
        }
        Ok(())
    }

    // ---- apart ---------------------------------------------------------------------------------------

    /// Two Primaries by force, each with writes of its own. The one that was promoted may have none.
    pub fn go_apart(&mut self) -> Result<(), Violation> {
        self.world.counts.add("split brains", 1);
        self.one_writer = false;
        self.apart = Apart::default();
        let (old, other) = (self.primary, 1 - self.primary);
        self.world.set_cable(Cable::Cut);
        if self.is_arbitrated() {
            // Whoever can reach the arbiter goes on by its word; the other one, or both, by force.
            self.world.set_road(other, Road::Cut);
            // Nobody has noticed yet that the register was lost: then its word helps nobody.
            let lost = self.world.witness.register != self.register.newest;
            if self.world.rng.chance(3) || lost {
                self.world.set_road(old, Road::Cut);
                self.expect("the old Primary is alone", |run| {
                    run.world.replication(old) != "Established"
                })?;
                self.world.command(old, Command::Promote { force: true });
            }
        }
        self.expect("both are alone", |run| !run.is_established())?;
        self.pass(10 * MS)?;
        let writes = [1 + self.world.rng.below(5), self.world.rng.below(5)];
        // Who goes on alone first, and whether they do so at the same time.
        let early = self.world.rng.below(writes[0] + 1);
        for _ in 0..early {
            self.write_apart(old);
        }
        let pause = [1, 3_000 * MS][self.world.rng.below(2) as usize];
        self.pass(pause)?;
        self.world.command(other, Command::Promote { force: true });
        self.expect("two Primaries", |run| run.world.nodes[other].exported)?;
        for _ in early..writes[0] {
            self.write_apart(old);
        }
        for _ in 0..writes[1] {
            self.write_apart(other);
        }
        self.expect("every write apart is answered", |run| {
            run.apart.open.is_empty()
        })?;
        self.pass(1_000 * MS)
    }

    /// The caches are written back: what a page loses from here on, no power cut took.
    fn settle(&mut self) -> Result<(), Violation> {
        self.pass(100 * MS)?;
        for node in &mut self.world.nodes {
            let all = node.data.flush_point();
            node.data.flush(all);
        }
        Ok(())
    }

    pub fn both_secondary(&mut self) -> Result<(), Violation> {
        for n in 0..2 {
            self.world.command(n, Command::Demote);
        }
        self.settle()
    }

    fn restart_apart(&mut self, n: usize) {
        let (power, resume) = (self.world.rng.chance(2), self.world.rng.chance(2));
        self.world.crash(n, power);
        self.world.start(n, resume);
    }

    /// Both sides report it, neither is overwritten: nobody may end it here.
    pub fn split(&mut self) -> Result<(), Violation> {
        self.go_apart()?;
        for n in 0..2 {
            if self.world.rng.chance(3) {
                self.restart_apart(n);
            }
        }
        let before = [0, 1].map(|n| self.world.nodes[n].data.contents().to_vec());
        self.world.set_cable(Cable::Fine);
        self.pass(20_000 * MS)?;
        for (n, before) in before.iter().enumerate() {
            if self.world.nodes[n].data.contents() != before.as_slice() {
                return Err(format!("I6: a split brain overwrote data of {}", NAMES[n]));
            }
            if !self.is_told(n) {
                return Err(format!(
                    "{} does not report the split brain; {}",
                    NAMES[n],
                    self.describe()
                ));
            }
        }
        Ok(())
    }

    pub fn is_told(&self, n: usize) -> bool {
        self.world.status(n).is_some_and(|s| {
            let peer = &s.peers[0];
            peer.connection == "StandAlone" && peer.split_brain && peer.rule == Some("split-brain")
        })
    }

    // ---- the end of it -------------------------------------------------------------------------------

    /// A split brain ends by policy or by hand, whatever happens meanwhile.
    pub fn split_and_resolve(&mut self, seed: u64) -> Result<(), Violation> {
        self.world.rng = Rng::new(seed ^ 0x5B);
        self.go_apart()?;
        for n in 0..2 {
            if self.world.rng.chance(4) {
                self.restart_apart(n);
            }
            if self.world.rng.chance(2) {
                self.world.command(n, Command::Demote);
            }
        }
        self.settle()?;
        self.world.set_cable(Cable::Fine);
        (0..2).for_each(|n| self.world.set_road(n, Road::Fine));
        for _ in 0..self.world.rng.below(24) {
            if self.is_established() {
                break;
            }
            self.meddle();
            let span = [4, 30, 3_000][self.world.rng.below(3) as usize] * MS;
            let end = self.world.now + 1 + self.world.rng.below(span);
            let sudden = self.world.rng.below(3);
            while self.world.now < end {
                self.pass(MS / 4)?;
                let victim = (0..2).find(|n| {
                    let safe = &self.world.nodes[*n].safe;
                    sudden == 1 && safe.guarded.is_some() || sudden == 2 && safe.rewinding
                });
                if let Some(victim) = victim {
                    self.interrupt(victim)?;
                    break;
                }
            }
        }
        self.reconcile()
    }

    pub fn resolve_by_hand(&mut self, n: usize, victim: usize, bundle: bool) -> CommandId {
        self.world.no_bundle_asked |= !bundle;
        let victim = if victim == n {
            Victim::Myself
        } else {
            Victim::Peer(0)
        };
        let id = self.world.command(n, Command::Resolve { victim, bundle });
        let life = self.world.nodes[n].life;
        self.apart.resolves.push((n, life, id));
        id
    }

    /// In the middle of a resolution one of the two dies, or what comes next comes now.
    fn interrupt(&mut self, victim: usize) -> Result<(), Violation> {
        let span = [1, MS, 8 * MS][self.world.rng.below(3) as usize];
        let span = self.world.rng.below(span);
        self.pass(span)?;
        let power = self.world.rng.chance(2);
        match self.world.rng.below(3) {
            0 => self.world.crash(victim, power),
            1 => self.world.crash(1 - victim, power),
            _ => {}
        }
        Ok(())
    }

    /// Something that gets in the way of a resolution, or begins one.
    fn meddle(&mut self) {
        let n = self.world.rng.below(2) as usize;
        match self.world.rng.below(20) {
            0..=2 => {
                let power = self.world.rng.chance(2);
                self.world.crash(n, power);
            }
            3 | 4 => self.restart_apart(n),
            5 | 6 => {
                let resume = self.world.rng.chance(3);
                (0..2).for_each(|n| self.world.start(n, resume));
            }
            7 => self.world.set_cable(Cable::Cut),
            8 => self.world.set_cable(Cable::Slow),
            9 => self.world.set_cable(Cable::Fine),
            10..=12 => {
                let victim = self.world.rng.below(2) as usize;
                let bundle = !self.world.rng.chance(6);
                if self.world.is_up(n) {
                    self.resolve_by_hand(n, victim, bundle);
                }
            }
            13 => self.world.break_storage(n, Part::Bundle, Errno::ENOSPC, 1),
            14 | 15 => self.ask(n, Command::Demote),
            16 => self.ask(n, Command::Promote { force: false }),
            17 if self.world.rng.chance(4) => {
                self.world.break_storage(n, Part::Meta, Errno::EIO, 1)
            }
            17 | 18 => self.write_apart(n),
            _ => (0..2).for_each(|n| self.ask(n, Command::Connect { peer: 0 })),
        }
    }

    /// Whatever becomes of it.
    fn ask(&mut self, n: usize, command: Command) {
        self.world.command(n, command);
    }

    fn mend_apart(&mut self) {
        self.world.mend();
        for n in 0..2 {
            if self.world.nodes[n].broken {
                self.world.crash(n, false);
            }
            if self.world.is_up(n) {
                self.world.command(n, Command::Connect { peer: 0 });
            } else {
                self.world.start(n, false);
            }
        }
    }

    /// Faults stop. What is left is ended by a person, and then both copies must become the survivor's.
    pub fn reconcile(&mut self) -> Result<(), Violation> {
        self.world.note(|| "a person ends the split brain".into());
        for _ in 0..20 {
            self.mend_apart();
            self.pass(3_000 * MS)?;
            if self.is_established() {
                break;
            }
            if (0..2).any(|n| self.world.nodes[n].safe.gave_way) {
                continue;
            }
            let (n, victim) = (
                self.world.rng.below(2) as usize,
                self.world.rng.below(2) as usize,
            );
            self.world.command(victim, Command::Demote);
            self.pass(1_000 * MS)?;
            self.resolve_by_hand(n, victim, true);
            self.pass(3_000 * MS)?;
        }
        if !self.is_established() {
            return Err(format!("a split brain has no end: {}", self.describe()));
        }
        let gave_way = [0, 1].map(|n| self.world.nodes[n].safe.gave_way);
        let survivor = match gave_way {
            [true, false] => 1,
            [false, true] => 0,
            _ => {
                return Err(format!(
                    "I6: both are one again, and who gave way: {gave_way:?}"
                ))
            }
        };
        // A person who asked is answered: at the latest when patience with the peer has ended.
        self.pass(15_000 * MS)?;
        for (n, life, id) in &self.apart.resolves {
            let answered = self.world.commands.contains_key(id);
            if *life == self.world.nodes[*n].life && !answered {
                return Err(format!("a resolve at {} was never answered", NAMES[*n]));
            }
        }
        self.world.counts.add("resolved split brains", 1);
        let serves = (0..2).find(|n| self.world.nodes[*n].exported);
        self.primary = serves.unwrap_or(survivor);
        if self.is_arbitrated() {
            self.end_of_force(survivor)?;
        }
        self.oracle.declare(&self.world.nodes[survivor].data);
        self.one_writer = true;
        self.converge()
    }
}
