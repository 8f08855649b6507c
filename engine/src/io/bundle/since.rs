//! Which blocks changed here after the newest bundle was saved. The driver sees every write to the backing
//! device, and marks it before it is given to the disk: a block without a mark is still as it was.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::xxh3_128;

use super::save::sync_folder;
use crate::meta::Bitmap;
use crate::wire::BlockRun;

const MAGIC: [u8; 8] = *b"BPSINCE2";
const FILE: &str = "changed-since";
const HEADER: usize = 56;
const RUN: usize = 16;
const CHECKSUM: usize = 16;
/// Runs that are kept over a restart, at most: 16 MiB of them. With more, what changed is not known any more.
const RUNS_MAX: usize = 1 << 20;

struct Tracked {
    /// The bundle's id.
    bundle: u128,
    block_size: u64,
    changed: Bitmap,
}

#[derive(Default)]
struct State {
    /// What is known of the newest bundle.
    tracked: Option<Tracked>,
    /// The same for one that is still being saved: its id is known only in the end.
    saving: Option<Tracked>,
}

/// Shared by the engine's thread, which marks, and those that show the device as it was.
pub struct Since {
    file: PathBuf,
    /// Something is tracked. Until the first bundle nothing is, and a write costs no lock.
    armed: AtomicBool,
    state: Mutex<State>,
}

