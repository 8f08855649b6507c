//! Blocks known or suspected to differ at a peer. A mark is evidence: anything may set one, and one function takes it
//! away, for one of two reasons.

use std::ops::Deref;

use crate::meta::Bitmap;
use crate::payload::Payload;

/// Why a mark may go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Evidence {
    /// The peer confirmed the block's data, whose checksum it had verified.
    VerifiedTransfer,
    /// Both sides' strong checksums are equal.
    EqualChecksums,
}

/// The marks for one peer: a bitmap that is read like any other.
pub(super) struct Marks(Bitmap);

impl Marks {
    pub(super) fn new(bitmap: Bitmap) -> Marks {
        Marks(bitmap)
    }

    pub(super) fn set(&mut self, first: u64, count: u64) {
        self.0.set(first, count);
    }

    pub(super) fn set_all(&mut self) {
        self.0.set_all();
    }

    /// The only place where marks go.
    pub(super) fn settle(&mut self, first: u64, count: u64, evidence: Evidence) {
        // A further reason would have to be let in here.
        let (Evidence::VerifiedTransfer | Evidence::EqualChecksums) = evidence;
        self.0.clear(first, count);
    }

    /// Pages that changed since they were last taken, to be made durable.
    pub(super) fn take_changed(&mut self, limit: usize) -> Vec<(usize, Payload)> {
        self.0.take_changed(limit)
    }
}

impl Deref for Marks {
    type Target = Bitmap;

    fn deref(&self) -> &Bitmap {
        &self.0
    }
}
