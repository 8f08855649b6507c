//! A bundle's file: a person may have fetched it from anywhere.

use std::io::Cursor;

use _engine::bundle::{write, Bundle, BundleError, Facts};
use _engine::wire::BlockRun;
use serde_json::json;
use xxhash_rust::xxh3::{xxh3_128, Xxh3};

use super::mutate::Rng;
use super::runner::Target;

pub const TARGET: Target = Target {
    name: "bundle",
    corpus,
    words: &[
        b"BPBUNDLE",
        b"BPBNDEND",
        b"18446744073709551615",
        b"0",
        b"\"blocks\":",
        b"1048576",
        b"\\u0000",
    ],
    mend,
    check,
    // One chunk, before and after compression, beside what the file itself takes.
    memory: |input| 16 * input.len() + (8 << 20),
    runs: 20_000,
};

const HEADER_FIXED: usize = 16;
const INDEX_ENTRY: usize = 56;
const TRAILER: usize = 48;

fn check(input: &[u8]) -> Result<String, String> {
    match read(input) {
        Ok((facts, chunks)) => {
            same_again(&facts, &chunks)?;
            Ok(format!(
                "{} chunks of {} bytes a block",
                chunks.len(),
                facts.block_size_bytes
            ))
        }
        Err(Trouble::Bundle(error)) => {
            let text = error.to_string();
            if text.is_empty() || text.len() > 1024 || text.chars().any(char::is_control) {
                return Err(format!("an error unfit for a log line: {text:?}"));
            }
            Ok(text.chars().filter(|c| !c.is_ascii_digit()).take(60).collect())
        }
        Err(Trouble::Wrong(what)) => Err(what),
    }
}

enum Trouble {
    Bundle(BundleError),
    Wrong(String),
}

type Chunks = Vec<(Vec<BlockRun>, usize, u128)>;

/// Reads all of it, the way an export asks for blocks; of the data, length and checksum are kept.
fn read(input: &[u8]) -> Result<(Facts, Chunks), Trouble> {
    let mut bundle = Bundle::open(Cursor::new(input)).map_err(Trouble::Bundle)?;
    let facts = bundle.facts().clone();
    let wrong = |what: &str| Err(Trouble::Wrong(what.to_owned()));
    let (mut chunks, mut end) = (Vec::new(), 0);
    for number in 0..bundle.chunks() {
        let runs = bundle.runs(number).map_err(Trouble::Bundle)?;
        let chunk = bundle.read(number).map_err(Trouble::Bundle)?;
        if runs != chunk.runs {
            return wrong("index and chunk tell of different runs");
        }
        let mut bytes = 0;
        for run in &runs {
            let after = run.first.checked_add(run.count);
            if run.count == 0 || run.first < end || after.is_none_or(|after| after > facts.device_blocks()) {
                return wrong("runs that are empty, out of order, or outside the device");
            }
            end = run.first + run.count;
            bytes += facts.bytes_of(run.first, run.count);
            let next = bundle.next_chunk_after(run.first);
            if bundle.chunk_with(run.first) != Some(number) || next <= run.first {
                return wrong("a block is not found in its chunk");
            }
        }
        if bytes != chunk.data.len() as u64 {
            return wrong("a chunk's data are not as long as its runs");
        }
        chunks.push((runs, chunk.data.len(), xxh3_128(&chunk.data)));
    }
    bundle.verify(&|| true).map_err(Trouble::Bundle)?;
    Ok((facts, chunks))
}

/// What was read can be written, and reads the same again: with zeroes for its data, so that it needs no device.
fn same_again(facts: &Facts, chunks: &Chunks) -> Result<(), String> {
    let runs: Vec<BlockRun> = chunks.iter().flat_map(|chunk| chunk.0.clone()).collect();
    if facts.blocks > 4096 {
        return Ok(());
    }
    let mut out = Vec::new();
    let mut zeroes = |_: u64, into: &mut [u8]| {
        into.fill(0);
        Ok(())
    };
    write(&mut out, facts, &runs, &mut zeroes, &|| true)
        .map_err(|error| format!("it cannot be written: {error}"))?;
    let again = Bundle::open(Cursor::new(&out[..])).map_err(|error| format!("written again: {error}"))?;
    if again.facts() != facts {
        return Err("written again, it has other facts".to_owned());
    }
    Ok(())
}

