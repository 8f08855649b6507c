//! The superblock: what a node knows about its copy of a resource.
//!
//! Two copies, one page each, written in turn: `sequence % 2` names the copy. A write that is cut short
//! damages the older one only, so at every instant at least one copy is whole, and it is the newest that was
//! ever reported as written, or newer.
//!
//! # Invariants
//!
//! * `sequence` grows by one with every write; the valid copy with the higher one counts.
//! * `epoch` and `promised` never go down, and `epoch <= promised`.
//! * `resource`, `node`, `data_size_bytes`, `block_size_bytes` and `peer_slots` say where everything lies and
//!   whose it is; they don't change in the life of the metadata (a resize makes a new layout).
//! * `resource_id` is zero until the first full sync has a source, then never changes; but the victim of a split brain
//!   whose common ancestor is older than the bitmaps becomes like a new disk, without id, generations and history.
//! * `disk` is never Diskless: that is a state of the moment.
//! * A peer keeps its slot: its bitmap lies there.
//!
//! # Format, version 1
//!
//! Integers are little-endian; names are UTF-8, padded with zeroes; times are seconds since 1970 by the node's clock.
//!
//! | offset | size    | field            |                                                               |
//! |--------|---------|------------------|---------------------------------------------------------------|
//! | 0      | 8       | magic            | `blkpair` and a zero byte                                     |
//! | 8      | 2       | version          | 1                                                             |
//! | 10     | 6       |                  | reserved                                                      |
//! | 16     | 16      | check            | XXH3-128 of the page with this field zero                     |
//! | 32     | 8       | sequence         | only grows                                                    |
//! | 40     | 8       | epoch            | only grows                                                    |
//! | 48     | 8       | promised         | only grows                                                    |
//! | 56     | 8       | data_size_bytes  | a multiple of the block, at least one                         |
//! | 64     | 4       | block_size_bytes | power of two, 4 KiB to 1 MiB                                  |
//! | 68     | 4       | extent_bytes     | of the write-intent log: 4 MiB                                |
//! | 72     | 4       | peer_slots       | slots the layout has room for, at most 7                      |
//! | 76     | 1       | disk             | 1 Inconsistent, 2 Outdated, 3 Consistent, 4 UpToDate          |
//! | 77     | 1       | peers            | number of peer records, at most `peer_slots`                  |
//! | 78     | 1       | resource length  | bytes of `resource`, 1 to 64                                  |
//! | 79     | 1       | node length      | bytes of `node`, 1 to 64                                      |
//! | 80     | 4       | flags            | 1 role_primary, 2 clean, 4 last_primary, 8 forced             |
//! | 84     | 4       |                  | reserved                                                      |
//! | 88     | 16      | resource_id      |                                                               |
//! | 104    | 8       | current          | generation of the data, 0 none                                |
//! | 112    | 8 × 8   | history          | earlier generations, newest first, 0 none                     |
//! | 176    | 8       | diverged_at_s    | when `current` was opened without a peer, 0 unknown           |
//! | 184    | 8       | changed_at_s     | when a change was last noted, 0 unknown                       |
//! | 192    | 64      | resource         |                                                               |
//! | 256    | 64      | node             |                                                               |
//! | 320    | 192     |                  | reserved                                                      |
//! | 512    | 7 × 256 | peer records     | one a slot, see below; unused ones are zero                   |
//! | 2304   | 1792    |                  | reserved                                                      |
//!
//! | offset | size | field of a peer record |                                                           |
//! |--------|------|------------------------|-----------------------------------------------------------|
//! | 0      | 1    | name length            | 0: a slot without a peer                                  |
//! | 1      | 1    | flags                  | 1 full_sync, 2 split_brain                                |
//! | 2      | 6    |                        | reserved                                                  |
//! | 8      | 8    | bitmap_generation      | since when changes are tracked for this peer, 0 none      |
//! | 16     | 64   | name                   |                                                           |
//! | 80     | 176  |                        | reserved                                                  |
//!
//! Magic, version and check keep their place, size and meaning in every later version, so that an older build
//! can tell newer metadata from damaged. Reserved bytes and unknown flags are zero; a page that is whole but
//! has others was written by a newer build and is refused like a newer version: rewriting it would lose them.

