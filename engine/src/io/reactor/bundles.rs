//! The reactor's part in bundles: has them saved, and marks what changes on the disk after one.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Reactor;
use crate::bundle::Facts;
use crate::core::{BundleRequest, DiskOp, Event, Severity, Token};
use crate::io::bundle::{save, Saved, Saver};
use crate::io::disk::Device;
use crate::io::inbox::{Inbox, Input};
use crate::wire::BlockRun;

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
        let folder = self.bundles.folder.clone();
        match start(token, device, inbox, folder, facts, bundle.runs) {
            // An earlier one that nobody waits for any more is stopped.
            Ok(saver) => self.saver = Some((token, saver)),
            Err(error) => {
                let why = format!("no thread can be started to save the bundle: {error}; try again");
                self.bundle_saved(token, Err(why));
            }
        }
    }

    pub(super) fn bundle_saved(&mut self, token: Token, result: Result<Saved, String>) {
        // Its thread is at its end; another one may be under way by now.
        self.drop_bundle(token);
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

    /// Stops it where it is not complete yet, before any action that comes after it; its answer comes all the same, and
    /// finds nobody.
    pub(super) fn drop_bundle(&mut self, token: Token) {
        self.saver.take_if(|(saving, _)| *saving == token);
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
        if let Err(error) = self.bundles.since.save(self.replica.metadata_sequence()) {
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

/// Saves a bundle on a thread of its own, which answers through `inbox`.
fn start(
    token: Token,
    device: Arc<Device>,
    inbox: Arc<Inbox>,
    folder: PathBuf,
    facts: Facts,
    runs: Vec<BlockRun>,
) -> io::Result<Saver> {
    Saver::start(move |progress| {
        let mut answer = Answer {
            token,
            inbox,
            result: Err("the engine failed while it saved the bundle; see the log".into()),
        };
        let mut read = |offset: u64, into: &mut [u8]| {
            // A chunk is at most 1 MiB.
            let len = into.len() as u32;
            let bytes = device.execute(&DiskOp::Read { offset, len })?;
            into.copy_from_slice(&bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        };
        answer.result = save(&folder, &facts, &runs, &mut read, progress);
    })
}

/// Answers however the thread ends: the core waits for it.
struct Answer {
    token: Token,
    inbox: Arc<Inbox>,
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

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::bundle::Bundle;
    use crate::io::disk::Driver;
    use crate::wire::{Generations, HISTORY_LEN};

    const BLOCK: u64 = 4096;

    fn facts(blocks: u64, device_blocks: u64) -> Facts {
        let generations = Generations {
            current: 1,
            bitmap: 0,
            history: [0; HISTORY_LEN],
        };
        Facts {
            resource: "r0".into(),
            node: "b".into(),
            peer: "a".into(),
            rule: "split-brain".into(),
            why: "a test".into(),
            created_s: 0,
            victim: (&generations).into(),
            survivor: (&generations).into(),
            block_size_bytes: BLOCK as u32,
            data_size_bytes: device_blocks * BLOCK,
            blocks,
        }
    }

    /// The answer of a save of `runs` from the file `disk`; `interrupt` drops it at once.
    fn saved(
        disk: &[u8],
        facts: Facts,
        runs: Vec<BlockRun>,
        interrupt: bool,
    ) -> (Result<Saved, String>, usize) {
        let base = tempfile::tempdir().unwrap();
        let (path, folder) = (base.path().join("disk"), base.path().join("bundles/r0"));
        fs::write(&path, disk).unwrap();
        let device = Arc::new(Device::open(&path, Driver::Auto).unwrap());
        let inbox = Arc::new(Inbox::new().unwrap());
        let saver = start(
            Token(7),
            device,
            inbox.clone(),
            folder.clone(),
            facts,
            runs.clone(),
        )
        .unwrap();
        // Kept until it has answered, or stopped at once.
        let saver = Some(saver).filter(|_| !interrupt);
        let mut answered = libc::pollfd {
            fd: inbox.fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd.
        assert_eq!(unsafe { libc::poll(&mut answered, 1, 30_000) }, 1, "no answer");
        drop(saver);
        let Some(Input::BundleSaved {
            token: Token(7),
            result,
        }) = inbox.take().pop_front()
        else {
            panic!("no answer")
        };
        if let Ok(saved) = &result {
            let mut bundle = Bundle::open(File::open(&saved.path).unwrap()).unwrap();
            let wanted: Vec<u8> = runs
                .iter()
                .flat_map(|run| &disk[(run.first * BLOCK) as usize..][..(run.count * BLOCK) as usize])
                .copied()
                .collect();
            let found: Vec<u8> = (0..bundle.chunks())
                .flat_map(|chunk| bundle.read(chunk).unwrap().data)
                .collect();
            assert!(found == wanted);
        }
        let left = fs::read_dir(folder).map_or(0, Iterator::count);
        (result, left)
    }

    fn disk(blocks: u64) -> Vec<u8> {
        (0..blocks * BLOCK)
            .map(|at| (at / BLOCK * 3 + at) as u8)
            .collect()
    }

    #[test]
    fn what_the_device_has_is_saved_and_answered() {
        let runs = vec![
            BlockRun { first: 1, count: 300 },
            BlockRun { first: 400, count: 1 },
        ];
        let (result, left) = saved(&disk(500), facts(301, 500), runs, false);
        assert_eq!((result.is_ok(), left), (true, 1), "{result:?}");
    }

    #[test]
    fn a_device_that_cannot_be_read_is_an_answer_too() {
        // Shorter than it was: the last blocks are gone.
        let runs = vec![BlockRun { first: 1, count: 300 }];
        let (result, left) = saved(&disk(100), facts(300, 500), runs, false);
        assert!(result.unwrap_err().contains("cannot be read"));
        assert_eq!(left, 0);
    }

    #[test]
    fn the_end_of_the_engine_interrupts_it_and_leaves_all_or_nothing() {
        let runs = vec![BlockRun {
            first: 0,
            count: 5000,
        }];
        let (result, left) = saved(&disk(5000), facts(5000, 5000), runs, true);
        assert_eq!(left, usize::from(result.is_ok()), "{result:?}");
    }
}
