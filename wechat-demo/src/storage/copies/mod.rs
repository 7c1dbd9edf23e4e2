//! The copies of a store: the primary's side. [`backup`] is the other.
//!
//! Knows: epochs, marks, what another copy lacks.
//! Does not know: what entries say, how calls travel, how views come about: [`Reign`] tells.
//!
//! ```text
//!   primary                                   backup
//!   round: entries ──── Append ─────────────▶ writes, syncs
//!          sync own log (meanwhile)            │
//!          committed ◀── reply ────────────────┘
//! ```
//! Whenever an Append has no answer the primary asks for the backup's marks and sends what is lacking from
//! its own log, until the two are level, or until the view has another backup or none. A store without a
//! backup recruits one among the live processes: a *learner* gets what it lacks of the log, or a snapshot
//! and then the log, and joins the view when it is level.
//!
//! Invariants
//! - C-1  Committed = synced by every member of the view, and by as many as the operator asks for. The backup
//!   applies only what it was told is committed.
//! - C-2  Everything sent carries the epoch of the view; a copy refuses epochs below the highest it has seen
//!   or promised.
//! - C-3  A primary that was started again first takes from the backup what its own log lacks; it serves
//!   nobody before.
//! - C-4  What a copy has applied is never cut. A learner that has something else is given a snapshot instead.
//! - C-5  Between a learner's being level and its being a member nothing is committed.

use std::sync::{
    Arc,
    mpsc::{Receiver, RecvTimeoutError, Sender, channel},
};
use std::time::Duration;

use super::{
    changes::Changes,
    engine::{Engine, EngineError, Span, Table},
    log::{Mark, ShardLog},
    views::machine::{Member, Standing},
};
use crate::{model::ShardId, proto::storage as pb};

pub mod backup;
#[cfg(test)]
pub mod fixed;
#[cfg(test)]
mod tests;

/// Bytes of entries in one Append or ReadLog, about.
pub const CHUNK_BYTES: usize = 4 << 20;
/// Bytes of rows in one piece of a snapshot, about.
const PIECE_BYTES: usize = 1 << 20;
/// How often a round that waits for its backup looks whether the view has changed.
const LOOK: Duration = Duration::from_millis(20);

/// Another copy, as the primary reaches it.
pub trait Peer: Send + Sync + 'static {
    /// `Replica.Marks`.
    fn marks(&self, request: pb::MarksRequest) -> Result<pb::MarksReply, PeerError>;
    /// `Replica.ReadLog`.
    fn read_log(&self, request: pb::ReadLogRequest) -> Result<pb::ReadLogReply, PeerError>;
    /// `Replica.Append`.
    fn append(&self, request: pb::AppendRequest) -> Result<pb::AppendReply, PeerError>;
    /// `Replica.Load`.
    fn load(&self, request: pb::LoadRequest) -> Result<pb::LoadReply, PeerError>;
}

/// What the primary's committer asks of the views.
pub trait Reign: Send {
    /// What may be done now.
    fn standing(&mut self) -> Standing;
    /// The way to a member.
    fn peer(&mut self, member: &Member) -> Arc<dyn Peer>;
    /// Waits a little before the next attempt; an error ends the waiting.
    fn pause(&mut self) -> Result<(), Fatal>;
    /// Live processes that could become the backup.
    fn candidates(&mut self) -> Vec<Member>;
    /// Who is being brought level, if anybody.
    fn learning(&mut self, learner: Option<Member>);
    /// The learner is level: it is to join the view.
    fn join(&mut self);
    /// A copy has seen or promised this higher epoch.
    fn over(&mut self, epoch: u64);
}

/// Why another copy did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerError {
    /// It may come back: try again.
    #[error("the other copy cannot be reached: {0}")]
    Unreachable(String),
    /// It will answer the same again: give up.
    #[error("the other copy refuses: {0}")]
    Refused(String),
}

