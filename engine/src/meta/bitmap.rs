//! A set of units (blocks of the data area, or extents of the write-intent log), in memory and in pages on disk.
//!
//! Memory follows the on-disk pages: a page that is all clear or all set takes no memory of its own, so that
//! a resource of any size that is clean, or wholly out of sync, costs next to nothing.

use super::layout::PAGE_BYTES;
use super::page::{self, Decoded, PageKind, Words, UNITS_PER_PAGE, WORDS};
use super::page_set::PageSet;
use crate::payload::Payload;

/// What [`Bitmap::load_page`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageLoad {
    Loaded,
    /// Never written: all clear.
    Empty,
    /// Unreadable: counted as all set, so that nothing is ever thought to be in sync for want of evidence.
    Damaged,
}

#[derive(Clone, Debug)]
enum Page {
    Empty,
    Full,
    /// Some bits set, some clear; never all the same.
    Mixed(Box<Mixed>),
}

#[derive(Clone, Debug)]
struct Mixed {
    count: u32,
    words: Words,
}

/// A bitmap of [`Bitmap::len`] units. Which of its pages differ from the disk is tracked: a change marks the
/// page, [`Bitmap::take_changed`] hands it out for writing.
///
/// # Panics
/// [`test`](Bitmap::test), [`set`](Bitmap::set), [`clear`](Bitmap::clear) and
/// [`count_range`](Bitmap::count_range) panic when the range reaches beyond the end.
#[derive(Clone, Debug)]
pub struct Bitmap {
    kind: PageKind,
    units: u64,
    count: u64,
    pages: Vec<Page>,
    /// Pages that are not `Empty`, and pages that are not `Full`.
    occupied: PageSet,
    open: PageSet,
    changed: PageSet,
    /// Where the next take begins: pages take turns, so that a busy one starves nobody.
    turn: usize,
}

impl Bitmap {
    /// An out-of-sync bitmap, all clear; equal to a sparse hole on disk.
    pub fn new(units: u64) -> Bitmap {
        Bitmap::with_kind(units, PageKind::OutOfSync)
    }

    /// A write-intent log, all clear.
    pub fn new_intent(units: u64) -> Bitmap {
        Bitmap::with_kind(units, PageKind::Intent)
    }

    fn with_kind(units: u64, kind: PageKind) -> Bitmap {
        let pages = units.div_ceil(UNITS_PER_PAGE) as usize;
        Bitmap {
            kind,
            units,
            count: 0,
            pages: vec![Page::Empty; pages],
            occupied: PageSet::none(pages),
            open: PageSet::all(pages),
            changed: PageSet::none(pages),
            turn: 0,
        }
    }

    /// Units in all.
    pub fn len(&self) -> u64 {
        self.units
    }

    /// Units that are set.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// No unit is set.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// On-disk pages in all.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Index of the on-disk page that holds a unit.
    pub fn page_of(&self, unit: u64) -> usize {
        (unit / UNITS_PER_PAGE) as usize
    }

    pub fn test(&self, unit: u64) -> bool {
        assert!(unit < self.units, "unit {unit} of a bitmap of {}", self.units);
        match &self.pages[self.page_of(unit)] {
            Page::Empty => false,
            Page::Full => true,
            Page::Mixed(mixed) => {
                let bit = (unit % UNITS_PER_PAGE) as usize;
                mixed.words[bit / 64] >> (bit % 64) & 1 == 1
            }
        }
    }

    /// Sets `count` units from `first` on; returns how many of them were clear.
    pub fn set(&mut self, first: u64, count: u64) -> u64 {
        self.assign(first, count, true)
    }

    /// Clears `count` units from `first` on; returns how many of them were set.
    pub fn clear(&mut self, first: u64, count: u64) -> u64 {
        self.assign(first, count, false)
    }

    pub fn set_all(&mut self) {
        self.assign(0, self.units, true);
    }

    pub fn clear_all(&mut self) {
        self.assign(0, self.units, false);
    }

    /// The first unit at or after `from` that is set.
    pub fn next_set(&self, from: u64) -> Option<u64> {
        self.next_with(from, true)
    }

    /// The first unit at or after `from` that is clear.
    pub fn next_clear(&self, from: u64) -> Option<u64> {
        self.next_with(from, false)
    }

    /// The first run of set units at or after `from`, cut to `max` units: `(first, count)`.
    pub fn next_run(&self, from: u64, max: u64) -> Option<(u64, u64)> {
        let first = self.next_set(from)?;
        let end = self.next_clear(first).unwrap_or(self.units);
        Some((first, (end - first).min(max)))
    }

