//! The whole store under crashes, in one thread: two disks, a primary, a backup, users who retry.
//!
//! Everything random comes from one seed, which a failure prints. Time stands still unless a test lets days pass. A process dies at any
//! write, sync or call, and what its disk had not synced may be lost, or the primary's whole disk; what was
//! answered must not be.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, atomic::Ordering},
};

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::{
    copies::{Copies, Fatal, Peer, PeerError, backup::Backup, fixed::Fixed},
    engine::{
        Engine,
        simulated::{Disk, Fuse},
    },
    ops::{Answer, Op, Refusal, RefusalKind, Stop},
    store::{Identity, Job, Store},
    timeline,
};
use crate::{
    model::{
        HomeId, Incarnation, Placement, Seq, UserId,
        clock::TestClock,
        limits::{FRAME_BYTES, TEXT_BYTES},
    },
    proto::{
        storage as pb,
        terminal::{self, Item, Kind},
    },
};

mod changes;
mod device;
mod ending;
mod floor;
mod groups;
mod heads;
mod homes;
mod losses;
mod moments;
mod push;

use device::Device;

/// A seeded source of chance.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % below
    }
}

/// The backup as the primary reaches it: it dies, comes back, and its answers get lost.
struct Wire(Mutex<WireState>);

struct WireState {
    disk: Disk,
    backup: Option<(Backup, Fuse)>,
    dice: Dice,
    faults: bool,
}

impl WireState {
    fn call<T>(
        &mut self,
        call: impl FnOnce(&mut Backup) -> Result<T, Stop>,
    ) -> Result<T, PeerError> {
        let away = |why: &str| Err(PeerError::Unreachable(why.to_owned()));
        if self.faults && self.dice.roll(20) == 0 {
            return away("the call was lost");
        }
        if self.backup.is_none() {
            let kept = self.dice.roll(4) as usize;
            self.disk.crash(kept);
            let life = self.dice.roll(60) as i64 + 3;
            let fuse = if self.faults {
                Fuse::new(life)
            } else {
                Fuse::none()
            };
            let engine = Arc::new(self.disk.open(fuse.clone()));
            self.backup = Some((Backup::open(engine).expect("the backup opens"), fuse));
        }
        let (backup, fuse) = self.backup.as_mut().expect("the backup was started");
        let outcome = call(backup);
        if fuse.burnt() {
            self.backup = None;
            return away("it died");
        }
        match outcome {
            Ok(_) if self.faults && self.dice.roll(20) == 0 => away("the answer was lost"),
            Ok(reply) => Ok(reply),
            Err(Stop::Refused(refusal)) if refusal.kind == RefusalKind::Unavailable => {
                away(&refusal.text)
            }
            Err(Stop::Refused(refusal)) => Err(PeerError::Refused(refusal.text)),
            Err(Stop::Fatal(error)) => panic!("the backup failed: {error}"),
        }
    }
}

impl Peer for Wire {
    fn marks(&self, request: pb::MarksRequest) -> Result<pb::MarksReply, PeerError> {
        self.0.lock().unwrap().call(|backup| backup.marks(&request))
    }
    fn read_log(&self, request: pb::ReadLogRequest) -> Result<pb::ReadLogReply, PeerError> {
        self.0
            .lock()
            .unwrap()
            .call(|backup| backup.read_log(&request))
    }
    fn load(&self, request: pb::LoadRequest) -> Result<pb::LoadReply, PeerError> {
        self.0.lock().unwrap().call(|backup| backup.load(&request))
    }
    fn append(&self, request: pb::AppendRequest) -> Result<pb::AppendReply, PeerError> {
        self.0
            .lock()
            .unwrap()
            .call(|backup| backup.append(&request))
    }
}

/// Both copies of a home's store and whoever is primary just now.
struct Pair {
    home: HomeId,
    disk: Disk,
    wire: Arc<Wire>,
    dice: Dice,
    faults: bool,
    store: Option<Store>,
    starts: u32,
    lost: u32,
    /// The backup has been level since it began: only then may the primary's disk be lost.
    level: bool,
    clock: Arc<TestClock>,
    incarnation: Incarnation,
    /// What the operator would restore.
    saved: Option<Disk>,
}

type Outcome = Arc<Mutex<Option<Result<Answer, Refusal>>>>;

