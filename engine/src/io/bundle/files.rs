//! Bundle files by their paths, and what is wrong with them as failures.

use std::fs::File;
use std::path::Path;

use serde_json::{json, Value};

use crate::bundle::{Bundle, BundleError};
use crate::io::failure::{Failure, FailureKind};

/// Opens the bundle at `path`.
///
/// # Errors
/// `invalid`: no bundle, or none there; `newer`; `damaged`; `io`.
pub fn open(path: &Path) -> Result<Bundle<File>, Failure> {
    let file = File::open(path).map_err(|error| Failure::system(path.display(), &error))?;
    Bundle::open(file).map_err(|error| failure(path, &error))
}

/// What a bundle says of itself, as JSON; with `verify`, after all of its blocks were compared with their
/// checksums.
///
/// # Errors
/// As [`open`].
pub fn show(path: &Path, verify: bool) -> Result<Value, Failure> {
    let mut bundle = open(path)?;
    if verify {
        bundle.verify(&|| true).map_err(|error| failure(path, &error))?;
    }
    Ok(json!({
        "path": path,
        "id": format!("{:032x}", bundle.id()),
        "size_bytes": bundle.size_bytes(),
        "saved_bytes": saved_bytes(&bundle),
        "facts": bundle.facts(),
    }))
}

/// Bytes of the device that it holds, at most: the device's last block may be shorter.
fn saved_bytes(bundle: &Bundle<File>) -> u64 {
    let facts = bundle.facts();
    (facts.blocks * u64::from(facts.block_size_bytes)).min(facts.data_size_bytes)
}

pub fn failure(path: &Path, error: &BundleError) -> Failure {
    let (kind, remedy) = match error {
        BundleError::Foreign => (
            FailureKind::Invalid,
            "name a file that `blockpair bundle list` shows",
        ),
        BundleError::Version(_) => (FailureKind::Newer, "use the version of blockpair that wrote it"),
        BundleError::Truncated(_) | BundleError::Damaged(_) => (
            FailureKind::Damaged,
            "use another copy of it, and check the disk it is on (kernel log, smartctl)",
        ),
        _ => (
            FailureKind::Io,
            "check the disk it is on, and the resource: blockpair status",
        ),
    };
    Failure::new(kind, format!("the bundle {}: {error}", path.display()), remedy)
}
