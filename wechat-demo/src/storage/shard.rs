//! One shard's state between its log and its tables, and the draft of its next entry.
//!
//! Knows: what a shard remembers from round to round.   Does not know: syncing, copies, callers.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use prost::Message;

use super::{
    changes::Changes,
    engine::{Engine, EngineError, Span, Table},
    log::ShardLog,
    sequence::{Ahead, Given, Sequence, count_row},
    stream::{Incoming, Outgoing},
    table::{self, Counter, Key},
};
use crate::model::{
    DeviceId, HomeId, Incarnation, MessageId, Placement, Seq, ShardId, Site, UserId,
};

/// What a shard's primary keeps in memory. All of it can be had again from the tables once every entry
/// of the log is applied.
pub struct Shard {
    /// Which one.
    pub id: ShardId,
    /// Its log.
    pub log: ShardLog,
    /// Entries up to this offset are in the tables.
    pub applied: u64,
    /// Its users' numbers.
    pub sequence: Sequence,
    /// Ids for users whose names this shard decides on.
    pub users: Ahead,
    /// Ids for messages sent from here.
    pub messages: Ahead,
    /// Ids for groups made here.
    pub groups: Ahead,
    /// What its users' messages ask for again and again.
    pub warm: Warm,
    /// Streams that begin here.
    pub outgoing: Outgoing,
    /// Streams that end here.
    pub incoming: Incoming,
}

/// Small facts of rows, as the newest draft has them. A fact that is not here is in its row; emptied whole,
/// between rounds, when there are too many.
#[derive(Debug, Default)]
pub struct Warm {
    /// (user, peer) → highest position count in their conversation that the user's home has seen.
    pub counts: HashMap<(UserId, UserId), u64>,
    /// (user, peer) → what the peer sends to the user is taken.
    pub friends: HashMap<(UserId, UserId), bool>,
    /// User → the devices that can be woken.
    pub pushed: HashMap<UserId, Arc<[DeviceId]>>,
    /// (user, group stored once) → number and `from` of the open head; 0 = there is none.
    pub heads: HashMap<(UserId, UserId), (u64, u64)>,
}

/// Facts of each sort that a shard keeps in memory.
const WARM_FACTS: usize = 1 << 17;

/// What all shards of a store have in common.
#[derive(Clone, Copy, Debug)]
pub struct Home {
    /// Which one.
    pub id: HomeId,
    /// Who lives where.
    pub place: Placement,
    /// Part of every number and message id given now.
    pub incarnation: Incarnation,
    /// Unix time of the round, for display and expiries.
    pub now_ms: i64,
}

/// A shard's next entry in the making. Reads through it see what it changes.
pub struct Draft<'e> {
    engine: &'e dyn Engine,
    changes: Changes,
    /// Rows changed in this draft.
    rows: HashMap<Key, Option<Bytes>>,
    moved: Vec<Moved>,
    tasks: Vec<OutTask>,
}

/// A new item in somebody's timeline.
#[derive(Clone, Debug)]
pub struct Moved {
    /// Whose timeline.
    pub user: UserId,
    /// The user's newest number before and with it.
    pub given: Given,
    /// The encoded `terminal.Item`; empty = it is not in the timeline itself, a head stands for it.
    pub item: Bytes,
    /// The device of that user whose request this is: the answer shows it the item.
    pub answered: Option<DeviceId>,
}

/// A task that becomes sendable when the draft is committed.
#[derive(Clone, Debug)]
pub struct OutTask {
    /// The stream's destination.
    pub to: Site,
    /// Its place in the stream.
    pub n: u64,
    /// The encoded `storage.Task`.
    pub task: Bytes,
}

