//! A group that is stored once, under random talk, changes and crashes: what a device holds after any syncs is what a
//! fresh one gets, one order on all devices, nothing from outside a membership.

use super::{
    changes::change,
    groups::{create, group_change, made, placed, roster},
    *,
};
use crate::{
    model::limits::{GROUP_COPIED, GROUP_NAMED},
    proto::terminal::{Members, change_request::Change, group_change::What},
    storage::{
        engine::{Span, Table},
        table,
    },
};

/// Those who act: the owner, four members, and one who is not in the group at first.
const ACTORS: usize = 6;

fn all(pair: &mut Pair, ops: Vec<Op>) -> Vec<Answer> {
    let answers = pair.round(ops).expect("nothing fails without a fault");
    pair.drain();
    answers
        .into_iter()
        .map(|answer| answer.expect("the op is good"))
        .collect()
}

fn members(user: UserId) -> Members {
    Members {
        user_ids: vec![user.0],
    }
}

/// A group that has just become too large to be copied, and some of its members: the owner, whose friends they all
/// are, first; the last one is a friend and no member.
fn large(pair: &mut Pair) -> (Vec<UserId>, UserId) {
    let claims = (0..GROUP_COPIED + 2).map(|n| {
        Op::ClaimName(pb::ClaimNameRequest {
            name: format!("user {n}"),
            nickname: "nick".to_owned(),
            password_hash: "hash".to_owned(),
            home: 0,
        })
    });
    let users: Vec<UserId> = all(pair, claims.collect())
        .into_iter()
        .map(|answer| match answer {
            Answer::Claimed(claimed) => UserId(claimed.user_id),
            other => panic!("wrong answer: {other:?}"),
        })
        .collect();
    let (owner, others) = (users[0], &users[1..]);
    all(pair, others.iter().map(|&user| ask(owner, user)).collect());
    all(
        pair,
        others.iter().map(|&user| accept(user, owner)).collect(),
    );
    let (outside, inside) = others.split_last().expect("there are some");
    let (last, first) = inside.split_last().expect("there are some");
    assert_eq!(first.len(), GROUP_NAMED);
    let group = made(pair.must(create(owner, 1, first)));
    pair.drain();
    assert!(!stored_once(pair, group), "each has a copy so far");
    pair.must(send(owner, group, &[(1, "before".to_owned())]));
    pair.drain();
    pair.must(group_change(owner, group, What::Invite(members(*last))));
    pair.drain();
    assert!(stored_once(pair, group), "one more than is copied");
    let mut actors = users[..ACTORS - 1].to_vec();
    actors.push(*outside);
    (actors, group)
}

fn stored_once(pair: &mut Pair, group: UserId) -> bool {
    row::<pb::GroupRow>(pair, &table::group(group)).stored_once
}

fn row<M: Message + Default>(pair: &mut Pair, key: &table::Key) -> M {
    let row = pair.store().engine().get(Table::Rows, key);
    let row = row
        .expect("the disk is whole")
        .expect("there is such a row");
    M::decode(row).expect("the row is whole")
}

fn synced(pair: &mut Pair, user: UserId) -> Device {
    let mut device = Device::default();
    while device.sync(pair, user, 1000) {}
    device
}

/// Texts of the group's messages, in the order of their positions.
fn texts(device: &Device, group: UserId) -> Vec<String> {
    let mut texts: Vec<(u64, String)> = device
        .state
        .values()
        .filter(|item| item.kind() == Kind::Message)
        .map(|item| (item, message(item)))
        .filter(|(_, message)| message.receiver == group.0)
        .map(|(item, message)| (item.pos.expect("a position").count, message.text))
        .collect();
    texts.sort_unstable();
    texts.into_iter().map(|(_, text)| text).collect()
}

fn message(item: &Item) -> terminal::Message {
    terminal::Message::decode(item.payload.clone()).expect("a message")
}

/// Rows of a timeline.
fn timeline_rows(pair: &mut Pair, user: UserId) -> usize {
    let (from, to) = (
        table::item(user, Seq::ZERO),
        table::item(user, Seq(u64::MAX)),
    );
    let span = Span {
        from: &from,
        to: &to,
        backwards: false,
    };
    let mut rows = 0;
    let engine = pair.store().engine();
    let count = &mut |_: &[u8], _: &[u8]| {
        rows += 1;
        true
    };
    engine
        .scan(Table::Timeline, span, count)
        .expect("the disk is whole");
    rows
}

