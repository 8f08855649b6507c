//! A client of the NBD server, from its first byte: handshake and requests.

use std::sync::Arc;

use _engine::front::nbd::{Event, Export, ExportInfo, Kind, Session, MIN_RECEIVE_BUFFER};

use super::mutate::Rng;
use super::runner::Target;

pub const TARGET: Target = Target {
    name: "nbd",
    corpus,
    words: &[
        b"IHAVEOPT",
        b"\x25\x60\x95\x13",
        b"\0\0\0\x07",
        b"\0\0\0\x0a",
        b"base:allocation",
        b"base:",
        b"r0",
        b"\n",
    ],
    mend,
    check,
    // Three sessions, each with all it answers.
    memory: |input| 1024 * input.len() + (64 << 10),
    runs: 60_000,
};

/// What one call may append: the answer to an option with as many queries as there may be.
const ANSWER_MAX: usize = 16 << 10;
const OPTION_MAGIC: [u8; 8] = *b"IHAVEOPT";
const REQUEST_MAGIC: [u8; 4] = [0x25, 0x60, 0x95, 0x13];

/// The first byte of an input says how the client comes and what it meets.
fn session(choice: u8) -> Session {
    let mut info = ExportInfo::new("r0", 1 << 20);
    info.description = "a disk".to_owned();
    info.read_only = choice & 2 != 0;
    if choice & 4 != 0 {
        (info.min_block, info.max_payload) = (4096, 64 << 10);
    }
    let export = Arc::new(Export::new(info).expect("a valid export"));
    if choice & 1 != 0 {
        Session::transmission(export)
    } else {
        Session::handshake(export)
    }
}

fn check(input: &[u8]) -> Result<String, String> {
    let (&choice, stream) = input.split_first().unwrap_or((&0, &[]));
    let whole = talk(choice, stream, usize::MAX)?;
    for piece in [1, 1 + usize::from(input.last().copied().unwrap_or(0))] {
        let split = talk(choice, stream, piece)?;
        if whole != split {
            return Err(format!(
                "in pieces of {piece} bytes it is answered differently: {whole:?}, {split:?}"
            ));
        }
    }
    let events: Vec<String> = whole
        .events
        .iter()
        .take(3)
        .map(|event| event.chars().take(24).collect())
        .collect();
    Ok(format!("{events:?} {}", whole.answered.len().min(256) / 16))
}

#[derive(Debug, PartialEq, Eq)]
struct Talk {
    events: Vec<String>,
    answered: Vec<u8>,
}

fn talk(choice: u8, stream: &[u8], piece: usize) -> Result<Talk, String> {
    let mut session = session(choice);
    let info = session_info(choice);
    let mut talk = Talk {
        events: Vec::new(),
        answered: Vec::new(),
    };
    session.start(&mut talk.answered);
    let (mut at, mut there) = (0, stream.len().min(piece));
    loop {
        let unread = &stream[at..there];
        let before = talk.answered.len();
        let step = match session.next(unread, &mut talk.answered) {
            Ok(step) => step,
            Err(error) => {
                let text = error.to_string();
                if text.is_empty() || text.len() > 1024 || text.chars().any(char::is_control) {
                    return Err(format!("an error unfit for a log line: {text:?}"));
                }
                // A stream that went wrong stays wrong: nothing of it is obeyed any more.
                let after = session
                    .next(unread, &mut talk.answered)
                    .map_err(|error| error.to_string())?;
                if after.event.is_some() || after.consumed != unread.len() {
                    return Err("after a violation it goes on".to_owned());
                }
                talk.events.push(text);
                return Ok(talk);
            }
        };
        if talk.answered.len() - before > ANSWER_MAX {
            return Err(format!(
                "one call appended {} bytes",
                talk.answered.len() - before
            ));
        }
        if step.consumed > unread.len() {
            return Err(format!("{} bytes consumed of {}", step.consumed, unread.len()));
        }
        at += step.consumed;
        match step.event {
            Some(Event::Request(request)) => {
                let end = request.offset.checked_add(u64::from(request.length));
                if end.is_none_or(|end| end > info.size_bytes) {
                    return Err(format!("a request beyond the end: {request:?}"));
                }
                if (request.offset | u64::from(request.length)) % u64::from(info.min_block) != 0 {
                    return Err(format!("an unaligned request: {request:?}"));
                }
                let carries = matches!(request.kind, Kind::Read | Kind::Write | Kind::Cache);
                if carries && request.length > info.max_payload {
                    return Err(format!("a request too long: {request:?}"));
                }
                let changes = matches!(request.kind, Kind::Write | Kind::Trim | Kind::WriteZeroes { .. });
                if changes && info.read_only {
                    return Err(format!("a change of a read-only export: {request:?}"));
                }
                talk.events.push(format!("{request:?}"));
                if request.kind == Kind::Write {
                    // The payload is the caller's to take, however it comes.
                    at += request.length as usize;
                    if at > stream.len() {
                        return Ok(talk);
                    }
                    there = there.max(at);
                }
            }
            Some(event) => talk.events.push(format!("{event:?}")),
            None if step.needs_more() => {
                if unread.len() >= MIN_RECEIVE_BUFFER {
                    return Err(format!(
                        "with a full buffer of {} bytes it wants more",
                        unread.len()
                    ));
                }
                if there == stream.len() {
                    return Ok(talk);
                }
                there = there.saturating_add(piece).min(stream.len());
            }
            None => {}
        }
    }
}

