//! What can go wrong: errors a client is told, and violations that end its connection.

use std::fmt;

use thiserror::Error;

/// The error of a reply. The protocol fixes these numbers; they are no host's `errno`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ErrorCode {
    /// The export is read-only, or this node may not write.
    NotPermitted = 1,
    /// The device failed.
    Io = 5,
    /// Memory ran out; the protocol asks servers to avoid this one.
    NoMemory = 12,
    /// The request is malformed: range, alignment, flags or command.
    Invalid = 22,
    /// A write beyond the end, or the backing device is full.
    NoSpace = 28,
    /// An unfragmented read that is too long.
    Overflow = 75,
    /// A fast zero that would not be fast.
    NotSupported = 95,
    /// The server is going away: the client is to disconnect.
    Shutdown = 108,
}

impl ErrorCode {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The code for a positive `errno` of this system; what the protocol has no code for is an I/O error.
    pub fn from_errno(errno: i32) -> ErrorCode {
        match errno {
            libc::EPERM | libc::EACCES | libc::EROFS => ErrorCode::NotPermitted,
            libc::ENOMEM => ErrorCode::NoMemory,
            libc::EINVAL => ErrorCode::Invalid,
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => ErrorCode::NoSpace,
            libc::ESHUTDOWN => ErrorCode::Shutdown,
            _ => ErrorCode::Io,
        }
    }
}

/// A violation of the protocol after which the two sides no longer agree on where messages begin, or which
/// only an attacker commits. The connection is to be closed; nothing else is affected.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ProtocolError {
    #[error("NBD client sent client flags {0:#x}, of which the server offered only {1:#x}; use a client of the fixed newstyle protocol")]
    ClientFlags(u32, u32),
    #[error("NBD client sent {0:#018x} where an option's magic was due; is this a client of the newstyle protocol?")]
    OptionMagic(u64),
    #[error("NBD client sent option {option} with {length} bytes of data; at most {limit} are accepted")]
    OptionTooLong { option: u32, length: u32, limit: u32 },
    #[error("NBD client sent more than {0} options without choosing an export")]
    TooManyOptions(u32),
    #[error("NBD client asked for export {asked}; this server has {served} (or the empty name)")]
    UnknownExport { asked: Quoted, served: Quoted },
    #[error(
        "NBD client sent {0:#010x} where a request's magic was due; requests and payloads are out of step"
    )]
    RequestMagic(u32),
    #[error("NBD client announced a write of {length} bytes; at most {limit} are accepted in one request")]
    PayloadTooLong { length: u32, limit: u32 },
}

/// Bytes of an export's name, shortened and escaped so that they are fit for a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    const SHOWN: usize = 64;

    pub(super) fn new(bytes: &[u8]) -> Quoted {
        let shown = &bytes[..bytes.len().min(Quoted::SHOWN)];
        let more = if shown.len() < bytes.len() { "..." } else { "" };
        Quoted(format!("\"{}\"{more}", shown.escape_ascii()))
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_maps_to_the_codes_of_the_protocol() {
        for (errno, code) in [
            (libc::EIO, ErrorCode::Io),
            (libc::EROFS, ErrorCode::NotPermitted),
            (libc::EDQUOT, ErrorCode::NoSpace),
            (libc::EFBIG, ErrorCode::NoSpace),
            (libc::ENOSPC, ErrorCode::NoSpace),
            (libc::EINVAL, ErrorCode::Invalid),
            (libc::EUCLEAN, ErrorCode::Io),
        ] {
            assert_eq!(ErrorCode::from_errno(errno), code, "errno {errno}");
        }
        assert_eq!(ErrorCode::Shutdown.number(), 108);
    }

    #[test]
    fn a_name_in_a_message_is_short_and_printable() {
        assert_eq!(Quoted::new(b"a\n\xff").to_string(), r#""a\n\xff""#);
        let long = Quoted::new(&[b'x'; 5000]).to_string();
        assert!(long.len() < 80 && long.ends_with("..."), "{long}");
    }
}
