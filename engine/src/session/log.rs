//! What was sent and is not acknowledged.

use std::collections::VecDeque;

/// Frames by number, from 1, as long as the other side has not said that it received them.
#[derive(Debug)]
pub(super) struct SendLog<F> {
    /// Frames acknowledged: the first one kept has the next number.
    acknowledged: u64,
    kept: VecDeque<(F, usize)>,
    bytes: usize,
}

impl<F> SendLog<F> {
    pub fn new() -> SendLog<F> {
        SendLog {
            acknowledged: 0,
            kept: VecDeque::new(),
            bytes: 0,
        }
    }

    pub fn push(&mut self, frame: F, bytes: usize) {
        self.bytes += bytes;
        self.kept.push_back((frame, bytes));
    }

    /// Number of the newest frame.
    pub fn sent(&self) -> u64 {
        self.acknowledged + self.kept.len() as u64
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Bytes of the frames kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn newest(&self) -> Option<&F> {
        self.kept.back().map(|(frame, _)| frame)
    }

    /// Oldest first.
    pub fn kept(&self) -> impl Iterator<Item = &F> {
        self.kept.iter().map(|(frame, _)| frame)
    }

    /// Lets go of the frames up to number `received`; false when so many were never sent.
    pub fn acknowledge(&mut self, received: u64) -> bool {
        if received > self.sent() {
            return false;
        }
        while self.acknowledged < received {
            let (_, bytes) = self
                .kept
                .pop_front()
                .expect("as many are kept as were sent and not acknowledged");
            self.bytes -= bytes;
            self.acknowledged += 1;
        }
        true
    }
}
