//! The bytes of a bundle: header, chunks, index, trailer. All numbers are little-endian.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::error::BundleError;

pub const VERSION: u32 = 1;

pub(super) const MAGIC: [u8; 8] = *b"BPBUNDLE";
pub(super) const END_MAGIC: [u8; 8] = *b"BPBNDEND";
/// Magic, version, length of the facts; after the facts comes the checksum of all of it.
pub(super) const HEADER_FIXED: usize = 16;
pub(super) const CHECKSUM: usize = 16;
pub(super) const FACTS_MAX: usize = 64 << 10;
/// Blocks of one chunk, in bytes: the largest block fits.
pub(super) const CHUNK_DATA_MAX: usize = 1 << 20;
pub(super) const BLOCK_MIN: u32 = 512;
pub(super) const RUN_BYTES: usize = 16;
pub(super) const INDEX_ENTRY: usize = 56;
pub(super) const TRAILER: usize = 48;
/// Chunks in one bundle: 16 TiB of saved blocks.
pub(super) const CHUNKS_MAX: u64 = 1 << 24;

/// What a bundle says of itself: JSON in its header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub resource: String,
    /// The victim: whose blocks these are.
    pub node: String,
    /// The survivor, whose data took their place.
    pub peer: String,
    /// The handshake's rule that found the split brain.
    pub rule: String,
    /// Who or what made `node` the victim, for people.
    pub why: String,
    /// Seconds since 1970, by the node's clock.
    pub created_s: u64,
    pub victim: Generations,
    pub survivor: Generations,
    pub block_size_bytes: u32,
    /// Size of the whole device.
    pub data_size_bytes: u64,
    /// Blocks saved.
    pub blocks: u64,
}

/// Generation ids as a person compares them: 16 hexadecimal digits each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations {
    pub current: String,
    pub bitmap: String,
    /// Newest first.
    pub history: Vec<String>,
}

impl From<&crate::wire::Generations> for Generations {
    fn from(generations: &crate::wire::Generations) -> Generations {
        let hex = |id: u64| format!("{id:016x}");
        Generations {
            current: hex(generations.current),
            bitmap: hex(generations.bitmap),
            history: generations
                .history
                .iter()
                .copied()
                .filter(|id| *id != 0)
                .map(hex)
                .collect(),
        }
    }
}

impl Facts {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let block = self.block_size_bytes;
        if !block.is_power_of_two() || block < BLOCK_MIN || block as usize > CHUNK_DATA_MAX {
            return Err("its block size is not a power of two from 512 bytes to 1 MiB");
        }
        // What a file can have at most: no offset on such a device wraps around.
        if self.data_size_bytes > i64::MAX as u64 {
            return Err("its device is larger than any can be");
        }
        if self.blocks > self.device_blocks() {
            return Err("it has more blocks than the device");
        }
        if self.blocks.div_ceil(self.chunk_blocks()) > CHUNKS_MAX {
            return Err("it has more than 16 TiB of blocks");
        }
        Ok(())
    }

    /// Blocks of the whole device; the last one may be shorter than the others.
    pub fn device_blocks(&self) -> u64 {
        self.data_size_bytes.div_ceil(u64::from(self.block_size_bytes))
    }

    /// Bytes of a run of blocks inside the device.
    pub fn bytes_of(&self, first: u64, count: u64) -> u64 {
        let size = u64::from(self.block_size_bytes);
        ((first + count) * size).min(self.data_size_bytes) - first * size
    }

    pub(super) fn chunk_blocks(&self) -> u64 {
        (CHUNK_DATA_MAX / self.block_size_bytes as usize) as u64
    }
}

/// Where a chunk is, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    /// Of its first byte in the file.
    pub offset: u64,
    pub stored: u32,
    pub runs: u32,
    /// Its first block, and the one after its last.
    pub first: u64,
    pub end: u64,
    pub blocks: u32,
    /// XXH3-128 of the chunk before compression.
    pub checksum: u128,
}

