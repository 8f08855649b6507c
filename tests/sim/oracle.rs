//! What every page may hold: the crash oracle.
//!
//! A page may hold any value from the last one that is promised to survive up to the last one that was issued;
//! anything older, or foreign, is a failure. Promised is what was acknowledged, or, once a power cut is in play, what
//! was acknowledged before a flush that was acknowledged. When a node begins to serve after a failure, what its
//! disk holds is the truth from there on: what it lacks is dead, and must never come back.

use std::collections::{BTreeSet, HashMap};

use _engine::core::{RequestId, Time};

use crate::disk::{read_stamp, Disk, Stamp, PAGE, PAGES};

#[derive(Clone, Default)]
struct Page {
    /// Order of issue and contents of the writes that may still be seen.
    issued: Vec<(u64, Stamp)>,
    /// What a node lacked that took over, and when it did: who had asked before may still see it.
    dead: Vec<(u64, Stamp, Time)>,
    acknowledged: u64,
    /// By each node: what a flush speaks of that is asked of a node whose time is over.
    acknowledged_by: [u64; 2],
    stable: u64,
    /// Up to here a failed flush may have lost it: no later flush makes it stable.
    doubtful: u64,
}

enum Open {
    Write {
        order: u64,
        first: usize,
        count: usize,
        fua: bool,
    },
    /// The acknowledged state when the flush was issued.
    Flush { promised: Vec<(usize, u64)> },
    Read {
        first: usize,
        floor: Vec<u64>,
        issued_at: Time,
    },
}

/// A request without its answer, and the node that was asked.
struct Asked {
    node: usize,
    open: Open,
    /// Another node was Primary when it was issued, or this one may not be believed: why it must not end well.
    doomed: bool,
}

/// What a reply has promised just now.
pub enum Promise {
    /// These pages are written, up to this order, and stable if so asked.
    Written {
        pages: Vec<(usize, u64)>,
        stable: bool,
    },
    Nothing,
}

pub struct Oracle {
    pages: Vec<Page>,
    /// Pages with a history: nothing else needs looking at.
    pub used: BTreeSet<usize>,
    open: HashMap<RequestId, Asked>,
    /// Of whom it is known whether he may answer: the next request is for this node, and it is not its to answer.
    asked: (usize, bool),
    order: u64,
    /// What a node held that began to serve, and the order up to which it may have been written.
    truth: Option<(u64, Vec<(usize, Stamp)>)>,
    pub writes: u64,
    pub flushes: u64,
    pub reads: u64,
    pub errors: u64,
}

impl Oracle {
    pub fn new() -> Oracle {
        Oracle {
            pages: vec![Page::default(); PAGES],
            used: BTreeSet::new(),
            open: HashMap::new(),
            asked: (0, false),
            order: 0,
            truth: None,
            writes: 0,
            flushes: 0,
            reads: 0,
            errors: 0,
        }
    }

    /// Numbers a write before it is issued; `stamp` 0 for zeroes.
    pub fn issue_write(&mut self, first: usize, count: usize, zeroes: bool) -> (u64, Stamp) {
        self.order += 1;
        let stamp = if zeroes { 0 } else { self.order };
        for page in first..first + count {
            self.pages[page].issued.push((self.order, stamp));
            self.used.insert(page);
        }
        (self.order, stamp)
    }

    /// Whom the next requests are for; `doomed`: another node is Primary.
    pub fn asks(&mut self, node: usize, doomed: bool) {
        self.asked = (node, doomed);
    }

    fn opened(&mut self, id: RequestId, open: Open) {
        let (node, doomed) = self.asked;
        let asked = Asked { node, open, doomed };
        self.open.insert(id, asked);
    }

    pub fn write_issued(
        &mut self,
        id: RequestId,
        order: u64,
        first: usize,
        count: usize,
        fua: bool,
    ) {
        let open = Open::Write {
            order,
            first,
            count,
            fua,
        };
        self.opened(id, open);
    }

    /// What a flush that is issued now will promise.
    pub fn flushable(&self) -> Vec<(usize, u64)> {
        let (node, doomed) = self.asked;
        let pages = self.used.iter().map(|n| (*n, &self.pages[*n]));
        pages
            .map(|(n, page)| {
                let order = if doomed {
                    page.acknowledged_by[node]
                } else {
                    page.acknowledged
                };
                (n, order, page)
            })
            .filter(|(_, order, page)| *order > page.stable && *order > page.doubtful)
            .map(|(n, order, _)| (n, order))
            .collect()
    }

    pub fn flush_issued(&mut self, id: RequestId, promised: Vec<(usize, u64)>) {
        self.opened(id, Open::Flush { promised });
    }

