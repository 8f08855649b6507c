//! Where received bytes wait until they make a whole header.

/// A receive buffer of fixed size: bytes are appended at the back and consumed from the front.
#[derive(Debug)]
pub struct ReceiveBuffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl ReceiveBuffer {
    /// A buffer of `capacity` bytes; a session needs [`MIN_RECEIVE_BUFFER`](super::MIN_RECEIVE_BUFFER).
    pub fn new(capacity: usize) -> ReceiveBuffer {
        ReceiveBuffer {
            bytes: vec![0; capacity].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// The bytes that wait.
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Free space to receive into, followed by a call of [`filled`](Self::filled). When less than half the
    /// buffer is free at the back, what waits (a piece of one message, as a rule) is moved to the front first.
    /// Empty only when the whole buffer waits.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 && self.bytes.len() - self.end < self.bytes.len() / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.bytes[self.end..]
    }

    /// Says that `count` bytes were received into [`space`](Self::space).
    ///
    /// # Panics
    /// If `count` is more than the space there was.
    pub fn filled(&mut self, count: usize) {
        assert!(
            count <= self.bytes.len() - self.end,
            "{count} bytes received into less space"
        );
        self.end += count;
    }

    /// Drops the first `count` bytes of [`data`](Self::data).
    ///
    /// # Panics
    /// If fewer are there.
    pub fn consume(&mut self, count: usize) {
        assert!(
            count <= self.end - self.start,
            "{count} bytes consumed of {}",
            self.end - self.start
        );
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Moves up to `target.len()` waiting bytes into `target` and says how many: the part of a write's payload
    /// that came with its header. The rest is received into `target` directly.
    pub fn take(&mut self, target: &mut [u8]) -> usize {
        let count = target.len().min(self.end - self.start);
        target[..count].copy_from_slice(&self.data()[..count]);
        self.consume(count);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_leave_in_the_order_they_came(steps in prop::collection::vec((0usize..40, 0usize..40), 1..200)) {
            let mut buffer = ReceiveBuffer::new(64);
            let (mut sent, mut seen) = (0u8, 0u8);
            for (receive, consume) in steps {
                let space = buffer.space();
                let receive = receive.min(space.len());
                for byte in &mut space[..receive] {
                    *byte = sent;
                    sent = sent.wrapping_add(1);
                }
                buffer.filled(receive);
                let mut target = vec![0; consume];
                let taken = buffer.take(&mut target);
                for byte in &target[..taken] {
                    prop_assert_eq!(*byte, seen);
                    seen = seen.wrapping_add(1);
                }
            }
            prop_assert_eq!(buffer.data().len(), usize::from(sent.wrapping_sub(seen)));
        }
    }

    #[test]
    fn a_full_buffer_with_a_consumed_front_has_room() {
        let mut buffer = ReceiveBuffer::new(8);
        buffer.space().copy_from_slice(b"abcdefgh");
        buffer.filled(8);
        assert!(buffer.space().is_empty());
        buffer.consume(1);
        assert_eq!(buffer.space().len(), 1);
        assert_eq!(buffer.data(), b"bcdefgh");
    }

    #[test]
    #[should_panic(expected = "3 bytes consumed of 2")]
    fn more_than_there_is_cannot_be_consumed() {
        let mut buffer = ReceiveBuffer::new(8);
        buffer.filled(2);
        buffer.consume(3);
    }
}