impl Pair {
    fn new(seed: u64) -> Self {
        let wire = WireState {
            disk: Disk::default(),
            backup: None,
            dice: Dice(seed ^ 0xb0b),
            faults: false,
        };
        Self {
            home: HomeId(0),
            disk: Disk::default(),
            wire: Arc::new(Wire(Mutex::new(wire))),
            dice: Dice(seed ^ 0xa11ce),
            faults: false,
            store: None,
            starts: 0,
            lost: 0,
            level: false,
            clock: Arc::default(),
            incarnation: Incarnation(0),
            saved: None,
        }
    }

    fn set_faults(&mut self, faults: bool) {
        self.faults = faults;
        self.wire.0.lock().unwrap().faults = faults;
        // Both start again, with fuses or without.
        self.store = None;
        self.wire.0.lock().unwrap().backup = None;
    }

    /// Starts a primary on the disk, again and again if it dies while starting.
    fn store(&mut self) -> &mut Store {
        while self.store.is_none() {
            if self.faults && self.level && self.dice.roll(5) == 0 {
                self.lose_disk();
            }
            self.disk.crash(self.dice.roll(4) as usize);
            let life = self.dice.roll(120) as i64 + 3;
            let fuse = if self.faults {
                Fuse::new(life)
            } else {
                Fuse::none()
            };
            let engine: Arc<dyn Engine> = Arc::new(self.disk.open(fuse.clone()));
            self.starts += 1;
            self.store = self.start(engine, fuse).ok();
            self.level |= self.store.is_some();
        }
        self.store.as_mut().expect("the primary was started")
    }

    fn start(&mut self, engine: Arc<dyn Engine>, fuse: Fuse) -> Result<Store, Fatal> {
        let mut identity = match Identity::load(&*engine)? {
            Some(identity) => identity,
            None => {
                let place = Placement::new(4).expect("4 is a power of two");
                let identity = Identity::of_copy(Bytes::from_static(b"one store's id.."), place);
                identity.store(&*engine)?;
                identity
            }
        };
        identity.incarnation = self.incarnation;
        identity.home = self.home;
        let pause = Box::new(move || fuse.step().map_err(Fatal::from));
        let before = self.dice.roll(2) == 0;
        let fixed = Fixed {
            epoch: u64::from(self.starts),
            peer: Some(self.wire.clone()),
            spare: None,
            pause,
        };
        let copies = Copies::in_turn(Box::new(fixed), identity.same(), 2, before);
        Store::start(engine, self.clock.clone(), identity, copies)
    }

    /// The dead primary's disk is gone: the backup's disk is the primary's from now on, and a new backup
    /// begins with nothing.
    fn lose_disk(&mut self) {
        let mut wire = self.wire.0.lock().unwrap();
        wire.backup = None;
        wire.disk.crash(self.dice.roll(4) as usize);
        self.disk = std::mem::take(&mut wire.disk);
        self.lost += 1;
        self.level = false;
    }

    fn save(&mut self) {
        self.saved = Some(self.disk.copy());
    }

    /// The operator restores what was saved: all that was committed since is lost, at every shard.
    fn restore(&mut self) {
        let Some(saved) = self.saved.take() else {
            return;
        };
        self.store = None;
        self.disk = saved;
        let mut wire = self.wire.0.lock().unwrap();
        (wire.backup, wire.disk) = (None, Disk::default());
        self.level = false;
        self.incarnation.0 += 1;
    }

    /// Saves or restores, now and then; never what was saved before the last restore.
    fn maybe_lose_a_tail(&mut self) {
        match self.dice.roll(24) {
            0 if self.store.is_some() && self.saved.is_none() => self.save(),
            1 => self.restore(),
            _ => {}
        }
    }

    /// One round over some ops; `None` = the primary died and nothing was told.
    fn round(&mut self, ops: Vec<Op>) -> Option<Vec<Result<Answer, Refusal>>> {
        let outcomes: Vec<Outcome> = ops.iter().map(|_| Outcome::default()).collect();
        let mut jobs: VecDeque<Job> = ops
            .into_iter()
            .zip(&outcomes)
            .map(|(op, outcome)| {
                let outcome = Arc::clone(outcome);
                Job {
                    op,
                    reply: Box::new(move |answer| *outcome.lock().unwrap() = Some(answer)),
                }
            })
            .collect();
        loop {
            match self.store().round(&mut jobs) {
                Ok(round) => round
                    .answers
                    .into_iter()
                    .for_each(|(reply, answer)| reply(answer)),
                Err(fatal) => {
                    assert!(self.faults, "nothing fails without a fault: {fatal}");
                    self.store = None;
                    return None;
                }
            }
            if jobs.is_empty() {
                break;
            }
        }
        let told = |outcome: Outcome| {
            outcome
                .lock()
                .unwrap()
                .take()
                .expect("each job was answered")
        };
        Some(outcomes.into_iter().map(told).collect())
    }

