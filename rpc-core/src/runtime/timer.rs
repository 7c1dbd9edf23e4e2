//! The timers of one worker: a 4-ary heap that knows where each entry sits.
//!
//! Insert and cancel are O(log n); a deadline later than all others, the common case of an RPC, costs
//! one step each way. Exact to the nanosecond: no ticks, no rounding.
//!
//! Invariants
//! - T-1  `entries[i].owner.position() == i` for every entry; an owner not in the heap has `NOWHERE`.
//! - T-2  No entry is due earlier than its parent.

use crate::base::time::Instant;

/// Something with at most one timer, which remembers where the heap keeps it.
pub(super) trait Owner: Copy {
    /// Index in the heap, or [`NOWHERE`].
    fn position(self) -> u32;
    fn set_position(self, position: u32);
}

/// An owner's position while it has no timer.
pub(super) const NOWHERE: u32 = u32::MAX;

pub(super) struct Timers<T> {
    entries: Vec<Entry<T>>,
}

#[derive(Clone, Copy)]
struct Entry<T> {
    at: Instant,
    owner: T,
}

impl<T: Owner> Timers<T> {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    /// Arms the owner's one timer.
    pub(super) fn insert(&mut self, at: Instant, owner: T) {
        debug_assert_eq!(owner.position(), NOWHERE, "an owner has one timer");
        let index = self.entries.len();
        self.entries.push(Entry { at, owner });
        owner.set_position(index as u32);
        self.rise(index);
    }

    /// Disarms the owner's timer if it has one.
    pub(super) fn remove(&mut self, owner: T) {
        let index = owner.position();
        if index == NOWHERE {
            return;
        }
        self.take(index as usize);
    }

    /// The owner whose timer is due at `now`; its timer is disarmed.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<T> {
        let first = self.entries.first()?;
        (first.at <= now).then(|| self.take(0))
    }

    /// When the earliest timer is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.entries.first().map(|entry| entry.at)
    }

    fn take(&mut self, index: usize) -> T {
        let owner = self.entries.swap_remove(index).owner;
        owner.set_position(NOWHERE);
        if let Some(moved) = self.entries.get(index) {
            moved.owner.set_position(index as u32);
            self.rise(index);
            self.sink(index);
        }
        owner
    }

    fn rise(&mut self, mut index: usize) {
        while index > 0 {
            let parent = (index - 1) / ARITY;
            if self.entries[parent].at <= self.entries[index].at {
                break;
            }
            self.swap(parent, index);
            index = parent;
        }
    }

    fn sink(&mut self, mut index: usize) {
        loop {
            let first = index * ARITY + 1;
            let children = first..(first + ARITY).min(self.entries.len());
            let Some(least) = children.min_by_key(|i| self.entries[*i].at) else {
                break;
            };
            if self.entries[index].at <= self.entries[least].at {
                break;
            }
            self.swap(index, least);
            index = least;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.entries.swap(a, b);
        self.entries[a].owner.set_position(a as u32);
        self.entries[b].owner.set_position(b as u32);
    }
}

const ARITY: usize = 4;

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl Owner for &Cell<u32> {
        fn position(self) -> u32 {
            self.get()
        }

        fn set_position(self, position: u32) {
            self.set(position);
        }
    }

    proptest! {
        /// Any sequence of inserts, removals and expiries ends as in a sorted map.
        #[test]
        fn agrees_with_a_sorted_map(steps in prop::collection::vec((0_u8..3, 0_usize..40, 0_u64..100), 0..300)) {
            let slots: Vec<Cell<u32>> = (0..40).map(|_| Cell::new(NOWHERE)).collect();
            let mut timers = Timers::new();
            let mut model: BTreeMap<(u64, usize), ()> = BTreeMap::new();
            for (what, who, when) in steps {
                let known = model.keys().find(|(_, w)| *w == who).copied();
                match what {
                    0 if known.is_none() => {
                        timers.insert(Instant::from_nanos(when), &slots[who]);
                        model.insert((when, who), ());
                    }
                    1 => {
                        timers.remove(&slots[who]);
                        if let Some(key) = known { model.remove(&key); }
                    }
                    _ => {
                        let due = timers.pop_due(Instant::from_nanos(when));
                        let first = model.keys().next().copied().filter(|(at, _)| *at <= when);
                        prop_assert_eq!(due.is_some(), first.is_some());
                        if let Some(owner) = due {
                            let who = slots.iter().position(|s| std::ptr::eq(s, owner)).unwrap();
                            let key = model.keys().find(|(_, w)| *w == who).copied().unwrap();
                            prop_assert_eq!(key.0, first.unwrap().0);
                            model.remove(&key);
                        }
                    }
                }
                let next = model.keys().next().map(|(at, _)| Instant::from_nanos(*at));
                prop_assert_eq!(timers.next(), next);
            }
        }
    }
}