/// Renews the header's length and checksum, and the end's place of the index, its counts and its checksum.
fn mend(mut input: Vec<u8>, rng: &mut Rng) -> Vec<u8> {
    if input.len() < HEADER_FIXED + 16 + TRAILER {
        return input;
    }
    input[..12].copy_from_slice(b"BPBUNDLE\x01\0\0\0");
    let limit = input.len() - HEADER_FIXED - 16 - TRAILER;
    // The facts are JSON: they end where their braces do.
    let mut depth = 0;
    let facts_end = input[HEADER_FIXED..].iter().position(|byte| {
        depth += i32::from(*byte == b'{') - i32::from(*byte == b'}');
        depth == 0
    });
    let told = u32::from_le_bytes(input[12..16].try_into().expect("four bytes")) as usize;
    let facts = match facts_end {
        Some(end) if !rng.one_in(16) => end + 1,
        _ => told,
    }
    .min(limit);
    input[12..16].copy_from_slice(&(facts as u32).to_le_bytes());
    let summed = HEADER_FIXED + facts;
    let header = xxh3_128(&input[..summed]);
    input[summed..summed + 16].copy_from_slice(&header.to_le_bytes());

    let trailer = input.len() - TRAILER;
    input[trailer..trailer + 8].copy_from_slice(b"BPBNDEND");
    let number =
        |input: &[u8], at: usize| u64::from_le_bytes(input[at..at + 8].try_into().expect("eight bytes"));
    let room = ((trailer - summed - 16) / INDEX_ENTRY) as u64;
    let chunks = number(&input, trailer + 16).min(room);
    let index = trailer - chunks as usize * INDEX_ENTRY;
    if !rng.one_in(8) {
        input[trailer + 8..trailer + 16].copy_from_slice(&(index as u64).to_le_bytes());
        input[trailer + 16..trailer + 24].copy_from_slice(&chunks.to_le_bytes());
    }
    if !rng.one_in(3) {
        lay_out(&mut input[..trailer], summed + 16, index);
    }
    let mut hasher = Xxh3::new();
    hasher.update(&header.to_le_bytes());
    hasher.update(&input[index..trailer]);
    hasher.update(&input[trailer + 8..trailer + 32]);
    let checksum = hasher.digest128();
    input[trailer + 32..].copy_from_slice(&checksum.to_le_bytes());
    input
}

/// Makes the chunks follow each other without a gap, whatever the mutation moved; the last takes what is left.
fn lay_out(input: &mut [u8], data: usize, index: usize) {
    let mut at = data;
    let entries = input.len() - index;
    for entry in (index..index + entries).step_by(INDEX_ENTRY) {
        let stored =
            u32::from_le_bytes(input[entry + 8..entry + 12].try_into().expect("four bytes")) as usize;
        let last = entry + INDEX_ENTRY == index + entries;
        let stored = if last { index - at } else { stored.min(index - at) };
        input[entry..entry + 8].copy_from_slice(&(at as u64).to_le_bytes());
        input[entry + 8..entry + 12].copy_from_slice(&(stored as u32).to_le_bytes());
        if let Ok(raw) = zstd::bulk::decompress(&input[at..at + stored], 2 << 20) {
            input[entry + 40..entry + 56].copy_from_slice(&xxh3_128(&raw).to_le_bytes());
        }
        at += stored;
    }
}

fn saved(block: u32, size: u64, runs: &[(u64, u64)]) -> Vec<u8> {
    let runs: Vec<BlockRun> = runs
        .iter()
        .map(|&(first, count)| BlockRun { first, count })
        .collect();
    let generations =
        json!({"current": "00000000000000aa", "bitmap": "0000000000000000", "history": ["0000000000000001"]});
    let facts: Facts = serde_json::from_value(json!({
        "resource": "r0", "node": "beta", "peer": "alpha", "rule": "split-brain",
        "why": "root via blockpair resolve", "created_s": 1_700_000_000,
        "victim": generations, "survivor": generations,
        "block_size_bytes": block, "data_size_bytes": size,
        "blocks": runs.iter().map(|run| run.count).sum::<u64>(),
    }))
    .expect("these are facts");
    let mut out = Vec::new();
    let mut read = |offset: u64, into: &mut [u8]| {
        into.fill((offset / 512) as u8);
        Ok(())
    };
    write(&mut out, &facts, &runs, &mut read, &|| true).expect("a bundle in memory");
    out
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    vec![
        ("empty".to_owned(), saved(4096, 1 << 20, &[])),
        (
            "runs".to_owned(),
            saved(4096, (1 << 20) + 512, &[(0, 2), (5, 1), (255, 2)]),
        ),
        (
            "largest-device".to_owned(),
            saved(512, i64::MAX as u64, &[(0, 1), ((1 << 54) - 1, 1)]),
        ),
        ("chunks".to_owned(), saved(1 << 20, 8 << 20, &[(1, 2), (6, 1)])),
    ]
}
