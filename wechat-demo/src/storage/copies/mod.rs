//! The two copies of a store: the primary's side. [`backup`] is the other.
//!
//! Knows: epochs, marks, what the other copy lacks.   Does not know: what entries say, how calls travel.
//!
//! ```text
//!   primary                                   backup
//!   round: entries ──── Append ─────────────▶ writes, syncs
//!          sync own log (meanwhile)            │
//!          committed ◀── reply ────────────────┘
//! ```
//! Whenever an Append has no answer the primary asks for the backup's marks and sends what is lacking from
//! its own log, until the two are level: then everything in the log is held twice, the open round too.
//!
//! Invariants
//! - C-1  Committed = synced by both. The backup applies only what it was told is committed.
//! - C-2  Every start of a primary takes a higher epoch than either copy has seen, and tells the backup
//!   before it sends an entry under it. A backup refuses lower ones.
//! - C-3  A starting primary first takes from the backup what its own log lacks; it serves nobody before.
//! - C-4  What either copy has applied is never cut.

use std::sync::{
    Arc,
    mpsc::{Receiver, Sender, channel},
};

use super::{
    engine::{Engine, EngineError},
    log::{Mark, ShardLog},
};
use crate::{model::ShardId, proto::storage as pb};

pub mod backup;
#[cfg(test)]
mod tests;

/// Bytes of entries in one Append or ReadLog, about.
pub const CHUNK_BYTES: usize = 4 << 20;

/// The other copy, as the primary reaches it.
pub trait Peer: Send + Sync + 'static {
    /// `Replica.Marks`.
    fn marks(&self, request: pb::MarksRequest) -> Result<pb::MarksReply, PeerError>;
    /// `Replica.ReadLog`.
    fn read_log(&self, request: pb::ReadLogRequest) -> Result<pb::ReadLogReply, PeerError>;
    /// `Replica.Append`.
    fn append(&self, request: pb::AppendRequest) -> Result<pb::AppendReply, PeerError>;
}

/// Why the other copy did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerError {
    /// It may come back: try again.
    #[error("the other copy cannot be reached: {0}")]
    Unreachable(String),
    /// It will answer the same again: give up.
    #[error("the other copy refuses: {0}")]
    Refused(String),
}

/// Why a store cannot go on. The process ends with it.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The disk or the database.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The two copies do not belong together.
    #[error("{0}")]
    Copies(String),
    /// The process was told to end while it waited for the other copy.
    #[error("stopped while waiting for the other copy")]
    Stopped,
}

/// The primary's hold on its backup.
pub struct Copies {
    peer: Arc<dyn Peer>,
    store_id: bytes::Bytes,
    travel: Travel,
    /// Called between two attempts to reach the other copy; an error ends the waiting.
    pause: Pause,
}

/// Waits a little before the next attempt.
pub type Pause = Box<dyn FnMut() -> Result<(), Fatal> + Send>;

/// How Appends travel while the round syncs its own log.
enum Travel {
    /// Meanwhile, on a thread of its own.
    Meanwhile(Carrier),
    /// Before it, on the round's thread; this is what came of it.
    Before(Option<Outcome>),
    /// After it, on the round's thread; this is what is to go.
    After(Option<pb::AppendRequest>),
}

type Outcome = Result<pb::AppendReply, PeerError>;

/// A thread that makes the calls.
struct Carrier {
    requests: Sender<pb::AppendRequest>,
    replies: Receiver<Outcome>,
}

impl Copies {
    /// Over `peer`; Appends travel while the round syncs.
    pub fn new(peer: Arc<dyn Peer>, store_id: bytes::Bytes, pause: Pause) -> Self {
        let travel = Travel::Meanwhile(Carrier::start(Arc::clone(&peer)));
        Self {
            peer,
            store_id,
            travel,
            pause,
        }
    }

    /// Over `peer`; Appends travel before or after the round's own sync, on the same thread. For models,
    /// where nothing may happen by chance.
    pub fn in_turn(
        peer: Arc<dyn Peer>,
        store_id: bytes::Bytes,
        pause: Pause,
        before: bool,
    ) -> Self {
        let travel = if before {
            Travel::Before(None)
        } else {
            Travel::After(None)
        };
        Self {
            peer,
            store_id,
            travel,
            pause,
        }
    }

    /// Asks for the backup's marks until it answers.
    pub fn marks(&mut self, shards: usize, epoch: u64) -> Result<pb::MarksReply, Fatal> {
        loop {
            let request = pb::MarksRequest {
                store_id: self.store_id.clone(),
                shards: shards as u32,
                epoch,
            };
            match self.peer.marks(request) {
                Ok(reply) if reply.marks.len() == shards => return Ok(reply),
                Ok(reply) => {
                    let text = format!("it has {} shards, not {shards}", reply.marks.len());
                    return Err(refused(text));
                }
                Err(PeerError::Unreachable(_)) => (self.pause)()?,
                Err(PeerError::Refused(text)) => return Err(refused(text)),
            }
        }
    }

    /// Entries of the backup's log from `from` on.
    pub fn read_log(&mut self, shard: ShardId, from: u64) -> Result<Vec<pb::Entry>, Fatal> {
        let request = pb::ReadLogRequest {
            shard: u32::from(shard.0),
            from,
            max_bytes: CHUNK_BYTES as u32,
        };
        loop {
            match self.peer.read_log(request) {
                Ok(reply) => return Ok(reply.entries),
                Err(PeerError::Unreachable(_)) => (self.pause)()?,
                Err(PeerError::Refused(text)) => return Err(refused(text)),
            }
        }
    }

