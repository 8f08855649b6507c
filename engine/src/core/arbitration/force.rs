//! `--force`: a person answers for what the arbiter cannot say.

use super::judge::Link;
use super::PEER;
use crate::core::replica::Replica;
use crate::core::types::*;

impl Replica {
    fn forced_configuration(&self, with_peer: bool) -> Configuration {
        let a = self.arbitration.as_ref();
        let held = a.and_then(|a| a.held.as_ref()).map_or(0, |held| held.epoch);
        let seen = a.map_or(0, |a| a.seen);
        let superblock = &self.superblock;
        let mut in_sync = std::collections::BTreeSet::from([self.config.node.clone()]);
        if with_peer {
            in_sync.insert(self.peers[PEER].name.clone());
        }
        Configuration {
            epoch: superblock.epoch.max(superblock.promised).max(seen).max(held) + 1,
            primary: self.config.node.clone(),
            in_sync,
        }
    }

    /// A node becomes Primary without the arbiter's word.
    pub(super) fn force_reign(&mut self, command: Option<CommandId>, alone: bool) {
        let with_peer = !alone && self.link_is(Link::Equal);
        let configuration = self.forced_configuration(with_peer);
        self.withdraw();
        self.superblock.epoch = configuration.epoch;
        self.superblock.promised = configuration.epoch;
        if let Some(a) = self.arbitration.as_mut() {
            a.campaign = None;
            a.entering = Some(configuration);
            a.forcing = true;
        }
        self.become_primary(command, alone);
    }

    /// A Primary that waits for the arbiter goes on without its word, and without its peer.
    pub(in crate::core) fn force_on(&mut self, command: CommandId) {
        let configuration = self.forced_configuration(false);
        let node = self.config.node.clone();
        let text = format!(
            "{node} goes on as Primary by force, without the arbiter's word: {}",
            configuration.text()
        );
        self.record(
            "role.forced",
            text.clone(),
            Some(command),
            None,
            self.generation_fields(),
        );
        self.notice(Severity::Warning, "role.forced", text);
        self.superblock.forced = true;
        self.withdraw();
        if let Some(a) = self.arbitration.as_mut() {
            a.forcing = true;
        }
        if !self.generation_is_tracked() {
            self.open_generation("goes on by force");
        }
        self.enter(configuration, Some(command));
    }
}
