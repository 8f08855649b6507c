//! The on-disk format: where everything lies ([`layout`]), the [`superblock`], and the [`bitmap`]s: what is
//! out of sync for each peer, and the write-intent log.
//!
//! Pure: bytes in, bytes out. Reading and writing them is `io`'s work, deciding what to write is `core`'s.

pub mod bitmap;
pub mod layout;
pub mod page;
mod page_set;
pub mod superblock;

pub use bitmap::{Bitmap, PageLoad};
pub use layout::{
    Layout, BLOCK_SIZE_MAX, BLOCK_SIZE_MIN, DATA_SIZE_MAX, EXTENT_BYTES, PAGE_BYTES, PEER_SLOTS_MAX,
};
pub use superblock::{choose, next_copy, PeerRecord, Superblock, SuperblockError};

#[cfg(test)]
mod bitmap_tests;
#[cfg(test)]
mod layout_tests;
#[cfg(test)]
mod superblock_tests;
