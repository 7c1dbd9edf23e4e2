//! The store that forgets with its process: for load generators and for devices that are checked once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Cursor, LocalStore, Page, Place, StoreError, Stored, lost_words, place};
use crate::model::Pos;
use crate::proto::terminal as pb;

/// One user's timeline in memory.
#[derive(Debug)]
pub struct Memory {
    /// Whose timeline it is.
    owner: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    at: Cursor,
    /// By the other user, then in the order of the conversation (D-3: the number last).
    talks: HashMap<u64, BTreeMap<(Pos, u64), Talk>>,
    /// By kind and id.
    states: BTreeMap<(i32, u64), pb::Item>,
    /// What the full sync that is under way has brought.
    seen: HashSet<Seen>,
    /// By the number that was lost.
    again: BTreeMap<u64, pb::SendRequest>,
}

/// A message, and which version of it.
#[derive(Debug)]
struct Talk {
    version: u64,
    message: pb::Message,
}

/// Where something lies.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Seen {
    Talk(u64, (Pos, u64)),
    State(i32, u64),
}

impl Inner {
    fn take(&mut self, item: &pb::Item, place: Place, full: bool) {
        match place {
            Place::Message {
                other,
                pos,
                message,
                before,
            } => {
                let talk = self.talks.entry(other).or_default();
                for place in before {
                    talk.retain(|&(pos, _), old| {
                        pos != place || old.message.message_id != message.message_id
                    });
                }
                let here = (pos, item.number);
                let (version, message) = (item.version, *message);
                talk.insert(here, Talk { version, message });
                self.seen.insert(Seen::Talk(other, here));
            }
            Place::State => {
                let slot = self.states.entry((item.kind, item.id)).or_default();
                if full || item.version >= slot.version {
                    *slot = item.clone();
                }
                self.seen.insert(Seen::State(item.kind, item.id));
            }
            Place::Unknown => {}
        }
    }

    /// A full sync is over.
    fn sweep(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        for (&other, talk) in &mut self.talks {
            talk.retain(|&here, _| seen.contains(&Seen::Talk(other, here)));
        }
        self.talks.retain(|_, talk| !talk.is_empty());
        self.states
            .retain(|&(kind, id), _| seen.contains(&Seen::State(kind, id)));
    }

    fn check(&self, before: u64) -> Result<(), StoreError> {
        if self.at.key == before {
            return Ok(());
        }
        Err(StoreError::OutOfStep {
            stored: self.at.key,
            claimed: before,
        })
    }
}

impl Memory {
    /// An empty store for the timeline of `owner`.
    #[must_use]
    pub fn new(owner: u64) -> Self {
        Self {
            owner,
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change under the lock is whole or not begun, so a panic elsewhere spoils nothing.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LocalStore for Memory {
    fn owner(&self) -> u64 {
        self.owner
    }

    fn cursor(&self) -> Cursor {
        self.lock().at
    }

    fn apply_page(
        &self,
        before: u64,
        page: Page,
        items: &[pb::Item],
        after: Cursor,
    ) -> Result<(), StoreError> {
        let places: Vec<Place> = items
            .iter()
            .map(|item| place(self.owner, item))
            .collect::<Result<_, _>>()?;
        let mut inner = self.lock();
        inner.check(before)?;
        if page != Page::Full {
            inner.seen.clear();
        }
        let full = page != Page::Newer;
        for (item, place) in items.iter().zip(places) {
            inner.take(item, place, full);
        }
        inner.at = after;
        match page {
            Page::Newer => inner.seen.clear(),
            _ if after.full_to == 0 => inner.sweep(),
            _ => {}
        }
        Ok(())
    }

    fn rewind(&self, before: u64, to: u64) -> Result<Cursor, StoreError> {
        let mut inner = self.lock();
        inner.check(before)?;
        let inner = &mut *inner;
        let mut anew = inner.at.is_incomplete();
        for talk in inner.talks.values_mut() {
            for ((pos, number), lost) in talk.extract_if(.., |&(_, number), _| number > to) {
                anew |= lost.version > 1;
                let words = lost_words(self.owner, pos.count, lost.message);
                inner.again.extend(words.map(|words| (number, words)));
            }
        }
        inner.talks.retain(|_, talk| !talk.is_empty());
        inner.states.retain(|_, item| {
            let lost = item.number > to;
            anew |= lost && item.version > 1;
            !lost
        });
        inner.seen.clear();
        inner.at = Cursor {
            key: before.min(to),
            anew,
            ..Cursor::default()
        };
        Ok(inner.at)
    }

    fn again(&self) -> Result<Option<(u64, pb::SendRequest)>, StoreError> {
        let inner = self.lock();
        let first = inner.again.first_key_value();
        Ok(first.map(|(&name, request)| (name, request.clone())))
    }

    fn said_again(&self, name: u64) -> Result<(), StoreError> {
        self.lock().again.remove(&name);
        Ok(())
    }

    fn messages(&self, other: u64, limit: usize) -> Result<Vec<Stored>, StoreError> {
        let inner = self.lock();
        let Some(talk) = inner.talks.get(&other) else {
            return Ok(Vec::new());
        };
        let newest = talk.iter().rev().take(limit);
        let mut messages: Vec<Stored> = newest
            .map(|(&(pos, number), talk)| Stored {
                number,
                pos,
                message: talk.message.clone(),
            })
            .collect();
        messages.reverse();
        Ok(messages)
    }

    fn conversations(&self) -> Result<Vec<u64>, StoreError> {
        Ok(self.lock().talks.keys().copied().collect())
    }

    fn state(&self, kind: pb::Kind, id: u64) -> Result<Option<pb::Item>, StoreError> {
        let inner = self.lock();
        let item = inner.states.get(&(kind as i32, id));
        Ok(item.filter(|item| !item.deleted).cloned())
    }

    fn states(&self, kind: pb::Kind) -> Result<Vec<pb::Item>, StoreError> {
        let inner = self.lock();
        let of_kind = inner
            .states
            .range((kind as i32, 0)..=(kind as i32, u64::MAX));
        let shown = of_kind.map(|(_, item)| item).filter(|item| !item.deleted);
        Ok(shown.cloned().collect())
    }
}
