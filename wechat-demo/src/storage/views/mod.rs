//! Views and leases: who of the processes has a store, and who may serve it (PacificA's scheme,
//! MSR-TR-2008-25).
//!
//! Knows: the coordinator, beacons, threads, time.   Does not know: logs; `copies` moves the data.
//!
//! One view per store, all its shards together. The rules, as the code cites them:
//! - V-1  The coordinator holds the view (epoch, primary, backup?, follower?, incarnation), changed by compare-and-set
//!   alone, with a random proposal id. A member is a disk; an emptied disk is a new member. The backup stands in the
//!   primary's IDC, the follower in another.
//! - V-2  Committed = synced by primary and backup; by primary and follower while the view has no backup; and by
//!   `min_copies`. What asks for `geo` is acknowledged when the follower has synced it too. See `copies`.
//! - V-3  Copies refuse lower epochs and cut off what does not follow the primary's log.
//! - V-4  The primary serves while it holds a lease from every other member: 2 s (backup), 6 s (follower) from the
//!   *sending* of the last beacon that was answered. The member counts 3 s and 8 s of grace from the *receipt* of one.
//!   A view without others needs no lease: nobody else can become primary. The clock goes on while the machine sleeps.
//! - V-5  A primary without an answer for two thirds of a lease leaves that member out. With fewer than `min_copies`
//!   left writes wait, reads go on.
//! - V-6  A member whose grace is over promises, on its disk, to refuse the old epoch, and makes itself primary. Its log
//!   is the truth. The backup lacks nothing committed. The follower may: it raises the incarnation, and serves with one
//!   copy until another is level. Nobody outside the view is ever promoted by itself.
//!   A primary that is asked to hands over to its follower: it stops, and makes it primary once that has everything.
//! - V-7  A primary that was started again takes a new epoch, then what its log lacks of the backup's, or the follower's
//!   where there is no backup.
//! - V-8  The primary recruits learners among the live processes; they join the view when they are level.
//! - V-9  Coordinator gone: views stay, leases go on, data is served; a second failure waits. IDC cut off: its primary
//!   stops after 6 s, the follower serves after 8 s. Cut off from the follower alone: the primary leaves it out after
//!   4 s and never stops.
//!
//! Read first: [`machine`], then [`Views`].

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rpc_core::base::time::since_boot;

use super::copies::{Fatal, Peer, Reign};
use super::meter::Meter;
use super::wire::RemotePeer;
use super::witness::Witness;
use crate::coordinator::{Fault, Session};
use crate::planted::{self, Bug};
use crate::proto::storage as pb;
use machine::{Machine, Member, Post, Standing, Time, Times, View};

mod beacons;
mod council;
pub mod machine;
#[cfg(test)]
mod model_tests;

pub use beacons::send_beacons;
pub use council::{Council, STORES};

/// One process's part in the views of its store, shared by its threads. Cheap to clone.
#[derive(Clone)]
pub struct Views {
    shared: Arc<Shared>,
}

struct Shared {
    machine: Mutex<Machine>,
    /// Until when this process may serve, in nanoseconds since the machine's start; 0 = not.
    lease: AtomicU64,
    /// Live processes as the coordinator knows them, this one among them.
    live: Mutex<Vec<Member>>,
    stop: AtomicBool,
    witness: Option<Witness>,
}

impl Views {
    /// Of a process that was just started, and who writes down what it may do.
    pub fn new(me: Member, promise: u64, witness: Option<Witness>) -> Self {
        let machine = Machine::new(me, Times::default(), promise, since_boot());
        Self {
            shared: Arc::new(Shared {
                machine: Mutex::new(machine),
                lease: AtomicU64::new(0),
                live: Mutex::default(),
                stop: AtomicBool::new(false),
                witness,
            }),
        }
    }

    /// Does something with the machine, at this time.
    pub fn with<T>(&self, act: impl FnOnce(&mut Machine, Time) -> T) -> T {
        let mut machine = lock(&self.shared.machine);
        let outcome = act(&mut machine, since_boot());
        let lease = u64::try_from(machine.lease().as_nanos()).unwrap_or(u64::MAX);
        self.shared.lease.store(lease, Ordering::Release);
        if let Some(witness) = &self.shared.witness {
            witness.lease(machine.view().map_or(0, |view| view.epoch), machine.lease());
        }
        outcome
    }

    /// Whether this process may serve. What was read before this said yes was the newest there is.
    pub fn may_serve(&self) -> bool {
        let now = u64::try_from(since_boot().as_nanos()).unwrap_or(u64::MAX);
        let lease = self.shared.lease.load(Ordering::Acquire);
        now < lease || lease > 0 && planted::is_on(Bug::LeaseIgnored)
    }

    /// As [`Views::may_serve`], of whoever has an answer in hand: it is written down.
    pub fn serves(&self) -> bool {
        let at = self.shared.witness.as_ref().map(Witness::now);
        let serves = self.may_serve();
        if let (true, Some(witness), Some(at)) = (serves, &self.shared.witness, at) {
            witness.serves(at);
        }
        serves
    }

    /// The view in which this process is primary.
    pub fn reign(&self) -> Option<View> {
        self.with(|machine, _| match machine.standing() {
            Standing::Over => None,
            _ => machine.view().cloned(),
        })
    }

    /// The highest epoch known or promised, and the members of the known view.
    pub fn describe(&self) -> (u64, u32) {
        self.with(|machine, _| {
            let view = machine.view();
            let copies = view.map_or(0, |view| view.members().count() as u32);
            (machine.promise(), copies)
        })
    }

