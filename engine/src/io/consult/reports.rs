//! What the control plane says of the data to a peer that asks; opaque here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::io::shared::Shared;
use crate::wire::REPORT_MAX;

#[derive(Default)]
struct State {
    /// Peers that wait and that the control plane has not heard of.
    asked: BTreeSet<String>,
    /// How often it said something for each, and the last of it.
    told: BTreeMap<String, (u64, Arc<str>)>,
}

/// Between the threads that answer peers and the control plane, which is woken by the events' descriptor.
pub struct Reports {
    state: Mutex<State>,
    changed: Condvar,
    shared: Arc<Shared>,
}

impl Reports {
    pub fn new(shared: Arc<Shared>) -> Reports {
        Reports {
            state: Mutex::default(),
            changed: Condvar::new(),
            shared,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a report made for `peer`; `None` when the control plane says nothing in time.
    pub fn wait(&self, peer: &str, patience: Duration) -> Option<Arc<str>> {
        let mut state = self.lock();
        let count = |state: &State| state.told.get(peer).map_or(0, |(count, _)| *count);
        let before = count(&state);
        state.asked.insert(peer.to_owned());
        self.shared.wake();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, patience, |state| count(state) == before)
            .unwrap_or_else(PoisonError::into_inner);
        let (after, text) = state.told.get(peer)?;
        (*after != before).then(|| text.clone())
    }

    /// The peers that wait for a report, once.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().asked).into_iter().collect()
    }

    /// Tells it to all who wait for `peer`'s. False: it is too long, and nobody was told.
    pub fn tell(&self, peer: &str, text: &str) -> bool {
        if text.len() > REPORT_MAX {
            return false;
        }
        let mut state = self.lock();
        let told = state.told.entry(peer.to_owned()).or_insert((0, "".into()));
        *told = (told.0 + 1, text.into());
        self.changed.notify_all();
        true
    }
}
