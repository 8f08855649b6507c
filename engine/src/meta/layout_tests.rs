use proptest::prelude::*;

use super::page::UNITS_PER_PAGE;
use super::{Layout, EXTENT_BYTES, PAGE_BYTES, PEER_SLOTS_MAX};

const PAGE: u64 = PAGE_BYTES as u64;

fn block_sizes() -> impl Strategy<Value = u32> {
    (12..=20u32).prop_map(|shift| 1 << shift)
}

/// Sizes from `smallest` to 64 TiB, as many small ones as large ones.
fn sizes(smallest: u64) -> impl Strategy<Value = u64> {
    let shift_min = smallest.ilog2();
    (shift_min..46, any::<u64>()).prop_map(|(shift, noise)| (1 << shift) + noise % (1 << shift))
}

proptest! {
    #[test]
    fn regions_follow_each_other_and_fit(
        size in sizes(1 << 20),
        block in block_sizes(),
        slots in 0..=PEER_SLOTS_MAX,
    ) {
        let layout = Layout::new(size, block, slots);
        let mut regions = Vec::new();
        for slot in 0..slots {
            regions.push((layout.bitmap_offset(slot), layout.bitmap_pages()));
        }
        regions.push((layout.intent_offset(), layout.intent_pages()));
        regions.push((layout.superblock_offset(0), 1));
        regions.push((layout.superblock_offset(1), 1));
        let mut end = 0;
        for (offset, pages) in regions {
            prop_assert_eq!(offset, end, "no gap, no overlap");
            prop_assert_eq!(offset % PAGE, 0);
            end = offset + pages as u64 * PAGE;
        }
        prop_assert_eq!(end, layout.region_bytes());
        // Every unit has its bit.
        prop_assert!(layout.blocks() * u64::from(block) >= size);
        prop_assert!(layout.extents() * EXTENT_BYTES >= size);
        prop_assert!(layout.bitmap_pages() as u64 * UNITS_PER_PAGE >= layout.blocks());
        prop_assert!(layout.intent_pages() as u64 * UNITS_PER_PAGE >= layout.extents());
    }

    #[test]
    fn internal_data_size_is_the_largest_that_fits(
        device in sizes(1 << 14),
        block in block_sizes(),
        slots in 1..=PEER_SLOTS_MAX,
    ) {
        let step = u64::from(block);
        let room = device / PAGE * PAGE;
        let needs = |data: u64| data + Layout::new(data, block, slots).region_bytes();
        match Layout::internal_data_size(device, block, slots) {
            Some(data) => {
                prop_assert!(data >= step);
                prop_assert_eq!(data % step, 0);
                prop_assert!(needs(data) <= room);
                prop_assert!(needs(data + step) > room);
            }
            None => prop_assert!(needs(step) > room),
        }
    }
}

#[test]
fn a_terabyte_has_a_bitmap_of_thirty_three_megabytes() {
    let layout = Layout::new(1 << 40, 4096, 1);
    assert_eq!(layout.blocks(), 1 << 28);
    assert_eq!(layout.extents(), 1 << 18);
    assert_eq!(layout.bitmap_pages(), 8257);
    assert_eq!(layout.intent_pages(), 9);
    assert_eq!(layout.region_bytes(), (8257 + 9 + 2) * 4096);
    assert_eq!(layout.superblock_offset(1), layout.region_bytes() - 4096);
}

#[test]
fn a_device_too_small_for_anything_has_no_internal_size() {
    assert_eq!(Layout::internal_data_size(0, 4096, 1), None);
    assert_eq!(Layout::internal_data_size(5 * 4096 - 1, 4096, 1), None);
    assert_eq!(Layout::internal_data_size(5 * 4096, 4096, 1), Some(4096));
}
