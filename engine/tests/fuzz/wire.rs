//! Replication frames, as a listener and then a connection read them.

use std::mem::discriminant;

use _engine::payload::Payload;
use _engine::wire::{
    decode_hello, encode, negotiate, BlockRun, Decoder, DiskState, FrameError, Generations, GoodbyeReason,
    Hello, HelloStep, HotRange, Intent, Message, NodeState, Protocol, Role, SessionHello, SessionId,
    SplitBrainPolicy, Step, HEADER_LEN, HELLO_BODY_MAX, HISTORY_LEN, INLINE_FRAME_MAX, MAGIC, PAYLOAD_MAX,
};
use xxhash_rust::xxh3::xxh3_64;

use super::mutate::Rng;
use super::runner::Target;

pub const TARGET: Target = Target {
    name: "wire",
    corpus,
    words: &[&MAGIC, b"r0", b"a", b"\x80", b"\n", b"\x1b["],
    mend,
    check,
    // Messages are compared in their encoded form: twice the input, and the texts of one error.
    memory: |input| 6 * input.len() + (64 << 10),
    runs: 100_000,
};

const EPOCH: u64 = 3;

fn check(input: &[u8]) -> Result<String, String> {
    first_frame(input)?;
    let whole = read(input, usize::MAX)?;
    // The pieces' sizes come from the input too, so that a failing one replays.
    for piece in [1, 1 + usize::from(input.last().copied().unwrap_or(0))] {
        let split = read(input, piece)?;
        let same_end = match (&whole.end, &split.end) {
            (End::Error(a), End::Error(b)) => discriminant(a) == discriminant(b),
            (a, b) => discriminant(a) == discriminant(b),
        };
        if whole.messages != split.messages || !same_end {
            return Err(format!(
                "in pieces of {piece} bytes it reads differently: {:?}, {:?}",
                whole.end, split.end
            ));
        }
    }
    let kinds: Vec<u8> = whole.messages.iter().take(2).map(|frame| frame[4]).collect();
    Ok(match &whole.end {
        End::Error(error) => format!("{kinds:?} {:?} {}", discriminant(error), class(error)),
        end => format!("{kinds:?} {:?}", discriminant(end)),
    })
}

/// Digits vary without end; words tell one reason from another.
fn class(error: &FrameError) -> String {
    error
        .to_string()
        .chars()
        .filter(|c| !c.is_ascii_digit())
        .take(48)
        .collect()
}

#[derive(Debug)]
enum End {
    /// All bytes were used up, or more are awaited: of a header or body, or of a payload.
    Incomplete,
    Payload,
    Error(FrameError),
}

struct Reading {
    /// Each message as this build encodes it.
    messages: Vec<Vec<u8>>,
    end: End,
}

/// Reads a stream of which `piece` bytes more are there each time.
fn read(input: &[u8], piece: usize) -> Result<Reading, String> {
    let mut decoder = Decoder::new();
    let (mut at, mut there) = (0, input.len().min(piece));
    let mut messages = Vec::new();
    loop {
        let unread = &input[at..there];
        let end = match decoder.next(unread) {
            Err(error) => {
                return Ok(Reading {
                    messages,
                    end: End::Error(fit_to_log(error)?),
                })
            }
            Ok(Step::Message {
                consumed,
                epoch,
                message,
            }) => {
                if consumed > unread.len() {
                    return Err(format!("{consumed} bytes consumed of {}", unread.len()));
                }
                messages.push(same_bytes(&message, epoch, &unread[..consumed])?);
                at += consumed;
                continue;
            }
            Ok(Step::Payload {
                consumed,
                payload_len,
            }) => {
                if payload_len == 0 || payload_len > PAYLOAD_MAX as usize {
                    return Err(format!("a payload of {payload_len} bytes is announced"));
                }
                let header = at;
                at += consumed;
                match input[..there].get(at..at + payload_len) {
                    Some(payload) => {
                        let (epoch, message) = match decoder.finish(Payload::copy_from(payload)) {
                            Ok(done) => done,
                            Err(error) => {
                                return Ok(Reading {
                                    messages,
                                    end: End::Error(fit_to_log(error)?),
                                })
                            }
                        };
                        at += payload_len;
                        // A header that came in an earlier piece lies right before its payload.
                        let start = if consumed == 0 {
                            header - HEADER_LEN
                        } else {
                            header
                        };
                        messages.push(same_bytes(&message, epoch, &input[start..at])?);
                        continue;
                    }
                    None => End::Payload,
                }
            }
            Ok(Step::NeedMore { bytes }) => {
                if bytes <= unread.len() || bytes > INLINE_FRAME_MAX {
                    return Err(format!(
                        "{} bytes are there and it asks for {bytes}",
                        unread.len()
                    ));
                }
                End::Incomplete
            }
        };
        if there == input.len() {
            return Ok(Reading { messages, end });
        }
        there = there.saturating_add(piece).min(input.len());
    }
}

