//! Where everything lies in a metadata region.
//!
//! ```text
//! offset 0                                                                              region_bytes
//! | bitmap of slot 0 | … | bitmap of slot n-1 | write-intent log | superblock 0 | superblock 1 |
//! ```
//!
//! The region is a whole number of pages. Its end coincides with the last page boundary of what holds it (the
//! backing device itself, or the external file or device), so the two superblock copies are found from the
//! end, and they tell where the rest begins.

use super::page::UNITS_PER_PAGE;

/// One extent of the write-intent log, in bytes of data.
pub const EXTENT_BYTES: u64 = 4 << 20;
/// Unit of every metadata read and write, in bytes.
pub const PAGE_BYTES: usize = 4096;
/// Most peers that a resource can ever have room for.
pub const PEER_SLOTS_MAX: usize = 7;
/// Smallest and largest block of the out-of-sync bitmap, in bytes; a power of two.
pub const BLOCK_SIZE_MIN: u32 = 4096;
pub const BLOCK_SIZE_MAX: u32 = 1 << 20;
/// Largest data area, in bytes (1 PiB): bounds every allocation that depends on it.
pub const DATA_SIZE_MAX: u64 = 1 << 50;
/// Copies of the superblock.
pub const SUPERBLOCK_COPIES: usize = 2;

const PAGE: u64 = PAGE_BYTES as u64;

/// Offsets and lengths of a metadata region, for one data size, block size and number of peer slots.
///
/// All offsets are in bytes from the start of the region, all are multiples of [`PAGE_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    data_size_bytes: u64,
    block_size_bytes: u32,
    peer_slots: usize,
    bitmap_pages: u64,
    intent_pages: u64,
}

impl Layout {
    /// # Panics
    /// On a data size above [`DATA_SIZE_MAX`], a block size that is no power of two in
    /// [`BLOCK_SIZE_MIN`]..=[`BLOCK_SIZE_MAX`], or more than [`PEER_SLOTS_MAX`] slots. Check input from outside
    /// first; a decoded superblock has been checked.
    pub fn new(data_size_bytes: u64, block_size_bytes: u32, peer_slots: usize) -> Layout {
        assert!(data_size_bytes <= DATA_SIZE_MAX, "data size out of bounds");
        assert!(block_size_is_valid(block_size_bytes), "block size out of bounds");
        assert!(peer_slots <= PEER_SLOTS_MAX, "too many peer slots");
        let blocks = data_size_bytes.div_ceil(u64::from(block_size_bytes));
        let extents = data_size_bytes.div_ceil(EXTENT_BYTES);
        Layout {
            data_size_bytes,
            block_size_bytes,
            peer_slots,
            bitmap_pages: blocks.div_ceil(UNITS_PER_PAGE),
            intent_pages: extents.div_ceil(UNITS_PER_PAGE),
        }
    }

    /// The largest data area, a multiple of the block, that fits on a device of `device_size` bytes together
    /// with its metadata; `None` when not even one block does.
    pub fn internal_data_size(device_size: u64, block_size: u32, slots: usize) -> Option<u64> {
        let block = u64::from(block_size);
        let room = device_size / PAGE * PAGE;
        let fits = |blocks: u64| {
            blocks * block + Layout::new(blocks * block, block_size, slots).region_bytes() <= room
        };
        // The region never shrinks when the data grows, so `fits` is true up to some size and false beyond.
        let mut fitting = 0;
        let mut too_large = room.min(DATA_SIZE_MAX) / block + 1;
        while too_large - fitting > 1 {
            let middle = fitting + (too_large - fitting) / 2;
            if fits(middle) {
                fitting = middle;
            } else {
                too_large = middle;
            }
        }
        (fitting > 0).then_some(fitting * block)
    }

    pub fn data_size_bytes(&self) -> u64 {
        self.data_size_bytes
    }

    pub fn block_size_bytes(&self) -> u32 {
        self.block_size_bytes
    }

    pub fn peer_slots(&self) -> usize {
        self.peer_slots
    }

    /// Blocks of the data area: the units of each out-of-sync bitmap.
    pub fn blocks(&self) -> u64 {
        self.data_size_bytes.div_ceil(u64::from(self.block_size_bytes))
    }

    /// Extents of the data area: the units of the write-intent log.
    pub fn extents(&self) -> u64 {
        self.data_size_bytes.div_ceil(EXTENT_BYTES)
    }

    pub fn bitmap_pages(&self) -> usize {
        self.bitmap_pages as usize
    }

    pub fn intent_pages(&self) -> usize {
        self.intent_pages as usize
    }

    /// # Panics
    /// When the layout has no such slot.
    pub fn bitmap_offset(&self, slot: usize) -> u64 {
        assert!(slot < self.peer_slots, "no such peer slot");
        slot as u64 * self.bitmap_pages * PAGE
    }

    pub fn intent_offset(&self) -> u64 {
        self.peer_slots as u64 * self.bitmap_pages * PAGE
    }

    /// # Panics
    /// When `copy` is not 0 or 1.
    pub fn superblock_offset(&self, copy: usize) -> u64 {
        assert!(copy < SUPERBLOCK_COPIES, "no such superblock copy");
        self.intent_offset() + (self.intent_pages + copy as u64) * PAGE
    }

    pub fn region_bytes(&self) -> u64 {
        self.intent_offset() + (self.intent_pages + SUPERBLOCK_COPIES as u64) * PAGE
    }
}

/// Whether this can be the block size of a resource.
pub fn block_size_is_valid(block_size_bytes: u32) -> bool {
    block_size_bytes.is_power_of_two() && (BLOCK_SIZE_MIN..=BLOCK_SIZE_MAX).contains(&block_size_bytes)
}
