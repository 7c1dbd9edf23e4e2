//! Deletions that every device has heard of are collected, and a device that has not heard of them is told everything.

use super::{changes::change, *};
use crate::{
    model::{DeviceId, clock::Clock},
    proto::terminal::change_request::Change,
    storage::acks::Kept,
};

/// Makes the devices of users known: the one that a model plays, and another that is always level.
pub(super) fn add_devices(pair: &mut Pair, users: &[UserId]) {
    for &user in users {
        for device_id in [1, 2] {
            pair.must(Op::AddDevice(pb::AddDeviceRequest {
                user_id: user.0,
                device_id,
                device: Some(pb::DeviceRow {
                    created_ms: pair.clock.unix_ms(),
                    ..pb::DeviceRow::default()
                }),
            }));
        }
    }
}

fn acknowledge(pair: &Pair, user: UserId, device: u64, key: u64) -> Op {
    let whose = (user, DeviceId(device));
    let now_ms = pair.clock.unix_ms();
    Op::Acknowledge(Kept::default().acknowledged(whose, Seq(key), now_ms))
}

/// Days pass, and a device of somebody's acknowledges something: mostly what it has. Nothing but what is collected rests
/// on that.
pub(super) fn maybe_collect(
    pair: &mut Pair,
    dice: &mut Dice,
    users: &[UserId],
    devices: &[Device],
) {
    if dice.roll(3) > 0 {
        return;
    }
    pair.sleep([0, 3, 8, 40][dice.roll(4) as usize]);
    let who = dice.roll(users.len() as u64) as usize;
    let (device, key) = match dice.roll(12) {
        0 => (1, u64::MAX),
        1..6 => (1, devices[who].key),
        _ => (2, u64::MAX),
    };
    let op = acknowledge(pair, users[who], device, key);
    pair.round(vec![op]);
}

/// Somebody posts something or takes a post down, so that there is something to collect beside everything else.
pub(super) fn any_op(dice: &mut Dice, users: &[UserId], devices: &[Device], id: u64) -> Option<Op> {
    let who = dice.roll(users.len() as u64) as usize;
    let own = |item: &&Item| {
        let pointer = || terminal::PostPointer::decode(item.payload.clone()).expect("a pointer");
        item.kind() == Kind::Post && !item.deleted && pointer().author == users[who].0
    };
    let what = match dice.roll(4) {
        0 => Change::NewPost(terminal::NewPost {
            client_id: Bytes::from([id.to_be_bytes(), [9; 8]].concat()),
            text: format!("post {id}"),
            ..Default::default()
        }),
        1 | 2 => {
            let mut posts = devices[who].state.values().filter(own);
            let post_id = posts.next()?.id;
            Change::DeletePost(terminal::DeletePost { post_id })
        }
        _ => return None,
    };
    Some(change(users[who], what))
}

/// What the floors of users have come to: how many there are.
pub(super) fn floors(pair: &mut Pair, users: &[UserId]) -> usize {
    let engine = pair.store().engine();
    let floor = |user: &&UserId| timeline::floor(&*engine, **user).unwrap() > Seq::ZERO;
    users.iter().filter(floor).count()
}

/// A user with two devices that have seen a post; the first has seen it go as well, and something after it.
fn deleted(pair: &mut Pair) -> (UserId, Device, Device) {
    let users = friends(pair, &["ann", "bob"]);
    let (ann, bob) = (users[0], users[1]);
    add_devices(pair, &[bob]);
    let post = terminal::NewPost {
        client_id: vec![1; 16].into(),
        text: "soon gone".to_owned(),
        ..Default::default()
    };
    let Answer::Made { id: post_id, .. } = pair.must(change(ann, Change::NewPost(post))) else {
        panic!("wrong answer")
    };
    pair.drain();
    let (mut near, mut far) = (Device::default(), Device::default());
    for device in [&mut near, &mut far] {
        while device.sync(pair, bob, 100) {}
    }
    let delete = Change::DeletePost(terminal::DeletePost { post_id });
    pair.must(change(ann, delete));
    pair.must(send(ann, bob, &[(1, "later".to_owned())]));
    pair.drain();
    while near.sync(pair, bob, 100) {}
    note(pair, bob, 2, far.key);
    (bob, near, far)
}

fn note(pair: &mut Pair, user: UserId, device: u64, key: u64) {
    let op = acknowledge(pair, user, device, key);
    pair.must(op);
}

fn deletions(pair: &mut Pair, user: UserId) -> usize {
    let items = pair.page(user, 0, 1000).items.into_iter();
    let items = items.map(|item| Item::decode(item).expect("an item is an item"));
    items.filter(|item| item.deleted).count()
}

#[test]
fn a_deletion_is_kept_while_a_device_in_use_has_not_heard_of_it() {
    let mut pair = Pair::new(21);
    let (bob, near, mut far) = deleted(&mut pair);
    for _ in 0..5 {
        pair.sleep(8);
        note(&mut pair, bob, 2, far.key);
        note(&mut pair, bob, 1, near.key);
    }
    assert_eq!(deletions(&mut pair, bob), 1);
    while far.sync(&mut pair, bob, 100) {}
    assert_eq!((far.fulls, far.shown()), (0, near.shown()));
    note(&mut pair, bob, 2, far.key);
    assert_eq!(deletions(&mut pair, bob), 0);
    level_with_fresh(&mut pair, &mut [near, far], &[bob, bob]);
}

#[test]
fn a_device_below_the_floor_is_told_everything() {
    let mut pair = Pair::new(22);
    let (bob, near, far) = deleted(&mut pair);
    pair.sleep(40);
    note(&mut pair, bob, 1, near.key);
    assert_eq!(deletions(&mut pair, bob), 0);
    let mut devices = [near, far];
    level_with_fresh(&mut pair, &mut devices, &[bob, bob]);
    assert_eq!(devices.map(|device| device.fulls), [0, 1]);
}

#[test]
fn a_fresh_device_below_the_floor_goes_page_by_page_up_to_a_fixed_end() {
    let mut pair = Pair::new(25);
    let (bob, near, _) = deleted(&mut pair);
    pair.sleep(40);
    note(&mut pair, bob, 1, near.key);
    let mut fresh = Device::default();
    assert!(fresh.sync(&mut pair, bob, 1) && fresh.fulls == 1);
    while fresh.sync(&mut pair, bob, 1) {}
    assert_eq!((fresh.fulls, fresh.shown()), (1, near.shown()));
}

#[test]
fn a_deletion_is_kept_for_a_week_whoever_has_seen_it() {
    let mut pair = Pair::new(23);
    let (bob, near, _) = deleted(&mut pair);
    note(&mut pair, bob, 2, near.key);
    pair.sleep(6);
    note(&mut pair, bob, 1, near.key);
    assert_eq!(deletions(&mut pair, bob), 1);
    pair.sleep(1);
    note(&mut pair, bob, 1, near.key);
    assert_eq!(deletions(&mut pair, bob), 0);
}

#[test]
fn a_logged_out_device_holds_nothing_back() {
    let mut pair = Pair::new(24);
    let (bob, near, _) = deleted(&mut pair);
    pair.must(Op::RemoveDevice(pb::RemoveDeviceRequest {
        user_id: bob.0,
        device_id: 2,
    }));
    pair.sleep(7);
    note(&mut pair, bob, 2, 0);
    note(&mut pair, bob, 1, near.key);
    assert_eq!(deletions(&mut pair, bob), 0);
}
