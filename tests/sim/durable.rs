//! What a node's metadata say, should everything stop at this instant: the inputs of the next handshake.

use _engine::core::handshake::{decide, Direction, Scope, Side};
use _engine::core::ReplicaMetadata;
use _engine::meta::{self, Bitmap, Layout, Superblock, EXTENT_BYTES, PAGE_BYTES};
use _engine::wire::{Generations, Intent, NodeState, Role, SplitBrainPolicy};

use crate::disk::PAGE;

pub struct Durable {
    pub superblock: Superblock,
    layout: Layout,
    bitmap: Bitmap,
    intent: Bitmap,
}

impl Durable {
    /// # Errors
    /// When neither copy of the superblock can be read.
    pub fn read(bytes: &[u8], layout: Layout) -> Result<Durable, String> {
        let page = |offset: u64| &bytes[offset as usize..offset as usize + PAGE_BYTES];
        let [first, second] =
            [0, 1].map(|copy| Superblock::decode(page(layout.superblock_offset(copy))));
        let (superblock, _) = meta::choose(first, second).map_err(|error| error.to_string())?;
        // A torn page counts as all set: `load_page` sees to it.
        let load = |mut bitmap: Bitmap, offset: u64, pages: usize| {
            for index in 0..pages {
                if let Ok(bytes) = page(offset + (index * PAGE_BYTES) as u64).try_into() {
                    bitmap.load_page(index, bytes);
                }
            }
            bitmap
        };
        let bitmap = Bitmap::new(layout.blocks());
        let intent = Bitmap::new_intent(layout.extents());
        Ok(Durable {
            bitmap: load(bitmap, layout.bitmap_offset(0), layout.bitmap_pages()),
            intent: load(intent, layout.intent_offset(), layout.intent_pages()),
            superblock,
            layout,
        })
    }

    /// A copy for a replica to start from.
    pub fn to_metadata(&self) -> ReplicaMetadata {
        let copy = |from: &Bitmap, mut to: Bitmap| {
            for index in 0..from.pages() {
                let page = from.encode_page(index);
                if let Ok(bytes) = (&page[..]).try_into() {
                    to.load_page(index, bytes);
                }
            }
            to
        };
        ReplicaMetadata {
            superblock: self.superblock.clone(),
            layout: self.layout,
            bitmaps: vec![copy(&self.bitmap, Bitmap::new(self.bitmap.len()))],
            intent: copy(&self.intent, Bitmap::new_intent(self.intent.len())),
        }
    }

    fn side(&self) -> Side {
        let (superblock, record) = (&self.superblock, &self.superblock.peers[0]);
        let full_sync = record.full_sync;
        Side {
            name: superblock.node.clone(),
            state: NodeState {
                role: Role::Secondary,
                disk: superblock.disk,
                generations: Generations {
                    current: superblock.current,
                    bitmap: record.bitmap_generation,
                    history: superblock.history,
                },
                dirty_blocks: if full_sync {
                    self.bitmap.len()
                } else {
                    self.bitmap.count()
                },
                suspect_extents: self.intent.count(),
                full_sync,
                crashed_primary: superblock.role_primary && !superblock.clean,
                last_primary: superblock.last_primary,
                epoch: superblock.epoch,
                promised: superblock.promised,
                diverged_at_s: superblock.diverged_at_s,
                changed_at_s: superblock.changed_at_s,
                resuming: false,
                handshake: true,
            },
            resource_id: superblock.resource_id,
            block_size_bytes: superblock.block_size_bytes,
            intent: Intent::Replicate,
            policy: SplitBrainPolicy::Manual,
            priority: 0,
        }
    }

    fn marks(&self, page: usize) -> bool {
        let offset = page as u64 * PAGE;
        self.superblock.peers[0].full_sync
            || self
                .bitmap
                .test(offset / u64::from(self.superblock.block_size_bytes))
            || self.intent.test(offset / EXTENT_BYTES)
    }
}

/// What would be compared if both nodes died now and met again.
pub enum Prospect {
    Nothing,
    /// Blocks with a mark: of both sides, or of one alone.
    Marked([bool; 2]),
    /// All of them, or none before a person decides.
    Safe,
}

pub fn prospect(a: &Durable, b: &Durable) -> (&'static str, Prospect) {
    let verdict = decide(&a.side(), &b.side());
    // A target that never had data adds no marks of its own.
    let counts = |durable: &Durable, source: bool| source || durable.superblock.current != 0;
    let prospect = match verdict.direction {
        Direction::Established => Prospect::Nothing,
        Direction::Source(Scope::Marked) => Prospect::Marked([true, counts(b, false)]),
        Direction::Target(Scope::Marked) => Prospect::Marked([counts(a, false), true]),
        _ => Prospect::Safe,
    };
    (verdict.rule, prospect)
}

/// Whether a difference in this page would be found.
pub fn would_be_found(prospect: &Prospect, a: &Durable, b: &Durable, page: usize) -> bool {
    match prospect {
        Prospect::Nothing => false,
        Prospect::Marked(count) => count[0] && a.marks(page) || count[1] && b.marks(page),
        Prospect::Safe => true,
    }
}
