//! One page of a bitmap on disk.
//!
//! | offset | size | field   |                                                        |
//! |--------|------|---------|--------------------------------------------------------|
//! | 0      | 4    | magic   | `BPpg`                                                 |
//! | 4      | 2    | version | 1                                                      |
//! | 6      | 2    | kind    | 1 out-of-sync bitmap, 2 write-intent log               |
//! | 8      | 4    | index   | of the page in its bitmap: finds misdirected writes    |
//! | 12     | 12   |         | reserved, zero                                         |
//! | 24     | 8    | check   | XXH3-64 of the page with this field zero               |
//! | 32     | 4064 | bits    | unit `n` of the page is bit `n % 8` of byte `n / 8`    |
//!
//! Integers are little-endian. A page of nothing but zeroes is a page never written: no bit is set. That
//! makes a fresh bitmap a sparse hole. A page that was written and then emptied keeps its header.

use xxhash_rust::xxh3::xxh3_64;

use super::layout::PAGE_BYTES;
use crate::payload::{Buffer, Payload};

const HEADER_BYTES: usize = 32;
const CHECK_OFFSET: usize = 24;
const MAGIC: [u8; 4] = *b"BPpg";
const VERSION: u16 = 1;

/// 64-bit words of bits in one page.
pub(super) const WORDS: usize = (PAGE_BYTES - HEADER_BYTES) / 8;
/// Bits in one page.
pub const UNITS_PER_PAGE: u64 = WORDS as u64 * 64;

pub(super) type Words = [u64; WORDS];

/// Which of the bitmaps a page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    OutOfSync = 1,
    Intent = 2,
}

pub(super) enum Decoded {
    /// Never written.
    Empty,
    Bits(Box<Words>),
    /// Torn, decayed, misdirected, or not a page at all.
    Damaged,
}

pub(super) fn encode(kind: PageKind, index: usize, words: &Words) -> Payload {
    let mut buffer = Buffer::zeroed(PAGE_BYTES);
    let page = buffer.as_mut_slice();
    page[0..4].copy_from_slice(&MAGIC);
    page[4..6].copy_from_slice(&VERSION.to_le_bytes());
    page[6..8].copy_from_slice(&(kind as u16).to_le_bytes());
    page[8..12].copy_from_slice(&(index as u32).to_le_bytes());
    for (bytes, word) in page[HEADER_BYTES..].chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let check = xxh3_64(page);
    page[CHECK_OFFSET..HEADER_BYTES].copy_from_slice(&check.to_le_bytes());
    buffer.freeze()
}

pub(super) fn decode(kind: PageKind, index: usize, page: &[u8; PAGE_BYTES]) -> Decoded {
    if page.iter().all(|byte| *byte == 0) {
        return Decoded::Empty;
    }
    let mut unchecked = *page;
    unchecked[CHECK_OFFSET..HEADER_BYTES].fill(0);
    let whole = xxh3_64(&unchecked).to_le_bytes() == page[CHECK_OFFSET..HEADER_BYTES];
    let ours = page[0..4] == MAGIC
        && page[4..6] == VERSION.to_le_bytes()
        && page[6..8] == (kind as u16).to_le_bytes()
        && page[8..12] == (index as u32).to_le_bytes()
        // What a later version puts there would be lost by writing the page again.
        && page[12..CHECK_OFFSET].iter().all(|byte| *byte == 0);
    if !whole || !ours {
        return Decoded::Damaged;
    }
    let mut words = Box::new([0; WORDS]);
    for (word, bytes) in words.iter_mut().zip(page[HEADER_BYTES..].chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes"));
    }
    Decoded::Bits(words)
}
