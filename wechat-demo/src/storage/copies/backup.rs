//! The side of every copy that is not primary: takes entries in order, syncs them, applies what is committed;
//! takes a snapshot in the place of all it had.
//!
//! Calls come one at a time (the caller sees to it); each is answered after its sync.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::super::{
    changes::Changes,
    engine::{Durability, Engine, EngineError, Span, Table},
    log::{Entry, Mark, ShardLog},
    ops::{Refusal, RefusalKind, Stop},
    store::{self, Identity, KEPT_ENTRIES, TRIM_STEP},
    table,
};
use crate::{
    model::{Placement, ShardId},
    planted::{self, Bug},
    proto::storage as pb,
};

/// A copy of a store, or an empty disk that may become one.
pub struct Backup {
    engine: Arc<dyn Engine>,
    /// `None` until a primary has called, and while a snapshot is under way.
    identity: Option<Identity>,
    shards: Vec<Kept>,
    /// Rows may be there although there is no identity: they are removed before others come.
    littered: bool,
    /// The piece of a snapshot that comes next, and the epoch of whoever sends it.
    loading: Option<(u64, u64)>,
    /// Lower epochs are refused, also by an empty disk.
    promise: u64,
    /// The primary's database is this one's as well, and keeps the copies: nothing is written here, every
    /// Append is answered at once, and what keeps a deposed primary from writing is the database's fence.
    stands_in: bool,
}

/// One shard's log, and what of it is in the tables.
struct Kept {
    id: ShardId,
    log: ShardLog,
    applied: u64,
    /// Entries above `applied`, oldest first.
    unapplied: VecDeque<Entry>,
}

impl Backup {
    /// Opens a copy. What damage took from the ends of its logs the primary will send again; a log that is
    /// damaged below what was applied from it cannot be mended that way.
    pub fn open(engine: Arc<dyn Engine>) -> Result<Self, EngineError> {
        behind().clear();
        let found = Identity::load(&*engine)?;
        let promise = found.as_ref().map_or(0, |identity| identity.epoch);
        let littered = found.as_ref().is_some_and(|identity| identity.partial);
        let mut backup = Self {
            engine,
            identity: found.filter(|identity| !identity.partial),
            shards: Vec::new(),
            littered,
            loading: None,
            promise,
            stands_in: false,
        };
        backup.open_logs()?;
        Ok(backup)
    }

    /// Stands in for whoever writes the database of `engine`, and reads it alone.
    pub fn stand_in(engine: Arc<dyn Engine>) -> Result<Self, EngineError> {
        let identity = Identity::load(&*engine)?;
        Ok(Self {
            promise: identity.as_ref().map_or(0, |identity| identity.epoch),
            engine,
            identity,
            shards: Vec::new(),
            littered: false,
            loading: None,
            stands_in: true,
        })
    }

    /// The lowest epoch that is heeded.
    pub fn epoch(&self) -> u64 {
        self.promise
    }

    /// What it is a copy of.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Refuses lower epochs from now on, also after a restart.
    pub fn promise(&mut self, epoch: u64) -> Result<(), EngineError> {
        if self.stands_in {
            self.heed(epoch);
            return Ok(());
        }
        let mut out = Changes::default();
        self.take_epoch(epoch, &mut out);
        if out.is_empty() {
            return Ok(());
        }
        self.engine.write(&[out.as_bytes()], Durability::Synced)
    }

    /// Number of shards, 0 before the first primary.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Entries in the logs since the store began, all shards together; 0 where there are no logs.
    pub fn log_entries(&self) -> u64 {
        let logs = self.shards.iter();
        logs.map(|kept| kept.log.last().offset).sum()
    }

    /// Where the logs end. An empty copy takes the caller's identity.
    pub fn marks(&mut self, request: &pb::MarksRequest) -> Result<pb::MarksReply, Stop> {
        if request.epoch < self.promise {
            return Ok(pb::MarksReply {
                epoch: self.promise,
                ..Default::default()
            });
        }
        if self.stands_in {
            return self.shared_marks(request);
        }
        if self.identity.is_none() {
            let identity = self.asked_to_be(&request.store_id, request.shards)?;
            self.clear()?;
            identity.store(&*self.engine)?;
            self.identity = Some(identity);
            self.open_logs()?;
        }
        self.check(&request.store_id, request.shards as usize)?;
        let marks = self.shards.iter().map(Kept::mark).collect();
        Ok(pb::MarksReply {
            store_id: request.store_id.clone(),
            epoch: self.epoch(),
            marks,
        })
    }

