use super::*;
use crate::front::nbd::wire::{cmd, Writer, OPTION_MAGIC, REQUEST_MAGIC};
use crate::front::nbd::{ErrorCode, ExportInfo, ReceiveBuffer};
use proptest::prelude::*;

const SIZE: u64 = 1 << 20;

/// Most bytes that a call of `next` may add to what is to be sent: an export's longest name and description,
/// twice, and some framing.
const MOST_ADDED: usize = 20 << 10;

fn export() -> Arc<Export> {
    let info = ExportInfo {
        min_block: 1,
        max_payload: 64 << 10,
        ..ExportInfo::new("r0", SIZE)
    };
    Arc::new(
        Export::new(ExportInfo {
            preferred_block: 512,
            ..info
        })
        .unwrap(),
    )
}

fn request(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u32(REQUEST_MAGIC);
    bytes.put_u16(flags);
    bytes.put_u16(command);
    bytes.put_u64(cookie);
    bytes.put_u64(offset);
    bytes.put_u32(length);
    bytes
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u64(OPTION_MAGIC);
    bytes.put_u32(number);
    bytes.put_u32(data.len() as u32);
    bytes.put(data);
    bytes
}

/// Flags, structured replies, `base:allocation`, GO.
fn opening() -> Vec<u8> {
    let context = [&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 15][..], b"base:allocation"].concat();
    [
        vec![0, 0, 0, 3],
        option(8, b""),
        option(10, &context),
        option(7, b"\0\0\0\x02r0\0\0"),
    ]
    .concat()
}

/// What a connection came to.
#[derive(Debug, Default, PartialEq)]
struct Trace {
    events: Vec<Event>,
    payloads: Vec<Vec<u8>>,
    out: Vec<u8>,
    error: Option<ProtocolError>,
}

/// Plays the reactor: receives `stream` in pieces of the given sizes (over and over) and takes the payloads.
fn play(mut session: Session, stream: &[u8], pieces: &[usize]) -> Trace {
    let mut trace = Trace::default();
    session.start(&mut trace.out);
    let mut buffer = ReceiveBuffer::new(MIN_RECEIVE_BUFFER);
    let mut payload_left = 0;
    let (mut rest, mut pieces) = (stream, pieces.iter().cycle());
    loop {
        while payload_left > 0 && !buffer.data().is_empty() {
            let mut part = vec![0; buffer.data().len().min(payload_left)];
            payload_left -= buffer.take(&mut part);
            trace
                .payloads
                .last_mut()
                .expect("a write came before")
                .extend(part);
        }
        let before = trace.out.len();
        // With payload outstanding, everything received was taken, so there is nothing to look at.
        match session.next(buffer.data(), &mut trace.out) {
            Err(error) => {
                trace.error = Some(error);
                return trace;
            }
            Ok(step) => {
                assert!(
                    trace.out.len() - before <= MOST_ADDED,
                    "{} bytes added",
                    trace.out.len() - before
                );
                buffer.consume(step.consumed);
                trace.events.extend(step.event);
                if let Some(Event::Request(Request {
                    kind: Kind::Write,
                    length,
                    ..
                })) = step.event
                {
                    payload_left = length as usize;
                    trace.payloads.push(Vec::new());
                }
                if !step.needs_more() {
                    continue;
                }
            }
        }
        if rest.is_empty() {
            return trace;
        }
        let space = buffer.space();
        let count = space.len().min(rest.len()).min(*pieces.next().expect("cycled"));
        assert!(!space.is_empty(), "the session left a full buffer and wants more");
        space[..count].copy_from_slice(&rest[..count]);
        buffer.filled(count);
        rest = &rest[count..];
    }
}

fn requests(trace: &Trace) -> Vec<Request> {
    let of = |event: &Event| {
        if let Event::Request(request) = event {
            Some(*request)
        } else {
            None
        }
    };
    trace.events.iter().filter_map(of).collect()
}

