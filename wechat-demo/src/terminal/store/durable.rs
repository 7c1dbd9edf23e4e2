//! The store that survives its process: fjall, one database and one committer for all terminals of a
//! process.
//!
//! The committer is an OS thread: it drains every request that waits into one batch and syncs once, so
//! that a thousand terminals cost a few fsyncs a second each way, not a thousand. A terminal's coroutine
//! waits for its answer on a std channel.
//!
//! Layout (all integers big-endian, `owner` = user id):
//! - `talk`   owner ‖ other ‖ pos.count ‖ pos.sender ‖ number → encoded `Item`
//! - `state`  owner ‖ kind ‖ id → encoded `Item`
//! - `key`    owner → key ‖ full_to ‖ owed ‖ anew
//! - `seen`   owner ‖ table ‖ rest of a key of `talk` or `state` → nothing: what a full sync has brought
//! - `again`  owner ‖ number → encoded `SendRequest`
//! - `login`  user name → encoded `LoginReply`

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use prost::Message;

use super::{Cursor, LocalStore, Page, Place, StoreError, Stored, lost_words, place};
use crate::model::Pos;
use crate::proto::terminal as pb;

/// Requests that may wait for the committer; beyond, terminals wait to queue.
const QUEUE: usize = 1_024;
/// Requests in one batch.
const BATCH: usize = 4_096;
/// Bytes of owner and kind in a key of `state`.
const STATE_PREFIX: usize = 12;
/// Bytes of owner and other in a key of `talk`.
const TALK_PREFIX: usize = 16;

/// The database of a process's terminals.
#[derive(Clone)]
pub struct Depot {
    tables: Tables,
    committer: SyncSender<Job>,
}

#[derive(Clone)]
struct Tables {
    database: Database,
    talk: Keyspace,
    state: Keyspace,
    key: Keyspace,
    login: Keyspace,
    seen: Keyspace,
    again: Keyspace,
}

/// What one terminal wants committed, and who waits for it.
struct Job {
    ops: Vec<Op>,
    done: SyncSender<Result<(), StoreError>>,
}

enum Op {
    Talk {
        key: Vec<u8>,
        item: pb::Item,
        /// Keys, without their numbers, where versions before may stand.
        before: Vec<Vec<u8>>,
    },
    State {
        key: Vec<u8>,
        item: pb::Item,
        /// Whatever the version.
        full: bool,
    },
    /// A page of a full sync, after its items.
    Full {
        owner: u64,
        begins: bool,
        ends: bool,
        /// Keys of `seen`.
        seen: HashSet<Vec<u8>>,
    },
    Rewind {
        owner: u64,
        to: u64,
    },
    SaidAgain {
        owner: u64,
        name: u64,
    },
    Cursor {
        owner: u64,
        at: Cursor,
    },
    Login {
        name: String,
        login: pb::LoginReply,
    },
    Forget {
        owner: u64,
    },
}

