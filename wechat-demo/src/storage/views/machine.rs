//! One process's part in the views of its store: a pure state machine on the caller's clock.
//!
//! Knows: views, leases, grace, proposals.   Does not know: sockets, threads, logs; it is told what happened
//! and says what to propose, to whom to send beacons, and whether this process may serve.
//!
//! ```text
//!            no view: create            grace is over: take over, or promote itself
//!   nobody ───────────────▶ primary ◀─────────────────────────── backup, follower
//!      ▲                     │  ▲                                  ▲ │
//!      │   another view      │  └─ started again: resume           │ │ left out of the view
//!      └─────────────────────┘          joined when level ─────────┘ ▼
//! ```
//! The rules V-1 and V-4 to V-9 of [`super`] are kept here; the data's part is in `copies`.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::{model::Incarnation, proto::storage as pb};

/// Time since the machine was started; goes on while it sleeps.
pub type Time = Duration;

/// A copy of a store: a disk, and where the process that has it can be reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// HOST:PORT. Not part of who it is.
    pub address: String,
    /// 16 random bytes, made with the directory: an emptied disk is another member.
    pub disk: Bytes,
    /// Where it stands; empty = in the store's own IDC. Not part of who it is.
    pub idc: String,
}

/// What a member is to the primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Post {
    /// In the primary's IDC: has everything that is committed.
    Backup,
    /// In another one: has it a little later, and all of what was acknowledged as `geo`.
    Follower,
}

/// Who has a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// 1 for the first; every change is the next.
    pub epoch: u64,
    /// Serves.
    pub primary: Member,
    /// Has everything that is committed, and takes over.
    pub backup: Option<Member>,
    /// Stands in another IDC, and takes over when the primary's is gone.
    pub follower: Option<Member>,
    /// A follower has promoted itself, and nobody has joined since: one copy is enough, whatever was asked for.
    pub sole: bool,
    /// Part of every number given in this view.
    pub incarnation: Incarnation,
    /// 16 random bytes of whoever proposed it.
    pub proposal: Bytes,
    /// Whose view it is.
    pub store_id: Bytes,
    /// Of the store, for ever.
    pub shards: u32,
}

/// How long things take (V-4).
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Between two beacons to a member.
    pub beacon: Duration,
    /// Of the backup.
    pub backup: Patience,
    /// Of the follower.
    pub follower: Patience,
}

/// A hand-over that takes longer is given up: writes wait for it.
const HANDING: Duration = Duration::from_secs(5);

/// How long a member and the primary do without word of each other. Lease and grace must keep
/// lease × 1.1 < grace × 0.9: two clocks' rates may differ by a tenth.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The primary serves so long after the sending of a beacon that was answered.
    pub lease: Duration,
    /// The primary leaves the member out when it has not answered for so long.
    pub drop: Duration,
    /// The member waits so long after the receipt of a beacon before it takes over.
    pub grace: Duration,
}

impl Patience {
    fn of(lease: Duration, grace: Duration) -> Self {
        Self {
            lease,
            drop: lease * 2 / 3,
            grace,
        }
    }
}

impl Times {
    /// Of a member.
    pub fn of(&self, post: Post) -> Patience {
        match post {
            Post::Backup => self.backup,
            Post::Follower => self.follower,
        }
    }
}

impl Default for Times {
    fn default() -> Self {
        Self {
            beacon: Duration::from_millis(500),
            backup: Patience::of(Duration::from_secs(2), Duration::from_secs(3)),
            follower: Patience::of(Duration::from_secs(6), Duration::from_secs(8)),
        }
    }
}

/// A change of the view that is to be agreed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// Version of the view it replaces; `None` = there is none.
    pub version: Option<u64>,
    /// The view proposed.
    pub view: View,
    /// What it does.
    pub change: Change,
}

/// What a proposal does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// A new store.
    Create,
    /// The primary was started again (V-7).
    Resume,
    /// The backup becomes primary (V-6). The promise must be on the disk before it is proposed.
    TakeOver,
    /// The follower does, and may lack the end of what the primary had: a new incarnation begins (V-6). The same
    /// promise.
    Promote,
    /// The primary goes on without its backup, its follower, or both (V-5).
    LeaveOut,
    /// A learner becomes the backup (V-8).
    Join,
    /// A learner becomes the follower (V-8).
    Follow,
    /// The primary makes its follower primary, which has everything, because somebody asked for that.
    HandOver,
}

