//! A virtual disk that forgets, after a power cut, any subset of what was not flushed.

use crate::rng::Rng;

#[derive(Clone)]
struct Cached {
    offset: usize,
    bytes: Vec<u8>,
}

/// Contents as the running system sees them, and as a power cut would leave them.
pub struct Disk {
    current: Vec<u8>,
    stable: Vec<u8>,
    cache: Vec<Cached>,
}

impl Disk {
    pub fn new(len: usize) -> Disk {
        Disk {
            current: vec![0; len],
            stable: vec![0; len],
            cache: Vec::new(),
        }
    }

    pub fn contents(&self) -> &[u8] {
        &self.current
    }

    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        self.current[offset as usize..offset as usize + len].to_vec()
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8], durable: bool) {
        let range = offset as usize..offset as usize + bytes.len();
        self.current[range.clone()].copy_from_slice(bytes);
        if durable {
            self.stable[range].copy_from_slice(bytes);
            // An older cached write of these bytes must not come back.
            self.cache.push(Cached {
                offset: offset as usize,
                bytes: bytes.to_vec(),
            });
            let upto = self.cache.len();
            self.flush(upto);
        } else {
            self.cache.push(Cached {
                offset: offset as usize,
                bytes: bytes.to_vec(),
            });
        }
    }

    /// How many cached writes a flush that starts now will cover.
    pub fn flush_point(&self) -> usize {
        self.cache.len()
    }

    pub fn flush(&mut self, upto: usize) {
        let upto = upto.min(self.cache.len());
        for write in self.cache.drain(..upto) {
            self.stable[write.offset..write.offset + write.bytes.len()].copy_from_slice(&write.bytes);
        }
    }

    /// Keeps any subset of the cached writes, each 512-byte sector on its own when `torn`.
    pub fn power_cut(&mut self, rng: &mut Rng, torn: bool) {
        let mut cache = std::mem::take(&mut self.cache);
        rng.shuffle(&mut cache);
        for write in cache {
            let whole = rng.chance(2);
            for (n, sector) in write.bytes.chunks(512).enumerate() {
                if if torn { rng.chance(2) } else { whole } {
                    let start = write.offset + n * 512;
                    self.stable[start..start + sector.len()].copy_from_slice(sector);
                }
            }
        }
        self.current.copy_from_slice(&self.stable);
    }
}
