//! The way to the follower, or to who is to become that: a thread of its own, and the rounds that wait for it.
//!
//! Knows: rounds in their order, how far the follower is.   Does not know: views, who waits for what it has.
//!
//! ```text
//!   learner:   log, or snapshot and log ─▶ what was written meanwhile ─▶ rounds as they come
//!   member:    what it lacks, in one Append ─▶ rounds as they come
//! ```
//! A member may become primary at any time, so what it has is always some round's end (C-6): where that cannot be kept
//! up the ferry fails, and the follower leaves the view and learns anew. A learner is sent what it lacks shard by shard.
//!
//! Invariants
//! - F-1  Rounds that wait hold [`LAG_BYTES`] at most.
//! - F-2  No lock is held while a call is under way.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;

use super::{
    CHUNK_BYTES, LogEnd, Peer, Same,
    level::{Level, Trouble, Way},
    pledge::Pledges,
};
use crate::{
    proto::storage as pb,
    storage::{
        engine::{Durability, Engine, EngineError, Snapshot, Span, Table},
        log::ShardLog,
        views::machine::{Crew, Member},
    },
};

/// Bytes of rounds that the follower may be behind.
const LAG_BYTES: usize = 32 << 20;
/// Pause between two attempts to reach it.
const PAUSE: Duration = Duration::from_millis(50);
/// Attempts to reach a learner; a member is tried until it leaves the view.
const ATTEMPTS: u32 = 20;

/// One follower's ferry. Its thread ends when this is dropped, after the call that is under way.
pub(super) struct Ferry {
    to: Member,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// The thread is to look again.
    work: Condvar,
    /// Something was carried, or cannot be.
    carried: Condvar,
    pledges: Arc<Pledges>,
}

struct State {
    /// Of the view; requests carry it.
    epoch: u64,
    /// Members of the view, if it is one of them.
    copies: Option<u32>,
    /// Where the thread is to begin, or to go on.
    start: Option<Start>,
    /// The thread waits for a start.
    asks: bool,
    /// A start has been given after which rounds are kept for it.
    keeps: bool,
    /// Rounds that it is not known to have, oldest first.
    rounds: VecDeque<Round>,
    /// What they hold.
    bytes: usize,
    /// The last round that it has; `None` = it is not level yet.
    carried: Option<u64>,
    /// Highest epoch it has answered with.
    seen: u64,
    failed: Option<String>,
    ended: bool,
}

/// What the committer asks about.
pub(super) struct Known {
    pub level: bool,
    pub asks: bool,
    pub seen: u64,
    pub failed: Option<String>,
}

struct Round {
    number: u64,
    segments: Vec<pb::Segment>,
    bytes: usize,
}

/// The store at the end of a round.
struct Start {
    engine: Frozen,
    logs: Vec<(ShardLog, u64)>,
    round: u64,
}

/// A moment's state of an engine, read as one.
struct Frozen(Mutex<Box<dyn Snapshot>>);

/// Why the thread ends.
enum End {
    /// It was told to.
    Told,
    Failed(String),
}