impl Depot {
    /// Opens the database in `dir`, or makes it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it, [`StoreError::Engine`] for the rest.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let database = Database::builder(dir).open().map_err(|error| match error {
            fjall::Error::Locked => StoreError::Locked(dir.display().to_string()),
            other => StoreError::Engine(format!("{}: {other}", dir.display())),
        })?;
        let table = |name| {
            database
                .keyspace(name, KeyspaceCreateOptions::default)
                .map_err(engine)
        };
        let tables = Tables {
            talk: table("talk")?,
            state: table("state")?,
            key: table("key")?,
            seen: table("seen")?,
            again: table("again")?,
            login: table("login")?,
            database,
        };
        let (committer, jobs) = sync_channel(QUEUE);
        let owned = tables.clone();
        std::thread::Builder::new()
            .name("store-committer".to_owned())
            .spawn(move || commit_all(&owned, &jobs))
            .map_err(engine)?;
        Ok(Self { tables, committer })
    }

    /// The store of one user's timeline.
    ///
    /// # Errors
    /// [`StoreError::Engine`] when the disk fails.
    pub fn account(&self, owner: u64) -> Result<Durable, StoreError> {
        let stored = self.tables.key.get(owner.to_be_bytes()).map_err(engine)?;
        let at = stored.map_or(Ok(Cursor::default()), |bytes| cursor(&bytes))?;
        Ok(Durable {
            depot: self.clone(),
            owner,
            at: Mutex::new(at),
        })
    }

    /// The login under which `name` used this database last.
    ///
    /// # Errors
    /// [`StoreError::Engine`] when the disk fails.
    pub fn login(&self, name: &str) -> Result<Option<pb::LoginReply>, StoreError> {
        let stored = self.tables.login.get(name).map_err(engine)?;
        stored
            .map(|bytes| pb::LoginReply::decode(&*bytes).map_err(engine))
            .transpose()
    }

    /// Remembers a new login. A new device has seen nothing, so what the user's old device had is
    /// forgotten in the same commit.
    ///
    /// # Errors
    /// [`StoreError::Engine`] when the disk fails.
    pub fn new_login(&self, name: &str, login: &pb::LoginReply) -> Result<(), StoreError> {
        let owner = login.user_id;
        let remember = Op::Login {
            name: name.to_owned(),
            login: login.clone(),
        };
        self.commit(vec![Op::Forget { owner }, remember])
    }

    fn commit(&self, ops: Vec<Op>) -> Result<(), StoreError> {
        let gone =
            || StoreError::Engine("the committer has stopped after a failed commit".to_owned());
        let (done, committed) = sync_channel(1);
        self.committer.send(Job { ops, done }).map_err(|_| gone())?;
        committed.recv().map_err(|_| gone())?
    }
}

/// One user's timeline on the disk.
pub struct Durable {
    depot: Depot,
    owner: u64,
    /// What the `key` table holds for the owner.
    at: Mutex<Cursor>,
}

impl Durable {
    fn at(&self) -> MutexGuard<'_, Cursor> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, before: u64) -> Result<(), StoreError> {
        let stored = self.key();
        if stored == before {
            return Ok(());
        }
        let claimed = before;
        Err(StoreError::OutOfStep { stored, claimed })
    }

    /// What becomes of an item of a page, and its keys in `seen`.
    fn op(&self, item: &pb::Item, full: bool) -> Result<Option<Op>, StoreError> {
        Ok(match place(self.owner, item)? {
            Place::Message {
                other, pos, before, ..
            } => {
                let place = |pos| {
                    let mut place = talk_key(self.owner, other, pos, 0);
                    place.truncate(place.len() - size_of::<u64>());
                    place
                };
                Some(Op::Talk {
                    key: talk_key(self.owner, other, pos, item.number),
                    item: item.clone(),
                    before: before.into_iter().map(place).collect(),
                })
            }
            Place::State => Some(Op::State {
                key: state_key(self.owner, item.kind, item.id),
                item: item.clone(),
                full,
            }),
            Place::Unknown => None,
        })
    }
}

impl LocalStore for Durable {
    fn owner(&self) -> u64 {
        self.owner
    }

    fn cursor(&self) -> Cursor {
        *self.at()
    }

    fn apply_page(
        &self,
        before: u64,
        page: Page,
        items: &[pb::Item],
        after: Cursor,
    ) -> Result<(), StoreError> {
        self.check(before)?;
        let owner = self.owner;
        let mut ops = Vec::with_capacity(items.len() + 2);
        for item in items {
            ops.extend(self.op(item, page != Page::Newer)?);
        }
        if page != Page::Newer {
            let seen = ops.iter().filter_map(|op| match op {
                Op::Talk { key, .. } => Some(seen_key(key, Sort::Talk)),
                Op::State { key, .. } => Some(seen_key(key, Sort::State)),
                _ => None,
            });
            ops.push(Op::Full {
                owner,
                begins: page == Page::FullBegins,
                ends: after.full_to == 0,
                seen: seen.collect(),
            });
        }
        ops.push(Op::Cursor { owner, at: after });
        self.depot.commit(ops)?;
        *self.at() = after;
        Ok(())
    }

