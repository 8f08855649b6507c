//! The transmission phase's requests: their headers, and which of them are let through.

use std::fmt;

use super::error::{ErrorCode, ProtocolError};
use super::export::Export;
use super::wire::{cmd, cmd_flag, REQUEST_HEADER, REQUEST_MAGIC};

/// What the client negotiated before the transmission phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Negotiated {
    pub structured: bool,
    /// Whether `base:allocation` was selected.
    pub allocation: bool,
}

/// What a request wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reply with the bytes of the range.
    Read,
    /// Write the payload that follows the header in the stream.
    Write,
    /// Make every write that was replied to durable, on whichever connection it came. Offset and length are 0.
    Flush,
    /// The range's contents are no longer needed.
    Trim,
    /// Make the range read as zeroes.
    WriteZeroes {
        /// The range must stay allocated.
        no_hole: bool,
        /// Reply with [`ErrorCode::NotSupported`], changing nothing, unless this is faster than writing zeroes.
        fast: bool,
    },
    /// The range will be read soon.
    Cache,
    /// Reply with the range's allocation.
    BlockStatus {
        /// Only the first extent is wanted; [`Replies::block_status`](super::Replies::block_status) sees to it.
        one: bool,
    },
}

/// A request that lies within the export, is aligned and is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client's name for the request; the reply carries it.
    pub cookie: u64,
    pub kind: Kind,
    /// First byte of the range.
    pub offset: u64,
    /// Bytes of the range: at most the export's `max_payload` for reads, writes and cache requests, up to
    /// 4 GiB - 1 for the others.
    pub length: u32,
    /// The change must be durable before the reply. Only ever set for Write, Trim and WriteZeroes.
    pub fua: bool,
}

/// The longest write whose payload is skipped, rather than the connection closed, when an export takes less:
/// the protocol lets every client send this much.
const PATIENCE: u32 = 32 << 20;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept(Request),
    /// Nothing to do: the client is told of success at once.
    Trivial(Request),
    /// Refused; `skip` bytes of payload follow the header.
    Refuse {
        cookie: u64,
        refusal: Refusal,
        skip: u32,
    },
    Disconnect,
}

/// Why a request is refused. The text is for the client's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    UnknownCommand(u16),
    Flags {
        unknown: u16,
    },
    ReadOnly,
    NoTrim,
    NotFast,
    NoContext,
    FlushRange,
    EmptyStatus,
    TooLong {
        length: u32,
        max: u32,
    },
    Unaligned {
        offset: u64,
        length: u32,
        min_block: u32,
    },
    BeyondEnd {
        writes: bool,
        offset: u64,
        length: u32,
        size: u64,
    },
}

impl Refusal {
    pub fn code(self) -> ErrorCode {
        match self {
            Refusal::ReadOnly => ErrorCode::NotPermitted,
            Refusal::NotFast => ErrorCode::NotSupported,
            Refusal::BeyondEnd { writes: true, .. } => ErrorCode::NoSpace,
            _ => ErrorCode::Invalid,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Refusal::UnknownCommand(command) => write!(f, "command {command} is not supported"),
            Refusal::Flags { unknown } => {
                write!(f, "command flags {unknown:#x} are not valid for this request")
            }
            Refusal::ReadOnly => f.write_str("the export is read-only"),
            Refusal::NoTrim => f.write_str("the export does not offer trim"),
            Refusal::NotFast => f.write_str("zeroing would be no faster than writing zeroes"),
            Refusal::NoContext => f.write_str("block status without base:allocation having been negotiated"),
            Refusal::FlushRange => f.write_str("a flush takes neither offset nor length"),
            Refusal::EmptyStatus => f.write_str("block status of an empty range"),
            Refusal::TooLong { length, max } => {
                write!(f, "{length} bytes in one request; at most {max} are accepted")
            }
            Refusal::Unaligned {
                offset,
                length,
                min_block,
            } => {
                write!(
                    f,
                    "{length} bytes at {offset} are not aligned to {min_block} bytes"
                )
            }
            Refusal::BeyondEnd {
                offset, length, size, ..
            } => {
                write!(
                    f,
                    "{length} bytes at {offset} reach beyond the export's {size} bytes"
                )
            }
        }
    }
}

