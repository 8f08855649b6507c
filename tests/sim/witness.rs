//! The witness: one durable register in a process of its own, reached over a network of its own.
//!
//! It keeps no time and knows nobody. It dies, hangs, loses its disk and comes back from an old copy; what is on the
//! way to it or back is late, lost or overtaken.

use std::collections::VecDeque;

use _engine::core::*;

use crate::world::{Happening, World, MS, NAMES};

/// Its place among the nodes of the world's queue.
pub const WITNESS: usize = 2;

/// Names one call of a runner; never used again.
pub type CallId = u64;

/// How it is between a node and the witness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Road {
    #[default]
    Fine,
    /// Up to two seconds a way: calls time out, and arrive.
    Slow,
    /// A third of all messages vanish.
    Lossy,
    /// What the node sends vanishes, in silence.
    Deaf,
    /// What the witness answers vanishes, in silence.
    Mute,
    /// Nothing gets through, and the caller is told so.
    Cut,
}

/// What can happen to the witness itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ill {
    Killed,
    Started,
    Frozen {
        ms: u64,
    },
    /// Another disk: it never heard of anything.
    Lost,
    /// A copy of its disk that is so many swaps old.
    Restored {
        back: u64,
    },
}

#[derive(Clone, Debug)]
pub enum Answer {
    Holds(Option<Configuration>),
    Swapped(bool),
    /// Nobody is there, or no way.
    Refused,
}

/// A swap that was carried out.
#[derive(Clone, Debug)]
pub struct Swapped {
    pub by: usize,
    pub before: Option<Configuration>,
    pub next: Configuration,
}

#[derive(Default)]
pub struct Witness {
    pub register: Option<Configuration>,
    /// What it held before, newest last.
    copies: VecDeque<Option<Configuration>>,
    pub life: u32,
    pub is_up: bool,
    pub frozen_until: Time,
    pub roads: [Road; 2],
    /// Since they were last looked at.
    pub swaps: Vec<Swapped>,
}

const COPIES: usize = 8;

impl World {
    pub fn set_road(&mut self, n: usize, road: Road) {
        if self.witness.roads[n] == road {
            return;
        }
        self.note(|| format!("the witness and {}: {road:?}", NAMES[n]));
        self.counts.add(
            "disturbed roads to the witness",
            u64::from(road != Road::Fine),
        );
        self.witness.roads[n] = road;
    }

    pub fn start_witness(&mut self) {
        if !self.witness.is_up {
            self.note(|| "the witness starts".into());
            self.witness.is_up = true;
            self.witness.life += 1;
        }
    }

    /// What was on its way to it is done, or never will be; whoever waits for an answer gets none.
    fn kill_witness(&mut self) {
        if !std::mem::take(&mut self.witness.is_up) {
            return;
        }
        self.note(|| "the witness is killed".into());
        self.witness.frozen_until = 0;
        for what in self.take_happenings(WITNESS) {
            if let Happening::Asked { from, request, .. } = what {
                if self.rng.chance(3) {
                    self.carry_out(from, &request);
                }
            }
        }
    }

    pub fn harm_witness(&mut self, ill: Ill) {
        match ill {
            Ill::Killed => {
                self.counts.add("witnesses killed", 1);
                self.kill_witness();
            }
            Ill::Started => self.start_witness(),
            Ill::Frozen { ms } => {
                self.note(|| format!("the witness stands still for {ms} ms"));
                self.counts.add("witnesses frozen", 1);
                self.witness.frozen_until = self.witness.frozen_until.max(self.now + ms * MS);
            }
            Ill::Lost => {
                self.kill_witness();
                self.note(|| "the witness has lost its disk".into());
                self.counts.add("registers lost", 1);
                self.witness.register = None;
                self.witness.copies.clear();
                self.start_witness();
            }
            Ill::Restored { back } => self.restore_witness(back as usize),
        }
    }