    fn rewind(&self, before: u64, to: u64) -> Result<Cursor, StoreError> {
        self.check(before)?;
        let owner = self.owner;
        let incomplete = self.cursor().is_incomplete();
        let at = Cursor {
            key: before.min(to),
            anew: incomplete || self.depot.tables.replaces_above(owner, to)?,
            ..Cursor::default()
        };
        self.depot
            .commit(vec![Op::Rewind { owner, to }, Op::Cursor { owner, at }])?;
        *self.at() = at;
        Ok(at)
    }

    fn again(&self) -> Result<Option<(u64, pb::SendRequest)>, StoreError> {
        let mut waiting = self.depot.tables.again.prefix(self.owner.to_be_bytes());
        let Some(entry) = waiting.next() else {
            return Ok(None);
        };
        let (key, value) = entry.into_inner().map_err(engine)?;
        let name = key.get(8..).map_or(Err(torn()), number)?;
        let request = pb::SendRequest::decode(&*value).map_err(engine)?;
        Ok(Some((name, request)))
    }

    fn said_again(&self, name: u64) -> Result<(), StoreError> {
        let owner = self.owner;
        self.depot.commit(vec![Op::SaidAgain { owner, name }])
    }

    fn messages(&self, other: u64, limit: usize) -> Result<Vec<Stored>, StoreError> {
        let prefix = [self.owner.to_be_bytes(), other.to_be_bytes()].concat();
        let newest = self.depot.tables.talk.prefix(&prefix).rev().take(limit);
        let mut messages = Vec::new();
        for entry in newest {
            let (key, value) = entry.into_inner().map_err(engine)?;
            let word = |n: usize| {
                key.get(TALK_PREFIX + 8 * n..TALK_PREFIX + 8 * n + 8)
                    .map_or(Err(torn()), number)
            };
            messages.push(Stored {
                pos: Pos {
                    count: word(0)?,
                    sender: word(1)?,
                },
                number: word(2)?,
                message: message(&value)?.1,
            });
        }
        messages.reverse();
        Ok(messages)
    }

    fn conversations(&self) -> Result<Vec<u64>, StoreError> {
        let owner = self.owner.to_be_bytes();
        let mut others: Vec<u64> = Vec::new();
        for entry in self.depot.tables.talk.prefix(owner) {
            let key = entry.key().map_err(engine)?;
            let other = key.get(8..TALK_PREFIX).map_or(Err(torn()), number)?;
            if others.last() != Some(&other) {
                others.push(other);
            }
        }
        Ok(others)
    }

    fn state(&self, kind: pb::Kind, id: u64) -> Result<Option<pb::Item>, StoreError> {
        let stored = self
            .depot
            .tables
            .state
            .get(state_key(self.owner, kind as i32, id))
            .map_err(engine)?;
        let item = stored.map(|bytes| pb::Item::decode(&*bytes).map_err(engine));
        Ok(item.transpose()?.filter(|item| !item.deleted))
    }

    fn states(&self, kind: pb::Kind) -> Result<Vec<pb::Item>, StoreError> {
        let prefix = &state_key(self.owner, kind as i32, 0)[..STATE_PREFIX];
        let stored = self.depot.tables.state.prefix(prefix);
        let items =
            stored.map(|entry| pb::Item::decode(&*entry.value().map_err(engine)?).map_err(engine));
        items
            .filter(|item| !item.as_ref().is_ok_and(|item| item.deleted))
            .collect()
    }
}

