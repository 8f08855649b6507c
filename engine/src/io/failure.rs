//! Errors that reach a person: what is wrong, why, and what to do about it.

use std::fmt;
use std::io;

use super::metadata::{MetadataError, MetadataErrorKind};
use crate::core::{CommandError, ErrorKind};

/// The stable kinds that the control plane tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Refused: it could lose or fork data.
    Unsafe,
    Failed,
    Invalid,
    InUse,
    NoMetadata,
    Damaged,
    Newer,
    Mismatch,
    Io,
}

impl FailureKind {
    /// The name in the control plane's interface.
    pub fn name(self) -> &'static str {
        match self {
            FailureKind::Unsafe => "unsafe",
            FailureKind::Failed => "failed",
            FailureKind::Invalid => "invalid",
            FailureKind::InUse => "in_use",
            FailureKind::NoMetadata => "no_metadata",
            FailureKind::Damaged => "damaged",
            FailureKind::Newer => "newer",
            FailureKind::Mismatch => "mismatch",
            FailureKind::Io => "io",
        }
    }
}

/// A failure with its remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
    pub remedy: String,
}

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>, remedy: impl Into<String>) -> Failure {
        Failure {
            kind,
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// A failed system call on `what` (a path or an address).
    pub fn system(what: impl fmt::Display, error: &io::Error) -> Failure {
        let (kind, remedy) = match error.raw_os_error() {
            Some(libc::ENOENT) => (FailureKind::Invalid, "check the path in the configuration"),
            Some(libc::EBUSY) => (
                FailureKind::InUse,
                "unmount it, stop its array or volume, or stop the other process that holds it",
            ),
            Some(libc::EACCES | libc::EPERM) => {
                (FailureKind::Failed, "run the daemon as root, or give it access")
            }
            Some(libc::EISDIR | libc::ENOTDIR | libc::EINVAL | libc::ENXIO | libc::ENODEV) => {
                (FailureKind::Invalid, "name a regular file or a block device")
            }
            Some(libc::ENOSPC) => (FailureKind::Io, "make room on the file system"),
            _ => (FailureKind::Io, "check the kernel's log for errors of the device"),
        };
        Failure::new(kind, format!("{what}: {error}"), remedy)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.remedy)
    }
}

impl std::error::Error for Failure {}

impl From<MetadataError> for Failure {
    fn from(error: MetadataError) -> Failure {
        let kind = match error.kind {
            MetadataErrorKind::Invalid => FailureKind::Invalid,
            MetadataErrorKind::InUse => FailureKind::InUse,
            MetadataErrorKind::NoMetadata => FailureKind::NoMetadata,
            MetadataErrorKind::Damaged => FailureKind::Damaged,
            MetadataErrorKind::Newer => FailureKind::Newer,
            MetadataErrorKind::Mismatch => FailureKind::Mismatch,
            MetadataErrorKind::Io => FailureKind::Io,
            MetadataErrorKind::Unsafe => FailureKind::Unsafe,
        };
        Failure::new(kind, error.message, error.remedy)
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Failure {
        let kind = match error.kind {
            ErrorKind::Unsafe => FailureKind::Unsafe,
            ErrorKind::Failed => FailureKind::Failed,
        };
        Failure::new(kind, error.message, error.remedy)
    }
}
