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
//!          and on the ferry ─ Append ───────▶ follower, a little later
//! ```
//! Whenever an Append has no answer the primary asks for the backup's marks and sends what is lacking from
//! its own log, until the two are level, or until the view has another backup or none. A store without a
//! backup recruits one among the live processes: a *learner* gets what it lacks of the log, or a snapshot
//! and then the log, and joins the view when it is level. The follower has a thread of its own (`ferry`), which no
//! round waits for unless it is the only other copy.
//!
//! Invariants
//! - C-1  Committed = synced by primary and backup, or by primary and follower where there is no backup, and by as many
//!   as the operator asks for. The others apply only what they were told is committed.
//! - C-2  Everything sent carries the epoch of the view; a copy refuses epochs below the highest it has seen
//!   or promised.
//! - C-3  A primary that was started again first takes from the backup, or the follower where there is no backup, what
//!   its own log lacks; it serves nobody before.
//! - C-4  What a copy has applied is never cut. A learner that has something else is given a snapshot instead.
//! - C-5  Between a learner's being level and its being the backup nothing is committed.
//! - C-6  What a follower has is all shards' logs up to one round: rounds reach it in their order, each whole.

use std::sync::{
    Arc,
    mpsc::{Receiver, RecvTimeoutError, Sender, channel},
};
use std::time::Duration;

use super::{
    engine::{Engine, EngineError},
    log::ShardLog,
    views::machine::{Crew, Member, Post, Standing},
};
use crate::{model::ShardId, proto::storage as pb};

pub mod backup;
mod ferry;
#[cfg(test)]
pub mod fixed;
mod level;
mod pledge;
#[cfg(test)]
mod tests;

use ferry::Ferry;
use level::{Level, Trouble, Way};
use pledge::Pledges;
pub use pledge::{Need, Tell};

/// Bytes of entries in one Append or ReadLog, about.
pub const CHUNK_BYTES: usize = 4 << 20;
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
    /// Live processes that could take a post.
    fn candidates(&mut self, post: Post) -> Vec<Member>;
    /// Who is being brought level for it, if anybody.
    fn learning(&mut self, post: Post, learner: Option<Member>);
    /// The learner is level: it is to join the view.
    fn join(&mut self, post: Post);
    /// The follower cannot be kept near enough: it is to leave the view.
    fn lags(&mut self, follower: &Member);
    /// Whether the store is to be handed over to the follower.
    fn hands_over(&mut self) -> bool;
    /// The follower has everything: it is to become primary.
    fn handed(&mut self);
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
    /// Rounds begun in this reign.
    round: u64,
    /// The way to the follower, or to whoever is to become that.
    ferry: Option<Ferry>,
    /// What waits for the follower.
    pledges: Arc<Pledges>,
    /// Counts attempts to have a follower, so that each candidate has its turn.
    attempts: usize,
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

impl Copies {
    /// Over the views; Appends travel while the round syncs.
    pub fn new(reign: Box<dyn Reign>, same: Same, min_copies: usize) -> Self {
        Self {
            reign,
            same,
            min_copies,
            travel: Travel::Meanwhile(None),
            begun: None,
            round: 0,
            ferry: None,
            pledges: Arc::default(),
            attempts: 0,
        }
    }

    /// Whether the view has a backup now.
    pub fn has_backup(&mut self) -> bool {
        matches!(self.reign.standing(), Standing::With(crew) if crew.backup.is_some())
    }

    /// How many copies have what was committed last, at the least.
    pub fn count(&mut self) -> Result<u32, Fatal> {
        let crew = self.standing()?;
        Ok(1 + u32::from(crew.holder().is_some()))
    }

    /// Tells somebody once the follower has all that was begun so far, or there is none and that will do; or that it takes
    /// too long.
    pub fn when_followed(&mut self, need: Need, tell: Tell) -> Result<(), Fatal> {
        let crew = self.standing()?;
        self.pledges.add(self.round, need, tell);
        self.keep_pledges(&crew);
        Ok(())
    }

    fn keep_pledges(&self, crew: &Crew) {
        if crew.follower.is_none() {
            self.pledges
                .unfollowed(1 + u32::from(crew.backup.is_some()));
        }
        if let Some(ferry) = &self.ferry {
            ferry.keep_pledges();
        }
    }

    /// How many wait for that.
    pub fn pledged(&self) -> usize {
        self.pledges.count()
    }

