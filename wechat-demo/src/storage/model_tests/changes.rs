//! Everything a user can change, at random and under crashes: what a device holds after any syncs is what a
//! fresh one gets, both ends of a conversation come to the same messages, friendship is mutual.

use super::*;
use crate::{
    model::limits::CONTACTS_PER_USER,
    proto::terminal::{change_request::Change, contact::State},
};

pub(super) fn change(user: UserId, change: Change) -> Op {
    Op::Change(pb::ChangeUser {
        user_id: user.0,
        device_id: 1,
        request: Some(terminal::ChangeRequest {
            change: Some(change),
        }),
        password: None,
        end: None,
    })
}

/// Some change of `user`'s, mostly one that has a place.
fn any_change(dice: &mut Dice, device: &Device, user: UserId, peer: UserId) -> Op {
    let messages: Vec<u64> = device
        .state
        .values()
        .filter(|item| item.kind() == Kind::Message)
        .map(|item| item.id)
        .collect();
    let message_id = match messages.len() as u64 {
        0 => 7,
        count => messages[dice.roll(count) as usize],
    };
    let word = format!("word {}", dice.roll(4));
    let newest = device.newest_with(peer);
    change(
        user,
        match dice.roll(10) {
            0 => Change::Remark(terminal::Remark {
                user_id: peer.0,
                remark: word,
            }),
            1 => Change::Block(terminal::Block {
                user_id: peer.0,
                blocked: dice.roll(4) == 0,
            }),
            2 => Change::RemoveContact(terminal::RemoveContact { user_id: peer.0 }),
            3 | 4 => Change::Edit(terminal::Edit {
                message_id,
                text: word,
                group_id: 0,
            }),
            5 => Change::Recall(terminal::Recall {
                message_id,
                group_id: 0,
            }),
            6 => Change::React(terminal::React {
                message_id,
                emoji: ["", "+", "-"][dice.roll(3) as usize].to_owned(),
                group_id: 0,
            }),
            7 => Change::Mark(terminal::Mark {
                peer: peer.0,
                received: newest,
                read: dice.roll(newest + 1),
            }),
            8 => Change::Mute(terminal::Mute {
                peer: peer.0,
                muted: dice.roll(2) == 0,
            }),
            _ => Change::Profile(terminal::Profile {
                nickname: Some(word.clone()),
                avatar: Some(word),
            }),
        },
    )
}

pub(super) fn contact(device: &Device, peer: UserId) -> terminal::Contact {
    let item = device.state.get(&(Kind::Contact.into(), peer.0));
    item.map(|item| terminal::Contact::decode(item.payload.clone()).expect("a contact"))
        .unwrap_or_default()
}

fn world(seed: u64, steps: u32) -> BTreeMap<i32, usize> {
    let mut dice = Dice(seed);
    let mut pair = Pair::new(seed);
    let users = friends(&mut pair, &["ann", "bob", "cy"]);
    floor::add_devices(&mut pair, &users);
    let mut devices: Vec<Device> = users.iter().map(|_| Device::default()).collect();
    pair.set_faults(true);
    for step in 0..u64::from(steps) {
        pair.maybe_lose_a_tail();
        let again = devices.iter_mut().flat_map(Device::say_again);
        let mut ops: Vec<Op> = again.collect();
        ops.extend((0..3 + dice.roll(4)).map(|n| {
            let who = dice.roll(3) as usize;
            let (user, peer) = (users[who], users[(who + 1 + dice.roll(2) as usize) % 3]);
            match dice.roll(8) {
                0 | 1 => send(user, peer, &[(step << 8 | n, format!("{step}/{n}"))]),
                2 => ask(user, peer),
                3 => accept(user, peer),
                _ => any_change(&mut dice, &devices[who], user, peer),
            }
        }));
        ops.extend(floor::any_op(&mut dice, &users, &devices, step));
        // Refusals are as good as answers here: half of it has no place when it comes.
        pair.round(ops);
        let who = dice.roll(3) as usize;
        devices[who].sync(&mut pair, users[who], 1 + dice.roll(9) as usize);
        floor::maybe_collect(&mut pair, &mut dice, &users, &devices);
    }
    pair.set_faults(false);
    pair.drain();
    let all_fresh = level_with_fresh(&mut pair, &mut devices, &users);
    for (device, fresh) in devices.iter().zip(&all_fresh) {
        assert_eq!(fresh.key, device.key);
        let newest = fresh.state.values().map(|item| item.number).max();
        assert_eq!(
            newest,
            Some(fresh.key),
            "the newest item is never collected"
        );
    }
    let mut versions = BTreeMap::new();
    for (a, b) in [(0, 1), (1, 2), (2, 0)] {
        check_pair(&devices[a], users[a], &devices[b], users[b]);
    }
    for item in devices.iter().flat_map(|device| device.state.values()) {
        *versions.entry(item.kind).or_default() += item.version as usize - 1;
    }
    versions
}