use std::fmt;

use xxhash_rust::xxh3::xxh3_128;

use super::layout::{block_size_is_valid, Layout, DATA_SIZE_MAX, EXTENT_BYTES, PAGE_BYTES, PEER_SLOTS_MAX};
use crate::payload::{Buffer, Payload};
use crate::wire::{DiskState, HISTORY_LEN, NAME_MAX};

/// The version that this build writes, and the only one that it reads.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"blkpair\0";
const PEERS_OFFSET: usize = 512;
const PEER_BYTES: usize = 256;

mod flag {
    pub const ROLE_PRIMARY: u32 = 1 << 0;
    pub const CLEAN: u32 = 1 << 1;
    pub const LAST_PRIMARY: u32 = 1 << 2;
    pub const FORCED: u32 = 1 << 3;
    pub const ALL: u32 = (1 << 4) - 1;

    pub const PEER_FULL_SYNC: u8 = 1 << 0;
    pub const PEER_SPLIT_BRAIN: u8 = 1 << 1;
    pub const PEER_ALL: u8 = (1 << 2) - 1;
}

/// See the table and the invariants above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Counts the writes; decides which copy is the newest.
    pub sequence: u64,
    pub resource: String,
    /// The node that this copy belongs to.
    pub node: String,
    /// All zero while the resource has never had data.
    pub resource_id: [u8; 16],
    pub data_size_bytes: u64,
    pub block_size_bytes: u32,
    /// Slots the layout has room for.
    pub peer_slots: u32,
    /// Generation of the data, 0 for none.
    pub current: u64,
    /// Earlier generations, newest first.
    pub history: [u64; HISTORY_LEN],
    /// Any state but Diskless.
    pub disk: DiskState,
    /// Primary when this was written: after a crash, was Primary.
    pub role_primary: bool,
    /// Stopped in order: no write was under way, the write-intent log is to be believed as it is.
    pub clean: bool,
    /// The last Primary that this node knows of was itself.
    pub last_primary: bool,
    /// Promoted by force at the current generation.
    pub forced: bool,
    /// Configuration epoch, and the highest one promised.
    pub epoch: u64,
    pub promised: u64,
    /// By this node's clock, seconds since 1970, 0 unknown: when it went on alone at `current`, and when it last
    /// noted a change.
    pub diverged_at_s: u64,
    pub changed_at_s: u64,
    /// By slot.
    pub peers: Vec<PeerRecord>,
}

/// What is tracked for one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerRecord {
    /// Empty for a slot without a peer.
    pub name: String,
    /// The generation since which the bitmap records changes, 0 for none.
    pub bitmap_generation: u64,
    /// Everything is out of sync, whatever the bitmap says.
    pub full_sync: bool,
    /// The last handshake found a split brain. For status after a restart; no verdict looks at it.
    pub split_brain: bool,
}

/// Why a copy cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    #[error("no blockpair superblock")]
    Absent,
    #[error("damaged superblock: {0}")]
    Damaged(String),
    #[error("superblock of format version {version}; this build knows version {VERSION}")]
    Newer { version: u16 },
}

