//! What a node knows of the arbitration between two events.

use crate::core::types::*;

/// An ask that waits for its answer.
pub(in crate::core) struct Ask {
    pub(super) id: u64,
}

/// Of a resource whose writer an arbiter names.
pub(in crate::core) struct Arbitration {
    pub(super) ask: Option<Ask>,
}

impl Arbitration {
    pub(in crate::core) fn new(_config: ArbitrationConfig) -> Arbitration {
        Arbitration { ask: None }
    }
}
