//! The victim's whole device as it was: the bundle's blocks over the present ones that are still the victim's.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use super::since::Since;
use crate::bundle::{Bundle, Chunk};
use crate::core::DiskOp;
use crate::io::disk::Device;

/// Chunks kept decompressed: some neighbours of what is being read.
const CACHED: usize = 16;
/// The device is read in pieces of this size at most, in bytes.
const PIECE: u64 = 1 << 20;

/// The present device of a resource that is up.
#[derive(Clone)]
pub struct Present {
    pub device: Arc<Device>,
    pub since: Arc<Since>,
}

pub struct Overlay {
    bundle: Mutex<Cached>,
    present: Present,
    id: u128,
    block_size: u64,
    size: u64,
}

/// Consecutive blocks from one place.
struct Stretch {
    /// The bundle has them: in this chunk, from this byte of its data on.
    held: Option<(Arc<Chunk>, usize)>,
    /// The first block that is not of them.
    until: u64,
}

struct Cached {
    bundle: Bundle<File>,
    /// The one used last at the end.
    chunks: VecDeque<(usize, Arc<Chunk>)>,
}

impl Overlay {
    pub fn new(bundle: Bundle<File>, present: Present) -> Overlay {
        Overlay {
            id: bundle.id(),
            block_size: u64::from(bundle.facts().block_size_bytes),
            size: bundle.facts().data_size_bytes,
            bundle: Mutex::new(Cached {
                bundle,
                chunks: VecDeque::new(),
            }),
            present,
        }
    }

    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Reads bytes inside the device.
    ///
    /// # Errors
    /// Why they are not known to be the victim's, or cannot be read: for people. Never gives other bytes.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), String> {
        let mut at = offset;
        let end = offset + into.len() as u64;
        while at < end {
            let block = at / self.block_size;
            let Stretch { held, until } = self.stretch(block)?;
            let stop = (until * self.block_size).min(end).min(at + PIECE);
            let part = &mut into[(at - offset) as usize..(stop - offset) as usize];
            match held {
                Some((chunk, start)) => {
                    let skip = start + (at - block * self.block_size) as usize;
                    part.copy_from_slice(&chunk.data[skip..skip + part.len()]);
                }
                None => self.read_present(at, part)?,
            }
            at = stop;
        }
        Ok(())
    }

    /// Where `block` and those after it come from.
    fn stretch(&self, block: u64) -> Result<Stretch, String> {
        let mut cached = self.bundle.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(number) = cached.bundle.chunk_with(block) else {
            return Ok(Stretch {
                held: None,
                until: cached.bundle.next_chunk_after(block),
            });
        };
        let chunk = cached.chunk(number)?;
        let mut start = 0;
        for run in &chunk.runs {
            if block < run.first {
                return Ok(Stretch {
                    held: None,
                    until: run.first,
                });
            }
            if block < run.first + run.count {
                let inside = start + (block - run.first) * self.block_size;
                return Ok(Stretch {
                    held: Some((chunk.clone(), inside as usize)),
                    until: run.first + run.count,
                });
            }
            start += run.count * self.block_size;
        }
        Err("the bundle's index does not fit its chunks".into())
    }

    fn read_present(&self, offset: u64, into: &mut [u8]) -> Result<(), String> {
        let first = offset / self.block_size;
        let count = (offset + into.len() as u64).div_ceil(self.block_size) - first;
        let len = into.len() as u32; // at most PIECE
        let bytes = self
            .present
            .device
            .execute(&DiskOp::Read { offset, len })
            .map_err(|error| format!("the backing device cannot be read: {error}"))?;
        // Looked at after the bytes were read: a write is marked before the disk is given it.
        if !self.present.since.unchanged(self.id, first, count) {
            return Err(format!(
                "of blocks {first} to {}, which are not in the bundle, some changed after it was saved, or it is not known whether they did",
                first + count - 1
            ));
        }
        into.copy_from_slice(&bytes.ok_or("the backing device gave nothing")?);
        Ok(())
    }
}

