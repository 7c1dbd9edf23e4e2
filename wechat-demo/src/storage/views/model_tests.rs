//! The rules of the views under random crash, cut, pause and lost answers, on virtual time: three processes in the
//! store's own IDC and two in another, with the real [`Machine`] each, a coordinator, a network; a log is a list of
//! numbered values.
//!
//! Everything random comes from one seed, which a failure prints. At every event at most one process may
//! serve; whatever was acknowledged as `geo` is in the last primary's log, under its number, and so is all else that was
//! acknowledged, unless a follower has raised the incarnation since; numbers rise along it, and none is acknowledged twice.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use rpc_core::base::rng::Rng;

use super::machine::{Change, Crew, Machine, Member, Post, Proposal, Standing, Time, Times, View};
use crate::model::{Incarnation, Seq};

mod committer;

use committer::incarnation;

/// A process, by its place.
type Id = usize;

const PROCESSES: usize = 5;
/// Those from here on stand in another IDC than those before.
const AWAY: Id = 3;
/// Numbers by which a log's limit is raised ahead.
const STEP: u64 = 10;
const TICK: Duration = Duration::from_millis(40);
const BEACON: Duration = Duration::from_millis(500);
/// Something happens to somebody this often, about.
const FAULT: Duration = Duration::from_millis(900);

#[derive(Clone, Copy, PartialEq, Debug)]
struct Entry {
    epoch: u64,
    value: u64,
    number: u64,
    /// No number above it was given when this was written.
    limit: u64,
    /// It is acknowledged once it is in two IDCs.
    geo: bool,
}

/// What was said to whoever sent a value.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Acked {
    number: u64,
    geo: bool,
    incarnation: Incarnation,
}

/// What a process finds again when it is started again.
#[derive(Clone, Default)]
struct Disk {
    log: Vec<Entry>,
    /// Entries that outlive a crash for certain.
    synced: usize,
    promise: u64,
}

/// What it does not.
struct Life {
    machine: Machine,
    /// Which life, so that what was meant for another is not taken for its own.
    number: u64,
    /// What each other process has of the own log, as far as it said in the epoch.
    has: BTreeMap<Id, (u64, usize)>,
    /// The epoch in which the log was made whole, and the last number given in it.
    whole: Option<(u64, u64)>,
    committed: usize,
    /// What has been acknowledged as `geo` so far.
    followed: usize,
    /// For backup, for follower.
    learners: [Option<(Id, Time)>; 2],
    beacon: Time,
    read: Time,
    proposed: Time,
    paused: bool,
}

#[derive(Clone, Debug)]
enum Word {
    Beacon {
        epoch: u64,
        sent: Time,
    },
    Heard {
        promise: u64,
        epoch: u64,
        sent: Time,
    },
    /// Ask for the log, in this epoch.
    Marks {
        epoch: u64,
    },
    Log {
        promise: u64,
        epoch: u64,
        log: Vec<Entry>,
    },
    Append {
        epoch: u64,
        log: Vec<Entry>,
    },
    Appended {
        promise: u64,
        epoch: u64,
        length: usize,
    },
    Read,
    Propose(Box<Proposal>),
    /// What the coordinator says: the view that stands.
    Stands {
        version: u64,
        view: Box<View>,
    },
    NoView,
}

#[derive(Clone, Debug)]
enum Event {
    Tick(Id, u64),
    Start(Id),
    Wake(Id, u64),
    /// The own log is synced up to here.
    Synced(Id, u64, usize),
    /// From, to, to which life. The coordinator is [`PROCESSES`].
    Word(Id, Id, u64, Word),
    Client,
    Fault,
}

struct World {
    now: Time,
    rng: Rng,
    order: u64,
    events: BTreeMap<u64, Event>,
    due: BinaryHeap<Reverse<(Time, u64)>>,
    disks: Vec<Disk>,
    lives: Vec<Option<Life>>,
    /// Until when nobody starts each of them.
    down: Vec<Time>,
    /// Per mille by which each clock is fast.
    rates: Vec<u64>,
    view: Option<(u64, View)>,
    /// Directions in which nothing arrives.
    cuts: BTreeSet<(Id, Id)>,
    faults: bool,
    min_copies: usize,
    next_value: u64,
    next_life: u64,
    acked: BTreeMap<u64, Acked>,
    /// The value under each acknowledged number.
    numbers: BTreeMap<u64, u64>,
    /// What happened, for the test that says that enough does.
    changes: BTreeMap<&'static str, u32>,
}