    /// Entries of one log from an offset on.
    pub fn read_log(&self, request: &pb::ReadLogRequest) -> Result<pb::ReadLogReply, Stop> {
        if self.stands_in {
            return Ok(pb::ReadLogReply::default());
        }
        let kept = self
            .shards
            .get(request.shard as usize)
            .ok_or_else(no_shard)?;
        if request.from <= kept.log.base().offset {
            let text = format!(
                "the log of {} begins after entry {}",
                kept.id,
                kept.log.base().offset
            );
            return Err(Refusal::new(RefusalKind::FailedPrecondition, text).into());
        }
        let entries = kept
            .log
            .read(&*self.engine, request.from, request.max_bytes as usize)?;
        Ok(pb::ReadLogReply {
            entries: entries.iter().map(Entry::to_proto).collect(),
        })
    }

    /// Takes entries, all or none, and syncs them.
    pub fn append(&mut self, request: &pb::AppendRequest) -> Result<pb::AppendReply, Stop> {
        if request.epoch < self.promise || self.stands_in {
            self.heed(request.epoch);
            return Ok(self.answered());
        }
        if !planted::is_on(Bug::LaggingCopyPromoted) {
            return self.take(request);
        }
        let due = {
            let mut behind = behind();
            behind.push_back(request.clone());
            (behind.len() > LAG).then(|| behind.pop_front()).flatten()
        };
        match due {
            Some(due) => self.take(&due),
            None => Ok(self.answered()),
        }
    }

    /// What is said where nothing is lacking.
    fn answered(&self) -> pb::AppendReply {
        pb::AppendReply {
            epoch: self.promise,
            lacking: Vec::new(),
        }
    }

    fn take(&mut self, request: &pb::AppendRequest) -> Result<pb::AppendReply, Stop> {
        self.check(&request.store_id, self.shards.len())?;
        // All is checked before anything changes: what memory says and what is synced stay the same.
        let mut lacking = Vec::new();
        let mut checked = Vec::with_capacity(request.segments.len());
        for segment in &request.segments {
            let kept = self
                .shards
                .get(segment.shard as usize)
                .ok_or_else(no_shard)?;
            match kept.check(&*self.engine, segment)? {
                Some(entries) => checked.push((segment, entries)),
                None => lacking.push(kept.mark()),
            }
        }
        if !lacking.is_empty() {
            return Ok(pb::AppendReply {
                epoch: self.epoch(),
                lacking,
            });
        }
        let mut out = Changes::default();
        self.take_epoch(request.epoch, &mut out);
        let mut applied = Vec::new();
        for (segment, (after, entries)) in checked {
            let kept = &mut self.shards[segment.shard as usize];
            let end = entries
                .last()
                .map_or(after.offset, |entry| entry.mark.offset);
            kept.take(&*self.engine, after, entries, &mut out)?;
            kept.apply(segment.committed.min(end), &mut out, &mut applied);
            kept.trim(&*self.engine, &mut out)?;
        }
        if !out.is_empty() {
            let mut parts: Vec<&[u8]> = vec![out.as_bytes()];
            parts.extend(applied.iter().map(|entry| &entry.changes[..]));
            self.engine.write(&parts, Durability::Synced)?;
        }
        Ok(pb::AppendReply {
            epoch: self.epoch(),
            lacking,
        })
    }

    /// Takes a piece of a snapshot. From the first piece to the last there is nothing here to rely on. The
    /// caller knows that this copy is no member of the view.
    pub fn load(&mut self, request: &pb::LoadRequest) -> Result<pb::LoadReply, Stop> {
        if request.epoch < self.promise {
            return Ok(pb::LoadReply {
                epoch: self.promise,
            });
        }
        if self.stands_in {
            let text =
                "this process stands in for the primary over one database; nothing is copied to it";
            return Err(Refusal::new(RefusalKind::FailedPrecondition, text).into());
        }
        if let Some(identity) = &self.identity
            && identity.id != request.store_id
        {
            return Err(foreign());
        }
        let mut identity = self.asked_to_be(&request.store_id, request.shards)?;
        identity.epoch = request.epoch;
        if request.n == 0 {
            identity.partial = true;
            identity.store(&*self.engine)?;
            self.identity = None;
            self.shards.clear();
            self.littered = true;
            self.promise = request.epoch;
            self.clear()?;
            self.loading = Some((request.epoch, 0));
        }
        if self.loading != Some((request.epoch, request.n)) {
            let text = "this piece of a snapshot does not follow the one before; begin again";
            return Err(Refusal::new(RefusalKind::Unavailable, text).into());
        }
        self.loading = Some((request.epoch, request.n + 1));
        let mut out = Changes::default();
        if request.last {
            self.loading = None;
            for (id, mark) in identity.place.all().zip(&request.bases) {
                ShardLog::begin_after(id, Mark::from(mark), &mut out);
                out.put(Table::Meta, &table::applied(id), &mark.offset.to_be_bytes());
            }
            identity.partial = false;
            identity.put(&mut out);
        }
        let durability = if request.last {
            Durability::Synced
        } else {
            Durability::Buffered
        };
        self.engine
            .write(&[&request.changes[..], out.as_bytes()], durability)?;
        if request.last {
            self.littered = false;
            self.identity = Some(identity);
            self.open_logs()?;
        }
        Ok(pb::LoadReply {
            epoch: self.promise,
        })
    }

