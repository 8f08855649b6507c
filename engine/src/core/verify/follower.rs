//! Verify, for whoever drives it: reads what it asks about, and says whether this copy is the same.

use xxhash_rust::xxh3::xxh3_128;

use crate::core::links::Phase;
use crate::core::replica::{Holder, Purpose, Replica};
use crate::core::source::CHUNK_BYTES;
use crate::core::types::*;
use crate::payload::Payload;
use crate::wire::{feature, BlockRun, DiskState, Message, Role, CHUNK_BLOCKS_MAX};

/// Chunks that a driver may have under way here, at most.
const COMPARES_MAX: usize = 256;

/// A chunk of the driver's that is compared here. It outlives its connection until the disk is done with it.
pub(in crate::core) struct Compare {
    peer: PeerSlot,
    connection: ConnectionId,
    /// The driver's number for it.
    id: u64,
    offset: u64,
    len: u32,
    hash: u128,
    ordered: bool,
}

/// Blocks that the driver is about to overwrite, on their way into a bundle.
pub(in crate::core) struct Saving {
    peer: PeerSlot,
    connection: ConnectionId,
    token: Token,
}

impl Replica {
    pub(in crate::core) fn on_verify_message(&mut self, slot: PeerSlot, message: Message) {
        let offered =
            (self.peers[slot].link.as_ref()).is_some_and(|link| link.features & feature::VERIFY != 0);
        if !offered {
            return self.protocol_error(slot, "a verify that was not agreed on");
        }
        match message {
            Message::VerifyChunk {
                id,
                offset,
                len,
                hash,
                ordered,
            } => self.on_verify_chunk(slot, id, offset, len, hash, ordered),
            Message::VerifyProved { offset, len } if self.is_inside(offset, len) => {
                self.out.push(Action::Verified(Verified::Proved { offset, len }));
            }
            Message::VerifyFound {
                offset,
                len,
                own,
                peer,
            } if self.is_inside(offset, u64::from(len)) => {
                self.out.push(Action::Verified(Verified::Found {
                    offset,
                    len,
                    own: peer,
                    peer: own,
                }));
            }
            Message::VerifyProved { .. } | Message::VerifyFound { .. } => {
                self.protocol_error(slot, "something verified outside the device");
            }
            Message::VerifySave { runs } => self.on_verify_save(slot, runs),
            Message::VerifySaved { saved, text } => self.on_verify_saved(slot, saved, &text),
            Message::VerifySame { id } => self.on_verify_same(slot, id),
            Message::VerifyDiffers { id, hashes } => self.on_verify_differs(slot, id, &hashes),
            Message::VerifyFailed { id, status } => self.on_verify_failed(slot, id, status),
            _ => {}
        }
    }

    /// Whether this copy is one that the peer may measure: it has all that the peer sent, and nothing else writes to it.
    fn can_be_compared(&self, slot: PeerSlot) -> bool {
        matches!(self.peers[slot].phase(), Some(Phase::Established))
            && self.role == Role::Secondary
            && !self.promoting
            && self.is_attached()
            && self.superblock.disk == DiskState::UpToDate
    }

    fn on_verify_chunk(&mut self, slot: PeerSlot, id: u64, offset: u64, len: u32, hash: u128, ordered: bool) {
        let block_size = self.superblock.block_size_bytes;
        if !self.is_inside(offset, u64::from(len))
            || !offset.is_multiple_of(u64::from(block_size))
            || len.div_ceil(block_size) > CHUNK_BLOCKS_MAX
            || u64::from(len) > CHUNK_BYTES.max(u64::from(block_size))
        {
            return self.protocol_error(slot, "a chunk to verify outside the device or too large");
        }
        let connection = match &self.peers[slot].link {
            Some(link) if self.can_be_compared(slot) => link.id,
            _ => {
                let status = libc::EBUSY as u16;
                return self.send(slot, Message::VerifyFailed { id, status });
            }
        };
        if self.compares.len() >= COMPARES_MAX {
            return self.protocol_error(slot, "too many chunks to verify");
        }
        let index = self.compares.insert(Compare {
            peer: slot,
            connection,
            id,
            offset,
            len,
            hash,
            ordered,
        });
        let end = offset + u64::from(len);
        if !ordered || self.ranges.acquire(Holder::Compare(index), offset, end) {
            self.start_compare(index);
        }
    }

