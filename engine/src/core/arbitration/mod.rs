//! Who may write: epochs, acknowledgements, and the arbiter's register (docs/spec/arbitration.md).

mod state;
mod status;

pub(super) use state::Arbitration;
pub use status::ArbitrationStatus;

use super::replica::Replica;
use super::types::*;

impl Configuration {
    /// What every configuration keeps to, wherever it comes from.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn check(&self) -> Result<(), String> {
        if self.epoch == 0 {
            return Err("its epoch is 0, and the first one is 1".into());
        }
        if self.primary.is_empty() || self.in_sync.iter().any(String::is_empty) {
            return Err("it names a node without a name".into());
        }
        if self.in_sync.is_empty() {
            return Err("no node is in sync in it".into());
        }
        Ok(())
    }
}

impl Replica {
    /// The ask that waits for the arbiter's answer, if one does.
    pub fn open_ask(&self) -> Option<u64> {
        self.arbitration.as_ref()?.ask.as_ref().map(|ask| ask.id)
    }

    pub(super) fn on_arbiter_says(&mut self, ask: u64, _configuration: Option<Configuration>) {
        if self.open_ask() != Some(ask) {
            // Of an ask that was superseded (A13 LATE).
        }
    }
}
