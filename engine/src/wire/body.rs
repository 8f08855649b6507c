//! The small structured payloads, little-endian, laid out by hand.
//!
//! Hello (**frozen for all versions**; later versions append after the names, receivers ignore what they do not know):
//!
//! | at | bytes | field                                      |
//! |---:|------:|--------------------------------------------|
//! |  0 |     2 | `version_min`                              |
//! |  2 |     2 | `version_max`                              |
//! |  4 |     1 | `protocol`: A 1, B 2, C 3                  |
//! |  5 |     1 | `policy`: manual 1, discard-zero-changes 2, discard-least-changes 3, discard-older-primary 4, discard-younger-primary 5, priority 6 |
//! |  6 |     2 | `channel`                                  |
//! |  8 |     8 | `features`                                 |
//! | 16 |     8 | `data_size_bytes`                          |
//! | 24 |     8 | `nonce`                                    |
//! | 32 |    16 | `resource_id`                              |
//! | 48 |     4 | `block_size_bytes`                         |
//! | 52 |     3 | lengths of `resource`, `node`, `peer`      |
//! | 55 |     1 | `intent`: replicate 0, discard mine 1, discard yours 2, consult 3, consult with a report 4, join 5; 128 is added for no bundle |
//! | 56 |     4 | `priority`                                 |
//! | 60 |     … | `resource`, `node`, `peer`: UTF-8 without control characters, 1 to 64 bytes each |
//!
//! After the names, when `features` has PATHS: the session's id, 16 bytes · `path` u16 · `paths` u16.
//!
//! Goodbye (**frozen**): UTF-8 text, at most 512 bytes; the reason is the header's `status`.
//!
//! State: role u8 (Primary 1, Secondary 2) · disk u8 (Diskless 0 … UpToDate 4) · flags u8 (full sync 1, crashed
//! primary 2, last primary 4, handshake 8, resuming 16) · 5 zero bytes · current · bitmap · 8 × history · dirty blocks ·
//! suspect extents · epoch · promised · diverged at · changed at (u64 each).
//!
//! BitmapRuns: first u64, count u64 a run. HotRanges: offset u64, length u64 a range. Report: UTF-8 text. ChunkHash: one u128. ChunkDiffers: a u128 a block.
//! VerifyChunk, VerifyDiffers: as of ChunkHash and ChunkDiffers. VerifyFound: two u128, the sender's and the receiver's. VerifySave: as of BitmapRuns. VerifySaved: UTF-8 text.
//! ResyncEnd: current u64 · 8 × history u64 · resource id, 16 bytes.

use super::frame::{
    array_at, u16_at, u32_at, u64_at, FrameError, Kind, HASH_LEN, HASH_PAIR_LEN, HELLO_BODY_MIN,
    RESYNC_END_LEN, RUN_LEN, STATE_LEN,
};
use super::message::{
    feature, BlockRun, DiskState, Generations, GoodbyeReason, Hello, HotRange, Intent, NodeState, Protocol,
    Role, SessionHello, SessionId, SplitBrainPolicy, HISTORY_LEN, NAME_MAX, PATHS_MAX, TEXT_MAX,
};

const FULL_SYNC: u8 = 1 << 0;
const CRASHED_PRIMARY: u8 = 1 << 1;
const LAST_PRIMARY: u8 = 1 << 2;
const HANDSHAKE: u8 = 1 << 3;
const RESUMING: u8 = 1 << 4;
const STATE_FLAGS: u8 = FULL_SYNC | CRASHED_PRIMARY | LAST_PRIMARY | HANDSHAKE | RESUMING;
/// Of what a Hello says of its session.
const SESSION_LEN: usize = 20;
/// Of a Hello's intent.
const NO_BUNDLE: u8 = 1 << 7;

fn invalid(kind: Kind, what: impl Into<String>) -> FrameError {
    FrameError::Body {
        kind,
        what: what.into(),
    }
}

