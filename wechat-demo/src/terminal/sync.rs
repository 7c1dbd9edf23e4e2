//! The one number at the terminal's end: what to apply, when to ask, when to wait.
//!
//! Knows:       the own key, keys heard of, notifies that came too early, the answer in hand.
//! Does not know: sockets, stores, the clock (it is told the time).
//!
//! A driver reports what it hears ([`Sync::heard`], [`Sync::notified`], [`Sync::answered`]) and does
//! what [`Sync::step`] says, one step at a time: that makes Notify and Sync serial, without which a key
//! could go backwards.
//!
//! Invariants
//! - K-1  The key never falls, and moves only after the items up to it were applied.
//! - K-2  An item is applied once: its number is above the key before and at or below the key after.
//! - K-3  No hole: what is applied follows the key directly, by a notify's `prev_key` or by an answer to
//!   the very key.
//! - K-4  Memory is bounded: at most [`MAX_HELD`] notifies and [`MAX_HELD_ITEMS`] items wait for a gap to
//!   close; beyond, they are dropped and asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use rpc_core::base::time::Instant;

use crate::proto::terminal as pb;

/// Notifies that may wait for the one before them.
pub const MAX_HELD: usize = 128;
/// Items in those notifies.
pub const MAX_HELD_ITEMS: usize = 1_024;
/// How long a gap may stay open before the terminal asks: the missing notify is usually right behind.
pub const GAP_WAIT: Duration = Duration::from_millis(500);
/// Pause after an ask that failed or brought less than was announced; doubled up to [`MAX_RETRY`].
const MIN_RETRY: Duration = Duration::from_millis(100);
/// Longest pause between asks.
const MAX_RETRY: Duration = Duration::from_secs(5);

/// The next thing to do.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Put `items` and the key `after` into the store in one commit, then call [`Sync::applied`].
    Apply {
        /// The key in the store now.
        before: u64,
        /// In number order; may be empty when only the key moves.
        items: Vec<pb::Item>,
        /// The key to be stored with them.
        after: u64,
    },
    /// Ask for what is newer than `key`, then call [`Sync::answered`] or [`Sync::ask_failed`].
    Ask {
        /// Everything up to it is in the store.
        key: u64,
    },
    /// Nothing to do before the next report, or before this time.
    Wait(Option<Instant>),
}

/// An answer that no correct server gives; the link it came over is not to be trusted further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server's answer to key {asked} makes no sense: {what}")]
pub struct Nonsense {
    /// The key that was sent.
    pub asked: u64,
    /// What is wrong with the answer.
    pub what: &'static str,
}

/// The state machine. One per account and device.
#[derive(Debug)]
pub struct Sync {
    /// Everything up to it is in the store.
    key: u64,
    /// Highest key that calls for an ask now; `<= key` = none does.
    wanted: u64,
    /// Highest key heard of at all.
    newest: u64,
    /// The last answer said that there is more, or no answer came: ask whatever `wanted` says.
    again: bool,
    doing: Doing,
    /// Notifies whose `prev_key` is above the key, by `prev_key`.
    held: BTreeMap<u64, pb::Notify>,
    /// Items in `held`.
    held_items: usize,
    /// When a gap has been open for long enough; `None` = no gap.
    gap_until: Option<Instant>,
    /// No ask before it.
    retry_at: Option<Instant>,
    retry: Duration,
}

#[derive(Debug, PartialEq)]
enum Doing {
    Nothing,
    /// An ask for this key is under way.
    Asking(u64),
    /// An answer or a notify is in hand.
    Ready {
        items: Vec<pb::Item>,
        after: u64,
        more: bool,
    },
    /// The driver is storing up to `after`.
    Applying {
        after: u64,
        more: bool,
    },
}

impl Sync {
    /// The state of a terminal whose store holds everything up to `key`; 0 = nothing.
    #[must_use]
    pub fn new(key: u64) -> Self {
        Self {
            key,
            wanted: 0,
            newest: key,
            again: false,
            doing: Doing::Nothing,
            held: BTreeMap::new(),
            held_items: 0,
            gap_until: None,
            retry_at: None,
            retry: MIN_RETRY,
        }
    }

    /// The key up to which the store is complete.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Highest key heard of.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether nothing is known to be missing.
    #[must_use]
    pub fn is_level(&self) -> bool {
        self.doing == Doing::Nothing && !self.again && self.key >= self.newest
    }

    /// AuthReply or Beat told the newest key.
    pub fn heard(&mut self, newest: u64) {
        self.newest = self.newest.max(newest);
        self.wanted = self.wanted.max(newest);
    }

    /// A new link is up: pauses of the old one no longer count.
    pub fn linked(&mut self, newest: u64) {
        self.retry_at = None;
        self.retry = MIN_RETRY;
        self.heard(newest);
    }

    /// Ask at the next opportunity, whatever was announced.
    pub fn refresh(&mut self) {
        self.again = true;
    }

    /// A Notify came in.
    pub fn notified(&mut self, notify: pb::Notify, now: Instant) {
        self.newest = self.newest.max(notify.key);
        if notify.key <= self.key {
            return;
        }
        if !carries_its_items(&notify) {
            self.wanted = self.wanted.max(notify.key);
            return;
        }
        let items = notify.items.len();
        if self.held.len() >= MAX_HELD || self.held_items + items > MAX_HELD_ITEMS {
            self.wanted = self.newest;
            self.drop_held();
            return;
        }
        if let Some(old) = self.held.insert(notify.prev_key, notify) {
            self.held_items -= old.items.len();
        }
        self.held_items += items;
        let ahead = self
            .held
            .first_key_value()
            .is_some_and(|(prev, _)| *prev > self.key);
        if ahead && self.gap_until.is_none() {
            self.gap_until = Some(now + GAP_WAIT);
        }
    }