impl Change {
    /// Whether the process must have promised, on its disk, to refuse lower epochs before it proposes this.
    pub fn needs_promise(self) -> bool {
        matches!(self, Self::TakeOver | Self::Promote)
    }
}

/// What the committer may do now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nothing: this process is not primary.
    Over,
    /// Nothing yet: it is not known whether a learner has become the backup, or the follower primary.
    Unsettled,
    /// Commit what these have.
    With(Crew),
}

/// With whom a primary commits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Crew {
    /// In which entries are made.
    pub epoch: u64,
    /// Has everything that is committed.
    pub backup: Option<Member>,
    /// Has it too while there is no backup; else a little later.
    pub follower: Option<Member>,
    /// One copy is enough, see [`View::sole`].
    pub sole: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Machine {
    me: Member,
    times: Times,
    /// Lower epochs are refused. What a take-over promised is on the disk.
    promise: u64,
    known: Option<Known>,
    /// Agreed on or not, it is not known.
    proposed: Option<Proposal>,
    /// Epoch of the view that this very life proposed and that made or left it primary.
    reign: Option<u64>,
    /// Epoch in which the present reign began; what it says otherwise means nothing.
    #[cfg(test)]
    began: u64,
    /// By disk: of the newest beacon that was answered, in this life.
    answered: BTreeMap<Bytes, Answered>,
    /// When the known view was agreed on, or this process was last silent itself: no member is taken for silent that
    /// had no time to answer since.
    settled: Time,
    /// Receipt of the last beacon, or whatever else means that this process is not to take over yet.
    beaconed: Time,
    /// Who is to become backup.
    learner: Learner,
    /// Who is to become follower.
    recruit: Learner,
    /// Somebody has asked for a hand-over.
    handing: Option<Handing>,
    /// The follower of that disk cannot be kept near enough: it is to be left out.
    lagging: Option<Bytes>,
    /// When it last looked what to propose. If that is long ago it was this process that was silent.
    looked: Time,
}

/// An answered beacon.
#[derive(Clone, Copy, Debug)]
struct Answered {
    sent: Time,
    heard: Time,
}

/// Whose log is being brought level: it gets beacons too.
#[derive(Clone, Debug, Default)]
struct Learner {
    member: Option<Member>,
    /// It is level and may join.
    level: bool,
}

/// A hand-over to the follower that was asked for.
#[derive(Clone, Copy, Debug)]
struct Handing {
    /// When it is given up.
    until: Time,
    /// The follower has everything, and nothing is committed any more.
    level: bool,
}

#[derive(Clone, Debug)]
struct Known {
    version: u64,
    view: View,
}

impl Machine {
    /// A process that has just been started; it may have answered a beacon a moment before it ended.
    pub fn new(me: Member, times: Times, promise: u64, now: Time) -> Self {
        Self {
            me,
            times,
            promise,
            known: None,
            proposed: None,
            reign: None,
            #[cfg(test)]
            began: 0,
            answered: BTreeMap::new(),
            settled: now,
            beaconed: now,
            learner: Learner::default(),
            recruit: Learner::default(),
            handing: None,
            lagging: None,
            looked: now,
        }
    }

    /// Who this is.
    pub fn me(&self) -> &Member {
        &self.me
    }

    /// The newest view it knows.
    pub fn view(&self) -> Option<&View> {
        self.known.as_ref().map(|known| &known.view)
    }

    /// Lower epochs are refused.
    pub fn promise(&self) -> u64 {
        self.promise
    }

    /// Whose log is being brought level.
    pub fn set_learner(&mut self, post: Post, member: Option<Member>) {
        *self.learner_mut(post) = Learner {
            member,
            level: false,
        };
    }

    /// The learner is level: it may join. One that is to be backup stays so as long as [`Machine::standing`] is
    /// `Unsettled`; one that is to be follower has all that was acknowledged as `geo`.
    pub fn join(&mut self, post: Post) {
        let learner = self.learner_mut(post);
        learner.level = learner.member.is_some();
    }

    /// The follower lags too far behind, or lacks what cannot be sent to it in one piece: it is to be left out.
    pub fn lags(&mut self, follower: &Bytes) {
        self.lagging = Some(follower.clone());
    }