impl Since {
    /// Takes over what an engine that was stopped in good order left in `folder`. It is removed, durably, before
    /// anything can change: after a crash nothing is known, instead of something that is not true any more. Nor is it
    /// when the metadata are not at the sequence number at which that engine left them: another one ran since, and kept
    /// its bundles elsewhere, or they are of another time.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn take_over(folder: &Path, device_blocks: u64, block_size: u64, sequence: u64) -> io::Result<Since> {
        let file = folder.join(FILE);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        if file.exists() {
            fs::remove_file(&file)?;
            sync_folder(folder)?;
        }
        let tracked = decode(&bytes)
            .filter(|(of, _)| *of == sequence)
            .map(|(_, tracked)| tracked)
            .filter(|tracked| tracked.changed.len() == device_blocks && tracked.block_size == block_size);
        Ok(Since {
            file,
            armed: AtomicBool::new(tracked.is_some()),
            state: Mutex::new(State {
                tracked,
                saving: None,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A bundle is about to be saved: from here on it counts what changes. `save` tells this save from others.
    /// For the thread that marks.
    pub fn begin(&self, save: u64, device_blocks: u64, block_size: u64) {
        self.armed.store(true, Ordering::Relaxed);
        self.lock().saving = Some(Tracked {
            bundle: u128::from(save),
            block_size,
            changed: Bitmap::new(device_blocks),
        });
    }

    /// It is durable, and the newest one; or it was not saved, and what was known of the last one still holds.
    pub fn end(&self, save: u64, bundle: Option<u128>) {
        let mut state = self.lock();
        let saving = state.saving.take_if(|saving| saving.bundle == u128::from(save));
        if let (Some(saving), Some(bundle)) = (saving, bundle) {
            state.tracked = Some(Tracked { bundle, ..saving });
        }
    }

    /// Bytes of the device are about to change.
    pub fn mark(&self, offset: u64, len: u64) {
        if !self.armed.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.lock();
        let State { tracked, saving } = &mut *state;
        for tracked in tracked.iter_mut().chain(saving).filter(|_| len > 0) {
            let first = offset / tracked.block_size;
            let end = (offset + len)
                .div_ceil(tracked.block_size)
                .min(tracked.changed.len());
            tracked.changed.set(first, end.saturating_sub(first));
        }
    }

    /// Whether it is certain that none of these blocks changed since that bundle. Asked after they were read.
    pub fn unchanged(&self, bundle: u128, first: u64, count: u64) -> bool {
        let state = self.lock();
        let tracked = state.tracked.as_ref();
        tracked
            .is_some_and(|tracked| tracked.bundle == bundle && tracked.changed.count_range(first, count) == 0)
    }

    /// Blocks that changed since that bundle; none when it is not known.
    pub fn changed(&self, bundle: u128) -> Option<u64> {
        let state = self.lock();
        let tracked = state
            .tracked
            .as_ref()
            .filter(|tracked| tracked.bundle == bundle)?;
        Some(tracked.changed.count())
    }

    /// How many of these blocks did, as far as it is known.
    pub fn changed_of(&self, bundle: u128, runs: &[BlockRun]) -> u64 {
        let state = self.lock();
        let tracked = (state.tracked.as_ref()).filter(|tracked| tracked.bundle == bundle);
        tracked.map_or(0, |tracked| {
            let counts = runs
                .iter()
                .map(|run| tracked.changed.count_range(run.first, run.count));
            counts.sum()
        })
    }

    /// Keeps it for the next engine; for when nothing can change the device any more. `sequence` is that of the metadata's
    /// last superblock.
    ///
    /// # Errors
    /// When it cannot be written: nothing is known after the next start then.
    pub fn save(&self, sequence: u64) -> io::Result<()> {
        let encode = |tracked| encode(tracked, sequence);
        let Some(bytes) = self.lock().tracked.as_ref().and_then(encode) else {
            return Ok(());
        };
        // Never seen half written: the checksum tells.
        let mut file = File::create(&self.file)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        sync_folder(self.file.parent().unwrap_or(Path::new("/")))
    }
}

fn encode(tracked: &Tracked, sequence: u64) -> Option<Vec<u8>> {
    let runs: Vec<(u64, u64)> = tracked.changed.runs().take(RUNS_MAX + 1).collect();
    if runs.len() > RUNS_MAX {
        return None;
    }
    let mut out = MAGIC.to_vec();
    out.extend(tracked.bundle.to_le_bytes());
    for number in [
        sequence,
        tracked.block_size,
        tracked.changed.len(),
        runs.len() as u64,
    ] {
        out.extend(number.to_le_bytes());
    }
    for (first, count) in runs {
        out.extend(first.to_le_bytes());
        out.extend(count.to_le_bytes());
    }
    out.extend(xxh3_128(&out).to_le_bytes());
    Some(out)
}

fn decode(bytes: &[u8]) -> Option<(u64, Tracked)> {
    let body = bytes.len().checked_sub(CHECKSUM).filter(|body| *body >= HEADER)?;
    let (body, checksum) = bytes.split_at(body);
    if body[..8] != MAGIC || xxh3_128(body).to_le_bytes() != checksum {
        return None;
    }
    let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
    let runs = &body[HEADER..];
    let units = number(40);
    if units > 1 << 40 || runs.len() as u64 != number(48).checked_mul(RUN as u64)? {
        return None;
    }
    let mut changed = Bitmap::new(units);
    for run in runs.chunks_exact(RUN) {
        let part = |at: usize| u64::from_le_bytes(run[at..at + 8].try_into().expect("eight bytes"));
        let (first, count) = (part(0), part(8));
        if first.checked_add(count)? > units {
            return None;
        }
        changed.set(first, count);
    }
    let tracked = Tracked {
        bundle: u128::from_le_bytes(body[8..24].try_into().expect("sixteen bytes")),
        block_size: number(32),
        changed,
    };
    Some((number(24), tracked))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: u64 = 1000;

    fn fresh(folder: &Path) -> Since {
        Since::take_over(folder, BLOCKS, 4096, 3).unwrap()
    }

    fn saved(since: &Since, bundle: u128) {
        since.begin(1, BLOCKS, 4096);
        since.end(1, Some(bundle));
    }

    #[test]
    fn what_changed_is_known_from_the_bundle_on() {
        let folder = tempfile::tempdir().unwrap();
        let since = fresh(folder.path());
        since.mark(0, 4096);
        assert!(!since.unchanged(7, 0, BLOCKS), "no bundle yet");
        since.begin(1, BLOCKS, 4096);
        since.mark(999 * 4096, 1);
        since.end(1, Some(6));
        assert!(
            since.unchanged(6, 0, 999) && !since.unchanged(6, 999, 1),
            "changed while it was saved"
        );
        saved(&since, 7);
        since.begin(1, BLOCKS, 4096);
        since.end(1, None);
        since.begin(2, BLOCKS, 4096);
        since.end(1, Some(9));
        assert_eq!(since.changed(9), None, "an earlier save knows less");
        assert!(since.unchanged(7, 0, BLOCKS) && !since.unchanged(8, 0, 1));
        since.mark(4095, 2);
        assert!(!since.unchanged(7, 0, 1) && !since.unchanged(7, 1, 1) && since.unchanged(7, 2, 998));
        assert_eq!((since.changed(7), since.changed(8)), (Some(2), None));
        let runs = [BlockRun { first: 1, count: 5 }, BlockRun { first: 7, count: 1 }];
        assert_eq!((since.changed_of(7, &runs), since.changed_of(8, &runs)), (1, 0));
    }

    #[test]
    fn it_survives_a_clean_stop_once() {
        let folder = tempfile::tempdir().unwrap();
        let since = fresh(folder.path());
        saved(&since, 7);
        since.mark(10 * 4096, 3 * 4096);
        since.save(3).unwrap();
        let next = fresh(folder.path());
        assert_eq!(next.changed(7), Some(3));
        assert!(!next.unchanged(7, 12, 1) && next.unchanged(7, 13, 1));
        // Killed: it did not save, and what was there before must not come back.
        assert_eq!(fresh(folder.path()).changed(7), None);
    }

    #[test]
    fn what_another_engine_did_meanwhile_is_not_known() {
        let folder = tempfile::tempdir().unwrap();
        for (sequence, known) in [(3, Some(0)), (4, None)] {
            let since = fresh(folder.path());
            saved(&since, 7);
            since.save(3).unwrap();
            let next = Since::take_over(folder.path(), BLOCKS, 4096, sequence).unwrap();
            assert_eq!(next.changed(7), known);
        }
    }

    #[test]
    fn damage_and_another_device_count_as_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let since = fresh(folder.path());
        saved(&since, 7);
        since.save(3).unwrap();
        let file = folder.path().join(FILE);
        let good = fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&file, bad).unwrap();
            assert_eq!(fresh(folder.path()).changed(7), None, "byte {at}");
            fs::write(&file, &good[..at]).unwrap();
            assert_eq!(fresh(folder.path()).changed(7), None, "cut at {at}");
        }
        fs::write(&file, &good).unwrap();
        assert_eq!(
            Since::take_over(folder.path(), 5, 4096, 3).unwrap().changed(7),
            None
        );
    }
}
