use std::collections::BTreeSet;

use proptest::prelude::*;

use super::layout::PAGE_BYTES;
use super::page::UNITS_PER_PAGE;
use super::{Bitmap, PageLoad};

/// The disk's view: the pages as last written; holes are zeroes.
struct Disk(Vec<[u8; PAGE_BYTES]>);

impl Disk {
    fn new(bitmap: &Bitmap) -> Disk {
        Disk(vec![[0; PAGE_BYTES]; bitmap.pages()])
    }

    fn write(&mut self, bitmap: &mut Bitmap, limit: usize) -> usize {
        let taken = bitmap.take_changed(limit);
        for (index, bytes) in &taken {
            self.0[*index] = bytes[..].try_into().unwrap();
        }
        taken.len()
    }

    fn read(&self, units: u64) -> Bitmap {
        let mut bitmap = Bitmap::new(units);
        for (index, page) in self.0.iter().enumerate() {
            assert_ne!(bitmap.load_page(index, page), PageLoad::Damaged);
        }
        bitmap
    }
}

fn members(bitmap: &Bitmap) -> BTreeSet<u64> {
    bitmap
        .runs()
        .flat_map(|(first, count)| first..first + count)
        .collect()
}

#[derive(Clone, Debug)]
enum Step {
    Set(u64, u64),
    Clear(u64, u64),
    SetAll,
    ClearAll,
    Take(usize),
    Reload,
}

/// Ranges that like page and word boundaries, where mistakes live.
fn range(units: u64) -> impl Strategy<Value = (u64, u64)> {
    let point = prop_oneof![
        0..=units,
        (0..=units / UNITS_PER_PAGE, -2i64..=2)
            .prop_map(move |(page, off)| (page * UNITS_PER_PAGE).saturating_add_signed(off).min(units)),
        (0..=units / 64, -1i64..=1)
            .prop_map(move |(word, off)| (word * 64).saturating_add_signed(off).min(units)),
        (units.saturating_sub(3)..=units),
    ];
    let short = (point.clone(), 0..70u64).prop_map(move |(first, count)| (first, count.min(units - first)));
    let long = (point.clone(), point).prop_map(|(a, b)| (a.min(b), a.max(b) - a.min(b)));
    prop_oneof![short, long]
}

fn step(units: u64) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => range(units).prop_map(|(first, count)| Step::Set(first, count)),
        6 => range(units).prop_map(|(first, count)| Step::Clear(first, count)),
        1 => Just(Step::SetAll),
        1 => Just(Step::ClearAll),
        2 => (0..4usize).prop_map(Step::Take),
        1 => Just(Step::Reload),
    ]
}