    /// One op that must succeed, tried again after crashes.
    fn must(&mut self, op: Op) -> Answer {
        loop {
            if let Some(mut answers) = self.round(vec![op.clone()]) {
                return answers.remove(0).expect("the op is good");
            }
        }
    }

    /// Days pass.
    fn sleep(&mut self, days: i64) {
        let ms = days * 24 * 60 * 60 * 1000;
        self.clock.0.fetch_add(ms, Ordering::Relaxed);
    }

    fn drain(&mut self) {
        while self.store().has_work() {
            self.round(Vec::new());
        }
    }

    fn page(&mut self, user: UserId, key: u64, limit: usize) -> pb::SyncPage {
        let limit = limit as u32;
        self.answer(
            user,
            terminal::SyncRequest {
                key,
                limit,
                ..Default::default()
            },
        )
    }

    fn answer(&mut self, user: UserId, request: terminal::SyncRequest) -> pb::SyncPage {
        let (engine, incarnation) = (self.store().engine(), self.incarnation);
        timeline::sync(&*engine, incarnation, user, &request).expect("a user is answered")
    }
}

/// Brings each device up to its user's newest item, and shows that a fresh one then has the same; the fresh ones.
fn level_with_fresh(pair: &mut Pair, devices: &mut [Device], users: &[UserId]) -> Vec<Device> {
    let level = |(device, &user): (&mut Device, &UserId)| {
        while device.sync(pair, user, 3) {}
        let mut fresh = Device::default();
        while fresh.sync(pair, user, 1000) {}
        assert_eq!(fresh.shown(), device.shown(), "incremental = full");
        assert_eq!(fresh.key, device.key);
        let newest = fresh.state.values().map(|item| item.number).max();
        assert_eq!(
            newest,
            Some(fresh.key),
            "the newest item is never collected"
        );
        fresh
    };
    devices.iter_mut().zip(users).map(level).collect()
}

fn register(pair: &mut Pair, name: &str) -> UserId {
    let claim = pb::ClaimNameRequest {
        name: name.to_owned(),
        nickname: name.to_uppercase(),
        password_hash: "hash".to_owned(),
        home: u32::from(pair.home.0),
    };
    let Answer::Claimed(claimed) = pair.must(Op::ClaimName(claim)) else {
        panic!("wrong answer")
    };
    UserId(claimed.user_id)
}

fn ask(user: UserId, peer: UserId) -> Op {
    Op::AskContact(pb::AskContactRequest {
        user_id: user.0,
        peer: peer.0,
        peer_name: format!("name of {}", peer.0),
        ..Default::default()
    })
}

fn accept(user: UserId, peer: UserId) -> Op {
    Op::AcceptContact(pb::AcceptContactRequest {
        user_id: user.0,
        peer: peer.0,
        ..Default::default()
    })
}

fn send(sender: UserId, receiver: UserId, messages: &[(u64, String)]) -> Op {
    let messages = messages
        .iter()
        .map(|(id, text)| terminal::Outgoing {
            client_id: Bytes::from([id.to_be_bytes(), sender.0.to_be_bytes()].concat()),
            text: text.clone(),
            extra: None,
            count: 0,
        })
        .collect();
    let request = Some(terminal::SendRequest {
        receiver: receiver.0,
        messages,
        key: 0,
        geo: false,
    });
    Op::Send(pb::SendMessages {
        sender: sender.0,
        request,
        device_id: 1,
    })
}

fn friends(pair: &mut Pair, names: &[&str]) -> Vec<UserId> {
    let users: Vec<UserId> = names.iter().map(|name| register(pair, name)).collect();
    pair.drain();
    for (index, &user) in users.iter().enumerate() {
        for &peer in &users[..index] {
            pair.must(ask(user, peer));
            pair.drain();
            pair.must(accept(peer, user));
            pair.drain();
        }
    }
    users
}

/// One direction of a conversation: the sender sends the next messages when the ones before are answered.
struct Talk {
    sender: usize,
    receiver: usize,
    answered: u64,
    in_flight: Vec<(u64, String)>,
    /// Highest position that the sender had seen in the conversation when it spoke.
    floor: u64,
    acked: HashMap<u64, terminal::Sent>,
}

