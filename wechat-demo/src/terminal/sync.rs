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
//! - K-1  The key moves only after the items up to it were applied. It never falls, but where the server says so:
//!   to rewind, or to begin a full sync.
//! - K-2  An item is applied once: its number is above the key before and at or below the key after.
//! - K-3  No hole: what is applied follows the key directly, by a notify's `prev_key` or by an answer to
//!   the very key. A notify that reaches over the key holds the key's own item: another server's, whose numbers
//!   went another way, is not taken.
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
/// Answers in a row that fall short of what was announced before they are believed: half a minute's.
const MAX_SHORT: u32 = 12;
/// Longest pause between asks.
const MAX_RETRY: Duration = Duration::from_secs(5);

/// What a terminal hands back of the last answer: everything up to `key` is in its store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    /// 0 = nothing.
    pub key: u64,
    /// A full sync is under way up to this number; 0 = none is.
    pub full_to: u64,
    /// What is below the key may be incomplete: a full sync is asked for.
    pub anew: bool,
    /// What the pages so far have left out for newer versions comes up to this number; 0 = they have left out
    /// nothing.
    pub owed: u64,
}

/// What a page of items is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// What follows the key.
    Newer,
    /// The first of a full sync. What was there before goes at its end, unless it comes again.
    FullBegins,
    /// A later one.
    Full,
}

/// The next thing to do.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Put `items` and the key `after` into the store in one commit, then call [`Sync::applied`].
    Apply {
        /// The key in the store now.
        before: u64,
        /// How the items are to be taken.
        page: Page,
        /// In number order; may be empty when only the key moves.
        items: Vec<pb::Item>,
        /// To be stored with them.
        after: Cursor,
    },
    /// The backend has lost what is above `to`: take it out of the store, say again what was the user's own, then
    /// call [`Sync::rewound`].
    Rewind {
        /// The key in the store now.
        before: u64,
        /// Everything up to it is there still.
        to: u64,
    },
    /// Ask for what is newer, then call [`Sync::answered`] or [`Sync::ask_failed`].
    Ask(Cursor),
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
    /// As the store has it.
    at: Cursor,
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
    /// Answers in a row that fell short of what was announced.
    short: u32,
}

#[derive(Debug, PartialEq)]
enum Doing {
    Nothing,
    /// An ask from here is under way.
    Asking(Cursor),
    /// An answer or a notify is in hand.
    Ready {
        page: Page,
        items: Vec<pb::Item>,
        after: Cursor,
        more: bool,
    },
    /// The driver is storing up to `after`.
    Applying {
        page: Page,
        after: Cursor,
        more: bool,
    },
    /// The store is to go back to here.
    Back(u64),
    /// The driver is at that.
    Rewinding,
}

impl Sync {
    /// The state of a terminal whose store is there.
    #[must_use]
    pub fn new(at: Cursor) -> Self {
        Self {
            at,
            wanted: 0,
            newest: at.key,
            again: at.is_incomplete(),
            doing: Doing::Nothing,
            held: BTreeMap::new(),
            held_items: 0,
            gap_until: None,
            retry_at: None,
            retry: MIN_RETRY,
            short: 0,
        }
    }

