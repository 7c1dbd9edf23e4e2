//! The people of a chaos run: terminals in a ring of friends, their groups, and what they say.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use indicatif::ProgressBar;
use rpc_core::base::rng::Rng;
use rpc_core::time::Instant;
use wechat_demo::history::{History, Recorder};
use wechat_demo::proto::terminal as pb;
use wechat_demo::proto::terminal::change_request::Change;
use wechat_demo::proto::terminal::group_change::What;
use wechat_demo::terminal::store::memory::Memory;
use wechat_demo::terminal::store::{LocalStore, StoreError, Stored};
use wechat_demo::terminal::sync::{Cursor, Page};
use wechat_demo::terminal::{Beats, Config, Observer, Terminal, TerminalError, new_client_id};

use super::timeline::Figures;
use crate::replay::accounts::{self, Person};
use crate::replay::parallel::parallel;
use crate::replay::play::introduce;

/// Silence of a terminal before a heartbeat: short, so that a run of a minute sees many.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Time for terminals to get level by themselves, beside a heartbeat and a tenth.
const REST: Duration = Duration::from_secs(5);
/// Everybody's friends are so many places further round the ring.
const FRIENDS: [usize; 2] = [1, 2];
/// Introductions and fresh devices at a time.
const WIDTH: usize = 16;
/// Time for one device to get level in the drain.
const PATIENCE: Duration = Duration::from_secs(60);
/// Everybody whose place in the ring this divides has a group with their friends.
const GROUPS: usize = 4;
/// Of so many messages one goes to a group.
const TO_GROUPS: u64 = 4;
/// Own messages that a person may still take back.
const SAID: usize = 32;
/// Nothing has moved for so long: then everything is where it goes.
const QUIET: Duration = Duration::from_millis(500);
/// Pause between looks.
const LOOK: Duration = Duration::from_millis(20);

/// Everybody.
pub(super) struct Crowd {
    /// Past the relay, for the fresh devices.
    straight: String,
    relayed: String,
    people: Vec<Person>,
    seats: Vec<Mutex<Seat>>,
    /// Everybody's second device, by person.
    tablets: Vec<Mutex<Tablet>>,
    groups: Vec<Group>,
    counts: Arc<Counts>,
    history: Arc<History>,
}

/// A group, whoever of its people is in it at the moment.
#[derive(Clone)]
pub(super) struct Group {
    pub(super) id: u64,
    /// The owner, then the owner's friends.
    pub(super) people: Vec<usize>,
}

/// A person's terminal, and what it keeps through restarts.
struct Seat {
    terminal: Terminal,
    store: Arc<Fragile>,
}

/// A person's second device: away but for moments in which it looks in.
struct Tablet {
    device: u64,
    token: Bytes,
    /// `None` = it has not looked in yet.
    store: Option<Arc<Memory>>,
}

#[derive(Default)]
struct Counts {
    offered: AtomicU64,
    acked: AtomicU64,
    applied: AtomicU64,
    /// Newest number acknowledged, by person.
    newest: Vec<AtomicU64>,
    /// Ids of the last messages acknowledged, newest first, by person.
    said: Vec<Mutex<VecDeque<u64>>>,
}

struct Ear {
    counts: Arc<Counts>,
    person: usize,
}

impl Observer for Ear {
    fn applied(&self, items: &[pb::Item]) {
        self.counts
            .applied
            .fetch_add(items.len() as u64, Ordering::Relaxed);
    }

    fn acked(&self, sent: &pb::Sent) {
        self.counts.acked.fetch_add(1, Ordering::Relaxed);
        self.counts.newest[self.person].fetch_max(sent.number, Ordering::AcqRel);
        let mut said = lock(&self.counts.said[self.person]);
        said.truncate(SAID - 1);
        said.push_front(sent.message_id);
    }
}