impl Superblock {
    /// Of a resource that never had data: everything is out of sync with every peer. `peers`: names, by slot.
    pub fn blank(resource: &str, node: &str, peers: &[String], layout: &Layout, sequence: u64) -> Superblock {
        let peer = |name: &String| PeerRecord {
            name: name.clone(),
            bitmap_generation: 0,
            full_sync: true,
            split_brain: false,
        };
        Superblock {
            sequence,
            resource: resource.into(),
            node: node.into(),
            resource_id: [0; 16],
            data_size_bytes: layout.data_size_bytes(),
            block_size_bytes: layout.block_size_bytes(),
            peer_slots: layout.peer_slots() as u32,
            current: 0,
            history: [0; HISTORY_LEN],
            disk: DiskState::Inconsistent,
            role_primary: false,
            clean: true,
            last_primary: false,
            forced: false,
            epoch: 0,
            promised: 0,
            diverged_at_s: 0,
            changed_at_s: 0,
            peers: peers.iter().map(peer).collect(),
        }
    }

    pub fn layout(&self) -> Layout {
        Layout::new(
            self.data_size_bytes,
            self.block_size_bytes,
            self.peer_slots as usize,
        )
    }

    /// The page to write, [`PAGE_BYTES`] long, into copy [`next_copy`]`(self.sequence)`.
    ///
    /// # Panics
    /// When a value breaks the invariants: a name that is too long, more peers than slots, a Diskless disk.
    pub fn encode(&self) -> Payload {
        if let Err(reason) = self.check() {
            panic!("superblock not written: {reason}");
        }
        let mut buffer = Buffer::zeroed(PAGE_BYTES);
        let page = buffer.as_mut_slice();
        put(page, 0, &MAGIC);
        put(page, 8, &VERSION.to_le_bytes());
        put(page, 32, &self.sequence.to_le_bytes());
        put(page, 40, &self.epoch.to_le_bytes());
        put(page, 48, &self.promised.to_le_bytes());
        put(page, 56, &self.data_size_bytes.to_le_bytes());
        put(page, 64, &self.block_size_bytes.to_le_bytes());
        put(page, 68, &(EXTENT_BYTES as u32).to_le_bytes());
        put(page, 72, &self.peer_slots.to_le_bytes());
        page[76] = match self.disk {
            DiskState::Diskless => unreachable!("refused by the check"),
            DiskState::Inconsistent => 1,
            DiskState::Outdated => 2,
            DiskState::Consistent => 3,
            DiskState::UpToDate => 4,
        };
        page[77] = self.peers.len() as u8;
        page[78] = self.resource.len() as u8;
        page[79] = self.node.len() as u8;
        let flags = [
            (self.role_primary, flag::ROLE_PRIMARY),
            (self.clean, flag::CLEAN),
            (self.last_primary, flag::LAST_PRIMARY),
            (self.forced, flag::FORCED),
        ];
        let flags = flags
            .iter()
            .filter(|(on, _)| *on)
            .fold(0, |all, (_, bit)| all | bit);
        put(page, 80, &flags.to_le_bytes());
        put(page, 88, &self.resource_id);
        put(page, 104, &self.current.to_le_bytes());
        for (index, generation) in self.history.iter().enumerate() {
            put(page, 112 + 8 * index, &generation.to_le_bytes());
        }
        put(page, 176, &self.diverged_at_s.to_le_bytes());
        put(page, 184, &self.changed_at_s.to_le_bytes());
        put(page, 192, self.resource.as_bytes());
        put(page, 256, self.node.as_bytes());
        for (slot, peer) in self.peers.iter().enumerate() {
            let record = &mut page[PEERS_OFFSET + slot * PEER_BYTES..][..PEER_BYTES];
            record[0] = peer.name.len() as u8;
            let flags = [
                (peer.full_sync, flag::PEER_FULL_SYNC),
                (peer.split_brain, flag::PEER_SPLIT_BRAIN),
            ];
            record[1] = flags
                .iter()
                .filter(|(set, _)| *set)
                .fold(0, |all, (_, flag)| all | flag);
            put(record, 8, &peer.bitmap_generation.to_le_bytes());
            put(record, 16, peer.name.as_bytes());
        }
        let check = xxh3_128(page);
        put(page, 16, &check.to_le_bytes());
        let payload = buffer.freeze();
        debug_assert_eq!(Superblock::decode(&payload).as_ref(), Ok(self));
        payload
    }

