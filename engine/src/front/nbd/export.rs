//! What a server offers: one export, checked once.

use thiserror::Error;

use super::wire::{flag, MAX_STRING};

/// The description of an export. [`Export::new`] checks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// The resource's name; the empty name always serves the same export.
    pub name: String,
    /// Size in bytes, a multiple of `min_block`.
    pub size_bytes: u64,
    /// Alignment in bytes that offset and length of every request must have: a power of two, 1 to 65536.
    pub min_block: u32,
    /// Size in bytes from which aligned requests are efficient: a power of two, at least 512 and `min_block`.
    pub preferred_block: u32,
    /// Longest read or write in bytes: a multiple of `min_block`, at least `preferred_block`.
    pub max_payload: u32,
    /// Whether TRIM is offered.
    pub can_trim: bool,
    /// Whether zeroing can ever be faster than writing zeroes. Without it, a request that insists on a fast
    /// zero is refused at once; with it, the request is passed on and may still be refused.
    pub can_fast_zero: bool,
    /// Whether every write is refused.
    pub read_only: bool,
    /// A line for people; may be empty.
    pub description: String,
}

impl ExportInfo {
    /// An export of `size_bytes` that can do everything, with 512-byte sectors, 4 KiB blocks and requests of
    /// up to 32 MiB, the length every client may rely on.
    pub fn new(name: impl Into<String>, size_bytes: u64) -> ExportInfo {
        ExportInfo {
            name: name.into(),
            size_bytes,
            min_block: 512,
            preferred_block: 4096,
            max_payload: 32 << 20,
            can_trim: true,
            can_fast_zero: true,
            read_only: false,
            description: String::new(),
        }
    }
}

/// Why an [`ExportInfo`] cannot be served.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ExportError {
    #[error(
        "export {what} of {length} bytes cannot be served: at most {MAX_STRING} bytes and no NUL are allowed"
    )]
    Text { what: &'static str, length: usize },
    #[error("an export without a name cannot be listed; give it the resource's name")]
    NoName,
    #[error("minimum block of {0} bytes is not a power of two from 1 to 65536")]
    MinBlock(u32),
    #[error("preferred block of {preferred} bytes is not a power of two of at least {least}")]
    PreferredBlock { preferred: u32, least: u32 },
    #[error("longest request of {max} bytes is not a multiple of {multiple} of at least {least}")]
    MaxPayload { max: u32, multiple: u32, least: u32 },
    #[error("size of {size} bytes is not a multiple of the minimum block of {min_block}; round it down")]
    Size { size: u64, min_block: u32 },
}

/// A checked export, shared by all of its sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    info: ExportInfo,
}

impl Export {
    /// Checks that `info` keeps the protocol's rules for names and block sizes.
    pub fn new(info: ExportInfo) -> Result<Export, ExportError> {
        for (what, text) in [("name", &info.name), ("description", &info.description)] {
            if text.len() > MAX_STRING || text.contains('\0') {
                return Err(ExportError::Text {
                    what,
                    length: text.len(),
                });
            }
        }
        if info.name.is_empty() {
            return Err(ExportError::NoName);
        }
        if !info.min_block.is_power_of_two() || info.min_block > 65536 {
            return Err(ExportError::MinBlock(info.min_block));
        }
        let least = info.min_block.max(512);
        if !info.preferred_block.is_power_of_two() || info.preferred_block < least {
            return Err(ExportError::PreferredBlock {
                preferred: info.preferred_block,
                least,
            });
        }
        if !info.max_payload.is_multiple_of(info.min_block) || info.max_payload < info.preferred_block {
            return Err(ExportError::MaxPayload {
                max: info.max_payload,
                multiple: info.min_block,
                least: info.preferred_block,
            });
        }
        if !info.size_bytes.is_multiple_of(u64::from(info.min_block)) {
            return Err(ExportError::Size {
                size: info.size_bytes,
                min_block: info.min_block,
            });
        }
        Ok(Export { info })
    }

    /// What was checked.
    pub fn info(&self) -> &ExportInfo {
        &self.info
    }

    /// The transmission flags, for a client that did or did not negotiate structured replies. A kernel client
    /// is given those without.
    pub fn transmission_flags(&self, structured_replies: bool) -> u16 {
        // Multiple connections are honest: a flush covers the writes completed on any of them.
        let mut flags =
            flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::CAN_MULTI_CONN | flag::SEND_CACHE;
        if structured_replies {
            flags |= flag::SEND_DF;
        }
        if self.info.read_only {
            return flags | flag::READ_ONLY;
        }
        if self.info.can_trim {
            flags |= flag::SEND_TRIM;
        }
        // A server that answers fast zeroes with a fast refusal may offer them too.
        flags | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO
    }

    /// Whether a client that asks for `name` means this export.
    pub(super) fn is_called(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.info.name.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut ExportInfo)) -> Result<Export, ExportError> {
        let mut info = ExportInfo::new("r0", 1 << 20);
        change(&mut info);
        Export::new(info)
    }

    #[test]
    fn rules_of_the_protocol_are_kept() {
        assert!(with(|_| ()).is_ok());
        assert!(with(|i| i.min_block = 1).is_ok());
        assert!(with(|i| i.size_bytes = 0).is_ok());
        assert_eq!(with(|i| i.min_block = 0), Err(ExportError::MinBlock(0)));
        assert_eq!(
            with(|i| i.min_block = 1 << 17),
            Err(ExportError::MinBlock(1 << 17))
        );
        assert_eq!(with(|i| i.name.clear()), Err(ExportError::NoName));
        assert_eq!(
            with(|i| i.size_bytes = 1000),
            Err(ExportError::Size {
                size: 1000,
                min_block: 512
            })
        );
        assert!(matches!(
            with(|i| i.preferred_block = 256),
            Err(ExportError::PreferredBlock { .. })
        ));
        assert!(matches!(
            with(|i| i.preferred_block = 5000),
            Err(ExportError::PreferredBlock { .. })
        ));
        assert!(matches!(
            with(|i| i.max_payload = 2048),
            Err(ExportError::MaxPayload { .. })
        ));
        assert!(matches!(
            with(|i| i.max_payload = 5000),
            Err(ExportError::MaxPayload { .. })
        ));
        assert!(matches!(
            with(|i| i.name = "x".repeat(4097)),
            Err(ExportError::Text { what: "name", .. })
        ));
        assert!(matches!(
            with(|i| i.description = "\0".into()),
            Err(ExportError::Text { .. })
        ));
    }

    #[test]
    fn flags_say_what_the_export_can_do() {
        let all = with(|_| ()).unwrap();
        assert_eq!(all.transmission_flags(false), 0b1101_0110_1101);
        assert_eq!(all.transmission_flags(true), 0b1101_1110_1101);
        assert_eq!(
            with(|i| i.can_trim = false).unwrap().transmission_flags(false),
            0b1101_0100_1101
        );
        assert_eq!(
            with(|i| i.read_only = true).unwrap().transmission_flags(false),
            0b0101_0000_1111
        );
    }

    #[test]
    fn the_empty_name_and_the_own_name_serve_the_export() {
        let export = with(|_| ()).unwrap();
        assert!(export.is_called(b"") && export.is_called(b"r0"));
        assert!(!export.is_called(b"r") && !export.is_called(b"r00"));
    }
}