/// Why a store's primary cannot go on. But for `Deposed` the process ends with it.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The disk or the database.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The copies do not belong together.
    #[error("{0}")]
    Copies(String),
    /// Another process is primary, or will be.
    #[error("this process is not primary any more")]
    Deposed,
    /// The process was told to end.
    #[error("stopped while waiting for the other copy")]
    Stopped,
}

/// What a store is, as far as its copies must agree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Same {
    /// 16 random bytes.
    pub store_id: bytes::Bytes,
    /// Fixed at creation.
    pub shards: u32,
}

/// A shard's log and the offset up to which the tables have it.
pub type LogEnd<'a> = (&'a ShardLog, u64);

/// The primary's hold on its other copies.
pub struct Copies {
    reign: Box<dyn Reign>,
    same: Same,
    /// Copies that must have what is acknowledged: 1 or 2.
    min_copies: usize,
    travel: Travel,
    /// To whom the round under way was sent, and in which epoch.
    begun: Option<(u64, Member)>,
}

/// How Appends travel while the round syncs its own log.
enum Travel {
    /// Meanwhile, on a thread of its own for this member.
    Meanwhile(Option<(Member, Carrier)>),
    /// Before it, on the round's thread; this is what came of it.
    #[cfg(test)]
    Before(Option<Outcome>),
    /// After it, on the round's thread; this is what is to go.
    #[cfg(test)]
    After(Option<(Arc<dyn Peer>, pb::AppendRequest)>),
}

type Outcome = Result<pb::AppendReply, PeerError>;

/// A thread that makes the calls.
struct Carrier {
    requests: Sender<pb::AppendRequest>,
    replies: Receiver<Outcome>,
}

/// What came of bringing a copy level.
enum Level {
    Done,
    /// It was out of reach, or lacked something after all.
    Again,
    /// Its log and ours have no place in common any more.
    TooFar(String),
}

impl Copies {
    /// Over the views; Appends travel while the round syncs.
    pub fn new(reign: Box<dyn Reign>, same: Same, min_copies: usize) -> Self {
        Self {
            reign,
            same,
            min_copies,
            travel: Travel::Meanwhile(None),
            begun: None,
        }
    }

    /// Whether the view has a backup now.
    pub fn has_backup(&mut self) -> bool {
        matches!(self.reign.standing(), Standing::With(..))
    }

    /// Appends travel before or after the round's own sync, on the same thread. For models, where nothing
    /// may happen by chance.
    #[cfg(test)]
    pub fn in_turn(reign: Box<dyn Reign>, same: Same, min_copies: usize, before: bool) -> Self {
        let travel = if before {
            Travel::Before(None)
        } else {
            Travel::After(None)
        };
        Self {
            travel,
            ..Self::new(reign, same, min_copies)
        }
    }

    /// The epoch and the backup, once that is settled.
    fn standing(&mut self) -> Result<(u64, Option<Member>), Fatal> {
        loop {
            match self.reign.standing() {
                Standing::Over => return Err(Fatal::Deposed),
                Standing::With(epoch, backup) => return Ok((epoch, Some(backup))),
                Standing::Alone(epoch) => return Ok((epoch, None)),
                Standing::Unsettled => self.reign.pause()?,
            }
        }
    }

    /// The epoch in which entries are made now.
    pub fn epoch(&mut self) -> Result<u64, Fatal> {
        Ok(self.standing()?.0)
    }

    /// The backup's marks; `None` when the view has no backup.
    pub fn marks(&mut self) -> Result<Option<pb::MarksReply>, Fatal> {
        loop {
            let (epoch, Some(backup)) = self.standing()? else {
                return Ok(None);
            };
            let request = self.marks_request(epoch);
            match self.reign.peer(&backup).marks(request) {
                Ok(reply) => {
                    self.heed(epoch, reply.epoch)?;
                    return self.check_marks(reply).map(Some);
                }
                Err(PeerError::Unreachable(_)) => self.reign.pause()?,
                Err(PeerError::Refused(text)) => return Err(refused(text)),
            }
        }
    }

