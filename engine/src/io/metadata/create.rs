//! Making metadata for a resource that never had data.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::device::{Access, Device, DeviceKind};
use super::error::{MetadataError, MetadataErrorKind as Kind};
use super::{page_floor, read_superblocks, refuse_same, MetadataPlace, PAGE};
use crate::meta::layout::{block_size_is_valid, SUPERBLOCK_COPIES};
use crate::meta::{
    next_copy, Layout, Superblock, SuperblockError, BLOCK_SIZE_MAX, BLOCK_SIZE_MIN, DATA_SIZE_MAX,
    PAGE_BYTES, PEER_SLOTS_MAX,
};
use crate::wire::NAME_MAX;

/// Zeroes written at once where a range cannot be cleared as a whole, in bytes.
const ZERO_BYTES: usize = 1 << 20;

/// What to create.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSpec {
    pub resource: String,
    pub node: String,
    pub device: PathBuf,
    pub metadata: MetadataPlace,
    pub block_size_bytes: u32,
    /// Names, by slot.
    pub peers: Vec<String>,
    /// Replace metadata, or a file of something else, that is there already.
    #[serde(default)]
    pub overwrite: bool,
    /// Look whether it could be made, and make nothing.
    #[serde(default)]
    pub check_only: bool,
}

/// What was created; sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Created {
    pub data_size_bytes: u64,
    pub block_size_bytes: u32,
    pub metadata_bytes: u64,
    pub device_size_bytes: u64,
}

/// [`create`] with JSON on both sides.
pub fn create_metadata(spec: &str) -> Result<String, MetadataError> {
    let created = create(&super::report::parse(spec)?)?;
    Ok(super::report::to_json(&created))
}

/// Writes metadata that says: no data yet, everything is out of sync with every peer. Changes nothing unless
/// everything is in order; the device's data area is never written.
pub fn create(spec: &CreateSpec) -> Result<Created, MetadataError> {
    check_names(spec)?;
    let device = Device::open("backing device", &spec.device, Access::Exclusive)?;
    let layout = plan(spec, &device)?;
    match &spec.metadata {
        MetadataPlace::Internal => {
            let start = page_floor(device.size_bytes) - layout.region_bytes();
            refuse_existing(&device, start, spec.overwrite)?;
            if !spec.check_only {
                write_region(&device, start, &layout, spec)?;
            }
        }
        MetadataPlace::External(path) => create_external(path, &device, &layout, spec)?,
    }
    Ok(Created {
        data_size_bytes: layout.data_size_bytes(),
        block_size_bytes: layout.block_size_bytes(),
        metadata_bytes: layout.region_bytes(),
        device_size_bytes: device.size_bytes,
    })
}

fn invalid(message: impl Into<String>, remedy: impl Into<String>) -> MetadataError {
    MetadataError::new(Kind::Invalid, message, remedy)
}

fn check_names(spec: &CreateSpec) -> Result<(), MetadataError> {
    let mut seen = HashSet::from([spec.node.as_str()]);
    let named = [&spec.resource, &spec.node].into_iter().chain(&spec.peers);
    if let Some(name) = named
        .into_iter()
        .find(|name| name.is_empty() || name.len() > NAME_MAX)
    {
        return Err(invalid(
            format!("the name {name:?} has {} bytes", name.len()),
            format!("use 1 to {NAME_MAX} bytes"),
        ));
    }
    if spec.peers.is_empty() || spec.peers.len() > PEER_SLOTS_MAX {
        return Err(invalid(
            format!("resource {} has {} peers", spec.resource, spec.peers.len()),
            format!("name 1 to {PEER_SLOTS_MAX}"),
        ));
    }
    if let Some(twice) = spec.peers.iter().find(|peer| !seen.insert(peer)) {
        return Err(invalid(
            format!("resource {} names node {twice} twice", spec.resource),
            "name each node once",
        ));
    }
    if !block_size_is_valid(spec.block_size_bytes) {
        return Err(invalid(
            format!("a block size of {} bytes is not possible", spec.block_size_bytes),
            format!("use a power of two from {BLOCK_SIZE_MIN} to {BLOCK_SIZE_MAX}"),
        ));
    }
    Ok(())
}