impl Shard {
    /// Loads a shard whose log is wholly applied.
    pub fn load(
        engine: &dyn Engine,
        home: Home,
        id: ShardId,
        log: ShardLog,
        applied: u64,
    ) -> Result<Self, EngineError> {
        assert_eq!(
            applied,
            log.last().offset,
            "{id} is loaded from tables that have its whole log"
        );
        let draft = Draft::new(engine);
        let counter = |which, incarnation| {
            let max = count_row(&draft, &table::counter(id, which))?;
            Ok::<_, EngineError>(Ahead::resume(max, incarnation))
        };
        let incarnation = home.incarnation;
        Ok(Self {
            id,
            log,
            applied,
            sequence: Sequence::default(),
            users: counter(Counter::Users, incarnation)?,
            // The incarnation is in a message's id anyway.
            messages: counter(Counter::Messages, Incarnation(0))?,
            groups: counter(Counter::Groups, incarnation)?,
            warm: Warm::default(),
            outgoing: Outgoing::load(engine, home, id)?,
            incoming: Incoming::load(engine, id)?,
        })
    }

    /// Between rounds: lets go of what the tables have, when there is too much of it.
    pub fn shrink(&mut self) {
        self.sequence.shrink();
        if self.warm.counts.len() > WARM_FACTS {
            self.warm.counts.clear();
        }
        if self.warm.friends.len() > WARM_FACTS {
            self.warm.friends.clear();
        }
        if self.warm.pushed.len() > WARM_FACTS {
            self.warm.pushed.clear();
        }
        if self.warm.heads.len() > WARM_FACTS {
            self.warm.heads.clear();
        }
    }

    /// The id of a user whose name was claimed here, and who will be at home in `home`.
    pub fn give_user(&mut self, draft: &mut Draft<'_>, home: HomeId) -> UserId {
        let (count, raised) = self.users.give();
        if let Some(max) = raised {
            draft.put_row(&table::counter(self.id, Counter::Users), &max.to_be_bytes());
        }
        UserId::from_count(count, u16::from(self.id.0), home)
    }

    /// The id of a group made here.
    pub fn give_group(&mut self, draft: &mut Draft<'_>, home: Home) -> UserId {
        let (count, raised) = self.groups.give();
        if let Some(max) = raised {
            draft.put_row(
                &table::counter(self.id, Counter::Groups),
                &max.to_be_bytes(),
            );
        }
        UserId::group_from_count(count, u16::from(self.id.0), home.id)
    }

    /// The id of a message sent from here.
    pub fn give_message(&mut self, draft: &mut Draft<'_>, home: Home) -> MessageId {
        let (count, raised) = self.messages.give();
        if let Some(max) = raised {
            draft.put_row(
                &table::counter(self.id, Counter::Messages),
                &max.to_be_bytes(),
            );
        }
        let from = Site {
            home: home.id,
            shard: self.id,
        };
        MessageId::from_count(home.incarnation.0, from, count)
    }

    /// The number for a new item of a user of this shard.
    pub fn give_number(
        &mut self,
        draft: &mut Draft<'_>,
        home: Home,
        user: UserId,
    ) -> Result<Given, EngineError> {
        self.sequence
            .give(draft, home.place, home.incarnation, user)
    }
}

impl<'e> Draft<'e> {
    /// An empty draft over the tables of `engine`.
    pub fn new(engine: &'e dyn Engine) -> Self {
        Self {
            engine,
            changes: Changes::default(),
            rows: HashMap::new(),
            moved: Vec::new(),
            tasks: Vec::new(),
        }
    }

