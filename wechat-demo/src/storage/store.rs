//! A store's primary: from start to serving, and the round.
//!
//! Knows: the order of steps between memory, own disk, the other copy and the tables.
//! Does not know: threads, queues, sockets; the caller runs one round after another.
//!
//! ```text
//!   waiting tasks, jobs ─▶ drafts ─▶ entries ─▶ own log synced ┐
//!                                        └───▶ backup synced  ┴▶ committed ─▶ tables ─▶ answers, streams, moves
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use prost::Message;

use super::{
    changes::Changes,
    copies::{CHUNK_BYTES, Copies, Fatal, LogEnd, Need, Same},
    durability::{self, Promise, waits_for_follower},
    engine::{Durability, Engine, EngineError, Table, copy},
    log::{Damage, Entry, Mark, ShardLog},
    ops::{Answer, Op, Refusal, RefusalKind, Stop, task},
    shard::{Draft, Home, Moved, OutTask, Shard},
    stream::Place,
    table,
};
use crate::{
    model::{
        HomeId, Incarnation, Placement, ShardId, Site, clock::Clock, limits::WAITING_REQUESTS,
    },
    planted::{self, Bug, Window},
    proto::storage as pb,
};

/// Log entries of a shard that are kept after both copies have applied them.
pub const KEPT_ENTRIES: u64 = 4096;
/// Entries removed from a log at once.
pub const TRIM_STEP: u64 = 512;
/// Applied tasks of a shard whose rows may stay before a round is made for removing them.
const APPLIED_TASKS: u64 = 4096;
/// Version of what lies on the disk.
const FORMAT: u32 = 2;

/// What a store is. All its copies have the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// 16 random bytes.
    pub id: Bytes,
    /// Fixed at creation.
    pub place: Placement,
    /// See [`crate::model::Seq`].
    pub incarnation: Incarnation,
    /// Whose users these are. The process that serves says so; it is not on the disk.
    pub home: HomeId,
    /// The highest epoch this copy has seen or promised.
    pub epoch: u64,
    /// A snapshot is under way: there is nothing to rely on.
    pub partial: bool,
}

/// The primary of a store.
pub struct Store {
    engine: Arc<dyn Engine>,
    clock: Arc<dyn Clock>,
    identity: Identity,
    shards: Vec<Shard>,
    copies: Copies,
    /// What is usually promised, if the store is followed.
    durability: Option<Promise>,
    /// Counts rounds: where the next one begins to take tasks.
    turn: usize,
}

/// A request and who is told what it came to.
pub struct Job {
    /// What to do.
    pub op: Op,
    /// Called once it is committed or refused; dropped uncalled if the store ends before.
    pub reply: Reply,
}

/// Takes an op's outcome. Runs on the committer: it may hand on, never wait.
pub type Reply = Box<dyn FnOnce(Result<Answer, Refusal>) + Send>;

/// An op's outcome and who is told it.
pub type Told = (Reply, Result<Answer, Refusal>);

/// An answer that waits for another IDC's disk, and who is told it.
type Pledged = (Reply, Answer);

/// What a round has committed.
#[derive(Default)]
pub struct Round {
    /// Outcomes to tell.
    pub answers: Vec<Told>,
    /// Items that have become visible, in the order of each user's numbers.
    pub moved: Vec<Moved>,
}

/// The drafts of a round, and what depends on their commit.
struct Drafts<'e> {
    engine: &'e dyn Engine,
    by_shard: BTreeMap<ShardId, Draft<'e>>,
    /// Streams and how far the drafts apply them.
    reached: Vec<Reached>,
}

/// How far a stream is applied.
pub struct Reached {
    /// The shard here that it begins in.
    pub from: ShardId,
    /// In which incarnation.
    pub incarnation: Incarnation,
    /// Where it ends.
    pub to: Site,
    /// The last task applied there.
    pub n: u64,
}

