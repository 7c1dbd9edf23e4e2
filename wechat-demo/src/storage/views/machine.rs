//! One process's part in the views of its store: a pure state machine on the caller's clock.
//!
//! Knows: views, leases, grace, proposals.   Does not know: sockets, threads, logs; it is told what happened
//! and says what to propose, to whom to send beacons, and whether this process may serve.
//!
//! ```text
//!            no view: create            grace is over: take over
//!   nobody ───────────────▶ primary ◀─────────────────────────── backup
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
    /// Part of every number given in this view.
    pub incarnation: Incarnation,
    /// 16 random bytes of whoever proposed it.
    pub proposal: Bytes,
    /// Whose view it is.
    pub store_id: Bytes,
    /// Of the store, for ever.
    pub shards: u32,
}

/// How long things take (V-4). Lease and grace must keep lease × 1.1 < grace × 0.9: two clocks' rates may
/// differ by a tenth.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Between two beacons to a member.
    pub beacon: Duration,
    /// The primary serves so long after the sending of a beacon that was answered.
    pub lease: Duration,
    /// The primary leaves a member out that has not answered for so long.
    pub drop: Duration,
    /// A backup waits so long after the receipt of a beacon before it takes over.
    pub grace: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let lease = Duration::from_secs(2);
        Self {
            beacon: lease / 4,
            lease,
            drop: lease * 2 / 3,
            grace: Duration::from_secs(3),
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
    /// The primary goes on without its backup (V-5).
    LeaveOut,
    /// A learner becomes the backup (V-8).
    Join,
}

