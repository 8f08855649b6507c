//! Opening, measuring and locking backing devices and metadata places: regular files and block devices.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::{MetadataError, MetadataErrorKind as Kind};
use super::holders;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    File,
    Block,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For a look: no lock, nothing is written.
    ReadOnly,
    /// Writable and locked for as long as the [`Device`] lives.
    Exclusive,
}

/// An open regular file or block device.
#[derive(Debug)]
pub struct Device {
    pub file: File,
    pub path: PathBuf,
    pub kind: DeviceKind,
    pub size_bytes: u64,
    info: Metadata,
}

impl Device {
    /// Opens what exists. `what` names its part in messages: "backing device", "metadata".
    pub fn open(what: &str, path: &Path, access: Access) -> Result<Device, MetadataError> {
        // Look before opening: opening a FIFO blocks, opening a tape rewinds it.
        let info = std::fs::metadata(path).map_err(|error| missing(what, path, &error))?;
        let kind = kind_of(what, path, &info)?;
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::Exclusive);
        if access == Access::Exclusive && kind == DeviceKind::Block {
            options.custom_flags(libc::O_EXCL);
        }
        let file = options.open(path).map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => in_use(what, path, &holders::of_block_device(info.rdev())),
            _ => MetadataError::system("open", path, &error),
        })?;
        Device::from_file(what, path, file, access)
    }

    /// Takes over a file that was just opened, and locks it if asked to.
    pub(super) fn from_file(
        what: &str,
        path: &Path,
        mut file: File,
        access: Access,
    ) -> Result<Device, MetadataError> {
        let failed = |error: io::Error| MetadataError::system("open", path, &error);
        let info = file.metadata().map_err(failed)?;
        let kind = kind_of(what, path, &info)?;
        if access == Access::Exclusive && kind == DeviceKind::File && !lock(&file).map_err(failed)? {
            return Err(in_use(what, path, &holders::of_file(info.dev(), info.ino())));
        }
        // Also tells the size of a block device.
        let size_bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Device {
            file,
            path: path.to_owned(),
            kind,
            size_bytes,
            info,
        })
    }

    /// Whether `file`, opened by the same path at another time, is still the same file or device.
    pub fn is_open_as(&self, file: &File) -> bool {
        file.metadata().is_ok_and(|info| match self.kind {
            DeviceKind::Block => info.file_type().is_block_device() && info.rdev() == self.info.rdev(),
            DeviceKind::File => (info.dev(), info.ino()) == (self.info.dev(), self.info.ino()),
        })
    }

    /// Whether both are the same file or block device, under whatever names.
    pub fn is_same(&self, other: &Device) -> bool {
        match (self.kind, other.kind) {
            (DeviceKind::Block, DeviceKind::Block) => self.info.rdev() == other.info.rdev(),
            (DeviceKind::File, DeviceKind::File) => {
                (self.info.dev(), self.info.ino()) == (other.info.dev(), other.info.ino())
            }
            _ => false,
        }
    }
}

fn kind_of(what: &str, path: &Path, info: &Metadata) -> Result<DeviceKind, MetadataError> {
    if info.file_type().is_block_device() {
        Ok(DeviceKind::Block)
    } else if info.is_file() {
        Ok(DeviceKind::File)
    } else {
        Err(MetadataError::new(
            Kind::Invalid,
            format!(
                "{what} {} is neither a block device nor a regular file",
                path.display()
            ),
            "name a block device or a regular file",
        ))
    }
}

fn missing(what: &str, path: &Path, error: &io::Error) -> MetadataError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG) => MetadataError::new(
            Kind::Invalid,
            format!("{what} {} does not exist: {error}", path.display()),
            "check the path in the configuration, and that the device is present (lsblk)",
        ),
        _ => MetadataError::system("look at", path, error),
    }
}

fn in_use(what: &str, path: &Path, holder: &str) -> MetadataError {
    MetadataError::new(
        Kind::InUse,
        format!("{what} {} is in use by {holder}", path.display()),
        "stop or unmount what uses it; two daemons must never share it",
    )
}

/// A lock that belongs to the open file, not to the process: the same daemon is refused a second one too.
/// Tells whether it was free.
fn lock(file: &File) -> io::Result<bool> {
    // SAFETY: flock is plain data, for which all zeroes is a valid value.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = libc::F_WRLCK as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the descriptor is open and `request` outlives the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &request) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}
