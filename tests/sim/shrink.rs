//! Makes a failing plan short: leaves out steps, in ever smaller pieces, while it fails in the same way.

use std::time::{Duration, Instant};

use crate::plan::Plan;
use crate::run::run;

/// Patience for one plan.
const PATIENCE: Duration = Duration::from_secs(15);

/// The invariant, or the sort of trouble, that a violation's text begins with.
fn kind(violation: &str) -> &str {
    violation.split(':').next().unwrap_or(violation)
}

/// A shorter plan that violates the same as `plan`, which violated `why`.
pub fn shrink(plan: &Plan, why: &str) -> Plan {
    let began = Instant::now();
    let mut best = plan.clone();
    let mut piece = best.steps.len().div_ceil(2);
    while piece > 0 {
        let mut start = 0;
        while start < best.steps.len() && began.elapsed() < PATIENCE {
            let mut shorter = best.clone();
            shorter
                .steps
                .drain(start..(start + piece).min(best.steps.len()));
            let violation = run(&shorter, false).violation;
            if violation.is_some_and(|found| kind(&found) == kind(why)) {
                best = shorter;
            } else {
                start += piece;
            }
        }
        piece /= 2;
    }
    best
}
