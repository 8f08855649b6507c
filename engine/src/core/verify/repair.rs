//! Repair: a person has the Primary's copy overwrite blocks that a verify found to differ.
//!
//! The other node saves them in a bundle first. Then each is compared once more, in order, and where it still differs
//! it is written as any write of the Primary's is: what is lost on its way is marked, and resynced. Flushed on both
//! nodes, all of them are compared again, and that is what proves them mended.

use super::{Outcome, Stage, Verify};
use crate::core::commands::{failed, refused};
use crate::core::replica::{Holder, Replica};
use crate::core::requests::{FlushOwner, Sent};
use crate::core::types::*;
use crate::payload::Payload;
use crate::wire::{BlockRun, Message, Role, BITMAP_RUNS_MAX};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The other node saves what it is about to lose.
    Saving,
    Writing,
    Flushing,
    Comparing,
}

pub(super) struct Repair {
    command: CommandId,
    step: Step,
    ranges: Vec<(u64, u64)>,
    written_bytes: u64,
}

impl Repair {
    /// No chunk may begin now.
    pub(super) fn waits(&self) -> bool {
        matches!(self.step, Step::Saving | Step::Flushing)
    }

    /// What differs is overwritten, not told.
    pub(super) fn writes(&self) -> bool {
        self.step == Step::Writing
    }
}

impl Replica {
    pub(in crate::core) fn repair_command(&mut self, id: CommandId, runs: Vec<BlockRun>) {
        let blocks = self.layout.blocks();
        let mut end = 0;
        for run in &runs {
            let fits = run.first >= end && run.count > 0;
            if !fits || run.first.checked_add(run.count).is_none_or(|end| end > blocks) {
                let error = failed(
                    "blocks to repair that are not in order, or outside the device".into(),
                    "use a control plane and an engine of the same version".into(),
                );
                return self.done(id, Err(error));
            }
            end = run.first + run.count;
        }
        let resource = &self.config.resource;
        if self.role != Role::Primary {
            let error = refused(
                format!(
                    "{} is not Primary of {resource}: nobody can say that its copy is the right one",
                    self.config.node
                ),
                format!("on the node whose copy shall win: blockpair promote {resource}, then repair there"),
            );
            return self.done(id, Err(error));
        }
        if runs.is_empty() || runs.len() > BITMAP_RUNS_MAX {
            let error = failed(
                format!("{} runs of blocks are none to repair at a time", runs.len()),
                format!("see what was found: blockpair verify {resource} --report"),
            );
            return self.done(id, Err(error));
        }
        let (slot, connection) = match self.may_verify() {
            Ok(found) => found,
            Err(error) => return self.done(id, Err(error)),
        };
        let block_size = u64::from(self.superblock.block_size_bytes);
        let size = self.superblock.data_size_bytes;
        let ranges: Vec<(u64, u64)> = (runs.iter())
            .map(|run| {
                (
                    run.first * block_size,
                    ((run.first + run.count) * block_size).min(size),
                )
            })
            .collect();
        let count: u64 = runs.iter().map(|run| run.count).sum();
        let name = &self.peers[slot].name;
        let text = format!("{count} blocks of {name} are about to be overwritten with those of this node");
        let fields = vec![("blocks", count.to_string())];
        self.record("verify.repairing", text, Some(id), Some(slot), fields);
        let repair = Repair {
            command: id,
            step: Step::Saving,
            ranges,
            written_bytes: 0,
        };
        self.begin_verify(slot, connection, [].into(), None, Some(repair));
        self.send(slot, Message::VerifySave { runs });
    }

    fn repair_step(&mut self, from: Step, to: Step) -> bool {
        let Some(Verify {
            repair: Some(repair),
            later,
            ..
        }) = self.verify.as_deref_mut()
        else {
            return false;
        };
        if repair.step != from {
            return false;
        }
        repair.step = to;
        if matches!(to, Step::Writing | Step::Comparing) {
            *later = repair.ranges.iter().copied().collect();
        }
        true
    }

