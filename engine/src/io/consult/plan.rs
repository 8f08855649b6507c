//! What a connect would do, as JSON: the inputs of both sides, the decision, and how much of the device it is about.

use serde_json::{json, Value};

use super::ask::Answer;
use crate::core::handshake::{self, Direction, Scope, Side, Who};
use crate::core::{refusal_text, union, Consultation};
use crate::meta::EXTENT_BYTES;
use crate::wire::{negotiate, BlockRun, Intent};

/// `answer`: what the peer told, or why it told nothing.
pub fn plan(own: &Consultation, answer: &Result<Answer, String>) -> Value {
    let peer = answer.as_ref().ok().map(|answer| &answer.told);
    let report = answer.as_ref().ok().map(|answer| answer.report.as_str());
    json!({
        "resource": own.hello.resource,
        "node": own.hello.node,
        "peer": own.hello.peer,
        "problem": answer.as_ref().err(),
        "own": side(own),
        "other": peer.map(side),
        "decision": peer.map(|peer| decision(own, peer)),
        "report": report.filter(|text| !text.is_empty()),
    })
}

fn hex(id: u64) -> String {
    format!("{id:016x}")
}

fn side(told: &Consultation) -> Value {
    let (hello, state) = (&told.hello, &told.state);
    let (blocks, exact) = marked(told);
    let id = u128::from_be_bytes(hello.resource_id);
    json!({
        "node": hello.node,
        "resource_id": (id != 0).then(|| format!("{id:032x}")),
        "size_bytes": hello.data_size_bytes,
        "block_size_bytes": hello.block_size_bytes,
        "protocol": hello.protocol,
        "policy": hello.policy,
        "priority": hello.priority,
        "role": state.role,
        "resuming": state.resuming,
        "disk": state.disk,
        "generation": {
            "current": hex(state.generations.current),
            "bitmap": hex(state.generations.bitmap),
            "history": state.generations.history.iter().filter(|id| **id != 0).map(|id| hex(*id)).collect::<Vec<_>>(),
        },
        "dirty_blocks": state.dirty_blocks,
        "suspect_extents": state.suspect_extents,
        "full_sync": state.full_sync,
        "crashed_primary": state.crashed_primary,
        "last_primary": state.last_primary,
        "diverged_at_s": (state.diverged_at_s != 0).then_some(state.diverged_at_s),
        "changed_at_s": (state.changed_at_s != 0).then_some(state.changed_at_s),
        "marked": amount(told, blocks, exact),
    })
}

fn blocks_of(told: &Consultation) -> u64 {
    // A peer's word: it must not divide by zero here.
    told.hello
        .data_size_bytes
        .div_ceil(u64::from(told.hello.block_size_bytes).max(1))
}

fn count(runs: &[BlockRun]) -> u64 {
    runs.iter().fold(0, |sum, run| sum.saturating_add(run.count))
}

/// Blocks that may differ by this side's marks, and whether that is the exact number or the most there can be.
fn marked(told: &Consultation) -> (u64, bool) {
    if told.state.full_sync {
        return (blocks_of(told), true);
    }
    if let Some(runs) = &told.marks {
        return (count(runs).min(blocks_of(told)), true);
    }
    let per_extent = EXTENT_BYTES / u64::from(told.hello.block_size_bytes).max(1);
    let suspects = told.state.suspect_extents.saturating_mul(per_extent);
    let most = told.state.dirty_blocks.saturating_add(suspects);
    (most.min(blocks_of(told)), false)
}

fn amount(told: &Consultation, blocks: u64, exact: bool) -> Value {
    let bytes = blocks.saturating_mul(u64::from(told.hello.block_size_bytes));
    json!({
        "blocks": blocks,
        "bytes": bytes.min(told.hello.data_size_bytes),
        "exact": exact,
    })
}

/// Blocks that a resync by both sides' marks compares.
fn marked_by_either(own: &Consultation, peer: &Consultation) -> (u64, bool) {
    match (&own.marks, &peer.marks) {
        (Some(ours), Some(theirs)) => {
            let blocks = count(&union([&ours[..], &theirs[..]].concat()));
            (blocks.min(blocks_of(own)), true)
        }
        _ => {
            let ((ours, _), (theirs, _)) = (marked(own), marked(peer));
            (ours.saturating_add(theirs).min(blocks_of(own)), false)
        }
    }
}

fn decision(own: &Consultation, peer: &Consultation) -> Value {
    if let Err((reason, text)) = negotiate(&own.hello, &peer.hello) {
        return json!({
            "rule": null,
            "direction": "refuse",
            "goodbye": reason,
            "reason": text,
            "source": null,
            "target": null,
            "victim": null,
            "by": null,
            "compared": amount(own, 0, true),
        });
    }
    let as_side = |told: &Consultation| {
        let mut side = Side::new(&told.hello, told.state.clone());
        // What a plain connect would come to, not this question.
        side.intent = Intent::Replicate;
        side
    };
    let plan = handshake::plan(&as_side(own), &as_side(peer));
    let (ours, theirs) = (&own.hello.node, &peer.hello.node);
    let whole = || (blocks_of(own), true);
    let by_marks = || marked_by_either(own, peer);
    let by_scope = |scope: Scope| match scope {
        Scope::Marked => by_marks(),
        Scope::Whole => whole(),
    };
    let victim = plan
        .resolution
        .as_ref()
        .map(|resolution| match resolution.victim {
            Who::Own => ours,
            Who::Peer => theirs,
        });
    let survivor = victim.map(|victim| if victim == ours { theirs } else { ours });
    let (direction, source, target, (blocks, exact)) = match plan.verdict.direction {
        Direction::Established => ("established", None, None, (0, true)),
        Direction::Source(scope) => ("source", Some(ours), Some(theirs), by_scope(scope)),
        Direction::Target(scope) => ("target", Some(theirs), Some(ours), by_scope(scope)),
        Direction::Wait => ("wait", None, None, (0, true)),
        Direction::SplitBrain if plan.verdict.rule == "split-brain-old" => {
            ("split-brain", survivor, victim, whole())
        }
        Direction::SplitBrain => ("split-brain", survivor, victim, by_marks()),
        Direction::Refuse => ("refuse", None, None, (0, true)),
    };
    let reason = match plan.verdict.direction {
        Direction::Refuse => refusal_text(plan.verdict.rule, ours, theirs),
        _ => plan.reason,
    };
    json!({
        "rule": plan.verdict.rule,
        "direction": direction,
        "goodbye": null,
        "reason": reason,
        "source": source,
        "target": target,
        "victim": victim,
        "by": plan.resolution.as_ref().map(|resolution| resolution.by),
        "compared": amount(own, blocks, exact),
    })
}
