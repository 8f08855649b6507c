//! Taking back metadata that was just made: a creation on several nodes that another of them has refused.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::device::{Access, Device};
use super::error::{MetadataError, MetadataErrorKind as Kind};
use super::{page_floor, read_superblocks, MetadataPlace, PAGE};
use crate::meta::layout::SUPERBLOCK_COPIES;
use crate::meta::{SuperblockError, PAGE_BYTES};

/// Whose metadata shall go, and where it is.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EraseSpec {
    pub resource: String,
    pub node: String,
    pub device: PathBuf,
    pub metadata: MetadataPlace,
}

/// Erases metadata of that resource and node that never had data; where there is none, nothing is done. Metadata
/// that says anything about data, or belongs to another, is refused.
pub fn erase_metadata(spec: &str) -> Result<(), MetadataError> {
    let spec: EraseSpec = super::report::parse(spec)?;
    let (what, path) = match &spec.metadata {
        MetadataPlace::Internal => ("backing device", &spec.device),
        MetadataPlace::External(path) => ("metadata", path),
    };
    let holder = Device::open(what, path, Access::Exclusive)?;
    let refused = |why: String| {
        Err(MetadataError::new(
            Kind::Unsafe,
            format!("{} holds {why}", path.display()),
            "look at it with `blockpair metadata`; nothing was erased",
        ))
    };
    let mut found = false;
    for decoded in read_superblocks(&holder)? {
        match decoded {
            Err(SuperblockError::Absent) => {}
            Err(error) => return refused(format!("metadata that is not understood: {error}")),
            Ok(copy) if (&copy.resource, &copy.node) != (&spec.resource, &spec.node) => {
                return refused(format!(
                    "metadata of resource {} on node {}",
                    copy.resource, copy.node
                ));
            }
            Ok(copy) if copy.current != 0 || copy.resource_id != [0; 16] => {
                return refused(format!("metadata of resource {} that has data", copy.resource));
            }
            Ok(_) => found = true,
        }
    }
    if !found {
        return Ok(());
    }
    let superblocks = page_floor(holder.size_bytes) - SUPERBLOCK_COPIES as u64 * PAGE;
    holder
        .file
        .write_all_at(&[0; SUPERBLOCK_COPIES * PAGE_BYTES], superblocks)
        .and_then(|()| holder.file.sync_all())
        .map_err(|error| MetadataError::system("erase the metadata on", path, &error))
}
