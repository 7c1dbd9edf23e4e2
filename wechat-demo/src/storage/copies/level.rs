//! How one copy is brought level with the primary's logs.
//!
//! Knows: marks, what a copy lacks, snapshots.   Does not know: views, who waits for it.

use super::{
    super::{
        changes::Changes,
        engine::{Engine, EngineError, Span, Table},
        log::{Entry, Mark, ShardLog},
        table,
    },
    CHUNK_BYTES, LogEnd, Peer, PeerError, Same,
};
use crate::{model::ShardId, proto::storage as pb};

/// Bytes of rows in one piece of a snapshot, about.
const PIECE_BYTES: usize = 1 << 20;
/// Entries by which a shard's log of the other copy may differ from ours, where all is sent at once.
const STEPS_BACK: usize = 16;

/// The way to a copy, in one epoch.
pub(super) struct Way<'a> {
    pub peer: &'a dyn Peer,
    pub same: &'a Same,
    pub epoch: u64,
    /// Whether it is of no use any more; looked at before each piece of a snapshot.
    pub ends: &'a mut dyn FnMut() -> bool,
}

/// What came of bringing a copy level.
pub(super) enum Level {
    Done,
    /// It was out of reach, or lacked something after all.
    Again,
    /// Its log and ours have no place in common any more.
    TooFar(String),
}

/// What ends the attempt.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The copy has seen or promised a higher epoch.
    Over(u64),
    /// It will answer the same again.
    Refused(String),
    /// The own disk.
    Engine(EngineError),
}

