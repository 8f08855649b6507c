//! Who gives way in a split brain: a person's word, or the resource's policy.

use std::cmp::Ordering;

use super::{decide, Direction, Side, Verdict};
use crate::meta::EXTENT_BYTES;
use crate::wire::{Intent, SplitBrainPolicy};

/// One of the two sides, seen from one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Own,
    Peer,
}

impl Who {
    pub fn mirrored(self) -> Who {
        match self {
            Who::Own => Who::Peer,
            Who::Peer => Who::Own,
        }
    }
}

/// A split brain that ends here: the victim's changes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution {
    pub victim: Who,
    /// [`BY_PERSON`], or the policy's name.
    pub by: &'static str,
    /// False: a person does not want them saved.
    pub bundle: bool,
}

/// What [`Resolution::by`] says when a person has decided.
pub const BY_PERSON: &str = "resolve";

/// What a connection between the two sides comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub verdict: Verdict,
    /// Only of a split brain, and only if it has a victim.
    pub resolution: Option<Resolution>,
    /// Of a split brain: why it has this victim, or none and what would help; for people.
    pub reason: String,
}

/// The whole decision, from `own` point of view; `plan(peer, own)` is its mirror image.
pub fn plan(own: &Side, peer: &Side) -> Plan {
    let verdict = decide(own, peer);
    let (resolution, reason) = if verdict.direction == Direction::SplitBrain {
        match resolve(own, peer, verdict.rule) {
            Ok((resolution, reason)) => (Some(resolution), reason),
            Err(reason) => (None, reason),
        }
    } else {
        (None, String::new())
    };
    Plan {
        verdict,
        resolution,
        reason,
    }
}

/// # Errors
/// Why nobody gives way now, and what would change that.
fn resolve(own: &Side, peer: &Side, rule: &str) -> Result<(Resolution, String), String> {
    let (victim, by, bundle, reason) = match asked(own, peer)? {
        Some((victim, bundle)) => {
            let speakers = [own, peer].into_iter().filter(|side| side.intent.resolves());
            let nodes: Vec<&str> = speakers.map(|side| side.name.as_str()).collect();
            let reason = format!("a person decided so on {}", nodes.join(" and "));
            (victim, BY_PERSON, bundle, reason)
        }
        None => {
            // The ancestor is older than the bitmaps: they do not say what changed since.
            let amounts_known = rule != "split-brain-old";
            let (victim, reason) = by_policy(own, peer, amounts_known)
                .map_err(|why| format!("policy {} leaves it to a person: {why}", own.policy.name()))?;
            (victim, own.policy.name(), true, reason.into())
        }
    };
    let (loser, survivor) = match victim {
        Who::Own => (own, peer),
        Who::Peer => (peer, own),
    };
    if loser.is_in_use() {
        return Err(format!(
            "{} would give up its changes, but it is Primary: demote it first",
            loser.name
        ));
    }
    if !survivor.is_usable() {
        return Err(format!(
            "{} would survive, but its copy is {:?}: bring a good copy back first",
            survivor.name, survivor.state.disk
        ));
    }
    let resolution = Resolution { victim, by, bundle };
    Ok((resolution, reason))
}

/// What the persons at the two nodes said: the victim, and whether its changes are saved. They are, unless everybody
/// who spoke said no.
fn asked(own: &Side, peer: &Side) -> Result<Option<(Who, bool)>, String> {
    let word = |side: &Side, itself: Who| match side.intent {
        Intent::DiscardMine { bundle } => Some((itself, bundle)),
        Intent::DiscardYours { bundle } => Some((itself.mirrored(), bundle)),
        Intent::Replicate | Intent::Consult { .. } | Intent::Join => None,
    };
    match (word(own, Who::Own), word(peer, Who::Peer)) {
        (Some((one, _)), Some((other, _))) if one != other => {
            Err("the two nodes were told to discard different sides: decide on one".into())
        }
        (Some((who, one)), Some((_, other))) => Ok(Some((who, one || other))),
        (one, other) => Ok(one.or(other)),
    }
}

/// The policies. Each compares the same of both sides, so that both nodes name the same victim.
fn by_policy(own: &Side, peer: &Side, amounts_known: bool) -> Result<(Who, &'static str), &'static str> {
    use SplitBrainPolicy as Policy;
    const UNKNOWN: &str = "how much each side changed is not known, the common ancestor is too old";
    match own.policy {
        Policy::Manual => Err("it always does"),
        Policy::DiscardZeroChanges | Policy::DiscardLeastChanges if !amounts_known => Err(UNKNOWN),
        Policy::DiscardZeroChanges => {
            let victim = match (own.is_marked(), peer.is_marked()) {
                (true, true) => return Err("both sides have changes"),
                (false, true) => Who::Own,
                (true, false) => Who::Peer,
                // Nothing is lost either way: the one in use stays, else the first name.
                (false, false) => (lesser(own.is_in_use(), peer.is_in_use()))
                    .or(lesser(&peer.name, &own.name))
                    .ok_or("the nodes have the same name")?,
            };
            Ok((victim, "it changed nothing since the split"))
        }
        Policy::DiscardLeastChanges => lesser(own.changed_blocks(), peer.changed_blocks())
            .map(|victim| (victim, "it changed less since the split"))
            .ok_or("both sides changed as much"),
        Policy::DiscardOlderPrimary => earlier(own, peer).map(|older| (older, "it went on alone earlier")),
        Policy::DiscardYoungerPrimary => {
            earlier(own, peer).map(|older| (older.mirrored(), "it went on alone later"))
        }
        Policy::Priority => lesser(own.priority, peer.priority)
            .map(|victim| (victim, "its priority is the lower one"))
            .ok_or("both nodes have the same priority"),
    }
}

/// Whose value is the lesser.
fn lesser<T: Ord>(own: T, peer: T) -> Option<Who> {
    match own.cmp(&peer) {
        Ordering::Less => Some(Who::Own),
        Ordering::Greater => Some(Who::Peer),
        Ordering::Equal => None,
    }
}

/// Who went on alone first, by the clocks.
fn earlier(own: &Side, peer: &Side) -> Result<Who, &'static str> {
    let (own, peer) = (own.state.diverged_at_s, peer.state.diverged_at_s);
    if own == 0 || peer == 0 {
        return Err("when each side went on alone is not known");
    }
    lesser(own, peer).ok_or("both sides went on alone in the same second")
}

impl Side {
    /// Blocks that it may have changed since the split; a suspect extent counts in full.
    fn changed_blocks(&self) -> u128 {
        if self.state.full_sync {
            return u128::MAX;
        }
        let per_extent = u128::from(EXTENT_BYTES / u64::from(self.block_size_bytes.max(1)));
        u128::from(self.state.dirty_blocks) + per_extent * u128::from(self.state.suspect_extents)
    }
}