    /// What a read that is issued now must see at least.
    pub fn floors(&self, first: usize, count: usize) -> Vec<u64> {
        (first..first + count)
            .map(|n| self.pages[n].acknowledged)
            .collect()
    }

    pub fn read_issued(&mut self, id: RequestId, first: usize, floor: Vec<u64>, issued_at: Time) {
        self.opened(
            id,
            Open::Read {
                first,
                floor,
                issued_at,
            },
        );
    }

    pub fn replied(
        &mut self,
        id: RequestId,
        ok: bool,
        data: Option<&[u8]>,
    ) -> Result<Promise, String> {
        let Some(Asked { node, open, doomed }) = self.open.remove(&id) else {
            return Err(format!("{id:?} was answered twice, or never asked"));
        };
        if !ok {
            self.errors += 1;
            return Ok(Promise::Nothing);
        }
        if doomed && !matches!(open, Open::Flush { .. }) {
            return Err("well, to what was asked of it while another node was Primary".into());
        }
        match open {
            Open::Write {
                order,
                first,
                count,
                fua,
            } => {
                self.writes += 1;
                self.settle_truth(order);
                let mut pages = Vec::new();
                for n in first..first + count {
                    let page = &mut self.pages[n];
                    if page.dead.iter().any(|(dead, ..)| *dead == order) {
                        return Err(format!("well, to write {order} of page {n}, which is dead"));
                    }
                    if fua {
                        page.stable = page.stable.max(order);
                    } else if order <= page.doubtful {
                        continue;
                    }
                    page.acknowledged = page.acknowledged.max(order);
                    page.acknowledged_by[node] = page.acknowledged_by[node].max(order);
                    pages.push((n, order));
                }
                Ok(Promise::Written { pages, stable: fua })
            }
            Open::Flush { promised } => {
                self.flushes += 1;
                for (n, order) in &promised {
                    self.pages[*n].stable = self.pages[*n].stable.max(*order);
                }
                Ok(Promise::Written {
                    pages: promised,
                    stable: true,
                })
            }
            Open::Read {
                first,
                floor,
                issued_at,
            } => {
                self.reads += 1;
                let Some(data) = data else {
                    return Err("a read without data".into());
                };
                for (i, floor) in floor.into_iter().enumerate() {
                    let n = first + i;
                    let bytes = &data[i * PAGE as usize..(i + 1) * PAGE as usize];
                    let floor = floor.min(self.pages[n].acknowledged);
                    let stamp = read_stamp(n, bytes)?;
                    let seen = |(order, value, died): &(u64, Stamp, Time)| {
                        *order >= floor && *value == stamp && *died >= issued_at
                    };
                    if !self.pages[n].dead.iter().any(seen) {
                        self.check_page(n, stamp, floor)?;
                    }
                }
                Ok(Promise::Nothing)
            }
        }
    }

    /// The node that served them is gone: nobody will answer.
    pub fn forget_open(&mut self) {
        self.open.clear();
    }

    pub fn forget_open_at(&mut self, node: usize) {
        self.open.retain(|_, asked| asked.node != node);
    }

    /// What this answer must not be checked for: a paused machine's clock stood still with it, and what it read was old.
    pub fn excuse_read(&mut self, id: RequestId) -> bool {
        let is_read = |asked: &Asked| matches!(asked.open, Open::Read { .. });
        self.open.get(&id).is_some_and(is_read) && self.open.remove(&id).is_some()
    }

    /// The same of a write that nobody flushed: the other node had confirmed it from a memory that it lost since, and this
    /// machine finds the word in its sockets when it wakes up.
    pub fn excuse_unflushed(&mut self, id: RequestId) -> bool {
        let Some(Open::Write {
            order,
            first,
            count,
            fua: false,
        }) = self.open.get(&id).map(|asked| &asked.open)
        else {
            return false;
        };
        let is_dead = |n: usize| self.pages[n].dead.iter().any(|(dead, ..)| dead == order);
        (*first..first + count).any(is_dead) && self.open.remove(&id).is_some()
    }

    pub fn was_issued_at(&self, id: RequestId) -> Option<Time> {
        match self.open.get(&id)?.open {
            Open::Read { issued_at, .. } => Some(issued_at),
            _ => None,
        }
    }

    pub fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Power went, or a copy takes over that may lack the newest: only what was flushed is promised still.
    pub fn only_flushed_counts(&mut self) {
        self.truth = None;
        for page in &mut self.pages {
            page.acknowledged = page.stable;
            page.acknowledged_by = page.acknowledged_by.map(|order| order.min(page.stable));
        }
    }

    /// A flush failed: what it was for may be gone, and no later one makes up for it.
    pub fn flush_failed(&mut self) {
        self.only_flushed_counts();
        for page in &mut self.pages {
            page.doubtful = self.order;
        }
    }