impl From<EngineError> for Trouble {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl Way<'_> {
    /// Sends the copy all that it lacks of `logs`. Also tells it the epoch.
    pub fn level(&mut self, engine: &dyn Engine, logs: &[LogEnd<'_>]) -> Result<Level, Trouble> {
        let Some(reply) = self.marks()? else {
            return Ok(Level::Again);
        };
        // Even an empty Append carries the epoch.
        if self
            .send(Vec::new())?
            .is_none_or(|lacking| !lacking.is_empty())
        {
            return Ok(Level::Again);
        }
        for (index, (log, committed)) in logs.iter().enumerate() {
            let shard = ShardId(index as u8);
            let theirs = reply.marks.get(index).copied().unwrap_or_default();
            let Some(mut after) = meet(engine, log, &theirs)? else {
                return Ok(Level::TooFar(too_far(shard, theirs.offset, log)));
            };
            while after != log.last() {
                let segment = segment(engine, shard, log, after, *committed)?;
                let last = segment.entries.last().map(|entry| entry.offset);
                match self.send(vec![segment])? {
                    None => return Ok(Level::Again),
                    Some(lacking) if lacking.is_empty() => {
                        let offset = last.unwrap_or(after.offset);
                        after = known(log.mark_at(engine, offset)?, shard, offset)?;
                    }
                    Some(_) if after.offset <= log.base().offset => {
                        return Ok(Level::TooFar(too_far(shard, after.offset, log)));
                    }
                    Some(_) => {
                        let before = after.offset - 1;
                        after = known(log.mark_at(engine, before)?, shard, before)?;
                    }
                }
            }
        }
        Ok(Level::Done)
    }

    /// Sends it all that it lacks in one Append: it has all of it or nothing. What is too much for one is too far.
    pub fn level_at_once(
        &mut self,
        engine: &dyn Engine,
        logs: &[LogEnd<'_>],
    ) -> Result<Level, Trouble> {
        let Some(reply) = self.marks()? else {
            return Ok(Level::Again);
        };
        let mut begins = Vec::with_capacity(logs.len());
        for (index, (log, _)) in logs.iter().enumerate() {
            let theirs = reply.marks.get(index).copied().unwrap_or_default();
            match meet(engine, log, &theirs)? {
                Some(begin) => begins.push(begin),
                None => {
                    return Ok(Level::TooFar(too_far(
                        ShardId(index as u8),
                        theirs.offset,
                        log,
                    )));
                }
            }
        }
        for _ in 0..STEPS_BACK {
            let Some(segments) = whole(engine, logs, &begins)? else {
                let text = "the copy lacks more than can be sent at once".to_owned();
                return Ok(Level::TooFar(text));
            };
            let Some(lacking) = self.send(segments)? else {
                return Ok(Level::Again);
            };
            if lacking.is_empty() {
                return Ok(Level::Done);
            }
            for mark in lacking {
                let index = mark.shard as usize;
                let (Some((log, _)), Some(begin)) = (logs.get(index), begins.get_mut(index)) else {
                    return Err(Trouble::Refused(format!("it speaks of shard {index}")));
                };
                let shard = ShardId(index as u8);
                if begin.offset <= log.base().offset {
                    return Ok(Level::TooFar(too_far(shard, begin.offset, log)));
                }
                let before = begin.offset - 1;
                *begin = known(log.mark_at(engine, before)?, shard, before)?;
            }
        }
        Ok(Level::TooFar(
            "the copy's logs are others than ours".to_owned(),
        ))
    }

    /// Sends a learner all rows as they are; its logs begin where ours are applied. `false` = it got lost on
    /// the way. Nobody writes `engine` meanwhile, so the rows stand still.
    pub fn load(&mut self, engine: &dyn Engine, logs: &[LogEnd<'_>]) -> Result<bool, Trouble> {
        let mut request = pb::LoadRequest {
            store_id: self.same.store_id.clone(),
            epoch: self.epoch,
            shards: self.same.shards,
            ..Default::default()
        };
        for table in [Table::Timeline, Table::Rows, Table::Tasks] {
            let mut from = Vec::new();
            loop {
                let (piece, next) = piece(engine, table, &from)?;
                request.changes = piece.into_bytes().into();
                if !self.send_piece(&mut request)? {
                    return Ok(false);
                }
                match next {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
        for (index, &(log, applied)) in logs.iter().enumerate() {
            let shard = ShardId(index as u8);
            let mark = known(log.mark_at(engine, applied)?, shard, applied)?;
            request.bases.push(mark.to_proto(shard));
        }
        request.last = true;
        request.changes.clear();
        self.send_piece(&mut request)
    }

    fn send_piece(&mut self, request: &mut pb::LoadRequest) -> Result<bool, Trouble> {
        if (self.ends)() {
            return Ok(false);
        }
        match self.peer.load(request.clone()) {
            Ok(reply) => {
                self.heed(reply.epoch)?;
                request.n += 1;
                Ok(true)
            }
            Err(PeerError::Unreachable(_)) => Ok(false),
            Err(PeerError::Refused(text)) => Err(Trouble::Refused(text)),
        }
    }

    /// Where its logs end; `None` = it is out of reach.
    fn marks(&mut self) -> Result<Option<pb::MarksReply>, Trouble> {
        match self.peer.marks(marks_request(self.same, self.epoch)) {
            Ok(reply) => {
                self.heed(reply.epoch)?;
                check_marks(self.same, &reply).map_err(Trouble::Refused)?;
                Ok(Some(reply))
            }
            Err(PeerError::Unreachable(_)) => Ok(None),
            Err(PeerError::Refused(text)) => Err(Trouble::Refused(text)),
        }
    }

    /// One Append; `None` if it has to be tried again, from the marks on.
    pub fn send(&mut self, segments: Vec<pb::Segment>) -> Result<Option<Vec<pb::Mark>>, Trouble> {
        match self
            .peer
            .append(append_request(self.same, self.epoch, segments))
        {
            Ok(reply) => {
                self.heed(reply.epoch)?;
                Ok(Some(reply.lacking))
            }
            Err(PeerError::Unreachable(_)) => Ok(None),
            Err(PeerError::Refused(text)) => Err(Trouble::Refused(text)),
        }
    }

    fn heed(&self, theirs: u64) -> Result<(), Trouble> {
        match theirs <= self.epoch {
            true => Ok(()),
            false => Err(Trouble::Over(theirs)),
        }
    }
}

pub(super) fn marks_request(same: &Same, epoch: u64) -> pb::MarksRequest {
    pb::MarksRequest {
        store_id: same.store_id.clone(),
        shards: same.shards,
        epoch,
        ..pb::MarksRequest::default()
    }
}

pub(super) fn append_request(
    same: &Same,
    epoch: u64,
    segments: Vec<pb::Segment>,
) -> pb::AppendRequest {
    pb::AppendRequest {
        store_id: same.store_id.clone(),
        epoch,
        segments,
        ..pb::AppendRequest::default()
    }
}

/// Whether a copy has the shards that it should.
pub(super) fn check_marks(same: &Same, reply: &pb::MarksReply) -> Result<(), String> {
    let (theirs, ours) = (reply.marks.len(), same.shards as usize);
    match theirs == ours {
        true => Ok(()),
        false => Err(format!("it has {theirs} shards, not {ours}")),
    }
}

/// All entries after `begins`; `None` if they are too many for one Append.
fn whole(
    engine: &dyn Engine,
    logs: &[LogEnd<'_>],
    begins: &[Mark],
) -> Result<Option<Vec<pb::Segment>>, EngineError> {
    let (mut segments, mut bytes) = (Vec::new(), 0);
    for (index, (&(log, committed), &begin)) in logs.iter().zip(begins).enumerate() {
        let segment = segment(engine, ShardId(index as u8), log, begin, committed)?;
        let sizes = segment.entries.iter().map(|entry| entry.changes.len());
        bytes += sizes.sum::<usize>();
        let end = segment
            .entries
            .last()
            .map_or(begin.offset, |entry| entry.offset);
        if bytes > CHUNK_BYTES || end != log.last().offset {
            return Ok(None);
        }
        segments.push(segment);
    }
    Ok(Some(segments))
}

/// Rows of a table from `from` on, and where the next piece begins.
fn piece(
    engine: &dyn Engine,
    table: Table,
    from: &[u8],
) -> Result<(Changes, Option<Vec<u8>>), EngineError> {
    const END: [u8; table::Key::MAX + 1] = [0xff; table::Key::MAX + 1];
    let (mut piece, mut next) = (Changes::default(), None);
    let span = Span {
        from,
        to: &END,
        backwards: false,
    };
    engine.scan(table, span, &mut |key, value| {
        if piece.len() >= PIECE_BYTES {
            next = Some(key.to_vec());
            return false;
        }
        piece.put(table, key, value);
        true
    })?;
    Ok((piece, next))
}

/// Where a copy's log, which ends at `theirs`, and ours may still agree.
fn meet(
    engine: &dyn Engine,
    log: &ShardLog,
    theirs: &pb::Mark,
) -> Result<Option<Mark>, EngineError> {
    if theirs.applied > log.last().offset {
        // The end of what it was primary for, lost when a follower took over.
        return Ok(None);
    }
    let theirs = Mark::from(theirs);
    let offset = theirs.offset.min(log.last().offset);
    match log.mark_at(engine, offset)? {
        // Theirs ends in something we do not have: try one before; the backup cuts what does not follow.
        Some(mark) if mark != theirs && offset > log.base().offset => {
            log.mark_at(engine, offset - 1)
        }
        Some(mark) if mark == theirs || offset == 0 => Ok(Some(mark)),
        _ => Ok(None),
    }
}

fn segment(
    engine: &dyn Engine,
    shard: ShardId,
    log: &ShardLog,
    after: Mark,
    committed: u64,
) -> Result<pb::Segment, EngineError> {
    let entries = log.read(engine, after.offset + 1, CHUNK_BYTES)?;
    Ok(pb::Segment {
        shard: u32::from(shard.0),
        after: Some(after.to_proto(shard)),
        entries: entries.iter().map(Entry::to_proto).collect(),
        committed,
    })
}

fn known(mark: Option<Mark>, shard: ShardId, offset: u64) -> Result<Mark, Trouble> {
    mark.ok_or_else(|| Trouble::Refused(format!("the log of {shard} lacks entry {offset}")))
}

fn too_far(shard: ShardId, theirs: u64, log: &ShardLog) -> String {
    format!(
        "the copy's log of {shard} ends at {theirs} and ours begins after {}",
        log.base().offset
    )
}
