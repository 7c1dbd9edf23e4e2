//! Two homes and the streams between them: stores that die at any write, deliveries that are lost, repeated, late and
//! out of order; what was answered reaches the other home once, in order.

use super::{
    changes::change,
    groups::{create, group_change, made, placed, roster},
    *,
};
use crate::{
    model::{ShardId, Site, limits::GROUP_COPIED},
    proto::terminal::{
        Edit, Members, Recall, RemoveContact, change_request::Change, contact::State,
        group_change::What,
    },
    storage::store::Reached,
};

/// Two homes, each a store of its own.
struct Homes {
    pairs: [Pair; 2],
    dice: Dice,
    faults: bool,
    /// Deliveries that somebody may make again: to which home, and what.
    late: Vec<(usize, pb::Parcel)>,
    /// Deliveries made again or lost.
    mishaps: u32,
}

/// Bytes that are carried at once: few, so that streams are cut in many places.
const FEW_BYTES: usize = 400;
/// Late deliveries that are kept.
const LATE: usize = 16;

impl Homes {
    fn new(seed: u64) -> Self {
        let pair = |home: u8| Pair {
            home: HomeId(home),
            ..Pair::new(seed ^ u64::from(home))
        };
        Self {
            pairs: [pair(0), pair(1)],
            dice: Dice(seed ^ 0xcafe),
            faults: false,
            late: Vec::new(),
            mishaps: 0,
        }
    }

    fn of(&mut self, user: UserId) -> &mut Pair {
        &mut self.pairs[usize::from(user.home().0)]
    }

    fn set_faults(&mut self, faults: bool) {
        self.faults = faults;
        for pair in &mut self.pairs {
            pair.set_faults(faults);
        }
    }

    fn mishap(&mut self, one_in: u64) -> bool {
        let happens = self.faults && self.dice.roll(one_in) == 0;
        self.mishaps += u32::from(happens);
        happens
    }

    /// What a carrier does once in each direction; false if there was nothing to carry.
    fn carry(&mut self) -> bool {
        let mut any = false;
        for from in 0..2 {
            let to = 1 - from;
            let mut parcels = self.pairs[from]
                .store()
                .parcels(HomeId(to as u8), FEW_BYTES);
            any |= !parcels.is_empty();
            if self.mishap(3) {
                // Another carrier, or this one a while ago.
                parcels.reverse();
                self.late
                    .extend(parcels.iter().map(|parcel| (to, parcel.clone())));
                let surplus = self.late.len().saturating_sub(LATE);
                self.late.drain(..surplus);
            }
            for parcel in parcels {
                if self.mishap(8) {
                    continue;
                }
                let Some(reached) = self.deliver(to, parcel.clone()) else {
                    continue;
                };
                if !self.mishap(4) {
                    self.took(from, to, &parcel, reached);
                }
            }
            if !self.late.is_empty() && self.mishap(2) {
                let at = self.dice.roll(self.late.len() as u64) as usize;
                let (to, parcel) = self.late.swap_remove(at);
                if let Some(reached) = self.deliver(to, parcel.clone())
                    && !self.mishap(2)
                {
                    self.took(1 - to, to, &parcel, reached);
                }
            }
        }
        any
    }

    /// How far the stream is applied; `None` if the primary died at it.
    fn deliver(&mut self, to: usize, parcel: pb::Parcel) -> Option<u64> {
        let mut answers = self.pairs[to].round(vec![Op::Deliver(parcel)])?;
        match answers.remove(0) {
            Ok(Answer::Reached(n)) => Some(n),
            other => panic!("a delivery came to {other:?}"),
        }
    }

    fn took(&mut self, from: usize, to: usize, parcel: &pb::Parcel, n: u64) {
        let reached = Reached {
            from: ShardId(parcel.from_shard as u8),
            incarnation: Incarnation(parcel.incarnation as u16),
            to: Site {
                home: HomeId(to as u8),
                shard: ShardId(parcel.to_shard as u8),
            },
            n,
        };
        let outcome = self.pairs[from].store().carried(&reached);
        if let Err(error) = outcome {
            assert!(self.faults, "nothing fails without a fault: {error}");
            self.pairs[from].store = None;
        }
    }