    /// Its range is ours, or need not be.
    pub(in crate::core) fn start_compare(&mut self, index: usize) {
        if let Some(compare) = self.compares.get(index) {
            let (offset, len) = (compare.offset, compare.len);
            self.disk(Purpose::Compare(index), DiskOp::Read { offset, len });
        }
    }

    pub(in crate::core) fn compare_read(&mut self, index: usize, result: Result<Option<Payload>, Errno>) {
        let Some(compare) = self.compares.remove(index) else {
            return;
        };
        if compare.ordered {
            self.release_range(Holder::Compare(index));
        }
        let (id, block_size) = (compare.id, self.superblock.block_size_bytes as usize);
        let answer = match result {
            Ok(Some(data)) if xxh3_128(&data) == compare.hash => Message::VerifySame { id },
            Ok(Some(data)) => Message::VerifyDiffers {
                id,
                hashes: data.chunks(block_size).map(xxh3_128).collect(),
            },
            Ok(None) | Err(_) => {
                let errno = result.err().unwrap_or(Errno::EIO);
                self.note_disk_error("read", errno);
                let status = errno.0.unsigned_abs() as u16;
                Message::VerifyFailed { id, status }
            }
        };
        if self.peers[compare.peer].is_on(compare.connection) {
            self.send(compare.peer, answer);
        }
    }

    // ---- what is about to be overwritten is saved ----------------------------------------------------

    fn on_verify_save(&mut self, slot: PeerSlot, runs: Vec<BlockRun>) {
        let (node, blocks) = (self.config.node.clone(), self.peers[slot].dirty.len());
        let mut end = 0;
        for run in &runs {
            // As a bundle wants them.
            let fits = run.first >= end && run.first.checked_add(run.count).is_some_and(|end| end <= blocks);
            if !fits {
                return self.protocol_error(
                    slot,
                    "blocks to save that are not in order, or outside the device",
                );
            }
            end = run.first + run.count;
        }
        let follows = self.can_be_compared(slot) && self.peers[slot].is_known_as(Role::Primary);
        let connection = match &self.peers[slot].link {
            Some(link) if follows && self.saving.is_none() => link.id,
            _ => {
                let text = format!("{node} does not follow, or is saving other blocks");
                return self.send(slot, Message::VerifySaved { saved: false, text });
            }
        };
        let token = Token(self.next_bundle);
        self.next_bundle += 1;
        self.saving = Some(Saving {
            peer: slot,
            connection,
            token,
        });
        let name = self.peers[slot].name.clone();
        let count: u64 = runs.iter().map(|run| run.count).sum();
        let why = format!("verify found that they differ, and the copy of {name}, the Primary, repairs them");
        let text = format!("{count} blocks of {node} are about to be overwritten: {why}");
        let fields = vec![("blocks", count.to_string())];
        self.record("verify.repairing", text, None, Some(slot), fields);
        let survivor = self.peers[slot].known.as_ref().map(|known| known.generations);
        let bundle = BundleRequest {
            peer: slot,
            rule: "verify",
            why,
            victim: self.own_state(slot, false).generations,
            survivor: survivor.unwrap_or_default(),
            block_size_bytes: self.superblock.block_size_bytes,
            data_size_bytes: self.superblock.data_size_bytes,
            runs,
        };
        self.out.push(Action::SaveBundle { token, bundle });
    }

    /// False when this is no bundle of a repair.
    pub(in crate::core) fn repair_saved(&mut self, token: Token, result: &Result<(), String>) -> bool {
        let Some(saving) = self.saving.take_if(|saving| saving.token == token) else {
            return false;
        };
        if self.peers[saving.peer].is_on(saving.connection) {
            let saved = result.is_ok();
            let text = result.as_ref().err().cloned().unwrap_or_default();
            self.send(saving.peer, Message::VerifySaved { saved, text });
        }
        true
    }

    /// The driver is gone: nobody waits for that bundle.
    pub(in crate::core) fn saving_lost(&mut self, slot: PeerSlot) {
        if let Some(saving) = self.saving.take_if(|saving| saving.peer == slot) {
            self.out.push(Action::DropBundle { token: saving.token });
        }
    }
}