impl Identity {
    /// Reads what this copy is; `None` if it is new.
    pub fn load(engine: &dyn Engine) -> Result<Option<Self>, EngineError> {
        copy::check_finished(engine)?;
        let Some(row) = engine.get(Table::Meta, &table::store())? else {
            return Ok(None);
        };
        let damaged = |what: &str| EngineError::Damaged(format!("the store's own row: {what}"));
        let row = pb::StoreRow::decode(row).map_err(|error| damaged(&error.to_string()))?;
        if row.format != FORMAT {
            return Err(EngineError::Format(row.format.to_string()));
        }
        let place = Placement::new(row.shards).map_err(|error| damaged(&error.to_string()))?;
        let incarnation = u16::try_from(row.incarnation).map(Incarnation);
        let incarnation = incarnation.map_err(|error| damaged(&format!("incarnation: {error}")))?;
        Ok(Some(Self {
            id: row.store_id,
            place,
            incarnation,
            home: HomeId::default(),
            epoch: row.epoch,
            partial: row.partial,
        }))
    }

    /// Of a copy that has seen no primary yet.
    pub fn of_copy(id: Bytes, place: Placement) -> Self {
        Self {
            id,
            place,
            incarnation: Incarnation::default(),
            home: HomeId::default(),
            epoch: 0,
            partial: false,
        }
    }

    /// What the copies of a store must agree on.
    pub fn same(&self) -> Same {
        Same {
            store_id: self.id.clone(),
            shards: self.place.shards() as u32,
        }
    }

    /// Notes it in a batch.
    pub fn put(&self, out: &mut Changes) {
        let row = pb::StoreRow {
            format: FORMAT,
            store_id: self.id.clone(),
            shards: self.place.shards() as u32,
            incarnation: u32::from(self.incarnation.0),
            epoch: self.epoch,
            partial: self.partial,
        };
        out.put(Table::Meta, &table::store(), &row.encode_to_vec());
    }

    /// Writes and syncs it.
    pub fn store(&self, engine: &dyn Engine) -> Result<(), EngineError> {
        let mut out = Changes::default();
        self.put(&mut out);
        engine.write(&[out.as_bytes()], Durability::Synced)
    }
}

impl Store {
    /// Starts the primary of a view (C-2, C-3): takes what its logs lack from the other copy, brings the backup
    /// level, applies all of it. Waits for the backup as long as it is one; where the view has none, the own
    /// log is the truth (V-6).
    pub fn start(
        engine: Arc<dyn Engine>,
        clock: Arc<dyn Clock>,
        mut identity: Identity,
        mut copies: Copies,
    ) -> Result<Self, Fatal> {
        let place = identity.place;
        let mut logs = Vec::with_capacity(place.shards());
        for id in place.all() {
            logs.push(ShardLog::open(&*engine, id)?);
        }
        if let Some(theirs) = copies.marks()? {
            for (id, (log, _)) in place.all().zip(&mut logs) {
                let end = theirs.marks.get(usize::from(id.0)).map(Mark::from);
                take_lacking(&*engine, &mut copies, id, log, end.unwrap_or_default())?;
            }
        }
        for (id, (log, damage)) in place.all().zip(&mut logs) {
            check_whole(&*engine, id, log, damage.as_ref())?;
        }
        identity.epoch = copies.epoch()?;
        identity.store(&*engine)?;
        let mut applied = Vec::with_capacity(logs.len());
        for id in place.all() {
            applied.push(self::applied(&*engine, id)?);
        }
        let ends: Vec<LogEnd<'_>> = logs
            .iter()
            .zip(&applied)
            .map(|((log, _), &applied)| (log, applied))
            .collect();
        copies.reach(&*engine, &ends)?;
        let home = Home {
            id: identity.home,
            place,
            incarnation: identity.incarnation,
            now_ms: clock.unix_ms(),
        };
        for (log, applied) in ends {
            apply_rest(&*engine, log, applied)?;
        }
        let shards = place
            .all()
            .zip(logs)
            .map(|(id, (log, _))| {
                let applied = log.last().offset;
                Shard::load(&*engine, home, id, log, applied)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            engine,
            clock,
            identity,
            shards,
            copies,
            durability: None,
            turn: 0,
        })
    }