/// # Panics
/// When a name is empty or longer than [`NAME_MAX`]: the configuration refuses such names.
pub(super) fn put_hello(out: &mut Vec<u8>, hello: &Hello) {
    let protocol = match hello.protocol {
        Protocol::A => 1,
        Protocol::B => 2,
        Protocol::C => 3,
    };
    out.extend_from_slice(&hello.version_min.to_le_bytes());
    out.extend_from_slice(&hello.version_max.to_le_bytes());
    out.extend_from_slice(&[protocol, hello.policy as u8]);
    out.extend_from_slice(&hello.channel.to_le_bytes());
    let paths = hello.session.map_or(0, |_| feature::PATHS);
    out.extend_from_slice(&(hello.features & !feature::PATHS | paths).to_le_bytes());
    out.extend_from_slice(&hello.data_size_bytes.to_le_bytes());
    out.extend_from_slice(&hello.nonce.to_le_bytes());
    out.extend_from_slice(&hello.resource_id);
    out.extend_from_slice(&hello.block_size_bytes.to_le_bytes());
    let names = [&hello.resource, &hello.node, &hello.peer];
    for name in names {
        assert!((1..=NAME_MAX).contains(&name.len()), "name {name:?} in a Hello");
        out.push(name.len() as u8);
    }
    out.push(intent_byte(hello.intent));
    out.extend_from_slice(&hello.priority.to_le_bytes());
    for name in names {
        out.extend_from_slice(name.as_bytes());
    }
    if let Some(session) = &hello.session {
        out.extend_from_slice(&session.id.0);
        out.extend_from_slice(&session.path.to_le_bytes());
        out.extend_from_slice(&session.paths.to_le_bytes());
    }
}

fn intent_byte(intent: Intent) -> u8 {
    let (number, bundle) = match intent {
        Intent::Replicate => (0, true),
        Intent::DiscardMine { bundle } => (1, bundle),
        Intent::DiscardYours { bundle } => (2, bundle),
        Intent::Consult { report: false } => (3, true),
        Intent::Consult { report: true } => (4, true),
        Intent::Join => (5, true),
    };
    number | if bundle { 0 } else { NO_BUNDLE }
}

/// None: not of this version.
fn intent(byte: u8) -> Option<Intent> {
    let bundle = byte & NO_BUNDLE == 0;
    match (byte & !NO_BUNDLE, bundle) {
        (0, true) => Some(Intent::Replicate),
        (1, _) => Some(Intent::DiscardMine { bundle }),
        (2, _) => Some(Intent::DiscardYours { bundle }),
        (3, true) => Some(Intent::Consult { report: false }),
        (4, true) => Some(Intent::Consult { report: true }),
        (5, true) => Some(Intent::Join),
        _ => None,
    }
}

pub(super) fn hello(body: &[u8]) -> Result<Hello, FrameError> {
    let protocol = match body[4] {
        1 => Protocol::A,
        2 => Protocol::B,
        3 => Protocol::C,
        other => {
            return Err(invalid(
                Kind::Hello,
                format!("unknown replication protocol {other}"),
            ))
        }
    };
    let policy = SplitBrainPolicy::ALL
        .into_iter()
        .find(|policy| *policy as u8 == body[5])
        .ok_or_else(|| invalid(Kind::Hello, format!("unknown split brain policy {}", body[5])))?;
    let intent =
        intent(body[55]).ok_or_else(|| invalid(Kind::Hello, format!("unknown intent {:#x}", body[55])))?;
    let mut rest = &body[HELLO_BODY_MIN..];
    let mut name = |what: &str, len: u8| {
        let len = usize::from(len);
        if !(1..=NAME_MAX).contains(&len) || len > rest.len() {
            let message = format!("{what} name of {len} bytes, with {} bytes left", rest.len());
            return Err(invalid(Kind::Hello, message));
        }
        let (text, after) = rest.split_at(len);
        rest = after;
        match std::str::from_utf8(text) {
            Ok(text) if !text.contains(char::is_control) => Ok(text.to_owned()),
            _ => Err(invalid(
                Kind::Hello,
                format!("{what} name is not printable UTF-8"),
            )),
        }
    };
    let resource = name("resource", body[52])?;
    let node = name("node", body[53])?;
    let peer = name("peer", body[54])?;
    let features = u64_at(body, 8);
    let session = (features & feature::PATHS != 0)
        .then(|| session(rest))
        .transpose()?;
    if intent == Intent::Join && session.is_none() {
        return Err(invalid(Kind::Hello, "it joins no session"));
    }
    Ok(Hello {
        version_min: u16_at(body, 0),
        version_max: u16_at(body, 2),
        features: features & !feature::PATHS,
        resource,
        resource_id: array_at(body, 32),
        node,
        peer,
        data_size_bytes: u64_at(body, 16),
        block_size_bytes: u32_at(body, 48),
        protocol,
        channel: u16_at(body, 6),
        nonce: u64_at(body, 24),
        intent,
        policy,
        priority: u32_at(body, 56),
        session,
    })
}