/// The layout for a device, or why there is none.
fn plan(spec: &CreateSpec, device: &Device) -> Result<Layout, MetadataError> {
    let block = u64::from(spec.block_size_bytes);
    let (size, path, slots) = (device.size_bytes, device.path.display(), spec.peers.len());
    if size > DATA_SIZE_MAX {
        return Err(invalid(
            format!("backing device {path} has {size} bytes, more than the {DATA_SIZE_MAX} supported"),
            "use a smaller device, or several resources",
        ));
    }
    // A smaller block than the smallest is no way out.
    let smaller_block = if spec.block_size_bytes > BLOCK_SIZE_MIN {
        ", or choose a smaller block"
    } else {
        ""
    };
    let too_small = |needed: u64| {
        invalid(
            format!("backing device {path} has {size} bytes, too small for a block of {block} bytes"),
            format!("use a device of at least {needed} bytes{smaller_block}"),
        )
    };
    let data_size = match spec.metadata {
        MetadataPlace::Internal => Layout::internal_data_size(size, spec.block_size_bytes, slots)
            .ok_or_else(|| {
                too_small(block + Layout::new(block, spec.block_size_bytes, slots).region_bytes())
            })?,
        MetadataPlace::External(_) if size < block => return Err(too_small(block)),
        MetadataPlace::External(_) if size % block != 0 => {
            return Err(invalid(
                format!("the {size} bytes of backing device {path} are no multiple of the block of {block}"),
                format!("make it {} bytes{smaller_block}", size / block * block),
            ));
        }
        MetadataPlace::External(_) => size,
    };
    Ok(Layout::new(data_size, spec.block_size_bytes, slots))
}

