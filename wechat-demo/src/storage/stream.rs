//! Streams: tasks from shard to shard, in order, each applied once.
//!
//! A stream is (source, incarnation, destination). The entry of a cause gives each of its tasks the next
//! n; the entry of an effect moves the destination's mark to n. Whoever carries tasks may lose, repeat or
//! mix them up: the mark alone decides ([`Incoming::place`]).
//!
//! A new incarnation begins all streams anew. What an earlier one left, all shards of a store have from the same
//! moment: it is carried to its end first.
//!
//! Between shards of one store the store's round carries them from [`Outgoing`] to [`Incoming`]; to other homes a
//! carrier does (`carry.rs`).

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

use super::{
    engine::{Engine, EngineError, Span, Table},
    shard::{Draft, Home, damaged},
    table::{self, Key},
};
use crate::{
    model::{HomeId, Incarnation, ShardId, Site},
    proto::storage as pb,
};

/// The streams that begin in a shard.
#[derive(Debug)]
pub struct Outgoing {
    from: ShardId,
    incarnation: Incarnation,
    /// Those of earlier incarnations only where something was left.
    streams: BTreeMap<(Incarnation, Site), Out>,
}

/// One outgoing stream.
#[derive(Debug)]
struct Out {
    /// Last n given to a task, committed or not.
    last: u64,
    /// `last` as the newest draft has it.
    noted: u64,
    /// Committed tasks not yet known to be applied, in order from the oldest.
    waiting: VecDeque<(u64, Bytes)>,
    /// Last n that is or was in `waiting`; later committed ones lie in `Tasks` alone.
    loaded: u64,
    /// Last committed n.
    committed: u64,
    /// Applied up to here, rows still to be removed above `removed`.
    applied: u64,
    /// Rows up to here are gone.
    removed: u64,
}

/// The marks of the streams that end in a shard.
#[derive(Debug)]
pub struct Incoming {
    to: ShardId,
    /// Last n applied.
    marks: HashMap<(Site, Incarnation), u64>,
}

/// What is to be done with a task that arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// It is next: apply it and move the mark in the same entry.
    Next,
    /// It was applied before.
    Done,
    /// Tasks are missing before it: send from here on.
    From(u64),
}

/// Tasks of one stream kept in memory; beyond, they are read from their table when their turn comes.
const WAITING_TASKS: usize = 8192;

impl Outgoing {
    /// Loads the streams of `from`: tasks that their destinations may not have applied wait again.
    pub fn load(engine: &dyn Engine, home: Home, from: ShardId) -> Result<Self, EngineError> {
        let mut streams = BTreeMap::new();
        for ((incarnation, to), last) in counts(engine, table::streams_out(from))? {
            let first = first_task(engine, from, incarnation, to)?;
            if incarnation != home.incarnation && first.is_none() {
                continue;
            }
            let gone = first.unwrap_or(last + 1) - 1;
            let mut out = Out {
                last,
                noted: last,
                waiting: VecDeque::new(),
                loaded: gone,
                committed: last,
                applied: gone,
                removed: gone,
            };
            out.refill(engine, from, incarnation, to)?;
            streams.insert((incarnation, to), out);
        }
        Ok(Self {
            from,
            incarnation: home.incarnation,
            streams,
        })
    }

    /// The next n of the stream to `to`.
    pub fn give(&mut self, to: Site) -> u64 {
        let key = (self.incarnation, to);
        let out = self.streams.entry(key).or_insert_with(Out::new);
        out.last += 1;
        out.last
    }

    /// Notes in the draft that gave tasks their n how far each stream has got.
    pub fn note(&mut self, draft: &mut Draft<'_>) {
        for (&(incarnation, to), out) in &mut self.streams {
            if out.noted != out.last {
                out.noted = out.last;
                let key = table::stream_out(self.from, incarnation, to);
                draft.put_row(&key, &out.last.to_be_bytes());
            }
        }
    }

    /// A task's cause is committed: it may be carried.
    pub fn committed(&mut self, to: Site, n: u64, task: Bytes) {
        let out = self
            .streams
            .get_mut(&(self.incarnation, to))
            .expect("a task's stream was made when its n was given");
        assert_eq!(n, out.committed + 1, "tasks are committed in order");
        out.committed = n;
        if out.loaded + 1 == n && out.waiting.len() < WAITING_TASKS {
            out.waiting.push_back((n, task));
            out.loaded = n;
        }
    }

