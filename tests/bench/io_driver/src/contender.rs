//! The contenders by name, and how a node process runs one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::disk::{Disk, Inline, Pool, Ring, Wake};
use crate::epoll::Spin;
use crate::{completion, epoll, uring};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A resident file on tmpfs: a write is a memory copy.
    Tmpfs,
    /// A preallocated file on a disk's file system, opened with O_DIRECT.
    Disk,
}

impl Backing {
    fn flags(self) -> i32 {
        match self {
            Self::Tmpfs => 0,
            Self::Disk => libc::O_DIRECT,
        }
    }
}

#[derive(Clone, Copy)]
enum Driver {
    Uring { inline: bool },
    Compio { inline: bool },
    Pool,
    Hybrid { wake: Wake, spin_us: u64, yields: bool },
    BlockingDisk,
}

#[derive(Clone, Copy)]
pub struct Contender {
    pub name: &'static str,
    driver: Driver,
    on: &'static [Backing],
}

const BOTH: &[Backing] = &[Backing::Tmpfs, Backing::Disk];
const TMPFS: &[Backing] = &[Backing::Tmpfs];
const DISK: &[Backing] = &[Backing::Disk];

const fn hybrid(
    name: &'static str,
    wake: Wake,
    spin_us: u64,
    yields: bool,
    on: &'static [Backing],
) -> Contender {
    Contender {
        name,
        driver: Driver::Hybrid {
            wake,
            spin_us,
            yields,
        },
        on,
    }
}

pub const CONTENDERS: &[Contender] = &[
    Contender {
        name: "a io_uring reactor",
        driver: Driver::Uring { inline: false },
        on: BOTH,
    },
    Contender {
        name: "a+ io_uring, pwrite",
        driver: Driver::Uring { inline: true },
        on: TMPFS,
    },
    Contender {
        name: "b compio",
        driver: Driver::Compio { inline: false },
        on: BOTH,
    },
    Contender {
        name: "b+ compio, pwrite",
        driver: Driver::Compio { inline: true },
        on: TMPFS,
    },
    Contender {
        name: "c epoll, pool",
        driver: Driver::Pool,
        on: BOTH,
    },
    hybrid("d hybrid", Wake::RingFd, 0, false, BOTH),
    hybrid("d eventfd", Wake::Eventfd, 0, false, DISK),
    hybrid("d eventfd, peek", Wake::EventfdPeek, 0, false, DISK),
    Contender {
        name: "d blocking pwrite",
        driver: Driver::BlockingDisk,
        on: DISK,
    },
    hybrid("d spin 20", Wake::RingFd, 20, false, BOTH),
    hybrid("d spin 50", Wake::RingFd, 50, false, BOTH),
    hybrid("d spin 20 yield", Wake::RingFd, 20, true, BOTH),
    hybrid("d spin 50 yield", Wake::RingFd, 50, true, BOTH),
];

impl Contender {
    pub fn named(name: &str) -> Option<&'static Self> {
        CONTENDERS.iter().find(|contender| contender.name == name)
    }

    pub fn runs_on(&self, backing: Backing) -> bool {
        self.on.contains(&backing)
    }

    /// Serves `up` until it closes; with `down`, as a primary replicating to it.
    pub fn serve(&self, backing: Backing, path: &Path, up: OwnedFd, down: Option<OwnedFd>) -> io::Result<()> {
        let open = || -> io::Result<File> {
            OpenOptions::new()
                .write(true)
                .custom_flags(backing.flags())
                .open(path)
        };
        let mut spin = Spin {
            limit: Duration::ZERO,
            yields: false,
        };
        let disk: Box<dyn Disk> = match self.driver {
            Driver::Uring { inline } => return uring::serve(up, down, open()?, inline),
            Driver::Compio { inline } => return completion::serve(up, down, path, backing.flags(), inline),
            Driver::Pool => Box::new(Pool::new(open()?)?),
            Driver::BlockingDisk => Box::new(Inline(open()?)),
            Driver::Hybrid {
                wake,
                spin_us,
                yields,
            } => {
                spin = Spin {
                    limit: Duration::from_micros(spin_us),
                    yields,
                };
                match backing {
                    Backing::Tmpfs => Box::new(Inline(open()?)),
                    Backing::Disk => Box::new(Ring::new(open()?, wake)?),
                }
            }
        };
        epoll::serve(up, down, disk, spin)
    }
}
