//! A node's clock (CLOCK_BOOTTIME): it has an origin and a rate of its own, and stands still with a paused machine.

use _engine::core::Time;

const MILLION: i128 = 1_000_000;

#[derive(Clone, Copy)]
pub struct Clock {
    /// It showed `shown` at this time of the world, and goes on from then: a time to come means that it stands still.
    since: Time,
    shown: Time,
    /// How much too fast it is, in millionths.
    drift_ppm: i32,
}

impl Clock {
    pub fn new(now: Time, origin: Time, drift_ppm: i32) -> Clock {
        Clock {
            since: now,
            shown: now + origin,
            drift_ppm,
        }
    }

    pub fn shows(&self, now: Time) -> Time {
        let passed = i128::from(now.saturating_sub(self.since));
        self.shown + (passed * (MILLION + i128::from(self.drift_ppm)) / MILLION) as Time
    }

    /// How long the world has to wait until the clock shows `at`.
    pub fn wait(&self, now: Time, at: Time) -> Time {
        let left = i128::from(at.saturating_sub(self.shows(now)));
        let rate = MILLION + i128::from(self.drift_ppm);
        let span = ((left * MILLION + rate - 1) / rate) as Time;
        span + self.since.saturating_sub(now)
    }

    /// The machine is paused: nothing in it sees the time that passes.
    pub fn stand_still(&mut self, now: Time, until: Time) {
        self.shown = self.shows(now);
        self.since = self.since.max(until);
    }
}
