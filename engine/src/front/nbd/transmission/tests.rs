use super::*;
use crate::front::nbd::ExportInfo;

const SIZE: u64 = 8 << 30;

fn header(flags: u16, command: u16, offset: u64, length: u32) -> [u8; REQUEST_HEADER] {
    let mut bytes = [0; REQUEST_HEADER];
    bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&flags.to_be_bytes());
    bytes[6..8].copy_from_slice(&command.to_be_bytes());
    bytes[8..16].copy_from_slice(&77_u64.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn export(change: impl FnOnce(&mut ExportInfo)) -> Export {
    let mut info = ExportInfo::new("r0", SIZE);
    change(&mut info);
    Export::new(info).unwrap()
}

const ALL: Negotiated = Negotiated {
    structured: true,
    allocation: true,
};
const NOTHING: Negotiated = Negotiated {
    structured: false,
    allocation: false,
};

fn accepted(flags: u16, command: u16, offset: u64, length: u32) -> Request {
    match judge(&header(flags, command, offset, length), &export(|_| ()), ALL) {
        Ok(Verdict::Accept(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn refused(export: &Export, negotiated: Negotiated, bytes: [u8; REQUEST_HEADER]) -> (ErrorCode, u32) {
    match judge(&bytes, export, negotiated) {
        Ok(Verdict::Refuse {
            cookie: 77,
            refusal,
            skip,
        }) => {
            assert!(!refusal.to_string().is_empty());
            (refusal.code(), skip)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_command_is_understood() {
    use cmd_flag::*;
    let request = |kind, fua| Request {
        cookie: 77,
        kind,
        offset: 1 << 20,
        length: 4096,
        fua,
    };
    let (at, n) = (1 << 20, 4096);
    assert_eq!(accepted(DF, cmd::READ, at, n), request(Kind::Read, false));
    assert_eq!(accepted(FUA, cmd::READ, at, n), request(Kind::Read, false));
    assert_eq!(accepted(0, cmd::WRITE, at, n), request(Kind::Write, false));
    assert_eq!(accepted(FUA, cmd::WRITE, at, n), request(Kind::Write, true));
    assert_eq!(accepted(FUA, cmd::TRIM, at, n), request(Kind::Trim, true));
    assert_eq!(accepted(0, cmd::CACHE, at, n), request(Kind::Cache, false));
    let zeroes = |no_hole, fast| Kind::WriteZeroes { no_hole, fast };
    assert_eq!(
        accepted(0, cmd::WRITE_ZEROES, at, n),
        request(zeroes(false, false), false)
    );
    assert_eq!(
        accepted(NO_HOLE | FUA, cmd::WRITE_ZEROES, at, n),
        request(zeroes(true, false), true)
    );
    assert_eq!(
        accepted(FAST_ZERO, cmd::WRITE_ZEROES, at, n),
        request(zeroes(false, true), false)
    );
    assert_eq!(
        accepted(0, cmd::BLOCK_STATUS, at, n),
        request(Kind::BlockStatus { one: false }, false)
    );
    assert_eq!(
        accepted(REQ_ONE, cmd::BLOCK_STATUS, at, n),
        request(Kind::BlockStatus { one: true }, false)
    );
    assert_eq!(accepted(0, cmd::FLUSH, 0, 0).kind, Kind::Flush);
    assert_eq!(
        judge(&header(0, cmd::DISC, 0, 0), &export(|_| ()), ALL),
        Ok(Verdict::Disconnect)
    );
}

#[test]
fn requests_without_payload_may_be_almost_4_gib_long() {
    let longest = u32::MAX - 511;
    for command in [cmd::TRIM, cmd::WRITE_ZEROES, cmd::BLOCK_STATUS] {
        assert_eq!(accepted(0, command, 0, longest).length, longest);
    }
    let bytewise = export(|i| i.min_block = 1);
    let verdict = judge(&header(0, cmd::TRIM, 1, u32::MAX), &bytewise, ALL);
    assert!(matches!(
        verdict,
        Ok(Verdict::Accept(Request {
            length: u32::MAX,
            offset: 1,
            ..
        }))
    ));
}

#[test]
fn ranges_beyond_the_end_are_refused_and_payloads_skipped() {
    let e = export(|_| ());
    for offset in [SIZE, SIZE - 512, u64::MAX - 511, u64::MAX] {
        let code = |command| refused(&e, ALL, header(0, command, offset, 1024));
        assert_eq!(code(cmd::WRITE), (ErrorCode::NoSpace, 1024));
        assert_eq!(code(cmd::WRITE_ZEROES), (ErrorCode::NoSpace, 0));
        for command in [cmd::READ, cmd::TRIM, cmd::CACHE, cmd::BLOCK_STATUS] {
            assert_eq!(
                code(command),
                (ErrorCode::Invalid, 0),
                "command {command} at {offset}"
            );
        }
    }
    assert_eq!(accepted(0, cmd::READ, SIZE - 1024, 1024).length, 1024);
}

#[test]
fn unaligned_requests_are_refused() {
    let e = export(|i| i.min_block = 4096);
    for (offset, length) in [(512, 4096), (4096, 512), (1, 1)] {
        let code = |command| refused(&e, ALL, header(0, command, offset, length)).0;
        for command in [
            cmd::READ,
            cmd::WRITE,
            cmd::TRIM,
            cmd::WRITE_ZEROES,
            cmd::CACHE,
            cmd::BLOCK_STATUS,
        ] {
            assert_eq!(code(command), ErrorCode::Invalid);
        }
    }
}

#[test]
fn flags_that_a_command_does_not_know_are_refused() {
    use cmd_flag::*;
    let e = export(|_| ());
    let code = |negotiated, flags, command| refused(&e, negotiated, header(flags, command, 0, 512));
    assert_eq!(code(ALL, NO_HOLE, cmd::WRITE), (ErrorCode::Invalid, 512));
    assert_eq!(code(ALL, DF, cmd::WRITE), (ErrorCode::Invalid, 512));
    assert_eq!(code(ALL, REQ_ONE, cmd::READ), (ErrorCode::Invalid, 0));
    assert_eq!(code(ALL, FAST_ZERO, cmd::TRIM), (ErrorCode::Invalid, 0));
    assert_eq!(code(ALL, 1 << 5, cmd::CACHE), (ErrorCode::Invalid, 0));
    assert_eq!(code(NOTHING, DF, cmd::READ), (ErrorCode::Invalid, 0));
}

#[test]
fn what_is_not_offered_is_refused() {
    let read_only = export(|i| i.read_only = true);
    for (command, skip) in [(cmd::WRITE, 512), (cmd::TRIM, 0), (cmd::WRITE_ZEROES, 0)] {
        let answer = refused(&read_only, ALL, header(0, command, 0, 512));
        assert_eq!(answer, (ErrorCode::NotPermitted, skip));
    }
    let plain = export(|i| (i.can_trim, i.can_fast_zero) = (false, false));
    assert_eq!(
        refused(&plain, ALL, header(0, cmd::TRIM, 0, 512)).0,
        ErrorCode::Invalid
    );
    let fast = header(cmd_flag::FAST_ZERO, cmd::WRITE_ZEROES, 0, 512);
    assert_eq!(refused(&plain, ALL, fast).0, ErrorCode::NotSupported);
    let e = export(|_| ());
    assert_eq!(
        refused(&e, NOTHING, header(0, cmd::BLOCK_STATUS, 0, 512)).0,
        ErrorCode::Invalid
    );
    assert_eq!(refused(&e, ALL, header(0, 8, 0, 512)), (ErrorCode::Invalid, 0));
    assert_eq!(
        refused(&e, ALL, header(0, 0xffff, 0, 512)),
        (ErrorCode::Invalid, 0)
    );
    assert_eq!(
        refused(&e, ALL, header(0, cmd::FLUSH, 512, 0)).0,
        ErrorCode::Invalid
    );
    assert_eq!(
        refused(&e, ALL, header(0, cmd::FLUSH, 0, 512)).0,
        ErrorCode::Invalid
    );
}

#[test]
fn empty_requests_succeed_at_once() {
    let e = export(|_| ());
    for command in [cmd::READ, cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES, cmd::CACHE] {
        let verdict = judge(&header(0, command, SIZE, 0), &e, ALL);
        assert!(
            matches!(verdict, Ok(Verdict::Trivial(_))),
            "command {command}: {verdict:?}"
        );
    }
    assert_eq!(
        refused(&e, ALL, header(0, cmd::BLOCK_STATUS, 0, 0)).0,
        ErrorCode::Invalid
    );
    assert_eq!(
        refused(&e, ALL, header(0, cmd::READ, SIZE + 512, 0)).0,
        ErrorCode::Invalid
    );
}

#[test]
fn a_long_write_is_skipped_and_an_absurd_one_ends_the_connection() {
    let e = export(|i| i.max_payload = 1 << 20);
    let write = |length| header(0, cmd::WRITE, 0, length);
    assert_eq!(
        refused(&e, ALL, write((1 << 20) + 512)),
        (ErrorCode::Invalid, (1 << 20) + 512)
    );
    assert_eq!(refused(&e, ALL, write(PATIENCE)), (ErrorCode::Invalid, PATIENCE));
    let absurd = ProtocolError::PayloadTooLong {
        length: PATIENCE + 1,
        limit: PATIENCE,
    };
    assert_eq!(judge(&write(PATIENCE + 1), &e, ALL), Err(absurd));
    assert_eq!(
        refused(&e, ALL, header(0, cmd::READ, 0, 2 << 20)),
        (ErrorCode::Invalid, 0)
    );
    let roomy = export(|i| i.max_payload = 64 << 20);
    assert!(matches!(
        judge(&write(64 << 20), &roomy, ALL),
        Ok(Verdict::Accept(_))
    ));
}

#[test]
fn a_wrong_magic_ends_the_connection() {
    assert_eq!(
        judge(&[0; REQUEST_HEADER], &export(|_| ()), ALL),
        Err(ProtocolError::RequestMagic(0))
    );
}
