//! What a split brain's victim saves, how long that takes, and what must be true when it gives way (I6).

use std::collections::BTreeMap;

use _engine::core::*;
use _engine::wire::DiskState;

use crate::disk::{Stamp, PAGE, PAGES};
use crate::world::{Happening, Part, World, MS, NAMES};

/// A write made by one node alone, while the data have split, carries the node in its number.
pub fn apart_stamp(node: usize, number: u64) -> Stamp {
    1 << 40 | (node as u64) << 32 | number
}

/// The node that made a write alone, if it was one.
pub fn apart_writer(stamp: Stamp) -> Option<usize> {
    (stamp >> 40 == 1).then_some((stamp >> 32 & 0xFF) as usize)
}

type Bundle = BTreeMap<usize, Stamp>;

/// A bundle that is being written, a few blocks at a time.
struct Saving {
    token: Token,
    left: Vec<u64>,
    bundle: Bundle,
}

/// A node's bundles, and where it stands as a victim.
#[derive(Default)]
pub struct Safe {
    saving: Option<Saving>,
    /// From the request for a bundle to the end of this connection nothing may be written to the disk.
    pub guarded: Option<ConnectionId>,
    /// The decision to go back to the common ancestor is on its way to the metadata.
    pub rewinding: bool,
    /// This node gave its changes up, and said so.
    pub gave_way: bool,
    saved: Vec<Bundle>,
}

impl World {
    pub(crate) fn save_bundle(&mut self, n: usize, token: Token, request: &BundleRequest) {
        let end = self.layout.blocks();
        let runs = &request.runs;
        let apart = runs
            .windows(2)
            .all(|pair| pair[0].first + pair[0].count < pair[1].first);
        let inside = runs
            .iter()
            .all(|run| run.count > 0 && run.first + run.count <= end);
        if !apart || !inside || runs.is_empty() {
            self.fail(format!(
                "I6: a bundle of {} with bad runs: {runs:?}",
                NAMES[n]
            ));
        }
        let blocks = runs.iter().flat_map(|run| run.first..run.first + run.count);
        let safe = &mut self.nodes[n].safe;
        safe.guarded = Some(self.last_connection);
        safe.saving = Some(Saving {
            token,
            left: blocks.rev().collect(),
            bundle: Bundle::new(),
        });
        self.note(|| format!("{}: a bundle of {runs:?} begins", NAMES[n]));
        self.save_on(n, token);
    }

    /// In a bundle's place: it ends, well or not, as one without blocks.
    pub(crate) fn record_discard(&mut self, n: usize, token: Token) {
        let safe = &mut self.nodes[n].safe;
        safe.guarded = Some(self.last_connection);
        safe.saving = Some(Saving {
            token,
            left: Vec::new(),
            bundle: Bundle::new(),
        });
        self.save_on(n, token);
    }

    fn save_on(&mut self, n: usize, token: Token) {
        let delay = 1 + self.rng.below(4 * MS);
        self.schedule(n, delay, Happening::Bundle { token });
    }

    /// The next blocks of a bundle are copied, or all are, or there is no room for them.
    pub(crate) fn bundle_goes_on(&mut self, n: usize, token: Token) {
        let failure = self.takes_failure(n, Part::Bundle);
        let some = 1 + self.rng.below(40) as usize;
        let pages = u64::from(self.settings.block_size) / PAGE;
        let node = &mut self.nodes[n];
        let Some(saving) = node.safe.saving.as_mut().filter(|s| s.token == token) else {
            return;
        };
        if failure.is_none() {
            for block in saving
                .left
                .split_off(saving.left.len().saturating_sub(some))
            {
                for page in (block * pages..(block + 1) * pages).map(|page| page as usize) {
                    if page < PAGES {
                        saving.bundle.insert(page, node.data.current(page));
                    }
                }
            }
            if !saving.left.is_empty() {
                return self.save_on(n, token);
            }
        }
        let done = node.safe.saving.take();
        let result = match (failure, done) {
            (None, Some(saving)) => {
                // Without a block it was the record of a discard.
                self.counts
                    .add("bundles", u64::from(!saving.bundle.is_empty()));
                node.safe.saved.push(saving.bundle);
                Ok(())
            }
            _ => Err("no room".to_owned()),
        };
        self.event(n, Event::BundleSaved { token, result });
    }