    /// The tables below, without the draft's changes.
    pub fn engine(&self) -> &'e dyn Engine {
        self.engine
    }

    /// A row of `Rows`.
    pub fn row(&self, key: &Key) -> Result<Option<Bytes>, EngineError> {
        match self.rows.get(key) {
            Some(row) => Ok(row.clone()),
            None => self.engine.get(Table::Rows, key),
        }
    }

    /// A row of `Rows` that is a message.
    pub fn message<M: Message + Default>(&self, key: &Key) -> Result<Option<M>, EngineError> {
        let Some(row) = self.row(key)? else {
            return Ok(None);
        };
        M::decode(row)
            .map(Some)
            .map_err(|error| damaged(&format!("row {key:?}: {error}")))
    }

    /// The rows of `Rows` from `from` to `to` (exclusive), which are messages, in no particular order.
    pub fn messages<M: Message + Default>(
        &self,
        from: &Key,
        to: &Key,
    ) -> Result<Vec<M>, EngineError> {
        let mut rows = Vec::new();
        let span = Span {
            from,
            to,
            backwards: false,
        };
        self.engine.scan(Table::Rows, span, &mut |key, row| {
            if !self.rows.contains_key(&Key::new(&[key])) {
                rows.push(Bytes::copy_from_slice(row));
            }
            true
        })?;
        let within = |key: &Key| key[..] >= from[..] && key[..] < to[..];
        let changed = self.rows.iter().filter(|(key, _)| within(key));
        rows.extend(changed.filter_map(|(_, row)| row.clone()));
        let decode = |row| M::decode(row).map_err(|error| damaged(&format!("a row: {error}")));
        rows.into_iter().map(decode).collect()
    }

    /// An item of a timeline; `None` if it is not there. One that this draft superseded must not be asked for.
    pub fn item(&self, user: UserId, number: Seq) -> Result<Option<Bytes>, EngineError> {
        let new = self
            .moved
            .iter()
            .rev()
            .find(|moved| moved.user == user && moved.given.number == number);
        match new {
            Some(moved) => Ok(Some(moved.item.clone())),
            None => self.engine.get(Table::Timeline, &table::item(user, number)),
        }
    }

    /// Writes a row of `Rows`.
    pub fn put_row(&mut self, key: &Key, value: &[u8]) {
        self.changes.put(Table::Rows, key, value);
        self.rows
            .insert(key.clone(), Some(Bytes::copy_from_slice(value)));
    }

    /// Writes a row of `Rows` that is a message.
    pub fn put_message(&mut self, key: &Key, message: &impl Message) {
        self.put_row(key, &message.encode_to_vec());
    }

    /// Removes a row of `Rows`.
    pub fn remove_row(&mut self, key: &Key) {
        self.changes.remove(Table::Rows, key);
        self.rows.insert(key.clone(), None);
    }

    /// Adds an item to a timeline.
    pub fn add_item(&mut self, user: UserId, given: Given, item: Bytes) {
        self.changes
            .put(Table::Timeline, &table::item(user, given.number), &item);
        self.moved.push(Moved {
            user,
            given,
            item,
            answered: None,
        });
    }

    /// The newest item is in the answer to this device of its user, which therefore needs no notify of it.
    pub fn answers(&mut self, device: DeviceId) {
        if let Some(moved) = self.moved.last_mut() {
            moved.answered = Some(device);
        }
    }

    /// Writes an item that nobody is told of: a head, or a row of a log that is copied from another home.
    pub fn place_item(&mut self, user: UserId, number: Seq, item: &[u8]) {
        self.changes
            .put(Table::Timeline, &table::item(user, number), item);
    }

    /// Notes that a timeline has an item that a head stands for.
    pub fn add_headed(&mut self, user: UserId, given: Given) {
        self.moved.push(Moved {
            user,
            given,
            item: Bytes::new(),
            answered: None,
        });
    }

    /// Removes an item that a newer version takes the place of.
    pub fn supersede(&mut self, user: UserId, number: Seq) {
        self.changes
            .remove(Table::Timeline, &table::item(user, number));
    }

    /// Adds a task to a stream that begins in `shard`.
    pub fn add_task(&mut self, shard: &mut Shard, home: Home, to: Site, task: Bytes) {
        let n = shard.outgoing.give(to);
        let key = table::task(shard.id, home.incarnation, to, n);
        self.changes.put(Table::Tasks, &key, &task);
        self.tasks.push(OutTask { to, n, task });
    }

    /// Removes a task that its destination has applied.
    pub fn remove_task(&mut self, key: &Key) {
        self.changes.remove(Table::Tasks, key);
    }

    /// What the entry will say.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Takes the draft apart: what the entry says, whose timelines move, which tasks go out.
    pub fn finish(self) -> (Changes, Vec<Moved>, Vec<OutTask>) {
        (self.changes, self.moved, self.tasks)
    }
}

/// An error for a row that is not what was written.
pub fn damaged(what: &str) -> EngineError {
    EngineError::Damaged(what.to_owned())
}