    /// Entries of the backup's log from `from` on; `None` when the view has no backup.
    pub fn read_log(&mut self, shard: ShardId, from: u64) -> Result<Option<Vec<pb::Entry>>, Fatal> {
        let request = pb::ReadLogRequest {
            shard: u32::from(shard.0),
            from,
            max_bytes: CHUNK_BYTES as u32,
            ..pb::ReadLogRequest::default()
        };
        loop {
            let (_, Some(backup)) = self.standing()? else {
                return Ok(None);
            };
            match self.reign.peer(&backup).read_log(request.clone()) {
                Ok(reply) => return Ok(Some(reply.entries)),
                Err(PeerError::Unreachable(_)) => self.reign.pause()?,
                Err(PeerError::Refused(text)) => return Err(refused(text)),
            }
        }
    }

    /// Whether a round may begin. Without a backup it first tries to recruit one.
    pub fn tend(&mut self, engine: &dyn Engine, logs: &[LogEnd<'_>]) -> Result<bool, Fatal> {
        if self.standing()?.1.is_some() || self.recruit(engine, logs)? {
            return Ok(true);
        }
        Ok(self.min_copies <= 1)
    }

    /// Sends a round's segments on their way.
    pub fn begin(&mut self, segments: Vec<pb::Segment>) -> Result<(), Fatal> {
        let (epoch, backup) = self.standing()?;
        let Some(backup) = backup else {
            self.begun = None;
            return Ok(());
        };
        let request = self.append_request(epoch, segments);
        let peer = self.reign.peer(&backup);
        self.begun = Some((epoch, backup.clone()));
        match &mut self.travel {
            Travel::Meanwhile(carrier) => {
                if carrier.as_ref().is_none_or(|(to, _)| *to != backup) {
                    *carrier = Some((backup, Carrier::start(peer)));
                }
                // A carrier that has ended shows when its reply is asked for.
                let (_, carrier) = carrier.as_ref().expect("it was just made");
                drop(carrier.requests.send(request));
            }
            #[cfg(test)]
            Travel::Before(outcome) => *outcome = Some(peer.append(request)),
            #[cfg(test)]
            Travel::After(waiting) => *waiting = Some((peer, request)),
        }
        Ok(())
    }

    /// Waits until what was begun is committed: held by every member of the view, and by enough of them. It
    /// must be in `logs`, synced.
    pub fn finish(&mut self, engine: &dyn Engine, logs: &[LogEnd<'_>]) -> Result<(), Fatal> {
        if let Some(begun) = self.begun.take()
            && let Some(outcome) = self.outcome(&begun)
        {
            match outcome {
                Ok(reply) if reply.epoch > begun.0 => self.heed(begun.0, reply.epoch)?,
                // What the view's backup holds is committed, whether or not it was left out since: then this
                // process alone has the view, and it has the log.
                Ok(reply) if reply.lacking.is_empty() => return Ok(()),
                Err(PeerError::Refused(text)) => return Err(refused(text)),
                Ok(_) | Err(PeerError::Unreachable(_)) => {}
            }
        }
        while !self.reach(engine, logs)? && self.min_copies > 1 {
            if self.recruit(engine, logs)? {
                return Ok(());
            }
            self.reign.pause()?;
        }
        Ok(())
    }

    /// What came of the Append that was begun; `None` = nobody waits for it any more.
    fn outcome(&mut self, begun: &(u64, Member)) -> Option<Outcome> {
        match &mut self.travel {
            Travel::Meanwhile(carrier) => loop {
                let (_, replies) = carrier.as_ref()?;
                match replies.replies.recv_timeout(LOOK) {
                    Ok(outcome) => return Some(outcome),
                    Err(RecvTimeoutError::Disconnected) => {
                        *carrier = None;
                        return None;
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        let now = self.reign.standing();
                        if now != Standing::With(begun.0, begun.1.clone()) {
                            // Its thread ends with the call.
                            *carrier = None;
                            return None;
                        }
                    }
                }
            },
            #[cfg(test)]
            Travel::Before(outcome) => outcome.take(),
            #[cfg(test)]
            Travel::After(waiting) => waiting.take().map(|(peer, request)| peer.append(request)),
        }
    }

    /// Brings the backup level with `logs`, waiting for it as long as it is the backup; `false` when the view
    /// has none.
    pub fn reach(&mut self, engine: &dyn Engine, logs: &[LogEnd<'_>]) -> Result<bool, Fatal> {
        loop {
            let (epoch, Some(backup)) = self.standing()? else {
                return Ok(false);
            };
            let peer = self.reign.peer(&backup);
            match self.level(&*peer, engine, epoch, logs)? {
                Level::Done => return Ok(true),
                Level::Again => self.reign.pause()?,
                Level::TooFar(text) => return Err(Fatal::Copies(text)),
            }
        }
    }

    /// Brings one of the live processes level and has it join the view; `false` when that did not come about.
    fn recruit(&mut self, engine: &dyn Engine, logs: &[LogEnd<'_>]) -> Result<bool, Fatal> {
        let epoch = self.epoch()?;
        for candidate in self.reign.candidates() {
            self.reign.learning(Some(candidate.clone()));
            let peer = self.reign.peer(&candidate);
            let level = match self.level(&*peer, engine, epoch, logs) {
                Ok(Level::TooFar(_)) | Err(Fatal::Copies(_)) => {
                    tracing::info!(to = candidate.address, "sending a snapshot");
                    match self.load(&*peer, engine, epoch, logs) {
                        Ok(true) => self.level(&*peer, engine, epoch, logs),
                        Ok(false) => Ok(Level::Again),
                        Err(fatal) => Err(fatal),
                    }
                }
                level => level,
            };
            match level {
                Ok(Level::Done) => {
                    self.reign.join();
                    if self.standing()?.1.as_ref() == Some(&candidate) {
                        tracing::info!(backup = candidate.address, "a learner has joined the view");
                        return Ok(true);
                    }
                }
                Ok(Level::Again) => {}
                Ok(Level::TooFar(why)) | Err(Fatal::Copies(why)) => {
                    tracing::warn!(
                        candidate = candidate.address,
                        why,
                        "it cannot become a copy"
                    );
                }
                Err(fatal) => return Err(fatal),
            }
            self.reign.learning(None);
        }
        Ok(false)
    }

    /// Sends a copy all that it lacks of `logs`. Also tells it the epoch.
    fn level(
        &mut self,
        peer: &dyn Peer,
        engine: &dyn Engine,
        epoch: u64,
        logs: &[LogEnd<'_>],
    ) -> Result<Level, Fatal> {
        let reply = match peer.marks(self.marks_request(epoch)) {
            Ok(reply) => reply,
            Err(PeerError::Unreachable(_)) => return Ok(Level::Again),
            Err(PeerError::Refused(text)) => return Err(refused(text)),
        };
        self.heed(epoch, reply.epoch)?;
        let reply = self.check_marks(reply)?;
        // Even an empty Append carries the epoch.
        if self
            .send(peer, epoch, Vec::new())?
            .is_none_or(|lacking| !lacking.is_empty())
        {
            return Ok(Level::Again);
        }
        for (index, (log, committed)) in logs.iter().enumerate() {
            let shard = ShardId(index as u8);
            let theirs = reply.marks.get(index).map(Mark::from).unwrap_or_default();
            let Some(mut after) = meet(engine, log, theirs)? else {
                return Ok(Level::TooFar(too_far(shard, theirs.offset, log)));
            };
            while after != log.last() {
                let segment = segment(engine, shard, log, after, *committed)?;
                let last = segment.entries.last().map(|entry| entry.offset);
                match self.send(peer, epoch, vec![segment])? {
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

    /// One Append; `None` if it has to be tried again from the marks on.
    fn send(
        &mut self,
        peer: &dyn Peer,
        epoch: u64,
        segments: Vec<pb::Segment>,
    ) -> Result<Option<Vec<pb::Mark>>, Fatal> {
        match peer.append(self.append_request(epoch, segments)) {
            Ok(reply) => {
                self.heed(epoch, reply.epoch)?;
                Ok(Some(reply.lacking))
            }
            Err(PeerError::Unreachable(_)) => Ok(None),
            Err(PeerError::Refused(text)) => Err(refused(text)),
        }
    }

    /// Sends a learner all rows as they are; its logs begin where ours are applied. `false` = it got lost on
    /// the way. The caller is the only one who writes, so the rows stand still.
    fn load(
        &mut self,
        peer: &dyn Peer,
        engine: &dyn Engine,
        epoch: u64,
        logs: &[LogEnd<'_>],
    ) -> Result<bool, Fatal> {
        let mut request = pb::LoadRequest {
            store_id: self.same.store_id.clone(),
            epoch,
            shards: self.same.shards,
            ..Default::default()
        };
        for table in [Table::Timeline, Table::Rows, Table::Tasks] {
            let mut from = Vec::new();
            loop {
                let (piece, next) = piece(engine, table, &from)?;
                request.changes = piece.into_bytes().into();
                if !self.send_piece(peer, epoch, &mut request)? {
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
        self.send_piece(peer, epoch, &mut request)
    }

    fn send_piece(
        &mut self,
        peer: &dyn Peer,
        epoch: u64,
        request: &mut pb::LoadRequest,
    ) -> Result<bool, Fatal> {
        // A view that is over ends the loading.
        if self.epoch()? != epoch {
            return Ok(false);
        }
        match peer.load(request.clone()) {
            Ok(reply) => {
                self.heed(epoch, reply.epoch)?;
                request.n += 1;
                Ok(true)
            }
            Err(PeerError::Unreachable(_)) => Ok(false),
            Err(PeerError::Refused(text)) => Err(refused(text)),
        }
    }

    /// A copy has seen `theirs`: above ours it means that our view is over.
    fn heed(&mut self, ours: u64, theirs: u64) -> Result<(), Fatal> {
        if theirs <= ours {
            return Ok(());
        }
        self.reign.over(theirs);
        Err(Fatal::Deposed)
    }

    fn marks_request(&self, epoch: u64) -> pb::MarksRequest {
        pb::MarksRequest {
            store_id: self.same.store_id.clone(),
            shards: self.same.shards,
            epoch,
            ..pb::MarksRequest::default()
        }
    }

    fn append_request(&self, epoch: u64, segments: Vec<pb::Segment>) -> pb::AppendRequest {
        pb::AppendRequest {
            store_id: self.same.store_id.clone(),
            epoch,
            segments,
            ..pb::AppendRequest::default()
        }
    }

    fn check_marks(&self, reply: pb::MarksReply) -> Result<pb::MarksReply, Fatal> {
        let (theirs, ours) = (reply.marks.len(), self.same.shards as usize);
        if theirs == ours {
            return Ok(reply);
        }
        Err(refused(format!("it has {theirs} shards, not {ours}")))
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

/// Rows of a table from `from` on, and where the next piece begins.
fn piece(
    engine: &dyn Engine,
    table: Table,
    from: &[u8],
) -> Result<(Changes, Option<Vec<u8>>), EngineError> {
    const END: [u8; super::table::Key::MAX + 1] = [0xff; super::table::Key::MAX + 1];
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
fn meet(engine: &dyn Engine, log: &ShardLog, theirs: Mark) -> Result<Option<Mark>, EngineError> {
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

fn too_far(shard: ShardId, theirs: u64, log: &ShardLog) -> String {
    format!(
        "the copy's log of {shard} ends at {theirs} and ours begins after {}",
        log.base().offset
    )
}