    pub(crate) fn drop_bundle(&mut self, n: usize, token: Token) {
        let safe = &mut self.nodes[n].safe;
        if safe.saving.take_if(|s| s.token == token).is_some() {
            self.counts.add("dropped bundles", 1);
        }
    }

    /// A connection ends at a node: what it was the victim of on it ends, too.
    pub(crate) fn victim_is_free(&mut self, n: usize, connection: ConnectionId) {
        let safe = &mut self.nodes[n].safe;
        safe.guarded.take_if(|id| *id == connection);
    }

    /// The node dies: half a bundle is none.
    pub(crate) fn safe_crashed(&mut self, n: usize) {
        let safe = &mut self.nodes[n].safe;
        let saving = safe.saving.take().is_some();
        let rewinding = safe.rewinding;
        safe.guarded = None;
        self.counts.add("bundles cut by a crash", u64::from(saving));
        self.counts
            .add("rewinds cut by a crash", u64::from(rewinding));
    }

    /// Its metadata changed under it, or it starts anew: the way back is durable, or it never was begun.
    pub(crate) fn rewind_settled(&mut self, n: usize, starts: bool) {
        if !self.nodes[n].safe.rewinding {
            return;
        }
        let disk = self.durable(n).map(|durable| durable.superblock.disk);
        let durable = disk == Some(DiskState::Inconsistent);
        let safe = &mut self.nodes[n].safe;
        if durable || starts {
            safe.rewinding = false;
            safe.gave_way = durable;
        }
    }

    pub(crate) fn check_guard(&mut self, n: usize) {
        if self.nodes[n].safe.guarded.is_some() {
            self.fail(format!(
                "I6: {} is written to after it was asked for its bundle and before its rewind",
                NAMES[n]
            ));
        }
    }

    /// An entry of the history: those about split brains are what the checks rest on.
    pub(crate) fn recorded(&mut self, n: usize, record: &Record) {
        let field = |name: &str| {
            let mut fields = record.fields.iter();
            fields
                .find(|(key, _)| *key == name)
                .map_or("", |(_, value)| value)
        };
        match record.what {
            "split_brain.kept" => self.counts.add("split brains kept", 1),
            "split_brain.resolved" if field("victim") == NAMES[n] => {
                let by = field("by");
                self.counts.add(&format!("resolutions by {by}"), 1);
                self.gives_way(n, field("bundle"));
            }
            _ => {}
        }
    }

    /// This node is about to lose its changes. I6: what is not the survivor's is in a bundle, or a person wanted none.
    fn gives_way(&mut self, n: usize, bundle: &str) {
        self.note(|| format!("{} gives way, bundle: {bundle}", NAMES[n]));
        let connection = self.last_connection;
        let safe = &mut self.nodes[n].safe;
        safe.gave_way = true;
        safe.rewinding = true;
        safe.guarded = Some(connection);
        let name = NAMES[n];
        if self.nodes[n].exported {
            return self.fail(format!("I6: {name} gives up its changes while it serves"));
        }
        if bundle == "none" {
            self.counts.add("resolutions without a bundle", 1);
            if !self.no_bundle_asked {
                self.fail(format!(
                    "I6: {name} saves nothing, and nobody asked for that"
                ));
            }
            return;
        }
        let (victim, survivor) = (&self.nodes[n], &self.nodes[1 - n]);
        let lost = (0..PAGES).find(|page| {
            let (here, there) = (victim.data.current(*page), survivor.data.current(*page));
            let own = apart_writer(here) == Some(n);
            let saved = |bundle: &Bundle| bundle.get(page) == Some(&here);
            // What the survivor wrote after it sent its marks is not in question: the victim never changed that.
            let late = || {
                let answered = self.answered.get(&there);
                apart_writer(there) == Some(1 - n)
                    && answered.is_none_or(|at| *at >= self.connected_at)
            };
            let needed = match bundle {
                "saved" => here != there && (own || !late()),
                _ => own,
            };
            needed && !victim.safe.saved.iter().any(saved)
        });
        if let Some(page) = lost {
            let stamp = self.nodes[n].data.current(page);
            self.fail(format!(
                "I6: {name} gives up page {page} ({stamp:#x}), which no bundle holds (bundle: {bundle})"
            ));
        }
    }
}