/// Reads a request's header and judges it. Errors mean that the stream cannot be followed any further.
pub(super) fn judge(
    header: &[u8; REQUEST_HEADER],
    export: &Export,
    negotiated: Negotiated,
) -> Result<Verdict, ProtocolError> {
    let magic = u32::from_be_bytes(field(header, 0));
    if magic != REQUEST_MAGIC {
        return Err(ProtocolError::RequestMagic(magic));
    }
    let flags = u16::from_be_bytes(field(header, 4));
    let command = u16::from_be_bytes(field(header, 6));
    let cookie = u64::from_be_bytes(field(header, 8));
    let offset = u64::from_be_bytes(field(header, 16));
    let length = u32::from_be_bytes(field(header, 24));

    let mut skip = 0;
    if command == cmd::WRITE {
        let limit = export.info().max_payload.max(PATIENCE);
        if length > limit {
            return Err(ProtocolError::PayloadTooLong { length, limit });
        }
        skip = length;
    }
    let has = |flag| flags & flag != 0;
    let kind = match command {
        cmd::READ => Kind::Read,
        cmd::WRITE => Kind::Write,
        cmd::DISC => return Ok(Verdict::Disconnect),
        cmd::FLUSH => Kind::Flush,
        cmd::TRIM => Kind::Trim,
        cmd::CACHE => Kind::Cache,
        cmd::WRITE_ZEROES => Kind::WriteZeroes {
            no_hole: has(cmd_flag::NO_HOLE),
            fast: has(cmd_flag::FAST_ZERO),
        },
        cmd::BLOCK_STATUS => Kind::BlockStatus {
            one: has(cmd_flag::REQ_ONE),
        },
        _ => {
            return Ok(Verdict::Refuse {
                cookie,
                refusal: Refusal::UnknownCommand(command),
                skip,
            })
        }
    };
    let fua = has(cmd_flag::FUA) && matches!(kind, Kind::Write | Kind::Trim | Kind::WriteZeroes { .. });
    let request = Request {
        cookie,
        kind,
        offset,
        length,
        fua,
    };
    Ok(match refusal(&request, flags, export, negotiated) {
        Some(refusal) => Verdict::Refuse {
            cookie,
            refusal,
            skip,
        },
        None if length == 0 && kind != Kind::Flush => Verdict::Trivial(request),
        None => Verdict::Accept(request),
    })
}

fn field<const N: usize>(header: &[u8; REQUEST_HEADER], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[at..at + N]);
    bytes
}

fn refusal(request: &Request, flags: u16, export: &Export, negotiated: Negotiated) -> Option<Refusal> {
    let info = export.info();
    let Request {
        kind, offset, length, ..
    } = *request;
    // FUA is valid with every command; only those that write heed it.
    let valid = cmd_flag::FUA
        | match kind {
            Kind::Read if negotiated.structured => cmd_flag::DF,
            Kind::WriteZeroes { .. } => cmd_flag::NO_HOLE | cmd_flag::FAST_ZERO,
            Kind::BlockStatus { .. } => cmd_flag::REQ_ONE,
            _ => 0,
        };
    if flags & !valid != 0 {
        return Some(Refusal::Flags {
            unknown: flags & !valid,
        });
    }
    let writes = matches!(kind, Kind::Write | Kind::WriteZeroes { .. });
    match kind {
        Kind::Flush => return (offset != 0 || length != 0).then_some(Refusal::FlushRange),
        Kind::Write | Kind::Trim | Kind::WriteZeroes { .. } if info.read_only => {
            return Some(Refusal::ReadOnly)
        }
        Kind::Trim if !info.can_trim => return Some(Refusal::NoTrim),
        Kind::BlockStatus { .. } if !negotiated.allocation => return Some(Refusal::NoContext),
        _ => {}
    }
    if matches!(kind, Kind::Read | Kind::Write | Kind::Cache) && length > info.max_payload {
        return Some(Refusal::TooLong {
            length,
            max: info.max_payload,
        });
    }
    if offset
        .checked_add(u64::from(length))
        .is_none_or(|end| end > info.size_bytes)
    {
        return Some(Refusal::BeyondEnd {
            writes,
            offset,
            length,
            size: info.size_bytes,
        });
    }
    // A power of two: cheaper than a division.
    if (offset | u64::from(length)) & u64::from(info.min_block - 1) != 0 {
        return Some(Refusal::Unaligned {
            offset,
            length,
            min_block: info.min_block,
        });
    }
    match kind {
        Kind::BlockStatus { .. } if length == 0 => Some(Refusal::EmptyStatus),
        Kind::WriteZeroes { fast: true, .. } if !info.can_fast_zero => Some(Refusal::NotFast),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
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
}
