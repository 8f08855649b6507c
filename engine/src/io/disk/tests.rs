use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::payload::Buffer;

const SIZE: u64 = 4 << 20;
const DRIVERS: [Driver; 3] = [Driver::Inline, Driver::IoUring, Driver::Threads];

/// A directory in memory and one on a disk: the two kinds of backing that behave differently.
fn places() -> Vec<tempfile::TempDir> {
    let disk = std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
    [Path::new("/dev/shm").to_owned(), disk]
        .iter()
        .map(|place| tempfile::tempdir_in(place).unwrap())
        .collect()
}

fn file_of(place: &Path, size: u64) -> PathBuf {
    let path = place.join("backing");
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

struct Rig {
    disk: Box<dyn Disk>,
    next: u64,
}

impl Rig {
    fn open(path: &Path, driver: Driver) -> Rig {
        let device = Arc::new(Device::open(path, driver).unwrap());
        Rig::over(device, driver)
    }

    fn over(device: Arc<Device>, driver: Driver) -> Rig {
        Rig {
            disk: start(device, driver).unwrap(),
            next: 0,
        }
    }

    /// Submits all, and returns the results in the order of submission.
    fn run(&mut self, ops: Vec<DiskOp>) -> Vec<Result<Option<Payload>, Errno>> {
        let first = self.next;
        let count = ops.len();
        let mut done = Vec::new();
        for op in ops {
            self.disk.submit(Token(self.next), op, &mut done);
            self.next += 1;
        }
        self.disk.kick().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while done.len() < count {
            assert!(
                Instant::now() < deadline,
                "{} of {count} operations completed",
                done.len()
            );
            let mut polled: Vec<_> = self
                .disk
                .event_fds()
                .into_iter()
                .map(|fd| libc::pollfd {
                    fd,
                    events: libc::POLLIN,
                    revents: 0,
                })
                .collect();
            // SAFETY: `polled` is valid for its length.
            unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, 1000) };
            self.disk.reap(&mut done);
            self.disk.kick().unwrap();
        }
        done.sort_by_key(|completion| completion.token);
        assert!(done
            .iter()
            .enumerate()
            .all(|(n, c)| c.token == Token(first + n as u64)));
        done.into_iter().map(|completion| completion.result).collect()
    }

    fn one(&mut self, op: DiskOp) -> Result<Option<Payload>, Errno> {
        self.run(vec![op]).remove(0)
    }

    fn read(&mut self, offset: u64, len: u32) -> Payload {
        self.one(DiskOp::Read { offset, len }).unwrap().unwrap()
    }
}

fn pattern(seed: u64, len: usize) -> Payload {
    let mut buffer = Buffer::new(len);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in buffer.as_mut_slice() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = (state >> 24) as u8;
    }
    buffer.freeze()
}

fn write(offset: u64, payload: Payload, fua: bool) -> DiskOp {
    DiskOp::Write { offset, payload, fua }
}

#[test]
fn every_driver_reads_back_what_it_wrote_at_any_alignment() {
    for place in places() {
        for driver in DRIVERS {
            let path = file_of(place.path(), SIZE);
            let mut rig = Rig::open(&path, driver);
            assert_eq!(rig.disk.driver(), driver);
            let mut model = vec![0_u8; SIZE as usize];
            let ranges = [
                (0, 4096),
                (512, 512),
                (1, 1),
                (4095, 2),
                (8191, 8194),
                (100_000, 70_001),
                (1 << 20, 1 << 20),
                ((1 << 20) + 3, 512),
                (SIZE - 1, 1),
            ];
            for (n, (offset, len)) in ranges.into_iter().enumerate() {
                let payload = pattern(n as u64 + 1, len as usize);
                model[offset as usize..(offset + len) as usize].copy_from_slice(&payload);
                rig.one(write(offset, payload, n % 2 == 0)).unwrap();
                assert_eq!(
                    *rig.read(offset, len as u32),
                    model[offset as usize..(offset + len) as usize]
                );
            }
            for (n, (offset, len)) in [(4096, 8192), (20_001, 50_000), (7, 5), ((2 << 20) - 100, 200)]
                .iter()
                .enumerate()
            {
                model[*offset as usize..(offset + len) as usize].fill(0);
                rig.one(DiskOp::Zero {
                    offset: *offset,
                    len: *len,
                    unmap: n % 2 == 0,
                    fua: n == 2,
                })
                .unwrap();
            }
            rig.one(DiskOp::Flush).unwrap();
            assert!(*rig.read(0, SIZE as u32) == model[..], "{driver:?} differs");
            drop(rig);
            assert!(
                std::fs::read(&path).unwrap() == model,
                "{driver:?} left other bytes in the file"
            );
        }
    }
}