impl Crowd {
    /// Registers `count` people, starts their terminals behind the relay, and makes them friends.
    pub(super) fn gather(
        straight: &str,
        relayed: &str,
        count: usize,
        history: &Arc<History>,
    ) -> anyhow::Result<Arc<Self>> {
        let names: Vec<String> = (0..count).map(|n| format!("chaos{n}")).collect();
        let names = Arc::new(names);
        let address = straight.to_owned();
        let all = std::slice::from_ref(&address);
        let people = accounts::open(all, Arc::clone(&names), &ProgressBar::hidden())?;
        let tablets = parallel(count, WIDTH, move |index| {
            let (device, token) = accounts::log_in(&address, &names[index], "tablet")?;
            Ok(Mutex::new(Tablet {
                device,
                token,
                store: None,
            }))
        })?;
        let counts = Arc::new(Counts {
            newest: people.iter().map(|_| AtomicU64::new(0)).collect(),
            said: people.iter().map(|_| Mutex::default()).collect(),
            ..Counts::default()
        });
        let mut seats = Vec::with_capacity(count);
        for (index, person) in people.iter().enumerate() {
            let store = Arc::new(Fragile::new(person.user_id));
            let recorder = history.recorder(person.user_id, person.device);
            let terminal = start(relayed, person, index, &store, &counts, recorder);
            seats.push(Mutex::new(Seat { terminal, store }));
        }
        let mut crowd = Arc::new(Self {
            groups: Vec::new(),
            straight: straight.to_owned(),
            relayed: relayed.to_owned(),
            people,
            seats,
            tablets,
            counts,
            history: history.clone(),
        });
        let meeting = crowd.clone();
        parallel(count * FRIENDS.len(), WIDTH, move |index| {
            let one = index / FRIENDS.len();
            let other = (one + FRIENDS[index % FRIENDS.len()]) % meeting.people.len();
            let ids = (meeting.people[one].user_id, meeting.people[other].user_id);
            introduce(&meeting.terminal(one), &meeting.terminal(other), ids)
        })?;
        let groups: Vec<Group> = (0..count)
            .step_by(GROUPS)
            .map(|owner| crowd.found(owner))
            .collect::<anyhow::Result<_>>()?;
        Arc::get_mut(&mut crowd)
            .context("the introductions are not over")?
            .groups = groups;
        Ok(crowd)
    }

    /// Makes a group of a person and all friends, open to whoever has left it.
    fn found(&self, owner: usize) -> anyhow::Result<Group> {
        let people: Vec<usize> = [owner].into_iter().chain(self.friends(owner)).collect();
        let terminal = self.terminal(owner);
        let create = Change::CreateGroup(pb::CreateGroup {
            client_id: new_client_id(),
            name: format!("group of {owner}"),
            members: people[1..].iter().map(|&one| self.user(one)).collect(),
        });
        let id = terminal.change(create, PATIENCE)?.made;
        let until = Instant::now() + PATIENCE;
        while terminal.store().state(pb::Kind::Group, id)?.is_none() {
            anyhow::ensure!(Instant::now() < until, "the group {id} does not come");
            std::thread::sleep(LOOK);
        }
        let open = Change::Group(pb::GroupChange {
            group_id: id,
            what: Some(What::Open(true)),
        });
        terminal.change(open, PATIENCE)?;
        Ok(Group { id, people })
    }

    /// A person's friends, each once.
    fn friends(&self, person: usize) -> Vec<usize> {
        let count = self.people.len();
        let steps = FRIENDS.iter().flat_map(|step| [*step, count - step]);
        let mut friends: Vec<usize> = steps.map(|step| (person + step) % count).collect();
        friends.sort_unstable();
        friends.dedup();
        friends.retain(|friend| *friend != person);
        friends
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.people.len()
    }