    fn must(&mut self, user: UserId, op: Op) -> Answer {
        let answer = self.of(user).must(op);
        self.settle();
        answer
    }

    /// Until nothing waits for any home.
    fn settle(&mut self) {
        loop {
            self.pairs.iter_mut().for_each(Pair::drain);
            if !self.carry() {
                return;
            }
        }
    }

    fn register(&mut self, name: &str, home: u8) -> UserId {
        let claim = pb::ClaimNameRequest {
            name: name.to_owned(),
            nickname: name.to_uppercase(),
            password_hash: "hash".to_owned(),
            home: u32::from(home),
        };
        let Answer::Claimed(claimed) = self.pairs[0].must(Op::ClaimName(claim)) else {
            panic!("wrong answer")
        };
        self.settle();
        let user = UserId(claimed.user_id);
        assert_eq!(user.home(), HomeId(home));
        user
    }

    /// Users who are all friends, at home in turn here and there.
    fn friends(&mut self, names: &[&str]) -> Vec<UserId> {
        let users: Vec<UserId> = (0..)
            .zip(names)
            .map(|(n, name)| self.register(name, n % 2))
            .collect();
        for (index, &user) in users.iter().enumerate() {
            for &peer in &users[..index] {
                self.must(user, ask(user, peer));
                self.must(peer, accept(peer, user));
            }
        }
        users
    }

    fn synced(&mut self, user: UserId) -> Device {
        let mut device = Device::default();
        while device.sync(self.of(user), user, 1000) {}
        device
    }
}

/// The talks of four who live in two homes, under faults; how often something went wrong.
fn world(seed: u64, steps: u32) -> u32 {
    let mut dice = Dice(seed);
    let mut homes = Homes::new(seed);
    let users = homes.friends(&["ann", "bob", "cy", "dee"]);
    let mut devices: Vec<Device> = users.iter().map(|_| Device::default()).collect();
    let mut talks: Vec<Talk> = (0..12)
        .map(|n| Talk {
            sender: n % 4,
            receiver: (n % 4 + 1 + n / 4) % 4,
            answered: 0,
            in_flight: Vec::new(),
            floor: 0,
            acked: HashMap::new(),
        })
        .collect();
    homes.set_faults(true);
    for _ in 0..steps {
        let mut ops = [Vec::new(), Vec::new()];
        let mut speaking = [Vec::new(), Vec::new()];
        for (index, talk) in talks.iter_mut().enumerate() {
            if dice.roll(3) == 0 {
                continue;
            }
            let (sender, receiver) = (users[talk.sender], users[talk.receiver]);
            if talk.in_flight.is_empty() {
                talk.floor = devices[talk.sender].newest_with(receiver);
                talk.in_flight = (talk.answered..=talk.answered + dice.roll(3))
                    .map(|n| (index as u64 * 1_000_000 + n, format!("{index}/{n}")))
                    .collect();
            }
            let home = usize::from(sender.home().0);
            ops[home].push(send(sender, receiver, &talk.in_flight));
            speaking[home].push(index);
        }
        for (home, (ops, speaking)) in ops.into_iter().zip(speaking).enumerate() {
            let Some(answers) = homes.pairs[home].round(ops) else {
                continue;
            };
            for (index, answer) in speaking.into_iter().zip(answers) {
                let Ok(Answer::Sent(reply)) = answer else {
                    panic!("a send came to {answer:?}")
                };
                note(&mut talks[index], reply);
            }
        }
        homes.carry();
        let who = dice.roll(4) as usize;
        let limit = 1 + dice.roll(7) as usize;
        devices[who].sync(homes.of(users[who]), users[who], limit);
    }
    homes.set_faults(false);
    for talk in &mut talks {
        if !talk.in_flight.is_empty() {
            let sender = users[talk.sender];
            let op = send(sender, users[talk.receiver], &talk.in_flight);
            let Answer::Sent(reply) = homes.must(sender, op) else {
                panic!("wrong answer")
            };
            note(talk, reply);
        }
    }
    homes.settle();
    for (device, &user) in devices.iter_mut().zip(&users) {
        let (device, user) = (std::slice::from_mut(device), std::slice::from_ref(&user));
        level_with_fresh(homes.of(user[0]), device, user);
    }
    check_talks(&users, &devices, &talks);
    homes.mishaps
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_from_home_to_home_arrives_once_and_in_order_whoever_dies(seed in any::<u64>()) {
        world(seed, 60);
    }
}