    pub(super) fn on_verify_saved(&mut self, slot: PeerSlot, saved: bool, text: &str) {
        let waited =
            (self.verify.as_ref()).is_some_and(|verify| verify.slot == slot && verify.repair.is_some());
        if !waited {
            // It was given up meanwhile.
            return;
        }
        if !saved {
            let name = self.peers[slot].name.clone();
            let why = format!("{name} could not save what it is about to lose: {text}");
            return self.cut_verify(&why, false);
        }
        if !self.repair_step(Step::Saving, Step::Writing) {
            return self.protocol_error(slot, "a bundle that nobody asked for");
        }
        self.pump_verify();
    }

    /// The chunk's range is ours until the peer has its blocks.
    pub(super) fn write_repairs(
        &mut self,
        id: u64,
        base: u64,
        data: &Payload,
        found: &[(u64, u32, u128, u128)],
    ) {
        let Some(slot) = self.verify.as_ref().map(|verify| verify.slot) else {
            return;
        };
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (offset, len, ..) in found {
            let end = offset + u64::from(*len);
            match runs.last_mut().filter(|(_, last)| last == offset) {
                Some((_, last)) => *last = end,
                None => runs.push((*offset, end)),
            }
        }
        let count = runs.len();
        for (offset, end) in runs {
            for extent in self.extents_of(offset, end - offset) {
                self.peers[slot].unflushed.insert(extent);
            }
            let len = end - offset;
            let sent = Sent::Repair {
                chunk: id,
                offset,
                len,
            };
            let Some(seq) = self.peers[slot].link.as_mut().map(|link| link.push_sent(sent)) else {
                return;
            };
            let payload = data.slice((offset - base) as usize..(end - base) as usize);
            self.send(
                slot,
                Message::Write {
                    seq,
                    offset,
                    payload,
                    fua: false,
                },
            );
            if let Some(repair) = self.verify.as_mut().and_then(|verify| verify.repair.as_mut()) {
                repair.written_bytes += len;
            }
        }
        if let Some(chunk) = self.verify_chunk(id) {
            chunk.stage = Stage::Writing(count);
        }
    }

    /// The peer has one run of a chunk on its disk.
    pub(in crate::core) fn repair_written(&mut self, id: u64) {
        let Some(Stage::Writing(left)) = self.verify_chunk(id).map(|chunk| &mut chunk.stage) else {
            return;
        };
        *left -= 1;
        if *left == 0 {
            self.release_range(Holder::Verify(id));
            self.verify_chunk_ended(id, Outcome::Same);
        }
    }

    pub(super) fn repair_pass_ended(&mut self) {
        if self.repair_step(Step::Writing, Step::Flushing) {
            return self.start_flush(FlushOwner::Repair);
        }
        let compared = (self.verify.as_ref())
            .and_then(|verify| verify.repair.as_ref())
            .is_some_and(|repair| repair.step == Step::Comparing);
        if !compared {
            return;
        }
        self.tell_proved();
        let Some(verify) = self.verify.take() else {
            return;
        };
        let Some(repair) = verify.repair else {
            return;
        };
        let name = self.peers[verify.slot].name.clone();
        if verify.findings > 0 {
            let why = format!("{} blocks still differ after the repair", verify.findings);
            return self.repair_cut(repair, &why);
        }
        let text = format!(
            "{} bytes of {name} were overwritten with those of this node",
            repair.written_bytes
        );
        let fields = vec![("written_bytes", repair.written_bytes.to_string())];
        self.record(
            "verify.repaired",
            text,
            Some(repair.command),
            Some(verify.slot),
            fields,
        );
        self.done(repair.command, Ok(()));
    }

    pub(in crate::core) fn repair_flushed(&mut self, result: Result<(), Errno>) {
        if result.is_err() {
            return self.cut_verify("the flush of what was repaired failed", false);
        }
        if self.repair_step(Step::Flushing, Step::Comparing) {
            self.pump_verify();
        }
    }

    pub(super) fn repair_cut(&mut self, repair: Repair, why: &str) {
        let resource = &self.config.resource;
        let remedy = format!("see `blockpair status {resource}`, then repair again");
        self.done(repair.command, Err(failed(why.to_owned(), remedy)));
    }
}
