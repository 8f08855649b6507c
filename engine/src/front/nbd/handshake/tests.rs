use super::*;
use crate::front::nbd::ExportInfo;

const FIXED: u16 = handshake_flag::FIXED_NEWSTYLE;
const NO_ZEROES: u16 = handshake_flag::NO_ZEROES;

fn export() -> Export {
    let info = ExportInfo {
        description: "a disk".into(),
        ..ExportInfo::new("r0", 0x0102_0304_0506_0600)
    };
    Export::new(info).unwrap()
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.put_u32(option);
    bytes.put_u32(data.len() as u32);
    bytes.put(data);
    bytes
}

fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9];
    bytes.put_u32(option);
    bytes.put_u32(kind);
    bytes.put_u32(data.len() as u32);
    bytes.put(data);
    bytes
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text].concat()
}

fn info_data(name: &[u8], items: &[u16]) -> Vec<u8> {
    let mut data = string(name);
    data.put_u16(items.len() as u16);
    items.iter().for_each(|item| data.put_u16(*item));
    data
}

fn meta_data(name: &[u8], queries: &[&[u8]]) -> Vec<u8> {
    let mut data = string(name);
    data.put_u32(queries.len() as u32);
    queries.iter().for_each(|query| data.extend(string(query)));
    data
}

/// A handshake after the client's flags.
fn flagged(flags: u16) -> Handshake {
    let mut handshake = Handshake::new();
    let step = handshake.next(&u32::from(flags).to_be_bytes(), &export(), &mut Vec::new());
    assert_eq!(step, Ok((4, Outcome::Haggling)));
    handshake
}

/// Sends one option; gives the bytes of the reply and where the handshake stands.
fn send(handshake: &mut Handshake, number: u32, data: &[u8]) -> (Vec<u8>, Outcome) {
    let mut out = Vec::new();
    let bytes = option(number, data);
    let (consumed, outcome) = handshake.next(&bytes, &export(), &mut out).expect("no violation");
    assert_eq!(consumed, bytes.len());
    (out, outcome)
}

/// The type of the last reply in `bytes`, after checking that each is framed as it should be.
fn last_kind(bytes: &[u8]) -> u32 {
    let (mut reader, mut last) = (Reader(bytes), 0);
    while !reader.is_empty() {
        assert_eq!(reader.u64(), Some(OPTION_REPLY_MAGIC));
        reader.u32().unwrap();
        last = reader.u32().unwrap();
        reader.string().unwrap();
    }
    last
}

#[test]
fn the_greeting_is_byte_exact() {
    let mut out = Vec::new();
    Handshake::greet(&mut out);
    assert_eq!(out, b"NBDMAGICIHAVEOPT\0\x03");
}

#[test]
fn flags_that_were_not_offered_end_the_connection() {
    for flags in [4_u32, 1 << 16, u32::MAX] {
        let answer = Handshake::new().next(&flags.to_be_bytes(), &export(), &mut Vec::new());
        assert_eq!(answer, Err(ProtocolError::ClientFlags(flags, 3)));
    }
}

#[test]
fn export_name_is_byte_exact_with_and_without_zeroes() {
    let plain = [1, 2, 3, 4, 5, 6, 6, 0, 0x0d, 0x6d].to_vec();
    let chosen = Outcome::Chosen(Negotiated::default());
    for name in [&b""[..], b"r0"] {
        let short = send(&mut flagged(FIXED | NO_ZEROES), option::EXPORT_NAME, name);
        assert_eq!(short, (plain.clone(), chosen));
        let long = send(&mut flagged(FIXED), option::EXPORT_NAME, name);
        assert_eq!(long, ([&plain[..], &[0; 124]].concat(), chosen));
    }
}

#[test]
fn export_name_of_something_else_ends_the_connection() {
    let error = flagged(FIXED).next(&option(option::EXPORT_NAME, b"r1"), &export(), &mut Vec::new());
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("\"r1\"") && message.contains("\"r0\""),
        "{message}"
    );
}

#[test]
fn go_is_byte_exact() {
    for name in [&b""[..], b"r0"] {
        let mut handshake = flagged(FIXED | NO_ZEROES);
        let data = info_data(name, &[info::BLOCK_SIZE, info::NAME, info::DESCRIPTION, 99]);
        let expected = [
            reply(7, 3, &[0, 0, 1, 2, 3, 4, 5, 6, 6, 0, 0x0d, 0x6d]),
            reply(7, 3, b"\0\x01r0"),
            reply(7, 3, b"\0\x02a disk"),
            reply(7, 3, &[0, 3, 0, 0, 2, 0, 0, 0, 0x10, 0, 2, 0, 0, 0]),
            reply(7, 1, b""),
        ]
        .concat();
        assert_eq!(
            send(&mut handshake, option::GO, &data),
            (expected, Outcome::Chosen(Negotiated::default()))
        );
    }
}