/// What was decoded encodes to the bytes it came from; a Hello and a Goodbye may have had more than we know of, and words
/// for people what no terminal should be told.
fn same_bytes(message: &Message, epoch: u64, frame: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    if let Some(payload) = encode(message, epoch, &mut bytes) {
        bytes.extend_from_slice(&payload);
    }
    let changed = matches!(
        message,
        Message::Hello(_) | Message::Goodbye { .. } | Message::VerifySaved { .. }
    );
    if !changed && bytes != frame {
        return Err(format!("{message:?} does not encode to the bytes it came from"));
    }
    if changed {
        match Decoder::new().next(&bytes) {
            Ok(Step::Message { message: again, .. }) if again == *message => {}
            other => return Err(format!("{message:?} encodes to something else: {other:?}")),
        }
    }
    Ok(bytes)
}

/// An error reaches the log and an administrator: it has words, not too many, and nothing that moves the cursor.
fn fit_to_log(error: FrameError) -> Result<FrameError, String> {
    let text = error.to_string();
    if text.is_empty() || text.len() > 1024 || text.chars().any(char::is_control) {
        return Err(format!("an error unfit for a log line: {text:?}"));
    }
    Ok(error)
}

/// The listener reads exactly the bytes it is told to, up to a Hello, and compares it with its own.
fn first_frame(input: &[u8]) -> Result<(), String> {
    let mut there = 0;
    loop {
        match decode_hello(&input[..there]) {
            Ok(HelloStep::NeedMore { bytes }) => {
                if bytes <= there || bytes > HEADER_LEN + HELLO_BODY_MAX {
                    return Err(format!("with {there} bytes of a Hello it asks for {bytes}"));
                }
                if bytes > input.len() {
                    return Ok(());
                }
                there = bytes;
            }
            Ok(HelloStep::Hello { hello, .. }) => {
                for name in [&hello.resource, &hello.node, &hello.peer] {
                    if name.is_empty() || name.chars().any(char::is_control) {
                        return Err(format!("a Hello with the name {name:?}"));
                    }
                }
                let mine = self::hello();
                let verdicts = [negotiate(&mine, &hello), negotiate(&hello, &mine)];
                return match verdicts {
                    [Ok(a), Ok(b)] if a == b => Ok(()),
                    [Err((_, a)), Err((_, b))] if !a.is_empty() && !b.is_empty() => Ok(()),
                    other => Err(format!("the two sides come to different verdicts: {other:?}")),
                };
            }
            Err(error) => return fit_to_log(error).map(drop),
        }
    }
}

/// Walks the frames and renews length, digest and check of each.
fn mend(mut input: Vec<u8>, rng: &mut Rng) -> Vec<u8> {
    let mut at = 0;
    while input.len() >= at + HEADER_LEN {
        let rest = input.len() - at - HEADER_LEN;
        let header = &input[at..at + HEADER_LEN];
        let told = u32::from_le_bytes(header[8..12].try_into().expect("four bytes")) as usize;
        // Where the next frame begins, if there is one; else a length that does not fit is believed now and then.
        let next = input[at + HEADER_LEN..]
            .windows(4)
            .position(|bytes| bytes == MAGIC);
        let len = match next {
            _ if told <= rest && !rng.one_in(4) => told,
            Some(next) => next,
            None if rng.one_in(4) => told,
            None => rest,
        };
        let held = len.min(rest);
        let digest = if len == 0 {
            0
        } else {
            xxh3_64(&input[at + HEADER_LEN..at + HEADER_LEN + held])
        };
        let header = &mut input[at..at + HEADER_LEN];
        header[..4].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&(len as u32).to_le_bytes());
        header[48..56].copy_from_slice(&digest.to_le_bytes());
        let check = xxh3_64(&header[..56]);
        header[56..].copy_from_slice(&check.to_le_bytes());
        at += HEADER_LEN + held;
    }
    input
}

fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        features: 7,
        resource: "r0".into(),
        resource_id: [5; 16],
        node: "a".into(),
        peer: "b".into(),
        data_size_bytes: 1 << 30,
        block_size_bytes: 4096,
        protocol: Protocol::C,
        channel: 0,
        nonce: 7,
        intent: Intent::Replicate,
        policy: SplitBrainPolicy::Manual,
        priority: 9,
        session: None,
    }
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let payload = Payload::copy_from(b"block data");
    let (seq, id, offset, len, epoch, history) = (3, 4, 8192, 4096, EPOCH, [7; HISTORY_LEN]);
    let generations = Generations {
        current: 9,
        bitmap: 8,
        history,
    };
    let state = NodeState {
        role: Role::Primary,
        disk: DiskState::UpToDate,
        generations,
        dirty_blocks: 5,
        suspect_extents: 6,
        full_sync: true,
        crashed_primary: false,
        last_primary: true,
        epoch,
        promised: 4,
        diverged_at_s: 0,
        changed_at_s: 1,
        resuming: false,
        handshake: true,
    };
    let theirs = Hello {
        node: "b".into(),
        peer: "a".into(),
        intent: Intent::DiscardMine { bundle: false },
        ..hello()
    };
    let joining = Hello {
        intent: Intent::Join,
        session: Some(SessionHello {
            id: SessionId([3; 16]),
            path: 1,
            paths: 2,
        }),
        ..theirs.clone()
    };
    let runs = vec![BlockRun { first: 1, count: 2 }, BlockRun { first: 9, count: 1 }];
    let ranges = vec![HotRange { offset, len: 65536 }];
    let (zero, hash, last, unmap, fua) = (false, 77, true, true, true);
    let groups: Vec<(&str, Vec<Message>)> = vec![
        ("hello", vec![Message::Hello(theirs), Message::State(state)]),
        (
            "goodbye",
            vec![Message::Goodbye {
                reason: GoodbyeReason::Size,
                text: "too small".into(),
            }],
        ),
        (
            "ping",
            vec![
                Message::Ping { sent_ns: 1 },
                Message::Pong {
                    sent_ns: 1,
                    lease_ns: 0,
                },
            ],
        ),
        (
            "write",
            vec![
                Message::Write {
                    seq,
                    offset,
                    payload: payload.clone(),
                    fua,
                },
                Message::Received { seq },
            ],
        ),
        (
            "zeroes",
            vec![
                Message::WriteZeroes {
                    seq,
                    offset,
                    len: 1 << 40,
                    fua,
                    unmap,
                },
                Message::Trim {
                    seq,
                    offset,
                    len: 512,
                    fua,
                },
                Message::Flush { seq },
                Message::Done { seq, status: 5 },
            ],
        ),
        (
            "read",
            vec![
                Message::Detached,
                Message::DetachedOk,
                Message::ReadRequest { id, offset, len },
                Message::ReadData {
                    id,
                    offset,
                    payload: payload.clone(),
                },
                Message::ReadFailed { id, status: 5 },
            ],
        ),
        (
            "roles",
            vec![
                Message::PromoteRequest,
                Message::PromoteReply { allowed: true },
                Message::SyncRequest,
                Message::SyncReply { allowed: false },
            ],
        ),
        (
            "bitmap",
            vec![
                Message::BitmapRuns { runs, last },
                Message::ResyncStart { blocks: 3 },
                Message::HotRanges { ranges },
            ],
        ),
        (
            "chunks",
            vec![
                Message::ChunkHash {
                    id,
                    offset,
                    len,
                    hash,
                    zero,
                },
                Message::ChunkSame { id },
                Message::ChunkDiffers {
                    id,
                    hashes: vec![1, 2],
                },
                Message::ChunkData {
                    id,
                    offset,
                    payload: payload.clone(),
                },
                Message::ChunkWhole { id, offset, payload },
                Message::ChunkEnd { id },
                Message::ChunkDone { id, status: 0 },
            ],
        ),
        (
            "verify",
            vec![
                Message::VerifyChunk {
                    id,
                    offset,
                    len,
                    hash,
                    ordered: true,
                },
                Message::VerifySame { id },
                Message::VerifyDiffers {
                    id,
                    hashes: vec![1, 2],
                },
                Message::VerifyFailed { id, status: 5 },
                Message::VerifyProved {
                    offset,
                    len: u64::from(len),
                },
                Message::VerifyFound {
                    offset,
                    len,
                    own: hash,
                    peer: 2,
                },
                Message::VerifySave {
                    runs: vec![BlockRun { first: 1, count: 2 }],
                },
                Message::VerifySaved {
                    saved: true,
                    text: "fine".into(),
                },
            ],
        ),
        (
            "resync-end",
            vec![
                Message::ResyncEnd {
                    current: 9,
                    history,
                    resource_id: [1; 16],
                },
                Message::ResyncEnded { current: 9 },
            ],
        ),
        (
            "paths",
            vec![
                Message::Hello(joining),
                Message::PathResume { turn: 2, received: 7 },
                Message::PathAcknowledge { received: 9 },
            ],
        ),
        (
            "report",
            vec![Message::Report {
                text: "{\"files\":[]}".into(),
            }],
        ),
    ];
    let bytes = |messages: Vec<Message>| {
        let mut out = Vec::new();
        for message in messages {
            if let Some(payload) = encode(&message, EPOCH, &mut out) {
                out.extend_from_slice(&payload);
            }
        }
        out
    };
    groups
        .into_iter()
        .map(|(name, messages)| (name.to_owned(), bytes(messages)))
        .collect()
}