    /// What its acknowledgements promise from now on; `None` = nobody follows it.
    pub fn promise(&mut self, durability: Option<Promise>) {
        self.durability = durability;
    }

    /// What they promise.
    pub fn durability(&self) -> Option<Promise> {
        self.durability
    }

    /// What the store is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The tables, for readers.
    pub fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine)
    }

    /// Whether a round may begin: there are copies enough. Recruits one where there are not.
    pub fn tend(&mut self) -> Result<bool, Fatal> {
        let ends = ends(&self.shards);
        self.copies.tend(&*self.engine, &ends)
    }

    /// Whether another copy has all that is committed.
    pub fn has_backup(&mut self) -> bool {
        self.copies.has_backup()
    }

    /// Whether a round has something to do without a job.
    pub fn has_work(&self) -> bool {
        let own = self.identity.home;
        self.shards.iter().any(|shard| {
            shard.outgoing.any_waiting(own) || shard.outgoing.removable() >= APPLIED_TASKS
        }) || !postponed().is_empty()
    }

    /// Tasks that wait on streams.
    pub fn tasks_waiting(&self) -> u64 {
        self.shards.iter().map(|shard| shard.outgoing.depth()).sum()
    }

    /// Entries in the logs since the store began, all shards together.
    pub fn log_entries(&self) -> u64 {
        let logs = self.shards.iter();
        logs.map(|shard| shard.log.last().offset).sum()
    }

    /// One round: what waits on streams, then jobs from the front of `jobs` as far as one batch holds them.
    /// When it returns, all of it is committed and in the tables. After an error the store is not used again.
    pub fn round(&mut self, jobs: &mut VecDeque<Job>) -> Result<Round, Fatal> {
        let engine = Arc::clone(&self.engine);
        let home = Home {
            id: self.identity.home,
            place: self.identity.place,
            incarnation: self.identity.incarnation,
            now_ms: self.clock.unix_ms(),
        };
        let mut drafts = Drafts {
            engine: &*engine,
            by_shard: BTreeMap::new(),
            reached: Vec::new(),
        };
        self.draft_postponed(home, &mut drafts)?;
        self.draft_tasks(home, &mut drafts)?;
        let (mut answers, pledged) = self.draft_jobs(home, &mut drafts, jobs)?;
        self.draft_removals(&mut drafts);
        let Drafts {
            by_shard, reached, ..
        } = drafts;
        let mut moved = Vec::new();
        let mut tasks = Vec::new();
        let mut entries = Vec::with_capacity(by_shard.len());
        for (id, draft) in by_shard {
            let (changes, draft_moved, draft_tasks) = draft.finish();
            moved.extend(draft_moved);
            tasks.push((id, draft_tasks));
            if !changes.is_empty() {
                entries.push((id, Bytes::from(changes.into_bytes())));
            }
        }
        let sends = answers.iter().any(|(_, answer)| is_sent(answer));
        if planted::is_on(Bug::AckBeforeSync) {
            for (reply, sent) in answers.extract_if(.., |(_, answer)| is_sent(answer)) {
                reply(sent);
            }
        }
        if planted::is_on(Bug::VisibleBeforeCommit) {
            self.apply(&entries)?;
        }
        if sends {
            planted::die_in(Window::BeforeWrite);
        }
        self.commit(&entries)?;
        if sends {
            planted::die_in(Window::BeforeAnswer);
        }
        self.acknowledge(&mut answers, pledged)?;
        self.feed_streams(reached, tasks)?;
        for shard in &mut self.shards {
            shard.shrink();
        }
        Ok(Round { answers, moved })
    }

    /// Applies the tasks that wait, at their destinations.
    fn draft_tasks<'e>(&mut self, home: Home, drafts: &mut Drafts<'e>) -> Result<(), Fatal> {
        // Whose turn it is moves on, so that no source keeps another out.
        self.turn = self.turn.wrapping_add(1);
        let all: Vec<ShardId> = home.place.all().collect();
        let site = |shard| Site {
            home: home.id,
            shard,
        };
        for &to in &all {
            for step in 0..all.len() {
                let from = all[self.turn.wrapping_add(step) % all.len()];
                let outgoing = &self.shards[usize::from(from.0)].outgoing;
                let Some((incarnation, waiting)) = outgoing.waiting(site(to)) else {
                    continue;
                };
                let waiting: Vec<_> = waiting.collect();
                let shard = &mut self.shards[usize::from(to.0)];
                let mut reached = shard.incoming.mark(site(from), incarnation);
                let draft = drafts.of(to);
                for (n, task) in waiting {
                    // One task may be large (a group's message for all its members here), so the bound is
                    // looked at before each, and an entry stays within what an engine takes.
                    if draft.changes().len() > CHUNK_BYTES / home.place.shards() {
                        break;
                    }
                    match shard.incoming.place(site(from), incarnation, n) {
                        Place::Done => {}
                        Place::Next => {
                            if planted::is_on(Bug::MarkBeforeEffect) {
                                postponed().push((to, task.clone()));
                            } else {
                                task::apply(shard, home, draft, task)?;
                            }
                            shard.incoming.advance(site(from), incarnation, n);
                            reached = n;
                        }
                        Place::From(next) => {
                            let text = format!("stream from {from} to {to} has no task {next}");
                            return Err(EngineError::Damaged(text).into());
                        }
                    }
                }
                shard.incoming.note(draft, site(from), incarnation);
                drafts.reached.push(Reached {
                    from,
                    incarnation,
                    to: site(to),
                    n: reached,
                });
            }
        }
        Ok(())
    }

    /// Tasks that wait for another home, about `most` bytes of them.
    pub fn parcels(&self, home: HomeId, most: usize) -> Vec<pb::Parcel> {
        let mut parcels = Vec::new();
        let mut left = most;
        for shard in &self.shards {
            if left == 0 {
                break;
            }
            let more = shard.outgoing.parcels(self.identity.home, home, left);
            let bytes: usize = more
                .iter()
                .flat_map(|parcel| &parcel.tasks)
                .map(Bytes::len)
                .sum();
            left = left.saturating_sub(bytes);
            parcels.extend(more);
        }
        parcels
    }

    /// Another home has applied a stream up to here.
    pub fn carried(&mut self, reached: &Reached) -> Result<(), EngineError> {
        let outgoing = &mut self.shards[usize::from(reached.from.0)].outgoing;
        outgoing.applied(&*self.engine, reached.incarnation, reached.to, reached.n)
    }

    /// Tasks that another home is not known to have applied.
    pub fn unapplied(&self, home: HomeId) -> u64 {
        let outgoing = self.shards.iter().map(|shard| &shard.outgoing);
        outgoing.map(|outgoing| outgoing.unapplied(home)).sum()
    }

    /// Passes the window after a round; with [`Bug::MarkBeforeEffect`] only where an effect is still to come.
    pub fn die_between_rounds(&self) {
        if !planted::is_on(Bug::MarkBeforeEffect) || !postponed().is_empty() {
            planted::die_in(Window::AfterRound);
        }
    }

    /// Applies what [`Bug::MarkBeforeEffect`] has put off.
    fn draft_postponed<'e>(&mut self, home: Home, drafts: &mut Drafts<'e>) -> Result<(), Fatal> {
        for (to, task) in std::mem::take(&mut *postponed()) {
            let shard = &mut self.shards[usize::from(to.0)];
            task::apply(shard, home, drafts.of(to), task)?;
        }
        Ok(())
    }

    fn draft_jobs<'e>(
        &mut self,
        home: Home,
        drafts: &mut Drafts<'e>,
        jobs: &mut VecDeque<Job>,
    ) -> Result<(Vec<Told>, Vec<Pledged>), Fatal> {
        let mut answers = Vec::with_capacity(jobs.len());
        let mut pledged = Vec::new();
        // The first job is always taken: tasks that fill batch after batch must not keep jobs out.
        while answers.is_empty() && pledged.is_empty() || drafts.bytes() < CHUNK_BYTES {
            let Some(job) = jobs.pop_front() else { break };
            let geo = waits_for_follower(&job.op, self.durability);
            if geo && self.copies.pledged() + pledged.len() >= WAITING_REQUESTS {
                let text = "too many requests wait for a disk in another IDC; try again soon";
                answers.push((job.reply, Err(Refusal::new(RefusalKind::Unavailable, text))));
                continue;
            }
            let id = job.op.shard(home.place);
            let shard = &mut self.shards[usize::from(id.0)];
            match job.op.execute(shard, home, drafts.of(id)) {
                Ok(answer) if geo => pledged.push((job.reply, answer)),
                Ok(answer) => answers.push((job.reply, Ok(answer))),
                Err(Stop::Refused(refusal)) => answers.push((job.reply, Err(refusal))),
                Err(Stop::Fatal(error)) => return Err(error.into()),
            }
        }
        Ok((answers, pledged))
    }

    /// Says in committed answers how many copies have them. Those that were asked for as `geo` wait for the follower.
    fn acknowledge(&mut self, answers: &mut [Told], pledged: Vec<Pledged>) -> Result<(), Fatal> {
        let copies = self.copies.count()?;
        for (_, answer) in answers.iter_mut() {
            if let Ok(Answer::Sent(sent)) = answer {
                sent.copies = copies;
            }
        }
        for (reply, mut answer) in pledged {
            let need = match answer {
                Answer::Reached(_) => Need::Stable,
                _ => Need::Geo,
            };
            let tell = move |copies: Option<u32>| {
                if let (Some(copies), Answer::Sent(sent)) = (copies, &mut answer) {
                    (sent.copies, sent.geo) = (copies, true);
                }
                reply(copies.map(|_| answer).ok_or_else(durability::not_followed));
            };
            self.copies.when_followed(need, Box::new(tell))?;
        }
        Ok(())
    }

    /// Removes tasks that are applied: along with other changes, or when there are many.
    fn draft_removals<'e>(&mut self, drafts: &mut Drafts<'e>) {
        for shard in &mut self.shards {
            let many = shard.outgoing.removable() >= APPLIED_TASKS;
            if many
                || drafts
                    .by_shard
                    .get(&shard.id)
                    .is_some_and(|draft| !draft.changes().is_empty())
            {
                let draft = drafts.of(shard.id);
                shard.outgoing.note(draft);
                shard.outgoing.remove_applied(draft, APPLIED_TASKS);
            }
        }
    }

    /// Makes entries of what the drafts say, gets them synced here and there, and applies them.
    fn commit(&mut self, changes: &[(ShardId, Bytes)]) -> Result<(), Fatal> {
        if changes.is_empty() {
            return Ok(());
        }
        let epoch = self.copies.epoch()?;
        let mut local = Changes::default();
        if self.identity.epoch != epoch {
            self.identity.epoch = epoch;
            self.identity.put(&mut local);
        }
        let mut segments = Vec::with_capacity(changes.len());
        let needs_log = self.copies.needs_log();
        for (id, changes) in changes {
            let shard = &mut self.shards[usize::from(id.0)];
            let after = shard.log.last();
            let entry = shard.log.append(epoch, changes.clone(), &mut local);
            // The table writes of the round before lie ahead of this batch in the journal, so they are synced
            // with it (E-2) and the mark may say so.
            local.put(
                Table::Meta,
                &table::applied(*id),
                &shard.applied.to_be_bytes(),
            );
            let keep_from = shard.applied.saturating_sub(KEPT_ENTRIES);
            if !needs_log && keep_from >= shard.log.base().offset + TRIM_STEP {
                shard.log.trim(&*self.engine, keep_from, &mut local)?;
            }
            segments.push(pb::Segment {
                shard: u32::from(id.0),
                after: Some(after.to_proto(*id)),
                entries: vec![entry.to_proto()],
                committed: shard.applied,
            });
        }
        self.copies.begin(segments)?;
        let written = match planted::is_time(Window::WriteFails) {
            false => self.engine.write(&[local.as_bytes()], Durability::Synced),
            true => Err(EngineError::Disk("it failed as planted".to_owned())),
        };
        let ignored = written.is_err() && planted::is_on(Bug::CommitAfterFailure);
        if !ignored {
            written?;
        }
        let ends = ends(&self.shards);
        self.copies.finish(&*self.engine, &ends)?;
        if ignored {
            return Ok(());
        }
        self.apply(changes)?;
        for (id, _) in changes {
            let shard = &mut self.shards[usize::from(id.0)];
            shard.applied = shard.log.last().offset;
        }
        Ok(())
    }

    /// Brings what the entries say into the tables, where readers see it.
    fn apply(&self, changes: &[(ShardId, Bytes)]) -> Result<(), EngineError> {
        let parts: Vec<&[u8]> = changes.iter().map(|(_, changes)| &changes[..]).collect();
        self.engine.write(&parts, Durability::Buffered)
    }

    /// What was caused may be carried; what was applied need not be again.
    fn feed_streams(
        &mut self,
        reached: Vec<Reached>,
        tasks: Vec<(ShardId, Vec<OutTask>)>,
    ) -> Result<(), Fatal> {
        for stream in reached {
            self.carried(&stream)?;
        }
        for (from, tasks) in tasks {
            for OutTask { to, n, task } in tasks {
                self.shards[usize::from(from.0)]
                    .outgoing
                    .committed(to, n, task);
            }
        }
        Ok(())
    }
}