    /// Sends a round's segments on their way.
    pub fn begin(&mut self, epoch: u64, segments: Vec<pb::Segment>) {
        let request = pb::AppendRequest {
            store_id: self.store_id.clone(),
            epoch,
            segments,
        };
        match &mut self.travel {
            // A carrier that has ended shows when its reply is asked for.
            Travel::Meanwhile(carrier) => drop(carrier.requests.send(request)),
            Travel::Before(outcome) => *outcome = Some(self.peer.append(request)),
            Travel::After(waiting) => *waiting = Some(request),
        }
    }

    /// Waits until the backup holds what was begun, or until it is level with `logs`, which must hold
    /// it too, synced.
    pub fn finish(
        &mut self,
        engine: &dyn Engine,
        epoch: u64,
        logs: &[(&ShardLog, u64)],
    ) -> Result<(), Fatal> {
        let outcome = match &mut self.travel {
            Travel::Meanwhile(carrier) => carrier.replies.recv().unwrap_or_else(|_| {
                Err(PeerError::Unreachable(
                    "the carrier thread has ended".to_owned(),
                ))
            }),
            Travel::Before(outcome) => outcome.take().expect("finish follows begin"),
            Travel::After(waiting) => self
                .peer
                .append(waiting.take().expect("finish follows begin")),
        };
        match outcome {
            Ok(reply) if reply.lacking.is_empty() => Ok(()),
            Err(PeerError::Refused(text)) => Err(refused(text)),
            Ok(_) | Err(PeerError::Unreachable(_)) => self.level(engine, epoch, logs),
        }
    }

    /// Sends the backup all that it lacks of `logs` (each with its committed offset), waiting for it as
    /// long as need be. Also tells it the epoch.
    pub fn level(
        &mut self,
        engine: &dyn Engine,
        epoch: u64,
        logs: &[(&ShardLog, u64)],
    ) -> Result<(), Fatal> {
        'again: loop {
            let reply = self.marks(logs.len(), epoch)?;
            // Even an empty Append carries the epoch.
            if !self
                .send(epoch, Vec::new())?
                .is_some_and(|lacking| lacking.is_empty())
            {
                continue;
            }
            for (index, (log, committed)) in logs.iter().enumerate() {
                let shard = ShardId(index as u8);
                let theirs = reply.marks.get(index).map(Mark::from).unwrap_or_default();
                let mut after = meet(engine, shard, log, theirs)?;
                while after != log.last() {
                    let segment = segment(engine, shard, log, after, *committed)?;
                    let last = segment.entries.last().map(|entry| entry.offset);
                    match self.send(epoch, vec![segment])? {
                        None => continue 'again,
                        Some(lacking) if lacking.is_empty() => {
                            let offset = last.unwrap_or(after.offset);
                            after = known(log.mark_at(engine, offset)?, shard, offset)?;
                        }
                        Some(_) => after = step_back(engine, shard, log, after)?,
                    }
                }
            }
            return Ok(());
        }
    }

    /// One Append; `None` if it has to be tried again from the marks on.
    fn send(
        &mut self,
        epoch: u64,
        segments: Vec<pb::Segment>,
    ) -> Result<Option<Vec<pb::Mark>>, Fatal> {
        let request = pb::AppendRequest {
            store_id: self.store_id.clone(),
            epoch,
            segments,
        };
        match self.peer.append(request) {
            Ok(reply) => Ok(Some(reply.lacking)),
            Err(PeerError::Unreachable(_)) => {
                (self.pause)()?;
                Ok(None)
            }
            Err(PeerError::Refused(text)) => Err(refused(text)),
        }
    }
}

impl Carrier {
    fn start(peer: Arc<dyn Peer>) -> Self {
        let (requests, inbox) = channel::<pb::AppendRequest>();
        let (outbox, replies) = channel();
        // One request is under way at a time: the committer waits for each reply.
        let carry = move || {
            while let Ok(request) = inbox.recv() {
                if outbox.send(peer.append(request)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("copies".to_owned())
            .spawn(carry)
            .expect("a process that starts can start a thread");
        Self { requests, replies }
    }
}

/// Where the backup's log, which ends at `theirs`, and ours may still agree.
fn meet(engine: &dyn Engine, shard: ShardId, log: &ShardLog, theirs: Mark) -> Result<Mark, Fatal> {
    let offset = theirs.offset.min(log.last().offset);
    match log.mark_at(engine, offset)? {
        Some(mark) if mark == theirs || offset == 0 => Ok(mark),
        // Theirs ends in something we do not have: try one before; the backup cuts what does not follow.
        Some(mark) if mark.offset > log.base().offset => step_back(engine, shard, log, mark),
        _ => Err(too_far(shard, theirs.offset, log.base().offset)),
    }
}

fn step_back(
    engine: &dyn Engine,
    shard: ShardId,
    log: &ShardLog,
    after: Mark,
) -> Result<Mark, Fatal> {
    if after.offset <= log.base().offset {
        return Err(too_far(shard, after.offset, log.base().offset));
    }
    known(
        log.mark_at(engine, after.offset - 1)?,
        shard,
        after.offset - 1,
    )
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
        entries: entries.iter().map(super::log::Entry::to_proto).collect(),
        committed,
    })
}

fn known(mark: Option<Mark>, shard: ShardId, offset: u64) -> Result<Mark, Fatal> {
    mark.ok_or_else(|| Fatal::Copies(format!("the log of {shard} lacks entry {offset}")))
}

fn refused(text: String) -> Fatal {
    Fatal::Copies(PeerError::Refused(text).to_string())
}

fn too_far(shard: ShardId, theirs: u64, base: u64) -> Fatal {
    Fatal::Copies(format!(
        "the backup's log of {shard} ends at {theirs} and ours begins after {base}: stop both copies and \
         copy the primary's data directory to the backup"
    ))
}