#[test]
fn info_tells_the_same_and_stays_in_the_handshake() {
    let mut handshake = flagged(FIXED);
    let (info, outcome) = send(&mut handshake, option::INFO, &info_data(b"r0", &[]));
    let expected = [
        reply(6, 3, &[0, 0, 1, 2, 3, 4, 5, 6, 6, 0, 0x0d, 0x6d]),
        reply(6, 1, b""),
    ]
    .concat();
    assert_eq!((info, outcome), (expected, Outcome::Haggling));
    assert!(matches!(
        send(&mut handshake, option::GO, &info_data(b"r0", &[])).1,
        Outcome::Chosen(_)
    ));
}

#[test]
fn structured_replies_change_the_flags() {
    let mut handshake = flagged(FIXED);
    let (out, _) = send(&mut handshake, option::STRUCTURED_REPLY, b"");
    assert_eq!(out, reply(8, 1, b""));
    let (out, outcome) = send(&mut handshake, option::EXPORT_NAME, b"");
    assert_eq!(out[8..10], [0x0d, 0xed]);
    assert_eq!(
        outcome,
        Outcome::Chosen(Negotiated {
            structured: true,
            allocation: false
        })
    );
}

#[test]
fn an_unknown_export_is_refused_and_the_handshake_goes_on() {
    let mut handshake = flagged(FIXED);
    for option in [option::INFO, option::GO] {
        let (out, outcome) = send(&mut handshake, option, &info_data(b"r1", &[]));
        assert_eq!((last_kind(&out), outcome), (rep::ERR_UNKNOWN, Outcome::Haggling));
    }
    assert!(matches!(
        send(&mut handshake, option::GO, &info_data(b"r0", &[])).1,
        Outcome::Chosen(_)
    ));
}

#[test]
fn list_is_byte_exact() {
    let (out, outcome) = send(&mut flagged(FIXED), option::LIST, b"");
    assert_eq!(
        out,
        [reply(3, 2, b"\0\0\0\x02r0a disk"), reply(3, 1, b"")].concat()
    );
    assert_eq!(outcome, Outcome::Haggling);
}

#[test]
fn abort_is_acknowledged_whatever_comes_with_it() {
    for data in [&b""[..], b"bye"] {
        assert_eq!(
            send(&mut flagged(FIXED), option::ABORT, data),
            (reply(2, 1, b""), Outcome::Aborted)
        );
    }
}

#[test]
fn options_of_other_servers_are_refused() {
    let mut handshake = flagged(FIXED);
    for number in [0, 4, 5, 11, u32::MAX] {
        let (out, outcome) = send(&mut handshake, number, b"data");
        assert_eq!(
            (last_kind(&out), outcome),
            (rep::ERR_UNSUP, Outcome::Haggling),
            "option {number}"
        );
    }
}

#[test]
fn malformed_data_is_refused_and_the_handshake_goes_on() {
    let mut handshake = flagged(FIXED);
    send(&mut handshake, option::STRUCTURED_REPLY, b"");
    let long = vec![b'x'; MAX_STRING + 1];
    let cases: &[(u32, Vec<u8>)] = &[
        (option::LIST, b"x".to_vec()),
        (option::STRUCTURED_REPLY, b"x".to_vec()),
        (option::GO, b"".to_vec()),
        (option::GO, vec![0xff; 4]),
        (option::GO, string(b"r0")),
        (option::GO, [info_data(b"r0", &[3]), vec![0]].concat()),
        (option::GO, info_data(b"r0", &[3])[..9].to_vec()),
        (option::INFO, info_data(&long, &[])),
        (option::SET_META_CONTEXT, b"".to_vec()),
        (option::SET_META_CONTEXT, string(b"r0")),
        (
            option::SET_META_CONTEXT,
            [meta_data(b"r0", &[]), vec![0]].concat(),
        ),
        (
            option::SET_META_CONTEXT,
            meta_data(b"r0", &[b"base:allocation"])[..20].to_vec(),
        ),
        (option::LIST_META_CONTEXT, meta_data(b"r0", &[&long])),
        (
            option::LIST_META_CONTEXT,
            [string(b"r0"), vec![0, 0, 0, 1], vec![0xff; 4]].concat(),
        ),
    ];
    for (number, data) in cases {
        let (out, outcome) = send(&mut handshake, *number, data);
        assert_eq!(
            (last_kind(&out), outcome),
            (rep::ERR_INVALID, Outcome::Haggling),
            "{number} {data:?}"
        );
    }
    let (out, _) = send(
        &mut handshake,
        option::SET_META_CONTEXT,
        &[string(b"r0"), vec![0xff; 4]].concat(),
    );
    assert_eq!(last_kind(&out), rep::ERR_TOO_BIG);
}

