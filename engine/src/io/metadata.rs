//! Metadata on real files and devices: open, lock, read all of it, write pages durably.
//!
//! The thin edge around [`crate::meta`]: it decides nothing but what is refused.

mod create;
mod device;
mod erase;
mod error;
mod holders;
mod report;

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use create::{create, create_metadata, CreateSpec, Created};
pub use device::{Access, Device, DeviceKind};
pub use erase::{erase_metadata, EraseSpec};
pub use error::{MetadataError, MetadataErrorKind};
pub use report::{dump_metadata, inspect_metadata};

use crate::core::MetaWrite;
use crate::meta::layout::SUPERBLOCK_COPIES;
use crate::meta::{choose, Bitmap, Layout, PageLoad, Superblock, SuperblockError, PAGE_BYTES};
use MetadataErrorKind as Kind;

const PAGE: u64 = PAGE_BYTES as u64;
/// One read while loading, in bytes.
const LOAD_BYTES: usize = 1 << 20;
/// Pages in one vectored write: the kernel's limit on vectors.
const VECTORS_MAX: usize = 1024;

/// Where the metadata of a resource lies.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(tag = "kind", content = "path", rename_all = "lowercase", deny_unknown_fields)]
pub enum MetadataPlace {
    /// In a file or on a block device of its own.
    External(PathBuf),
    /// At the end of the backing device.
    Internal,
}

/// What is in one of the two superblock pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyState {
    Valid { sequence: u64 },
    Damaged(String),
    Newer { version: u16 },
    Absent,
}

/// Everything that a resource starts from.
#[derive(Debug)]
pub struct LoadedMetadata {
    pub superblock: Superblock,
    pub copies: [CopyState; SUPERBLOCK_COPIES],
    pub layout: Layout,
    /// By slot, as many as the layout has room for.
    pub bitmaps: Vec<Bitmap>,
    pub intent: Bitmap,
    /// Bitmap and intent pages that were unreadable and count as all set.
    pub damaged_pages: usize,
}

/// Open metadata with a usable superblock. Opened exclusively, it holds the locks on the metadata and on the
/// backing device for as long as it lives; the device can then be opened again, without O_EXCL, for data.
#[derive(Debug)]
pub struct MetadataFile {
    holder: Device,
    /// The backing device, when the metadata is not on it.
    device: Option<Device>,
    superblock: Superblock,
    copies: [CopyState; SUPERBLOCK_COPIES],
    layout: Layout,
    /// Where the region starts in the holder, in bytes.
    region_start: u64,
}

impl MetadataFile {
    /// Opens existing metadata and checks that it fits the backing device. `lock`: writable, and nobody else
    /// may have it; otherwise read-only, whoever has it.
    pub fn open(
        place: &MetadataPlace,
        device_path: &Path,
        lock: bool,
    ) -> Result<MetadataFile, MetadataError> {
        let access = if lock { Access::Exclusive } else { Access::ReadOnly };
        let (holder, device) = open_places(place, device_path, access)?;
        let decoded = read_superblocks(&holder)?;
        let copies = [0, 1].map(|copy| copy_state(&decoded[copy]));
        let [first, second] = decoded;
        let (superblock, _) = choose(first, second).map_err(|error| unusable(&holder, error))?;
        let layout = superblock.layout();
        let end = page_floor(holder.size_bytes);
        let Some(region_start) = end.checked_sub(layout.region_bytes()) else {
            let message = format!(
                "metadata {} has {end} bytes, but its superblock describes {}",
                holder.path.display(),
                layout.region_bytes()
            );
            return Err(MetadataError::new(
                Kind::Mismatch,
                message,
                "give it its old size back, or begin this copy anew: `blockpair create NAME --anew --force`",
            ));
        };
        let room = device.as_ref().map_or(region_start, |device| device.size_bytes);
        if room < layout.data_size_bytes() {
            let message = format!(
                "backing device {} has {room} bytes for data, but its metadata was made for {}",
                device_path.display(),
                layout.data_size_bytes()
            );
            let remedy = "name the right device, grow it back, or begin this copy anew: `blockpair create NAME --anew --force`";
            return Err(MetadataError::new(Kind::Mismatch, message, remedy));
        }
        Ok(MetadataFile {
            holder,
            device,
            superblock,
            copies,
            layout,
            region_start,
        })
    }

