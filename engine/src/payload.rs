//! Shared, aligned buffers for block data.
//!
//! A payload is written once (from a socket or a disk), then only shared: the local disk and every peer
//! send from the same memory. Buffers are aligned for O_DIRECT and recycled through small per-thread
//! pools, because a fresh large allocation costs more in page faults than the data path spends on it.

use std::alloc::{alloc, dealloc, handle_alloc_error, Layout};
use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;

/// Alignment of every buffer, in bytes: enough for O_DIRECT on 4Kn disks.
pub const ALIGNMENT: usize = 4096;

/// Bytes a thread keeps for reuse, at most.
const POOL_BYTES_MAX: usize = 32 << 20;
/// Buffers larger than this go straight back to the allocator.
const POOLED_SIZE_MAX: usize = 4 << 20;

struct Pool {
    classes: [Vec<NonNull<u8>>; 11],
    bytes: usize,
}

impl Pool {
    const fn new() -> Self {
        Pool {
            classes: [const { Vec::new() }; 11],
            bytes: 0,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for (class, list) in self.classes.iter_mut().enumerate() {
            for pointer in list.drain(..) {
                // SAFETY: every pooled pointer came from `alloc` with exactly this layout.
                unsafe { dealloc(pointer.as_ptr(), layout_of(ALIGNMENT << class)) }
            }
        }
    }
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool::new()) };
}

fn layout_of(capacity: usize) -> Layout {
    Layout::from_size_align(capacity, ALIGNMENT).expect("capacity is bounded by callers")
}

fn class_of(capacity: usize) -> Option<usize> {
    (capacity <= POOLED_SIZE_MAX).then(|| (capacity / ALIGNMENT).trailing_zeros() as usize)
}

/// A uniquely owned, aligned, writable buffer. Becomes a [`Payload`] when it is full.
pub struct Buffer {
    pointer: NonNull<u8>,
    capacity: usize,
    len: usize,
}

// SAFETY: a Buffer owns its memory exclusively, like a Vec<u8>.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer of `len` bytes with unspecified (but initialised) contents.
    pub fn new(len: usize) -> Self {
        let capacity = if len <= POOLED_SIZE_MAX {
            len.max(ALIGNMENT).next_power_of_two()
        } else {
            len.next_multiple_of(ALIGNMENT)
        };
        let pooled = class_of(capacity).and_then(|class| {
            POOL.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                let pointer = pool.classes[class].pop();
                if pointer.is_some() {
                    pool.bytes -= capacity;
                }
                pointer
            })
            .ok()
            .flatten()
        });
        let pointer = pooled.unwrap_or_else(|| {
            let layout = layout_of(capacity);
            // SAFETY: the layout has a non-zero size.
            let raw = unsafe { alloc(layout) };
            let pointer = NonNull::new(raw).unwrap_or_else(|| handle_alloc_error(layout));
            // Initialise once, at birth, so that reused memory never needs it again.
            // SAFETY: `pointer` is valid for `capacity` bytes.
            unsafe { pointer.as_ptr().write_bytes(0, capacity) };
            pointer
        });
        Buffer {
            pointer,
            capacity,
            len,
        }
    }

    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        let mut buffer = Buffer::new(len);
        buffer.as_mut_slice().fill(0);
        buffer
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the memory is owned, initialised and at least `len` bytes long.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len) }
    }

    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Cuts the buffer to its first `len` bytes (a short read).
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Ends the writing: from here on the bytes are shared and immutable.
    pub fn freeze(self) -> Payload {
        let range = 0..self.len;
        Payload {
            buffer: Arc::new(self),
            range,
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let kept = class_of(self.capacity).is_some_and(|class| {
            POOL.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                let room = pool.bytes + self.capacity <= POOL_BYTES_MAX;
                if room {
                    pool.bytes += self.capacity;
                    pool.classes[class].push(self.pointer);
                }
                room
            })
            .unwrap_or(false)
        });
        if !kept {
            // SAFETY: allocated by `alloc` with this layout, and not kept by the pool.
            unsafe { dealloc(self.pointer.as_ptr(), layout_of(self.capacity)) }
        }
    }
}

/// Immutable, cheaply cloned bytes; a window into a shared [`Buffer`].
#[derive(Clone)]
pub struct Payload {
    buffer: Arc<Buffer>,
    range: Range<usize>,
}

impl Payload {
    pub fn empty() -> Self {
        Buffer::new(0).freeze()
    }

    pub fn copy_from(bytes: &[u8]) -> Self {
        let mut buffer = Buffer::new(bytes.len());
        buffer.as_mut_slice().copy_from_slice(bytes);
        buffer.freeze()
    }

    /// A narrower window of the same memory.
    ///
    /// # Panics
    /// When `range` reaches beyond this payload.
    pub fn slice(&self, range: Range<usize>) -> Payload {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "slice outside the payload"
        );
        Payload {
            buffer: Arc::clone(&self.buffer),
            range: self.range.start + range.start..self.range.start + range.end,
        }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer.as_slice()[self.range.clone()]
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Payload {}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_reused() {
        for len in [0, 1, 4096, 4097, 1 << 20, (4 << 20) + 1] {
            let buffer = Buffer::new(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_slice().as_ptr() as usize % ALIGNMENT, 0);
        }
        let first = Buffer::new(8192);
        let address = first.as_slice().as_ptr();
        drop(first);
        assert_eq!(Buffer::new(8000).as_slice().as_ptr(), address);
    }

    #[test]
    fn a_slice_shares_its_parents_memory() {
        let payload = Payload::copy_from(b"0123456789");
        let middle = payload.slice(2..6);
        assert_eq!(&*middle.slice(1..3), b"34");
        assert_eq!(middle.as_ptr(), payload[2..].as_ptr());
    }

    #[test]
    fn zeroed_really_clears_reused_memory() {
        let mut dirty = Buffer::new(4096);
        dirty.as_mut_slice().fill(7);
        drop(dirty);
        assert!(Buffer::zeroed(4096).as_slice().iter().all(|byte| *byte == 0));
    }
}
