//! What an administrator sees of the arbitration.

use serde::Serialize;

use crate::core::replica::Replica;
use crate::core::types::*;

#[derive(Clone, Debug, Serialize)]
pub struct ArbitrationStatus {
    /// The key at the arbiter; none before the first sync.
    pub resource_id: Option<String>,
    pub epoch: u64,
    pub promised: u64,
    /// What this node goes by.
    pub configuration: Option<Configuration>,
    /// The peer's confirmation is waited for already, while the register does not name it in sync yet.
    pub joint: bool,
    /// Left of the follower's word, at the Primary.
    pub lease_seconds: Option<f64>,
    /// Left of this node's own word not to campaign.
    pub promise_seconds: Option<f64>,
    pub want: Option<&'static str>,
    pub want_seconds: Option<f64>,
    /// The arbiter is being asked.
    pub asking: bool,
    pub suspended: Option<&'static str>,
    /// What is waited for, and since when, for people.
    pub why: Option<String>,
    /// Why this node is Primary no more, where the arbitration ended that.
    pub superseded: Option<String>,
}

impl Replica {
    pub(in crate::core) fn arbitration_status(&self, _now: Time) -> Option<ArbitrationStatus> {
        let arbitration = self.arbitration.as_ref()?;
        Some(ArbitrationStatus {
            resource_id: self.resource_id_text(),
            epoch: self.superblock.epoch,
            promised: self.superblock.promised,
            configuration: None,
            joint: false,
            lease_seconds: None,
            promise_seconds: None,
            want: None,
            want_seconds: None,
            asking: arbitration.ask.is_some(),
            suspended: None,
            why: None,
            superseded: None,
        })
    }
}
