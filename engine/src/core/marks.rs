//! Blocks known or suspected to differ at a peer. A mark is evidence: anything may set one, and one function takes it
//! away, for one of two reasons.

use std::ops::Deref;

use super::types::Time;
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
pub(super) struct Marks {
    bitmap: Bitmap,
    /// When the oldest of them came, if that is known.
    since: Option<Time>,
}

impl Marks {
    pub(super) fn new(bitmap: Bitmap) -> Marks {
        Marks { bitmap, since: None }
    }

    pub(super) fn set(&mut self, first: u64, count: u64) {
        self.begin(None);
        self.bitmap.set(first, count);
    }

    /// For a change of this moment.
    pub(super) fn set_since(&mut self, first: u64, count: u64, since: Time) {
        self.begin(Some(since));
        self.bitmap.set(first, count);
    }

    pub(super) fn set_all(&mut self) {
        self.begin(None);
        self.bitmap.set_all();
    }

    fn begin(&mut self, since: Option<Time>) {
        if self.bitmap.is_empty() {
            self.since = since;
        }
    }

    /// When the oldest change came that the peer lacks, as far as that is known.
    pub(super) fn since(&self) -> Option<Time> {
        self.since.filter(|_| !self.bitmap.is_empty())
    }

    /// The only place where marks go.
    pub(super) fn settle(&mut self, first: u64, count: u64, evidence: Evidence) {
        // A further reason would have to be let in here.
        let (Evidence::VerifiedTransfer | Evidence::EqualChecksums) = evidence;
        self.bitmap.clear(first, count);
    }

    /// Pages that changed since they were last taken, to be made durable.
    pub(super) fn take_changed(&mut self, limit: usize) -> Vec<(usize, Payload)> {
        self.bitmap.take_changed(limit)
    }
}

impl Deref for Marks {
    type Target = Bitmap;

    fn deref(&self) -> &Bitmap {
        &self.bitmap
    }
}