#[test]
fn deliveries_between_homes_do_go_wrong() {
    let mishaps: u32 = (0..4).map(|seed| world(seed, 60)).sum();
    assert!(mishaps > 100, "only {mishaps} in 4 worlds");
}

#[test]
fn a_delivery_with_a_gap_or_from_the_past_changes_nothing() {
    let mut homes = Homes::new(40);
    let users = homes.friends(&["ann", "bob"]);
    for n in 0..3 {
        let text = [(n, format!("word {n}"))];
        homes.of(users[0]).must(send(users[0], users[1], &text));
    }
    let parcels = homes.pairs[0].store().parcels(HomeId(1), usize::MAX);
    let [parcel] = &parcels[..] else {
        panic!("one stream from ann's shard to bob's: {parcels:?}")
    };
    let tail = pb::Parcel {
        first: parcel.first + 1,
        tasks: parcel.tasks[1..].to_vec(),
        ..parcel.clone()
    };
    let before = parcel.first - 1;
    assert_eq!(homes.deliver(1, tail), Some(before), "the first is lacking");
    assert!(homes.synced(users[1]).messages_from(users[0]).is_empty());
    for _ in 0..2 {
        assert_eq!(homes.deliver(1, parcel.clone()), Some(before + 3));
        assert_eq!(homes.synced(users[1]).messages_from(users[0]).len(), 3);
    }
    assert_eq!(homes.pairs[0].store().unapplied(HomeId(1)), 3);
    homes.took(0, 1, parcel, before + 3);
    assert_eq!(homes.pairs[0].store().unapplied(HomeId(1)), 0);
}

#[test]
fn a_task_that_cannot_be_read_is_refused_and_costs_the_store_nothing() {
    let mut homes = Homes::new(41);
    let users = homes.friends(&["ann", "bob"]);
    homes
        .of(users[0])
        .must(send(users[0], users[1], &[(1, "hello".to_owned())]));
    let mut parcel = homes.pairs[0]
        .store()
        .parcels(HomeId(1), usize::MAX)
        .remove(0);
    let good = parcel.clone();
    parcel.tasks.push(Bytes::from_static(b"\xff"));
    let answers = homes.pairs[1].round(vec![Op::Deliver(parcel)]).unwrap();
    let refusal = answers[0].as_ref().unwrap_err();
    assert!(refusal.text.contains("cannot be read"), "{refusal:?}");
    assert!(homes.synced(users[1]).messages_from(users[0]).is_empty());
    assert!(homes.deliver(1, good).is_some());
    assert_eq!(homes.synced(users[1]).messages_from(users[0]).len(), 1);
}

#[test]
fn contacts_and_refusals_cross_homes() {
    let mut homes = Homes::new(42);
    let users = homes.friends(&["ann", "bob"]);
    let (ann, bob) = (users[0], users[1]);
    let block = terminal::Block {
        user_id: ann.0,
        blocked: true,
    };
    homes.must(bob, change(bob, Change::Block(block)));
    homes.must(ann, send(ann, bob, &[(1, "hello".to_owned())]));
    assert!(homes.synced(bob).messages_from(ann).is_empty());
    let refused = homes.synced(ann);
    assert!(
        refused
            .state
            .keys()
            .any(|&(kind, _)| kind == i32::from(Kind::Refused)),
        "ann is told"
    );
    let gone = RemoveContact { user_id: bob.0 };
    homes.must(ann, change(ann, Change::RemoveContact(gone)));
    for (user, peer) in [(ann, bob), (bob, ann)] {
        let device = homes.synced(user);
        assert_ne!(changes::contact(&device, peer).state(), State::Friend);
    }
}