    /// Reads one copy; trusts nothing.
    pub fn decode(page: &[u8]) -> Result<Superblock, SuperblockError> {
        if page.len() != PAGE_BYTES {
            return Err(damaged(format!("{} bytes instead of {PAGE_BYTES}", page.len())));
        }
        if page[..8] != MAGIC {
            return Err(SuperblockError::Absent);
        }
        let mut unchecked = [0; PAGE_BYTES];
        unchecked.copy_from_slice(page);
        unchecked[16..32].fill(0);
        if xxh3_128(&unchecked).to_le_bytes() != page[16..32] {
            return Err(damaged("its checksum is wrong"));
        }
        // From here on the page is as somebody wrote it; the question is only whether we understand it.
        let version = u16::from_le_bytes(take(page, 8));
        match version {
            0 => return Err(damaged("format version 0")),
            VERSION => {}
            _ => return Err(SuperblockError::Newer { version }),
        }
        let flags = u32::from_le_bytes(take(page, 80));
        let disk = match page[76] {
            1 => DiskState::Inconsistent,
            2 => DiskState::Outdated,
            3 => DiskState::Consistent,
            4 => DiskState::UpToDate,
            other => return Err(damaged(format!("disk state {other}"))),
        };
        let extent_bytes = u32::from_le_bytes(take(page, 68));
        if u64::from(extent_bytes) != EXTENT_BYTES {
            return Err(damaged(format!("extents of {extent_bytes} bytes")));
        }
        let mut history = [0; HISTORY_LEN];
        for (index, generation) in history.iter_mut().enumerate() {
            *generation = u64::from_le_bytes(take(page, 112 + 8 * index));
        }
        let count = usize::from(page[77]);
        if count > PEER_SLOTS_MAX {
            return Err(damaged(format!("{count} peers")));
        }
        let mut peers = Vec::with_capacity(count);
        for slot in 0..count {
            let record = &page[PEERS_OFFSET + slot * PEER_BYTES..][..PEER_BYTES];
            if record[1] & !flag::PEER_ALL != 0 {
                return Err(SuperblockError::Newer { version });
            }
            peers.push(PeerRecord {
                name: name(record, 16, record[0])?,
                bitmap_generation: u64::from_le_bytes(take(record, 8)),
                full_sync: record[1] & flag::PEER_FULL_SYNC != 0,
                split_brain: record[1] & flag::PEER_SPLIT_BRAIN != 0,
            });
        }
        let superblock = Superblock {
            sequence: u64::from_le_bytes(take(page, 32)),
            resource: name(page, 192, page[78])?,
            node: name(page, 256, page[79])?,
            resource_id: take(page, 88),
            data_size_bytes: u64::from_le_bytes(take(page, 56)),
            block_size_bytes: u32::from_le_bytes(take(page, 64)),
            peer_slots: u32::from_le_bytes(take(page, 72)),
            current: u64::from_le_bytes(take(page, 104)),
            history,
            disk,
            role_primary: flags & flag::ROLE_PRIMARY != 0,
            clean: flags & flag::CLEAN != 0,
            last_primary: flags & flag::LAST_PRIMARY != 0,
            forced: flags & flag::FORCED != 0,
            epoch: u64::from_le_bytes(take(page, 40)),
            promised: u64::from_le_bytes(take(page, 48)),
            diverged_at_s: u64::from_le_bytes(take(page, 176)),
            changed_at_s: u64::from_le_bytes(take(page, 184)),
            peers,
        };
        superblock.check().map_err(damaged)?;
        let reserved = [
            10..16,
            84..88,
            320..512,
            PEERS_OFFSET + count * PEER_BYTES..PAGE_BYTES,
        ];
        let of_peers = (0..count).flat_map(|slot| {
            let base = PEERS_OFFSET + slot * PEER_BYTES;
            [base + 2..base + 8, base + 80..base + PEER_BYTES]
        });
        let mut reserved = reserved.into_iter().chain(of_peers);
        if flags & !flag::ALL != 0 || reserved.any(|range| page[range].iter().any(|byte| *byte != 0)) {
            return Err(SuperblockError::Newer { version });
        }
        Ok(superblock)
    }

