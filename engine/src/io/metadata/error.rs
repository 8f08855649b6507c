//! What can be wrong with metadata and devices, in words that a person can act on.

use std::fmt;
use std::io;
use std::path::Path;

/// Decides the exit code and what a caller may do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataErrorKind {
    /// Bad input: a path, a size, a name.
    Invalid,
    /// Held by another process, a mount, or another engine of this one.
    InUse,
    NoMetadata,
    /// Both superblock copies are unusable.
    Damaged,
    /// Written by a newer build.
    Newer,
    /// Metadata of another resource, node, or a device of another size.
    Mismatch,
    /// The system reported an error.
    Io,
    /// It could lose data.
    Unsafe,
}

impl MetadataErrorKind {
    /// The name that Python sees.
    pub fn name(self) -> &'static str {
        match self {
            MetadataErrorKind::Invalid => "invalid",
            MetadataErrorKind::InUse => "in_use",
            MetadataErrorKind::NoMetadata => "no_metadata",
            MetadataErrorKind::Damaged => "damaged",
            MetadataErrorKind::Newer => "newer",
            MetadataErrorKind::Mismatch => "mismatch",
            MetadataErrorKind::Io => "io",
            MetadataErrorKind::Unsafe => "unsafe",
        }
    }
}

/// A refusal or failure: what, why, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataError {
    pub kind: MetadataErrorKind,
    pub message: String,
    pub remedy: String,
}

impl MetadataError {
    pub(crate) fn new(
        kind: MetadataErrorKind,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> MetadataError {
        MetadataError {
            kind,
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// A system error while doing something (`doing`: "open", "read the superblocks of") with a path.
    pub(crate) fn system(doing: &str, path: &Path, error: &io::Error) -> MetadataError {
        let remedy = match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => "run blockpaird as a user who may write to it",
            Some(libc::EROFS) => "make it writable, or name another place",
            Some(libc::ENOSPC | libc::EDQUOT) => "free some space there, or name another place",
            Some(libc::EIO) => "check the disk (kernel log, smartctl) and replace it if it is failing",
            _ => "check the path and the kernel log",
        };
        let message = format!("cannot {doing} {}: {error}", path.display());
        MetadataError::new(MetadataErrorKind::Io, message, remedy)
    }
}

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.remedy)
    }
}

impl std::error::Error for MetadataError {}