    /// The answer to [`Step::Ask`].
    ///
    /// # Errors
    /// [`Nonsense`]: nothing of the answer is used, and the key is asked for again later.
    pub fn answered(&mut self, reply: pb::SyncReply, now: Instant) -> Result<(), Nonsense> {
        let Doing::Asking(asked) = self.doing else {
            unreachable!("an answer follows an ask, one at a time");
        };
        if let Err(what) = check_answer(asked, &reply) {
            self.ask_failed(now);
            return Err(Nonsense { asked, what });
        }
        self.newest = self.newest.max(reply.key);
        if !reply.more && reply.key < self.wanted {
            // The announced key is not shown yet, or was another server's word: ask again, not at once.
            self.pause(now);
        } else {
            self.retry = MIN_RETRY;
        }
        self.doing = if reply.key == asked {
            Doing::Nothing
        } else {
            Doing::Ready {
                items: reply.items,
                after: reply.key,
                more: reply.more,
            }
        };
        Ok(())
    }

    /// No answer came, or a refusal; asked again after a pause, or on the next link.
    pub fn ask_failed(&mut self, now: Instant) {
        self.doing = Doing::Nothing;
        self.again = true;
        self.pause(now);
    }

    /// The store holds what [`Step::Apply`] told.
    pub fn applied(&mut self) {
        let Doing::Applying { after, more } = self.doing else {
            unreachable!("applied() follows Step::Apply");
        };
        assert!(after > self.key, "a key only grows (K-1)");
        self.key = after;
        self.newest = self.newest.max(after);
        self.doing = Doing::Nothing;
        self.again |= more;
    }

    /// What to do now. The same step is never given twice.
    pub fn step(&mut self, now: Instant) -> Step {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Ready { items, after, more } => return self.apply(items, after, more),
            Doing::Nothing => {}
            busy => {
                self.doing = busy;
                return Step::Wait(None);
            }
        }
        self.drop_stale();
        if let Some((items, after)) = self.take_next_notify() {
            return self.apply(items, after, false);
        }
        if self.gap_until.is_some_and(|until| now >= until) {
            self.gap_until = None;
            self.wanted = self.wanted.max(self.newest);
        }
        if self.wanted > self.key || self.again {
            if let Some(at) = self.retry_at
                && now < at
            {
                return Step::Wait(Some(at));
            }
            self.retry_at = None;
            self.again = false;
            self.doing = Doing::Asking(self.key);
            return Step::Ask { key: self.key };
        }
        if self.newest > self.key && self.gap_until.is_none() {
            // Announced by a notify that was dropped or replaced since: its items may yet come.
            self.gap_until = Some(now + GAP_WAIT);
        }
        Step::Wait(self.gap_until)
    }

    fn apply(&mut self, items: Vec<pb::Item>, after: u64, more: bool) -> Step {
        self.doing = Doing::Applying { after, more };
        Step::Apply {
            before: self.key,
            items,
            after,
        }
    }

    /// The notify that follows the key directly or overlaps it, without what is stored already (K-2).
    fn take_next_notify(&mut self) -> Option<(Vec<pb::Item>, u64)> {
        let entry = self
            .held
            .first_entry()
            .filter(|entry| *entry.key() <= self.key)?;
        let notify = entry.remove();
        self.held_items -= notify.items.len();
        if self
            .held
            .first_key_value()
            .is_none_or(|(prev, _)| *prev <= notify.key)
        {
            self.gap_until = None;
        }
        let items = notify
            .items
            .into_iter()
            .filter(|item| item.number > self.key)
            .collect();
        Some((items, notify.key))
    }

    /// Forgets held notifies that an answer has overtaken.
    fn drop_stale(&mut self) {
        while let Some(entry) = self.held.first_entry()
            && entry.get().key <= self.key
        {
            self.held_items -= entry.remove().items.len();
        }
        if self.held.is_empty() {
            self.gap_until = None;
        }
    }

    fn drop_held(&mut self) {
        self.held.clear();
        self.held_items = 0;
        self.gap_until = None;
    }

    fn pause(&mut self, now: Instant) {
        self.retry_at = Some(now + self.retry);
        self.retry = (self.retry * 2).min(MAX_RETRY);
    }
}

/// Whether a notify holds all that lies in `(prev_key, key]`; else it only says that there is something.
fn carries_its_items(notify: &pb::Notify) -> bool {
    notify.prev_key < notify.key
        && notify
            .items
            .first()
            .is_some_and(|first| first.number > notify.prev_key)
        && notify
            .items
            .last()
            .is_some_and(|last| last.number <= notify.key)
        && ascending(&notify.items)
}

fn ascending(items: &[pb::Item]) -> bool {
    items.windows(2).all(|pair| pair[0].number < pair[1].number)
}

fn check_answer(asked: u64, reply: &pb::SyncReply) -> Result<(), &'static str> {
    if reply.key < asked {
        return Err("its key is older");
    }
    if reply.more && reply.key == asked {
        return Err("it promises more and moves nothing");
    }
    if !ascending(&reply.items) {
        return Err("its items are not in number order");
    }
    if reply
        .items
        .first()
        .is_some_and(|first| first.number <= asked)
    {
        return Err("it holds an item at or below the key");
    }
    if reply
        .items
        .last()
        .is_some_and(|last| last.number > reply.key)
    {
        return Err("it holds an item above its own key");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