fn is_sent(answer: &Result<Answer, Refusal>) -> bool {
    matches!(answer, Ok(Answer::Sent(_)))
}

/// Tasks whose marks are committed and whose effects are not; empty but for [`Bug::MarkBeforeEffect`].
fn postponed() -> MutexGuard<'static, Vec<(ShardId, Bytes)>> {
    static POSTPONED: Mutex<Vec<(ShardId, Bytes)>> = Mutex::new(Vec::new());
    POSTPONED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'e> Drafts<'e> {
    fn of(&mut self, shard: ShardId) -> &mut Draft<'e> {
        let engine = self.engine;
        self.by_shard
            .entry(shard)
            .or_insert_with(|| Draft::new(engine))
    }

    fn bytes(&self) -> usize {
        self.by_shard
            .values()
            .map(|draft| draft.changes().len())
            .sum()
    }
}

fn ends(shards: &[Shard]) -> Vec<LogEnd<'_>> {
    let ends = shards.iter().map(|shard| (&shard.log, shard.applied));
    ends.collect()
}

/// Which disk this is; a new one if nobody has said yet.
pub fn disk(engine: &dyn Engine) -> Result<Bytes, EngineError> {
    if let Some(disk) = engine.get(Table::Meta, &table::disk())? {
        return Ok(disk);
    }
    let disk = new_disk();
    let mut out = Changes::default();
    out.put(Table::Meta, &table::disk(), &disk);
    engine.write(&[out.as_bytes()], Durability::Synced)?;
    Ok(Bytes::copy_from_slice(&disk))
}

