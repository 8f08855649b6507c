//! Writes a bundle in one pass.

use std::io::{self, Write};

use xxhash_rust::xxh3::xxh3_128;

use super::error::BundleError;
use super::format::{encode_header, Facts, IndexEntry, Trailer, CHUNK_DATA_MAX, RUN_BYTES};
use crate::wire::BlockRun;

/// zstd's own default: a disk is rarely faster, and more costs much time for little.
const LEVEL: i32 = 3;

/// Writes `facts` and the blocks of `runs` to `out`, and returns how many bytes that were. `read` fills a buffer
/// from an offset of the device in bytes; it is asked for each block once, in rising order. `go_on` is asked
/// before each chunk. Making it durable is the caller's.
///
/// # Errors
/// `Unfit` when `runs` are not in rising order, not inside the device or not what the facts say; `Source` when
/// `read` fails; `Io` when `out` does; `Interrupted` when `go_on` says no. `out` holds no bundle then.
pub fn write(
    out: &mut dyn Write,
    facts: &Facts,
    runs: &[BlockRun],
    read: &mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
    go_on: &dyn Fn() -> bool,
) -> Result<u64, BundleError> {
    check(facts, runs)?;
    let (header, header_checksum) = encode_header(facts)?;
    out.write_all(&header)?;
    let mut writer = Writer {
        out,
        facts,
        at: header.len() as u64,
        index: Vec::new(),
        compressor: zstd::bulk::Compressor::new(LEVEL)?,
        raw: Vec::new(),
    };
    let mut chunk = Vec::new();
    let mut room = facts.chunk_blocks();
    for run in runs {
        let mut left = *run;
        while left.count > 0 {
            let first = BlockRun {
                first: left.first,
                count: left.count.min(room),
            };
            chunk.push(first);
            left.first += first.count;
            left.count -= first.count;
            room -= first.count;
            if room == 0 {
                writer.chunk(&chunk, read, go_on)?;
                chunk.clear();
                room = facts.chunk_blocks();
            }
        }
    }
    if !chunk.is_empty() {
        writer.chunk(&chunk, read, go_on)?;
    }
    let trailer = Trailer::new(writer.at, facts.blocks, &writer.index, header_checksum);
    let mut end = std::mem::take(&mut writer.index);
    end.extend(trailer.encode());
    writer.out.write_all(&end)?;
    Ok(writer.at + end.len() as u64)
}

fn check(facts: &Facts, runs: &[BlockRun]) -> Result<(), BundleError> {
    facts.check().map_err(BundleError::Unfit)?;
    let mut end = 0;
    let mut blocks = 0;
    for run in runs {
        let after = run.first.checked_add(run.count);
        if run.count == 0 || run.first < end || after.is_none_or(|after| after > facts.device_blocks()) {
            return Err(BundleError::Unfit(
                "its runs are not in order, or not inside the device",
            ));
        }
        end = run.first + run.count;
        blocks += run.count;
    }
    if blocks != facts.blocks {
        return Err(BundleError::Unfit("its runs are not what its facts say"));
    }
    Ok(())
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    facts: &'a Facts,
    at: u64,
    index: Vec<u8>,
    compressor: zstd::bulk::Compressor<'static>,
    /// A chunk before compression: its runs, then their blocks.
    raw: Vec<u8>,
}

impl Writer<'_> {
    fn chunk(
        &mut self,
        runs: &[BlockRun],
        read: &mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(), BundleError> {
        if !go_on() {
            return Err(BundleError::Interrupted);
        }
        self.raw.clear();
        self.raw.reserve(runs.len() * RUN_BYTES + CHUNK_DATA_MAX);
        for run in runs {
            self.raw.extend(run.first.to_le_bytes());
            self.raw.extend(run.count.to_le_bytes());
        }
        for run in runs {
            let start = self.raw.len();
            let bytes = self.facts.bytes_of(run.first, run.count) as usize;
            self.raw.resize(start + bytes, 0);
            let offset = run.first * u64::from(self.facts.block_size_bytes);
            read(offset, &mut self.raw[start..]).map_err(|error| BundleError::Source {
                block: run.first,
                error,
            })?;
        }
        let stored = self.compressor.compress(&self.raw)?;
        self.out.write_all(&stored)?;
        let last = runs.last().expect("a chunk has a run");
        IndexEntry {
            offset: self.at,
            // A chunk and what compression may add to it are far below 4 GiB.
            stored: stored.len() as u32,
            runs: runs.len() as u32,
            first: runs[0].first,
            end: last.first + last.count,
            blocks: runs.iter().map(|run| run.count).sum::<u64>() as u32,
            checksum: xxh3_128(&self.raw),
        }
        .encode(&mut self.index);
        self.at += stored.len() as u64;
        Ok(())
    }
}