    fn asked_to_be(&self, store_id: &bytes::Bytes, shards: u32) -> Result<Identity, Stop> {
        let place = Placement::new(shards)
            .map_err(|error| Refusal::new(RefusalKind::InvalidArgument, error.to_string()))?;
        Ok(Identity {
            epoch: self.promise,
            ..Identity::of_copy(store_id.clone(), place)
        })
    }

    /// Removes every row but those that say what this disk is.
    fn clear(&mut self) -> Result<(), EngineError> {
        if !self.littered {
            return Ok(());
        }
        for table in Table::ALL {
            loop {
                let (out, more) = removals(&*self.engine, table)?;
                if !out.is_empty() {
                    self.engine.write(&[out.as_bytes()], Durability::Buffered)?;
                }
                if !more {
                    break;
                }
            }
        }
        self.littered = false;
        Ok(())
    }

    fn open_logs(&mut self) -> Result<(), EngineError> {
        let Some(identity) = &self.identity else {
            return Ok(());
        };
        self.shards.clear();
        for id in identity.place.all() {
            let (mut log, damage) = ShardLog::open(&*self.engine, id)?;
            let applied = store::applied(&*self.engine, id)?;
            if log.last().offset < applied {
                let text = format!("log of {id}, entry {}", log.last().offset + 1);
                return Err(EngineError::Damaged(text));
            }
            if let Some(damage) = damage {
                tracing::warn!(
                    shard = id.0,
                    from = damage.from,
                    "log is damaged; this copy leaves its view and will be brought level again"
                );
                let mut out = Changes::default();
                log.cut(log.last(), damage.seen, &mut out);
                // What lacks something is not the member it was: it must not take over.
                out.put(Table::Meta, &table::disk(), &store::new_disk());
                self.engine.write(&[out.as_bytes()], Durability::Synced)?;
            }
            let unapplied = log.read(&*self.engine, applied + 1, usize::MAX)?.into();
            self.shards.push(Kept {
                id,
                log,
                applied,
                unapplied,
            });
        }
        Ok(())
    }

    fn check(&self, store_id: &[u8], shards: usize) -> Result<(), Stop> {
        let Some(identity) = &self.identity else {
            let text = "this backup is empty and has not been asked for its marks yet";
            return Err(Refusal::new(RefusalKind::FailedPrecondition, text).into());
        };
        if identity.id != store_id || identity.place.shards() != shards {
            return Err(foreign());
        }
        Ok(())
    }

    fn heed(&mut self, epoch: u64) {
        self.promise = self.promise.max(epoch);
    }

    /// Where the logs of the database end: nothing that the primary has synced is ever lacking.
    fn shared_marks(&mut self, request: &pb::MarksRequest) -> Result<pb::MarksReply, Stop> {
        self.heed(request.epoch);
        let place = Placement::new(request.shards)
            .map_err(|error| Refusal::new(RefusalKind::InvalidArgument, error.to_string()))?;
        let mut marks = Vec::with_capacity(place.shards());
        for id in place.all() {
            let (log, _) = ShardLog::open(&*self.engine, id)?;
            marks.push(log.last().to_proto(id));
        }
        Ok(pb::MarksReply {
            store_id: request.store_id.clone(),
            epoch: self.promise,
            marks,
        })
    }

    fn take_epoch(&mut self, epoch: u64, out: &mut Changes) {
        self.promise = self.promise.max(epoch);
        if let Some(identity) = &mut self.identity
            && epoch > identity.epoch
        {
            identity.epoch = epoch;
            identity.put(out);
        }
    }
}

impl Kept {
    fn mark(&self) -> pb::Mark {
        pb::Mark {
            first: self.log.base().offset + 1,
            applied: self.applied,
            ..self.log.last().to_proto(self.id)
        }
    }