/// Makes the store that `identity` says of what this disk's tables have, although other disks may have more: as a new
/// disk, whose name this gives, and with logs that begin anew, so that nobody's log has a place in common with them.
pub fn begin_anew(engine: &dyn Engine, identity: &Identity) -> Result<Bytes, EngineError> {
    let disk = new_disk();
    let mut out = Changes::default();
    for id in identity.place.all() {
        let (mut log, damage) = ShardLog::open(engine, id)?;
        let last = log.last().offset.max(applied(engine, id)?);
        let seen = damage.map_or(last, |damage| damage.seen.max(last));
        log.cut(log.base(), seen, &mut out);
        let [a, b, c, d, ..] = disk;
        let begin = Mark {
            epoch: identity.epoch,
            offset: seen + 1,
            chain: u32::from_be_bytes([a, b, c, d]),
        };
        ShardLog::begin_after(id, begin, &mut out);
        out.put(
            Table::Meta,
            &table::applied(id),
            &begin.offset.to_be_bytes(),
        );
    }
    identity.put(&mut out);
    out.put(Table::Meta, &table::disk(), &disk);
    engine.write(&[out.as_bytes()], Durability::Synced)?;
    Ok(Bytes::copy_from_slice(&disk))
}

/// A name for a disk that nobody else has.
pub fn new_disk() -> [u8; 16] {
    let mut disk = [0; 16];
    rpc_core::base::rng::fill_secret(&mut disk);
    disk
}