#[test]
fn metadata_contexts_are_listed() {
    let mut handshake = flagged(FIXED);
    let (out, _) = send(&mut handshake, option::LIST_META_CONTEXT, &meta_data(b"", &[]));
    assert_eq!(last_kind(&out), rep::ERR_INVALID, "structured replies come first");
    send(&mut handshake, option::STRUCTURED_REPLY, b"");
    let found = [reply(9, 4, b"\0\0\0\0base:allocation"), reply(9, 1, b"")].concat();
    for queries in [&[][..], &[&b"base:"[..]], &[b"x-y:z", b"base:allocation"]] {
        assert_eq!(
            send(
                &mut handshake,
                option::LIST_META_CONTEXT,
                &meta_data(b"", queries)
            )
            .0,
            found
        );
    }
    for queries in [&[&b"base:other"[..]][..], &[b"qemu:"], &[b""]] {
        let (out, _) = send(
            &mut handshake,
            option::LIST_META_CONTEXT,
            &meta_data(b"", queries),
        );
        assert_eq!(out, reply(9, 1, b""));
    }
    let (out, _) = send(&mut handshake, option::LIST_META_CONTEXT, &meta_data(b"r1", &[]));
    assert_eq!(last_kind(&out), rep::ERR_UNKNOWN);
}

#[test]
fn a_metadata_context_is_selected_and_replaced() {
    let mut handshake = flagged(FIXED);
    let set = |handshake: &mut Handshake, name: &[u8], queries: &[&[u8]]| {
        let (out, _) = send(handshake, option::SET_META_CONTEXT, &meta_data(name, queries));
        (out, handshake.negotiated.allocation)
    };
    assert!(
        !set(&mut handshake, b"r0", &[b"base:allocation"]).1,
        "structured replies come first"
    );
    send(&mut handshake, option::STRUCTURED_REPLY, b"");
    let selected = [reply(10, 4, b"\0\0\0\x01base:allocation"), reply(10, 1, b"")].concat();
    assert_eq!(
        set(
            &mut handshake,
            b"r0",
            &[b"qemu:dirty-bitmap:x", b"base:allocation"]
        ),
        (selected, true)
    );
    assert_eq!(
        set(&mut handshake, b"r0", &[b"base:"]),
        (reply(10, 1, b""), false)
    );
    assert!(set(&mut handshake, b"", &[b"base:allocation"]).1);
    assert_eq!(set(&mut handshake, b"r0", &[]), (reply(10, 1, b""), false));
    assert!(set(&mut handshake, b"r0", &[b"base:allocation"]).1);
    assert!(
        !set(&mut handshake, b"r1", &[b"base:allocation"]).1,
        "a failure deselects"
    );
    set(&mut handshake, b"r0", &[b"base:allocation"]);
    let (_, outcome) = send(&mut handshake, option::GO, &info_data(b"", &[]));
    assert_eq!(
        outcome,
        Outcome::Chosen(Negotiated {
            structured: true,
            allocation: true
        })
    );
}

#[test]
fn violations_end_the_connection() {
    let error = |bytes: &[u8]| {
        flagged(FIXED)
            .next(bytes, &export(), &mut Vec::new())
            .unwrap_err()
    };
    let request = [&0x2560_9513_0000_0000_u64.to_be_bytes()[..], &[0; 8]].concat();
    assert_eq!(error(&request), ProtocolError::OptionMagic(0x2560_9513_0000_0000));
    let mut absurd = option(option::GO, b"");
    absurd[12..].copy_from_slice(&u32::MAX.to_be_bytes());
    let (option, length, limit) = (option::GO, u32::MAX, 32768);
    assert_eq!(
        error(&absurd),
        ProtocolError::OptionTooLong {
            option,
            length,
            limit
        }
    );
}

#[test]
fn a_client_that_never_chooses_is_let_go() {
    let mut handshake = flagged(FIXED);
    for _ in 0..MAX_OPTIONS {
        send(&mut handshake, option::LIST, b"");
    }
    let error = handshake.next(&option(option::LIST, b""), &export(), &mut Vec::new());
    assert_eq!(error, Err(ProtocolError::TooManyOptions(MAX_OPTIONS)));
}