    /// Refuses metadata of another resource or another node.
    pub fn require(&self, resource: &str, node: &str) -> Result<(), MetadataError> {
        let found = &self.superblock;
        if found.resource == resource && found.node == node {
            return Ok(());
        }
        let message = format!(
            "metadata {} belongs to resource {} on node {}, not to {resource} on {node}",
            self.holder.path.display(),
            found.resource,
            found.node
        );
        let remedy =
            "name the right metadata in the configuration; only if nobody needs those, overwrite them: \
                      `blockpair create NAME --anew --force`";
        Err(MetadataError::new(Kind::Mismatch, message, remedy))
    }

    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The file or device that holds the metadata.
    pub fn holder(&self) -> &Device {
        &self.holder
    }

    /// The backing device.
    pub fn device(&self) -> &Device {
        self.device.as_ref().unwrap_or(&self.holder)
    }

    /// Where the region starts in [`MetadataFile::holder`], in bytes.
    pub fn region_start(&self) -> u64 {
        self.region_start
    }

    /// Reads all of it: superblocks as found when opened, bitmaps and write-intent log as they are now.
    pub fn load(&self) -> Result<LoadedMetadata, MetadataError> {
        let mut damaged_pages = 0;
        let mut bitmaps = Vec::with_capacity(self.layout.peer_slots());
        for slot in 0..self.layout.peer_slots() {
            let mut bitmap = Bitmap::new(self.layout.blocks());
            damaged_pages += self.load_bitmap(&mut bitmap, self.layout.bitmap_offset(slot))?;
            bitmaps.push(bitmap);
        }
        let mut intent = Bitmap::new_intent(self.layout.extents());
        damaged_pages += self.load_bitmap(&mut intent, self.layout.intent_offset())?;
        Ok(LoadedMetadata {
            superblock: self.superblock.clone(),
            copies: self.copies.clone(),
            layout: self.layout,
            bitmaps,
            intent,
            damaged_pages,
        })
    }