    /// The invariants of one superblock, checked on both sides: before it is written, after it was read.
    fn check(&self) -> Result<(), String> {
        for (what, name) in [("resource", &self.resource), ("node", &self.node)] {
            if name.is_empty() || name.len() > NAME_MAX {
                return Err(format!("{what} name of {} bytes", name.len()));
            }
        }
        if let Some(peer) = self.peers.iter().find(|peer| peer.name.len() > NAME_MAX) {
            return Err(format!("peer name of {} bytes", peer.name.len()));
        }
        if !block_size_is_valid(self.block_size_bytes) {
            return Err(format!("block size of {} bytes", self.block_size_bytes));
        }
        let size = self.data_size_bytes;
        if size == 0 || size > DATA_SIZE_MAX || !size.is_multiple_of(u64::from(self.block_size_bytes)) {
            return Err(format!(
                "data size of {size} bytes with blocks of {}",
                self.block_size_bytes
            ));
        }
        if self.peer_slots as usize > PEER_SLOTS_MAX || self.peers.len() > self.peer_slots as usize {
            return Err(format!("{} peers in {} slots", self.peers.len(), self.peer_slots));
        }
        if self.disk == DiskState::Diskless {
            return Err("disk state Diskless".to_owned());
        }
        if self.epoch > self.promised {
            return Err(format!(
                "epoch {} above the promised {}",
                self.epoch, self.promised
            ));
        }
        Ok(())
    }
}

/// Of both copies, as decoded, the one that counts, and its index. A copy from a newer build makes all of it
/// newer: going back to the older copy would undo what that build decided.
pub fn choose(
    a: Result<Superblock, SuperblockError>,
    b: Result<Superblock, SuperblockError>,
) -> Result<(Superblock, usize), SuperblockError> {
    use SuperblockError::{Absent, Newer};
    match (a, b) {
        (Err(Newer { version }), Err(Newer { version: other })) => Err(Newer {
            version: version.max(other),
        }),
        (Err(error @ Newer { .. }), _) | (_, Err(error @ Newer { .. })) => Err(error),
        (Ok(a), Ok(b)) if b.sequence > a.sequence => Ok((b, 1)),
        (Ok(a), _) => Ok((a, 0)),
        (_, Ok(b)) => Ok((b, 1)),
        (Err(Absent), Err(error)) | (Err(error), Err(_)) => Err(error),
    }
}

/// Which copy the superblock with this sequence goes to: never the one that holds its predecessor.
pub fn next_copy(sequence: u64) -> usize {
    (sequence % 2) as usize
}

fn damaged(reason: impl fmt::Display) -> SuperblockError {
    SuperblockError::Damaged(reason.to_string())
}

fn put(page: &mut [u8], offset: usize, bytes: &[u8]) {
    page[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn take<const N: usize>(page: &[u8], offset: usize) -> [u8; N] {
    page[offset..offset + N].try_into().expect("N bytes")
}

fn name(page: &[u8], offset: usize, len: u8) -> Result<String, SuperblockError> {
    let len = usize::from(len);
    if len > NAME_MAX {
        return Err(damaged(format!("a name of {len} bytes")));
    }
    let (text, padding) = page[offset..offset + NAME_MAX].split_at(len);
    if padding.iter().any(|byte| *byte != 0) {
        return Err(damaged("bytes after the end of a name"));
    }
    let text = std::str::from_utf8(text).map_err(|_| damaged("a name that is no UTF-8"))?;
    Ok(text.to_owned())
}
