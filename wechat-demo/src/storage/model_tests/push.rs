//! Push intents under crashes: who is to be woken is, once.

use super::*;
use crate::{
    model::{
        DeviceId,
        limits::{PUSH_DEVICES, PUSH_HOLD_MS},
    },
    proto::storage::settled_push::Outcome,
    storage::{
        links::{Link, Links},
        push::{self, Desk, LEASE_MS},
    },
};
use terminal::change_request::Change;

const DEVICE: DeviceId = DeviceId(1);
/// A primary that began at 0 knows by then who has a link.
const LATER: i64 = PUSH_HOLD_MS;

fn change(user: UserId, change: Change) -> Op {
    Op::Change(pb::ChangeUser {
        user_id: user.0,
        device_id: DEVICE.0,
        request: Some(terminal::ChangeRequest {
            change: Some(change),
        }),
        password: None,
        end: None,
    })
}

fn add_device(user: UserId) -> Op {
    Op::AddDevice(pb::AddDeviceRequest {
        user_id: user.0,
        device_id: DEVICE.0,
        device: Some(pb::DeviceRow::default()),
    })
}

fn token(user: UserId, token: &str) -> Op {
    let token = token.to_owned();
    change(user, Change::PushToken(terminal::PushToken { token }))
}

fn settle(push: &pb::Push, outcome: Outcome) -> Op {
    Op::SettlePush(pb::SettledPush {
        user_id: push.user_id,
        device_id: push.device_id,
        number: push.number,
        outcome: Some(outcome),
    })
}

fn over() -> Outcome {
    Outcome::Over(pb::Over {})
}

/// Two friends; the second can be woken.
fn pair_with_token() -> (Pair, UserId, UserId) {
    let mut pair = Pair::new(1);
    let users = friends(&mut pair, &["ann", "bob"]);
    pair.must(add_device(users[1]));
    pair.must(token(users[1], "00ff00ff00ff00ff"));
    (pair, users[0], users[1])
}

fn say(pair: &mut Pair, from: UserId, to: UserId, id: u64) {
    pair.must(send(from, to, &[(id, format!("message {id}"))]));
    pair.drain();
}

fn take(pair: &mut Pair, desk: &Desk, now_ms: i64) -> Vec<pb::Push> {
    let engine = pair.store().engine();
    desk.take(&*engine, &Links::default(), now_ms, 100)
        .expect("rows are whole")
}

fn pending(pair: &mut Pair, user: UserId) -> Option<pb::PushRow> {
    let engine = pair.store().engine();
    push::pending(&*engine, user, DEVICE).expect("the row is whole")
}

#[test]
fn a_device_is_to_be_woken_once_for_all_that_came() {
    let (mut pair, ann, bob) = pair_with_token();
    for id in 0..3 {
        say(&mut pair, ann, bob, id);
    }
    let newest = pair.page(bob, 0, 1000).key;
    let desk = Desk::new(0);
    let pushes = take(&mut pair, &desk, LATER);
    assert_eq!(pushes.len(), 1);
    let push = &pushes[0];
    assert_eq!((push.user_id, push.number), (bob.0, newest));
    assert_eq!(push.token, "00ff00ff00ff00ff");
    assert!(take(&mut pair, &desk, LATER).is_empty(), "it is given out");
    let again = take(&mut pair, &desk, LATER + LEASE_MS);
    assert_eq!(again, pushes, "whoever took it is gone");
    let other = take(&mut pair, &Desk::new(0), LATER);
    assert_eq!(other, pushes, "a new primary gives it out again");
    pair.must(settle(push, over()));
    assert_eq!(pending(&mut pair, bob), None);
}

#[test]
fn what_comes_while_a_push_is_under_way_is_another_one() {
    let (mut pair, ann, bob) = pair_with_token();
    say(&mut pair, ann, bob, 1);
    let first = take(&mut pair, &Desk::new(0), LATER).remove(0);
    say(&mut pair, ann, bob, 2);
    pair.must(settle(&first, over()));
    let row = pending(&mut pair, bob).expect("the second message is not forgotten");
    assert!(row.number > first.number);
}

#[test]
fn a_failed_push_waits_and_is_counted() {
    let (mut pair, ann, bob) = pair_with_token();
    say(&mut pair, ann, bob, 1);
    let desk = Desk::new(0);
    let push = take(&mut pair, &desk, LATER).remove(0);
    pair.must(settle(&push, Outcome::AgainMs(60_000)));
    desk.settled((bob, DEVICE));
    assert!(take(&mut pair, &desk, 59_999).is_empty());
    let again = take(&mut pair, &desk, 60_000).remove(0);
    assert_eq!((again.number, again.tries), (push.number, 1));
}

