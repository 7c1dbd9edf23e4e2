//! The store that forgets with its process: for load generators and for devices that are checked once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{LocalStore, Place, StoreError, Stored, place};
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
    key: u64,
    /// By the other user, then in the order of the conversation (D-3: the number last).
    talks: HashMap<u64, BTreeMap<(Pos, u64), pb::Message>>,
    /// By kind and id.
    states: BTreeMap<(i32, u64), pb::Item>,
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

    fn key(&self) -> u64 {
        self.lock().key
    }

    fn apply(&self, before: u64, items: &[pb::Item], after: u64) -> Result<(), StoreError> {
        let places: Vec<Place> = items
            .iter()
            .map(|item| place(self.owner, item))
            .collect::<Result<_, _>>()?;
        let mut inner = self.lock();
        if inner.key != before {
            return Err(StoreError::OutOfStep {
                stored: inner.key,
                claimed: before,
            });
        }
        for (item, place) in items.iter().zip(places) {
            match place {
                Place::Message {
                    other,
                    pos,
                    message,
                    before,
                } => {
                    let talk = inner.talks.entry(other).or_default();
                    for place in before {
                        let here = talk.range((place, 0)..=(place, u64::MAX));
                        let old: Vec<_> = here
                            .filter(|(_, old)| old.message_id == message.message_id)
                            .map(|(&key, _)| key)
                            .collect();
                        for key in old {
                            talk.remove(&key);
                        }
                    }
                    talk.insert((pos, item.number), *message);
                }
                Place::State => {
                    let slot = inner.states.entry((item.kind, item.id)).or_default();
                    if item.version >= slot.version {
                        *slot = item.clone();
                    }
                }
                Place::Unknown => {}
            }
        }
        inner.key = after;
        Ok(())
    }

    fn messages(&self, other: u64, limit: usize) -> Result<Vec<Stored>, StoreError> {
        let inner = self.lock();
        let Some(talk) = inner.talks.get(&other) else {
            return Ok(Vec::new());
        };
        let newest = talk.iter().rev().take(limit);
        let mut messages: Vec<Stored> = newest
            .map(|(&(pos, number), message)| Stored {
                number,
                pos,
                message: message.clone(),
            })
            .collect();
        messages.reverse();
        Ok(messages)
    }

    fn conversations(&self) -> Result<Vec<u64>, StoreError> {
        Ok(self.lock().talks.keys().copied().collect())
    }

    fn state(&self, kind: pb::Kind, id: u64) -> Result<Option<pb::Item>, StoreError> {
        Ok(self.lock().states.get(&(kind as i32, id)).cloned())
    }

    fn states(&self, kind: pb::Kind) -> Result<Vec<pb::Item>, StoreError> {
        let inner = self.lock();
        let of_kind = inner
            .states
            .range((kind as i32, 0)..=(kind as i32, u64::MAX));
        Ok(of_kind.map(|(_, item)| item.clone()).collect())
    }
}