    /// What this process is in the view that it knows, in a word; empty while it knows none.
    pub fn standing(&self) -> &'static str {
        self.with(|machine, _| {
            let Some(view) = machine.view() else {
                return "";
            };
            let is_me = |member: &Member| member.disk == machine.me().disk;
            if is_me(&view.primary) {
                "primary"
            } else if view.backup.as_ref().is_some_and(is_me) {
                "backup"
            } else if view.follower.as_ref().is_some_and(is_me) {
                "follower"
            } else {
                "spare"
            }
        })
    }

    /// Answers a beacon.
    pub fn beacon(&self, epoch: u64) -> pb::BeaconReply {
        self.with(|machine, now| {
            machine.beacon(epoch, now);
            pb::BeaconReply {
                epoch: machine.promise(),
                disk: machine.me().disk.clone(),
            }
        })
    }

    /// Ends the threads and the committer's waiting.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn set_live(&self, live: Vec<Member>) {
        *lock(&self.shared.live) = live;
    }
}

/// The committer's [`Reign`].
pub struct Throne {
    views: Views,
    meter: Arc<Meter>,
    /// By address: the disk that was meant there last, and the way to it.
    peers: HashMap<String, (Bytes, Arc<dyn Peer>)>,
    /// Whether it may be followed: a database that several processes share keeps its copies itself.
    followed: bool,
    /// When candidates were last given out: for backup, for follower.
    asked: [Time; 2],
}

/// Pause between two attempts to reach a copy.
const PAUSE: Duration = Duration::from_millis(20);
/// Pause between two attempts to recruit one.
const RECRUIT: Duration = Duration::from_millis(300);
/// Of how many pauses one is written down.
const MISSES_PER_WARNING: u64 = 200;

impl Throne {
    /// For one reign.
    pub fn new(views: Views, meter: Arc<Meter>, followed: bool) -> Self {
        Self {
            views,
            meter,
            peers: HashMap::new(),
            followed,
            asked: [Time::ZERO; 2],
        }
    }
}

impl Reign for Throne {
    fn standing(&mut self) -> Standing {
        self.views.with(|machine, _| machine.standing())
    }

    fn peer(&mut self, member: &Member) -> Arc<dyn Peer> {
        let make = || -> Arc<dyn Peer> { Arc::new(RemotePeer::new(member)) };
        let (disk, peer) = self
            .peers
            .entry(member.address.clone())
            .or_insert_with(|| (member.disk.clone(), make()));
        if *disk != member.disk {
            (*disk, *peer) = (member.disk.clone(), make());
        }
        Arc::clone(peer)
    }

    fn pause(&mut self) -> Result<(), Fatal> {
        if self.views.stopped() {
            return Err(Fatal::Stopped);
        }
        Meter::add(&self.meter.copy_misses, 1);
        let misses = self.meter.copy_misses.load(Ordering::Relaxed);
        if misses.is_multiple_of(MISSES_PER_WARNING) {
            tracing::warn!(misses, "writes have waited for the other copy");
        }
        std::thread::sleep(PAUSE);
        Ok(())
    }

    fn candidates(&mut self, post: Post) -> Vec<Member> {
        let now = since_boot();
        let asked = &mut self.asked[usize::from(post == Post::Follower)];
        if now < *asked + RECRUIT || post == Post::Follower && !self.followed {
            return Vec::new();
        }
        *asked = now;
        let me = self.views.with(|machine, _| machine.me().clone());
        let fits = |member: &Member| {
            member.disk != me.disk && (member.idc == me.idc) == (post == Post::Backup)
        };
        let live = lock(&self.views.shared.live);
        live.iter().filter(|member| fits(member)).cloned().collect()
    }

    fn learning(&mut self, post: Post, learner: Option<Member>) {
        self.views
            .with(|machine, _| machine.set_learner(post, learner));
    }

    fn join(&mut self, post: Post) {
        self.views.with(|machine, _| machine.join(post));
    }

    fn hands_over(&mut self) -> bool {
        self.views.with(|machine, _| machine.hands_over())
    }

    fn handed(&mut self) {
        self.views.with(|machine, _| machine.handed());
    }

    fn lags(&mut self, follower: &Member) {
        self.views.with(|machine, _| machine.lags(&follower.disk));
    }

    fn over(&mut self, epoch: u64) {
        self.views.with(|machine, _| machine.over(epoch));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Members by disk, the ones listed later in the place of the same disk's earlier ones.
fn by_disk(members: Vec<Member>) -> Vec<Member> {
    let disks: BTreeMap<Bytes, Member> = members
        .into_iter()
        .map(|member| (member.disk.clone(), member))
        .collect();
    disks.into_values().collect()
}

/// A node of a store at the coordinator.
pub fn path(store: &str, name: &str) -> String {
    format!("{STORES}/{store}/{name}")
}

/// The storage processes of a store that the coordinator has heard of.
pub fn live_members(session: &dyn Session, store: &str) -> Result<Vec<Member>, Fault> {
    let mut live = Vec::new();
    for name in session.children(&path(store, "live"))? {
        let node = session.read(&path(store, &format!("live/{name}")))?;
        let member = node.and_then(|node| pb::Member::decode(node.data).ok());
        live.extend(member.map(Member::from));
    }
    Ok(by_disk(live))
}

/// A view as the coordinator has it; what cannot be read is said, and is no view to act on.
pub fn view_of(data: Bytes) -> Option<View> {
    let view = pb::View::decode(data).map_err(anyhow::Error::from);
    let view = view.and_then(|view| Ok(View::try_from(view)?));
    view.inspect_err(|error| tracing::error!(%error, "the view at the coordinator cannot be read"))
        .ok()
}