impl Cached {
    fn chunk(&mut self, number: usize) -> Result<Arc<Chunk>, String> {
        let found = self.chunks.iter().position(|(other, _)| *other == number);
        let entry = match found.and_then(|at| self.chunks.remove(at)) {
            Some(entry) => entry,
            None => {
                let chunk = self
                    .bundle
                    .read(number)
                    .map_err(|error| format!("the bundle: {error}"))?;
                if self.chunks.len() >= CACHED {
                    self.chunks.pop_front();
                }
                (number, Arc::new(chunk))
            }
        };
        let chunk = entry.1.clone();
        self.chunks.push_back(entry);
        Ok(chunk)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::save::{save, Progress, Saved};
    use super::*;
    use crate::bundle::Facts;
    use crate::io::disk::Driver;
    use crate::wire::{BlockRun, Generations, HISTORY_LEN};

    const BLOCK: usize = 4096;
    const BLOCKS: u64 = 1000;

    /// What block `number` held before (`age` 0) and after.
    fn block(number: u64, age: u8) -> Vec<u8> {
        (0..BLOCK)
            .map(|at| (at as u64 * 31 + number * 7) as u8 ^ age)
            .collect()
    }

    /// A device whose saved blocks were overwritten afterwards, and its overlay.
    pub(crate) fn overlay(folder: &Path, runs: &[BlockRun]) -> (Overlay, Arc<Since>, Saved) {
        let path = folder.join("disk");
        let old: Vec<u8> = (0..BLOCKS).flat_map(|number| block(number, 0)).collect();
        fs::write(&path, &old).unwrap();
        let generations = Generations {
            current: 1,
            bitmap: 0,
            history: [0; HISTORY_LEN],
        };
        let facts = Facts {
            resource: "r0".into(),
            node: "b".into(),
            peer: "a".into(),
            rule: "split-brain".into(),
            why: "a test".into(),
            created_s: 0,
            victim: (&generations).into(),
            survivor: (&generations).into(),
            block_size_bytes: BLOCK as u32,
            data_size_bytes: BLOCKS * BLOCK as u64,
            blocks: runs.iter().map(|run| run.count).sum(),
        };
        let since = Arc::new(Since::take_over(folder, BLOCKS, BLOCK as u64, 1).unwrap());
        since.begin(1, BLOCKS, BLOCK as u64);
        let mut read = |offset: u64, into: &mut [u8]| {
            into.copy_from_slice(&old[offset as usize..][..into.len()]);
            Ok(())
        };
        let saved = save(folder, &facts, runs, &mut read, &Progress::default()).unwrap();
        since.end(1, Some(saved.id));
        let device = Arc::new(Device::open(&path, Driver::Auto).unwrap());
        for run in runs {
            for number in run.first..run.first + run.count {
                overwrite(&device, &since, number);
            }
        }
        let bundle = Bundle::open(File::open(&saved.path).unwrap()).unwrap();
        let present = Present {
            device,
            since: since.clone(),
        };
        (Overlay::new(bundle, present), since, saved)
    }

    fn overwrite(device: &Device, since: &Since, number: u64) {
        let payload = crate::payload::Payload::copy_from(&block(number, 0xff));
        let offset = number * BLOCK as u64;
        since.mark(offset, BLOCK as u64);
        device
            .execute(&DiskOp::Write {
                offset,
                payload,
                fua: false,
            })
            .unwrap();
    }

    #[test]
    fn it_is_the_device_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let runs = [(0, 1), (5, 400), (990, 10)].map(|(first, count)| BlockRun { first, count });
        let (overlay, _, _) = overlay(folder.path(), &runs);
        let mut whole = vec![0; overlay.size_bytes() as usize];
        overlay.read(0, &mut whole).unwrap();
        let wanted: Vec<u8> = (0..BLOCKS).flat_map(|number| block(number, 0)).collect();
        assert!(whole == wanted);
        // Ranges that begin and end anywhere.
        for (offset, len) in [
            (1, 1),
            (4095, 2),
            (3 * 4096 + 7, 9000),
            (404 * 4096 + 100, 5000),
            (999 * 4096, 4096),
        ] {
            let mut part = vec![0; len];
            overlay.read(offset, &mut part).unwrap();
            assert!(
                part == wanted[offset as usize..][..len],
                "{len} bytes at {offset}"
            );
        }
    }

    #[test]
    fn what_changed_since_is_an_error_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let (overlay, since, _) = overlay(folder.path(), &[BlockRun { first: 5, count: 2 }]);
        overwrite(&overlay.present.device, &since, 9);
        let read = |first: u64, count: usize| overlay.read(first * BLOCK as u64, &mut vec![0; count * BLOCK]);
        read(0, 9).unwrap();
        read(10, 900).unwrap();
        assert!(read(9, 1).unwrap_err().contains("blocks 9 to 9"));
        read(4, 20).unwrap_err();
    }

    #[test]
    fn with_nothing_known_only_the_bundle_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let (overlay, since, _) = overlay(folder.path(), &[BlockRun { first: 5, count: 2 }]);
        since.begin(2, BLOCKS, BLOCK as u64);
        // Another bundle is the newest one now.
        since.end(2, Some(12345));
        let mut two = vec![0; 2 * BLOCK];
        overlay.read(5 * BLOCK as u64, &mut two).unwrap();
        assert!(two == [block(5, 0), block(6, 0)].concat());
        overlay.read(0, &mut two).unwrap_err();
    }
}