#[test]
fn a_token_that_is_gone_takes_its_intent_along_unless_it_is_newer() {
    let (mut pair, ann, bob) = pair_with_token();
    say(&mut pair, ann, bob, 1);
    let push = take(&mut pair, &Desk::new(0), LATER).remove(0);
    let gone = |token: &str, at_ms| {
        let token = token.to_owned();
        Outcome::Gone(pb::TokenGone { token, at_ms })
    };
    pair.must(settle(&push, gone("00ff00ff00ff00ff", -1)));
    assert!(
        pending(&mut pair, bob).is_some(),
        "registered after it was gone"
    );
    pair.must(settle(&push, gone("another", 0)));
    assert!(pending(&mut pair, bob).is_some(), "another token's end");
    pair.must(settle(&push, gone("00ff00ff00ff00ff", 0)));
    assert_eq!(pending(&mut pair, bob), None);
    say(&mut pair, ann, bob, 2);
    assert_eq!(pending(&mut pair, bob), None, "there is no token any more");
}

#[test]
fn own_messages_and_muted_conversations_wake_nobody() {
    let (mut pair, ann, bob) = pair_with_token();
    say(&mut pair, bob, ann, 1);
    assert_eq!(pending(&mut pair, bob), None);
    let (peer, muted) = (ann.0, true);
    pair.must(change(bob, Change::Mute(terminal::Mute { peer, muted })));
    say(&mut pair, ann, bob, 2);
    assert_eq!(pending(&mut pair, bob), None);
    let muted = false;
    pair.must(change(bob, Change::Mute(terminal::Mute { peer, muted })));
    say(&mut pair, ann, bob, 3);
    assert!(pending(&mut pair, bob).is_some());
}

#[test]
fn logging_out_ends_it() {
    let (mut pair, ann, bob) = pair_with_token();
    say(&mut pair, ann, bob, 1);
    let device_id = DEVICE.0;
    pair.must(change(bob, Change::LogOut(terminal::LogOut { device_id })));
    assert_eq!(pending(&mut pair, bob), None);
    say(&mut pair, ann, bob, 2);
    assert_eq!(pending(&mut pair, bob), None);
}

#[test]
fn somebody_who_asks_to_be_a_contact_wakes_the_other() {
    let mut pair = Pair::new(1);
    let (ann, bob) = (register(&mut pair, "ann"), register(&mut pair, "bob"));
    pair.drain();
    pair.must(add_device(bob));
    pair.must(token(bob, "00ff00ff00ff00ff"));
    pair.must(ask(ann, bob));
    pair.drain();
    assert!(pending(&mut pair, bob).is_some());
}

#[test]
fn posts_and_comments_of_friends_wake_whom_they_concern_likes_do_not() {
    let (mut pair, ann, bob) = pair_with_token();
    let mut woken = |by: UserId, what: Change| {
        let answer = pair.must(change(by, what));
        pair.drain();
        let row = pending(&mut pair, bob);
        for push in take(&mut pair, &Desk::new(0), LATER) {
            pair.must(settle(&push, over()));
        }
        let Answer::Made { id, .. } = answer else {
            return (0, row.is_some());
        };
        (id, row.is_some())
    };
    let post = |id: u8| {
        Change::NewPost(terminal::NewPost {
            client_id: vec![id; 16].into(),
            text: "a picture".to_owned(),
            ..Default::default()
        })
    };
    let comment = |author: UserId, post_id, id: u8| {
        Change::NewComment(terminal::NewComment {
            author: author.0,
            post_id,
            client_id: vec![id; 16].into(),
            text: "nice".to_owned(),
            reply_to: 0,
        })
    };
    let (_, woke) = woken(ann, post(1));
    assert!(woke, "a friend's post");
    let (own, woke) = woken(bob, post(2));
    assert!(!woke, "the own post");
    let like = Change::Like(terminal::Like {
        author: bob.0,
        post_id: own,
        liked: true,
    });
    assert!(!woken(ann, like).1, "a like");
    assert!(woken(ann, comment(bob, own, 3)).1, "what a friend says");
    assert!(!woken(bob, comment(bob, own, 4)).1, "the own words");
    let (peer, muted) = (ann.0, true);
    woken(bob, Change::Mute(terminal::Mute { peer, muted }));
    assert!(
        !woken(ann, post(5)).1,
        "of those one does not want to hear of"
    );
}

#[test]
fn of_too_many_devices_those_that_registered_last_are_woken() {
    let (mut pair, ann, bob) = pair_with_token();
    say(&mut pair, ann, bob, 1);
    for device_id in 2..=PUSH_DEVICES as u64 + 1 {
        let token = format!("00ff00ff00ff00f{device_id:x}");
        let set = Change::PushToken(terminal::PushToken { token });
        pair.must(Op::Change(pb::ChangeUser {
            user_id: bob.0,
            device_id,
            request: Some(terminal::ChangeRequest { change: Some(set) }),
            password: None,
            end: None,
        }));
    }
    assert_eq!(
        pending(&mut pair, bob),
        None,
        "the first one's went with it"
    );
    say(&mut pair, ann, bob, 2);
    let pushes = take(&mut pair, &Desk::new(0), LATER);
    let mut devices: Vec<u64> = pushes.iter().map(|push| push.device_id).collect();
    devices.sort_unstable();
    assert_eq!(devices, Vec::from_iter(2..=PUSH_DEVICES as u64 + 1));
}

