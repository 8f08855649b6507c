//! Regions of the disk as they are, in memory: read ahead, and gone as soon as a change of theirs goes to the disk.

use std::collections::BTreeMap;

use super::sketch::REGION_BYTES;
use crate::payload::{Buffer, Payload};

/// The regions that a range touches.
pub(super) fn regions_of(offset: u64, len: u64) -> std::ops::Range<u64> {
    offset / REGION_BYTES..(offset + len).div_ceil(REGION_BYTES)
}

#[derive(Default)]
pub(super) struct Store {
    regions: BTreeMap<u64, Payload>,
    bytes: u64,
}

impl Store {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn has(&self, region: u64) -> bool {
        self.regions.contains_key(&region)
    }

    pub(super) fn keep(&mut self, region: u64, data: Payload) {
        self.bytes += data.len() as u64;
        if let Some(before) = self.regions.insert(region, data) {
            self.bytes -= before.len() as u64;
        }
    }

    /// What lies there on the disk, if all of it was read ahead; the range is not empty.
    pub(super) fn get(&self, offset: u64, len: u64) -> Option<Payload> {
        if self.regions.is_empty() {
            return None;
        }
        let touched = regions_of(offset, len);
        let within = (offset - touched.start * REGION_BYTES) as usize;
        if touched.end - touched.start == 1 {
            let data = self.regions.get(&touched.start)?;
            return (within + len as usize <= data.len()).then(|| data.slice(within..within + len as usize));
        }
        if !touched.clone().all(|region| self.has(region)) {
            return None;
        }
        let mut buffer = Buffer::new(len as usize);
        let mut left = buffer.as_mut_slice();
        let mut skip = within;
        for (_, data) in self.regions.range(touched) {
            let count = left.len().min(data.len() - skip);
            left[..count].copy_from_slice(&data[skip..skip + count]);
            left = &mut left[count..];
            skip = 0;
        }
        left.is_empty().then(|| buffer.freeze())
    }

    /// This range of the disk is about to change.
    pub(super) fn changes(&mut self, offset: u64, len: u64) {
        let gone: Vec<u64> = (self.regions.range(regions_of(offset, len)))
            .map(|(region, _)| *region)
            .collect();
        for region in gone {
            if let Some(data) = self.regions.remove(&region) {
                self.bytes -= data.len() as u64;
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Store::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: usize = 3 * REGION_BYTES as usize + 4096;

    fn disk() -> Vec<u8> {
        (0..SIZE).map(|at| (at / 512) as u8).collect()
    }

    fn filled(disk: &[u8], regions: &[u64]) -> Store {
        let mut store = Store::default();
        for region in regions {
            let start = (region * REGION_BYTES) as usize;
            let end = (start + REGION_BYTES as usize).min(disk.len());
            store.keep(*region, Payload::copy_from(&disk[start..end]));
        }
        store
    }

    #[test]
    fn a_change_takes_every_region_that_it_touches() {
        let mut store = filled(&disk(), &[0, 1, 2, 3]);
        assert_eq!(store.bytes(), SIZE as u64);
        store.changes(REGION_BYTES - 1, 2);
        assert_eq!(
            [0, 1, 2, 3].map(|region| store.has(region)),
            [false, false, true, true]
        );
        assert_eq!(store.bytes(), REGION_BYTES + 4096);
        store.changes(0, u64::MAX / 2);
        assert_eq!(store.bytes(), 0);
    }

    proptest! {
        #[test]
        fn it_answers_what_the_disk_holds_or_nothing(
            regions in prop::collection::vec(0..4_u64, 0..5),
            changed in prop::option::of((0..SIZE - 1, 1..SIZE)),
            offset in 0..SIZE - 1,
            len in 1..SIZE,
        ) {
            let len = len.min(SIZE - offset);
            let mut disk = disk();
            let mut store = filled(&disk, &regions);
            let mut there: Vec<bool> = (0..4).map(|region| regions.contains(&region)).collect();
            if let Some((start, count)) = changed {
                let count = count.min(SIZE - start);
                store.changes(start as u64, count as u64);
                disk[start..start + count].fill(255);
                regions_of(start as u64, count as u64).for_each(|region| there[region as usize] = false);
            }
            let whole = regions_of(offset as u64, len as u64).all(|region| there[region as usize]);
            let answer = store.get(offset as u64, len as u64);
            prop_assert_eq!(answer.is_some(), whole);
            if let Some(data) = answer {
                prop_assert_eq!(&*data, &disk[offset..offset + len]);
            }
        }
    }
}
