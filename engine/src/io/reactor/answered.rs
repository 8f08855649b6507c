//! What the application has seen of its requests: how long the answers took, and how many were errors.

use serde::Serialize;

use crate::core::Time;
use crate::front::nbd::Kind;
use crate::latency::Histogram;

/// Requests that were answered with an error.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Failed {
    reads: u64,
    writes: u64,
    flushes: u64,
    trims: u64,
    zeroes: u64,
}

/// Since the engine's start, from when a request was read from its client to when the answer was ready for it.
#[derive(Default)]
pub(super) struct Answered {
    reads: Histogram,
    writes: Histogram,
    flushes: Histogram,
    pub(super) failed: Failed,
}

impl Answered {
    /// A request was answered; one that failed says nothing of how long good ones take.
    pub(super) fn count(&mut self, kind: Kind, took: Time, failed: bool) {
        let (histogram, failures) = match kind {
            Kind::Read => (Some(&mut self.reads), &mut self.failed.reads),
            Kind::Write => (Some(&mut self.writes), &mut self.failed.writes),
            Kind::Flush => (Some(&mut self.flushes), &mut self.failed.flushes),
            Kind::Trim => (None, &mut self.failed.trims),
            Kind::WriteZeroes { .. } => (None, &mut self.failed.zeroes),
            // The core never sees these.
            Kind::Cache | Kind::BlockStatus { .. } => return,
        };
        if failed {
            *failures += 1;
        } else if let Some(histogram) = histogram {
            histogram.record(took);
        }
    }

    /// By their names in the status.
    pub(super) fn latency(&self) -> [(&'static str, &Histogram); 3] {
        [
            ("reads", &self.reads),
            ("writes", &self.writes),
            ("flushes", &self.flushes),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_counted_by_its_kind_and_not_timed() {
        let kinds = [
            Kind::Read,
            Kind::Write,
            Kind::Flush,
            Kind::Trim,
            Kind::WriteZeroes {
                no_hole: false,
                fast: false,
            },
        ];
        let mut answered = Answered::default();
        for (times, kind) in kinds.into_iter().enumerate() {
            for _ in 0..=times {
                answered.count(kind, 1_000_000, true);
            }
            answered.count(kind, 2_000_000, false);
        }
        let failed = serde_json::to_value(answered.failed).unwrap();
        let named = ["reads", "writes", "flushes", "trims", "zeroes"].map(|name| failed[name].as_u64());
        assert_eq!(named, [1, 2, 3, 4, 5].map(Some));
        let mut once = Histogram::default();
        once.record(2_000_000);
        assert!(answered.latency().into_iter().all(|(_, took)| *took == once));
    }
}