fn member(id: Id) -> Member {
    Member {
        address: id.to_string(),
        disk: Bytes::copy_from_slice(&[id as u8; 16]),
        idc: if id < AWAY { "" } else { "away" }.to_owned(),
    }
}

fn place(member: &Member) -> Id {
    usize::from(member.disk[0])
}

impl World {
    fn new(seed: u64, min_copies: usize) -> Self {
        let mut rng = Rng::from_seed(seed);
        // Two clocks differ by less than a tenth.
        let rates = (0..PROCESSES).map(|_| 955 + rng.below(91)).collect();
        let mut world = Self {
            now: Duration::from_secs(100),
            rng,
            order: 0,
            events: BTreeMap::new(),
            due: BinaryHeap::new(),
            disks: vec![Disk::default(); PROCESSES],
            lives: (0..PROCESSES).map(|_| None).collect(),
            down: vec![Time::ZERO; PROCESSES],
            rates,
            view: None,
            cuts: BTreeSet::new(),
            faults: true,
            min_copies,
            next_value: 0,
            next_life: 0,
            acked: BTreeMap::new(),
            numbers: BTreeMap::new(),
            changes: BTreeMap::new(),
        };
        for id in 0..PROCESSES {
            world.after(Duration::ZERO, Event::Start(id));
        }
        world.after(TICK, Event::Client);
        world.after(FAULT * 3, Event::Fault);
        world
    }

