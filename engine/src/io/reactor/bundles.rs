//! The reactor's part in bundles: has them saved, and marks what changes on the disk after one.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Reactor;
use crate::bundle::Facts;
use crate::core::{BundleRequest, DiskOp, Event, Severity, Token};
use crate::io::bundle::{save, Saved, Saver};
use crate::io::inbox::Input;

impl Reactor {
    pub(super) fn save_bundle(&mut self, token: Token, bundle: BundleRequest) {
        let facts = Facts {
            resource: self.bundles.resource.clone(),
            node: self.bundles.node.clone(),
            peer: self.peers[bundle.peer].name.clone(),
            rule: bundle.rule.to_owned(),
            why: bundle.why,
            created_s: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |now| now.as_secs()),
            victim: (&bundle.victim).into(),
            survivor: (&bundle.survivor).into(),
            block_size_bytes: bundle.block_size_bytes,
            data_size_bytes: bundle.data_size_bytes,
            blocks: bundle.runs.iter().map(|run| run.count).sum(),
        };
        self.bundles
            .since
            .begin(token.0, facts.device_blocks(), u64::from(facts.block_size_bytes));
        self.notice(
            Severity::Info,
            "bundle.saving",
            format!(
                "saving {} blocks of {} bytes in {} before they are discarded",
                facts.blocks,
                facts.block_size_bytes,
                self.bundles.folder.display()
            ),
        );
        let (device, inbox) = (self.device.clone(), self.inbox.clone());
        let (folder, runs) = (self.bundles.folder.clone(), bundle.runs);
        let work = move |go_on: &dyn Fn() -> bool| {
            let mut answer = Answer {
                token,
                inbox,
                result: Err("the engine failed while it saved the bundle; see the log".into()),
            };
            let mut read = |offset: u64, into: &mut [u8]| {
                // A chunk is at most 1 MiB.
                let len = into.len() as u32;
                let bytes = device.execute(&DiskOp::Read { offset, len })?;
                into.copy_from_slice(&bytes.ok_or(std::io::ErrorKind::UnexpectedEof)?);
                Ok(())
            };
            answer.result = save(&folder, &facts, &runs, &mut read, go_on);
        };
        // An earlier one that nobody waits for any more ends first.
        self.saver = None;
        match Saver::start(work) {
            Ok(saver) => self.saver = Some(saver),
            Err(error) => {
                let why = format!("no thread can be started to save the bundle: {error}; try again");
                self.bundle_saved(token, Err(why));
            }
        }
    }

    pub(super) fn bundle_saved(&mut self, token: Token, result: Result<Saved, String>) {
        // Its thread is at its end.
        self.saver = None;
        // Before the core hears of it: what it writes from then on has changed since the bundle.
        self.bundles
            .since
            .end(token.0, result.as_ref().ok().map(|saved| saved.id));
        match &result {
            Ok(saved) => self.notice(
                Severity::Info,
                "bundle.saved",
                format!(
                    "{} is saved and verified: {} bytes",
                    saved.path.display(),
                    saved.size_bytes
                ),
            ),
            Err(why) => self.notice(Severity::Error, "bundle.failed", why.clone()),
        }
        let result = result.map(|_| ());
        self.tell(Event::BundleSaved { token, result });
    }

    /// Before the disk is given `op`.
    pub(super) fn mark_changed(&self, op: &DiskOp) {
        match op {
            DiskOp::Write { offset, payload, .. } => self.bundles.since.mark(*offset, payload.len() as u64),
            DiskOp::Zero { offset, len, .. } => self.bundles.since.mark(*offset, *len),
            DiskOp::Read { .. } | DiskOp::Flush => {}
        }
    }

    /// Nothing changes the disk any more: the next engine may know what has changed until here.
    pub(super) fn keep_changed(&self) {
        if let Err(error) = self.bundles.since.save() {
            self.notice(
                Severity::Warning,
                "bundle.changes-lost",
                format!(
                    "which blocks changed since the last bundle cannot be kept in {}: {error}; an export of it \
                     will show the bundle's own blocks only",
                    self.bundles.folder.display()
                ),
            );
        }
    }
}

/// Answers however the thread ends: the core waits for it.
struct Answer {
    token: Token,
    inbox: std::sync::Arc<crate::io::inbox::Inbox>,
    result: Result<Saved, String>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        let result = std::mem::replace(&mut self.result, Err(String::new()));
        self.inbox.push(Input::BundleSaved {
            token: self.token,
            result,
        });
    }
}