fn check_pair(a: &Device, ann: UserId, b: &Device, bob: UserId) {
    let (to_bob, to_ann) = (contact(a, bob), contact(b, ann));
    assert_eq!(
        to_bob.state() == State::Friend,
        to_ann.state() == State::Friend,
        "friendship is mutual: {to_bob:?}, {to_ann:?}"
    );
    for (&(kind, id), item) in &a.state {
        let Some(other) = b.state.get(&(kind, id)) else {
            continue;
        };
        if kind == i32::from(Kind::Message) {
            let read = |item: &Item| terminal::Message::decode(item.payload.clone()).unwrap();
            let (here, there) = (read(item), read(other));
            assert_eq!(item.pos, other.pos, "one position, whatever became of it");
            assert_eq!(here.recalled, there.recalled, "taken back at both ends");
        }
    }
    for (device, peer) in [(a, bob), (b, ann)] {
        let item = device.state.get(&(Kind::Conversation.into(), peer.0));
        let Some(item) = item else { continue };
        let marks = terminal::Conversation::decode(item.payload.clone()).unwrap();
        let newest = device.newest_with(peer);
        assert!(marks.read <= marks.received && marks.received <= newest);
        assert!(marks.peer_read <= marks.peer_received);
    }
}

#[test]
fn who_has_all_contacts_there_can_be_asks_and_is_asked_in_vain() {
    let mut pair = Pair::new(11);
    let [ann, bob, cy] = ["ann", "bob", "cy"].map(|name| register(&mut pair, name));
    pair.drain();
    let asked: Vec<Op> = (1..CONTACTS_PER_USER)
        .map(|n| ask(bob, UserId::from_count(1000 + n, 0, HomeId(0))))
        .collect();
    assert!(pair.round(asked).unwrap().iter().all(Result::is_ok));
    pair.must(ask(bob, cy));
    let refused = pair.round(vec![ask(bob, ann)]).unwrap().remove(0);
    assert_eq!(refused.unwrap_err().kind, RefusalKind::FailedPrecondition);
    // A request that waits already may be answered.
    pair.drain();
    pair.must(accept(cy, bob));
    pair.must(ask(ann, bob));
    pair.drain();
    let told = |pair: &mut Pair| {
        let mut device = Device::default();
        while device.sync(pair, ann, 1000) {}
        let refused = device
            .state
            .keys()
            .filter(|(kind, _)| *kind == i32::from(Kind::Refused));
        (contact(&device, bob).state(), refused.count())
    };
    assert_eq!(told(&mut pair), (State::Removed, 1));
    // One fewer makes room for one.
    let user_id = cy.0;
    pair.must(change(
        bob,
        Change::RemoveContact(terminal::RemoveContact { user_id }),
    ));
    pair.must(ask(ann, bob));
    pair.drain();
    assert_eq!(told(&mut pair), (State::Asked, 1));
    pair.must(accept(bob, ann));
    pair.drain();
    assert_eq!(told(&mut pair), (State::Friend, 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn incremental_is_full_and_both_ends_agree_whatever_is_changed(seed in any::<u64>()) {
        world(seed, 60);
    }
}

#[test]
fn the_world_does_change() {
    let mut versions: BTreeMap<i32, usize> = BTreeMap::new();
    for seed in 0..8 {
        for (kind, count) in world(seed, 60) {
            *versions.entry(kind).or_default() += count;
        }
    }
    for kind in [
        Kind::Account,
        Kind::Contact,
        Kind::Message,
        Kind::Conversation,
    ] {
        let count = versions.get(&kind.into()).copied().unwrap_or(0);
        assert!(
            count > 20,
            "{kind:?} changed only {count} times in 8 worlds"
        );
    }
}

#[test]
fn a_recalled_message_is_nowhere_to_be_read() {
    let mut pair = Pair::new(7);
    let users = friends(&mut pair, &["ann", "bob"]);
    let Answer::Sent(sent) = pair.must(send(users[0], users[1], &[(1, "secret".to_owned())]))
    else {
        panic!("wrong answer")
    };
    let message_id = sent.sent[0].message_id;
    pair.drain();
    let recall = Change::Recall(terminal::Recall {
        message_id,
        group_id: 0,
    });
    pair.must(change(users[0], recall));
    pair.drain();
    for user in users {
        let page = pair.page(user, 0, 1000);
        assert!(
            page.items
                .iter()
                .all(|item| !item.windows(6).any(|bytes| bytes == b"secret"))
        );
    }
}