impl Tables {
    /// Whether something above `to` has taken the place of an older version.
    fn replaces_above(&self, owner: u64, to: u64) -> Result<bool, StoreError> {
        for table in [&self.talk, &self.state] {
            for entry in table.prefix(owner.to_be_bytes()) {
                let value = entry.value().map_err(engine)?;
                let item = pb::Item::decode(&*value).map_err(engine)?;
                if item.number > to && item.version > 1 {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// The committer's life: ends when the last [`Depot`] is dropped, or at the first failed commit. A failed
/// sync is never retried: what the kernel then holds is unknown.
fn commit_all(tables: &Tables, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut waiting = vec![first];
        waiting.extend(jobs.try_iter().take(BATCH - 1));
        let result = commit_batch(tables, &waiting);
        let failed = result.is_err();
        for job in waiting {
            // A terminal that no longer waits has ended; its items are stored all the same.
            let _ = job.done.send(result.clone());
        }
        if failed {
            return;
        }
    }
}

fn commit_batch(tables: &Tables, jobs: &[Job]) -> Result<(), StoreError> {
    let mut batch = tables
        .database
        .batch()
        .durability(Some(PersistMode::SyncData));
    // A busy terminal has several requests in one batch; only its last cursor counts.
    let mut cursors: HashMap<u64, Cursor> = HashMap::new();
    // Messages of this batch, which the tables do not show yet.
    let mut added: Vec<(&Vec<u8>, u64)> = Vec::new();
    for op in jobs.iter().flat_map(|job| &job.ops) {
        match op {
            Op::Talk { key, item, before } => {
                for here in before {
                    replace(tables, &mut batch, here, item.id)?;
                    added.retain(|(added, id)| {
                        let old = *id == item.id && added.starts_with(here.as_slice());
                        if old {
                            batch.remove(&tables.talk, added.as_slice());
                        }
                        !old
                    });
                }
                batch.insert(&tables.talk, key.as_slice(), item.encode_to_vec());
                added.push((key, item.id));
            }
            Op::State { key, item, full } => {
                let stored = tables.state.get(key).map_err(engine)?;
                let old = stored
                    .map(|bytes| pb::Item::decode(&*bytes))
                    .transpose()
                    .map_err(engine)?;
                // D-2. Two versions in one batch come in number order, so the later insert is the newer.
                if *full || old.is_none_or(|old| item.version >= old.version) {
                    batch.insert(&tables.state, key.as_slice(), item.encode_to_vec());
                }
            }
            Op::Full {
                owner,
                begins,
                ends,
                seen,
            } => full_page(tables, &mut batch, (*owner, *begins, *ends), seen)?,
            Op::Rewind { owner, to } => rewind(tables, &mut batch, *owner, *to)?,
            Op::SaidAgain { owner, name } => {
                batch.remove(&tables.again, again_key(*owner, *name));
            }
            Op::Cursor { owner, at } => {
                cursors.insert(*owner, *at);
            }
            Op::Login { name, login } => {
                batch.insert(&tables.login, name.as_str(), login.encode_to_vec())
            }
            Op::Forget { owner } => {
                cursors.remove(owner);
                forget(tables, &mut batch, *owner)?;
            }
        }
    }
    for (owner, at) in cursors {
        let mut value = [at.key, at.full_to, at.owed].map(u64::to_be_bytes).concat();
        value.push(u8::from(at.anew));
        batch.insert(&tables.key, owner.to_be_bytes(), value);
    }
    batch.commit().map_err(engine)
}

/// Notes what a page of a full sync has brought; at the end takes out what no page has.
fn full_page(
    tables: &Tables,
    batch: &mut OwnedWriteBatch,
    (owner, begins, ends): (u64, bool, bool),
    seen: &HashSet<Vec<u8>>,
) -> Result<(), StoreError> {
    if begins || ends {
        clear(&tables.seen, batch, owner)?;
    }
    if !ends {
        for key in seen {
            batch.insert(&tables.seen, key.as_slice(), []);
        }
        return Ok(());
    }
    for (table, sort) in [(&tables.talk, Sort::Talk), (&tables.state, Sort::State)] {
        for entry in table.prefix(owner.to_be_bytes()) {
            let key = entry.key().map_err(engine)?;
            let name = seen_key(&key, sort);
            let before = !begins && tables.seen.contains_key(&name).map_err(engine)?;
            if !before && !seen.contains(&name) {
                batch.remove(table, key);
            }
        }
    }
    Ok(())
}

/// Takes out what has a number above `to`, and keeps what is to be sent again.
fn rewind(
    tables: &Tables,
    batch: &mut OwnedWriteBatch,
    owner: u64,
    to: u64,
) -> Result<(), StoreError> {
    clear(&tables.seen, batch, owner)?;
    for table in [&tables.talk, &tables.state] {
        for entry in table.prefix(owner.to_be_bytes()) {
            let (key, value) = entry.into_inner().map_err(engine)?;
            let (item, said) = message(&value)?;
            if item.number <= to {
                continue;
            }
            batch.remove(table, key);
            let count = item.pos.map_or(0, |pos| pos.count);
            if item.kind() == pb::Kind::Message
                && let Some(words) = lost_words(owner, count, said)
            {
                let key = again_key(owner, item.number);
                batch.insert(&tables.again, key, words.encode_to_vec());
            }
        }
    }
    Ok(())
}

/// Removes the versions of a message that are stored at a position (D-4).
fn replace(
    tables: &Tables,
    batch: &mut OwnedWriteBatch,
    here: &[u8],
    message_id: u64,
) -> Result<(), StoreError> {
    for entry in tables.talk.prefix(here) {
        let (key, value) = entry.into_inner().map_err(engine)?;
        let old = pb::Item::decode(&*value).map_err(engine)?;
        if old.id == message_id {
            batch.remove(&tables.talk, key);
        }
    }
    Ok(())
}

fn forget(tables: &Tables, batch: &mut OwnedWriteBatch, owner: u64) -> Result<(), StoreError> {
    for table in [
        &tables.talk,
        &tables.state,
        &tables.key,
        &tables.seen,
        &tables.again,
    ] {
        clear(table, batch, owner)?;
    }
    Ok(())
}

/// Removes what is an owner's.
fn clear(table: &Keyspace, batch: &mut OwnedWriteBatch, owner: u64) -> Result<(), StoreError> {
    for entry in table.prefix(owner.to_be_bytes()) {
        batch.remove(table, entry.key().map_err(engine)?);
    }
    Ok(())
}

/// An item of a conversation, and the message in it; of a state, an empty one.
fn message(bytes: &[u8]) -> Result<(pb::Item, pb::Message), StoreError> {
    let item = pb::Item::decode(bytes).map_err(engine)?;
    let message = match item.kind() {
        pb::Kind::Message => pb::Message::decode(item.payload.clone()).map_err(engine)?,
        _ => pb::Message::default(),
    };
    Ok((item, message))
}

/// Which table a key of `seen` is about.
#[derive(Clone, Copy)]
enum Sort {
    Talk = 0,
    State = 1,
}

fn seen_key(key: &[u8], sort: Sort) -> Vec<u8> {
    let (owner, rest) = key.split_at(key.len().min(size_of::<u64>()));
    [owner, &[sort as u8], rest].concat()
}

fn again_key(owner: u64, number: u64) -> Vec<u8> {
    [owner, number].map(u64::to_be_bytes).concat()
}

fn cursor(bytes: &[u8]) -> Result<Cursor, StoreError> {
    let (key, rest) = bytes.split_at_checked(8).ok_or_else(torn)?;
    let (full_to, rest) = rest.split_at_checked(8).ok_or_else(torn)?;
    let (owed, anew) = rest.split_at_checked(8).ok_or_else(torn)?;
    Ok(Cursor {
        key: number(key)?,
        full_to: number(full_to)?,
        owed: number(owed)?,
        anew: anew == [1],
    })
}

fn talk_key(owner: u64, other: u64, pos: Pos, number: u64) -> Vec<u8> {
    [owner, other, pos.count, pos.sender, number]
        .map(u64::to_be_bytes)
        .concat()
}

fn state_key(owner: u64, kind: i32, id: u64) -> Vec<u8> {
    let mut key = owner.to_be_bytes().to_vec();
    key.extend_from_slice(&kind.to_be_bytes());
    key.extend_from_slice(&id.to_be_bytes());
    key
}

fn number(bytes: &[u8]) -> Result<u64, StoreError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| torn())
}

fn torn() -> StoreError {
    StoreError::Engine(
        "a key of the wrong length; the directory is not a terminal's store".to_owned(),
    )
}

fn engine(error: impl std::fmt::Display) -> StoreError {
    StoreError::Engine(error.to_string())
}