#[test]
fn a_large_zero_reads_as_zeroes_whether_or_not_it_may_deallocate() {
    for place in places() {
        for driver in DRIVERS {
            for unmap in [true, false] {
                let path = file_of(place.path(), SIZE);
                let mut rig = Rig::open(&path, driver);
                rig.one(write(0, pattern(9, SIZE as usize), false)).unwrap();
                rig.one(DiskOp::Zero {
                    offset: 4096,
                    len: SIZE - 8192,
                    unmap,
                    fua: true,
                })
                .unwrap();
                let bytes = rig.read(0, SIZE as u32);
                assert!(bytes[4096..SIZE as usize - 4096].iter().all(|byte| *byte == 0));
                assert_eq!(bytes[..4096], pattern(9, SIZE as usize)[..4096]);
                assert_eq!(
                    std::fs::metadata(&path).unwrap().len(),
                    SIZE,
                    "the file kept its size"
                );
            }
        }
    }
}

#[test]
fn partial_writes_of_one_block_in_flight_together_do_not_undo_each_other() {
    for place in places() {
        for driver in DRIVERS {
            let mut rig = Rig::open(&file_of(place.path(), SIZE), driver);
            let payload = pattern(3, 16384);
            let ops = (0..163)
                .map(|n| {
                    write(
                        n * 100,
                        payload.slice(n as usize * 100..(n as usize + 1) * 100),
                        false,
                    )
                })
                .collect();
            assert!(rig.run(ops).iter().all(Result::is_ok));
            assert_eq!(rig.read(0, 16300)[..], payload[..16300]);
        }
    }
}

#[test]
fn more_operations_than_the_ring_has_slots_all_complete() {
    let place = &places()[1];
    for driver in DRIVERS {
        let mut rig = Rig::open(&file_of(place.path(), SIZE), driver);
        let ops = (0..1000)
            .map(|n| write(n * 4096, pattern(n, 4096), false))
            .collect();
        assert!(rig.run(ops).iter().all(Result::is_ok));
        let reads = (0..1000)
            .map(|n| DiskOp::Read {
                offset: n * 4096,
                len: 4096,
            })
            .collect();
        for (n, read) in rig.run(reads).into_iter().enumerate() {
            assert_eq!(read.unwrap().unwrap(), pattern(n as u64, 4096));
        }
    }
}

#[test]
fn a_full_disk_is_reported_as_such() {
    let full = || {
        let file = File::options().read(true).write(true).open("/dev/full").unwrap();
        Device::from_parts(file, "/dev/full".into(), DeviceKind::File, SIZE, 1, false)
    };
    for driver in DRIVERS {
        let mut rig = Rig::over(Arc::new(full()), driver);
        for fua in [false, true] {
            assert_eq!(
                rig.one(write(0, pattern(1, 4096), fua)),
                Err(Errno::ENOSPC),
                "{driver:?}"
            );
        }
    }
}

#[test]
fn a_file_that_shrank_reads_as_an_error() {
    for place in places() {
        for driver in DRIVERS {
            let path = file_of(place.path(), SIZE);
            let mut rig = Rig::open(&path, driver);
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(SIZE / 2)
                .unwrap();
            assert_eq!(
                rig.one(DiskOp::Read {
                    offset: SIZE / 2 - 4096,
                    len: 8192
                }),
                Err(Errno::EIO),
                "{driver:?}"
            );
            assert!(rig.one(DiskOp::Read { offset: 0, len: 8192 }).is_ok());
        }
    }
}

#[test]
fn the_driver_follows_the_kind_of_backing() {
    let [memory, disk] = &places()[..] else { panic!() };
    assert_eq!(
        Rig::open(&file_of(memory.path(), SIZE), Driver::Auto)
            .disk
            .driver(),
        Driver::Inline
    );
    let path = file_of(disk.path(), SIZE);
    let device = Arc::new(Device::open(&path, Driver::Auto).unwrap());
    let chosen = start(device.clone(), Driver::Auto).unwrap().driver();
    if device.is_direct() {
        assert_ne!(chosen, Driver::Inline);
    } else {
        assert_eq!(chosen, Driver::Threads);
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    let place = &places()[0];
    let missing = Device::open(&place.path().join("missing"), Driver::Auto).unwrap_err();
    assert_eq!(missing.kind, FailureKind::Invalid);
    assert!(missing.message.contains("missing"));
    assert_eq!(
        Device::open(place.path(), Driver::Auto).unwrap_err().kind,
        FailureKind::Invalid
    );
}