#[test]
fn a_connection_from_greeting_to_leave() {
    let stream = [
        opening(),
        request(1, cmd::WRITE, 1, 4096, 4),
        b"data".to_vec(),
        request(0, cmd::READ, 2, 4096, 4),
        request(0, cmd::FLUSH, 3, 0, 0),
        request(0, cmd::DISC, 4, 0, 0),
    ]
    .concat();
    let trace = play(Session::handshake(export()), &stream, &[usize::MAX]);
    let request = |cookie, kind, offset, length, fua| Request {
        cookie,
        kind,
        offset,
        length,
        fua,
    };
    let expected = [
        Event::Ready,
        Event::Request(request(1, Kind::Write, 4096, 4, true)),
        Event::Request(request(2, Kind::Read, 4096, 4, false)),
        Event::Request(request(3, Kind::Flush, 0, 0, false)),
        Event::Disconnect,
    ];
    assert_eq!(trace.events, expected);
    assert_eq!(trace.payloads, [b"data"]);
    assert_eq!(trace.error, None);
    assert!(trace.out.starts_with(b"NBDMAGICIHAVEOPT\0\x03"));
}

#[test]
fn a_kernel_client_starts_with_requests_and_gets_simple_replies() {
    let session = Session::transmission(export());
    let mut out = Vec::new();
    session.start(&mut out);
    assert!(out.is_empty() && session.is_ready() && !session.replies().structured());
    let trace = play(session, &request(0, cmd::READ, 9, 0, 512), &[usize::MAX]);
    assert_eq!(requests(&trace).len(), 1);
    assert!(trace.out.is_empty());
}

#[test]
fn a_refused_write_is_skipped_and_answered_after_its_payload() {
    let write = request(0, cmd::WRITE, 5, SIZE, 3);
    let mut session = Session::transmission(export());
    let mut out = Vec::new();
    assert_eq!(
        session.next(&write, &mut out),
        Ok(Step {
            consumed: 28,
            event: None
        })
    );
    assert_eq!(
        session.next(b"", &mut out),
        Ok(Step {
            consumed: 0,
            event: None
        })
    );
    assert_eq!(
        session.next(b"ab", &mut out),
        Ok(Step {
            consumed: 2,
            event: None
        })
    );
    assert!(out.is_empty());
    assert_eq!(
        session.next(b"cNEXT", &mut out),
        Ok(Step {
            consumed: 1,
            event: None
        })
    );
    assert_eq!(out, [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 5]);
    let next = request(0, cmd::READ, 6, 0, 1);
    assert!(matches!(
        session.next(&next, &mut out).unwrap().event,
        Some(Event::Request(_))
    ));
}

#[test]
fn empty_requests_are_answered_in_the_negotiated_form() {
    let chunk = |cookie: u8| [&[0x66, 0x8e, 0x33, 0xef, 0, 1][..], &[0; 9], &[cookie], &[0; 4]].concat();
    let empty = |cookie, command| request(0, command, cookie, 512, 0);
    let stream = [empty(1, cmd::READ), empty(2, cmd::WRITE), empty(3, cmd::TRIM)].concat();
    let structured = play(
        Session::handshake(export()),
        &[opening(), stream.clone()].concat(),
        &[usize::MAX],
    );
    assert!(structured.out.ends_with(&[chunk(1), chunk(2), chunk(3)].concat()));
    assert_eq!((requests(&structured), structured.payloads.len()), (vec![], 0));
    let simple = play(Session::transmission(export()), &stream, &[usize::MAX]);
    assert_eq!(simple.out.len(), 3 * 16);
}

#[test]
fn a_refusal_is_explained_where_the_client_can_read_it() {
    let trace = play(
        Session::handshake(export()),
        &[opening(), request(0, cmd::READ, 1, SIZE, 512)].concat(),
        &[usize::MAX],
    );
    let text = format!("512 bytes at {SIZE} reach beyond the export's {SIZE} bytes");
    assert!(trace.out.ends_with(text.as_bytes()));
    let head = &trace.out[trace.out.len() - text.len() - 6..];
    assert_eq!(head[..4], ErrorCode::Invalid.number().to_be_bytes());
}

#[test]
fn after_the_end_everything_is_ignored() {
    let after = request(0, cmd::READ, 1, 0, 512);
    for (last, end) in [
        (
            request(0, cmd::DISC, 0, 0, 0),
            Ok(Step {
                consumed: 28,
                event: Some(Event::Disconnect),
            }),
        ),
        (vec![0; 28], Err(ProtocolError::RequestMagic(0))),
    ] {
        let mut session = Session::transmission(export());
        let mut out = Vec::new();
        assert_eq!(session.next(&last, &mut out), end);
        assert_eq!(
            session.next(&after, &mut out),
            Ok(Step {
                consumed: 28,
                event: None
            })
        );
        assert!(out.is_empty() && !session.is_ready());
    }
    let abort = play(
        Session::handshake(export()),
        &[&[0, 0, 0, 3], &option(2, b"")[..], &after].concat(),
        &[7],
    );
    assert_eq!(abort.events, [Event::Disconnect]);
}

