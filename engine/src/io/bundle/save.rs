//! Saves a bundle so that it is on the disk, whole and verified, before anybody may rely on it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::bundle::{self, Bundle, BundleError, Facts};
use crate::wire::BlockRun;

pub const SUFFIX: &str = ".bpb";
/// What is being written, or was when its engine was killed.
const PARTIAL: &str = ".partial";
/// Left free on the file system whatever a bundle needs: others live there too.
const RESERVE: u64 = 1 << 20;
const BUFFER: usize = 1 << 20;
const REMEDY: &str = "or give up the victim's changes for good with --no-bundle";

/// A bundle that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    pub path: PathBuf,
    pub id: u128,
    pub size_bytes: u64,
}

/// Reads the victim's device: fills the buffer from an offset in bytes.
pub type Source<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>;

/// One save on a thread of its own; dropped, it is interrupted and leaves nothing behind.
pub struct Saver {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Saver {
    /// Runs `work` on a new thread; it is given what to ask whether it shall go on.
    pub fn start(work: impl FnOnce(&dyn Fn() -> bool) + Send + 'static) -> io::Result<Saver> {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let thread = std::thread::Builder::new()
            .name("bp-bundle".into())
            .spawn(move || {
                // A panic was reported by the panic hook; the engine must not hear of a bundle then.
                let _ = catch_unwind(AssertUnwindSafe(|| work(&|| !asked.load(Ordering::Relaxed))));
            })?;
        Ok(Saver {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Copies `runs` into a new bundle in `folder`, which is made where it is missing. When this returns well, the
/// file is complete under its name, was read back and compared, and is durable with its name.
///
/// # Errors
/// What is wrong and what to do about it, for people. No file is left then.
pub fn save(
    folder: &Path,
    facts: &Facts,
    runs: &[BlockRun],
    read: Source<'_>,
    go_on: &dyn Fn() -> bool,
) -> Result<Saved, String> {
    make_folder(folder).map_err(|error| unwritable(folder, &error))?;
    check_room(folder, facts, runs, read, go_on)?;
    let path = free_name(folder, facts);
    let mut partial = path.clone().into_os_string();
    partial.push(PARTIAL);
    let partial = PathBuf::from(partial);
    let saved = write_and_verify(&partial, facts, runs, read, go_on)
        .map_err(|error| told(folder, &error))
        .and_then(|(id, size_bytes)| {
            fs::rename(&partial, &path)
                .and_then(|()| sync_folder(folder))
                .map_err(|error| unwritable(folder, &error))?;
            Ok(Saved {
                path: path.clone(),
                id,
                size_bytes,
            })
        });
    if saved.is_err() {
        // Of a file that is not durable nobody hears; the next start looks for what cannot be removed now.
        let _ = fs::remove_file(&partial);
        let _ = fs::remove_file(&path);
    }
    saved
}

/// Removes what saves that were killed left in `folder`; a folder that is not there has none.
pub fn remove_leftovers(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.as_os_str().as_bytes().ends_with(PARTIAL.as_bytes()) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn write_and_verify(
    partial: &Path,
    facts: &Facts,
    runs: &[BlockRun],
    read: Source<'_>,
    go_on: &dyn Fn() -> bool,
) -> Result<(u128, u64), BundleError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        // The victim's data: no less private than its device.
        .mode(0o600)
        .custom_flags(libc::O_CLOEXEC)
        .open(partial)?;
    let mut out = BufWriter::with_capacity(BUFFER, &file);
    let size = bundle::write(&mut out, facts, runs, read, go_on)?;
    out.flush()?;
    drop(out);
    file.sync_all()?;
    // What is compared shall come from the disk, where the kernel lets go of its copy.
    // SAFETY: a plain system call on an open descriptor.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    let mut written = Bundle::open(BufReader::with_capacity(BUFFER, File::open(partial)?))?;
    if written.facts() != facts || written.size_bytes() != size {
        return Err(BundleError::Damaged("it is not what was written".into()));
    }
    written.verify(go_on)?;
    Ok((written.id(), size))
}

/// Makes the folder, and its name durable: a bundle in a folder that is gone after a power cut is no bundle.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().ok_or(io::ErrorKind::NotFound)?;
    make_folder(parent)?;
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_folder(parent)
}

pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Room for the blocks as they are is enough; where there is less, they are compressed once to learn what they
/// need, before anything is written.
fn check_room(
    folder: &Path,
    facts: &Facts,
    runs: &[BlockRun],
    read: Source<'_>,
    go_on: &dyn Fn() -> bool,
) -> Result<(), String> {
    let free = free_bytes(folder)
        .map_err(|error| unwritable(folder, &error))?
        .saturating_sub(RESERVE);
    let raw = facts.blocks.saturating_mul(u64::from(facts.block_size_bytes));
    // Compression adds less than a hundredth to what it cannot compress.
    if raw.saturating_add(raw / 100 + BUFFER as u64) <= free {
        return Ok(());
    }
    let needed =
        bundle::write(&mut io::sink(), facts, runs, read, go_on).map_err(|error| told(folder, &error))?;
    if needed <= free {
        return Ok(());
    }
    Err(format!(
        "there is no room for the bundle: it needs {needed} bytes, and {} has {free} to spare; make room there, {REMEDY}",
        folder.display()
    ))
}

fn free_bytes(folder: &Path) -> io::Result<u64> {
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes())?;
    let mut info = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends with a zero and `info` is valid for a write of a statvfs.
    if unsafe { libc::statvfs(path.as_ptr(), info.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled by the successful call above.
    let info = unsafe { info.assume_init() };
    Ok(info.f_bavail.saturating_mul(info.f_frsize))
}

/// A name that no bundle has: time and generation, and a number where that is not enough.
fn free_name(folder: &Path, facts: &Facts) -> PathBuf {
    let base = format!("{}-{}", utc(facts.created_s), facts.victim.current);
    let mut path = folder.join(format!("{base}{SUFFIX}"));
    for number in 2.. {
        if !path.exists() {
            break;
        }
        path = folder.join(format!("{base}-{number}{SUFFIX}"));
    }
    path
}

/// `20261124T221500Z`.
fn utc(seconds: u64) -> String {
    let time = seconds as libc::time_t;
    let mut parts = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both point to values of their types; all zeroes is a valid tm, which a failed call leaves.
    unsafe { libc::gmtime_r(&time, parts.as_mut_ptr()) };
    // SAFETY: as above.
    let parts = unsafe { parts.assume_init() };
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        parts.tm_year + 1900,
        parts.tm_mon + 1,
        parts.tm_mday,
        parts.tm_hour,
        parts.tm_min,
        parts.tm_sec
    )
}

fn told(folder: &Path, error: &BundleError) -> String {
    match error {
        BundleError::Io(error) => unwritable(folder, error),
        BundleError::Source { block, error } => format!(
            "block {block} of this node's device cannot be read for the bundle: {error}; check the disk (kernel log, smartctl), {REMEDY}"
        ),
        BundleError::Interrupted => {
            "the resource was stopped while its bundle was saved; bring it up and resolve again".into()
        }
        other => format!(
            "the bundle in {} was not saved: {other}; check that disk, {REMEDY}",
            folder.display()
        ),
    }
}

fn unwritable(folder: &Path, error: &io::Error) -> String {
    let what = match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => "make room there",
        Some(libc::EROFS | libc::EACCES | libc::EPERM) => "make it writable",
        _ => "check that disk and the kernel log",
    };
    format!(
        "no bundle can be saved in {}: {error}; {what}, {REMEDY}",
        folder.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Generations;

    const BLOCK: usize = 4096;

    fn facts(blocks: u64) -> Facts {
        let generations = Generations {
            current: 0xabc,
            bitmap: 0,
            history: [0; crate::wire::HISTORY_LEN],
        };
        Facts {
            resource: "r0".into(),
            node: "b".into(),
            peer: "a".into(),
            rule: "split-brain".into(),
            why: "a test".into(),
            created_s: 1_700_000_000,
            victim: (&generations).into(),
            survivor: (&generations).into(),
            block_size_bytes: BLOCK as u32,
            data_size_bytes: 1 << 40,
            blocks,
        }
    }

    fn all(count: u64) -> [BlockRun; 1] {
        [BlockRun { first: 0, count }]
    }

    fn noise(offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut state = offset | 1;
        for byte in into {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 33) as u8;
        }
        Ok(())
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_saved_bundle_is_whole_under_its_name() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("bundles/r0");
        let saved = save(&folder, &facts(9), &all(9), &mut noise, &|| true).unwrap();
        let again = save(&folder, &facts(9), &all(9), &mut noise, &|| true).unwrap();
        let name = "20231114T221320Z-0000000000000abc";
        assert_eq!(names(&folder), [format!("{name}-2.bpb"), format!("{name}.bpb")]);
        assert_eq!((saved.id, saved.path == again.path), (again.id, false));
        let mut bundle = Bundle::open(File::open(&saved.path).unwrap()).unwrap();
        bundle.verify(&|| true).unwrap();
        let mut wanted = vec![0; 9 * BLOCK];
        noise(0, &mut wanted).unwrap();
        assert_eq!(bundle.read(0).unwrap().data, wanted);
    }

    #[test]
    fn a_bundle_that_fails_leaves_nothing() {
        let base = tempfile::tempdir().unwrap();
        let mut broken = |_: u64, _: &mut [u8]| Err(io::Error::from_raw_os_error(libc::EIO));
        let why = save(base.path(), &facts(9), &all(9), &mut broken, &|| true).unwrap_err();
        assert!(why.contains("block 0") && why.contains("--no-bundle"), "{why}");
        let why = save(base.path(), &facts(9), &all(9), &mut noise, &|| false).unwrap_err();
        assert!(why.contains("stopped"), "{why}");
        assert!(names(base.path()).is_empty());
    }

    #[test]
    fn no_room_is_noticed_before_anything_is_written() {
        let base = tempfile::tempdir().unwrap();
        let free = free_bytes(base.path()).unwrap();
        // More than any room: the blocks are compressed first, and the attempt ends at the first of them.
        let blocks = (free / BLOCK as u64 + 1).max(1);
        if blocks.div_ceil(256) > 1 << 24 {
            return;
        }
        let mut read = |_: u64, _: &mut [u8]| {
            assert!(names(base.path()).is_empty(), "written before the room was known");
            Err(io::Error::from_raw_os_error(libc::EIO))
        };
        save(base.path(), &facts(blocks), &all(blocks), &mut read, &|| true).unwrap_err();
    }

    #[test]
    fn leftovers_are_removed_and_bundles_are_not() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("x.bpb.partial"), b"").unwrap();
        fs::write(base.path().join("x.bpb"), b"").unwrap();
        remove_leftovers(base.path()).unwrap();
        remove_leftovers(&base.path().join("missing")).unwrap();
        assert_eq!(names(base.path()), ["x.bpb"]);
    }
}