fn create_external(
    path: &Path,
    device: &Device,
    layout: &Layout,
    spec: &CreateSpec,
) -> Result<(), MetadataError> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if spec.check_only && parent.is_dir() && !path.exists() {
        return Ok(());
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    match options.open(path) {
        Ok(file) => {
            let made = Device::from_file("metadata", path, file, Access::Exclusive)
                .and_then(|holder| write_file(&holder, layout, spec))
                .and_then(|()| sync_directory(parent));
            if made.is_err() {
                // A half-made file of ours would only be in the way of the next try.
                let _ = std::fs::remove_file(path);
            }
            made
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            refuse_same(&Device::open("metadata", path, Access::ReadOnly)?, device)?;
            let holder = Device::open("metadata", path, Access::Exclusive)?;
            match holder.kind {
                DeviceKind::File => {
                    refuse_existing(&holder, 0, spec.overwrite)?;
                    if spec.check_only {
                        return Ok(());
                    }
                    write_file(&holder, layout, spec)?;
                    sync_directory(parent)
                }
                DeviceKind::Block => {
                    let end = page_floor(holder.size_bytes);
                    let Some(start) = end.checked_sub(layout.region_bytes()) else {
                        return Err(invalid(
                            format!("metadata device {} has {end} usable bytes", path.display()),
                            format!("it needs {}", layout.region_bytes()),
                        ));
                    };
                    refuse_existing(&holder, start, spec.overwrite)?;
                    if spec.check_only {
                        return Ok(());
                    }
                    write_region(&holder, start, layout, spec)
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(invalid(
            format!("folder {} of the metadata file does not exist", parent.display()),
            "create it first, on a disk that outlives a reboot",
        )),
        Err(error) => Err(MetadataError::system("create", path, &error)),
    }
}

/// Refuses what holds blockpair metadata, and a regular file of our own naming that holds anything at all.
fn refuse_existing(holder: &Device, region_start: u64, overwrite: bool) -> Result<(), MetadataError> {
    if overwrite {
        return Ok(());
    }
    let path = holder.path.display();
    let refused = |what: String| {
        Err(MetadataError::new(
            Kind::Unsafe,
            what,
            "create it with --force to overwrite that, only if it is not needed any more",
        ))
    };
    for (copy, decoded) in read_superblocks(holder)?.into_iter().enumerate() {
        match decoded {
            Err(SuperblockError::Absent) => {}
            Ok(found) => {
                let (resource, node) = (found.resource, found.node);
                return refused(format!(
                    "{path} holds metadata of resource {resource} on node {node}"
                ));
            }
            Err(error) => return refused(format!("{path} holds blockpair metadata (copy {copy}: {error})")),
        }
    }
    if holder.kind == DeviceKind::File && region_start == 0 && holder.size_bytes > 0 {
        return refused(format!("{path} exists and is no blockpair metadata"));
    }
    Ok(())
}

/// Gives a regular file its size, all of it a hole but what must never fail for want of space.
fn write_file(holder: &Device, layout: &Layout, spec: &CreateSpec) -> Result<(), MetadataError> {
    let failed = |error: io::Error| MetadataError::system("write the metadata", &holder.path, &error);
    holder.file.set_len(0).map_err(failed)?;
    holder.file.set_len(layout.region_bytes()).map_err(failed)?;
    let intent = layout.intent_offset();
    // Writes wait for the write-intent log; ENOSPC there would stop the resource.
    match fallocate(&holder.file, 0, intent, layout.region_bytes() - intent) {
        Err(error) if !unsupported(&error) => return Err(failed(error)),
        _ => {}
    }
    write_superblocks(&holder.file, 0, layout, spec).map_err(failed)
}

/// Clears a region of a device and writes the superblocks, so that at no time old and new parts are taken
/// for one whole.
fn write_region(
    holder: &Device,
    start: u64,
    layout: &Layout,
    spec: &CreateSpec,
) -> Result<(), MetadataError> {
    let failed = |error: io::Error| MetadataError::system("write the metadata", &holder.path, &error);
    let superblocks = start + layout.superblock_offset(0);
    let write = || {
        holder
            .file
            .write_all_at(&[0; SUPERBLOCK_COPIES * PAGE_BYTES], superblocks)?;
        holder.file.sync_all()?;
        zero(&holder.file, start, superblocks - start)?;
        holder.file.sync_all()?;
        write_superblocks(&holder.file, start, layout, spec)
    };
    write().map_err(failed)
}

fn write_superblocks(file: &File, start: u64, layout: &Layout, spec: &CreateSpec) -> io::Result<()> {
    for sequence in 1..=SUPERBLOCK_COPIES as u64 {
        let page = Superblock::blank(&spec.resource, &spec.node, &spec.peers, layout, sequence).encode();
        file.write_all_at(&page, start + layout.superblock_offset(next_copy(sequence)))?;
        file.sync_all()?;
    }
    Ok(())
}

/// Makes a range read as zeroes: as holes in files, by the device's own means where it has some.
fn zero(file: &File, offset: u64, len: u64) -> io::Result<()> {
    debug_assert_eq!(offset % PAGE, 0);
    if len == 0 {
        return Ok(());
    }
    for mode in [libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE] {
        match fallocate(file, mode | libc::FALLOC_FL_KEEP_SIZE, offset, len) {
            Err(error) if unsupported(&error) => {}
            result => return result,
        }
    }
    let zeroes = vec![0; ZERO_BYTES.min(len as usize)];
    let mut done = 0;
    while done < len {
        let part = (len - done).min(zeroes.len() as u64) as usize;
        file.write_all_at(&zeroes[..part], offset + done)?;
        done += part as u64;
    }
    Ok(())
}

fn fallocate(file: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    loop {
        // SAFETY: no memory is involved.
        let done =
            unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as libc::off_t, len as libc::off_t) };
        if done == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

fn unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::EINVAL)
    )
}

/// Makes the name of a new file survive a power cut.
fn sync_directory(path: &Path) -> Result<(), MetadataError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| MetadataError::system("sync the folder", path, &error))
}
