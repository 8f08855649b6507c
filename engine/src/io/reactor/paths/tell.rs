//! What is told of the paths to a peer.

use serde_json::{json, Value};

use super::Reactor;
use crate::core::{PeerSlot, Severity};
use crate::session::{Change, PathIndex, PathState};

impl Reactor {
    pub(super) fn tell_of_path(&mut self, session: u64, path: PathIndex, change: Change) {
        let Some(several) = self.sessions.get(&session) else {
            return;
        };
        let way = format!(
            "path {} to {}",
            self.address_of(several.slot, path),
            self.peers[several.slot].name
        );
        match change {
            Change::Up => self.notice(Severity::Info, "path.up", format!("{way} is up")),
            Change::Active => self.notice(Severity::Info, "path.active", format!("{way} is in use")),
            Change::Down { why } => {
                self.notice(Severity::Warning, "path.down", format!("{way} is down: {why}"));
            }
        }
        self.status_wanted = true;
    }

    /// The peer's address of this path. Who was dialled counts its paths as its peer has addresses for it.
    fn address_of(&self, slot: PeerSlot, path: PathIndex) -> String {
        match self.peers[slot].addresses.get(path) {
            Some(address) => address.to_string(),
            None => format!("number {}", path + 1),
        }
    }

    /// The ways to a peer, for the status.
    pub(in crate::io::reactor) fn path_status(&self, slot: PeerSlot, connected: bool) -> Value {
        if let Some(several) = self.sessions.values().find(|several| several.slot == slot) {
            let paths = (0..several.machine.paths()).map(|path| {
                let report = several.machine.report(path);
                let since = report
                    .since
                    .map(|since| self.now.saturating_sub(since) as f64 / 1e9);
                let why = (report.state == PathState::Down).then_some(report.why);
                json!({
                    "address": self.address_of(slot, path),
                    "state": report.state,
                    "since_seconds": since,
                    "why": why,
                })
            });
            return paths.collect();
        }
        let used = (self.connections.values())
            .find(|connection| connection.slot == slot && connection.closing.is_none() && connected)
            .map(|connection| connection.path);
        let paths = (0..self.peers[slot].addresses.len()).map(|path| {
            let (state, why) = match used {
                Some(used) if used == path => (PathState::Active, None),
                Some(_) => (
                    PathState::Down,
                    Some("the other node keeps to one connection: it has one address of this node"),
                ),
                None => (PathState::Down, None),
            };
            json!({
                "address": self.address_of(slot, path),
                "state": state,
                "since_seconds": null,
                "why": why,
            })
        });
        paths.collect()
    }
}
