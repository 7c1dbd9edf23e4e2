//! A store that goes back to what was saved: what a device has above that is lost, and it comes to what a fresh one
//! gets all the same.

use super::*;

/// Two phones that have talked, and a store that goes back to before that.
fn lost_talk() -> (Pair, Vec<UserId>, Vec<Device>) {
    let mut pair = Pair::new(11);
    let users = friends(&mut pair, &["ann", "bob"]);
    pair.must(send(users[0], users[1], &[(1, "kept".to_owned())]));
    pair.drain();
    // What is saved is what a crash would leave.
    pair.round(vec![ask(users[0], users[1])]);
    pair.save();
    let mut devices: Vec<Device> = users.iter().map(|_| Device::default()).collect();
    for (from, text) in [(0, "lost question"), (1, "lost answer")] {
        pair.must(send(users[from], users[1 - from], &[(2, text.to_owned())]));
        pair.drain();
    }
    for (device, &user) in devices.iter_mut().zip(&users) {
        while device.sync(&mut pair, user, 100) {}
    }
    pair.restore();
    (pair, users, devices)
}

#[test]
fn what_was_lost_is_said_again_at_its_place_and_no_number_is_given_twice() {
    let (mut pair, users, mut devices) = lost_talk();
    // The answer comes before its question now, and something new before both.
    pair.must(send(users[0], users[1], &[(3, "new".to_owned())]));
    for index in [1, 0] {
        assert!(devices[index].sync(&mut pair, users[index], 100));
        assert_eq!(devices[index].rewinds, 1);
        for op in devices[index].say_again() {
            pair.must(op);
        }
        pair.drain();
    }
    level_with_fresh(&mut pair, &mut devices, &users);
    for device in &devices {
        let mut texts: Vec<_> = users
            .iter()
            .flat_map(|&user| device.messages_from(user))
            .collect();
        texts.sort();
        let texts: Vec<_> = texts.iter().map(|(_, _, text)| text.as_str()).collect();
        assert_eq!(texts, ["kept", "lost question", "lost answer", "new"]);
        assert_eq!(device.fulls, 0, "it went on from where it was put back to");
    }
}

#[test]
fn a_device_that_is_behind_the_loss_goes_on_and_one_that_waits_learns_of_it_later() {
    let (mut pair, users, mut devices) = lost_talk();
    let mut behind = Device::default();
    behind.sync(&mut pair, users[0], 1);
    assert!(!behind.sync(&mut pair, users[0], 100));
    assert_eq!((behind.rewinds, behind.fulls), (0, 0));
    // A second loss, before the first is known everywhere.
    pair.must(send(users[0], users[1], &[(4, "between".to_owned())]));
    pair.drain();
    assert!(!behind.sync(&mut pair, users[0], 100));
    pair.save();
    pair.must(send(users[0], users[1], &[(5, "lost as well".to_owned())]));
    pair.drain();
    assert!(!behind.sync(&mut pair, users[0], 100));
    pair.restore();
    pair.must(send(users[0], users[1], &[(6, "last".to_owned())]));
    pair.drain();
    devices.push(behind);
    let users = [users[0], users[1], users[0]];
    level_with_fresh(&mut pair, &mut devices, &users);
    let rewinds: Vec<_> = devices.iter().map(|device| device.rewinds).collect();
    assert_eq!(rewinds, [1, 1, 1]);
}

#[test]
fn a_message_that_is_sent_again_does_not_run_ahead_of_what_was_lost() {
    let (mut pair, users, _) = lost_talk();
    let newest = Seq::new(Incarnation(1), 0).0;
    for (id, count, placed) in [
        (10, u64::MAX, newest + 1),
        (11, newest + 2, newest + 2),
        (12, newest - 1, newest - 1),
        (13, 0, newest + 3),
    ] {
        let mut op = send(users[0], users[1], &[(id, "far".to_owned())]);
        if let Op::Send(send) = &mut op {
            send.request.as_mut().unwrap().messages[0].count = count;
        }
        let Answer::Sent(reply) = pair.must(op) else {
            panic!("wrong answer")
        };
        assert_eq!(
            reply.sent[0].pos.unwrap().count,
            placed,
            "asked for {count}"
        );
    }
}

#[test]
fn what_a_lost_version_had_taken_the_place_of_comes_again() {
    let mut pair = Pair::new(13);
    let users = friends(&mut pair, &["ann", "bob"]);
    pair.must(send(users[0], users[1], &[(1, "between".to_owned())]));
    pair.drain();
    // What is saved is what a crash would leave.
    pair.round(vec![ask(users[0], users[1])]);
    pair.save();
    // The contact, below the message until now, is above it.
    let remark = terminal::change_request::Change::Remark(terminal::Remark {
        user_id: users[1].0,
        remark: "new".to_owned(),
    });
    let message = timeline::newest(&*pair.store().engine(), users[0])
        .unwrap()
        .0;
    pair.must(changes::change(users[0], remark));
    let mut device = Device::default();
    while device.key < message {
        assert!(device.sync(&mut pair, users[0], 1), "there is more");
    }
    pair.restore();
    level_with_fresh(&mut pair, std::slice::from_mut(&mut device), &users[..1]);
    assert_eq!((device.rewinds, device.fulls), (1, 1));
}