    /// The tasks to carry to `to` next, oldest first, all of them committed and of one stream, whose incarnation
    /// comes first.
    pub fn waiting(&self, to: Site) -> Option<(Incarnation, impl Iterator<Item = (u64, Bytes)>)> {
        let mut streams = self.streams.iter();
        let (key, out) = streams.find(|(key, out)| key.1 == to && !out.waiting.is_empty())?;
        Some((key.0, out.waiting.iter().cloned()))
    }

    /// Whether any task for `home` waits.
    pub fn any_waiting(&self, home: HomeId) -> bool {
        let mut streams = self.streams.iter();
        streams.any(|((_, to), out)| to.home == home && !out.waiting.is_empty())
    }

    /// Tasks that wait for each shard of `home`, of one stream each, oldest first and up to `most` bytes of them;
    /// `own` is the home that they come from.
    pub fn parcels(&self, own: HomeId, home: HomeId, most: usize) -> Vec<pb::Parcel> {
        let mut parcels: Vec<pb::Parcel> = Vec::new();
        let mut left = most;
        for (&(incarnation, to), out) in &self.streams {
            let known = |parcel: &pb::Parcel| parcel.to_shard == u32::from(to.shard.0);
            let Some(&(first, _)) = out.waiting.front() else {
                continue;
            };
            // An earlier incarnation's stream comes to its end before a later one begins.
            if to.home != home || parcels.iter().any(known) {
                continue;
            }
            let mut tasks = Vec::new();
            for (_, task) in &out.waiting {
                if left < task.len() && left < most {
                    // What is full stays so: a later stream must not overtake this one.
                    left = 0;
                    break;
                }
                left = left.saturating_sub(task.len());
                tasks.push(task.clone());
            }
            if !tasks.is_empty() {
                parcels.push(pb::Parcel {
                    from_home: u32::from(own.0),
                    from_shard: u32::from(self.from.0),
                    incarnation: u32::from(incarnation.0),
                    to_shard: u32::from(to.shard.0),
                    first,
                    tasks,
                });
            }
            if left == 0 {
                break;
            }
        }
        parcels
    }

    /// Tasks for `home` that are not known to be applied there, in memory or not.
    pub fn unapplied(&self, home: HomeId) -> u64 {
        let streams = self.streams.iter();
        let to_home = streams.filter(|((_, to), _)| to.home == home);
        to_home.map(|(_, out)| out.committed - out.applied).sum()
    }

    /// Tasks that are committed here and not yet applied where they go.
    pub fn depth(&self) -> u64 {
        let streams = self.streams.values();
        streams
            .map(|out| out.committed.saturating_sub(out.applied))
            .sum()
    }

    /// The destination has committed the effects up to `n`.
    pub fn applied(
        &mut self,
        engine: &dyn Engine,
        incarnation: Incarnation,
        to: Site,
        n: u64,
    ) -> Result<(), EngineError> {
        let Some(out) = self.streams.get_mut(&(incarnation, to)) else {
            return Ok(());
        };
        while out
            .waiting
            .front()
            .is_some_and(|&(waiting, _)| waiting <= n)
        {
            out.waiting.pop_front();
        }
        // A destination may have more than survived here, of an incarnation that has lost its tail.
        let n = n.min(out.committed);
        out.applied = out.applied.max(n);
        out.loaded = out.loaded.max(n);
        out.refill(engine, self.from, incarnation, to)
    }

    /// Tasks applied whose rows are not yet removed.
    pub fn removable(&self) -> u64 {
        self.streams
            .values()
            .map(|out| out.applied - out.removed)
            .sum()
    }

    /// Removes applied tasks' rows in `draft`, `most` of them.
    pub fn remove_applied(&mut self, draft: &mut Draft<'_>, most: u64) {
        let mut left = most;
        for (&(incarnation, to), out) in &mut self.streams {
            while out.removed < out.applied && left > 0 {
                out.removed += 1;
                left -= 1;
                draft.remove_task(&table::task(self.from, incarnation, to, out.removed));
            }
        }
    }
}