/// Offset up to which a shard's entries are in the tables, as far as that is synced.
pub fn applied(engine: &dyn Engine, shard: ShardId) -> Result<u64, EngineError> {
    let Some(row) = engine.get(Table::Meta, &table::applied(shard))? else {
        return Ok(0);
    };
    table::number(&row).ok_or_else(|| EngineError::Damaged(format!("the applied mark of {shard}")))
}

/// Takes from the backup what our log of a shard lacks (C-3). Ours may have lost its tail; theirs was then
/// synced before we answered anybody.
fn take_lacking(
    engine: &dyn Engine,
    copies: &mut Copies,
    shard: ShardId,
    log: &mut ShardLog,
    theirs: Mark,
) -> Result<(), Fatal> {
    let applied = applied(engine, shard)?;
    let mut after = log.last();
    while (theirs.epoch, theirs.offset) > (after.epoch, after.offset) {
        let Some(entries) = copies.read_log(shard, after.offset + 1)? else {
            // It was left out of the view, because our log is whole.
            return Ok(());
        };
        let mut entries = entries.into_iter().peekable();
        let follows = |after, entry: &pb::Entry| Entry::following(after, entry.clone()).is_some();
        if !entries.peek().is_some_and(|entry| follows(after, entry)) {
            // Our last entry is not in theirs: it was never committed, unless we have applied it.
            after = log.mark_at(engine, after.offset.saturating_sub(1))?.filter(|_| after.offset > applied)
                .ok_or_else(|| {
                    let text = format!(
                        "the backup's log of {shard} does not go on from ours at entry {}: the copies have \
                         grown apart; stop both and copy the data directory of the one to be kept",
                        after.offset
                    );
                    Fatal::Copies(text)
                })?;
            continue;
        }
        let mut out = Changes::default();
        log.cut(after, 0, &mut out);
        for entry in entries {
            let entry = Entry::following(after, entry).ok_or_else(|| {
                Fatal::Copies(format!(
                    "the backup's log of {shard} is damaged after entry {}",
                    after.offset
                ))
            })?;
            log.push(&entry, &mut out);
            after = entry.mark;
        }
        engine.write(&[out.as_bytes()], Durability::Synced)?;
    }
    Ok(())
}