fn say(pair: &mut Pair, from: UserId, to: UserId, id: u64, text: &str) -> u64 {
    let Answer::Sent(sent) = pair.must(send(from, to, &[(id, text.to_owned())])) else {
        panic!("wrong answer")
    };
    pair.drain();
    sent.sent[0].message_id
}

#[test]
fn what_is_said_in_a_large_group_is_stored_once_and_shown_to_all() {
    let mut pair = Pair::new(20);
    let (actors, group) = large(&mut pair);
    let mut device = synced(&mut pair, actors[1]);
    assert_eq!(
        roster(&device, group).expect("it is in").size as usize,
        GROUP_COPIED + 1
    );
    let rows = timeline_rows(&mut pair, actors[1]);
    for n in 0..20 {
        say(
            &mut pair,
            actors[n as usize % 5],
            group,
            10 + n,
            &format!("word {n}"),
        );
        if n % 3 == 0 {
            while device.sync(&mut pair, actors[1], 2) {}
        }
    }
    while device.sync(&mut pair, actors[1], 2) {}
    let expected: Vec<String> = std::iter::once("before".to_owned())
        .chain((0..20).map(|n| format!("word {n}")))
        .collect();
    for &actor in &actors[..5] {
        let fresh = synced(&mut pair, actor);
        assert_eq!(texts(&fresh, group), expected);
    }
    assert_eq!(texts(&device, group), expected);
    assert_eq!(device.key, synced(&mut pair, actors[1]).key);
    // Of the user's own: four messages that had to be placed, each of which ended a run.
    assert!(timeline_rows(&mut pair, actors[1]) <= rows + 4);
    assert_eq!(texts(&synced(&mut pair, actors[5]), group), [""; 0]);
}

#[test]
fn nothing_from_outside_a_membership_of_a_large_group_is_shown() {
    let mut pair = Pair::new(21);
    let (actors, group) = large(&mut pair);
    let (ann, guest) = (actors[0], actors[5]);
    let refused = pair.round(vec![send(guest, group, &[(1, "let me in".to_owned())])]);
    let refused = refused.unwrap().remove(0).unwrap_err();
    assert_eq!(refused.kind, RefusalKind::PermissionDenied);
    let outside = say(&mut pair, ann, group, 2, "outside");
    let mut device = Device::default();
    for round in 0..3 {
        pair.must(group_change(ann, group, What::Invite(members(guest))));
        pair.drain();
        say(&mut pair, guest, group, 10 + round, "inside");
        say(&mut pair, ann, guest, 30 + round, "between the two");
        let last = say(&mut pair, ann, group, 20 + round, "inside too");
        while device.sync(&mut pair, guest, 1) {}
        pair.must(group_change(ann, group, What::Kick(members(guest))));
        pair.drain();
        say(&mut pair, ann, group, 40 + round, "outside");
        // What is done to it later is not for who has left.
        let react = |message_id| {
            Change::React(terminal::React {
                message_id,
                emoji: "+".to_owned(),
                group_id: group.0,
            })
        };
        pair.must(change(ann, react(last)));
        pair.must(change(ann, react(outside)));
        pair.drain();
        while device.sync(&mut pair, guest, 1) {}
        let fresh = synced(&mut pair, guest);
        assert_eq!(fresh.state, device.state, "incremental = full");
        let shown = texts(&device, group);
        assert_eq!(shown.len() as u64, 2 * (round + 1));
        assert!(shown.iter().all(|text| text.starts_with("inside")));
        let known = roster(&device, group).expect("it is known");
        assert!(known.left && known.members.is_empty());
    }
}

