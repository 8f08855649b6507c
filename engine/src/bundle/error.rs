//! What can be wrong with a bundle, in words for a person.

use std::io;

use thiserror::Error;

#[derive(Debug, Error)]
pub enum BundleError {
    #[error("it is not a bundle of blockpair")]
    Foreign,
    #[error("it has format {0}, which this version does not know (it knows {known})", known = super::VERSION)]
    Version(u32),
    /// Its end is missing: the file was never completed, or cut off.
    #[error("it is incomplete: {0}")]
    Truncated(&'static str),
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// Blocks that a bundle cannot hold.
    #[error("it cannot be written: {0}")]
    Unfit(&'static str),
    /// What the blocks come from.
    #[error("block {block} cannot be read: {error}")]
    Source { block: u64, error: io::Error },
    /// The bundle's own file.
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it was interrupted")]
    Interrupted,
}

impl BundleError {
    pub(super) fn damaged(what: impl Into<String>) -> BundleError {
        BundleError::Damaged(what.into())
    }
}