/// What follows a Hello's names; and more, of later versions.
fn session(bytes: &[u8]) -> Result<SessionHello, FrameError> {
    if bytes.len() < SESSION_LEN {
        return Err(invalid(Kind::Hello, "a session without its id"));
    }
    let (path, paths) = (u16_at(bytes, 16), u16_at(bytes, 18));
    if path >= paths || usize::from(paths) > PATHS_MAX {
        return Err(invalid(Kind::Hello, format!("path {path} of {paths}")));
    }
    Ok(SessionHello {
        id: SessionId(array_at(bytes, 0)),
        path,
        paths,
    })
}

/// Longer texts are cut at a character's boundary.
pub(super) fn put_short_text(out: &mut Vec<u8>, text: &str) {
    let text = printable(text);
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&text.as_bytes()[..end]);
}

/// Control characters become spaces: the text ends up in logs and on terminals.
fn printable(text: &str) -> String {
    text.chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}

/// A reason from a later version counts as a refusal: its text still says what happened.
pub(super) fn goodbye_reason(status: u16) -> GoodbyeReason {
    match status {
        1 => GoodbyeReason::Disconnect,
        2 => GoodbyeReason::UnknownResource,
        3 => GoodbyeReason::OtherResource,
        4 => GoodbyeReason::Version,
        5 => GoodbyeReason::Size,
        6 => GoodbyeReason::BlockSize,
        7 => GoodbyeReason::Protocol,
        9 => GoodbyeReason::ProtocolError,
        10 => GoodbyeReason::UnknownNode,
        11 => GoodbyeReason::Busy,
        12 => GoodbyeReason::Policy,
        13 => GoodbyeReason::Diskless,
        _ => GoodbyeReason::Refused,
    }
}

pub(super) fn short_text(kind: Kind, body: &[u8]) -> Result<String, FrameError> {
    match std::str::from_utf8(body) {
        Ok(text) => Ok(printable(text)),
        Err(_) => Err(invalid(kind, "the text is not UTF-8")),
    }
}

pub(super) fn report_text(body: &[u8]) -> Result<String, FrameError> {
    match std::str::from_utf8(body) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(invalid(Kind::Report, "the text is not UTF-8")),
    }
}