    /// An old copy is as good as none where every node has taken part in a later epoch: only then may a person bring one
    /// back, and the manual says so.
    fn restore_witness(&mut self, back: usize) {
        self.kill_witness();
        let copies = &self.witness.copies;
        let copy = copies.len().checked_sub(back).and_then(|at| copies.get(at));
        let copy = copy.cloned().unwrap_or(None);
        let epoch = copy.as_ref().map_or(0, |copy| copy.epoch);
        let known = (0..2).all(|n| {
            let durable = self.durable(n);
            durable.is_some_and(|durable| durable.superblock.epoch > epoch)
        });
        if known {
            self.note(|| format!("the witness comes back from an old copy: {copy:?}"));
            self.counts.add("registers restored from an old copy", 1);
            self.witness.register = copy;
            self.witness.copies.clear();
        }
        self.start_witness();
    }

    /// Some message's way between a node and the witness; None: it vanishes.
    fn way(&mut self, n: usize, to_witness: bool) -> Option<Time> {
        let vanishes = match self.witness.roads[n] {
            Road::Cut => true,
            Road::Deaf => to_witness,
            Road::Mute => !to_witness,
            Road::Lossy => self.rng.chance(3),
            Road::Fine | Road::Slow => false,
        };
        let span = match self.witness.roads[n] {
            Road::Slow => 2_000 * MS,
            _ if self.rng.chance(30) => 300 * MS,
            _ => 2 * MS,
        };
        let delay = 1 + self.rng.below(span);
        (!vanishes).then_some(delay)
    }

    /// A runner's call sets out.
    pub(crate) fn call_witness(&mut self, from: usize, call: CallId, request: AskRequest) {
        if !self.witness.is_up || self.witness.roads[from] == Road::Cut {
            // Refused at once, or after a while of trying.
            let delay = 1 + self.rng.below(20 * MS);
            let answer = Answer::Refused;
            return self.schedule(from, delay, Happening::Told { call, answer });
        }
        if let Some(delay) = self.way(from, true) {
            let what = Happening::Asked {
                from,
                call,
                request,
            };
            self.schedule(WITNESS, delay, what);
        }
    }

    /// A call arrives; its answer sets out, wherever the caller is by now.
    pub(crate) fn asked(&mut self, from: usize, call: CallId, request: &AskRequest) {
        let answer = self.carry_out(from, request);
        if !self.is_up(from) {
            return;
        }
        if let Some(delay) = self.way(from, false) {
            self.schedule(from, delay, Happening::Told { call, answer });
        }
    }

    /// What it says is durable before it is said.
    fn carry_out(&mut self, from: usize, request: &AskRequest) -> Answer {
        match request {
            AskRequest::Read => Answer::Holds(self.witness.register.clone()),
            AskRequest::Swap { expected, next } => {
                let holds = *expected == self.witness.register;
                self.note(|| {
                    let (name, held) = (NAMES[from], text(expected.as_ref()));
                    let outcome = if holds { "done" } else { "refused" };
                    format!(
                        "witness: {name} swaps {held} -> {}: {outcome}",
                        text(Some(next))
                    )
                });
                if !holds {
                    self.counts.add("refused swaps", 1);
                    return Answer::Swapped(false);
                }
                let before = self.witness.register.replace(next.clone());
                self.witness.copies.push_back(before.clone());
                if self.witness.copies.len() > COPIES {
                    self.witness.copies.pop_front();
                }
                self.witness.swaps.push(Swapped {
                    by: from,
                    before,
                    next: next.clone(),
                });
                Answer::Swapped(true)
            }
        }
    }
}

/// `(3, a, {a b})`
pub fn text(configuration: Option<&Configuration>) -> String {
    configuration.map_or("nothing".into(), |c| {
        let names: Vec<&str> = c.in_sync.iter().map(String::as_str).collect();
        format!("({}, {}, {{{}}})", c.epoch, c.primary, names.join(" "))
    })
}