impl Out {
    fn new() -> Self {
        Self {
            last: 0,
            noted: 0,
            waiting: VecDeque::new(),
            loaded: 0,
            committed: 0,
            applied: 0,
            removed: 0,
        }
    }

    /// Reads tasks that did not fit before.
    fn refill(
        &mut self,
        engine: &dyn Engine,
        from: ShardId,
        incarnation: Incarnation,
        to: Site,
    ) -> Result<(), EngineError> {
        if !self.waiting.is_empty() || self.loaded >= self.committed {
            return Ok(());
        }
        let first = table::task(from, incarnation, to, self.loaded + 1);
        let end = table::task(from, incarnation, to, self.committed + 1);
        let span = Span {
            from: &first,
            to: &end,
            backwards: false,
        };
        engine.scan(Table::Tasks, span, &mut |key, task| {
            let n = table::task_n(key).unwrap_or(0);
            if n != self.loaded + 1 {
                return false;
            }
            self.loaded = n;
            self.waiting.push_back((n, Bytes::copy_from_slice(task)));
            self.waiting.len() < WAITING_TASKS
        })?;
        if self.waiting.is_empty() {
            return Err(damaged(&format!(
                "task {} from {from} to {to} is missing",
                self.loaded + 1
            )));
        }
        Ok(())
    }
}

impl Incoming {
    /// Loads the marks of all streams that end in `to`.
    pub fn load(engine: &dyn Engine, to: ShardId) -> Result<Self, EngineError> {
        let marks = counts(engine, table::streams_in(to))?
            .into_iter()
            .map(|((incarnation, from), mark)| ((from, incarnation), mark))
            .collect();
        Ok(Self { to, marks })
    }

    /// What to do with task `n` of a stream.
    pub fn place(&self, from: Site, incarnation: Incarnation, n: u64) -> Place {
        let last = self.mark(from, incarnation);
        match n {
            n if n <= last => Place::Done,
            n if n == last + 1 => Place::Next,
            _ => Place::From(last + 1),
        }
    }

    /// Moves the mark to `n`. The draft that holds the effect must be given to [`Incoming::note`] before
    /// it is finished.
    pub fn advance(&mut self, from: Site, incarnation: Incarnation, n: u64) {
        assert_eq!(
            self.place(from, incarnation, n),
            Place::Next,
            "effects have no gaps"
        );
        self.marks.insert((from, incarnation), n);
    }

    /// Writes a stream's mark into the draft that holds the effects up to it.
    pub fn note(&self, draft: &mut Draft<'_>, from: Site, incarnation: Incarnation) {
        let key = table::stream_in(from, incarnation, self.to);
        draft.put_row(&key, &self.mark(from, incarnation).to_be_bytes());
    }

    /// Last n applied.
    pub fn mark(&self, from: Site, incarnation: Incarnation) -> u64 {
        self.marks.get(&(from, incarnation)).copied().unwrap_or(0)
    }
}

/// Streams between two keys, and the count in each one's row.
fn counts(
    engine: &dyn Engine,
    (from, to): (Key, Key),
) -> Result<BTreeMap<(Incarnation, Site), u64>, EngineError> {
    let span = Span {
        from: &from,
        to: &to,
        backwards: false,
    };
    let (mut counts, mut unreadable) = (BTreeMap::new(), false);
    engine.scan(Table::Rows, span, &mut |key, row| {
        match table::stream_of(key).zip(table::number(row)) {
            Some((stream, count)) => drop(counts.insert(stream, count)),
            None => unreadable = true,
        }
        !unreadable
    })?;
    if unreadable {
        return Err(damaged("a stream's count"));
    }
    Ok(counts)
}

/// The n of the oldest task whose row is there.
fn first_task(
    engine: &dyn Engine,
    from: ShardId,
    incarnation: Incarnation,
    to: Site,
) -> Result<Option<u64>, EngineError> {
    let (first, end) = (
        table::task(from, incarnation, to, 0),
        table::task(from, incarnation, to, u64::MAX),
    );
    let mut found = None;
    engine.scan(
        Table::Tasks,
        Span {
            from: &first,
            to: &end,
            backwards: false,
        },
        &mut |key, _| {
            found = table::task_n(key);
            false
        },
    )?;
    Ok(found)
}
