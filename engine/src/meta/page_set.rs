//! A set of page indexes that finds its next member quickly.

#[derive(Clone, Debug)]
pub(super) struct PageSet {
    words: Vec<u64>,
    count: usize,
}

impl PageSet {
    /// No member yet; members will be below `pages`.
    pub(super) fn none(pages: usize) -> PageSet {
        PageSet {
            words: vec![0; pages.div_ceil(64)],
            count: 0,
        }
    }

    pub(super) fn all(pages: usize) -> PageSet {
        let mut set = PageSet::none(pages);
        (0..pages).for_each(|index| set.insert(index));
        set
    }

    pub(super) fn insert(&mut self, index: usize) {
        let word = &mut self.words[index / 64];
        let bit = 1 << (index % 64);
        self.count += usize::from(*word & bit == 0);
        *word |= bit;
    }

    pub(super) fn remove(&mut self, index: usize) {
        let word = &mut self.words[index / 64];
        let bit = 1 << (index % 64);
        self.count -= usize::from(*word & bit != 0);
        *word &= !bit;
    }

    /// The smallest member that is not below `from`.
    pub(super) fn next(&self, from: usize) -> Option<usize> {
        if self.count == 0 {
            return None;
        }
        let mut mask = u64::MAX << (from % 64);
        for (index, word) in self.words.iter().enumerate().skip(from / 64) {
            let bits = word & mask;
            if bits != 0 {
                return Some(index * 64 + bits.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }
}