#[test]
fn a_device_with_a_link_has_time_to_sync() {
    let (mut pair, ann, bob) = pair_with_token();
    say(&mut pair, ann, bob, 1);
    let engine = pair.store().engine();
    let link = Link {
        device: DEVICE,
        access: "127.0.0.1:1".into(),
        number: 1,
        active: false,
    };
    let links = Links::default();
    links.register(bob, link, 0);
    let due = |desk: &Desk, now_ms| {
        let pushes = desk.take(&*engine, &links, now_ms, 100).unwrap();
        pushes.len()
    };
    // The message is of time 0.
    let old = Desk::new(-PUSH_HOLD_MS);
    assert_eq!(due(&old, PUSH_HOLD_MS - 1), 0, "it may yet sync");
    assert_eq!(due(&old, PUSH_HOLD_MS), 1, "it did not");
    links.drop_link(bob, DEVICE, 1);
    let old = Desk::new(-PUSH_HOLD_MS);
    assert_eq!(due(&old, 0), 1, "without a link it is due at once");
    let new = Desk::new(0);
    assert_eq!(due(&new, 0), 0, "nobody has registered a link yet");
}

#[test]
fn all_have_their_turn() {
    let mut pair = Pair::new(1);
    let users = friends(&mut pair, &["ann", "bob", "cy", "dan"]);
    for &user in &users[1..] {
        pair.must(add_device(user));
        pair.must(token(user, "00ff00ff00ff00ff"));
        say(&mut pair, users[0], user, user.0);
    }
    let engine = pair.store().engine();
    let desk = Desk::new(0);
    let mut woken: Vec<u64> = (0..4)
        .flat_map(|_| desk.take(&*engine, &Links::default(), LATER, 1).unwrap())
        .map(|push| push.user_id)
        .collect();
    woken.sort_unstable();
    let mut all: Vec<u64> = users[1..].iter().map(|user| user.0).collect();
    all.sort_unstable();
    assert_eq!(woken, all);
}

/// Messages and settlements under crashes of both copies: in the end each device is to be woken, if and only if
/// nobody said that it was for the newest that came.
fn world(seed: u64, steps: u64) {
    let mut dice = Dice(seed);
    let mut pair = Pair::new(seed);
    let users = friends(&mut pair, &["ann", "bob", "cy"]);
    for &user in &users {
        pair.must(add_device(user));
        pair.must(token(user, "00ff00ff00ff00ff"));
    }
    // Highest numbers that were settled: said so, and answered.
    let mut said: HashMap<u64, u64> = HashMap::new();
    let mut answered: HashMap<u64, u64> = HashMap::new();
    pair.set_faults(true);
    for step in 0..steps {
        let who = dice.roll(3) as usize;
        let peer = (who + 1 + dice.roll(2) as usize) % 3;
        pair.round(vec![send(
            users[who],
            users[peer],
            &[(step, String::new())],
        )]);
        for push in take(&mut pair, &Desk::new(0), LATER) {
            if dice.roll(4) == 0 {
                pair.round(vec![settle(&push, Outcome::AgainMs(0))]);
            } else if dice.roll(3) == 0 {
                let raise = |map: &mut HashMap<u64, u64>| {
                    let highest = map.entry(push.user_id).or_default();
                    *highest = push.number.max(*highest);
                };
                raise(&mut said);
                if pair.round(vec![settle(&push, over())]).is_some() {
                    raise(&mut answered);
                }
            }
        }
    }
    pair.set_faults(false);
    pair.drain();
    for user in users {
        let mut device = Device::default();
        while device.sync(&mut pair, user, 1000) {}
        let received = device.state.values().filter(|item| {
            let message = terminal::Message::decode(item.payload.clone());
            item.kind() == Kind::Message && message.is_ok_and(|m| m.sender != user.0)
        });
        let newest = received.map(|item| item.number).max().unwrap_or(0);
        let at = |map: &HashMap<u64, u64>| map.get(&user.0).copied().unwrap_or(0);
        match pending(&mut pair, user) {
            Some(row) => {
                assert_eq!(row.number, newest, "it is for the newest that came");
                assert!(at(&answered) < newest, "what is settled is over");
            }
            None => assert!(at(&said) >= newest, "nothing is forgotten"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_intent_is_lost_in_a_crash(seed in any::<u64>()) {
        world(seed, 40);
    }
}
