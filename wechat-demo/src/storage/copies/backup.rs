//! The backup's side: takes entries in order, syncs them, applies what is committed.
//!
//! Calls come one at a time (the caller sees to it); each is answered after its sync.

use std::{collections::VecDeque, sync::Arc};

use super::super::{
    changes::Changes,
    engine::{Durability, Engine, EngineError, Table},
    log::{Entry, Mark, ShardLog},
    ops::{Refusal, RefusalKind, Stop},
    store::{self, Identity, KEPT_ENTRIES, TRIM_STEP},
    table,
};
use crate::{
    model::{Placement, ShardId},
    proto::storage as pb,
};

/// The second copy of a store.
pub struct Backup {
    engine: Arc<dyn Engine>,
    /// `None` until a primary has called.
    identity: Option<Identity>,
    shards: Vec<Kept>,
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
        let identity = Identity::load(&*engine)?;
        let mut backup = Self {
            engine,
            identity,
            shards: Vec::new(),
        };
        backup.load()?;
        Ok(backup)
    }

    /// Highest epoch seen, 0 before the first primary.
    pub fn epoch(&self) -> u64 {
        self.identity.as_ref().map_or(0, |identity| identity.epoch)
    }

    /// Number of shards, 0 before the first primary.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Where the logs end. An empty copy takes the caller's identity.
    pub fn marks(&mut self, request: &pb::MarksRequest) -> Result<pb::MarksReply, Stop> {
        if self.identity.is_none() {
            let place = Placement::new(request.shards)
                .map_err(|error| Refusal::new(RefusalKind::InvalidArgument, error.to_string()))?;
            let identity = Identity::of_copy(request.store_id.clone(), place);
            identity.store(&*self.engine)?;
            self.identity = Some(identity);
            self.load()?;
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
        self.check(&request.store_id, self.shards.len())?;
        if request.epoch < self.epoch() {
            let text = format!(
                "epoch {} is over, the store is at {}",
                request.epoch,
                self.epoch()
            );
            return Err(Refusal::new(RefusalKind::FailedPrecondition, text).into());
        }
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

    fn load(&mut self) -> Result<(), EngineError> {
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
                    "log is damaged; the primary will send it again"
                );
                let mut out = Changes::default();
                log.cut(log.last(), damage.seen, &mut out);
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
            let text = "this backup belongs to another primary's store: if the primary has lost its \
                        directory, copy the backup's there; else give each pair its own";
            return Err(Refusal::new(RefusalKind::FailedPrecondition, text).into());
        }
        Ok(())
    }

    fn take_epoch(&mut self, epoch: u64, out: &mut Changes) {
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

fn no_shard() -> Stop {
    Refusal::new(RefusalKind::InvalidArgument, "there is no such shard here").into()
}