#[test]
fn the_longest_option_fits_the_least_buffer() {
    let stream = [
        vec![0, 0, 0, 3],
        option(99, &[0; MAX_OPTION_DATA]),
        opening()[4..].to_vec(),
    ]
    .concat();
    let trace = play(Session::handshake(export()), &stream, &[1000]);
    assert_eq!((trace.events, trace.error), (vec![Event::Ready], None));
}

#[test]
fn a_session_is_small_and_holds_nothing() {
    // No buffer can hide in it: bounded memory is the caller's buffer and what it has not sent yet.
    assert!(
        std::mem::size_of::<Session>() <= 128,
        "{}",
        std::mem::size_of::<Session>()
    );
}

/// Requests as clients send them and as they should not: any command and flags, in and out of range.
fn any_request() -> impl Strategy<Value = Vec<u8>> {
    let offset = prop_oneof![0..2 * SIZE, any::<u64>(), SIZE - 2000..SIZE];
    let length = prop_oneof![0_u32..2000, 0_u32..100_000];
    (
        prop_oneof![Just(0_u16), 0_u16..64],
        0_u16..10,
        any::<u64>(),
        offset,
        length,
    )
        .prop_map(|(flags, command, cookie, offset, length)| {
            let mut bytes = request(flags, command, cookie, offset, length);
            if command == cmd::WRITE {
                bytes.extend((0..length).map(|at| (at % 251) as u8));
            }
            bytes
        })
}

fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let options = prop::collection::vec((0_u32..12, prop::collection::vec(any::<u8>(), 0..64)), 0..6);
    let requests = prop::collection::vec(any_request(), 0..12);
    (options, requests).prop_map(|(options, requests)| {
        let mut bytes = vec![0, 0, 0, 3];
        let harmless = options.iter().filter(|(number, _)| ![1, 2, 7].contains(number));
        harmless.for_each(|(number, data)| bytes.extend(option(*number, data)));
        bytes.extend_from_slice(&opening()[4..]);
        requests.iter().for_each(|request| bytes.extend(request));
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_split_of_the_stream_comes_to_the_same(
        stream in any_stream(),
        pieces in prop::collection::vec(prop_oneof![1_usize..8, 1_usize..5000], 1..20),
    ) {
        let whole = play(Session::handshake(export()), &stream, &[usize::MAX]);
        prop_assert_eq!(whole.events.first(), Some(&Event::Ready));
        prop_assert_eq!(&whole.error, &None);
        for request in requests(&whole) {
            let end = request.offset.checked_add(u64::from(request.length));
            prop_assert!(end.is_some_and(|end| end <= SIZE), "{:?}", request);
        }
        prop_assert_eq!(play(Session::handshake(export()), &stream, &pieces), whole);
    }

    #[test]
    fn garbage_never_panics_nor_adds_much(
        kernel: bool,
        mut stream in any_stream(),
        garbage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        cut: prop::sample::Index,
        pieces in prop::collection::vec(1_usize..3000, 1..5),
    ) {
        if kernel {
            stream.drain(..stream.len().min(opening().len()));
        }
        for (at, byte) in garbage {
            if !stream.is_empty() {
                let at = at.index(stream.len());
                stream[at] = byte;
            }
        }
        stream.truncate(cut.index(stream.len() + 1));
        let session = || match kernel {
            true => Session::transmission(export()),
            false => Session::handshake(export()),
        };
        let whole = play(session(), &stream, &[usize::MAX]);
        let payload: usize = whole.payloads.iter().map(Vec::len).sum();
        prop_assert!(payload <= stream.len());
        prop_assert_eq!(play(session(), &stream, &pieces), whole);
    }

    #[test]
    fn noise_never_panics(kernel: bool, stream in prop::collection::vec(any::<u8>(), 0..4000)) {
        let session = if kernel { Session::transmission(export()) } else { Session::handshake(export()) };
        let trace = play(session, &stream, &[64]);
        prop_assert!(trace.error.is_some() || stream.len() < 28);
    }
}