    /// This disk is what the applications see from now on. It is the truth once a write was acknowledged upon it: before
    /// that a node that serves has diverged from nobody, and its peer's copy may still win.
    ///
    /// # Errors
    /// When it lacks what was promised, or holds what nobody wrote there.
    pub fn takes_over(&mut self, disk: &Disk) -> Result<(), String> {
        for n in &self.used {
            self.check_page(*n, disk.current(*n), self.pages[*n].acknowledged)?;
        }
        let contents = self.used.iter().map(|n| (*n, disk.current(*n))).collect();
        self.truth = Some((self.order, contents));
        Ok(())
    }

    /// A write was acknowledged: what the disk lacked when its node began to serve is dead.
    fn settle_truth(&mut self, order: u64) {
        if let Some((began, contents)) = self.truth.take_if(|(began, _)| order > *began) {
            self.settle(began, contents, 0);
        }
    }

    /// As [`Oracle::takes_over`], and from here on nothing that this disk lacks may come back: an arbiter has said so.
    ///
    /// # Errors
    /// As there.
    pub fn succeeds(&mut self, disk: &Disk, now: Time) -> Result<(), String> {
        self.takes_over(disk)?;
        if let Some((began, contents)) = self.truth.take() {
            self.settle(began, contents, now);
        }
        Ok(())
    }

    fn settle(&mut self, began: u64, contents: Vec<(usize, Stamp)>, now: Time) {
        for (n, stamp) in contents {
            let page = &mut self.pages[n];
            let floor = page.acknowledged.min(began);
            let fits =
                |(order, value): &&(u64, Stamp)| *value == stamp && (floor..=began).contains(order);
            let orders: Vec<u64> = page
                .issued
                .iter()
                .filter(fits)
                .map(|(order, _)| *order)
                .collect();
            let newest = orders.last().copied().unwrap_or(0);
            page.acknowledged = page.acknowledged.max(orders.first().copied().unwrap_or(0));
            let lives = |(order, _): &(u64, Stamp)| *order <= newest || *order > began;
            if now > 0 {
                let dead = page.issued.iter().filter(|entry| !lives(entry));
                let dead: Vec<_> = dead.map(|(order, stamp)| (*order, *stamp, now)).collect();
                page.dead.extend(dead);
            }
            page.issued.retain(lives);
        }
    }

    /// Whatever was promised before: what this disk holds, all of it flushed, is the truth from here on.
    pub fn declare(&mut self, disk: &Disk) {
        self.open.clear();
        self.truth = None;
        self.order += 1;
        for n in &self.used {
            self.pages[*n] = Page {
                issued: vec![(self.order, disk.current(*n))],
                dead: Vec::new(),
                acknowledged: self.order,
                acknowledged_by: [self.order; 2],
                stable: self.order,
                doubtful: 0,
            };
        }
    }

    /// The newest place in the order that a page's contents can stand for.
    pub fn order_of(&self, n: usize, stamp: Stamp) -> Option<u64> {
        let found = self.pages[n]
            .issued
            .iter()
            .rev()
            .find(|(_, value)| *value == stamp);
        found.map(|(order, _)| *order).or((stamp == 0).then_some(0))
    }

    /// I1: a node that may be promoted has all that was promised. `cold`: it may lack what was not flushed.
    ///
    /// # Errors
    /// The page that it lacks.
    pub fn check_member(&self, disk: &Disk, cold: bool) -> Result<(), String> {
        for n in self.used.iter().copied() {
            let page = &self.pages[n];
            if !cold {
                self.check_page(n, disk.current(n), page.acknowledged)?;
            }
            let stable = self.order_of(n, disk.stable(n)).unwrap_or(0);
            if stable < page.stable {
                return Err(format!(
                    "page {n} holds write {} when power is lost, but {} is promised to be stable",
                    disk.stable(n),
                    page.stable
                ));
            }
        }
        Ok(())
    }

    fn check_page(&self, n: usize, stamp: Stamp, floor: u64) -> Result<(), String> {
        let page = &self.pages[n];
        let fits = |(order, value): &(u64, Stamp)| *order >= floor && *value == stamp;
        if floor == 0 && stamp == 0 || page.issued.iter().any(fits) {
            return Ok(());
        }
        Err(format!(
            "page {n} holds write {stamp} ({}), but {floor} is promised",
            match self.order_of(n, stamp) {
                Some(_) => "older",
                None => "dead or foreign",
            }
        ))
    }

    pub fn check_disk(&self, disk: &Disk) -> Result<(), String> {
        for (n, stamp) in disk.contents().iter().enumerate() {
            self.check_page(n, *stamp, self.pages[n].acknowledged)?;
        }
        Ok(())
    }
}
