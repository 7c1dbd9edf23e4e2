//! An account that ends, under crashes: contacts are told, groups are left, posts are gone, nobody acts for it any more,
//! and its name is nobody's.

use super::{
    changes::{change, contact},
    groups::{create, made, roster},
    *,
};
use crate::{
    model::limits::ERASED_POSTS,
    proto::terminal::{change_request::Change, contact::State, member::Role},
    storage::ops::RefusalKind,
};

fn end(user: UserId) -> Op {
    Op::Change(pb::ChangeUser {
        user_id: user.0,
        device_id: 1,
        end: Some(pb::AccountEnd {
            password_hash: "hash".to_owned(),
        }),
        ..Default::default()
    })
}

fn post(user: UserId, id: u8) -> Op {
    change(
        user,
        Change::NewPost(terminal::NewPost {
            client_id: vec![id; 16].into(),
            text: format!("post {id}"),
            ..Default::default()
        }),
    )
}

fn refused(pair: &mut Pair, op: Op) -> RefusalKind {
    let outcome = pair.round(vec![op]).unwrap().remove(0);
    outcome.unwrap_err().kind
}

fn world(seed: u64) {
    let mut dice = Dice(seed);
    let mut pair = Pair::new(seed);
    let users = friends(&mut pair, &["ann", "bob", "cy", "dee"]);
    let (ann, dee) = (users[0], users[3]);
    let group = made(pair.must(create(ann, 101, &users[1..3])));
    for id in 0..2 * ERASED_POSTS as u8 + 3 {
        pair.must(post(ann, id));
    }
    pair.drain();
    // Its roster is on its way yet when the account ends.
    let young = made(pair.must(create(ann, 102, &users[1..3])));
    let mut devices: Vec<Device> = users.iter().map(|_| Device::default()).collect();
    pair.set_faults(true);
    let mut ended = false;
    for step in 0..40 {
        let from = users[1 + dice.roll(3) as usize];
        let to = if dice.roll(2) == 0 { ann } else { group };
        let mut ops = vec![send(from, to, &[(step, format!("line {step}"))])];
        if !ended {
            ops.push(end(ann));
        }
        if let Some(mut outcomes) = pair.round(ops)
            && outcomes.len() == 2
        {
            // Done before a crash, it finds nothing to end.
            let outcome = outcomes.remove(1);
            ended = outcome.map_or_else(|no| no.kind == RefusalKind::NotFound, |_| true);
            assert!(ended);
        }
        let who = 1 + dice.roll(3) as usize;
        devices[who].sync(&mut pair, users[who], 1 + dice.roll(9) as usize);
    }
    pair.set_faults(false);
    if !ended {
        pair.must(end(ann));
    }
    pair.drain();
    level_with_fresh(&mut pair, &mut devices, &users);
    for device in &devices[1..] {
        let theirs = contact(device, ann);
        assert_eq!((theirs.state(), theirs.gone), (State::Removed, true));
        let posts = device.state.values();
        let posts = posts.filter(|item| item.kind() == Kind::Post && !item.deleted);
        assert_eq!(posts.count(), 0, "no pointer is left");
    }
    for group in [group, young] {
        let roster = roster(&devices[1], group).unwrap();
        assert!(roster.members.iter().all(|member| member.user_id != ann.0));
        let owners = roster.members.iter();
        let owners = owners.filter(|member| member.role() == Role::Owner);
        assert_eq!(owners.count(), 1, "it was handed over");
    }
    nothing_more(&mut pair, ann, dee);
}

/// What is tried with the account afterwards.
fn nothing_more(pair: &mut Pair, ann: UserId, dee: UserId) {
    for op in [
        ask(ann, dee),
        accept(ann, dee),
        end(ann),
        post(ann, 200),
        create(ann, 103, &[dee]),
        Op::AddDevice(pb::AddDeviceRequest {
            user_id: ann.0,
            device_id: 9,
            device: Some(pb::DeviceRow::default()),
        }),
    ] {
        assert_eq!(refused(pair, op), RefusalKind::NotFound);
    }
    let claim = pb::ClaimNameRequest {
        name: "ann".to_owned(),
        ..Default::default()
    };
    let Answer::Claimed(claimed) = pair.must(Op::ClaimName(claim)) else {
        panic!("wrong answer")
    };
    assert!(claimed.taken, "the name is nobody else's");
    // Who asks in vain is told so, also where the asking overtook the word of the end.
    pair.must(ask(dee, ann));
    pair.drain();
    let mut device = Device::default();
    while device.sync(pair, dee, 1000) {}
    let theirs = contact(&device, ann);
    assert_eq!((theirs.state(), theirs.gone), (State::Removed, true));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn an_account_ends_for_all_and_for_ever_whoever_dies(seed in any::<u64>()) {
        world(seed);
    }
}
