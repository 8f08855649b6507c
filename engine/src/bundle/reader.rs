//! Opens a bundle. What a file says is checked before anything is allocated or believed by it.

use std::io::{Read, Seek, SeekFrom};

use xxhash_rust::xxh3::xxh3_128;

use super::error::BundleError;
use super::format::{
    u128_at, u32_at, u64_at, Facts, IndexEntry, Trailer, CHECKSUM, CHUNKS_MAX, FACTS_MAX, HEADER_FIXED,
    INDEX_ENTRY, MAGIC, RUN_BYTES, TRAILER, VERSION,
};
use crate::wire::BlockRun;

/// An open bundle: its facts and its index are known to be whole; its chunks are checked as they are read.
#[derive(Debug)]
pub struct Bundle<F> {
    file: F,
    facts: Facts,
    index: Vec<IndexEntry>,
    /// The trailer's checksum, which covers header and index and with them every chunk's checksum.
    id: u128,
    size: u64,
}

/// Some of a bundle's blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// In rising order.
    pub runs: Vec<BlockRun>,
    /// Their blocks, one after the other.
    pub data: Vec<u8>,
}

impl<F: Read + Seek> Bundle<F> {
    /// Reads header, index and trailer.
    ///
    /// # Errors
    /// `Foreign`, `Version`, `Truncated`, `Damaged`: what is wrong with the file; `Io`: it cannot be read.
    pub fn open(mut file: F) -> Result<Bundle<F>, BundleError> {
        let size = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        if size < HEADER_FIXED as u64 {
            return Err(BundleError::Foreign);
        }
        let mut header = vec![0; HEADER_FIXED];
        file.read_exact(&mut header)?;
        if header[..8] != MAGIC {
            return Err(BundleError::Foreign);
        }
        let version = u32_at(&header, 8);
        if version != VERSION {
            return Err(BundleError::Version(version));
        }
        let facts_len = u32_at(&header, 12) as usize;
        if facts_len > FACTS_MAX {
            return Err(BundleError::damaged("its header is too long"));
        }
        let data = (HEADER_FIXED + facts_len + CHECKSUM) as u64;
        if size < data + TRAILER as u64 {
            return Err(BundleError::Truncated("its end is missing"));
        }
        header.resize(data as usize, 0);
        file.read_exact(&mut header[HEADER_FIXED..])?;
        let summed = header.len() - CHECKSUM;
        let checksum = u128_at(&header, summed);
        if xxh3_128(&header[..summed]) != checksum {
            return Err(BundleError::damaged("its header does not match its checksum"));
        }
        let facts: Facts = serde_json::from_slice(&header[HEADER_FIXED..summed])
            .map_err(|error| BundleError::damaged(format!("its facts are not understood: {error}")))?;
        facts.check().map_err(BundleError::damaged)?;
        let (index, id) = read_index(&mut file, size, data, &facts, checksum)?;
        Ok(Bundle {
            file,
            facts,
            index,
            id,
            size,
        })
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Of the whole file, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Tells this bundle from any other.
    pub fn id(&self) -> u128 {
        self.id
    }

    pub fn chunks(&self) -> usize {
        self.index.len()
    }

    /// The chunk that may hold `block`: only its runs tell whether it does.
    pub fn chunk_with(&self, block: u64) -> Option<usize> {
        let after = self.index.partition_point(|entry| entry.first <= block);
        let chunk = after.checked_sub(1)?;
        (block < self.index[chunk].end).then_some(chunk)
    }

    /// The first block after `block`, which no chunk spans, that a chunk begins with; the device's end without.
    pub fn next_chunk_after(&self, block: u64) -> u64 {
        let after = self.index.partition_point(|entry| entry.first <= block);
        self.index
            .get(after)
            .map_or(self.facts.device_blocks(), |entry| entry.first)
    }

    /// The blocks that a chunk has. Its data is read only where the index does not tell.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Panics
    /// If there is no chunk of that number.
    pub fn runs(&mut self, chunk: usize) -> Result<Vec<BlockRun>, BundleError> {
        let IndexEntry {
            first, end, blocks, ..
        } = self.index[chunk];
        if end - first == u64::from(blocks) {
            let count = u64::from(blocks);
            return Ok(vec![BlockRun { first, count }]);
        }
        Ok(self.read(chunk)?.runs)
    }

    /// Reads and checks one chunk.
    ///
    /// # Errors
    /// `Damaged` when it is not what was saved, `Io` when it cannot be read.
    ///
    /// # Panics
    /// If there is no chunk of that number.
    pub fn read(&mut self, chunk: usize) -> Result<Chunk, BundleError> {
        let entry = self.index[chunk];
        let mut stored = vec![0; entry.stored as usize];
        self.file.seek(SeekFrom::Start(entry.offset))?;
        self.file.read_exact(&mut stored)?;
        let damaged = || {
            BundleError::damaged(format!(
                "blocks {} to {} do not match their checksum",
                entry.first,
                entry.end - 1
            ))
        };
        let mut raw = zstd::bulk::decompress(&stored, entry.raw_max(&self.facts)).map_err(|_| damaged())?;
        if xxh3_128(&raw) != entry.checksum {
            return Err(damaged());
        }
        let runs_len = entry.runs as usize * RUN_BYTES;
        let runs: Vec<BlockRun> = raw
            .get(..runs_len)
            .ok_or_else(damaged)?
            .chunks_exact(RUN_BYTES)
            .map(|run| BlockRun {
                first: u64_at(run, 0),
                count: u64_at(run, 8),
            })
            .collect();
        let data = raw.split_off(runs_len);
        let inconsistent = |_| BundleError::damaged("a chunk is not what the index says");
        self.check(&entry, &runs, data.len()).map_err(inconsistent)?;
        Ok(Chunk { runs, data })
    }

    fn check(&self, entry: &IndexEntry, runs: &[BlockRun], bytes: usize) -> Result<(), ()> {
        let (mut end, mut blocks, mut length) = (entry.first, 0_u64, 0);
        for run in runs {
            let after = run.first.checked_add(run.count).ok_or(())?;
            if run.count == 0 || run.first < end || after > entry.end {
                return Err(());
            }
            end = after;
            blocks += run.count;
            length += self.facts.bytes_of(run.first, run.count);
        }
        let starts = runs.first().is_some_and(|run| run.first == entry.first);
        let whole = end == entry.end && blocks == u64::from(entry.blocks) && length == bytes as u64;
        (starts && whole).then_some(()).ok_or(())
    }

    /// Reads and checks every chunk; `go_on` is asked before each.
    ///
    /// # Errors
    /// As [`read`](Self::read); `Interrupted` when `go_on` says no.
    pub fn verify(&mut self, go_on: &dyn Fn() -> bool) -> Result<(), BundleError> {
        for chunk in 0..self.index.len() {
            if !go_on() {
                return Err(BundleError::Interrupted);
            }
            self.read(chunk)?;
        }
        Ok(())
    }
}

fn read_index<F: Read + Seek>(
    file: &mut F,
    size: u64,
    data: u64,
    facts: &Facts,
    header: u128,
) -> Result<(Vec<IndexEntry>, u128), BundleError> {
    let end = size - TRAILER as u64;
    let mut bytes = [0; TRAILER];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut bytes)?;
    let trailer = Trailer::decode(&bytes)?;
    if trailer.chunks > CHUNKS_MAX
        || trailer.index < data
        || trailer.index.checked_add(trailer.chunks * INDEX_ENTRY as u64) != Some(end)
    {
        return Err(BundleError::damaged("its index is not where its end says"));
    }
    // As long as that part of the file, and bounded.
    let mut entries = vec![0; trailer.chunks as usize * INDEX_ENTRY];
    file.seek(SeekFrom::Start(trailer.index))?;
    file.read_exact(&mut entries)?;
    if trailer.sum(&entries, header) != trailer.checksum {
        return Err(BundleError::damaged("its index does not match its checksum"));
    }
    let index: Vec<IndexEntry> = entries
        .chunks_exact(INDEX_ENTRY)
        .map(IndexEntry::decode)
        .collect();
    let (mut before, mut blocks) = ((data, 0), 0);
    for entry in &index {
        entry.check(facts, before).map_err(BundleError::damaged)?;
        before = (entry.offset + u64::from(entry.stored), entry.end);
        blocks += u64::from(entry.blocks);
    }
    if before.0 != trailer.index || blocks != trailer.blocks || blocks != facts.blocks {
        return Err(BundleError::damaged("its index is not what its header says"));
    }
    Ok((index, trailer.checksum))
}