/// After taking what the backup has: nothing that was there before may still be missing.
fn check_whole(
    engine: &dyn Engine,
    shard: ShardId,
    log: &mut ShardLog,
    damage: Option<&Damage>,
) -> Result<(), Fatal> {
    let last = log.last();
    let seen = damage
        .map_or(0, |damage| damage.seen)
        .max(applied(engine, shard)?);
    if last.offset < seen {
        let text = format!(
            "the log of {shard} is damaged from entry {} on and no other copy has it; restore the data \
             directories from a backup",
            last.offset + 1
        );
        return Err(Fatal::Copies(text));
    }
    if let Some(damage) = damage {
        tracing::warn!(
            shard = shard.0,
            from = damage.from,
            "log was damaged and is mended from the backup"
        );
    }
    Ok(())
}

/// Applies the end of a log to the tables.
fn apply_rest(engine: &dyn Engine, log: &ShardLog, applied: u64) -> Result<(), EngineError> {
    let mut from = applied + 1;
    while from <= log.last().offset {
        let entries = log.read(engine, from, CHUNK_BYTES)?;
        let parts: Vec<&[u8]> = entries.iter().map(|entry| &entry.changes[..]).collect();
        engine.write(&parts, Durability::Buffered)?;
        from += entries.len() as u64;
    }
    Ok(())
}