    /// Whether a learner is being sent all there is, and will need what was written meanwhile.
    pub fn needs_log(&self) -> bool {
        self.ferry.as_ref().is_some_and(Ferry::needs_log)
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

    /// The epoch and the other members, once they are settled.
    fn standing(&mut self) -> Result<Crew, Fatal> {
        loop {
            match self.reign.standing() {
                Standing::Over => return Err(Fatal::Deposed),
                Standing::With(crew) => return Ok(crew),
                Standing::Unsettled => self.reign.pause()?,
            }
        }
    }

    /// The epoch in which entries are made now.
    pub fn epoch(&mut self) -> Result<u64, Fatal> {
        Ok(self.standing()?.epoch)
    }

    /// Marks of the member that has everything committed; `None` when the view has no other.
    pub fn marks(&mut self) -> Result<Option<pb::MarksReply>, Fatal> {
        loop {
            let crew = self.standing()?;
            let Some(other) = crew.holder() else {
                return Ok(None);
            };
            let request = level::marks_request(&self.same, crew.epoch);
            match self.reign.peer(other).marks(request) {
                Ok(reply) => {
                    self.heed(crew.epoch, reply.epoch)?;
                    level::check_marks(&self.same, &reply).map_err(refused)?;
                    return Ok(Some(reply));
                }
                Err(PeerError::Unreachable(_)) => self.reign.pause()?,
                Err(PeerError::Refused(text)) => return Err(refused(text)),
            }
        }
    }

    /// Entries of that member's log from `from` on; `None` when the view has no other.
    pub fn read_log(&mut self, shard: ShardId, from: u64) -> Result<Option<Vec<pb::Entry>>, Fatal> {
        let request = pb::ReadLogRequest {
            shard: u32::from(shard.0),
            from,
            max_bytes: CHUNK_BYTES as u32,
            ..pb::ReadLogRequest::default()
        };
        loop {
            let crew = self.standing()?;
            let Some(other) = crew.holder() else {
                return Ok(None);
            };
            match self.reign.peer(other).read_log(request.clone()) {
                Ok(reply) => return Ok(Some(reply.entries)),
                Err(PeerError::Unreachable(_)) => self.reign.pause()?,
                Err(PeerError::Refused(text)) => return Err(refused(text)),
            }
        }
    }

    /// Whether a round may begin. Without a backup it first tries to recruit one. Between rounds: all of `logs` is
    /// applied.
    pub fn tend(&mut self, engine: &dyn Engine, logs: &[LogEnd<'_>]) -> Result<bool, Fatal> {
        let crew = self.standing()?;
        self.pledges.expire();
        self.follow(&crew, engine, logs)?;
        self.keep_pledges(&crew);
        if self.reign.hands_over() {
            if self.follower_has_all(&crew) {
                self.reign.handed();
            }
            return Ok(false);
        }
        if crew.backup.is_some() || self.recruit(engine, logs)? {
            return Ok(true);
        }
        Ok(crew.follower.is_some() || self.is_enough(&crew))
    }

    fn follower_has_all(&self, crew: &Crew) -> bool {
        let follows = |ferry: &&Ferry| crew.follower.as_ref() == Some(ferry.to());
        let ferry = self.ferry.as_ref().filter(follows);
        ferry.is_some_and(|ferry| ferry.wait(self.round, LOOK))
    }

    /// Whether one copy is.
    fn is_enough(&self, crew: &Crew) -> bool {
        self.min_copies <= 1 || crew.sole
    }

    /// Has a ferry under way to the view's follower, or to who is to become that.
    fn follow(
        &mut self,
        crew: &Crew,
        engine: &dyn Engine,
        logs: &[LogEnd<'_>],
    ) -> Result<(), Fatal> {
        let Some(ferry) = &self.ferry else {
            return self.launch(crew, engine, logs);
        };
        let joined = crew
            .follower
            .as_ref()
            .is_some_and(|to| to.disk == ferry.to().disk);
        if !joined && (ferry.is_member() || crew.follower.is_some()) {
            // It was left out, or another is there.
            self.ferry = None;
            return Ok(());
        }
        ferry.is_known(crew, joined);
        let state = ferry.state();
        self.heed(crew.epoch, state.seen)?;
        let ferry = self.ferry.as_ref().expect("it was there a moment ago");
        let to = ferry.to().clone();
        match (state.failed, joined) {
            (Some(why), true) => {
                tracing::warn!(
                    follower = to.address,
                    why,
                    "the follower is to leave the view"
                );
                self.reign.lags(&to);
            }
            (Some(why), false) => {
                tracing::info!(
                    learner = to.address,
                    why,
                    "it cannot become the follower now"
                );
                self.ferry = None;
                self.reign.learning(Post::Follower, None);
            }
            (None, false) if state.level => self.reign.join(Post::Follower),
            (None, _) if state.asks => ferry.go_on(engine, logs, self.round)?,
            (None, _) => {}
        }
        Ok(())
    }

    /// Begins to have a follower.
    fn launch(
        &mut self,
        crew: &Crew,
        engine: &dyn Engine,
        logs: &[LogEnd<'_>],
    ) -> Result<(), Fatal> {
        let (to, member) = match &crew.follower {
            Some(follower) => (follower.clone(), true),
            None => {
                let mut candidates = self.reign.candidates(Post::Follower);
                if candidates.is_empty() {
                    return Ok(());
                }
                self.attempts += 1;
                let chosen = self.attempts % candidates.len();
                (candidates.swap_remove(chosen), false)
            }
        };
        if !member {
            self.reign.learning(Post::Follower, Some(to.clone()));
        }
        let peer = self.reign.peer(&to);
        let ferry = Ferry::launch(to, peer, self.same.clone(), Arc::clone(&self.pledges));
        ferry.is_known(crew, member);
        ferry.go_on(engine, logs, self.round)?;
        self.ferry = Some(ferry);
        Ok(())
    }

    /// Sends a round's segments on their way.
    pub fn begin(&mut self, segments: Vec<pb::Segment>) -> Result<(), Fatal> {
        let Crew { epoch, backup, .. } = self.standing()?;
        self.round += 1;
        if let Some(ferry) = &self.ferry {
            ferry.take(epoch, self.round, &segments);
        }
        let Some(backup) = backup else {
            self.begun = None;
            return Ok(());
        };
        let request = level::append_request(&self.same, epoch, segments);
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

    /// Waits until what was begun is committed: held by the backup, or the follower where there is none, and by enough.
    /// It must be in `logs`, synced.
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
        loop {
            if self.reach(engine, logs)? {
                return Ok(());
            }
            let crew = self.standing()?;
            if crew.backup.is_some() {
                continue;
            }
            if let Some(follower) = &crew.follower {
                if self.carried(&crew, follower)? {
                    return Ok(());
                }
            } else if self.is_enough(&crew) || self.recruit(engine, logs)? {
                return Ok(());
            } else {
                self.reign.pause()?;
            }
        }
    }

    /// Waits a little for the follower, the only other member, to have the round.
    fn carried(&mut self, crew: &Crew, follower: &Member) -> Result<bool, Fatal> {
        let ferry = self.ferry.as_ref();
        let Some(ferry) = ferry.filter(|ferry| ferry.to().disk == follower.disk) else {
            // It joined a moment ago, or had another's place: it has what was begun before, not this.
            self.reign.lags(follower);
            self.reign.pause()?;
            return Ok(false);
        };
        ferry.is_known(crew, true);
        if ferry.wait(self.round, LOOK) {
            return Ok(true);
        }
        let state = ferry.state();
        self.heed(crew.epoch, state.seen)?;
        if state.failed.is_some() {
            self.reign.lags(follower);
            self.reign.pause()?;
        }
        Ok(false)
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
                        // In whatever epoch: what it has synced it holds.
                        let now = self.reign.standing();
                        let waits = |crew: &Crew| crew.backup.as_ref() == Some(&begun.1);
                        if !matches!(&now, Standing::With(crew) if waits(crew)) {
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
            let Crew {
                epoch,
                backup: Some(backup),
                ..
            } = self.standing()?
            else {
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
        for candidate in self.reign.candidates(Post::Backup) {
            self.reign.learning(Post::Backup, Some(candidate.clone()));
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
                    self.reign.join(Post::Backup);
                    if self.standing()?.backup.as_ref() == Some(&candidate) {
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
            self.reign.learning(Post::Backup, None);
        }
        Ok(false)
    }

    fn level(
        &mut self,
        peer: &dyn Peer,
        engine: &dyn Engine,
        epoch: u64,
        logs: &[LogEnd<'_>],
    ) -> Result<Level, Fatal> {
        let outcome = self.way(peer, epoch, |way| way.level(engine, logs));
        outcome.map_err(|trouble| self.fatal(epoch, trouble))
    }

    fn load(
        &mut self,
        peer: &dyn Peer,
        engine: &dyn Engine,
        epoch: u64,
        logs: &[LogEnd<'_>],
    ) -> Result<bool, Fatal> {
        let outcome = self.way(peer, epoch, |way| way.load(engine, logs));
        outcome.map_err(|trouble| self.fatal(epoch, trouble))
    }

    fn way<T>(&mut self, peer: &dyn Peer, epoch: u64, go: impl FnOnce(&mut Way<'_>) -> T) -> T {
        let reign = &mut self.reign;
        go(&mut Way {
            peer,
            same: &self.same,
            epoch,
            ends: &mut || reign.standing() == Standing::Over,
        })
    }

    fn fatal(&mut self, epoch: u64, trouble: Trouble) -> Fatal {
        match trouble {
            Trouble::Over(theirs) => match self.heed(epoch, theirs) {
                Err(fatal) => fatal,
                Ok(()) => Fatal::Deposed,
            },
            Trouble::Refused(text) => refused(text),
            Trouble::Engine(error) => error.into(),
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

fn refused(text: String) -> Fatal {
    Fatal::Copies(PeerError::Refused(text).to_string())
}