    fn after(&mut self, wait: Duration, event: Event) {
        self.order += 1;
        self.events.insert(self.order, event);
        self.due.push(Reverse((self.now + wait, self.order)));
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.rng.below(one_in) == 0
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.rng.below(to - from))
    }

    /// A process's own clock.
    fn clock(&self, id: Id) -> Time {
        self.now * u32::try_from(self.rates[id]).unwrap() / 1000
    }

    /// Sends a word; it may be lost or late.
    fn say(&mut self, from: Id, to: Id, word: Word) {
        let life = |id: Id, lives: &[Option<Life>]| match lives.get(id) {
            Some(life) => life.as_ref().map_or(0, |life| life.number),
            None => 0,
        };
        let number = life(to, &self.lives);
        if self.cuts.contains(&(from, to)) || (self.faults && self.chance(50)) {
            return;
        }
        let late = self.faults && self.chance(30);
        let wait = if late {
            self.millis(100, 4000)
        } else {
            self.millis(1, 8)
        };
        self.after(wait, Event::Word(from, to, number, word));
    }

    fn run(&mut self, until: Time) {
        while let Some(&Reverse((at, order))) = self.due.peek() {
            if at > until {
                break;
            }
            self.due.pop();
            self.now = at;
            let event = self.events.remove(&order).expect("each event once");
            self.happen(event);
            self.one_serves();
        }
        self.now = until;
    }

    /// I19: whoever would answer now is the only one.
    fn one_serves(&self) {
        let serving: Vec<Id> = (0..PROCESSES).filter(|&id| self.serves(id)).collect();
        assert!(serving.len() <= 1, "{serving:?} serve at once");
    }

    fn serves(&self, id: Id) -> bool {
        let Some(life) = self.lives[id].as_ref().filter(|life| !life.paused) else {
            return false;
        };
        let whole = life.whole.is_some_and(|(epoch, _)| reigns(life, epoch));
        whole && life.machine.lease() > self.clock(id)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start(id) => self.start(id),
            Event::Tick(id, life) if self.lives(id, life) => self.tick(id),
            Event::Wake(id, life) => {
                if let Some(live) = self.lives[id].as_mut().filter(|live| live.number == life) {
                    live.paused = false;
                    self.after(Duration::ZERO, Event::Tick(id, life));
                }
            }
            Event::Synced(id, life, length) if self.lives(id, life) => {
                self.disks[id].synced = self.disks[id].synced.max(length);
                self.commit(id);
            }
            Event::Word(from, to, _, word) if to == PROCESSES => self.agree(from, word),
            Event::Word(from, to, life, word) => {
                let paused = |live: &Life| live.number == life && live.paused;
                if self.lives[to].as_ref().is_some_and(paused) {
                    // It lies in the socket until the process wakes.
                    self.after(TICK, Event::Word(from, to, life, word));
                } else if self.lives(to, life) {
                    self.hear(from, to, word);
                }
            }
            Event::Client => {
                self.submit();
                let wait = self.millis(20, 120);
                self.after(wait, Event::Client);
            }
            Event::Fault => self.fault(),
            Event::Tick(..) | Event::Synced(..) => {}
        }
    }

    /// Whether it is this life's, and awake.
    fn lives(&self, id: Id, number: u64) -> bool {
        let live = self.lives[id].as_ref();
        live.is_some_and(|live| live.number == number && !live.paused)
    }

    fn start(&mut self, id: Id) {
        if self.lives[id].is_some() || self.now < self.down[id] {
            return;
        }
        self.next_life += 1;
        let clock = self.clock(id);
        let machine = Machine::new(member(id), Times::default(), self.disks[id].promise, clock);
        self.lives[id] = Some(Life {
            machine,
            number: self.next_life,
            has: BTreeMap::new(),
            whole: None,
            committed: 0,
            followed: 0,
            learners: [None; 2],
            beacon: Time::ZERO,
            read: Time::ZERO,
            proposed: Time::ZERO,
            paused: false,
        });
        self.after(TICK, Event::Tick(id, self.next_life));
    }

    fn fault(&mut self) {
        if !self.faults {
            return;
        }
        let id = self.rng.below(PROCESSES as u64) as usize;
        match self.rng.below(8) {
            0 | 1 => self.kill(id),
            2 => {
                if let Some(life) = &mut self.lives[id] {
                    life.paused = true;
                    let number = life.number;
                    let pause = self.millis(200, 6000);
                    self.after(pause, Event::Wake(id, number));
                }
            }
            3 => {
                // One IDC loses sight of the other, and perhaps of the coordinator.
                let here = self.chance(2);
                let cut_off = self.chance(2);
                for one in (0..PROCESSES).filter(|&id| (id < AWAY) == here) {
                    for other in 0..=PROCESSES {
                        let apart = other < PROCESSES && (other < AWAY) != here;
                        if apart || other == PROCESSES && cut_off {
                            self.cuts.extend([(one, other), (other, one)]);
                        }
                    }
                }
            }
            4 => {
                // The coordinator is a place like any other; a cut may go one way.
                let other = self.rng.below(PROCESSES as u64 + 1) as usize;
                self.cuts.insert((id, other));
                if self.chance(2) {
                    self.cuts.insert((other, id));
                }
            }
            5 if self.chance(2) => {
                // A whole IDC goes down for longer than the other one waits.
                let here = id < AWAY;
                for one in (0..PROCESSES).filter(|&one| (one < AWAY) == here) {
                    self.die(one);
                    let away = self.millis(9_000, 14_000);
                    self.down[one] = self.now + away;
                    self.after(away, Event::Start(one));
                }
            }
            _ => self.cuts.clear(),
        }
        let wait = self.millis(1, 2 * FAULT.as_millis() as u64);
        self.after(wait, Event::Fault);
    }

    fn kill(&mut self, id: Id) {
        self.die(id);
        let away = if self.chance(2) {
            self.millis(100, 1500)
        } else {
            self.millis(1500, 8000)
        };
        self.after(away, Event::Start(id));
    }

    fn die(&mut self, id: Id) {
        if self.lives[id].take().is_some() {
            // What was not synced may be gone.
            let disk = &mut self.disks[id];
            let loose = disk.log.len() - disk.synced;
            let kept = disk.synced + self.rng.below(loose as u64 + 1) as usize;
            disk.log.truncate(kept);
            disk.synced = kept;
            *self.changes.entry("kill").or_default() += 1;
        }
    }

    /// The coordinator.
    fn agree(&mut self, from: Id, word: Word) {
        if let Word::Propose(proposal) = word {
            let version = self.view.as_ref().map(|(version, _)| *version);
            if version == proposal.version {
                let before = self.view.as_ref().map_or(0, |(_, view)| view.epoch);
                assert!(before < proposal.view.epoch, "epochs rise");
                let name = match proposal.change {
                    Change::Create => "create",
                    Change::Resume => "resume",
                    Change::TakeOver => "take over",
                    Change::Promote => "promote",
                    Change::LeaveOut => "leave out",
                    Change::Join => "join",
                    Change::Follow => "follow",
                    Change::HandOver => "hand over",
                };
                *self.changes.entry(name).or_default() += 1;
                self.view = Some((version.unwrap_or(0) + 1, proposal.view));
            }
        }
        let answer = match &self.view {
            Some((version, view)) => Word::Stands {
                version: *version,
                view: Box::new(view.clone()),
            },
            None => Word::NoView,
        };
        self.say(PROCESSES, from, answer);
    }

    fn tick(&mut self, id: Id) {
        let clock = self.clock(id);
        let life = self.lives[id].as_mut().expect("it lives");
        let number = life.number;
        let mut words = Vec::new();
        let (epoch, members) = life.machine.beacons();
        if clock >= life.beacon + BEACON || life.machine.lease() <= clock {
            life.beacon = clock;
            words.extend(
                members
                    .iter()
                    .map(|to| (place(to), Word::Beacon { epoch, sent: clock })),
            );
        }
        if clock >= life.read + Duration::from_millis(200) {
            life.read = clock;
            words.push((PROCESSES, Word::Read));
        }
        if clock >= life.proposed + Duration::from_millis(80) {
            let id_of = Bytes::copy_from_slice(&self.rng.next_u64().to_be_bytes());
            if let Some(proposal) = life.machine.propose(clock, &id_of) {
                life.proposed = clock;
                if proposal.change.needs_promise() {
                    self.disks[id].promise = self.disks[id].promise.max(proposal.view.epoch);
                }
                words.push((PROCESSES, Word::Propose(Box::new(proposal))));
            }
        }
        for (to, word) in words {
            self.say(id, to, word);
        }
        self.replicate(id);
        self.after(TICK, Event::Tick(id, number));
    }

    fn hear(&mut self, from: Id, to: Id, word: Word) {
        let clock = self.clock(to);
        let life = self.lives[to].as_mut().expect("it lives");
        match word {
            Word::Beacon { epoch, sent } => {
                life.machine.beacon(epoch, clock);
                let promise = life.machine.promise();
                self.say(
                    to,
                    from,
                    Word::Heard {
                        promise,
                        epoch,
                        sent,
                    },
                );
            }
            Word::Heard {
                promise,
                epoch,
                sent,
            } if promise <= epoch => {
                life.machine
                    .answered(&member(from).disk, epoch, sent, clock);
            }
            Word::Stands { version, view } => life.machine.learn(version, *view, clock),
            Word::NoView => {
                if self.disks[to].log.is_empty() {
                    let id = Bytes::copy_from_slice(&self.rng.next_u64().to_be_bytes());
                    let proposal = life.machine.create(id.clone(), 1, &id);
                    self.say(to, PROCESSES, Word::Propose(Box::new(proposal)));
                }
            }
            Word::Heard { promise, .. } => life.machine.over(promise),
            Word::Marks { epoch } | Word::Append { epoch, .. } => {
                self.as_copy(from, to, epoch, word)
            }
            Word::Log {
                promise,
                epoch,
                log,
            } => self.take_lacking(to, promise, epoch, log),
            Word::Appended {
                promise,
                epoch,
                length,
            } => {
                if promise > epoch {
                    return life.machine.over(promise);
                }
                life.has.insert(from, (epoch, length));
                self.commit(to);
            }
            Word::Read | Word::Propose(_) => unreachable!("only the coordinator is asked"),
        }
    }

    /// V-3.
    fn as_copy(&mut self, from: Id, to: Id, epoch: u64, word: Word) {
        let life = self.lives[to].as_mut().expect("it lives");
        life.machine.over(epoch);
        if life.machine.reigns() {
            return;
        }
        let disk = &mut self.disks[to];
        let promise = disk.promise.max(life.machine.promise());
        if epoch < disk.promise {
            let answer = Word::Appended {
                promise,
                epoch,
                length: 0,
            };
            return self.say(to, from, answer);
        }
        disk.promise = epoch;
        let answer = match word {
            Word::Append { log, .. } => {
                let length = log.len();
                // One that was overtaken cuts nothing.
                if !disk.log.starts_with(&log) {
                    disk.log = log;
                }
                disk.synced = disk.log.len();
                Word::Appended {
                    promise: epoch,
                    epoch,
                    length,
                }
            }
            _ => Word::Log {
                promise: epoch,
                epoch,
                log: disk.log.clone(),
            },
        };
        self.say(to, from, answer);
    }

    /// V-7.
    fn take_lacking(&mut self, id: Id, promise: u64, epoch: u64, log: Vec<Entry>) {
        let life = self.lives[id].as_mut().expect("it lives");
        let Standing::With(Crew { epoch: now, .. }) = life.machine.standing() else {
            return;
        };
        let whole = life.whole.is_some_and(|(whole, _)| reigns(life, whole));
        if promise > epoch || now != epoch || whole {
            return;
        }
        let end = |log: &[Entry]| (log.last().map_or(0, |entry| entry.epoch), log.len());
        let disk = &mut self.disks[id];
        if end(&log) > end(&disk.log) {
            disk.log = log;
        }
        // Synced before it is relied on.
        disk.synced = disk.log.len();
        self.be_whole(id, epoch);
    }
}

