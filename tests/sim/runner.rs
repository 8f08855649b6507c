//! What stands between a node's core and the arbiter: it asks until there is an answer, and never guesses one.
//!
//! As the daemon's does: a call has a time-out; a swap that was not answered with yes is followed by a read,
//! and what that read says is the answer; a newer ask takes an older one's place.

use _engine::core::*;

use crate::faults::{planted, RunnerFault};
use crate::witness::{Answer, CallId};
use crate::world::{Happening, World, MS, NAMES};

/// How long a call may take, by the node's clock.
const CALL_TIMEOUT: Time = 1_000 * MS;
const PAUSE_FIRST: Time = 100 * MS;
const PAUSE_LAST: Time = 3_000 * MS;

struct Ask {
    id: u64,
    request: AskRequest,
    /// The swap has been tried: from here on only reading helps.
    reading: bool,
    /// The call whose answer is waited for; 0: it is the pause before the next.
    call: CallId,
    pause: Time,
}

#[derive(Default)]
pub struct Runner {
    open: Option<Ask>,
    /// The last answer that came from the arbiter.
    last: Option<Configuration>,
}

impl World {
    pub(crate) fn ask(&mut self, n: usize, id: u64, request: AskRequest) {
        let superseded = self.nodes[n].runner.open.take();
        let swap = matches!(request, AskRequest::Swap { .. });
        self.counts.add("asks", 1);
        self.counts.add("asks for a swap", u64::from(swap));
        let unsure = superseded.is_some_and(|ask| matches!(ask.request, AskRequest::Swap { .. }));
        self.counts
            .add("swaps given up while under way", u64::from(unsure));
        self.note(|| match &request {
            AskRequest::Read => format!("{}: ask {id}: read", NAMES[n]),
            AskRequest::Swap { next, .. } => {
                format!(
                    "{}: ask {id}: swap to {}",
                    NAMES[n],
                    crate::witness::text(Some(next))
                )
            }
        });
        if let AskRequest::Swap { expected, next } = &request {
            self.bids.push((n, expected.clone(), next.clone()));
        }
        let reading = !swap;
        if reading && planted(RunnerFault::AnswersFromMemory) {
            if let Some(last) = self.nodes[n].runner.last.clone() {
                return self.says(n, id, Some(last));
            }
        }
        self.nodes[n].runner.open = Some(Ask {
            id,
            request,
            reading,
            call: 0,
            pause: PAUSE_FIRST,
        });
        self.call(n);
    }

    pub(crate) fn withdraw(&mut self, n: usize, id: u64) {
        self.note(|| format!("{}: ask {id} is withdrawn", NAMES[n]));
        self.nodes[n].runner.open.take_if(|ask| ask.id == id);
    }

    fn call(&mut self, n: usize) {
        let call = self.next_call();
        let Some(ask) = &mut self.nodes[n].runner.open else {
            return;
        };
        ask.call = call;
        let request = if ask.reading {
            AskRequest::Read
        } else {
            ask.request.clone()
        };
        self.schedule_local(n, CALL_TIMEOUT, Happening::CallTimedOut { call });
        self.call_witness(n, call, request);
    }

    pub(crate) fn told(&mut self, n: usize, call: CallId, answer: Answer) {
        let Some(ask) = self.nodes[n].runner.open.as_mut() else {
            return;
        };
        if ask.call != call {
            return;
        }
        let id = ask.id;
        match (answer, &ask.request) {
            (Answer::Holds(configuration), _) => self.says(n, id, configuration),
            (Answer::Swapped(true), AskRequest::Swap { next, .. }) => {
                let next = next.clone();
                self.says(n, id, Some(next));
            }
            (Answer::Swapped(false), AskRequest::Swap { next, .. })
                if planted(RunnerFault::RefusedSwapTakenForDone) =>
            {
                let next = next.clone();
                self.says(n, id, Some(next));
            }
            (Answer::Swapped(_), _) => {
                ask.reading = true;
                self.call(n);
            }
            (Answer::Refused, _) => self.unanswered(n),
        }
    }

    pub(crate) fn call_timed_out(&mut self, n: usize, call: CallId) {
        if self.nodes[n]
            .runner
            .open
            .as_ref()
            .is_some_and(|ask| ask.call == call)
        {
            self.counts.add("calls timed out", 1);
            self.unanswered(n);
        }
    }

    /// Whether a swap was done is not known: read again, after a pause.
    fn unanswered(&mut self, n: usize) {
        let pause_in = self.rng.below(PAUSE_FIRST);
        let Some(ask) = self.nodes[n].runner.open.as_mut() else {
            return;
        };
        if let (AskRequest::Swap { next, .. }, false) = (&ask.request, ask.reading) {
            let (id, next) = (ask.id, next.clone());
            self.counts.add("swaps of unknown outcome", 1);
            if planted(RunnerFault::UnknownSwapTakenForDone) {
                return self.says(n, id, Some(next));
            }
        }
        let Some(ask) = self.nodes[n].runner.open.as_mut() else {
            return;
        };
        ask.reading = true;
        ask.call = 0;
        let pause = ask.pause + pause_in;
        ask.pause = (ask.pause * 2).min(PAUSE_LAST);
        let id = ask.id;
        self.schedule_local(n, pause, Happening::CallAgain { ask: id });
    }

    pub(crate) fn call_again(&mut self, n: usize, id: u64) {
        let waits = |ask: &Ask| ask.id == id && ask.call == 0;
        if self.nodes[n].runner.open.as_ref().is_some_and(waits) {
            self.call(n);
        }
    }

    fn says(&mut self, n: usize, ask: u64, configuration: Option<Configuration>) {
        let runner = &mut self.nodes[n].runner;
        runner.open = None;
        runner.last.clone_from(&configuration);
        self.note(|| {
            let holds = crate::witness::text(configuration.as_ref());
            format!("{}: the arbiter says {holds} (ask {ask})", NAMES[n])
        });
        self.event(n, Event::ArbiterSays { ask, configuration });
    }
}
