//! How long things took, counted in fixed buckets: without memory, and without a clock of its own.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// The first bucket ends at 2^3 µs; each further one is twice as wide.
const FIRST_POWER: u32 = 3;
/// Buckets that have an end: the last one's is 2^24 µs, some 17 s.
const BOUNDED: usize = 22;

/// A count a bucket; what took longer than the last bound is in the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    buckets: [u64; BOUNDED + 1],
    sum_ns: u64,
}

impl Histogram {
    /// Counts something that took `ns` nanoseconds.
    pub fn record(&mut self, ns: u64) {
        let micros = ns.div_ceil(1000);
        let power = micros.next_power_of_two().trailing_zeros();
        let bucket = power.saturating_sub(FIRST_POWER) as usize;
        self.buckets[bucket.min(BOUNDED)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Up to which time, in seconds and including it, each bucket but the last counts.
pub fn bounds_seconds() -> [f64; BOUNDED] {
    std::array::from_fn(|bucket| (1_u64 << (FIRST_POWER as usize + bucket)) as f64 / 1e6)
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Histogram", 2)?;
        fields.serialize_field("buckets", &self.buckets)?;
        fields.serialize_field("sum_seconds", &(self.sum_ns as f64 / 1e9))?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket_of(ns: u64) -> usize {
        let mut histogram = Histogram::default();
        histogram.record(ns);
        assert_eq!(histogram.count(), 1);
        histogram.buckets.iter().position(|count| *count == 1).unwrap()
    }

    #[test]
    fn a_bound_belongs_to_the_bucket_that_it_ends() {
        for (bucket, bound) in bounds_seconds().into_iter().enumerate() {
            let ns = (bound * 1e9).round() as u64;
            assert_eq!(bucket_of(ns), bucket, "{ns} ns");
            assert_eq!(bucket_of(ns + 1), bucket + 1, "{ns} ns and one more");
        }
    }

    #[test]
    fn no_time_is_too_short_or_too_long() {
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(u64::MAX), BOUNDED);
        let mut longest = Histogram::default();
        longest.record(u64::MAX);
        longest.record(u64::MAX);
        assert_eq!((longest.count(), longest.sum_ns), (2, u64::MAX));
    }

    #[test]
    fn it_is_told_as_counts_and_a_sum() {
        let mut histogram = Histogram::default();
        histogram.record(8_000);
        histogram.record(1_500_000_000);
        let told = serde_json::to_value(histogram).unwrap();
        assert_eq!(
            told["buckets"].as_array().unwrap().len(),
            bounds_seconds().len() + 1
        );
        assert_eq!(
            (&told["buckets"][0], &told["buckets"][18]),
            (&1.into(), &1.into())
        );
        assert_eq!(told["sum_seconds"], 1.500008);
    }
}
