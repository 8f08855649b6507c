//! A virtual disk that knows what every page holds, and forgets, after a power cut, any of what was not flushed.
//!
//! Every page that anybody may write is recognisable: it repeats the number of its write and its own place. So a page
//! is kept as that number alone, and bytes that belong elsewhere, or to nothing, are noticed as they reach the disk.

use _engine::payload::{Buffer, Payload};

use crate::rng::Rng;

/// Bytes of a page: the unit in which a power cut keeps or loses data.
pub const PAGE: u64 = 4096;
/// Three extents of the write-intent log, the last one short.
pub const SIZE: u64 = 9 << 20;
pub const PAGES: usize = (SIZE / PAGE) as usize;

/// Number of the write that a page holds; 0 for zeroes.
pub type Stamp = u64;
/// What a strange disk held before: no write of the workload has such a number.
pub const FOREIGN: Stamp = 1 << 60;

pub struct Disk {
    /// As the running system sees it.
    current: Vec<Stamp>,
    /// As a power cut would leave it if none of the cache survived.
    stable: Vec<Stamp>,
    /// Written and not flushed, oldest first; empty entries are settled.
    cache: Vec<Option<(usize, Stamp)>>,
    /// How many entries were dropped from the front of `cache`.
    base: u64,
}

/// A page's bytes.
fn fill(bytes: &mut [u8], page: usize, stamp: Stamp) {
    if stamp == 0 {
        return bytes.fill(0);
    }
    let place = page as u64 + 1;
    for pair in bytes.chunks_mut(16) {
        pair[..8].copy_from_slice(&stamp.to_le_bytes());
        pair[8..].copy_from_slice(&place.to_le_bytes());
    }
}

/// The bytes of `count` pages that hold write `stamp`.
pub fn stamped(first: usize, count: usize, stamp: Stamp) -> Payload {
    let mut buffer = Buffer::new(count * PAGE as usize);
    for (n, bytes) in buffer.as_mut_slice().chunks_mut(PAGE as usize).enumerate() {
        fill(bytes, first + n, stamp);
    }
    buffer.freeze()
}

/// The number a page carries.
///
/// # Errors
/// When it is no whole page of the workload's, or belongs elsewhere.
pub fn read_stamp(page: usize, bytes: &[u8]) -> Result<Stamp, String> {
    let stamp = u64::from_le_bytes(bytes[..8].try_into().unwrap_or_default());
    let mut expected = [0; 16];
    fill(&mut expected, page, stamp);
    if bytes.len() == PAGE as usize && bytes.chunks(16).all(|pair| pair == expected) {
        Ok(stamp)
    } else {
        Err(format!(
            "page {page}: bytes of no write, or of another place"
        ))
    }
}

impl Disk {
    pub fn new() -> Disk {
        Disk {
            current: vec![0; PAGES],
            stable: vec![0; PAGES],
            cache: Vec::new(),
            base: 0,
        }
    }

    /// A disk out of a drawer: old data in some of the pages the workload uses, and elsewhere.
    pub fn strange(rng: &mut Rng, pages: &[usize]) -> Disk {
        let mut disk = Disk::new();
        for page in pages.iter().copied().chain([0, 700, PAGES - 1]) {
            if rng.chance(2) {
                disk.stable[page] = FOREIGN + rng.below(1 << 20);
            }
        }
        disk.current.copy_from_slice(&disk.stable);
        disk
    }

    pub fn current(&self, page: usize) -> Stamp {
        self.current[page]
    }

    pub fn stable(&self, page: usize) -> Stamp {
        self.stable[page]
    }

    pub fn contents(&self) -> &[Stamp] {
        &self.current
    }

    pub fn read(&self, offset: u64, len: u64) -> Payload {
        let mut buffer = Buffer::new(len as usize);
        for (n, bytes) in buffer.as_mut_slice().chunks_mut(PAGE as usize).enumerate() {
            let page = (offset / PAGE) as usize + n;
            fill(bytes, page, self.current[page]);
        }
        buffer.freeze()
    }

    pub fn write(&mut self, page: usize, stamp: Stamp, durable: bool) {
        self.current[page] = stamp;
        if durable {
            // An older cached write of this page must not come back.
            for entry in &mut self.cache {
                if entry.is_some_and(|(cached, _)| cached == page) {
                    *entry = None;
                }
            }
            self.stable[page] = stamp;
        } else {
            self.cache.push(Some((page, stamp)));
        }
    }

    /// Up to where a flush that starts now will reach.
    pub fn flush_point(&self) -> u64 {
        self.base + self.cache.len() as u64
    }

    fn take(&mut self, upto: u64) -> Vec<(usize, Stamp)> {
        let count = (upto.saturating_sub(self.base) as usize).min(self.cache.len());
        self.base += count as u64;
        self.cache.drain(..count).flatten().collect()
    }

    pub fn flush(&mut self, upto: u64) {
        for (page, stamp) in self.take(upto) {
            self.stable[page] = stamp;
        }
    }

    /// What could not be written back is dropped and said once. It is gone for readers too: what a page cache may go on
    /// to show of it is a lie that no comparison sees through, so the driver must not believe one after such an error.
    /// The pages that show something else since.
    pub fn fail_flush(&mut self, upto: u64, rng: &mut Rng) -> Vec<usize> {
        let taken = self.take(upto);
        let shown: Vec<(usize, Stamp)> =
            taken.iter().map(|(n, _)| (*n, self.current[*n])).collect();
        for (page, stamp) in taken {
            if rng.chance(2) {
                self.stable[page] = stamp;
            }
            self.current[page] = self.stable[page];
        }
        for (page, stamp) in self.cache.iter().flatten() {
            self.current[*page] = *stamp;
        }
        shown
            .into_iter()
            .filter(|(page, stamp)| self.current[*page] != *stamp)
            .map(|(page, _)| page)
            .collect()
    }

    /// Each page keeps what is stable, or any of what was written since.
    pub fn power_cut(&mut self, rng: &mut Rng) {
        let mut cache: Vec<(usize, Stamp)> = std::mem::take(&mut self.cache)
            .into_iter()
            .flatten()
            .collect();
        rng.shuffle(&mut cache);
        for (page, stamp) in cache {
            if rng.chance(2) {
                self.stable[page] = stamp;
            }
        }
        self.current.copy_from_slice(&self.stable);
    }
}