    /// Writes inside the region, `offset` in bytes from its start. Durable after [`MetadataFile::sync`].
    ///
    /// # Panics
    /// When the range reaches out of the region: the bytes beside it may be somebody's data.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.holder
            .file
            .write_all_at(bytes, self.place_of(offset, bytes.len()))
    }

    /// Everything written before is stable.
    pub fn sync(&self) -> io::Result<()> {
        self.holder.file.sync_data()
    }

    /// Writes everything and makes it durable, in as few system calls as possible.
    ///
    /// # Panics
    /// As [`MetadataFile::write`].
    pub fn commit(&self, writes: &[MetaWrite]) -> io::Result<()> {
        let follows = |a: &MetaWrite, b: &MetaWrite| a.offset + a.bytes.len() as u64 == b.offset;
        let mut runs = writes.chunk_by(follows).flat_map(|run| run.chunks(VECTORS_MAX));
        match (runs.next(), runs.next()) {
            (None, _) => Ok(()),
            // One run is written through: unlike fdatasync, that does not wait for data beside it.
            (Some(run), None) => self.write_run(run, libc::RWF_DSYNC),
            (Some(first), Some(second)) => {
                for run in [first, second].into_iter().chain(runs) {
                    self.write_run(run, 0)?;
                }
                self.sync()
            }
        }
    }

    /// Writes pages that follow each other.
    fn write_run(&self, run: &[MetaWrite], flags: libc::c_int) -> io::Result<()> {
        let total: usize = run.iter().map(|write| write.bytes.len()).sum();
        let mut offset = self.place_of(run[0].offset, total);
        let mut slices: Vec<io::IoSlice> = run.iter().map(|write| io::IoSlice::new(&write.bytes)).collect();
        let mut rest = &mut slices[..];
        io::IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            // SAFETY: an IoSlice is an iovec; the slices point to live memory, and their number is bounded.
            let written = unsafe {
                libc::pwritev2(
                    self.holder.file.as_raw_fd(),
                    rest.as_ptr().cast(),
                    rest.len() as libc::c_int,
                    offset as libc::off_t,
                    flags,
                )
            };
            if written < 0 {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EOPNOTSUPP | libc::ENOSYS) if flags != 0 => {
                        for write in run {
                            self.write(write.offset, &write.bytes)?;
                        }
                        return self.sync();
                    }
                    _ => return Err(error),
                }
            }
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset += written as u64;
            io::IoSlice::advance_slices(&mut rest, written as usize);
        }
        Ok(())
    }

    fn place_of(&self, offset: u64, len: usize) -> u64 {
        let end = offset.checked_add(len as u64);
        assert!(
            end.is_some_and(|end| end <= self.layout.region_bytes()),
            "write of {len} bytes at {offset} outside the metadata region"
        );
        self.region_start + offset
    }

    /// Fills a bitmap from its pages; returns how many were damaged or unreadable.
    fn load_bitmap(&self, bitmap: &mut Bitmap, offset: u64) -> Result<usize, MetadataError> {
        let start = self.region_start + offset;
        let end = start + bitmap.pages() as u64 * PAGE;
        let mut buffer = vec![0; LOAD_BYTES];
        let mut damaged = 0;
        let mut position = start;
        while let Some(data) = self.next_data(position, end)? {
            // Holes need not end at our page boundaries.
            let mut from = start + (data.start - start) / PAGE * PAGE;
            let until = start + (data.end - start).next_multiple_of(PAGE);
            while from < until {
                let len = (until - from).min(LOAD_BYTES as u64) as usize;
                let whole = self.holder.file.read_exact_at(&mut buffer[..len], from).is_ok();
                for (index, page) in buffer[..len].chunks_exact_mut(PAGE_BYTES).enumerate() {
                    let place = from + index as u64 * PAGE;
                    // A bad sector shall cost one page, not the rest of the chunk.
                    let page: &mut [u8; PAGE_BYTES] = page.try_into().expect("chunks of one page");
                    if !whole && self.holder.file.read_exact_at(page, place).is_err() {
                        page.fill(0xff);
                    }
                    let load = bitmap.load_page(((place - start) / PAGE) as usize, page);
                    damaged += usize::from(load == PageLoad::Damaged);
                }
                from += len as u64;
            }
            position = until;
        }
        Ok(damaged)
    }

    /// The next range with data in `from..end`; block devices and some file systems have nothing but data.
    fn next_data(&self, from: u64, end: u64) -> Result<Option<Range<u64>>, MetadataError> {
        if from >= end {
            return Ok(None);
        }
        let failed = |error| MetadataError::system("read the bitmaps of", &self.holder.path, &error);
        let seek = |offset: u64, whence| {
            // SAFETY: no memory is involved.
            let found = unsafe { libc::lseek(self.holder.file.as_raw_fd(), offset as libc::off_t, whence) };
            if found >= 0 {
                Ok(Some(found as u64))
            } else {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::ENXIO) => Ok(None),
                    Some(libc::EINVAL | libc::EOPNOTSUPP) => Ok(Some(offset)),
                    _ => Err(failed(error)),
                }
            }
        };
        let Some(data) = seek(from, libc::SEEK_DATA)?.filter(|data| *data < end) else {
            return Ok(None);
        };
        let hole = seek(data, libc::SEEK_HOLE)?
            .filter(|hole| *hole > data)
            .unwrap_or(end);
        Ok(Some(data..hole.min(end)))
    }
}