#[test]
fn a_message_to_a_large_group_is_edited_answered_and_taken_back_for_all() {
    let mut pair = Pair::new(22);
    let (actors, group) = large(&mut pair);
    let (ann, bob, cy) = (actors[0], actors[1], actors[2]);
    let first = say(&mut pair, ann, group, 2, "frist");
    let mut device = synced(&mut pair, bob);
    let group_id = group.0;
    let edit = |message_id, text: &str| {
        Change::Edit(terminal::Edit {
            message_id,
            text: text.to_owned(),
            group_id,
        })
    };
    pair.must(change(ann, edit(first, "first")));
    pair.must(change(cy, edit(first, "mine")));
    let emoji = "+".to_owned();
    let react = terminal::React {
        message_id: first,
        emoji,
        group_id,
    };
    pair.must(change(cy, Change::React(react)));
    pair.drain();
    while device.sync(&mut pair, bob, 1) {}
    let shown = |device: &Device, id| message(&device.state[&(Kind::Message.into(), id)]);
    let seen = shown(&device, first);
    assert_eq!((seen.text.as_str(), seen.edits), ("first", 1));
    assert_eq!(seen.reactions.len(), 1);
    assert_eq!(synced(&mut pair, bob).state, device.state);
    let refused = synced(&mut pair, cy);
    let refused = refused
        .state
        .keys()
        .filter(|(kind, _)| *kind == i32::from(Kind::Refused));
    assert_eq!(
        refused.count(),
        1,
        "the words of another are not cy's to edit"
    );
    let outsider = pair.round(vec![change(actors[5], edit(first, "mine"))]);
    let outsider = outsider.unwrap().remove(0).unwrap_err();
    assert_eq!(outsider.kind, RefusalKind::PermissionDenied);
    // Taken back before it has its place, and after.
    let Answer::Sent(sent) = pair.must(send(ann, group, &[(3, "secret".to_owned())])) else {
        panic!("wrong answer")
    };
    let second = sent.sent[0].message_id;
    for message_id in [second, first] {
        let recall = terminal::Recall {
            message_id,
            group_id,
        };
        pair.must(change(ann, Change::Recall(recall)));
    }
    pair.drain();
    while device.sync(&mut pair, bob, 1) {}
    for id in [first, second] {
        let gone = shown(&device, id);
        assert!(gone.recalled && gone.text.is_empty() && gone.reactions.is_empty());
    }
    for &actor in &actors[..3] {
        let fresh = synced(&mut pair, actor);
        assert!(shown(&fresh, first).recalled && shown(&fresh, second).recalled);
    }
    assert_eq!(synced(&mut pair, bob).state, device.state);
}

#[test]
fn who_deletes_the_account_leaves_a_large_group() {
    let mut pair = Pair::new(23);
    let (actors, group) = large(&mut pair);
    let guest = actors[5];
    pair.must(group_change(actors[0], group, What::Invite(members(guest))));
    pair.drain();
    let size = |pair: &mut Pair| {
        let known = roster(&synced(pair, actors[1]), group).expect("it is in");
        known.size as usize
    };
    assert_eq!(size(&mut pair), GROUP_COPIED + 2);
    pair.must(Op::Change(pb::ChangeUser {
        user_id: guest.0,
        device_id: 1,
        end: Some(pb::AccountEnd {
            password_hash: "hash".to_owned(),
        }),
        ..Default::default()
    }));
    pair.drain();
    assert_eq!(size(&mut pair), GROUP_COPIED + 1);
}

fn any_op(dice: &mut Dice, actors: &[UserId], devices: &[Device], group: UserId, id: u64) -> Op {
    let who = dice.roll(ACTORS as u64) as usize;
    let (user, group_id) = (actors[who], group.0);
    let messages = placed(&devices[who], group);
    let message_id = match messages.len() as u64 {
        0 => 7,
        count => *messages
            .keys()
            .nth(dice.roll(count) as usize)
            .expect("there is"),
    };
    let word = format!("word {}", dice.roll(4));
    // The owner stays, so that there is always one who has seen it all.
    let other = actors[1 + dice.roll(ACTORS as u64 - 1) as usize];
    match dice.roll(20) {
        0 => change(
            user,
            Change::Recall(terminal::Recall {
                message_id,
                group_id,
            }),
        ),
        1 | 2 => change(
            user,
            Change::Edit(terminal::Edit {
                message_id,
                text: word,
                group_id,
            }),
        ),
        3 | 4 => change(
            user,
            Change::React(terminal::React {
                message_id,
                emoji: ["", "+", "-"][dice.roll(3) as usize].to_owned(),
                group_id,
            }),
        ),
        5 => group_change(actors[0], group, What::Name(word)),
        6 => group_change(actors[0], group, What::Invite(members(other))),
        7 => group_change(actors[0], group, What::Kick(members(other))),
        8 => group_change(other, group, What::Leave(true)),
        9..=11 => send(actors[0], other, &[(id, word)]),
        _ => send(user, group, &[(id, word)]),
    }
}

