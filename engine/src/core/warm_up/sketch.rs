//! Which parts of the device are read most: a sketch of frequencies in a fixed amount of memory.
//!
//! Reads are counted by region, in a table of sets as a processor's cache has. A region that is new to a full set takes
//! from its rarest one until that has nothing left, so that what is read once displaces nothing that is read often. After
//! a number of reads, not of hours, all counts are halved: what a quiet device was read for last week is still known.

/// Bytes of a region: the unit in which reads are counted, and read ahead.
pub(super) const REGION_BYTES: u64 = 64 << 10;

const SETS: usize = 512;
const WAYS: usize = 8;
/// All counts are halved after so many.
const HALVED_AFTER: u32 = 16 * (SETS * WAYS) as u32;
/// Readers that are told apart by where their last read ended.
const STREAMS: usize = 16;
/// A reader that goes on for longer than this in order reads a file of its size, or everything: a disk is good at that
/// without help, and a backup must not make all that it passes look hot.
const STREAM_MAX: u64 = 1 << 20;

#[derive(Clone, Copy)]
struct Set {
    regions: [u64; WAYS],
    counts: [u32; WAYS],
}

/// A reader that goes on where it stopped.
#[derive(Clone, Copy, Default)]
struct Stream {
    end: u64,
    bytes: u64,
}

/// See the module's documentation. About 50 KiB.
pub(super) struct ReadSketch {
    sets: Box<[Set]>,
    streams: [Stream; STREAMS],
    oldest_stream: usize,
    counted: u32,
    version: u64,
}

impl ReadSketch {
    pub(super) fn new() -> ReadSketch {
        let empty = Set {
            regions: [0; WAYS],
            counts: [0; WAYS],
        };
        ReadSketch {
            sets: vec![empty; SETS].into_boxed_slice(),
            streams: [Stream::default(); STREAMS],
            oldest_stream: 0,
            counted: 0,
            version: 0,
        }
    }

    /// Rises with every read that was counted.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The application has read this range, which is not empty.
    pub(super) fn count(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        let going_on = self.streams.iter_mut().find(|stream| stream.end == offset);
        let mut first = offset / REGION_BYTES;
        match going_on {
            Some(stream) => {
                stream.end = end;
                stream.bytes += len;
                if stream.bytes > STREAM_MAX {
                    return;
                }
                // Its last read was in this region too, and was counted.
                first += u64::from(!offset.is_multiple_of(REGION_BYTES));
            }
            None => {
                self.streams[self.oldest_stream] = Stream { end, bytes: len };
                self.oldest_stream = (self.oldest_stream + 1) % STREAMS;
                if len > STREAM_MAX {
                    return;
                }
            }
        }
        for region in first..end.div_ceil(REGION_BYTES) {
            self.touch(region);
        }
    }

    fn touch(&mut self, region: u64) {
        self.version += 1;
        self.counted += 1;
        if self.counted == HALVED_AFTER {
            self.counted = 0;
            for set in &mut self.sets {
                set.counts = set.counts.map(|count| count / 2);
            }
        }
        // Neighbours go to different sets.
        let index = region.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - SETS.ilog2());
        let set = &mut self.sets[index as usize];
        let known = (0..WAYS).find(|&way| set.regions[way] == region && set.counts[way] > 0);
        if let Some(way) = known {
            set.counts[way] = set.counts[way].saturating_add(1);
            return;
        }
        let rarest = (0..WAYS).min_by_key(|&way| set.counts[way]).unwrap_or(0);
        if set.counts[rarest] == 0 {
            set.regions[rarest] = region;
            set.counts[rarest] = 1;
        } else {
            set.counts[rarest] -= 1;
        }
    }

    /// The regions that were read most, at most so many, those before others; equals in the device's order.
    pub(super) fn hottest(&self, most: usize) -> Vec<u64> {
        let known = self
            .sets
            .iter()
            .flat_map(|set| set.regions.iter().zip(&set.counts));
        let mut ranked: Vec<(u32, u64)> = known
            .filter(|(_, count)| **count > 0)
            .map(|(region, count)| (u32::MAX - count, *region))
            .collect();
        if ranked.len() > most {
            ranked.select_nth_unstable(most);
            ranked.truncate(most);
        }
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, region)| region).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(sketch: &mut ReadSketch, region: u64) {
        // Two blocks apart: nobody goes on where another stopped.
        sketch.count(region * REGION_BYTES + 8192, 4096);
    }

    #[test]
    fn what_is_read_most_comes_first_and_equals_in_order() {
        let mut sketch = ReadSketch::new();
        for region in [9, 5, 7, 5, 7, 5, 3] {
            read(&mut sketch, region);
        }
        assert_eq!(sketch.hottest(10), [5, 7, 3, 9]);
        assert_eq!(sketch.hottest(2), [5, 7]);
    }

    #[test]
    fn a_backup_of_the_whole_device_displaces_nothing() {
        let mut sketch = ReadSketch::new();
        for _ in 0..4 {
            (0..1000).for_each(|n| read(&mut sketch, n * 1000));
        }
        let before = sketch.hottest(1000);
        for piece in 0..(1_000_000 * REGION_BYTES / (128 << 10)) {
            sketch.count(piece * (128 << 10), 128 << 10);
        }
        let after = sketch.hottest(1000);
        let kept = after.iter().filter(|region| before.contains(region)).count();
        assert!(kept >= 990, "{kept} of {} are still known", before.len());
    }

    #[test]
    fn reads_all_over_the_device_displace_little_of_what_is_read_often() {
        let mut sketch = ReadSketch::new();
        let mut place = 1_u64;
        for round in 0..500_000_u64 {
            place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            read(&mut sketch, 1_000_000 + (place >> 40));
            read(&mut sketch, round % 1000);
        }
        let hottest = sketch.hottest(1000);
        let right = hottest.iter().filter(|region| **region < 1000).count();
        assert!(right >= 950, "{right} of 1000");
    }

    #[test]
    fn a_small_file_that_is_read_in_order_counts_once_a_pass() {
        let mut sketch = ReadSketch::new();
        for _ in 0..2 {
            for block in 0..32 {
                sketch.count((1 << 20) + block * 4096, 4096);
            }
        }
        read(&mut sketch, 40);
        read(&mut sketch, 40);
        read(&mut sketch, 40);
        assert_eq!(sketch.hottest(10), [40, 16, 17]);
    }

    #[test]
    fn what_was_hot_once_is_forgotten_as_other_things_are_read() {
        let mut sketch = ReadSketch::new();
        (0..1000).for_each(|_| read(&mut sketch, 5));
        for _ in 0..20 {
            for region in 0..HALVED_AFTER {
                read(&mut sketch, 1000 + u64::from(region % 100));
            }
        }
        assert!(!sketch.hottest(WAYS * SETS).contains(&5));
    }

    proptest! {
        #[test]
        fn any_reads_leave_a_ranking_without_repetition(reads in prop::collection::vec((0..1_u64 << 40, 1..4_u64 << 20), 0..300)) {
            let mut sketch = ReadSketch::new();
            for (offset, len) in reads {
                sketch.count(offset, len);
            }
            let all = sketch.hottest(SETS * WAYS);
            let distinct: std::collections::HashSet<_> = all.iter().collect();
            prop_assert_eq!(distinct.len(), all.len());
            prop_assert_eq!(sketch.hottest(7), &all[..all.len().min(7)]);
        }
    }
}
