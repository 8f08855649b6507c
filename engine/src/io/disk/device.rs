//! An open backing device and the blocking operations on it.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Driver;
use crate::core::DiskOp;
use crate::io::failure::{Failure, FailureKind};
use crate::payload::{Buffer, Payload, ALIGNMENT};

/// Zeroes are written in pieces of this size where the kernel cannot make them itself.
const ZERO_PIECE: usize = 1 << 20;
/// Linux 5.6.
const PR_SET_IO_FLUSHER: libc::c_int = 57;
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    File,
    Block,
}

/// A backing device, open for data. The lock against a second user is [`MetadataFile`](crate::io::metadata)'s.
#[derive(Debug)]
pub struct Device {
    file: File,
    path: PathBuf,
    kind: DeviceKind,
    size: u64,
    direct: bool,
    /// Offset, length and memory of every transfer are multiples of this; 1 when the page cache is between.
    alignment: usize,
    in_memory: bool,
    /// Held while part of a block is rewritten: two such writes to one block would undo each other.
    partial: Mutex<()>,
    /// Whether the threads that work for this device count as I/O flushers.
    io_flusher: AtomicBool,
    no_punch: AtomicBool,
    no_zero_range: AtomicBool,
}

/// Drops what the page cache holds: pages that could not be written back stay there, clean, and would be taken for what
/// is on the disk when a resync compares them.
fn forget_cached(file: &File) {
    // SAFETY: the descriptor is open. It is advice: dirty pages stay, and a refusal changes nothing.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

impl Device {
    /// Opens `path`, with O_DIRECT unless `driver` is inline, or the file lives in memory, or its file system
    /// refuses it.
    ///
    /// # Errors
    /// `invalid` when it is missing or of the wrong kind.
    pub fn open(path: &Path, driver: Driver) -> Result<Device, Failure> {
        let fail = |error: io::Error| Failure::system(path.display(), &error);
        let file_type = std::fs::metadata(path).map_err(fail)?.file_type();
        let kind = if file_type.is_block_device() {
            DeviceKind::Block
        } else if file_type.is_file() {
            DeviceKind::File
        } else {
            return Err(Failure::new(
                FailureKind::Invalid,
                format!("{} is neither a regular file nor a block device", path.display()),
                "name a regular file or a block device",
            ));
        };
        let open = |flags: i32| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_CLOEXEC | flags)
                .open(path)
        };
        let mut file = open(0).map_err(fail)?;
        let in_memory = lives_in_memory(&file).map_err(fail)?;
        let mut alignment = 1;
        if driver != Driver::Inline && !(in_memory && driver == Driver::Auto) {
            if let Some(needed) = direct_alignment(&file, kind) {
                file = match open(libc::O_DIRECT) {
                    Ok(direct) => {
                        alignment = needed;
                        direct
                    }
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) => file,
                    Err(error) => return Err(fail(error)),
                };
            }
        }
        if alignment == 1 && !in_memory {
            forget_cached(&file);
        }
        let size = match kind {
            DeviceKind::File => file.metadata().map_err(fail)?.len(),
            DeviceKind::Block => block_device_size(&file).map_err(fail)?,
        };
        Ok(Device::from_parts(
            file,
            path.to_owned(),
            kind,
            size,
            alignment,
            in_memory,
        ))
    }

    pub(super) fn from_parts(
        file: File,
        path: PathBuf,
        kind: DeviceKind,
        size: u64,
        alignment: usize,
        in_memory: bool,
    ) -> Device {
        Device {
            file,
            path,
            kind,
            size,
            direct: alignment > 1,
            alignment,
            in_memory,
            partial: Mutex::new(()),
            io_flusher: AtomicBool::new(false),
            no_punch: AtomicBool::new(false),
            no_zero_range: AtomicBool::new(false),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// Bytes of the whole file or device.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// The file lives in a memory file system: a flush costs nothing.
    pub fn in_memory(&self) -> bool {
        self.in_memory
    }

    /// Smallest unit that is written without reading first, in bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Asks the threads that work for this device to take on, or drop, the mark of an I/O flusher.
    pub fn set_io_flusher(&self, on: bool) {
        self.io_flusher.store(on, Ordering::Relaxed);
    }

    /// Marks the calling thread as asked for; `marked` is what it is now. The kernel then never lets its memory
    /// allocations wait for the flushing that only it can do.
    pub(in crate::io) fn mark_thread(&self, marked: &mut bool) {
        let wanted = self.io_flusher.load(Ordering::Relaxed);
        if wanted != *marked {
            // Refused without CAP_SYS_RESOURCE: then there is no kernel device either.
            // SAFETY: sets a flag of the calling thread.
            unsafe { libc::prctl(PR_SET_IO_FLUSHER, libc::c_ulong::from(wanted), 0, 0, 0) };
            *marked = wanted;
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Whether a transfer needs no bounce through whole blocks.
    pub(super) fn is_aligned(&self, offset: u64, len: u64) -> bool {
        let mask = self.alignment as u64 - 1;
        (offset | len) & mask == 0
    }

    /// The whole blocks around a range.
    pub(super) fn widen(&self, offset: u64, len: u64) -> (u64, usize) {
        let alignment = self.alignment as u64;
        let start = offset - offset % alignment;
        let end = (offset + len).next_multiple_of(alignment);
        (start, (end - start) as usize)
    }

    /// Memory that the device can take as it is.
    pub(super) fn suitable(&self, payload: Payload) -> Payload {
        if (payload.as_ptr() as usize).is_multiple_of(self.alignment) {
            payload
        } else {
            Payload::copy_from(&payload)
        }
    }

    /// Executes one operation of any alignment; blocks.
    pub fn execute(&self, op: &DiskOp) -> io::Result<Option<Payload>> {
        match op {
            DiskOp::Read { offset, len } => {
                let (start, span) = self.widen(*offset, u64::from(*len));
                let mut buffer = Buffer::new(span);
                self.file.read_exact_at(buffer.as_mut_slice(), start)?;
                let skip = (offset - start) as usize;
                Ok(Some(buffer.freeze().slice(skip..skip + *len as usize)))
            }
            DiskOp::Write { offset, payload, fua } => {
                self.write(*offset, payload, *fua)?;
                Ok(None)
            }
            DiskOp::Zero {
                offset,
                len,
                unmap,
                fua,
            } => {
                self.zero(*offset, *len, *unmap)?;
                if *fua {
                    self.flush()?;
                }
                Ok(None)
            }
            DiskOp::Flush => {
                self.flush()?;
                Ok(None)
            }
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, payload: &Payload, fua: bool) -> io::Result<()> {
        if self.is_aligned(offset, payload.len() as u64) {
            return self.write_blocks(&self.suitable(payload.clone()), offset, fua);
        }
        let _guard = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, span) = self.widen(offset, payload.len() as u64);
        let mut blocks = Buffer::new(span);
        let bytes = blocks.as_mut_slice();
        let skip = (offset - start) as usize;
        let end = skip + payload.len();
        // Only the first and the last block can be partial.
        if skip > 0 {
            self.file.read_exact_at(&mut bytes[..self.alignment], start)?;
        }
        if end < span && (skip == 0 || span > self.alignment) {
            let last = span - self.alignment;
            self.file.read_exact_at(&mut bytes[last..], start + last as u64)?;
        }
        bytes[skip..end].copy_from_slice(payload);
        self.write_blocks(bytes, start, fua)
    }

    fn write_blocks(&self, mut bytes: &[u8], mut offset: u64, fua: bool) -> io::Result<()> {
        if !fua {
            return self.file.write_all_at(bytes, offset);
        }
        while !bytes.is_empty() {
            let part = libc::iovec {
                iov_base: bytes.as_ptr() as *mut libc::c_void,
                iov_len: bytes.len(),
            };
            // SAFETY: `part` describes `bytes`, which outlives the call and is only read.
            let written =
                unsafe { libc::pwritev2(self.fd(), &part, 1, offset as libc::off_t, libc::RWF_DSYNC) };
            match written {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n if n > 0 => {
                    bytes = &bytes[n as usize..];
                    offset += n as u64;
                }
                _ => {
                    let error = io::Error::last_os_error();
                    match error.raw_os_error() {
                        Some(libc::EINTR) => {}
                        // A file system that does not know the flag: two steps do the same.
                        Some(libc::EOPNOTSUPP) => {
                            self.file.write_all_at(bytes, offset)?;
                            return self.flush();
                        }
                        _ => return Err(error),
                    }
                }
            }
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        if self.is_aligned(offset, len) {
            return self.zero_blocks(offset, len, unmap);
        }
        let alignment = self.alignment as u64;
        let end = offset + len;
        let first_whole = offset.next_multiple_of(alignment);
        let last_whole = end - end % alignment;
        if first_whole >= last_whole {
            // Two partial blocks at most.
            return self.write(offset, &Buffer::zeroed(len as usize).freeze(), false);
        }
        for (from, to) in [(offset, first_whole), (last_whole, end)] {
            if from < to {
                self.write(from, &Buffer::zeroed((to - from) as usize).freeze(), false)?;
            }
        }
        self.zero_blocks(first_whole, last_whole - first_whole, unmap)
    }

    fn zero_blocks(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let punch = (
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            &self.no_punch,
        );
        let zero = (
            libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
            &self.no_zero_range,
        );
        let ways = if unmap { &[punch, zero][..] } else { &[zero][..] };
        for (mode, unsupported) in ways {
            if unsupported.load(Ordering::Relaxed) {
                continue;
            }
            loop {
                // SAFETY: a plain system call on an open descriptor.
                if unsafe { libc::fallocate(self.fd(), *mode, offset as libc::off_t, len as libc::off_t) }
                    == 0
                {
                    return Ok(());
                }
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV) => {
                        unsupported.store(true, Ordering::Relaxed);
                        break;
                    }
                    // A block device knows whole sectors only, and through the page cache any range may come.
                    Some(libc::EINVAL) if self.kind == DeviceKind::Block && self.alignment == 1 => break,
                    _ => return Err(error),
                }
            }
        }
        let zeroes = Buffer::zeroed(ZERO_PIECE.min(len as usize));
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(zeroes.len() as u64);
            self.file
                .write_all_at(&zeroes.as_slice()[..piece as usize], offset + done)?;
            done += piece;
        }
        Ok(())
    }
}

/// A tmpfs or ramfs file: writing to it is copying.
pub(in crate::io) fn lives_in_memory(file: &File) -> io::Result<bool> {
    let mut info = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `info` is valid for a write of a statfs.
    if unsafe { libc::fstatfs(file.as_raw_fd(), info.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled by the successful call above.
    let magic = unsafe { info.assume_init() }.f_type;
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    // A block device node lives in devtmpfs (a tmpfs); what counts is what it stands for.
    let is_node = file.metadata()?.file_type().is_block_device();
    Ok(!is_node && (magic == libc::TMPFS_MAGIC || magic == RAMFS_MAGIC))
}

/// The alignment that O_DIRECT needs here, in bytes; none when it cannot be used.
fn direct_alignment(file: &File, kind: DeviceKind) -> Option<usize> {
    if kind == DeviceKind::Block {
        let mut sector: libc::c_int = 0;
        // SAFETY: BLKSSZGET writes one int.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET, &mut sector) };
        let sector = usize::try_from(sector)
            .ok()
            .filter(|size| result == 0 && size.is_power_of_two())?;
        return (sector <= ALIGNMENT).then_some(sector.max(512));
    }
    let mut info = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty path with AT_EMPTY_PATH means the descriptor; `info` is valid for a write of a statx.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            info.as_mut_ptr(),
        )
    };
    // SAFETY: all zeroes is a valid statx, and the call only writes whole fields.
    let info = unsafe { info.assume_init() };
    if result != 0 || info.stx_mask & libc::STATX_DIOALIGN == 0 {
        // An older kernel does not say; no file system needs more than a page.
        return Some(ALIGNMENT);
    }
    let needed = info.stx_dio_offset_align.max(info.stx_dio_mem_align) as usize;
    (needed > 0 && needed <= ALIGNMENT && needed.is_power_of_two()).then_some(needed.max(512))
}

fn block_device_size(file: &File) -> io::Result<u64> {
    let mut size = 0_u64;
    // SAFETY: BLKGETSIZE64 writes one u64.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &mut size) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(size)
}