    /// Hands the store over to the follower, if that has everything soon.
    ///
    /// # Errors
    /// What is in the way, in words.
    pub fn hand_over(&mut self, now: Time) -> Result<(), &'static str> {
        if self.reign.is_none() {
            return Err("this process is not primary; ask the one that is");
        }
        if self.view().is_none_or(|view| view.follower.is_none()) {
            return Err("no follower is in the view: nobody in another IDC has everything");
        }
        let until = now + HANDING;
        self.handing.get_or_insert(Handing {
            until,
            level: false,
        });
        Ok(())
    }

    /// Whether the committer is to have the follower level, and to do nothing else.
    pub fn hands_over(&self) -> bool {
        self.handing.is_some()
    }

    /// The follower has everything. Nothing is committed from now on, unless the hand-over is given up.
    pub fn handed(&mut self) {
        if let Some(handing) = &mut self.handing {
            handing.level = true;
        }
    }

    fn learner_mut(&mut self, post: Post) -> &mut Learner {
        match post {
            Post::Backup => &mut self.learner,
            Post::Follower => &mut self.recruit,
        }
    }

    fn learners(&self) -> impl Iterator<Item = &Member> {
        let learners = [&self.learner, &self.recruit].into_iter();
        learners.filter_map(|learner| learner.member.as_ref())
    }

    /// Whether this process is primary.
    pub fn reigns(&self) -> bool {
        self.reign.is_some()
    }

    /// The epoch since which it has been that without a break.
    #[cfg(test)]
    pub fn reign_began(&self) -> Option<u64> {
        self.reign.map(|_| self.began)
    }

    /// Whether the known view has this process as a member, at `epoch` or later.
    pub fn is_member(&self, epoch: u64) -> bool {
        self.view().is_some_and(|view| {
            let mut members = view.members();
            view.epoch >= epoch && members.any(|member| member.disk == self.me.disk)
        })
    }

    /// A view was read, which may be an old one, or was agreed on. Nothing else settles a proposal: an answer
    /// that comes late could be to an earlier one.
    pub fn learn(&mut self, version: u64, view: View, now: Time) {
        if self
            .known
            .as_ref()
            .is_some_and(|known| known.version >= version)
        {
            return;
        }
        // Whatever was proposed can no longer be done: its version is gone.
        if let Some(proposed) = self.proposed.take()
            && proposed.view == view
        {
            return self.agreed(version, view, now);
        }
        self.reign = None;
        self.forget_learners();
        self.lagging = None;
        self.handing = None;
        self.promise = self.promise.max(view.epoch);
        self.beaconed = now;
        self.known = Some(Known { version, view });
    }

    fn forget_learners(&mut self) {
        self.learner = Learner::default();
        self.recruit = Learner::default();
    }

    fn agreed(&mut self, version: u64, view: View, now: Time) {
        if view.backup.is_some() {
            self.learner = Learner::default();
        }
        if view.follower.is_some() {
            self.recruit = Learner::default();
        }
        self.lagging = None;
        // What a change of the view has interrupted is asked for again.
        self.handing = None;
        self.promise = self.promise.max(view.epoch);
        #[cfg(test)]
        if self.reign.is_none_or(|epoch| epoch + 1 != view.epoch) {
            self.began = view.epoch;
        }
        // A higher promise was given to somebody who has a later view: this one is over already.
        let mine = view.primary.disk == self.me.disk;
        self.reign = (mine && self.promise == view.epoch).then_some(view.epoch);
        self.settled = now;
        self.known = Some(Known { version, view });
    }

    /// The coordinator has lost the view: what was proposed cannot be done.
    pub fn refused(&mut self) {
        self.proposed = None;
        self.forget_learners();
        self.handing = None;
    }

    /// What is to be agreed on now; the same again until it is settled. `proposal` is random.
    pub fn propose(&mut self, now: Time, proposal: &Bytes) -> Option<Proposal> {
        if now.saturating_sub(self.looked) > self.times.beacon {
            self.settled = now;
        }
        self.looked = now;
        self.handing = self.handing.filter(|handing| now < handing.until);
        if self.proposed.is_none() {
            let known = self.known.as_ref()?;
            let mut view = known.view.clone();
            let version = Some(known.version);
            let change = self.wanted(&mut view, now)?;
            view.epoch += 1;
            view.proposal = proposal.clone();
            if change.needs_promise() {
                self.promise = self.promise.max(view.epoch);
            }
            self.proposed = Some(Proposal {
                version,
                view,
                change,
            });
        }
        self.proposed.clone()
    }

    /// Proposes a new store; for a process with an empty disk that was told that there is no view.
    pub fn create(&mut self, store_id: Bytes, shards: u32, proposal: &Bytes) -> Proposal {
        let view = View {
            epoch: 1,
            primary: self.me.clone(),
            backup: None,
            follower: None,
            sole: false,
            incarnation: Incarnation::default(),
            proposal: proposal.clone(),
            store_id,
            shards,
        };
        self.proposed
            .get_or_insert(Proposal {
                version: None,
                view,
                change: Change::Create,
            })
            .clone()
    }

    fn wanted(&self, view: &mut View, now: Time) -> Option<Change> {
        if view.primary.disk == self.me.disk {
            if self.reign == Some(view.epoch) {
                let leaves_out = self.leaves_out(view, now);
                let hands_over = || self.passes_on(view);
                return leaves_out.or_else(hands_over).or_else(|| self.joins(view));
            }
            view.primary = self.me.clone();
            return Some(Change::Resume);
        }
        if !self.takes_over(now) {
            return None;
        }
        let change = match view.post_of(&self.me.disk)? {
            Post::Backup => Change::TakeOver,
            Post::Follower => {
                let incarnation = view.incarnation.0.checked_add(1)?;
                view.incarnation = Incarnation(incarnation);
                view.follower = None;
                view.sole = true;
                Change::Promote
            }
        };
        view.primary = self.me.clone();
        view.backup = None;
        Some(change)
    }

    fn leaves_out(&self, view: &mut View, now: Time) -> Option<Change> {
        let silent = |post, member: &Member| {
            let heard = self.answered.get(&member.disk);
            let heard = heard.map_or(self.settled, |answer| answer.heard.max(self.settled));
            now >= heard + self.times.of(post).drop
        };
        let before = view.members().count();
        view.backup = view
            .backup
            .take()
            .filter(|backup| !silent(Post::Backup, backup));
        let lags = |follower: &Member| self.lagging.as_ref() == Some(&follower.disk);
        let keeps = |follower: &Member| !lags(follower) && !silent(Post::Follower, follower);
        view.follower = view.follower.take().filter(keeps);
        (view.members().count() < before).then_some(Change::LeaveOut)
    }

    fn passes_on(&self, view: &mut View) -> Option<Change> {
        self.handing.filter(|handing| handing.level)?;
        view.primary = view.follower.take()?;
        view.backup = None;
        view.sole = true;
        Some(Change::HandOver)
    }

    fn joins(&self, view: &mut View) -> Option<Change> {
        let level = |learner: &Learner| learner.member.clone().filter(|_| learner.level);
        let change = if let (None, Some(backup)) = (&view.backup, level(&self.learner)) {
            view.backup = Some(backup);
            Change::Join
        } else if let (None, Some(follower)) = (&view.follower, level(&self.recruit)) {
            view.follower = Some(follower);
            Change::Follow
        } else {
            return None;
        };
        view.sole = false;
        Some(change)
    }

    /// Whether this is a member whose grace is over: it is about to promise that it will not be that any more,
    /// which is of use only when the coordinator can be reached.
    pub fn takes_over(&self, now: Time) -> bool {
        let post = self.view().and_then(|view| view.post_of(&self.me.disk));
        post.is_some_and(|post| now >= self.beaconed + self.times.of(post).grace)
    }

    /// A beacon came. `false` = its epoch is over, see [`Machine::promise`].
    pub fn beacon(&mut self, epoch: u64, now: Time) -> bool {
        if epoch < self.promise || self.reign == Some(epoch) {
            return false;
        }
        self.over(epoch);
        self.beaconed = now;
        true
    }

    /// To whom beacons go now, and in which epoch.
    pub fn beacons(&self) -> (u64, Vec<Member>) {
        let (Some(epoch), Some(view)) = (self.reign, self.view()) else {
            return (0, Vec::new());
        };
        let others = view.others().map(|(_, member)| member);
        (epoch, others.chain(self.learners()).cloned().collect())
    }

    /// A beacon sent at `sent` in `epoch` was answered by `disk`.
    pub fn answered(&mut self, disk: &Bytes, epoch: u64, sent: Time, now: Time) {
        let Some(reign) = self.reign else { return };
        // A past life's, or that of a view before this process lost it.
        if epoch > reign {
            return;
        }
        let answer = Answered { sent, heard: now };
        let newest = self.answered.entry(disk.clone()).or_insert(answer);
        newest.sent = sent.max(newest.sent);
        newest.heard = now;
        let kept: Vec<Bytes> = self.beacons().1.into_iter().map(|to| to.disk).collect();
        self.answered.retain(|disk, _| kept.contains(disk));
    }

    /// Somebody has heard of a higher epoch.
    pub fn over(&mut self, epoch: u64) {
        if epoch > self.promise {
            self.promise = epoch;
            self.reign = None;
            self.forget_learners();
            self.handing = None;
        }
    }

    /// Until when this process may serve; zero = not now.
    pub fn lease(&self) -> Time {
        let (Some(epoch), Some(view)) = (self.reign, self.view()) else {
            return Time::ZERO;
        };
        let passes_on = |proposed: &Proposal| proposed.change == Change::HandOver;
        if epoch != view.epoch || self.proposed.as_ref().is_some_and(passes_on) {
            return Time::ZERO;
        }
        // Whoever may be a member by now may take over.
        let proposed = self.proposed.iter().map(|proposed| &proposed.view);
        let members = proposed.chain([view]).flat_map(View::others);
        let ends = members.map(|(post, member)| {
            let answer = self.answered.get(&member.disk);
            answer.map_or(Time::ZERO, |answer| answer.sent + self.times.of(post).lease)
        });
        ends.min().unwrap_or(Time::MAX)
    }

    /// What the committer may do.
    pub fn standing(&self) -> Standing {
        let (Some(epoch), Some(view)) = (self.reign, self.view()) else {
            return Standing::Over;
        };
        let waits =
            |proposed: &Proposal| matches!(proposed.change, Change::Join | Change::HandOver);
        let handed = self.handing.is_some_and(|handing| handing.level);
        if self.learner.level || handed || self.proposed.as_ref().is_some_and(waits) {
            return Standing::Unsettled;
        }
        Standing::With(Crew {
            epoch,
            backup: view.backup.clone(),
            follower: view.follower.clone(),
            sole: view.sole,
        })
    }
}