fn texts(device: &Device, group: UserId) -> Vec<(u64, String)> {
    let mut texts: Vec<_> = device
        .state
        .values()
        .filter(|item| item.kind() == Kind::Message)
        .map(|item| {
            let message = terminal::Message::decode(item.payload.clone()).expect("a message");
            (item, message)
        })
        .filter(|(_, message)| message.receiver == group.0)
        .map(|(item, message)| (item.pos.expect("a position").count, message.text))
        .collect();
    texts.sort_unstable();
    texts
}

#[test]
fn members_at_two_homes_see_one_order_and_nothing_from_outside_a_membership() {
    let mut homes = Homes::new(43);
    let users = homes.friends(&["ann", "bob", "cy", "dee"]);
    let group = made(homes.must(users[0], create(users[0], 1, &users[1..3])));
    for n in 0..12 {
        let from = users[n as usize % 3];
        homes
            .of(from)
            .must(send(from, group, &[(n, format!("word {n}"))]));
        if n % 4 == 0 {
            homes.settle();
        }
    }
    homes.settle();
    let invite = Members {
        user_ids: vec![users[3].0],
    };
    homes.must(
        users[0],
        group_change(users[0], group, What::Invite(invite)),
    );
    homes.must(users[3], send(users[3], group, &[(99, "last".to_owned())]));
    let all = homes.synced(users[0]);
    assert_eq!(placed(&all, group).len(), 13);
    for &member in &users[1..3] {
        let device = homes.synced(member);
        assert_eq!(texts(&device, group), texts(&all, group));
        assert_eq!(roster(&device, group), roster(&all, group));
    }
    let late = homes.synced(users[3]);
    assert_eq!(texts(&late, group).len(), 1);
}

#[test]
fn a_group_that_is_stored_once_is_read_at_every_home() {
    let mut homes = Homes::new(44);
    let users = homes.friends(&["ann", "bob", "cy", "dee"]);
    let owner = users[0];
    let mut members = users[1..3].to_vec();
    for n in 0..GROUP_COPIED as u64 {
        members.push(homes.register_quietly(n));
    }
    homes.settle();
    for &member in &members[2..] {
        homes.of(owner).must(ask(owner, member));
    }
    homes.settle();
    for &member in &members[2..] {
        homes.of(member).must(accept(member, owner));
    }
    homes.settle();
    let group = made(homes.must(owner, create(owner, 1, &members[..3])));
    for some in members[3..].chunks(100) {
        let invite = Members {
            user_ids: some.iter().map(|user| user.0).collect(),
        };
        homes.must(owner, group_change(owner, group, What::Invite(invite)));
    }
    let mut ids = Vec::new();
    for n in 0..8 {
        let from = users[n as usize % 3];
        let op = send(from, group, &[(n, format!("word {n}"))]);
        let Answer::Sent(sent) = homes.must(from, op) else {
            panic!("wrong answer")
        };
        ids.push((from, sent.sent[0].message_id));
    }
    let (editor, edited) = ids[1];
    let edit = Edit {
        message_id: edited,
        text: "better".to_owned(),
        group_id: group.0,
    };
    homes.must(editor, change(editor, Change::Edit(edit)));
    let (taker, taken) = ids[2];
    let recall = Recall {
        message_id: taken,
        group_id: group.0,
    };
    homes.must(taker, change(taker, Change::Recall(recall)));
    let near = homes.synced(owner);
    let words: Vec<String> = texts(&near, group)
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    let expected = [
        "word 0", "better", "", "word 3", "word 4", "word 5", "word 6", "word 7",
    ];
    assert_eq!(words, expected);
    let far = homes.synced(users[1]);
    assert_eq!(texts(&far, group), texts(&near, group));
    assert_eq!(roster(&far, group), roster(&near, group));
    assert!(texts(&homes.synced(users[3]), group).is_empty());
}

impl Homes {
    /// A user of the second home, whose account is under way there.
    fn register_quietly(&mut self, n: u64) -> UserId {
        let claim = pb::ClaimNameRequest {
            name: format!("member {n}"),
            home: 1,
            ..pb::ClaimNameRequest::default()
        };
        let Answer::Claimed(claimed) = self.pairs[0].must(Op::ClaimName(claim)) else {
            panic!("wrong answer")
        };
        UserId(claimed.user_id)
    }
}
