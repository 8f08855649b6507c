//! What an administrator sees of the arbitration.

use serde::Serialize;

use super::judge::{self, Link, Want};
use super::state::{Arbitration, Stage};
use super::PEER;
use crate::core::replica::Replica;
use crate::core::types::*;
use crate::wire::Role;

#[derive(Clone, Debug, Serialize)]
pub struct ArbitrationStatus {
    /// The key at the arbiter; none before the first sync.
    pub resource_id: Option<String>,
    pub epoch: u64,
    pub promised: u64,
    /// What a Primary goes by.
    pub configuration: Option<Configuration>,
    /// The peer's confirmation is waited for already, while the register may not name it in sync yet.
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
    /// The peer has promised a higher epoch than this Primary's: only the arbiter lets it go on.
    pub fenced: bool,
    /// What is waited for, for people.
    pub why: Option<String>,
    /// Why this node is Primary no more, where the arbitration ended that.
    pub superseded: Option<String>,
}

fn seconds(from: Time, to: Time) -> f64 {
    to.saturating_sub(from) as f64 / 1e9
}

impl Replica {
    pub(in crate::core) fn arbitration_status(&self, now: Time) -> Option<ArbitrationStatus> {
        let a = self.arbitration.as_ref()?;
        let is_primary = self.role == Role::Primary;
        let suspended = match (self.is_suspended(), self.may_read()) {
            (true, false) => Some("all"),
            (true, true) => Some("writes"),
            (false, false) if is_primary && self.is_attached() => Some("all"),
            _ => None,
        };
        let left = |until: Time| (until > now).then(|| seconds(now, until));
        Some(ArbitrationStatus {
            resource_id: self.resource_id_text(),
            epoch: self.superblock.epoch,
            promised: self.superblock.promised,
            configuration: a.serving.clone(),
            joint: a.joint,
            lease_seconds: a.lease_until.and_then(left),
            promise_seconds: left(a.word_until).filter(|_| !is_primary && self.superblock.epoch > 0),
            want: a.want.and_then(|(want, _)| want.name()),
            want_seconds: a
                .want
                .filter(|(want, _)| want.name().is_some())
                .map(|(_, since)| seconds(since, now)),
            asking: a.ask.is_some(),
            suspended,
            fenced: self.is_fenced(),
            why: self.arbitration_why(a, now, suspended),
            superseded: a.superseded.clone(),
        })
    }

    fn arbitration_why(&self, a: &Arbitration, now: Time, suspended: Option<&str>) -> Option<String> {
        let peer = &self.peers[PEER];
        let name = &peer.name;
        let silent = match peer.last_contact {
            Some(at) => format!("{name} is silent for {:.1} s", seconds(at, now)),
            None => format!("{name} was not heard of since this start"),
        };
        if let Some(suspended) = suspended {
            let what = if suspended == "all" {
                "reads and writes wait"
            } else {
                "writes wait"
            };
            if a.lost {
                return Some(format!("{what}: the arbiter has lost its record, and {silent}"));
            }
            let serving = a.serving.as_ref();
            if serving.is_some_and(|serving| judge::is_unadopted(&self.reign(a, serving)))
                && !self.is_fenced()
            {
                return Some(format!(
                    "{what}: the arbiter has its record again, and {name} must be in that epoch first; {silent}"
                ));
            }
            if self.is_fenced() {
                return Some(format!(
                    "{what}: {name} has promised epoch {}; only the arbiter says who is Primary",
                    a.seen
                ));
            }
            if peer.is_connected() {
                return Some(format!("{what}: {name} is connected, and does not follow yet"));
            }
            return Some(format!("{what}: {silent}"));
        }
        if a.lost && self.role == Role::Primary {
            return Some("the arbiter has lost its record".into());
        }
        let campaign = a.campaign.as_ref()?;
        let cause = match (campaign.want, self.link_view()) {
            (Want::Promote, Link::Gone) => silent,
            (Want::Resume, _) => format!("{} was Primary before it ended", self.config.node),
            (Want::Create, _) => "the arbiter has never heard of this resource".into(),
            _ => format!("{} was asked to be Primary", self.config.node),
        };
        Some(match &campaign.stage {
            Stage::Bound(_) => format!(
                "{cause}; this node's word not to campaign holds for {:.1} s more",
                seconds(now, a.word_until)
            ),
            Stage::Paused(until) => format!(
                "{cause}; {}; asked again in {:.1} s",
                a.told.as_deref().unwrap_or("refused"),
                seconds(now, *until)
            ),
            Stage::Promising(_) | Stage::Won => format!("{cause}; the metadata are being written"),
            Stage::Begin | Stage::Reading | Stage::Swapping => cause,
        })
    }
}
