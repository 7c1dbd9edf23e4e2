//! A group under random changes, messages and crashes: one order on all devices, nothing from outside a
//! membership, one roster.

use super::{changes::change, *};
use crate::proto::terminal::{
    AdminChange, Group, GroupChange, Members, change_request::Change, group_change::What,
};

pub(super) fn create(owner: UserId, id: u8, others: &[UserId]) -> Op {
    let create = terminal::CreateGroup {
        client_id: vec![id; 16].into(),
        name: format!("club {id}"),
        members: others.iter().map(|user| user.0).collect(),
    };
    change(owner, Change::CreateGroup(create))
}

pub(super) fn group_change(user: UserId, group: UserId, what: What) -> Op {
    let what = Some(what);
    let group_id = group.0;
    change(user, Change::Group(GroupChange { group_id, what }))
}

pub(super) fn made(answer: Answer) -> UserId {
    let Answer::Made { id, .. } = answer else {
        panic!("wrong answer: {answer:?}")
    };
    let group = UserId(id);
    assert!(group.is_group());
    group
}

fn any_change(dice: &mut Dice, users: &[UserId]) -> What {
    let user = users[dice.roll(users.len() as u64) as usize].0;
    let users = Members {
        user_ids: vec![user],
    };
    match dice.roll(9) {
        0 => What::Name(format!("club {}", dice.roll(9))),
        1 => What::Announcement(format!("news {}", dice.roll(9))),
        2 => What::Open(dice.roll(3) > 0),
        3 | 4 => What::Invite(users),
        5 => What::Kick(users),
        6 => What::Leave(true),
        7 => What::Owner(user),
        _ => What::Admin(AdminChange {
            user_id: user,
            admin: dice.roll(2) == 0,
        }),
    }
}

pub(super) fn roster(device: &Device, group: UserId) -> Option<Group> {
    let item = device.state.get(&(Kind::Group.into(), group.0))?;
    Some(Group::decode(item.payload.clone()).expect("a group"))
}

/// Position counts of the group's messages that are placed, by message id.
pub(super) fn placed(device: &Device, group: UserId) -> BTreeMap<u64, u64> {
    let mut placed = BTreeMap::new();
    for item in device.state.values() {
        if item.kind() != Kind::Message {
            continue;
        }
        let message = terminal::Message::decode(item.payload.clone()).expect("a message");
        let count = item.pos.expect("a message has a position").count;
        if message.receiver == group.0 && count > 0 {
            placed.insert(item.id, count);
        }
    }
    placed
}

fn world(seed: u64, steps: u32) -> usize {
    let mut dice = Dice(seed);
    let mut pair = Pair::new(seed);
    let users = friends(&mut pair, &["ann", "bob", "cy", "dee"]);
    let mut devices: Vec<Device> = users.iter().map(|_| Device::default()).collect();
    let group = made(pair.must(create(users[0], 1, &users[1..3])));
    floor::add_devices(&mut pair, &users);
    pair.drain();
    pair.set_faults(true);
    for step in 0..u64::from(steps) {
        pair.maybe_lose_a_tail();
        let again = devices.iter_mut().flat_map(Device::say_again);
        let mut ops: Vec<Op> = again.collect();
        ops.extend((0..2 + dice.roll(4)).map(|n| {
            let user = users[dice.roll(4) as usize];
            match dice.roll(5) {
                0 => group_change(user, group, any_change(&mut dice, &users)),
                1 => group_change(user, group, What::Join(true)),
                _ => send(user, group, &[(step << 8 | n, format!("{step}/{n}"))]),
            }
        }));
        ops.extend(floor::any_op(&mut dice, &users, &devices, step));
        // Who is not a member when it comes is refused; that is part of it.
        pair.round(ops);
        let who = dice.roll(4) as usize;
        devices[who].sync(&mut pair, users[who], 1 + dice.roll(9) as usize);
        floor::maybe_collect(&mut pair, &mut dice, &users, &devices);
    }
    pair.set_faults(false);
    pair.drain();
    level_with_fresh(&mut pair, &mut devices, &users);
    check(&devices, &users, group);
    placed(&devices[0], group).len()
}

