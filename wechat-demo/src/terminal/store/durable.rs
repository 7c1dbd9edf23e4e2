//! The store that survives its process: fjall, one database and one committer for all terminals of a
//! process.
//!
//! The committer is an OS thread: it drains every request that waits into one batch and syncs once, so
//! that a thousand terminals cost a few fsyncs a second each way, not a thousand. A terminal's coroutine
//! waits for its answer on a std channel.
//!
//! Layout (all integers big-endian, `owner` = user id):
//! - `talk`   owner ‖ other ‖ pos.count ‖ pos.sender ‖ number → encoded `Message`
//! - `state`  owner ‖ kind ‖ id → encoded `Item`
//! - `key`    owner → key
//! - `login`  user name → encoded `LoginReply`

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use prost::Message;

use super::{LocalStore, Place, StoreError, Stored, place};
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
}

/// What one terminal wants committed, and who waits for it.
struct Job {
    ops: Vec<Op>,
    done: SyncSender<Result<(), StoreError>>,
}

enum Op {
    Talk {
        key: Vec<u8>,
        message: Box<pb::Message>,
        /// Keys, without their numbers, where versions before may stand.
        before: Vec<Vec<u8>>,
    },
    State {
        key: Vec<u8>,
        item: pb::Item,
    },
    Key {
        owner: u64,
        key: u64,
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
        let key = stored.map_or(Ok(0), |bytes| number(&bytes))?;
        Ok(Durable {
            depot: self.clone(),
            owner,
            key: AtomicU64::new(key),
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
    /// What the `key` table holds for the owner; written by `apply` alone.
    key: AtomicU64,
}

impl LocalStore for Durable {
    fn owner(&self) -> u64 {
        self.owner
    }

    fn key(&self) -> u64 {
        self.key.load(Ordering::Acquire)
    }

    fn apply(&self, before: u64, items: &[pb::Item], after: u64) -> Result<(), StoreError> {
        let stored = self.key();
        if stored != before {
            return Err(StoreError::OutOfStep {
                stored,
                claimed: before,
            });
        }
        let mut ops = Vec::with_capacity(items.len() + 1);
        for item in items {
            match place(self.owner, item)? {
                Place::Message {
                    other,
                    pos,
                    message,
                    before,
                } => {
                    let place = |pos| {
                        let mut place = talk_key(self.owner, other, pos, 0);
                        place.truncate(place.len() - size_of::<u64>());
                        place
                    };
                    ops.push(Op::Talk {
                        key: talk_key(self.owner, other, pos, item.number),
                        message,
                        before: before.into_iter().map(place).collect(),
                    });
                }
                Place::State => ops.push(Op::State {
                    key: state_key(self.owner, item.kind, item.id),
                    item: item.clone(),
                }),
                Place::Unknown => {}
            }
        }
        ops.push(Op::Key {
            owner: self.owner,
            key: after,
        });
        self.depot.commit(ops)?;
        self.key.store(after, Ordering::Release);
        Ok(())
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
                message: pb::Message::decode(&*value).map_err(engine)?,
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
        stored
            .map(|bytes| pb::Item::decode(&*bytes).map_err(engine))
            .transpose()
    }

    fn states(&self, kind: pb::Kind) -> Result<Vec<pb::Item>, StoreError> {
        let prefix = &state_key(self.owner, kind as i32, 0)[..STATE_PREFIX];
        let stored = self.depot.tables.state.prefix(prefix);
        stored
            .map(|entry| pb::Item::decode(&*entry.value().map_err(engine)?).map_err(engine))
            .collect()
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
    // A busy terminal has several requests in one batch; only its last key counts.
    let mut keys: HashMap<u64, u64> = HashMap::new();
    // Messages of this batch, which the tables do not show yet.
    let mut added: Vec<(&Vec<u8>, u64)> = Vec::new();
    for op in jobs.iter().flat_map(|job| &job.ops) {
        match op {
            Op::Talk {
                key,
                message,
                before,
            } => {
                for here in before {
                    replace(tables, &mut batch, here, message.message_id)?;
                    added.retain(|(added, id)| {
                        let old = *id == message.message_id && added.starts_with(here.as_slice());
                        if old {
                            batch.remove(&tables.talk, added.as_slice());
                        }
                        !old
                    });
                }
                batch.insert(&tables.talk, key.as_slice(), message.encode_to_vec());
                added.push((key, message.message_id));
            }
            Op::State { key, item } => {
                let stored = tables.state.get(key).map_err(engine)?;
                let old = stored
                    .map(|bytes| pb::Item::decode(&*bytes))
                    .transpose()
                    .map_err(engine)?;
                // D-2. Two versions in one batch come in number order, so the later insert is the newer.
                if old.is_none_or(|old| item.version >= old.version) {
                    batch.insert(&tables.state, key.as_slice(), item.encode_to_vec());
                }
            }
            Op::Key { owner, key } => {
                keys.insert(*owner, *key);
            }
            Op::Login { name, login } => {
                batch.insert(&tables.login, name.as_str(), login.encode_to_vec())
            }
            Op::Forget { owner } => {
                keys.remove(owner);
                forget(tables, &mut batch, *owner)?;
            }
        }
    }
    for (owner, key) in keys {
        batch.insert(&tables.key, owner.to_be_bytes(), key.to_be_bytes());
    }
    batch.commit().map_err(engine)
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
        let old = pb::Message::decode(&*value).map_err(engine)?;
        if old.message_id == message_id {
            batch.remove(&tables.talk, key);
        }
    }
    Ok(())
}

fn forget(tables: &Tables, batch: &mut OwnedWriteBatch, owner: u64) -> Result<(), StoreError> {
    for table in [&tables.talk, &tables.state, &tables.key] {
        for entry in table.prefix(owner.to_be_bytes()) {
            batch.remove(table, entry.key().map_err(engine)?);
        }
    }
    Ok(())
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