    /// Every run of set units, longest possible, in order: `(first, count)`.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let (first, count) = self.next_run(from, u64::MAX)?;
            from = first + count;
            Some((first, count))
        })
    }

    /// Set units among the `count` from `first` on.
    pub fn count_range(&self, first: u64, count: u64) -> u64 {
        let mut total = 0;
        for piece in self.pieces(first, count) {
            total += match &self.pages[piece.page] {
                Page::Empty => 0,
                Page::Full => u64::from(piece.end - piece.start),
                Page::Mixed(mixed) => masks(piece.start, piece.end)
                    .map(|(word, mask)| u64::from((mixed.words[word] & mask).count_ones()))
                    .sum(),
            };
        }
        total
    }

    /// Indexes of the pages that differ from what was last taken, in order.
    pub fn changed_pages(&self) -> impl Iterator<Item = usize> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let index = self.changed.next(from)?;
            from = index + 1;
            Some(index)
        })
    }

    /// Encodes at most `limit` changed pages for writing and counts them as persisted; what changes after
    /// this marks its page again. When the write fails, call [`Bitmap::mark_changed`].
    pub fn take_changed(&mut self, limit: usize) -> Vec<(usize, Payload)> {
        let mut taken = Vec::with_capacity(limit.min(self.changed.len()));
        while taken.len() < limit {
            let Some(index) = self.changed.next(self.turn).or_else(|| self.changed.next(0)) else {
                break;
            };
            self.changed.remove(index);
            self.turn = index + 1;
            taken.push((index, self.encode_page(index)));
        }
        taken
    }

    /// The on-disk form of one page as it is now; tracks nothing.
    pub fn encode_page(&self, index: usize) -> Payload {
        match &self.pages[index] {
            Page::Empty => page::encode(self.kind, index, &[0; WORDS]),
            Page::Full => page::encode(self.kind, index, &filled(self.units_in(index))),
            Page::Mixed(mixed) => page::encode(self.kind, index, &mixed.words),
        }
    }

    /// The disk does not hold this page as it is: take it again.
    pub fn mark_changed(&mut self, page: usize) {
        assert!(page < self.pages.len(), "page {page} of {}", self.pages.len());
        self.changed.insert(page);
    }

    /// The disk holds, or does not need, everything as it is (the superblock says "full sync", say).
    pub fn mark_all_persisted(&mut self) {
        self.changed = PageSet::none(self.pages.len());
    }

    /// Replaces one page by what the disk holds. Bits past the end are ignored. A damaged page becomes all
    /// set and is marked as changed; any other counts as persisted.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn load_page(&mut self, index: usize, bytes: &[u8; PAGE_BYTES]) -> PageLoad {
        let units = self.units_in(index);
        let (page, load) = match page::decode(self.kind, index, bytes) {
            Decoded::Empty => (Page::Empty, PageLoad::Empty),
            Decoded::Damaged => (Page::Full, PageLoad::Damaged),
            Decoded::Bits(mut words) => {
                for (word, valid) in words.iter_mut().zip(filled(units)) {
                    *word &= valid;
                }
                let count = words.iter().map(|word| word.count_ones()).sum();
                let mixed = Box::new(Mixed { count, words: *words });
                (collapsed(mixed, units), PageLoad::Loaded)
            }
        };
        self.replace(index, page);
        if load == PageLoad::Damaged {
            self.changed.insert(index);
        } else {
            self.changed.remove(index);
        }
        load
    }

    /// Units in one page; fewer in the last.
    fn units_in(&self, index: usize) -> u32 {
        assert!(index < self.pages.len(), "page {index} of {}", self.pages.len());
        (self.units - index as u64 * UNITS_PER_PAGE).min(UNITS_PER_PAGE) as u32
    }

    fn set_in(&self, index: usize) -> u32 {
        match &self.pages[index] {
            Page::Empty => 0,
            Page::Full => self.units_in(index),
            Page::Mixed(mixed) => mixed.count,
        }
    }

    fn replace(&mut self, index: usize, page: Page) {
        self.count -= u64::from(self.set_in(index));
        self.pages[index] = page;
        self.count += u64::from(self.set_in(index));
        self.file(index);
    }

    /// Brings the page sets in line with a page.
    fn file(&mut self, index: usize) {
        match &self.pages[index] {
            Page::Empty => {
                self.occupied.remove(index);
                self.open.insert(index);
            }
            Page::Full => {
                self.occupied.insert(index);
                self.open.remove(index);
            }
            Page::Mixed(_) => {
                self.occupied.insert(index);
                self.open.insert(index);
            }
        }
    }

    fn assign(&mut self, first: u64, count: u64, value: bool) -> u64 {
        let mut total = 0;
        for piece in self.pieces(first, count) {
            let changed = self.assign_in_page(piece, value);
            if changed > 0 {
                self.changed.insert(piece.page);
                total += u64::from(changed);
            }
        }
        if value {
            self.count += total;
        } else {
            self.count -= total;
        }
        debug_assert!(self.count <= self.units);
        total
    }

    fn assign_in_page(&mut self, piece: Piece, value: bool) -> u32 {
        let units = self.units_in(piece.page);
        let before = self.set_in(piece.page);
        let page = &mut self.pages[piece.page];
        match (&*page, value) {
            (Page::Full, true) | (Page::Empty, false) => return 0,
            _ if piece.start == 0 && piece.end == units => {
                *page = if value { Page::Full } else { Page::Empty };
                self.file(piece.page);
                return if value { units - before } else { before };
            }
            (Page::Empty, true) => {
                *page = Page::Mixed(Box::new(Mixed {
                    count: 0,
                    words: [0; WORDS],
                }));
                self.file(piece.page);
            }
            (Page::Full, false) => {
                *page = Page::Mixed(Box::new(Mixed {
                    count: units,
                    words: filled(units),
                }));
                self.file(piece.page);
            }
            (Page::Mixed(_), _) => {}
        }
        let Page::Mixed(mixed) = &mut self.pages[piece.page] else {
            unreachable!("made mixed above");
        };
        let mut changed = 0;
        for (word, mask) in masks(piece.start, piece.end) {
            let word = &mut mixed.words[word];
            let differs = if value { !*word & mask } else { *word & mask };
            *word ^= differs;
            changed += differs.count_ones();
        }
        if value {
            mixed.count += changed;
        } else {
            mixed.count -= changed;
        }
        if mixed.count == 0 || mixed.count == units {
            self.pages[piece.page] = if mixed.count == 0 { Page::Empty } else { Page::Full };
            self.file(piece.page);
        }
        changed
    }

    fn next_with(&self, from: u64, value: bool) -> Option<u64> {
        if from >= self.units {
            return None;
        }
        let candidates = if value { &self.occupied } else { &self.open };
        let mut from = from;
        loop {
            let index = candidates.next(self.page_of(from))?;
            let base = index as u64 * UNITS_PER_PAGE;
            let start = from.max(base);
            match &self.pages[index] {
                Page::Mixed(mixed) => {
                    let end = self.units_in(index);
                    let start = (start - base) as u32;
                    let found = masks(start, end).find_map(|(word, mask)| {
                        let bits = if value {
                            mixed.words[word]
                        } else {
                            !mixed.words[word]
                        } & mask;
                        (bits != 0).then(|| word as u64 * 64 + u64::from(bits.trailing_zeros()))
                    });
                    if let Some(bit) = found {
                        return Some(base + bit);
                    }
                    from = base + u64::from(end);
                    if from >= self.units {
                        return None;
                    }
                }
                Page::Empty | Page::Full => return Some(start),
            }
        }
    }

    /// Cuts a range of units at page boundaries.
    fn pieces(&self, first: u64, count: u64) -> impl Iterator<Item = Piece> {
        let end = first.checked_add(count).filter(|end| *end <= self.units);
        let Some(end) = end else {
            panic!("units {first}+{count} of a bitmap of {}", self.units);
        };
        let mut from = first;
        std::iter::from_fn(move || {
            if from >= end {
                return None;
            }
            let page = from / UNITS_PER_PAGE;
            let base = page * UNITS_PER_PAGE;
            let until = end.min(base + UNITS_PER_PAGE);
            let piece = Piece {
                page: page as usize,
                start: (from - base) as u32,
                end: (until - base) as u32,
            };
            from = until;
            Some(piece)
        })
    }
}

/// The part of a range that lies in one page, in units from the page's first.
#[derive(Clone, Copy)]
struct Piece {
    page: usize,
    start: u32,
    end: u32,
}

/// The words that bits `start..end` touch, each with a mask of those bits in it.
fn masks(start: u32, end: u32) -> impl Iterator<Item = (usize, u64)> {
    let mut from = start;
    std::iter::from_fn(move || {
        if from >= end {
            return None;
        }
        let word = from / 64;
        let until = end.min((word + 1) * 64);
        let mask = (u64::MAX >> (64 - (until - from))) << (from % 64);
        from = until;
        Some((word as usize, mask))
    })
}

/// The words of a page with the first `units` bits set.
fn filled(units: u32) -> Words {
    let mut words = [0; WORDS];
    for (word, mask) in masks(0, units) {
        words[word] = mask;
    }
    words
}

fn collapsed(mixed: Box<Mixed>, units: u32) -> Page {
    match mixed.count {
        0 => Page::Empty,
        count if count == units => Page::Full,
        _ => Page::Mixed(mixed),
    }
}