fn session_info(choice: u8) -> ExportInfo {
    let mut info = ExportInfo::new("r0", 1 << 20);
    info.read_only = choice & 2 != 0;
    if choice & 4 != 0 {
        (info.min_block, info.max_payload) = (4096, 64 << 10);
    }
    info
}

/// Puts magics back, and lengths of options to what follows them.
fn mend(mut input: Vec<u8>, rng: &mut Rng) -> Vec<u8> {
    let Some(&choice) = input.first() else {
        return input;
    };
    let mut at = 1;
    if choice & 1 == 0 {
        if input.len() < 5 {
            return input;
        }
        if !rng.one_in(16) {
            input[1..5].copy_from_slice(&[0, 0, 0, rng.below(4) as u8]);
        }
        at = 5;
        while input.len() >= at + 16 && input[at..at + 4] != REQUEST_MAGIC {
            input[at..at + 8].copy_from_slice(&OPTION_MAGIC);
            let next = input[at + 16..]
                .windows(4)
                .position(|bytes| bytes == &OPTION_MAGIC[..4] || bytes == REQUEST_MAGIC);
            let length = next.unwrap_or(input.len() - at - 16);
            if !rng.one_in(8) {
                input[at + 12..at + 16].copy_from_slice(&(length as u32).to_be_bytes());
            }
            at += 16 + length;
        }
    }
    while input.len() >= at + 28 {
        input[at..at + 4].copy_from_slice(&REQUEST_MAGIC);
        let write = input[at + 6..at + 8] == [0, 1];
        let length = u32::from_be_bytes(input[at + 24..at + 28].try_into().expect("four bytes")) as usize;
        at += 28 + if write { length } else { 0 };
    }
    input
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let length = data.len() as u32;
    [
        &OPTION_MAGIC[..],
        &option.to_be_bytes(),
        &length.to_be_bytes(),
        data,
    ]
    .concat()
}

fn request(flags: u16, command: u16, offset: u64, length: u32, payload: &[u8]) -> Vec<u8> {
    let (flags, command) = (flags.to_be_bytes(), command.to_be_bytes());
    let (offset, length) = (offset.to_be_bytes(), length.to_be_bytes());
    [
        &REQUEST_MAGIC[..],
        &flags,
        &command,
        &7_u64.to_be_bytes(),
        &offset,
        &length,
        payload,
    ]
    .concat()
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u32).to_be_bytes()[..], value.as_bytes()].concat()
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let flags = [0, 0, 0, 3].to_vec();
    let go = option(7, &[text("r0"), vec![0, 2, 0, 1, 0, 3]].concat());
    let context = option(
        10,
        &[text("r0"), vec![0, 0, 0, 1], text("base:allocation")].concat(),
    );
    let requests = [
        request(1, 1, 4096, 512, &[b'w'; 512]),
        request(0, 0, 4096, 4096, &[]),
        request(0, 3, 0, 0, &[]),
        request(0, 4, 8192, 4096, &[]),
        request(2, 6, 0, 1 << 20, &[]),
        request(0, 5, 0, 4096, &[]),
        request(8, 7, 0, 8192, &[]),
        request(0, 2, 0, 0, &[]),
    ]
    .concat();
    let refused = [
        request(0, 1, 1 << 20, 512, &[b'w'; 512]),
        request(0, 9, 0, 512, &[]),
        request(0, 0, 1, 511, &[]),
    ]
    .concat();
    let file = |name: &str, choice: u8, parts: &[Vec<u8>]| {
        (name.to_owned(), [vec![choice], parts.concat()].concat())
    };
    vec![
        file(
            "go",
            0,
            &[flags.clone(), option(8, &[]), context, go, requests.clone()],
        ),
        file(
            "list",
            0,
            &[
                flags.clone(),
                option(3, &[]),
                option(6, &text("x")),
                option(99, b"?"),
                option(2, &[]),
            ],
        ),
        file("export-name", 0, &[flags, option(1, b"r0"), requests.clone()]),
        file("kernel", 1, &[requests.clone(), refused.clone()]),
        file("read-only", 3, &[requests.clone(), refused.clone()]),
        file("large-blocks", 5, &[requests, refused]),
    ]
}