fn check(devices: &[Device], users: &[UserId], group: UserId) {
    let mut all: BTreeMap<u64, u64> = BTreeMap::new();
    for device in devices {
        for (id, count) in placed(device, group) {
            let before = all.insert(id, count);
            assert!(before.is_none_or(|before| before == count), "one position");
        }
    }
    let counts: BTreeSet<_> = all.values().collect();
    assert_eq!(counts.len(), all.len(), "a position is given once");
    let mut truth: Option<Group> = None;
    for (device, user) in devices.iter().zip(users) {
        let Some(roster) = roster(device, group).filter(|roster| !roster.left) else {
            continue;
        };
        let member = roster
            .members
            .iter()
            .find(|member| member.user_id == user.0);
        let joined = member.expect("a member is in its own roster").joined;
        let held = placed(device, group);
        for (id, count) in &all {
            assert!(
                *count < joined || held.contains_key(id),
                "a member since {joined} has the message at {count}"
            );
        }
        let same = truth.get_or_insert_with(|| roster.clone());
        assert_eq!(*same, roster, "one roster");
    }
    for device in devices {
        for item in device.state.values() {
            if item.kind() == Kind::Message && item.pos.is_some_and(|pos| pos.count == 0) {
                let refused = (i32::from(Kind::Refused), item.id);
                assert!(
                    device.state.contains_key(&refused),
                    "what is not placed at rest was refused"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_group_has_one_order_and_one_roster_whoever_dies(seed in any::<u64>()) {
        world(seed, 60);
    }
}

#[test]
fn the_group_does_talk() {
    let messages: usize = (0..8).map(|seed| world(seed, 60)).sum();
    assert!(messages > 40, "only {messages} messages were placed");
}

#[test]
fn who_is_outside_a_membership_gets_nothing() {
    let mut pair = Pair::new(8);
    let users = friends(&mut pair, &["ann", "bob", "cy"]);
    let group = made(pair.must(create(users[0], 1, &users[1..2])));
    pair.drain();
    let refused = pair
        .round(vec![send(users[2], group, &[(1, "let me in".to_owned())])])
        .unwrap()
        .remove(0)
        .unwrap_err();
    assert_eq!(refused.kind, RefusalKind::PermissionDenied);
    pair.must(send(users[0], group, &[(2, "before".to_owned())]));
    pair.drain();
    let invite = Members {
        user_ids: vec![users[2].0],
    };
    pair.must(group_change(users[1], group, What::Invite(invite.clone())));
    pair.drain();
    pair.must(send(users[0], group, &[(3, "during".to_owned())]));
    pair.drain();
    pair.must(group_change(users[0], group, What::Kick(invite)));
    pair.drain();
    pair.must(send(users[0], group, &[(4, "after".to_owned())]));
    pair.drain();
    let mut cy = Device::default();
    while cy.sync(&mut pair, users[2], 100) {}
    let texts: Vec<_> = cy.messages_from(users[0]);
    let texts: Vec<_> = texts.iter().map(|(_, _, text)| text.as_str()).collect();
    assert_eq!(texts, ["during"]);
    let roster = roster(&cy, group).unwrap();
    assert!(roster.left && roster.members.is_empty());
}

#[test]
fn a_group_asked_for_twice_is_one() {
    let mut pair = Pair::new(9);
    let users = friends(&mut pair, &["ann", "bob"]);
    let group = made(pair.must(create(users[0], 1, &users[1..])));
    assert_eq!(made(pair.must(create(users[0], 1, &users[1..]))), group);
    assert_ne!(made(pair.must(create(users[0], 2, &users[1..]))), group);
    let stranger = UserId::from_count(999, 0, HomeId(0));
    let refused = pair
        .round(vec![create(users[0], 3, &[stranger])])
        .unwrap()
        .remove(0)
        .unwrap_err();
    assert_eq!(refused.kind, RefusalKind::FailedPrecondition);
}

#[test]
fn a_message_to_a_group_can_be_taken_back_from_all() {
    let mut pair = Pair::new(10);
    let users = friends(&mut pair, &["ann", "bob", "cy"]);
    let group = made(pair.must(create(users[0], 1, &users[1..])));
    pair.drain();
    let Answer::Sent(sent) = pair.must(send(users[1], group, &[(1, "secret".to_owned())])) else {
        panic!("wrong answer")
    };
    assert_eq!(
        sent.sent[0].pos.unwrap().count,
        0,
        "a group's home has yet to place it"
    );
    // Taken back before it has come back from there.
    let message_id = sent.sent[0].message_id;
    pair.must(change(
        users[1],
        Change::Recall(terminal::Recall {
            message_id,
            group_id: 0,
        }),
    ));
    pair.drain();
    for &user in &users {
        let mut device = Device::default();
        while device.sync(&mut pair, user, 100) {}
        let item = &device.state[&(Kind::Message.into(), message_id)];
        let message = terminal::Message::decode(item.payload.clone()).unwrap();
        assert!(message.recalled && message.text.is_empty());
        assert_eq!(item.pos.unwrap().count, 1);
    }
}
