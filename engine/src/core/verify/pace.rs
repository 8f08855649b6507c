//! How much a verify may do at a time: what the application waits for its answers decides.

use std::collections::HashMap;

use crate::core::types::*;

/// Chunks under way while nobody else uses the disks.
pub(super) const WINDOW_MAX: usize = 32;
/// The application counts as idle this long after its last request.
const BUSY_FOR: Time = 200_000_000;
/// What it waits is looked at so often.
const PERIOD: Time = 100_000_000;
/// It may wait half as long again as it does without, and this more: less is noise.
const SLACK: Time = 50_000;
/// What it waits without us is forgotten by this share a period, for it changes.
const FORGETS: Time = 64;
/// With one chunk under way and the application still too slow: after each, so many times what that took.
const RESTS: Time = 3;

pub(super) struct Pace {
    window: usize,
    /// The application's mean wait while it was the least disturbed.
    calm: Option<Time>,
    rests: bool,
    asked: HashMap<RequestId, Time>,
    last: Option<Time>,
    period_ends: Time,
    waited: Time,
    answers: Time,
}

impl Pace {
    pub(super) fn new() -> Pace {
        Pace {
            // The first look tells how it is almost without us.
            window: 1,
            calm: None,
            rests: false,
            asked: HashMap::new(),
            last: None,
            period_ends: 0,
            waited: 0,
            answers: 0,
        }
    }

    pub(super) fn asked(&mut self, id: RequestId, now: Time) {
        if self.last.is_none_or(|at| now >= at + BUSY_FOR) {
            (self.window, self.rests) = (1, false);
            (self.period_ends, self.waited, self.answers) = (now + PERIOD, 0, 0);
        }
        self.last = Some(now);
        self.asked.insert(id, now);
    }

    pub(super) fn answered(&mut self, id: RequestId, now: Time) {
        if let Some(since) = self.asked.remove(&id) {
            self.waited += now - since;
            self.answers += 1;
        }
        if now >= self.period_ends && self.answers > 0 {
            self.judge(self.waited / self.answers);
            (self.period_ends, self.waited, self.answers) = (now + PERIOD, 0, 0);
        }
    }

    fn judge(&mut self, mean: Time) {
        let calm = self.calm.map_or(mean, |calm| mean.min(calm + calm / FORGETS));
        self.calm = Some(calm);
        if mean > calm + calm / 2 + SLACK {
            self.rests = self.window == 1;
            self.window = (self.window / 2).max(1);
        } else if self.rests {
            self.rests = false;
        } else {
            self.window = (self.window + 1).min(WINDOW_MAX);
        }
    }

    /// Chunks that may be under way now.
    pub(super) fn window(&self, now: Time) -> usize {
        if self.is_busy(now) {
            self.window
        } else {
            WINDOW_MAX
        }
    }

    /// How long to rest after a chunk that took so long.
    pub(super) fn rest(&self, took: Time, now: Time) -> Time {
        if self.rests && self.is_busy(now) {
            RESTS * took
        } else {
            0
        }
    }

    fn is_busy(&self, now: Time) -> bool {
        !self.asked.is_empty() || self.last.is_some_and(|at| now < at + BUSY_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Time = 1_000_000;

    /// So many requests, one after the other, that wait so long each.
    fn serve(pace: &mut Pace, now: &mut Time, requests: u64, wait: Time) {
        for _ in 0..requests {
            let id = RequestId(*now);
            pace.asked(id, *now);
            *now += wait;
            pace.answered(id, *now);
        }
    }

    #[test]
    fn nobody_there_is_all_the_room() {
        let pace = Pace::new();
        assert_eq!((pace.window(5), pace.rest(MS, 5)), (WINDOW_MAX, 0));
    }

    #[test]
    fn it_grows_while_the_application_does_not_notice_and_shrinks_when_it_does() {
        let (mut pace, mut now) = (Pace::new(), MS);
        serve(&mut pace, &mut now, 50, MS);
        assert_eq!(pace.window(now), 1, "a careful start");
        serve(&mut pace, &mut now, 1100, MS);
        let grown = pace.window(now);
        assert!(grown >= 10, "{grown}");
        serve(&mut pace, &mut now, 110, 2 * MS);
        assert!(pace.window(now) <= grown / 2);
        serve(&mut pace, &mut now, 500, 4 * MS);
        assert_eq!(pace.window(now), 1);
        assert_eq!(pace.rest(MS, now), 3 * MS, "and there is no less than one");
        serve(&mut pace, &mut now, 220, MS);
        assert_eq!(pace.rest(MS, now), 0);
    }

    #[test]
    fn a_load_that_has_become_heavier_is_the_new_measure() {
        let (mut pace, mut now) = (Pace::new(), MS);
        serve(&mut pace, &mut now, 300, MS);
        // It waits longer whatever we do: that is not ours.
        serve(&mut pace, &mut now, 3000, 3 * MS);
        assert!(pace.window(now) > 1);
    }

    #[test]
    fn an_application_that_rests_leaves_the_disks_and_finds_them_free() {
        let (mut pace, mut now) = (Pace::new(), MS);
        serve(&mut pace, &mut now, 300, MS);
        now += 2 * BUSY_FOR;
        assert_eq!(pace.window(now), WINDOW_MAX);
        pace.asked(RequestId(0), now);
        assert_eq!(pace.window(now), 1);
        now += 10 * BUSY_FOR;
        assert_eq!(pace.window(now), 1, "one that waits for so long is no idle one");
    }
}