fn world(seed: u64, steps: u32) -> (u32, u32) {
    let mut dice = Dice(seed);
    let mut pair = Pair::new(seed);
    let users = friends(&mut pair, &["ann", "bob", "cy", "dee"]);
    let mut devices: Vec<Device> = users.iter().map(|_| Device::default()).collect();
    let mut talks: Vec<Talk> = (0..12)
        .map(|n| {
            let (sender, step) = (n % 4, 1 + n / 4);
            let receiver = (sender + step) % 4;
            Talk {
                sender,
                receiver,
                answered: 0,
                in_flight: Vec::new(),
                floor: 0,
                acked: HashMap::new(),
            }
        })
        .collect();
    pair.set_faults(true);
    for _ in 0..steps {
        let mut ops = Vec::new();
        let mut speaking = Vec::new();
        for (index, talk) in talks.iter_mut().enumerate() {
            if dice.roll(3) == 0 {
                continue;
            }
            if talk.in_flight.is_empty() {
                let first = talk.answered;
                talk.floor = devices[talk.sender].newest_with(users[talk.receiver]);
                talk.in_flight = (first..=first + dice.roll(3))
                    .map(|n| (index as u64 * 1_000_000 + n, format!("{index}/{n}")))
                    .collect();
            }
            ops.push(send(
                users[talk.sender],
                users[talk.receiver],
                &talk.in_flight,
            ));
            speaking.push(index);
            if dice.roll(6) == 0 {
                // A retry overtakes the answer: both are in one round.
                ops.push(send(
                    users[talk.sender],
                    users[talk.receiver],
                    &talk.in_flight,
                ));
                speaking.push(index);
            }
        }
        if let Some(answers) = pair.round(ops) {
            for (index, answer) in speaking.into_iter().zip(answers) {
                let Ok(Answer::Sent(reply)) = answer else {
                    panic!("a send came to {answer:?}")
                };
                note(&mut talks[index], reply);
            }
        }
        let who = dice.roll(4) as usize;
        devices[who].sync(&mut pair, users[who], 1 + dice.roll(7) as usize);
    }
    finish(&mut pair, &users, &mut devices, &mut talks);
    (pair.starts, pair.lost)
}

fn note(talk: &mut Talk, reply: terminal::SendReply) {
    for ((id, _), sent) in talk.in_flight.iter().zip(reply.sent) {
        let before = talk.acked.insert(*id, sent.clone());
        assert!(
            before.is_none_or(|before| before == sent),
            "a retry is answered as the first was"
        );
        let count = sent.pos.expect("a sent message has a position").count;
        assert!(count > talk.floor, "an answer stands after its question");
    }
    talk.answered = talk.acked.len() as u64;
    talk.in_flight
        .retain(|(id, _)| !talk.acked.contains_key(id));
}

fn finish(pair: &mut Pair, users: &[UserId], devices: &mut [Device], talks: &mut [Talk]) {
    pair.set_faults(false);
    for talk in talks.iter_mut() {
        if !talk.in_flight.is_empty() {
            let op = send(users[talk.sender], users[talk.receiver], &talk.in_flight);
            let Answer::Sent(reply) = pair.must(op) else {
                panic!("wrong answer")
            };
            note(talk, reply);
        }
    }
    pair.drain();
    level_with_fresh(pair, devices, users);
    check_talks(users, devices, talks);
}

fn check_talks(users: &[UserId], devices: &[Device], talks: &[Talk]) {
    for talk in talks {
        let expected = talk.answered as usize;
        for end in [talk.sender, talk.receiver] {
            let got = devices[end].messages_from(users[talk.sender]);
            let peer = users[talk.receiver].0;
            let got: Vec<_> = got
                .into_iter()
                .filter(|(_, _, text)| text.split('/').next() == Some(&text_index(talk)))
                .collect();
            assert_eq!(
                got.len(),
                expected,
                "every answered message is at both ends, once (to {peer})"
            );
            for (n, (_, _, text)) in got.iter().enumerate() {
                assert_eq!(
                    text.split('/').nth(1),
                    Some(n.to_string().as_str()),
                    "in order by position"
                );
            }
            assert!(
                got.is_sorted_by_key(|(_, number, _)| *number),
                "and by number"
            );
        }
    }
}

fn text_index(talk: &Talk) -> String {
    let id = talk.acked.keys().next().copied().unwrap_or(0);
    (id / 1_000_000).to_string()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn nothing_answered_is_lost_doubled_or_reordered_whoever_dies(seed in any::<u64>()) {
        world(seed, 60);
    }
}

#[test]
fn the_world_does_crash() {
    let worlds: Vec<_> = (0..8).map(|seed| world(seed, 60)).collect();
    let starts: u32 = worlds.iter().map(|world| world.0).sum();
    let lost: u32 = worlds.iter().map(|world| world.1).sum();
    assert!(
        starts > 24 && lost > 8,
        "the primary was started only {starts} times in 8 worlds and lost {lost} disks"
    );
}