/// Whether this life has been primary without a break since `epoch`: the changes in between were its own.
fn reigns(life: &Life, epoch: u64) -> bool {
    life.machine
        .reign_began()
        .is_some_and(|began| began <= epoch)
}

/// A life of the store; what happened in it.
fn world(seed: u64, min_copies: usize) -> (usize, BTreeMap<&'static str, u32>) {
    let mut world = World::new(seed, min_copies);
    world.run(Duration::from_secs(190));
    world.faults = false;
    world.cuts.clear();
    let before = world.acked.len();
    // Whoever is paused or dead comes back by itself.
    world.run(Duration::from_secs(220));
    let primary = (0..PROCESSES).find(|&id| world.serves(id));
    let primary = primary.expect("when all is well somebody serves");
    assert!(world.acked.len() > before, "and takes what is sent");
    let log = &world.disks[primary].log;
    assert!(
        log.is_sorted_by(|a, b| a.number < b.number && a.epoch <= b.epoch),
        "numbers rise along the log, for ever: {log:?}"
    );
    let kept: BTreeMap<u64, u64> = log
        .iter()
        .map(|entry| (entry.value, entry.number))
        .collect();
    assert_eq!(kept.len(), log.len(), "nothing is there twice");
    let incarnation = incarnation(world.lives[primary].as_ref().expect("it serves"));
    for (value, acked) in &world.acked {
        if kept.get(value) != Some(&acked.number) {
            assert!(
                !acked.geo && acked.incarnation < incarnation,
                "value {value} was acknowledged: {acked:?}, now {incarnation:?}"
            );
            *world.changes.entry("lost").or_default() += 1;
        }
        if acked.geo {
            *world.changes.entry("geo").or_default() += 1;
        }
    }
    (world.acked.len(), world.changes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn one_serves_at_a_time_and_nothing_acknowledged_is_lost_or_numbered_twice(
        seed in any::<u64>(), min_copies in 1..3_usize)
    {
        world(seed, min_copies);
    }
}

#[test]
fn the_model_sees_every_change_of_a_view() {
    let mut acked = 0;
    let mut changes: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..36 {
        let (done, seen) = world(seed, 1 + (seed % 2) as usize);
        acked += done;
        for (name, count) in seen {
            *changes.entry(name).or_default() += count;
        }
    }
    let all = [
        "create",
        "resume",
        "take over",
        "leave out",
        "join",
        "kill",
        "follow",
        "promote",
        "hand over",
        "lost",
        "geo",
    ];
    for name in all {
        let count = changes.get(name).copied().unwrap_or(0);
        assert!(count >= 12, "{name} happened {count} times: {changes:?}");
    }
    assert!(acked > 10_000, "only {acked} acknowledged: {changes:?}");
}
