//! What can be planted: the core's faults, and those of the simulator's runner.

use std::cell::Cell;

use _engine::core::fault::{self, Fault};

/// One broken rule of what asks the arbiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunnerFault {
    /// A swap that was not answered counts as done.
    UnknownSwapTakenForDone,
    /// The answer no counts as yes.
    RefusedSwapTakenForDone,
    /// A read is answered with what was read before.
    AnswersFromMemory,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    Core(Fault),
    Runner(RunnerFault),
}

impl std::fmt::Debug for Planted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Planted::Core(fault) => fault.fmt(f),
            Planted::Runner(fault) => fault.fmt(f),
        }
    }
}

thread_local! {
    static PLANTED: Cell<Option<RunnerFault>> = const { Cell::new(None) };
}

impl Planted {
    pub fn all() -> impl Iterator<Item = Planted> {
        let runner = [
            RunnerFault::UnknownSwapTakenForDone,
            RunnerFault::RefusedSwapTakenForDone,
            RunnerFault::AnswersFromMemory,
        ];
        let core = Fault::ALL.into_iter().chain(Fault::ARBITRATION);
        core.map(Planted::Core).chain(runner.map(Planted::Runner))
    }
}

/// Breaks one rule on this thread, or mends it.
pub fn plant(planted: Option<Planted>) {
    let (core, runner) = match planted {
        Some(Planted::Core(fault)) => (Some(fault), None),
        Some(Planted::Runner(fault)) => (None, Some(fault)),
        None => (None, None),
    };
    fault::plant(core);
    PLANTED.set(runner);
}

pub fn planted(fault: RunnerFault) -> bool {
    PLANTED.get() == Some(fault)
}