    /// The entries of a segment if its beginning is in our log; `None` if it is not.
    fn check(
        &self,
        engine: &dyn Engine,
        segment: &pb::Segment,
    ) -> Result<Option<(Mark, Vec<Entry>)>, Stop> {
        let begin = segment.after.as_ref().map(Mark::from).unwrap_or_default();
        if self.log.mark_at(engine, begin.offset)? != Some(begin) {
            return Ok(None);
        }
        let mut after = begin;
        let mut entries = Vec::with_capacity(segment.entries.len());
        for entry in &segment.entries {
            let Some(entry) = Entry::following(after, entry.clone()) else {
                let text = format!(
                    "an entry of {} after {} was damaged on its way",
                    self.id, after.offset
                );
                return Err(Refusal::new(RefusalKind::Unavailable, text).into());
            };
            if entry.mark.offset <= self.applied
                && self.log.mark_at(engine, entry.mark.offset)? != Some(entry.mark)
            {
                return Err(self.grown_apart(entry.mark.offset).into());
            }
            after = entry.mark;
            entries.push(entry);
        }
        Ok(Some((begin, entries)))
    }

    /// Adds entries that follow `after`, but for those that are there. What is there and does not follow
    /// is cut; never what was applied (C-4, checked before).
    fn take(
        &mut self,
        engine: &dyn Engine,
        mut after: Mark,
        entries: Vec<Entry>,
        out: &mut Changes,
    ) -> Result<(), EngineError> {
        for entry in entries {
            // From the first new entry on, `after` is the end of the log.
            if after != self.log.last() {
                if self.log.mark_at(engine, entry.mark.offset)? == Some(entry.mark) {
                    after = entry.mark;
                    continue;
                }
                self.log.cut(after, 0, out);
                self.unapplied
                    .retain(|kept| kept.mark.offset <= after.offset);
            }
            self.log.push(&entry, out);
            after = entry.mark;
            self.unapplied.push_back(entry);
        }
        Ok(())
    }

    fn grown_apart(&self, offset: u64) -> Refusal {
        let text = format!(
            "the primary's log of {} differs from ours at entry {offset}, which is applied here: the \
             copies have grown apart; stop both and copy the primary's data directory here",
            self.id
        );
        Refusal::new(RefusalKind::FailedPrecondition, text)
    }

    fn apply(&mut self, committed: u64, out: &mut Changes, applied: &mut Vec<Entry>) {
        let before = self.applied;
        while self
            .unapplied
            .front()
            .is_some_and(|entry| entry.mark.offset <= committed)
        {
            let entry = self.unapplied.pop_front().expect("the queue has a front");
            self.applied = entry.mark.offset;
            applied.push(entry);
        }
        if self.applied != before {
            out.put(
                Table::Meta,
                &table::applied(self.id),
                &self.applied.to_be_bytes(),
            );
        }
    }

    fn trim(&mut self, engine: &dyn Engine, out: &mut Changes) -> Result<(), EngineError> {
        let keep_from = self.applied.saturating_sub(KEPT_ENTRIES);
        if keep_from >= self.log.base().offset + TRIM_STEP {
            self.log.trim(engine, keep_from, out)?;
        }
        Ok(())
    }
}

/// Appends that [`Bug::LaggingCopyPromoted`] keeps to itself.
const LAG: usize = 30;

/// Appends that were answered and are not written; empty but for [`Bug::LaggingCopyPromoted`].
fn behind() -> MutexGuard<'static, VecDeque<pb::AppendRequest>> {
    static BEHIND: Mutex<VecDeque<pb::AppendRequest>> = Mutex::new(VecDeque::new());
    BEHIND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows removed in one batch.
const REMOVED_AT_ONCE: usize = 4096;

/// Removes the first rows of a table; whether there are more.
fn removals(engine: &dyn Engine, table: Table) -> Result<(Changes, bool), EngineError> {
    const END: [u8; table::Key::MAX + 1] = [0xff; table::Key::MAX + 1];
    let (mut out, mut count) = (Changes::default(), 0);
    let span = Span {
        from: &[],
        to: &END,
        backwards: false,
    };
    engine.scan(table, span, &mut |key, _| {
        if table != Table::Meta || !table::is_disks_own(key) {
            out.remove(table, key);
            count += 1;
        }
        count < REMOVED_AT_ONCE
    })?;
    Ok((out, count >= REMOVED_AT_ONCE))
}

fn foreign() -> Stop {
    let text = "this process has a copy of another store; give it a directory of its own";
    Refusal::new(RefusalKind::FailedPrecondition, text).into()
}

fn no_shard() -> Stop {
    Refusal::new(RefusalKind::InvalidArgument, "there is no such shard here").into()
}
