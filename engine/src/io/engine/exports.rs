//! Bundles served beside a running engine: until they are ended, or the engine stops.

use std::fs::File;
use std::path::Path;
use std::sync::PoisonError;

use super::Engine;
use crate::bundle::{Bundle, BundleError};
use crate::io::bundle::{files, Export, Overlay, Since};
use crate::io::failure::{Failure, FailureKind};

/// Blocks that changed since the bundle was saved and that it has not; none when it is not known.
fn changed_beside(bundle: &mut Bundle<File>, since: &Since) -> Result<Option<u64>, BundleError> {
    let id = bundle.id();
    if since.changed(id).is_none() {
        return Ok(None);
    }
    let mut inside = 0;
    for chunk in 0..bundle.chunks() {
        // Chunk by chunk: whoever writes to the device waits for no longer.
        inside += since.changed_of(id, &bundle.runs(chunk)?);
    }
    // A block that changes meanwhile may count as one beside: a refusal too many, never one too few.
    Ok(since.changed(id).map(|all| all.saturating_sub(inside)))
}

impl Engine {
    /// Serves the victim's device as the bundle at `path` and the present device tell it, read-only, on a Unix
    /// socket at `socket`. Returns how many blocks changed since, where that is known: they, or all that the
    /// bundle has not, cannot be read.
    ///
    /// # Errors
    /// As [`files::open`]; `mismatch` when it is another resource's, or the device has another size.
    pub fn export_bundle(&self, path: &Path, socket: &Path) -> Result<Option<u64>, Failure> {
        let present = self
            .present
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let present = present.filter(|_| !self.shared.has_ended()).ok_or_else(|| {
            Failure::new(
                FailureKind::Failed,
                format!("{} is down", self.resource),
                format!("blockpair up {}", self.resource),
            )
        })?;
        let mut bundle = files::open(path)?;
        let facts = bundle.facts();
        if facts.resource != self.resource || facts.data_size_bytes != self.data_size_bytes {
            return Err(Failure::new(
                FailureKind::Mismatch,
                format!(
                    "the bundle {} is of resource {} with {} bytes, this is {} with {}",
                    path.display(),
                    facts.resource,
                    facts.data_size_bytes,
                    self.resource,
                    self.data_size_bytes
                ),
                "export it where its resource is",
            ));
        }
        let changed =
            changed_beside(&mut bundle, &present.since).map_err(|error| files::failure(path, &error))?;
        let export = Export::open(socket, &self.resource, Overlay::new(bundle, present))
            .map_err(|error| Failure::system(socket.display(), &error))?;
        let mut exports = self.exports.lock().unwrap_or_else(PoisonError::into_inner);
        exports.push(export);
        Ok(changed)
    }

    /// Ends the export on `socket`; one that has ended already is fine.
    pub fn end_export(&self, socket: &Path) {
        let mut exports = self.exports.lock().unwrap_or_else(PoisonError::into_inner);
        let ended: Vec<Export> = exports.extract_if(.., |export| export.path() == socket).collect();
        drop(exports);
        // Its clients may be in the middle of a read: nobody else waits for them.
        drop(ended);
    }

    /// Nobody reads the device through here any more.
    pub(super) fn close_exports(&self) {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = std::mem::take(&mut *self.exports.lock().unwrap_or_else(PoisonError::into_inner));
        drop(ended);
    }
}