impl IndexEntry {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.offset.to_le_bytes());
        out.extend(self.stored.to_le_bytes());
        out.extend(self.runs.to_le_bytes());
        out.extend(self.first.to_le_bytes());
        out.extend(self.end.to_le_bytes());
        out.extend(self.blocks.to_le_bytes());
        out.extend([0; 4]);
        out.extend(self.checksum.to_le_bytes());
    }

    pub fn decode(bytes: &[u8]) -> IndexEntry {
        IndexEntry {
            offset: u64_at(bytes, 0),
            stored: u32_at(bytes, 8),
            runs: u32_at(bytes, 12),
            first: u64_at(bytes, 16),
            end: u64_at(bytes, 24),
            blocks: u32_at(bytes, 32),
            checksum: u128_at(bytes, 40),
        }
    }

    /// Bytes before compression, at most: the device's last block may be shorter.
    pub fn raw_max(&self, facts: &Facts) -> usize {
        self.runs as usize * RUN_BYTES + self.blocks as usize * facts.block_size_bytes as usize
    }

    /// Whether it may follow `before` (the end of the chunk before it: its file offset and its last block).
    pub fn check(&self, facts: &Facts, before: (u64, u64)) -> Result<(), &'static str> {
        let most = u64::from(self.blocks);
        if self.blocks == 0 || most > facts.chunk_blocks() {
            return Err("a chunk has an impossible number of blocks");
        }
        if self.runs == 0 || self.runs > self.blocks {
            return Err("a chunk has an impossible number of runs");
        }
        if self.stored as usize > zstd::zstd_safe::compress_bound(self.raw_max(facts)) {
            return Err("a chunk is longer than its blocks");
        }
        if self.offset != before.0 {
            return Err("a chunk is not where the one before it ends");
        }
        let spans = self.end.checked_sub(self.first);
        if self.first < before.1 || self.end > facts.device_blocks() || spans.is_none_or(|spans| spans < most)
        {
            return Err("its chunks are not in order, or not inside the device");
        }
        Ok(())
    }
}

/// The file's last bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    pub index: u64,
    pub chunks: u64,
    pub blocks: u64,
    pub checksum: u128,
}

impl Trailer {
    /// `index`: where the index begins; its bytes are `entries`. `header` is the header's checksum: one bundle's
    /// end does not fit another one's beginning.
    pub fn new(index: u64, blocks: u64, entries: &[u8], header: u128) -> Trailer {
        let mut trailer = Trailer {
            index,
            chunks: (entries.len() / INDEX_ENTRY) as u64,
            blocks,
            checksum: 0,
        };
        trailer.checksum = trailer.sum(entries, header);
        trailer
    }

    pub fn sum(&self, entries: &[u8], header: u128) -> u128 {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        hasher.update(&header.to_le_bytes());
        hasher.update(entries);
        for number in [self.index, self.chunks, self.blocks] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.digest128()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = END_MAGIC.to_vec();
        for number in [self.index, self.chunks, self.blocks] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.checksum.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8; TRAILER]) -> Result<Trailer, BundleError> {
        if bytes[..8] != END_MAGIC {
            return Err(BundleError::Truncated("its end is missing"));
        }
        Ok(Trailer {
            index: u64_at(bytes, 8),
            chunks: u64_at(bytes, 16),
            blocks: u64_at(bytes, 24),
            checksum: u128_at(bytes, 32),
        })
    }
}

/// The header with its checksum, and that checksum.
pub(super) fn encode_header(facts: &Facts) -> Result<(Vec<u8>, u128), BundleError> {
    let json = serde_json::to_vec(facts).expect("facts are text and numbers");
    if json.len() > FACTS_MAX {
        return Err(BundleError::Unfit("its facts are longer than 64 KiB"));
    }
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((json.len() as u32).to_le_bytes());
    out.extend(json);
    let checksum = xxh3_128(&out);
    out.extend(checksum.to_le_bytes());
    Ok((out, checksum))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(super) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}