    /// Offers messages at a steady rate until it is over, whatever becomes of them.
    pub(super) fn talk(&self, rate: u32, mut rng: Rng, over: &AtomicBool) {
        let began = Instant::now();
        let gap = Duration::from_secs(1) / rate;
        let mut count = 0_u32;
        while !over.load(Ordering::Acquire) {
            let due = began + gap * count;
            let wait = due.saturating_since(Instant::now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            count += 1;
            let sender = rng.below(self.people.len() as u64) as usize;
            let receiver = self.some_conversation(sender, &mut rng);
            self.counts.offered.fetch_add(1, Ordering::Relaxed);
            // A full outbox is what an overloaded phone has: the message is not said.
            let _ =
                self.terminal(sender)
                    .send(receiver, new_client_id(), format!("message {count}"));
        }
    }

    /// A friend of the person's.
    pub(super) fn some_friend(&self, person: usize, rng: &mut Rng) -> u64 {
        let friends = self.friends(person);
        self.user(friends[rng.below(friends.len() as u64) as usize])
    }

    /// A friend, or a group that the person is or was in.
    pub(super) fn some_conversation(&self, person: usize, rng: &mut Rng) -> u64 {
        let groups = self.groups_of(person);
        if rng.below(TO_GROUPS) == 0 && !groups.is_empty() {
            return groups[rng.below(groups.len() as u64) as usize].id;
        }
        self.some_friend(person, rng)
    }

    /// The groups that a person belongs to, whether in them at the moment or not.
    pub(super) fn groups_of(&self, person: usize) -> Vec<&Group> {
        let groups = self.groups.iter();
        groups
            .filter(|group| group.people.contains(&person))
            .collect()
    }

    /// A person's user id.
    pub(super) fn user(&self, person: usize) -> u64 {
        self.people[person].user_id
    }

    /// The id of a message of the person's that was acknowledged, the newest with 0.
    pub(super) fn said(&self, person: usize, back: usize) -> Option<u64> {
        lock(&self.counts.said[person]).get(back).copied()
    }

    /// The count of the newest message of a conversation at a person's terminal.
    pub(super) fn newest_in(&self, person: usize, peer: u64) -> Option<u64> {
        let messages = self.terminal(person).store().messages(peer, 2).ok()?;
        messages.iter().map(|stored| stored.pos.count).max()
    }

    /// Has something changed; the id of what that made, if it is known to be done.
    pub(super) fn change(&self, person: usize, change: Change, patience: Duration) -> Option<u64> {
        let reply = self.terminal(person).change(change, patience).ok()?;
        self.counts.newest[person].fetch_max(reply.number, Ordering::AcqRel);
        Some(reply.made)
    }

    /// What has happened so far.
    pub(super) fn figures(&self) -> Figures {
        Figures {
            offered: self.counts.offered.load(Ordering::Relaxed),
            acked: self.counts.acked.load(Ordering::Relaxed),
            applied: self.counts.applied.load(Ordering::Relaxed),
        }
    }

    /// Ends a terminal between receiving something and storing it, and starts it again on its store.
    pub(super) fn kill_terminal(&self, person: usize) {
        let mut seat = self.seat(person);
        seat.store.refuse(true);
        let until = Instant::now() + Duration::from_secs(2);
        while seat.terminal.failed().is_none() && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
        seat.terminal.stop();
        seat.store.refuse(false);
        seat.terminal = self.start(person, &seat.store);
    }

    /// Starts a terminal again with nothing, on the same device.
    pub(super) fn reinstall(&self, person: usize) {
        let mut seat = self.seat(person);
        seat.terminal.stop();
        seat.store = Arc::new(Fragile::new(self.people[person].user_id));
        seat.terminal = self.start(person, &seat.store);
    }

    /// A person's second device comes back from where it was, gets level, and goes again.
    pub(super) fn look_in(&self, person: usize, patience: Duration) -> Result<u64, TerminalError> {
        let user = self.people[person].user_id;
        let mut tablet = lock(&self.tablets[person]);
        let mut config = Config::new(&self.straight, tablet.token.clone());
        config.history = Some(self.history.recorder(user, tablet.device));
        let store = tablet
            .store
            .get_or_insert_with(|| Arc::new(Memory::new(user)));
        let terminal = Terminal::start(config, store.clone(), Arc::new(Deaf));
        let level = terminal.refresh(patience);
        terminal.stop();
        level
    }

    /// Whether a person's second device has ever looked in.
    fn has_tablet(&self, person: usize) -> bool {
        lock(&self.tablets[person]).store.is_some()
    }

    /// Waits until nobody has anything unanswered.
    pub(super) fn wait_answered(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let unsent = |person| self.terminal(person).unsent() > 0;
        while (0..self.len()).any(unsent) && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until everybody has what was acknowledged to them, as long as that may take by itself.
    pub(super) fn rest(&self) {
        let until = Instant::now() + HEARTBEAT.mul_f64(1.1) + REST;
        let is_level = |person: usize| {
            let newest = self.counts.newest[person].load(Ordering::Acquire);
            self.terminal(person).store().key() >= newest
        };
        // What goes by way of a group's home is announced to nobody before it is there: it is waited for as well.
        let keys = || -> Vec<u64> {
            let key = |person| self.terminal(person).store().key();
            (0..self.len()).map(key).collect()
        };
        let (mut before, mut moved) = (keys(), Instant::now());
        while Instant::now() < until && !((0..self.len()).all(is_level) && moved.elapsed() > QUIET)
        {
            std::thread::sleep(LOOK);
            let now = keys();
            if now != before {
                (before, moved) = (now, Instant::now());
            }
        }
    }

    /// Brings everybody level, and a fresh device for each.
    pub(super) fn drain(self: &Arc<Self>) -> anyhow::Result<()> {
        let crowd = self.clone();
        parallel(self.len(), WIDTH, move |index| {
            let level = crowd.terminal(index).refresh(PATIENCE);
            level.map_err(|error| anyhow::anyhow!("terminal {index} is not level: {error}"))?;
            let person = &crowd.people[index];
            let mut config = Config::new(&crowd.straight, person.fresh_token.clone());
            config.history = Some(crowd.history.recorder(person.user_id, person.fresh_device));
            let store = Arc::new(Memory::new(person.user_id));
            let fresh = Terminal::start(config, store, Arc::new(Deaf));
            let level = fresh.refresh(PATIENCE);
            fresh.stop();
            level.map_err(|error| anyhow::anyhow!("fresh device {index} is not level: {error}"))?;
            if crowd.has_tablet(index) {
                let level = crowd.look_in(index, PATIENCE);
                level.map_err(|error| anyhow::anyhow!("tablet {index} is not level: {error}"))?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Ends every terminal.
    pub(super) fn close(&self) {
        (0..self.len()).for_each(|person| self.terminal(person).stop());
    }

    pub(super) fn terminal(&self, person: usize) -> Terminal {
        self.seat(person).terminal.clone()
    }

    fn start(&self, person: usize, store: &Arc<Fragile>) -> Terminal {
        let who = &self.people[person];
        let recorder = self.history.recorder(who.user_id, who.device);
        start(&self.relayed, who, person, store, &self.counts, recorder)
    }

    fn seat(&self, person: usize) -> MutexGuard<'_, Seat> {
        lock(&self.seats[person])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start(
    address: &str,
    person: &Person,
    index: usize,
    store: &Arc<Fragile>,
    counts: &Arc<Counts>,
    recorder: Recorder,
) -> Terminal {
    let mut config = Config::new(address, person.token.clone());
    config.heartbeat = Beats::Fixed(HEARTBEAT);
    config.history = Some(recorder);
    let ear = Ear {
        counts: counts.clone(),
        person: index,
    };
    Terminal::start(config, store.clone(), Arc::new(ear))
}

/// Listens to nothing.
struct Deaf;

impl Observer for Deaf {}

/// A store in memory that can be made to refuse, as a process that dies before its write does.
struct Fragile {
    memory: Memory,
    refuses: AtomicBool,
}

impl Fragile {
    fn new(user: u64) -> Self {
        Self {
            memory: Memory::new(user),
            refuses: AtomicBool::new(false),
        }
    }

    fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::Release);
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.refuses.load(Ordering::Acquire) {
            true => Err(StoreError::Engine("the terminal was killed".to_owned())),
            false => Ok(()),
        }
    }
}

impl LocalStore for Fragile {
    fn owner(&self) -> u64 {
        self.memory.owner()
    }

    fn cursor(&self) -> Cursor {
        self.memory.cursor()
    }

    fn apply_page(
        &self,
        before: u64,
        page: Page,
        items: &[pb::Item],
        after: Cursor,
    ) -> Result<(), StoreError> {
        self.check()?;
        self.memory.apply_page(before, page, items, after)
    }

    fn rewind(&self, before: u64, to: u64) -> Result<Cursor, StoreError> {
        self.check()?;
        self.memory.rewind(before, to)
    }

    fn again(&self) -> Result<Option<(u64, pb::SendRequest)>, StoreError> {
        self.memory.again()
    }

    fn said_again(&self, name: u64) -> Result<(), StoreError> {
        self.check()?;
        self.memory.said_again(name)
    }

    fn messages(&self, other: u64, limit: usize) -> Result<Vec<Stored>, StoreError> {
        self.memory.messages(other, limit)
    }

    fn conversations(&self) -> Result<Vec<u64>, StoreError> {
        self.memory.conversations()
    }

    fn state(&self, kind: pb::Kind, id: u64) -> Result<Option<pb::Item>, StoreError> {
        self.memory.state(kind, id)
    }

    fn states(&self, kind: pb::Kind) -> Result<Vec<pb::Item>, StoreError> {
        self.memory.states(kind)
    }
}
