//! Keeps overlapping operations of one disk in order.
//!
//! Whoever is about to change a range, or to read it for a comparison, takes its place here first. A holder
//! is granted once nothing that came earlier overlaps it: so two writes that overlap in flight reach the
//! disk in the order in which they arrived, on every node, and a resync chunk never races a write.

use super::fault::{planted, Fault};

/// One holder's place in the queue.
struct Place<H> {
    holder: H,
    start: u64,
    end: u64,
    order: u64,
    granted: bool,
}

/// A queue of byte ranges. Its length is bounded by the limits on requests and chunks in flight.
pub(super) struct RangeQueue<H> {
    places: Vec<Place<H>>,
    next_order: u64,
    waiting: usize,
}

impl<H: Copy + Eq> RangeQueue<H> {
    pub(super) fn new() -> Self {
        RangeQueue {
            places: Vec::new(),
            next_order: 0,
            waiting: 0,
        }
    }

    /// Queues `holder` for `[start, end)`; true when it may go on at once.
    pub(super) fn acquire(&mut self, holder: H, start: u64, end: u64) -> bool {
        debug_assert!(start < end);
        let granted = planted(Fault::OverlapsUnordered) || self.is_free(start, end);
        self.places.push(Place {
            holder,
            start,
            end,
            order: self.next_order,
            granted,
        });
        self.next_order += 1;
        self.waiting += usize::from(!granted);
        granted
    }

    /// Whether nobody holds any of it, or waits to.
    pub(super) fn is_free(&self, start: u64, end: u64) -> bool {
        !(self.places.iter()).any(|place| place.start < end && start < place.end)
    }

    /// Those who wait for any of it.
    pub(super) fn waiting(&self, start: u64, end: u64) -> impl Iterator<Item = H> + '_ {
        (self.places.iter())
            .filter(move |place| !place.granted && place.start < end && start < place.end)
            .map(|place| place.holder)
    }

    /// Takes `holder` out, waiting or granted, and appends those who may go on now, oldest first.
    pub(super) fn release(&mut self, holder: H, ready: &mut Vec<H>) {
        let Some(index) = self.places.iter().position(|place| place.holder == holder) else {
            debug_assert!(false, "released a range that was not held");
            return;
        };
        let gone = self.places.swap_remove(index);
        self.waiting -= usize::from(!gone.granted);
        if self.waiting == 0 {
            return;
        }
        let mut candidates: Vec<usize> = (0..self.places.len())
            .filter(|&i| {
                let place = &self.places[i];
                !place.granted && place.start < gone.end && gone.start < place.end && place.order > gone.order
            })
            .collect();
        candidates.sort_unstable_by_key(|&i| self.places[i].order);
        for i in candidates {
            let (start, end, order) = (self.places[i].start, self.places[i].end, self.places[i].order);
            let blocked = self
                .places
                .iter()
                .any(|other| other.order < order && other.start < end && start < other.end);
            if !blocked {
                self.places[i].granted = true;
                self.waiting -= 1;
                ready.push(self.places[i].holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn overlapping_holders_go_in_order_of_arrival() {
        let mut queue = RangeQueue::new();
        assert!(queue.acquire('a', 0, 10));
        assert!(!queue.acquire('b', 5, 15));
        assert!(
            !queue.acquire('c', 12, 20),
            "must wait behind b, although a does not touch it"
        );
        assert!(queue.acquire('d', 20, 30));
        let mut ready = Vec::new();
        queue.release('a', &mut ready);
        assert_eq!(ready, ['b']);
        ready.clear();
        queue.release('b', &mut ready);
        assert_eq!(ready, ['c']);
    }

    proptest! {
        /// Against the definition: granted exactly when no earlier overlapping place is still there.
        #[test]
        fn matches_the_definition(steps in prop::collection::vec((0u64..40, 1u64..12, any::<prop::sample::Index>()), 1..80)) {
            let mut queue = RangeQueue::new();
            let mut model: Vec<(usize, u64, u64, bool)> = Vec::new();
            for (n, (start, len, victim)) in steps.into_iter().enumerate() {
                if n % 3 == 2 && !model.is_empty() {
                    let gone = model.remove(victim.index(model.len()));
                    let mut ready = Vec::new();
                    queue.release(gone.0, &mut ready);
                    let mut expected = Vec::new();
                    for i in 0..model.len() {
                        let (holder, s, e, granted) = model[i];
                        if !granted && !model[..i].iter().any(|(_, s2, e2, _)| *s2 < e && s < *e2) {
                            model[i].3 = true;
                            expected.push(holder);
                        }
                    }
                    prop_assert_eq!(ready, expected);
                } else {
                    let end = start + len;
                    let free = !model.iter().any(|(_, s, e, _)| *s < end && start < *e);
                    prop_assert_eq!(queue.acquire(n, start, end), free);
                    model.push((n, start, end, free));
                }
            }
        }
    }
}