/// What the committer may do now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nothing: this process is not primary.
    Over,
    /// Nothing yet: it is not known whether a learner has become the backup.
    Unsettled,
    /// Commit what the backup has.
    With(u64, Member),
    /// Commit alone, where one copy is enough.
    Alone(u64),
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
    /// By disk: sending of the newest beacon that was answered, in this life.
    answered: BTreeMap<Bytes, Time>,
    /// When the backup of the known view last answered, or became that.
    heard: Time,
    /// Until when this process does not take over.
    grace: Time,
    /// Whom the committer has brought level.
    joiner: Option<Member>,
    /// Whose log is being brought level: it gets beacons too.
    learner: Option<Member>,
    /// When it last looked what to propose. If that is long ago it was this process that was silent.
    looked: Time,
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
            heard: now,
            grace: now + times.grace,
            joiner: None,
            learner: None,
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
    pub fn set_learner(&mut self, learner: Option<Member>) {
        self.learner = learner;
        self.joiner = None;
    }

    /// The learner is level and stays so as long as [`Machine::standing`] is `Unsettled`: it may join.
    pub fn join(&mut self) {
        self.joiner = self.learner.clone();
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
            let backup = view.backup.as_ref();
            view.epoch >= epoch
                && (view.primary.disk == self.me.disk
                    || backup.is_some_and(|backup| backup.disk == self.me.disk))
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
        self.joiner = None;
        self.promise = self.promise.max(view.epoch);
        self.grace = self.grace.max(now + self.times.grace);
        self.known = Some(Known { version, view });
    }

    fn agreed(&mut self, version: u64, view: View, now: Time) {
        self.joiner = None;
        self.learner = None;
        self.promise = self.promise.max(view.epoch);
        #[cfg(test)]
        if self.reign.is_none_or(|epoch| epoch + 1 != view.epoch) {
            self.began = view.epoch;
        }
        // A higher promise was given to somebody who has a later view: this one is over already.
        self.reign = (self.promise == view.epoch).then_some(view.epoch);
        self.heard = now;
        self.known = Some(Known { version, view });
    }

    /// The coordinator has lost the view: what was proposed cannot be done.
    pub fn refused(&mut self) {
        self.proposed = None;
        self.joiner = None;
    }

    /// What is to be agreed on now; the same again until it is settled. `proposal` is random.
    pub fn propose(&mut self, now: Time, proposal: &Bytes) -> Option<Proposal> {
        if now.saturating_sub(self.looked) > self.times.beacon {
            self.heard = now;
        }
        self.looked = now;
        if self.proposed.is_none() {
            let known = self.known.as_ref()?;
            let mut view = known.view.clone();
            let version = Some(known.version);
            let change = self.wanted(&mut view, now)?;
            view.epoch += 1;
            view.proposal = proposal.clone();
            if change == Change::TakeOver {
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
            if self.reign != Some(view.epoch) {
                view.primary = self.me.clone();
                return Some(Change::Resume);
            }
            if view.backup.is_some() {
                let silent = now >= self.heard + self.times.drop;
                view.backup = None;
                return silent.then_some(Change::LeaveOut);
            }
            view.backup = Some(self.joiner.clone()?);
            return Some(Change::Join);
        }
        if self.takes_over(now) {
            view.primary = self.me.clone();
            view.backup = None;
            return Some(Change::TakeOver);
        }
        None
    }

    /// Whether this is the backup and its grace is over: it is about to promise that it will not be that any
    /// more, which is of use only when the coordinator can be reached.
    pub fn takes_over(&self, now: Time) -> bool {
        let backup = self.view().and_then(|view| view.backup.as_ref());
        now >= self.grace && backup.is_some_and(|backup| backup.disk == self.me.disk)
    }

    /// A beacon came. `false` = its epoch is over, see [`Machine::promise`].
    pub fn beacon(&mut self, epoch: u64, now: Time) -> bool {
        if epoch < self.promise || self.reign == Some(epoch) {
            return false;
        }
        self.over(epoch);
        self.grace = now + self.times.grace;
        true
    }

    /// To whom beacons go now, and in which epoch.
    pub fn beacons(&self) -> (u64, Vec<Member>) {
        let (Some(epoch), Some(view)) = (self.reign, self.view()) else {
            return (0, Vec::new());
        };
        let others = view.backup.iter().chain(&self.learner);
        (epoch, others.cloned().collect())
    }

    /// A beacon sent at `sent` in `epoch` was answered by `disk`.
    pub fn answered(&mut self, disk: &Bytes, epoch: u64, sent: Time, now: Time) {
        let Some(reign) = self.reign else { return };
        // A past life's, or that of a view before this process lost it.
        if epoch > reign {
            return;
        }
        let newest = self.answered.entry(disk.clone()).or_insert(sent);
        *newest = sent.max(*newest);
        let backup = self.view().and_then(|view| view.backup.as_ref());
        if backup.is_some_and(|backup| backup.disk == *disk) {
            self.heard = now;
        }
        let kept: Vec<Bytes> = self.beacons().1.into_iter().map(|to| to.disk).collect();
        self.answered.retain(|disk, _| kept.contains(disk));
    }

    /// Somebody has heard of a higher epoch.
    pub fn over(&mut self, epoch: u64) {
        if epoch > self.promise {
            self.promise = epoch;
            self.reign = None;
            self.joiner = None;
        }
    }

    /// Until when this process may serve; zero = not now.
    pub fn lease(&self) -> Time {
        let (Some(epoch), Some(view)) = (self.reign, self.view()) else {
            return Time::ZERO;
        };
        if epoch != view.epoch {
            return Time::ZERO;
        }
        // Whoever may be the backup by now may take over.
        let joining = self.proposed.as_ref().map(|proposed| &proposed.view);
        let backup = joining.and_then(|view| view.backup.as_ref());
        match view.backup.as_ref().or(backup) {
            None => Time::MAX,
            Some(backup) => self
                .answered
                .get(&backup.disk)
                .map_or(Time::ZERO, |&sent| sent + self.times.lease),
        }
    }

    /// What the committer may do.
    pub fn standing(&self) -> Standing {
        let (Some(epoch), Some(view)) = (self.reign, self.view()) else {
            return Standing::Over;
        };
        let joining = self.proposed.as_ref();
        if self.joiner.is_some() || joining.is_some_and(|joining| joining.change == Change::Join) {
            return Standing::Unsettled;
        }
        match &view.backup {
            Some(backup) => Standing::With(epoch, backup.clone()),
            None => Standing::Alone(epoch),
        }
    }
}

impl Member {
    /// As it travels.
    pub fn to_proto(&self) -> pb::Member {
        pb::Member {
            address: self.address.clone(),
            disk: self.disk.clone(),
        }
    }
}

impl From<pb::Member> for Member {
    fn from(member: pb::Member) -> Self {
        Self {
            address: member.address,
            disk: member.disk,
        }
    }
}

impl View {
    /// As it is kept.
    pub fn to_proto(&self) -> pb::View {
        pb::View {
            epoch: self.epoch,
            primary: Some(self.primary.to_proto()),
            backup: self.backup.as_ref().map(Member::to_proto),
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
            incarnation: Incarnation(view.incarnation.try_into()?),
            proposal: view.proposal,
            store_id: view.store_id,
            shards: view.shards,
        })
    }
}