impl Ferry {
    /// Begins; [`Ferry::go_on`] says from where.
    pub fn launch(to: Member, peer: Arc<dyn Peer>, same: Same, pledges: Arc<Pledges>) -> Self {
        let state = State {
            epoch: 0,
            copies: None,
            start: None,
            asks: false,
            // A learner is first sent all there is.
            keeps: false,
            rounds: VecDeque::new(),
            bytes: 0,
            carried: None,
            seen: 0,
            failed: None,
            ended: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            carried: Condvar::new(),
            pledges,
        });
        let thread = Thread {
            shared: Arc::clone(&shared),
            peer,
            same,
        };
        std::thread::Builder::new()
            .name("ferry".to_owned())
            .spawn(move || thread.run())
            .expect("a process that starts can start a thread");
        Self { to, shared }
    }

    /// Where it goes.
    pub fn to(&self) -> &Member {
        &self.to
    }

    /// Whether it was in the view when that was last said.
    pub fn is_member(&self) -> bool {
        self.shared.state().copies.is_some()
    }

    /// Whether entries that are in the log now will be needed.
    pub fn needs_log(&self) -> bool {
        !self.shared.state().keeps
    }

    /// How it stands in the view.
    pub fn is_known(&self, crew: &Crew, member: bool) {
        let copies = 2 + u32::from(crew.backup.is_some());
        let mut state = self.shared.state();
        (state.epoch, state.copies) = (crew.epoch, member.then_some(copies));
    }

    /// Tells those who wait for what it has.
    pub fn keep_pledges(&self) {
        self.shared.keep_pledges();
    }

    /// How far it has come.
    pub fn state(&self) -> Known {
        let state = self.shared.state();
        Known {
            level: state.carried.is_some(),
            asks: state.asks,
            seen: state.seen,
            failed: state.failed.clone(),
        }
    }

    /// Begins from the end of `round`, at which `engine` and `logs` are. From a member's start on, and a learner's second
    /// one, rounds are kept for it.
    pub fn go_on(
        &self,
        engine: &dyn Engine,
        logs: &[LogEnd<'_>],
        round: u64,
    ) -> Result<(), EngineError> {
        let logs = logs.iter().map(|&(log, applied)| (log.clone(), applied));
        let start = Start {
            engine: Frozen(Mutex::new(engine.snapshot()?)),
            logs: logs.collect(),
            round,
        };
        let mut state = self.shared.state();
        state.keeps = state.copies.is_some() || state.asks;
        state.asks = false;
        state.start = Some(start);
        self.shared.work.notify_one();
        Ok(())
    }

    /// A round has begun.
    pub fn take(&self, epoch: u64, number: u64, segments: &[pb::Segment]) {
        let mut state = self.shared.state();
        state.epoch = epoch;
        if !state.keeps || state.failed.is_some() {
            return;
        }
        let entries = segments.iter().flat_map(|segment| &segment.entries);
        let bytes = entries.map(|entry| entry.changes.len()).sum();
        state.bytes += bytes;
        if state.bytes > LAG_BYTES {
            self.shared.fail(
                &mut state,
                format!("it is more than {} MiB behind", LAG_BYTES >> 20),
            );
            return;
        }
        state.rounds.push_back(Round {
            number,
            segments: segments.to_vec(),
            bytes,
        });
        if state.rounds.len() == 1 {
            self.shared.work.notify_one();
        }
    }

    /// Waits a while until it has a round.
    pub fn wait(&self, round: u64, wait: Duration) -> bool {
        let state = self.shared.state();
        let lacks = |state: &mut State| {
            state.carried.is_none_or(|has| has < round) && state.failed.is_none()
        };
        let waited = self.shared.carried.wait_timeout_while(state, wait, lacks);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.carried.is_some_and(|has| has >= round)
    }
}

impl Drop for Ferry {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.work.notify_one();
    }
}

impl State {
    /// What the oldest round holds, if it is that one or an earlier one.
    fn first_up_to(&self, round: u64) -> Option<usize> {
        let first = self.rounds.front().filter(|first| first.number <= round);
        first.map(|first| first.bytes)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A holder of the lock only moves values; they are whole even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_pledges(&self) {
        let state = self.state();
        let has = state.carried.zip(state.copies);
        drop(state);
        if let Some((round, copies)) = has {
            self.pledges.keep(round, copies);
        }
    }

    fn fail(&self, state: &mut State, why: String) {
        state.failed.get_or_insert(why);
        state.rounds.clear();
        state.bytes = 0;
        self.work.notify_one();
        self.carried.notify_all();
    }
}

/// What the thread has.
struct Thread {
    shared: Arc<Shared>,
    peer: Arc<dyn Peer>,
    same: Same,
}

impl Thread {
    fn run(&self) {
        let begun = self.start(false).and_then(|start| {
            let member = self.shared.state().copies.is_some();
            match member {
                true => self.catch_up(&start),
                false => self.teach(start),
            }
        });
        if let Err(End::Failed(why)) = begun.and_then(|()| self.carry()) {
            self.shared.fail(&mut self.shared.state(), why);
        }
    }

    /// Brings a member level.
    fn catch_up(&self, start: &Start) -> Result<(), End> {
        loop {
            match self.way(|way| way.level_at_once(&start.engine, &start.ends()))? {
                Level::Done => break,
                Level::Again => self.pause()?,
                Level::TooFar(why) => return Err(End::Failed(why)),
            }
        }
        self.reached(start.round);
        Ok(())
    }

    /// Brings a learner level.
    fn teach(&self, start: Start) -> Result<(), End> {
        let ends = start.ends();
        if let Err(End::Failed(why)) = self.level(&start) {
            tracing::info!(why, "sending a snapshot to who is to follow");
            if !self.way(|way| way.load(&start.engine, &ends))? {
                return Err(End::Failed("the snapshot got lost on its way".to_owned()));
            }
        }
        drop(start);
        // What was written meanwhile.
        let start = self.start(true)?;
        self.level(&start)?;
        self.reached(start.round);
        Ok(())
    }