fn put_u64s(out: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn history_at(body: &[u8], at: usize) -> [u64; HISTORY_LEN] {
    std::array::from_fn(|index| u64_at(body, at + 8 * index))
}

pub(super) fn put_state(out: &mut Vec<u8>, state: &NodeState) {
    let role = match state.role {
        Role::Primary => 1,
        Role::Secondary => 2,
    };
    let disk = match state.disk {
        DiskState::Diskless => 0,
        DiskState::Inconsistent => 1,
        DiskState::Outdated => 2,
        DiskState::Consistent => 3,
        DiskState::UpToDate => 4,
    };
    let mut flags = 0;
    for (set, flag) in [
        (state.full_sync, FULL_SYNC),
        (state.crashed_primary, CRASHED_PRIMARY),
        (state.last_primary, LAST_PRIMARY),
        (state.handshake, HANDSHAKE),
        (state.resuming, RESUMING),
    ] {
        flags |= if set { flag } else { 0 };
    }
    out.extend_from_slice(&[role, disk, flags, 0, 0, 0, 0, 0]);
    put_u64s(out, &[state.generations.current, state.generations.bitmap]);
    put_u64s(out, &state.generations.history);
    put_u64s(
        out,
        &[
            state.dirty_blocks,
            state.suspect_extents,
            state.epoch,
            state.promised,
            state.diverged_at_s,
            state.changed_at_s,
        ],
    );
}

pub(super) fn state(body: &[u8]) -> Result<NodeState, FrameError> {
    debug_assert_eq!(body.len(), STATE_LEN);
    let role = match body[0] {
        1 => Role::Primary,
        2 => Role::Secondary,
        other => return Err(invalid(Kind::State, format!("unknown role {other}"))),
    };
    let disk = match body[1] {
        0 => DiskState::Diskless,
        1 => DiskState::Inconsistent,
        2 => DiskState::Outdated,
        3 => DiskState::Consistent,
        4 => DiskState::UpToDate,
        other => return Err(invalid(Kind::State, format!("unknown disk state {other}"))),
    };
    let flags = body[2];
    if flags & !STATE_FLAGS != 0 || body[3..8] != [0; 5] {
        return Err(invalid(
            Kind::State,
            format!("unknown flags {:02x?}", &body[2..8]),
        ));
    }
    Ok(NodeState {
        role,
        disk,
        generations: Generations {
            current: u64_at(body, 8),
            bitmap: u64_at(body, 16),
            history: history_at(body, 24),
        },
        dirty_blocks: u64_at(body, 88),
        suspect_extents: u64_at(body, 96),
        full_sync: flags & FULL_SYNC != 0,
        crashed_primary: flags & CRASHED_PRIMARY != 0,
        last_primary: flags & LAST_PRIMARY != 0,
        epoch: u64_at(body, 104),
        promised: u64_at(body, 112),
        diverged_at_s: u64_at(body, 120),
        changed_at_s: u64_at(body, 128),
        resuming: flags & RESUMING != 0,
        handshake: flags & HANDSHAKE != 0,
    })
}

pub(super) fn put_runs(out: &mut Vec<u8>, runs: &[BlockRun]) {
    for run in runs {
        put_u64s(out, &[run.first, run.count]);
    }
}

pub(super) fn runs(kind: Kind, body: &[u8]) -> Result<Vec<BlockRun>, FrameError> {
    let pairs = pairs(kind, body, "run", "blocks")?;
    Ok(pairs
        .into_iter()
        .map(|(first, count)| BlockRun { first, count })
        .collect())
}

/// Places where something begins, and how much of it there is: not empty, and no wrap.
fn pairs(kind: Kind, body: &[u8], what: &str, unit: &str) -> Result<Vec<(u64, u64)>, FrameError> {
    let pieces = whole_pieces(kind, body, RUN_LEN)?;
    pieces
        .map(|piece| {
            let (first, count) = (u64_at(piece, 0), u64_at(piece, 8));
            if count == 0 || first.checked_add(count).is_none() {
                return Err(invalid(kind, format!("a {what} of {count} {unit} from {first}")));
            }
            Ok((first, count))
        })
        .collect()
}

pub(super) fn put_hot_ranges(out: &mut Vec<u8>, ranges: &[HotRange]) {
    for range in ranges {
        put_u64s(out, &[range.offset, range.len]);
    }
}

pub(super) fn hot_ranges(body: &[u8]) -> Result<Vec<HotRange>, FrameError> {
    let pairs = pairs(Kind::HotRanges, body, "range", "bytes")?;
    Ok(pairs
        .into_iter()
        .map(|(offset, len)| HotRange { offset, len })
        .collect())
}

pub(super) fn put_hashes(out: &mut Vec<u8>, hashes: &[u128]) {
    for hash in hashes {
        out.extend_from_slice(&hash.to_le_bytes());
    }
}

pub(super) fn hash(body: &[u8]) -> u128 {
    u128::from_le_bytes(array_at(body, 0))
}

pub(super) fn hash_pair(body: &[u8]) -> (u128, u128) {
    debug_assert_eq!(body.len(), HASH_PAIR_LEN);
    (hash(body), hash(&body[HASH_LEN..]))
}

pub(super) fn hashes(kind: Kind, body: &[u8]) -> Result<Vec<u128>, FrameError> {
    Ok(whole_pieces(kind, body, HASH_LEN)?.map(hash).collect())
}

fn whole_pieces(kind: Kind, body: &[u8], size: usize) -> Result<std::slice::ChunksExact<'_, u8>, FrameError> {
    if !body.len().is_multiple_of(size) {
        let what = format!("{} bytes are no multiple of {size}", body.len());
        return Err(invalid(kind, what));
    }
    Ok(body.chunks_exact(size))
}

pub(super) fn put_resync_end(out: &mut Vec<u8>, current: u64, history: &[u64; HISTORY_LEN], id: &[u8; 16]) {
    put_u64s(out, &[current]);
    put_u64s(out, history);
    out.extend_from_slice(id);
}

/// The current generation, its history, the resource id.
pub(super) fn resync_end(body: &[u8]) -> (u64, [u64; HISTORY_LEN], [u8; 16]) {
    debug_assert_eq!(body.len(), RESYNC_END_LEN);
    (u64_at(body, 0), history_at(body, 8), array_at(body, 72))
}