fn case() -> impl Strategy<Value = (u64, Vec<Step>, Vec<(u64, u64)>)> {
    let units = prop_oneof![
        1..200u64,
        (1..4u64, -1i64..=1).prop_map(|(pages, off)| (pages * UNITS_PER_PAGE).saturating_add_signed(off)),
        1..3 * UNITS_PER_PAGE,
    ];
    units.prop_flat_map(|units| {
        (
            Just(units),
            prop::collection::vec(step(units), 1..24),
            prop::collection::vec(range(units), 8),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn behaves_like_a_set((units, steps, probes) in case()) {
        let mut bitmap = Bitmap::new(units);
        let mut model = BTreeSet::new();
        let mut disk = Disk::new(&bitmap);
        for step in steps {
            match step {
                Step::Set(first, count) => {
                    let before = model.len();
                    model.extend(first..first + count);
                    prop_assert_eq!(bitmap.set(first, count), (model.len() - before) as u64);
                }
                Step::Clear(first, count) => {
                    let before = model.len();
                    model.retain(|unit| !(first..first + count).contains(unit));
                    prop_assert_eq!(bitmap.clear(first, count), (before - model.len()) as u64);
                }
                Step::SetAll => {
                    model = (0..units).collect();
                    bitmap.set_all();
                }
                Step::ClearAll => {
                    model.clear();
                    bitmap.clear_all();
                }
                Step::Take(limit) => {
                    let waiting = bitmap.changed_pages().count();
                    prop_assert_eq!(disk.write(&mut bitmap, limit), waiting.min(limit));
                    prop_assert_eq!(bitmap.changed_pages().count(), waiting - waiting.min(limit));
                }
                Step::Reload => {
                    disk.write(&mut bitmap, usize::MAX);
                    bitmap = disk.read(units);
                    prop_assert_eq!(bitmap.changed_pages().count(), 0);
                }
            }
            prop_assert_eq!(bitmap.len(), units);
            prop_assert_eq!(bitmap.count(), model.len() as u64);
            prop_assert_eq!(bitmap.is_empty(), model.is_empty());
        }
        for (first, count) in probes {
            let end = first + count;
            prop_assert_eq!(bitmap.count_range(first, count), model.range(first..end).count() as u64);
            prop_assert_eq!(bitmap.next_set(first), model.range(first..).next().copied());
            prop_assert_eq!(bitmap.next_clear(first), (first..units).find(|unit| !model.contains(unit)));
            if first < units {
                prop_assert_eq!(bitmap.test(first), model.contains(&first));
            }
            if let Some((run, length)) = bitmap.next_run(first, count.max(1)) {
                prop_assert!(length >= 1 && length <= count.max(1));
                prop_assert!((run..run + length).all(|unit| model.contains(&unit)));
                prop_assert!(length == count.max(1) || !model.contains(&(run + length)));
            }
        }
        prop_assert_eq!(members(&bitmap), model.clone());
        // Whatever the disk does not hold is in a page marked as changed.
        let stale: BTreeSet<usize> = members(&disk.read(units))
            .symmetric_difference(&model)
            .map(|unit| bitmap.page_of(*unit))
            .collect();
        let changed: BTreeSet<usize> = bitmap.changed_pages().collect();
        prop_assert!(stale.is_subset(&changed), "stale {:?} changed {:?}", stale, changed);
        disk.write(&mut bitmap, usize::MAX);
        prop_assert_eq!(members(&disk.read(units)), model);
    }

    #[test]
    fn any_changed_byte_makes_a_page_damaged(
        (first, count) in range(UNITS_PER_PAGE),
        position in 0..PAGE_BYTES,
        flip in 1..=255u8,
    ) {
        let mut bitmap = Bitmap::new(UNITS_PER_PAGE + 5);
        bitmap.set(first, count);
        bitmap.mark_changed(0);
        let mut page: [u8; PAGE_BYTES] = bitmap.take_changed(1)[0].1[..].try_into().unwrap();
        page[position] ^= flip;
        let mut loaded = Bitmap::new(UNITS_PER_PAGE + 5);
        prop_assert_eq!(loaded.load_page(0, &page), PageLoad::Damaged);
        prop_assert_eq!(loaded.next_run(0, u64::MAX), Some((0, UNITS_PER_PAGE)));
    }
}

#[test]
fn a_damaged_page_counts_as_all_set_and_is_written_again() {
    let units = UNITS_PER_PAGE + 100;
    let mut bitmap = Bitmap::new(units);
    assert_eq!(bitmap.load_page(1, &[7; PAGE_BYTES]), PageLoad::Damaged);
    assert_eq!(bitmap.count(), 100);
    assert_eq!(bitmap.runs().collect::<Vec<_>>(), [(UNITS_PER_PAGE, 100)]);
    assert_eq!(bitmap.changed_pages().collect::<Vec<_>>(), [1]);
}

#[test]
fn a_page_of_another_place_or_kind_is_damaged() {
    let units = 2 * UNITS_PER_PAGE;
    let mut bitmap = Bitmap::new(units);
    bitmap.set(3, 1);
    let page: [u8; PAGE_BYTES] = bitmap.encode_page(0)[..].try_into().unwrap();
    assert_eq!(Bitmap::new(units).load_page(1, &page), PageLoad::Damaged);
    assert_eq!(Bitmap::new_intent(units).load_page(0, &page), PageLoad::Damaged);
    assert_eq!(Bitmap::new(units).load_page(0, &page), PageLoad::Loaded);
}

#[test]
fn bits_past_the_end_are_ignored() {
    let mut large = Bitmap::new(1000);
    large.set_all();
    let page: [u8; PAGE_BYTES] = large.encode_page(0)[..].try_into().unwrap();
    let mut small = Bitmap::new(10);
    assert_eq!(small.load_page(0, &page), PageLoad::Loaded);
    assert_eq!(small.count(), 10);
    assert_eq!(small.next_clear(0), None);
    assert_eq!(small.clear(0, 10), 10);
    assert_eq!(small.next_set(0), None);
}

#[test]
fn a_zero_page_is_empty_and_an_emptied_page_keeps_its_header() {
    let mut bitmap = Bitmap::new(10);
    assert_eq!(bitmap.load_page(0, &[0; PAGE_BYTES]), PageLoad::Empty);
    bitmap.set(4, 1);
    bitmap.clear(4, 1);
    let taken = bitmap.take_changed(8);
    assert_eq!(taken.len(), 1);
    assert!(taken[0].1.iter().any(|byte| *byte != 0));
}

#[test]
fn changes_after_a_take_and_failed_writes_are_taken_again() {
    let mut bitmap = Bitmap::new(3 * UNITS_PER_PAGE);
    bitmap.set(0, 3 * UNITS_PER_PAGE);
    assert_eq!(bitmap.take_changed(usize::MAX).len(), 3);
    bitmap.set(5, 10);
    assert_eq!(bitmap.changed_pages().count(), 0, "nothing became different");
    bitmap.clear(UNITS_PER_PAGE, 1);
    bitmap.mark_changed(2);
    assert_eq!(bitmap.changed_pages().collect::<Vec<_>>(), [1, 2]);
    bitmap.mark_all_persisted();
    assert!(bitmap.take_changed(usize::MAX).is_empty());
}

#[test]
fn a_busy_page_does_not_starve_the_others() {
    let mut bitmap = Bitmap::new(3 * UNITS_PER_PAGE);
    let mut taken = Vec::new();
    bitmap.set(2 * UNITS_PER_PAGE, 1);
    for round in 0..3 {
        bitmap.set(round, 1);
        taken.extend(bitmap.take_changed(1).into_iter().map(|(index, _)| index));
    }
    assert_eq!(taken, [0, 2, 0]);
}

#[test]
#[should_panic(expected = "units 9+2 of a bitmap of 10")]
fn a_range_beyond_the_end_panics() {
    Bitmap::new(10).set(9, 2);
}

#[test]
fn a_large_bitmap_that_is_all_clean_or_all_dirty_is_quick() {
    // 64 TiB in 4 KiB blocks; a walk unit by unit would take minutes.
    let units = 1 << 34;
    let mut bitmap = Bitmap::new(units);
    assert_eq!(bitmap.next_set(0), None);
    bitmap.set_all();
    assert_eq!(bitmap.runs().collect::<Vec<_>>(), [(0, units)]);
    assert_eq!(bitmap.clear(units / 2, 1), 1);
    assert_eq!(bitmap.next_clear(0), Some(units / 2));
    bitmap.clear_all();
    assert_eq!(bitmap.set(units - 1, 1), 1);
    assert_eq!(bitmap.next_set(0), Some(units - 1));
}
