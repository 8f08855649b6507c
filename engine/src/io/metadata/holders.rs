//! Who uses a device or file: only for messages, so whatever cannot be read is left out.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Holders named at most; the rest is not worth a longer line.
const NAMED_MAX: usize = 3;

/// The processes that hold a lock on a file: `"process 4711 (blockpaird)"`.
pub(super) fn of_file(dev: u64, ino: u64) -> String {
    let processes = processes(|info| info.dev() == dev && info.ino() == ino, true);
    listed(processes, "another process")
}

/// Mounts, devices built on it, and processes that have a block device open.
pub(super) fn of_block_device(rdev: u64) -> String {
    let number = format!("{}:{}", libc::major(rdev), libc::minor(rdev));
    let mut holders = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(2);
        if fields.next() == Some(&number) {
            if let Some(place) = fields.nth(1) {
                holders.push(format!("the mount on {place}"));
            }
        }
    }
    if let Ok(entries) = fs::read_dir(format!("/sys/dev/block/{number}/holders")) {
        for entry in entries.flatten() {
            holders.push(format!("/dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    holders.extend(processes(|info| info.rdev() == rdev, false));
    listed(holders, "another process or the kernel")
}

fn listed(mut holders: Vec<String>, unknown: &str) -> String {
    if holders.is_empty() {
        return unknown.to_owned();
    }
    let more = holders.len().saturating_sub(NAMED_MAX);
    holders.truncate(NAMED_MAX);
    let mut text = holders.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// The processes with an open file that fits; `locked`: and that hold a lock through it. Locks that belong
/// to an open file have no process in /proc/locks, but are listed with the descriptor.
fn processes(fits: impl Fn(&fs::Metadata) -> bool, locked: bool) -> Vec<String> {
    let mut pids = BTreeSet::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        for fd in fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let open = fs::metadata(fd.path()).is_ok_and(|info| fits(&info));
            let info = process.path().join("fdinfo").join(fd.file_name());
            let holds = |text: String| text.lines().any(|line| line.starts_with("lock:"));
            if open && (!locked || fs::read_to_string(info).is_ok_and(holds)) {
                pids.insert(pid);
            }
        }
    }
    let me = std::process::id();
    let name = |pid: u32| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let this = if pid == me { ", this daemon" } else { "" };
        format!("process {pid} ({}{this})", comm.trim())
    };
    pids.into_iter().map(name).collect()
}
