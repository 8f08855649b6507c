//! Makes a failing plan short: leaves out steps, in ever smaller pieces, while it still fails.

use std::time::{Duration, Instant};

use crate::plan::Plan;
use crate::run::run;

/// Patience for one plan.
const PATIENCE: Duration = Duration::from_secs(15);

/// A shorter plan that also violates something; not always the same invariant.
pub fn shrink(plan: &Plan) -> Plan {
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
            if run(&shorter, false).violation.is_some() {
                best = shorter;
            } else {
                start += piece;
            }
        }
        piece /= 2;
    }
    best
}