/// Opens the place of the metadata and, when that is not the same, the backing device.
fn open_places(
    place: &MetadataPlace,
    device_path: &Path,
    access: Access,
) -> Result<(Device, Option<Device>), MetadataError> {
    let device = Device::open("backing device", device_path, access)?;
    match place {
        MetadataPlace::Internal => Ok((device, None)),
        MetadataPlace::External(path) => {
            // The same file under both names would be refused as "in use by this daemon", which helps nobody.
            let seen = Device::open("metadata", path, Access::ReadOnly).map_err(|error| {
                if error.kind == Kind::Invalid && !path.exists() {
                    no_metadata(&format!("metadata {} does not exist", path.display()))
                } else {
                    error
                }
            })?;
            refuse_same(&seen, &device)?;
            let holder = Device::open("metadata", path, access)?;
            Ok((holder, Some(device)))
        }
    }
}

fn refuse_same(holder: &Device, device: &Device) -> Result<(), MetadataError> {
    if holder.is_same(device) {
        return Err(MetadataError::new(
            Kind::Invalid,
            format!("metadata {} is the backing device itself", holder.path.display()),
            "name another file or device for it, or use internal metadata",
        ));
    }
    Ok(())
}

/// Both copies as found at the end of a file or device.
fn read_superblocks(
    holder: &Device,
) -> Result<[Result<Superblock, SuperblockError>; SUPERBLOCK_COPIES], MetadataError> {
    let end = page_floor(holder.size_bytes);
    let mut copies = [const { Err(SuperblockError::Absent) }; SUPERBLOCK_COPIES];
    for (copy, decoded) in copies.iter_mut().enumerate() {
        let Some(offset) = end.checked_sub((SUPERBLOCK_COPIES - copy) as u64 * PAGE) else {
            continue;
        };
        let mut page = [0; PAGE_BYTES];
        *decoded = match holder.file.read_exact_at(&mut page, offset) {
            Ok(()) => Superblock::decode(&page),
            // The other copy may still be readable.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                Err(SuperblockError::Damaged(format!("it cannot be read: {error}")))
            }
            Err(error) => {
                return Err(MetadataError::system(
                    "read the superblocks of",
                    &holder.path,
                    &error,
                ));
            }
        };
    }
    Ok(copies)
}

fn copy_state(decoded: &Result<Superblock, SuperblockError>) -> CopyState {
    match decoded {
        Ok(superblock) => CopyState::Valid {
            sequence: superblock.sequence,
        },
        Err(SuperblockError::Absent) => CopyState::Absent,
        Err(SuperblockError::Damaged(reason)) => CopyState::Damaged(reason.clone()),
        Err(SuperblockError::Newer { version }) => CopyState::Newer { version: *version },
    }
}

fn unusable(holder: &Device, error: SuperblockError) -> MetadataError {
    let path = holder.path.display();
    match error {
        SuperblockError::Absent => no_metadata(&format!("no blockpair metadata at the end of {path}")),
        SuperblockError::Damaged(reason) => MetadataError::new(
            Kind::Damaged,
            format!("both superblock copies of {path} are unusable: {reason}"),
            "begin this copy anew, it is synced from the peer: `blockpair create NAME --anew --force`, then `blockpair up NAME`; \
             no backup of the metadata: it does not know what changed since",
        ),
        SuperblockError::Newer { version } => MetadataError::new(
            Kind::Newer,
            format!("metadata {path} was written by a newer blockpair (format version {version})"),
            "install that version of blockpair again",
        ),
    }
}

fn no_metadata(message: &str) -> MetadataError {
    let remedy = "check the path and that the device has its old size; if the disk is a new one, begin this copy anew: \
                  `blockpair create NAME --anew`";
    MetadataError::new(Kind::NoMetadata, message, remedy)
}

fn page_floor(bytes: u64) -> u64 {
    bytes / PAGE * PAGE
}

#[cfg(test)]
mod tests;