fn world(seed: u64, steps: u64) -> usize {
    let mut dice = Dice(seed);
    let mut pair = Pair::new(seed);
    let (actors, group) = large(&mut pair);
    floor::add_devices(&mut pair, &actors);
    let mut devices: Vec<Device> = actors.iter().map(|_| Device::default()).collect();
    pair.set_faults(true);
    for step in 0..steps {
        let ops = (0..1 + dice.roll(4))
            .map(|n| any_op(&mut dice, &actors, &devices, group, step << 8 | n | 1 << 32));
        let mut ops: Vec<Op> = ops.collect();
        ops.extend(floor::any_op(&mut dice, &actors, &devices, step));
        // Some of it is refused; that is part of it.
        pair.round(ops);
        let who = dice.roll(ACTORS as u64) as usize;
        devices[who].sync(&mut pair, actors[who], 1 + dice.roll(9) as usize);
        floor::maybe_collect(&mut pair, &mut dice, &actors, &devices);
    }
    pair.set_faults(false);
    pair.drain();
    let fresh: Vec<Device> = actors
        .iter()
        .zip(&mut devices)
        .map(|(&user, device)| {
            while device.sync(&mut pair, user, 3) {}
            synced(&mut pair, user)
        })
        .collect();
    for (fresh, device) in fresh.iter().zip(&devices) {
        same(fresh, device, &fresh_recalls(&devices[0]));
    }
    check(&mut pair, &actors, &devices, group);
    placed(&devices[0], group).len()
}

/// The messages that the owner knows to be taken back.
fn fresh_recalls(owner: &Device) -> Vec<u64> {
    let messages = owner
        .state
        .values()
        .filter(|item| item.kind() == Kind::Message);
    let recalled = messages.filter(|item| message(item).recalled);
    recalled.map(|item| item.id).collect()
}

/// Incremental = full; but of what was taken back after they left nothing is kept for those who had it.
fn same(fresh: &Device, device: &Device, recalled: &[u64]) {
    assert_eq!(fresh.key, device.key);
    for (what, item) in device.shown() {
        match fresh.state.get(&what) {
            None => assert!(recalled.contains(&what.1), "a fresh device lacks {item:?}"),
            Some(other) => assert_eq!(other, item, "incremental = full"),
        }
    }
    for what in fresh.shown().keys() {
        assert!(
            device.state.contains_key(what),
            "only a fresh device has {what:?}"
        );
    }
    for (number, item) in &fresh.seen {
        let seen = device.seen.get(number);
        assert!(seen.is_none_or(|seen| seen == item), "one number, one item");
    }
}

/// One order, one roster, and who is in the group has what was said since they joined.
fn check(pair: &mut Pair, actors: &[UserId], devices: &[Device], group: UserId) {
    let truth: pb::GroupRow = row(pair, &table::group(group));
    let truth = truth.group.expect("a roster");
    let mut everything: BTreeMap<u64, u64> = BTreeMap::new();
    for device in devices {
        for (id, count) in placed(device, group) {
            let before = everything.insert(id, count);
            assert!(before.is_none_or(|before| before == count), "one position");
        }
    }
    let counts: BTreeSet<_> = everything.values().collect();
    assert_eq!(counts.len(), everything.len(), "a position is given once");
    for (device, user) in devices.iter().zip(actors) {
        let Some(known) = roster(device, group) else {
            continue;
        };
        let member = truth.members.iter().find(|member| member.user_id == user.0);
        assert_eq!(known.left, member.is_none());
        let Some(member) = member else { continue };
        assert_eq!(
            (&known.name, known.size as usize),
            (&truth.name, truth.members.len())
        );
        let held = placed(device, group);
        for (id, &count) in &everything {
            let entitled = count >= member.joined;
            assert!(
                !entitled || held.contains_key(id),
                "{user} lacks position {count}"
            );
        }
    }
    for item in devices.iter().flat_map(|device| device.state.values()) {
        if item.kind() == Kind::Message && item.pos.is_some_and(|pos| pos.count == 0) {
            let refused = (i32::from(Kind::Refused), item.id);
            let told = devices
                .iter()
                .any(|device| device.state.contains_key(&refused));
            assert!(told, "what is not placed at rest was refused");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_large_group_comes_out_the_same_on_all_devices_whoever_dies(seed in any::<u64>()) {
        world(seed, 60);
    }
}

#[test]
fn the_large_group_does_talk() {
    let messages: usize = (0..3).map(|seed| world(seed, 60)).sum();
    assert!(messages > 30, "only {messages} messages were placed");
}
