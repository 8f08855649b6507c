//! Saves a bundle so that it is on the disk, whole and verified, before anybody may rely on it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;

use crate::bundle::{self, Bundle, BundleError, Facts};
use crate::wire::BlockRun;

pub const SUFFIX: &str = ".bpb";
/// What is being written, or was when its engine was killed.
const PARTIAL: &str = ".partial";
/// Left free on the file system whatever a bundle needs: others live there too.
const RESERVE: u64 = 1 << 20;
const BUFFER: usize = 1 << 20;
const REMEDY: &str = "or, of a split brain, give up the victim's changes for good with --no-bundle";

/// A bundle that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    pub path: PathBuf,
    pub id: u128,
    pub size_bytes: u64,
}

/// Reads the victim's device: fills the buffer from an offset in bytes.
pub type Source<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>;

/// Where a save stands. It leaves `RUNNING` once: by itself, right before the file gets its name, or because nobody
/// waits for it any more. So a save that was stopped never shows a file, without anybody having to wait for its thread.
#[derive(Default)]
pub struct Progress(AtomicU8);

const RUNNING: u8 = 0;
const COMMITTED: u8 = 1;
const STOPPED: u8 = 2;

impl Progress {
    pub fn goes_on(&self) -> bool {
        self.0.load(Ordering::Acquire) != STOPPED
    }

    /// From here on the file counts; false if nobody wants it.
    fn commit(&self) -> bool {
        self.leave(COMMITTED)
    }

    /// The caller may change the device again: what is read from now on never becomes a bundle.
    pub fn stop(&self) {
        self.leave(STOPPED);
    }

    fn leave(&self, to: u8) -> bool {
        (self
            .0
            .compare_exchange(RUNNING, to, Ordering::AcqRel, Ordering::Acquire))
        .is_ok()
    }
}

/// One save on a thread of its own. Dropped, it is stopped and left to itself: its thread may hang in a read or an
/// fsync, and nobody waits for that. It removes what it has written when it comes back.
pub struct Saver {
    progress: Arc<Progress>,
}

impl Saver {
    /// Runs `work` on a new thread.
    pub fn start(work: impl FnOnce(&Progress) + Send + 'static) -> io::Result<Saver> {
        let progress = Arc::new(Progress::default());
        let asked = progress.clone();
        std::thread::Builder::new()
            .name("bp-bundle".into())
            .spawn(move || {
                // A panic was reported by the panic hook; the engine must not hear of a bundle then.
                let _ = catch_unwind(AssertUnwindSafe(|| work(&asked)));
            })?;
        Ok(Saver { progress })
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.progress.stop();
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
    progress: &Progress,
) -> Result<Saved, String> {
    let go_on = || progress.goes_on();
    make_folder(folder).map_err(|error| unwritable(folder, &error))?;
    check_room(folder, facts, runs, read, &go_on)?;
    let (path, partial, file) = reserve_name(folder, facts).map_err(|error| unwritable(folder, &error))?;
    let written = write_and_verify(&file, &partial, facts, runs, read, &go_on).and_then(|written| {
        if progress.commit() {
            Ok(written)
        } else {
            Err(BundleError::Interrupted)
        }
    });
    let (id, size_bytes) = match written {
        Ok(written) => written,
        Err(error) => {
            // The next start looks for what cannot be removed now.
            let _ = fs::remove_file(&partial);
            return Err(told(folder, &error));
        }
    };
    let named = fs::rename(&partial, &path).and_then(|()| sync_folder(folder));
    if let Err(error) = named {
        // Of a file that is not durable nobody hears.
        let _ = fs::remove_file(&partial);
        let _ = fs::remove_file(&path);
        return Err(unwritable(folder, &error));
    }
    Ok(Saved { path, id, size_bytes })
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
    file: &File,
    partial: &Path,
    facts: &Facts,
    runs: &[BlockRun],
    read: Source<'_>,
    go_on: &dyn Fn() -> bool,
) -> Result<(u128, u64), BundleError> {
    let mut out = BufWriter::with_capacity(BUFFER, file);
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

/// A name that no bundle has, time and generation, and a number where that is not enough; and the file to write until
/// then. As long as that is there no other save takes the name: one that was stopped may still be at its end.
fn reserve_name(folder: &Path, facts: &Facts) -> io::Result<(PathBuf, PathBuf, File)> {
    let base = format!("{}-{}", utc(facts.created_s), facts.victim.current);
    let mut path = folder.join(format!("{base}{SUFFIX}"));
    let mut number = 2;
    loop {
        let mut partial = path.clone().into_os_string();
        partial.push(PARTIAL);
        let partial = PathBuf::from(partial);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            // The victim's data: no less private than its device.
            .mode(0o600)
            .custom_flags(libc::O_CLOEXEC)
            .open(&partial);
        match file {
            Ok(file) if !path.exists() => return Ok((path, partial, file)),
            // Only who has the partial file gives the name: it was taken before.
            Ok(_) => fs::remove_file(&partial)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        path = folder.join(format!("{base}-{number}{SUFFIX}"));
        number += 1;
    }
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
            "nobody waited for it any more: the connection or the resource ended; resolve again".into()
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
    use std::sync::mpsc::channel;

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
        let saved = save(&folder, &facts(9), &all(9), &mut noise, &Progress::default()).unwrap();
        let again = save(&folder, &facts(9), &all(9), &mut noise, &Progress::default()).unwrap();
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
        let progress = Progress::default();
        let why = save(base.path(), &facts(9), &all(9), &mut broken, &progress).unwrap_err();
        assert!(why.contains("block 0") && why.contains("--no-bundle"), "{why}");
        progress.stop();
        let why = save(base.path(), &facts(9), &all(9), &mut noise, &progress).unwrap_err();
        assert!(why.contains("nobody waited"), "{why}");
        assert!(names(base.path()).is_empty());
    }

    #[test]
    fn a_save_is_committed_or_stopped_and_never_both() {
        let progress = Progress::default();
        assert!(progress.commit());
        progress.stop();
        assert!(progress.goes_on(), "it counts");
        let progress = Progress::default();
        progress.stop();
        assert!(!progress.commit() && !progress.goes_on());
    }

    /// The engine's thread drops it: it must not stand while a disk hangs.
    #[test]
    fn a_save_that_hangs_is_left_to_itself_and_shows_nothing_when_it_comes_back() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().to_owned();
        let (reading, in_read) = channel();
        let (let_go, gate) = channel::<()>();
        let (ended, end) = channel();
        let saver = Saver::start(move |progress| {
            // The last read before the rename hangs.
            let mut read = |offset: u64, into: &mut [u8]| {
                reading.send(()).unwrap();
                gate.recv().unwrap();
                noise(offset, into)
            };
            let result = save(&folder, &facts(1), &all(1), &mut read, progress);
            ended.send(result).unwrap();
        })
        .unwrap();
        in_read.recv().unwrap();
        drop(saver);
        // Meanwhile the same name is wanted again, and finished first.
        let again = save(base.path(), &facts(1), &all(1), &mut noise, &Progress::default()).unwrap();
        let_go.send(()).unwrap();
        end.recv().unwrap().unwrap_err();
        let name = again.path.file_name().unwrap().to_str().unwrap();
        assert_eq!(names(base.path()), [name]);
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
        let progress = Progress::default();
        save(base.path(), &facts(blocks), &all(blocks), &mut read, &progress).unwrap_err();
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