#[test]
fn the_same_client_id_with_another_body_is_refused_and_nothing_is_sent() {
    let mut pair = Pair::new(1);
    let users = friends(&mut pair, &["ann", "bob"]);
    pair.must(send(users[0], users[1], &[(7, "one".to_owned())]));
    let two = [(8, "new".to_owned()), (7, "another".to_owned())];
    let refused = pair
        .round(vec![send(users[0], users[1], &two)])
        .unwrap()
        .remove(0)
        .unwrap_err();
    assert_eq!(refused.kind, RefusalKind::AlreadyExists);
    pair.drain();
    let mut bob = Device::default();
    while bob.sync(&mut pair, users[1], 100) {}
    assert_eq!(bob.messages_from(users[0]).len(), 1);
}

#[test]
fn a_stranger_gets_word_that_the_message_was_refused() {
    let mut pair = Pair::new(2);
    let users = [register(&mut pair, "ann"), register(&mut pair, "bob")];
    pair.must(send(users[0], users[1], &[(1, "hello".to_owned())]));
    pair.drain();
    let mut ann = Device::default();
    while ann.sync(&mut pair, users[0], 100) {}
    let kinds: Vec<_> = ann.state.keys().map(|&(kind, _)| kind).collect();
    assert_eq!(
        kinds,
        [Kind::Account, Kind::Message, Kind::Refused].map(i32::from)
    );
    let mut bob = Device::default();
    while bob.sync(&mut pair, users[1], 100) {}
    assert!(bob.messages_from(users[0]).is_empty());
}

#[test]
fn two_who_ask_each_other_at_once_are_friends() {
    let mut pair = Pair::new(3);
    let users = [register(&mut pair, "ann"), register(&mut pair, "bob")];
    pair.drain();
    let answers = pair
        .round(vec![ask(users[0], users[1]), ask(users[1], users[0])])
        .unwrap();
    assert!(answers.iter().all(Result::is_ok));
    pair.drain();
    for (user, peer) in [(users[0], users[1]), (users[1], users[0])] {
        let mut device = Device::default();
        while device.sync(&mut pair, user, 100) {}
        let item = &device.state[&(Kind::Contact.into(), peer.0)];
        let contact = terminal::Contact::decode(item.payload.clone()).unwrap();
        assert_eq!(
            (contact.state(), item.version),
            (terminal::contact::State::Friend, 2)
        );
    }
}

#[test]
fn a_name_has_one_owner() {
    let mut pair = Pair::new(4);
    let ann = register(&mut pair, "ann");
    let again = pb::ClaimNameRequest {
        name: "ann".to_owned(),
        ..Default::default()
    };
    let answer = pair.must(Op::ClaimName(again));
    assert_eq!(
        answer,
        Answer::Claimed(pb::ClaimNameReply {
            user_id: ann.0,
            taken: true
        })
    );
}

#[test]
fn a_key_that_was_never_given_begins_a_full_sync() {
    let mut pair = Pair::new(5);
    let users = friends(&mut pair, &["ann", "bob"]);
    let newest = timeline::newest(&*pair.store().engine(), users[0]).unwrap();
    assert!(newest > Seq::ZERO);
    let level = pair.page(users[0], newest.0, 0);
    assert!(level.items.is_empty() && level.full_to == 0);
    let whole = pair.page(users[0], 0, 1000);
    for key in [newest.0 + 1, Seq::new(Incarnation(1), 0).0, u64::MAX] {
        let page = pair.page(users[0], key, 1000);
        assert_eq!((page.full_to, page.key), (newest.0, newest.0));
        assert_eq!(page.items, whole.items);
    }
}

#[test]
fn a_page_of_long_messages_ends_before_it_outgrows_a_frame() {
    let mut pair = Pair::new(6);
    let users = friends(&mut pair, &["ann", "bob"]);
    for n in 0..100 {
        pair.must(send(users[0], users[1], &[(n, "x".repeat(TEXT_BYTES))]));
    }
    pair.drain();
    let (mut key, mut items, mut pages) = (0, 0, 0);
    loop {
        let page = pair.page(users[1], key, 1000);
        assert!(page.encoded_len() < FRAME_BYTES);
        (key, items, pages) = (page.key, items + page.items.len(), pages + 1);
        if !page.more {
            break;
        }
    }
    assert_eq!((items, pages), (102, 2));
}