    /// The key up to which the store is complete.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.at.key
    }

    /// Highest key heard of.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether nothing is known to be missing.
    #[must_use]
    pub fn is_level(&self) -> bool {
        self.doing == Doing::Nothing && !self.again && self.at.key >= self.newest
    }

    /// AuthReply or Beat told the newest key; 0 = it could not be read. One below the own key is no news, or says
    /// that the backend has lost something.
    pub fn heard(&mut self, newest: u64) {
        self.again |= 0 < newest && newest < self.at.key;
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
        if notify.key <= self.at.key {
            return;
        }
        if self.is_filling() || !carries_its_items(&notify) {
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
            .is_some_and(|(prev, _)| *prev > self.at.key);
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
        let page = match check_answer(asked, &reply) {
            Ok(page) => page,
            Err(what) => {
                self.ask_failed(now);
                let asked = asked.key;
                return Err(Nonsense { asked, what });
            }
        };
        if let Some(to) = reply.rewind {
            self.doing = Doing::Back(to);
            return Ok(());
        }
        if page == Page::FullBegins {
            // Whatever was heard of before counts no more.
            (self.newest, self.wanted) = (reply.full_to, 0);
            self.drop_held();
        }
        self.newest = self.newest.max(reply.key);
        self.settle(&reply, now);
        self.doing = if reply.key == asked.key && page == Page::Newer {
            Doing::Nothing
        } else {
            Doing::Ready {
                page,
                after: Cursor::of(&reply),
                items: reply.items,
                more: reply.more,
            }
        };
        Ok(())
    }

    /// When to ask again where an answer falls short of what was announced: it is not shown yet, or was another
    /// server's word, and in the end the one that answers is believed.
    fn settle(&mut self, reply: &pb::SyncReply, now: Instant) {
        if reply.more || reply.key >= self.wanted {
            self.retry = MIN_RETRY;
            self.short = 0;
            return;
        }
        self.short += 1;
        if self.short > MAX_SHORT {
            (self.newest, self.wanted, self.short) = (reply.key, 0, 0);
            self.drop_held();
        } else {
            self.pause(now);
        }
    }

    /// No answer came, or a refusal; asked again after a pause, or on the next link.
    pub fn ask_failed(&mut self, now: Instant) {
        self.doing = Doing::Nothing;
        self.again = true;
        self.pause(now);
    }

    /// The store holds what [`Step::Apply`] told.
    pub fn applied(&mut self) {
        let Doing::Applying { page, after, more } = self.doing else {
            unreachable!("applied() follows Step::Apply");
        };
        let begins = page == Page::FullBegins;
        assert!(begins || after.key > self.at.key, "a key only grows (K-1)");
        self.at = after;
        self.newest = self.newest.max(after.key);
        self.doing = Doing::Nothing;
        self.again |= more || self.is_filling();
    }

    /// The store has let go of what [`Step::Rewind`] told, and is here.
    pub fn rewound(&mut self, at: Cursor) {
        assert!(
            self.doing == Doing::Rewinding,
            "rewound() follows Step::Rewind"
        );
        self.at = at;
        (self.newest, self.wanted) = (at.key, 0);
        self.drop_held();
        self.doing = Doing::Nothing;
        self.again = true;
    }

    /// Whether a full sync is under way or called for: until it is over, notifies only say that there is something.
    fn is_filling(&self) -> bool {
        self.at.anew || self.at.full_to > 0
    }

    /// What to do now. The same step is never given twice.
    pub fn step(&mut self, now: Instant) -> Step {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Ready {
                page,
                items,
                after,
                more,
            } => return self.apply(page, items, after, more),
            Doing::Back(to) => {
                self.doing = Doing::Rewinding;
                let before = self.at.key;
                return Step::Rewind { before, to };
            }
            Doing::Nothing => {}
            busy => {
                self.doing = busy;
                return Step::Wait(None);
            }
        }
        self.drop_stale();
        if let Some((items, key)) = self.take_next_notify() {
            let owed = if self.at.owed > key { self.at.owed } else { 0 };
            let after = Cursor {
                key,
                owed,
                ..Cursor::default()
            };
            return self.apply(Page::Newer, items, after, false);
        }
        if self.gap_until.is_some_and(|until| now >= until) {
            self.gap_until = None;
            self.wanted = self.wanted.max(self.newest);
        }
        if self.wanted > self.at.key || self.again {
            if let Some(at) = self.retry_at
                && now < at
            {
                return Step::Wait(Some(at));
            }
            self.retry_at = None;
            self.again = false;
            self.doing = Doing::Asking(self.at);
            return Step::Ask(self.at);
        }
        if self.newest > self.at.key && self.gap_until.is_none() {
            // Announced by a notify that was dropped or replaced since: its items may yet come.
            self.gap_until = Some(now + GAP_WAIT);
        }
        Step::Wait(self.gap_until)
    }

    fn apply(&mut self, page: Page, items: Vec<pb::Item>, after: Cursor, more: bool) -> Step {
        self.doing = Doing::Applying { page, after, more };
        Step::Apply {
            before: self.at.key,
            page,
            items,
            after,
        }
    }

    /// The notify that follows the key directly or overlaps it, without what is stored already (K-2).
    fn take_next_notify(&mut self) -> Option<(Vec<pb::Item>, u64)> {
        let key = self.at.key;
        let entry = self
            .held
            .first_entry()
            .filter(|entry| *entry.key() <= key)?;
        let notify = entry.remove();
        self.held_items -= notify.items.len();
        if self
            .held
            .first_key_value()
            .is_none_or(|(prev, _)| *prev <= notify.key)
        {
            self.gap_until = None;
        }
        let follows = notify.prev_key == key || notify.items.iter().any(|item| item.number == key);
        if !follows {
            self.wanted = self.wanted.max(notify.key);
            return None;
        }
        let items = notify
            .items
            .into_iter()
            .filter(|item| item.number > key)
            .collect();
        Some((items, notify.key))
    }

    /// Forgets held notifies that an answer has overtaken.
    fn drop_stale(&mut self) {
        while let Some(entry) = self.held.first_entry()
            && entry.get().key <= self.at.key
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

impl Cursor {
    /// Where the store is once it has the page of an answer.
    #[must_use]
    pub fn of(reply: &pb::SyncReply) -> Self {
        let above = |number| if number > reply.key { number } else { 0 };
        Self {
            key: reply.key,
            full_to: above(reply.full_to),
            anew: false,
            owed: above(reply.owed),
        }
    }

    /// Whether an answer begins a full sync.
    #[must_use]
    pub fn begins(self, reply: &pb::SyncReply) -> bool {
        reply.full_to > 0 && (self.anew || reply.full_to != self.full_to)
    }

    /// Whether the store may lack versions of what lies below its key: they were left out for newer ones that it has
    /// not got yet.
    #[must_use]
    pub fn is_incomplete(self) -> bool {
        self.anew || self.full_to > 0 || self.owed > 0
    }

    /// The highest number on which what the store has rests.
    fn reach(self) -> u64 {
        self.key.max(self.full_to).max(self.owed)
    }
}

/// What sort of page an answer is, if it is one.
fn check_answer(asked: Cursor, reply: &pb::SyncReply) -> Result<Page, &'static str> {
    if let Some(to) = reply.rewind {
        if to >= asked.reach() {
            return Err("it goes back to where nothing is to be removed");
        }
        return Ok(Page::Newer);
    }
    let page = match reply.full_to {
        0 => Page::Newer,
        _ if asked.begins(reply) => Page::FullBegins,
        _ => Page::Full,
    };
    let after = match page {
        Page::FullBegins => 0,
        Page::Newer if asked.full_to > 0 || asked.anew => {
            return Err("it is no page of the full sync that was asked for");
        }
        Page::Newer | Page::Full => asked.key,
    };
    if reply.full_to > 0 && (reply.key > reply.full_to || reply.key == after) {
        return Err("its key does not lead to the end of the full sync");
    }
    check_page(after, reply)?;
    Ok(page)
}

/// Whether the items of an answer lie between `asked` and its key.
fn check_page(asked: u64, reply: &pb::SyncReply) -> Result<(), &'static str> {
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
