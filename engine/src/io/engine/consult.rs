//! Asking peers, and what they are told besides.

use std::sync::mpsc::sync_channel;
use std::sync::PoisonError;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::{invalid_json, Engine};
use crate::core::{Consultation, PeerSlot};
use crate::io::consult;
use crate::io::failure::{Failure, FailureKind};
use crate::io::inbox::Input;
use crate::wire::REPORT_MAX;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsultSpec {
    peer: String,
    /// Ask for its control plane's report too, which may take minutes.
    report: bool,
}

impl Engine {
    /// What a connect to a peer would do now, as JSON; asks the peer, and changes nothing.
    ///
    /// # Errors
    /// For an unknown peer or an engine that has ended. A peer that cannot be asked is a part of the answer.
    pub fn consult(&self, spec: &str) -> Result<String, Failure> {
        let spec: ConsultSpec =
            serde_json::from_str(spec).map_err(|error| invalid_json("the question", &error))?;
        let slot = self.slot(&spec.peer)?;
        let own = self.own_consultation(slot, spec.report)?;
        let destination = self.destinations.lock().unwrap_or_else(PoisonError::into_inner)[slot].clone();
        let answer = consult::ask(&destination, &own);
        Ok(consult::plan(&own, &answer).to_string())
    }

    /// What is marked for a peer at this moment, as JSON: exact, where the metadata on the disk know it by extent
    /// only.
    ///
    /// # Errors
    /// For an unknown peer or an engine that has ended.
    pub fn marks(&self, peer: &str) -> Result<String, Failure> {
        let own = self.own_consultation(self.slot(peer)?, false)?;
        let runs = own.marks.map(|runs| {
            let pairs = runs.iter().map(|run| (run.first, run.count));
            pairs.collect::<Vec<_>>()
        });
        let marks = json!({
            "size_bytes": own.hello.data_size_bytes,
            "block_size_bytes": own.hello.block_size_bytes,
            "dirty_blocks": own.state.dirty_blocks,
            "full_sync": own.state.full_sync,
            "diverged_at_s": own.state.diverged_at_s,
            "changed_at_s": own.state.changed_at_s,
            "runs": runs,
        });
        Ok(marks.to_string())
    }

    fn own_consultation(&self, peer: PeerSlot, report: bool) -> Result<Consultation, Failure> {
        let (reply, answer) = sync_channel(1);
        self.inbox.push(Input::Consultation { peer, report, reply });
        self.answer(&answer, Duration::MAX)
    }

    /// The peers that ask for this node's report and were not named before.
    pub fn reports_asked(&self) -> Vec<String> {
        self.reports.take_asked()
    }

    /// What `peer` is told if it waits for a report.
    ///
    /// # Errors
    /// When it is too long for one.
    pub fn report(&self, peer: &str, text: &str) -> Result<(), Failure> {
        self.slot(peer)?;
        if self.reports.tell(peer, text) {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::Invalid,
            format!("a report of {} bytes is longer than {REPORT_MAX}", text.len()),
            "leave out what matters least",
        ))
    }
}