    fn level(&self, start: &Start) -> Result<(), End> {
        for _ in 0..ATTEMPTS {
            match self.way(|way| way.level(&start.engine, &start.ends()))? {
                Level::Done => return Ok(()),
                Level::Again => self.pause()?,
                Level::TooFar(why) => return Err(End::Failed(why)),
            }
        }
        Err(End::Failed("it cannot be reached".to_owned()))
    }

    /// Carries rounds as they come.
    fn carry(&self) -> Result<(), End> {
        loop {
            let (segments, last) = self.next()?;
            match self.way(|way| way.send(segments))? {
                None => self.pause()?,
                Some(lacking) if lacking.is_empty() => self.reached(last),
                Some(_) => return Err(End::Failed("it lacks what it had".to_owned())),
            }
        }
    }

    /// The oldest rounds, as one, about a chunk of them; they stay until it has them. Waits for one.
    fn next(&self) -> Result<(Vec<pb::Segment>, u64), End> {
        let state = self.shared.state();
        let idle =
            |state: &mut State| state.rounds.is_empty() && !state.ended && state.failed.is_none();
        let waited = self.shared.work.wait_while(state, idle);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.ended || state.failed.is_some() {
            return Err(End::Told);
        }
        let mut all = BTreeMap::new();
        let (mut bytes, mut last) = (0, 0);
        for round in &state.rounds {
            if bytes > 0 && bytes + round.bytes > CHUNK_BYTES {
                break;
            }
            bytes += round.bytes;
            last = round.number;
            for segment in &round.segments {
                let whole = all.entry(segment.shard).or_insert_with(|| pb::Segment {
                    shard: segment.shard,
                    after: segment.after,
                    ..pb::Segment::default()
                });
                whole.entries.extend(segment.entries.iter().cloned());
                whole.committed = segment.committed;
            }
        }
        Ok((all.into_values().collect(), last))
    }

    /// It has everything up to the end of a round.
    fn reached(&self, round: u64) {
        let mut state = self.shared.state();
        while let Some(bytes) = state.first_up_to(round) {
            state.rounds.pop_front();
            state.bytes -= bytes;
        }
        state.carried = Some(round);
        self.shared.carried.notify_all();
        drop(state);
        self.shared.keep_pledges();
    }

    /// Waits for where to begin; asks for it if it was given one before.
    fn start(&self, ask: bool) -> Result<Start, End> {
        let mut state = self.shared.state();
        state.asks = ask;
        loop {
            if state.ended || state.failed.is_some() {
                return Err(End::Told);
            }
            if let Some(start) = state.start.take() {
                return Ok(start);
            }
            let waited = self.shared.work.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn pause(&self) -> Result<(), End> {
        let state = self.shared.state();
        let lasts = |state: &mut State| !state.ended && state.failed.is_none();
        let waited = self.shared.work.wait_timeout_while(state, PAUSE, lasts);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match state.ended || state.failed.is_some() {
            true => Err(End::Told),
            false => Ok(()),
        }
    }

    fn way<T>(&self, go: impl FnOnce(&mut Way<'_>) -> Result<T, Trouble>) -> Result<T, End> {
        let epoch = self.shared.state().epoch;
        let outcome = go(&mut Way {
            peer: &*self.peer,
            same: &self.same,
            epoch,
            ends: &mut || self.shared.state().ended,
        });
        outcome.map_err(|trouble| {
            End::Failed(match trouble {
                Trouble::Over(seen) => {
                    self.shared.state().seen = seen;
                    format!("it heeds epoch {seen}, not {epoch}")
                }
                Trouble::Refused(text) => format!("it refuses: {text}"),
                Trouble::Engine(error) => error.to_string(),
            })
        })
    }
}

impl Start {
    fn ends(&self) -> Vec<LogEnd<'_>> {
        let ends = self.logs.iter().map(|(log, applied)| (log, *applied));
        ends.collect()
    }
}

impl Engine for Frozen {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let (mut found, end) = (None, [key, &[0]].concat());
        let span = Span {
            from: key,
            to: &end,
            backwards: false,
        };
        self.scan(table, span, &mut |_, value| {
            found = Some(Bytes::copy_from_slice(value));
            false
        })?;
        Ok(found)
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError> {
        Err(EngineError::Disk(
            "a snapshot has none of its own".to_owned(),
        ))
    }

    fn write(&self, _: &[&[u8]], _: Durability) -> Result<(), EngineError> {
        Err(EngineError::Disk("a snapshot is not written".to_owned()))
    }

    fn scan(
        &self,
        table: Table,
        span: Span<'_>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        let mut snapshot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        snapshot.scan(table, span, visit)
    }
}
