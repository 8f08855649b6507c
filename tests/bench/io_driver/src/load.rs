//! The load generator: one blocking thread that keeps `depth` random 4 KiB writes in flight.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::proto::{parse_reply, put_header, BLOCK, FRAME, HEADER, REPLY};

/// Each written block starts with its write's sequence number, so that the files can be checked.
pub struct Load {
    socket: UnixStream,
    depth: usize,
    random: u64,
    sequence: u64,
    /// The last acknowledged sequence number of each block; zero if never written.
    acknowledged: Vec<u64>,
}

#[derive(Clone, Copy)]
pub struct Sample {
    pub iops: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

#[derive(Clone, Copy)]
struct InFlight {
    block: usize,
    sequence: u64,
    sent: Instant,
}

impl Load {
    pub fn new(socket: UnixStream, depth: usize, blocks: usize) -> Self {
        Self {
            socket,
            depth,
            random: 0x9e37_79b9_7f4a_7c15,
            sequence: 0,
            acknowledged: vec![0; blocks],
        }
    }

    /// Writes for `length`, then lets what is in flight finish.
    pub fn run(&mut self, length: Duration) -> io::Result<Sample> {
        let mut frames = vec![0u8; self.depth * FRAME];
        let mut replies = vec![0u8; self.depth * REPLY];
        let start = Instant::now();
        let mut in_flight = vec![
            InFlight {
                block: 0,
                sequence: 0,
                sent: start
            };
            self.depth
        ];
        let mut latencies_ns: Vec<u64> = Vec::with_capacity(1 << 20);
        let mut free: Vec<usize> = (0..self.depth).collect();
        let mut partial = 0;
        let mut now = start;
        loop {
            if now - start < length {
                let count = free.len();
                for (slot, frame) in free.drain(..).zip(frames.chunks_exact_mut(FRAME)) {
                    in_flight[slot] = self.next_write(slot, frame, now);
                }
                self.socket.write_all(&frames[..count * FRAME])?;
            } else if free.len() == self.depth {
                break;
            }
            let got = self.socket.read(&mut replies[partial..])?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            now = Instant::now();
            let whole = (partial + got) / REPLY * REPLY;
            for reply in replies[..whole].chunks_exact(REPLY) {
                let slot = parse_reply(reply)? as usize;
                let InFlight {
                    block,
                    sequence,
                    sent,
                } = in_flight[slot];
                self.acknowledged[block] = sequence;
                latencies_ns.push((now - sent).as_nanos() as u64);
                free.push(slot);
            }
            replies.copy_within(whole..partial + got, 0);
            partial = partial + got - whole;
        }
        let seconds = (now - start).as_secs_f64();
        latencies_ns.sort_unstable();
        let at = |share: f64| latencies_ns[((latencies_ns.len() - 1) as f64 * share) as usize] as f64 / 1e3;
        Ok(Sample {
            iops: latencies_ns.len() as f64 / seconds,
            p50_us: at(0.50),
            p99_us: at(0.99),
        })
    }

    /// Fills one frame with a write to a random block; blocks in flight never coincide.
    fn next_write(&mut self, slot: usize, frame: &mut [u8], now: Instant) -> InFlight {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let rows = self.acknowledged.len() / self.depth;
        let block = (self.random % rows as u64) as usize * self.depth + slot;
        self.sequence += 1;
        put_header(frame, slot as u64, (block * BLOCK) as u64);
        frame[HEADER..HEADER + 8].copy_from_slice(&self.sequence.to_le_bytes());
        InFlight {
            block,
            sequence: self.sequence,
            sent: now,
        }
    }

    /// Checks that `file` holds the last acknowledged write of (a sample of) the written blocks.
    pub fn verify(&self, file: &File) -> io::Result<()> {
        let mut checked = 0;
        for (block, &expected) in self
            .acknowledged
            .iter()
            .enumerate()
            .filter(|(_, &s)| s != 0)
            .step_by(37)
        {
            let mut stamp = [0; 8];
            file.read_exact_at(&mut stamp, (block * BLOCK) as u64)?;
            let found = u64::from_le_bytes(stamp);
            if found != expected {
                return Err(io::Error::other(format!(
                    "block {block} holds write {found}, but {expected} was acknowledged"
                )));
            }
            checked += 1;
        }
        if checked == 0 {
            return Err(io::Error::other("no write was acknowledged"));
        }
        Ok(())
    }
}