impl Crew {
    /// The member, other than the primary, that has everything that is committed.
    pub fn holder(&self) -> Option<&Member> {
        self.backup.as_ref().or(self.follower.as_ref())
    }
}

impl Member {
    /// As it travels.
    pub fn to_proto(&self) -> pb::Member {
        pb::Member {
            address: self.address.clone(),
            disk: self.disk.clone(),
            idc: self.idc.clone(),
        }
    }
}

impl From<pb::Member> for Member {
    fn from(member: pb::Member) -> Self {
        Self {
            address: member.address,
            disk: member.disk,
            idc: member.idc,
        }
    }
}

impl View {
    /// The members that are not primary.
    pub fn others(&self) -> impl Iterator<Item = (Post, &Member)> {
        let backup = self.backup.iter().map(|member| (Post::Backup, member));
        backup.chain(self.follower.iter().map(|member| (Post::Follower, member)))
    }

    /// All of them, the primary first.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.primary).chain(self.others().map(|(_, member)| member))
    }

    /// What the member with this disk is; `None` = primary, or no member.
    fn post_of(&self, disk: &Bytes) -> Option<Post> {
        let mut others = self.others();
        others.find_map(|(post, member)| (member.disk == *disk).then_some(post))
    }

    /// As it is kept.
    pub fn to_proto(&self) -> pb::View {
        pb::View {
            epoch: self.epoch,
            primary: Some(self.primary.to_proto()),
            backup: self.backup.as_ref().map(Member::to_proto),
            follower: self.follower.as_ref().map(Member::to_proto),
            sole: self.sole,
            incarnation: u32::from(self.incarnation.0),
            proposal: self.proposal.clone(),
            store_id: self.store_id.clone(),
            shards: self.shards,
        }
    }
}

impl TryFrom<pb::View> for View {
    type Error = std::num::TryFromIntError;

    /// An incarnation that a number cannot hold is refused: cut short, it would be an old one.
    fn try_from(view: pb::View) -> Result<Self, Self::Error> {
        Ok(Self {
            epoch: view.epoch,
            primary: view.primary.unwrap_or_default().into(),
            backup: view.backup.map(Member::from),
            follower: view.follower.map(Member::from),
            sole: view.sole,
            incarnation: Incarnation(view.incarnation.try_into()?),
            proposal: view.proposal,
            store_id: view.store_id,
            shards: view.shards,
        })
    }
}
