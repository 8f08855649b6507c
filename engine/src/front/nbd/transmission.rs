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
mod tests;
