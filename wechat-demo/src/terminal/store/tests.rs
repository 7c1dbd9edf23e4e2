//! Promises that both back ends keep.

use super::durable::Depot;
use super::memory::Memory;
use super::*;

const ME: u64 = 1;
const BOB: u64 = 2;

fn message(number: u64, count: u64, sender: u64, text: &str) -> pb::Item {
    let receiver = if sender == ME { BOB } else { ME };
    let message = pb::Message {
        message_id: number,
        sender,
        receiver,
        client_id: vec![number as u8; 16].into(),
        text: text.to_owned(),
        ..Default::default()
    };
    pb::Item {
        number,
        kind: pb::Kind::Message as i32,
        id: number,
        version: 1,
        pos: Some(pb::Pos { count, sender }),
        payload: message.encode_to_vec().into(),
        deleted: false,
    }
}

fn contact(number: u64, version: u64) -> pb::Item {
    pb::Item {
        number,
        kind: pb::Kind::Contact as i32,
        id: BOB,
        version,
        ..Default::default()
    }
}

fn texts(store: &dyn LocalStore, limit: usize) -> Vec<String> {
    store
        .messages(BOB, limit)
        .unwrap()
        .into_iter()
        .map(|m| m.message.text)
        .collect()
}

fn both(promise: impl Fn(&dyn LocalStore)) {
    promise(&Memory::new(ME));
    let dir = tempfile::tempdir().unwrap();
    promise(&Depot::open(dir.path()).unwrap().account(ME).unwrap());
}

fn at(key: u64) -> Cursor {
    Cursor {
        key,
        ..Cursor::default()
    }
}

#[test]
fn what_was_lost_goes_and_own_messages_among_it_wait_to_be_said_again() {
    both(|store| {
        let kept = [contact(3, 1), message(4, 1, BOB, "kept")];
        store.apply(0, &kept, 4).unwrap();
        let lost = [message(5, 2, ME, "mine"), message(6, 3, BOB, "theirs")];
        store.apply(4, &lost, 6).unwrap();
        assert_eq!(store.rewind(6, 4).unwrap(), at(4));
        assert_eq!(
            (store.cursor(), texts(store, 9)),
            (at(4), vec!["kept".to_owned()])
        );
        assert!(store.state(pb::Kind::Contact, BOB).unwrap().is_some());
        let (name, request) = store.again().unwrap().unwrap();
        let [again] = &request.messages[..] else {
            panic!("one message at a time")
        };
        assert_eq!((request.receiver, again.count), (BOB, 2));
        assert_eq!(
            (again.text.as_str(), &again.client_id[..]),
            ("mine", &[5; 16][..])
        );
        store.said_again(name).unwrap();
        assert_eq!(store.again().unwrap(), None);
    });
}

#[test]
fn a_version_that_was_lost_calls_for_a_full_sync() {
    both(|store| {
        store.apply(0, &[contact(3, 1)], 3).unwrap();
        store.apply(3, &[contact(7, 2)], 7).unwrap();
        let anew = Cursor {
            anew: true,
            ..at(4)
        };
        assert_eq!(store.rewind(7, 4).unwrap(), anew);
        assert_eq!(store.state(pb::Kind::Contact, BOB).unwrap(), None);
        store
            .apply_page(4, Page::FullBegins, &[contact(3, 1)], at(4))
            .unwrap();
        let owed = Cursor { owed: 9, ..at(5) };
        store
            .apply_page(4, Page::Newer, &[message(5, 1, BOB, "hi")], owed)
            .unwrap();
        // What the page left out for a newer version is not here, and that version is lost.
        assert!(store.rewind(5, 5).unwrap().anew);
    });
}

#[test]
fn a_full_sync_takes_out_at_its_end_what_it_did_not_bring() {
    both(|store| {
        let old = [message(1, 1, BOB, "gone"), message(2, 2, BOB, "there")];
        store.apply(0, &old, 2).unwrap();
        store.apply(2, &[contact(6, 4)], 6).unwrap();
        let first = Cursor {
            full_to: 9,
            ..at(2)
        };
        store
            .apply_page(6, Page::FullBegins, &old[1..], first)
            .unwrap();
        assert_eq!(texts(store, 9), ["gone", "there"]);
        // Whatever version was there.
        store
            .apply_page(2, Page::Full, &[contact(7, 3)], at(9))
            .unwrap();
        assert_eq!(texts(store, 9), ["there"]);
        let contact = store.state(pb::Kind::Contact, BOB).unwrap().unwrap();
        assert_eq!((contact.version, store.cursor()), (3, at(9)));
    });
}

#[test]
fn a_conversation_is_shown_by_position_not_by_number() {
    both(|store| {
        store
            .apply(
                0,
                &[message(10, 2, BOB, "second"), message(11, 1, ME, "first")],
                11,
            )
            .unwrap();
        store
            .apply(
                11,
                &[message(12, 2, ME, "second, the smaller sender before")],
                12,
            )
            .unwrap();
        store.apply(12, &[message(15, 9, BOB, "last")], 15).unwrap();
        assert_eq!(
            texts(store, 99),
            [
                "first",
                "second, the smaller sender before",
                "second",
                "last"
            ]
        );
        assert_eq!(texts(store, 2), ["second", "last"]);
        assert_eq!(store.messages(BOB, 1).unwrap()[0].number, 15);
        assert_eq!(store.conversations().unwrap(), [BOB]);
        assert_eq!(store.key(), 15);
    });
}

#[test]
fn a_message_that_comes_again_takes_the_place_of_its_version_before() {
    let again = |number, version, text: &str| {
        let mut item = message(3, 1, BOB, text);
        (item.number, item.version) = (number, version);
        item
    };
    both(|store| {
        let another = message(4, 1, BOB, "at the same place");
        store
            .apply(0, &[again(3, 1, "helo"), another.clone()], 4)
            .unwrap();
        store.apply(4, &[again(7, 2, "hello")], 7).unwrap();
        assert_eq!(texts(store, 9), ["at the same place", "hello"]);
        // Two versions in one page, and a first one that is no first version.
        store
            .apply(7, &[again(8, 3, "hullo"), again(9, 4, "hey")], 9)
            .unwrap();
        assert_eq!(texts(store, 9), ["at the same place", "hey"]);
        let mut new = message(11, 2, BOB, "new");
        new.version = 5;
        store.apply(9, &[new], 11).unwrap();
        assert_eq!(texts(store, 9).len(), 3);
    });
}

#[test]
fn an_own_message_to_a_group_stands_last_until_it_is_placed() {
    const GROUP: u64 = 1 << 63 | 5;
    let to_group = |number, version, count, sender, text: &str| {
        let mut item = message(3, count, sender, text);
        if sender != ME {
            item = message(4, count, sender, text);
        }
        let mut said = pb::Message::decode(item.payload.clone()).unwrap();
        said.receiver = GROUP;
        item.payload = said.encode_to_vec().into();
        (item.number, item.version) = (number, version);
        item
    };
    both(|store| {
        let texts = |store: &dyn LocalStore| -> Vec<String> {
            let all = store.messages(GROUP, 9).unwrap();
            all.into_iter().map(|m| m.message.text).collect()
        };
        store.apply(0, &[to_group(3, 1, 0, ME, "mine")], 3).unwrap();
        store
            .apply(3, &[to_group(4, 1, 9, BOB, "theirs")], 4)
            .unwrap();
        assert_eq!(texts(store), ["theirs", "mine"]);
        store.apply(4, &[to_group(5, 2, 7, ME, "mine")], 5).unwrap();
        assert_eq!(texts(store), ["mine", "theirs"]);
        assert_eq!(store.conversations().unwrap(), [GROUP]);
        assert_eq!(store.unread(GROUP, 9).unwrap(), 1, "the own one is read");
    });
}

#[test]
fn the_badge_counts_what_is_unread_and_not_muted() {
    let conversation = |number, read, muted| {
        let state = pb::Conversation {
            peer: BOB,
            read,
            muted,
            ..Default::default()
        };
        pb::Item {
            number,
            kind: pb::Kind::Conversation as i32,
            id: BOB,
            version: number,
            payload: state.encode_to_vec().into(),
            ..Default::default()
        }
    };
    both(|store| {
        let said = |n| message(n, n, if n == 2 { ME } else { BOB }, "x");
        store
            .apply(0, &(1..=4).map(said).collect::<Vec<_>>(), 4)
            .unwrap();
        assert_eq!(
            (store.unread(BOB, 99).unwrap(), store.badge(99).unwrap()),
            (3, 3)
        );
        store.apply(4, &[conversation(5, 3, false)], 5).unwrap();
        assert_eq!(
            (store.unread(BOB, 99).unwrap(), store.badge(99).unwrap()),
            (1, 1)
        );
        store.apply(5, &[conversation(6, 3, true)], 6).unwrap();
        assert_eq!(
            (store.unread(BOB, 99).unwrap(), store.badge(99).unwrap()),
            (1, 0)
        );
    });
}

#[test]
fn a_store_refuses_items_that_do_not_follow_its_key() {
    both(|store| {
        store.apply(0, &[message(1, 1, ME, "a")], 1).unwrap();
        let error = store.apply(0, &[message(2, 2, ME, "b")], 2).unwrap_err();
        assert!(matches!(
            error,
            StoreError::OutOfStep {
                stored: 1,
                claimed: 0
            }
        ));
        assert_eq!((texts(store, 9), store.key()), (vec!["a".to_owned()], 1));
    });
}

#[test]
fn a_state_never_goes_back_to_an_older_version() {
    both(|store| {
        store.apply(0, &[contact(1, 2)], 1).unwrap();
        store.apply(1, &[contact(2, 1)], 2).unwrap();
        assert_eq!(
            store
                .state(pb::Kind::Contact, BOB)
                .unwrap()
                .unwrap()
                .version,
            2
        );
        store.apply(2, &[contact(3, 3), contact(4, 4)], 4).unwrap();
        assert_eq!(
            store
                .state(pb::Kind::Contact, BOB)
                .unwrap()
                .unwrap()
                .version,
            4
        );
        assert_eq!(store.state(pb::Kind::Account, BOB).unwrap(), None);
    });
}

#[test]
fn the_states_of_one_kind_are_listed_without_those_of_others() {
    both(|store| {
        let other = |id, number, kind: pb::Kind| pb::Item {
            id,
            kind: kind as i32,
            ..contact(number, 1)
        };
        let items = [
            other(900, 1, pb::Kind::Contact),
            other(7, 2, pb::Kind::Contact),
            other(7, 3, pb::Kind::Account),
            other(8, 4, pb::Kind::Refused),
        ];
        store.apply(0, &items, 4).unwrap();
        let ids = |kind| {
            store
                .states(kind)
                .unwrap()
                .iter()
                .map(|item| item.id)
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(pb::Kind::Contact), [7, 900]);
        assert_eq!(ids(pb::Kind::Account), [7]);
    });
}

#[test]
fn a_message_handed_out_twice_is_seen_twice() {
    both(|store| {
        store.apply(0, &[message(1, 1, BOB, "x")], 1).unwrap();
        let mut again = message(1, 1, BOB, "x");
        again.number = 2;
        store.apply(1, &[again], 2).unwrap();
        assert_eq!(texts(store, 9), ["x", "x"]);
    });
}

#[test]
fn an_item_of_a_later_version_is_passed_over_and_a_broken_one_is_not() {
    both(|store| {
        let unknown = pb::Item {
            number: 1,
            kind: 99,
            ..Default::default()
        };
        store.apply(0, &[unknown], 1).unwrap();
        let broken = pb::Item {
            pos: None,
            ..message(2, 1, BOB, "x")
        };
        assert!(matches!(
            store.apply(1, &[broken], 2),
            Err(StoreError::Malformed { number: 2, .. })
        ));
        assert_eq!(store.key(), 1);
    });
}

#[test]
fn what_was_applied_is_there_after_the_process_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    {
        let depot = Depot::open(dir.path()).unwrap();
        depot
            .account(ME)
            .unwrap()
            .apply(0, &[message(1, 1, BOB, "x")], 1)
            .unwrap();
        depot.account(BOB).unwrap().apply(0, &[], 7).unwrap();
    }
    let depot = reopened(dir.path());
    let mine = depot.account(ME).unwrap();
    assert_eq!((mine.key(), texts(&mine, 9)), (1, vec!["x".to_owned()]));
    assert_eq!(depot.account(BOB).unwrap().key(), 7);
}

#[test]
fn a_new_login_starts_empty_and_touches_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let depot = Depot::open(dir.path()).unwrap();
    depot
        .account(ME)
        .unwrap()
        .apply(0, &[message(1, 1, BOB, "x"), contact(2, 1)], 2)
        .unwrap();
    depot.account(BOB).unwrap().apply(0, &[], 7).unwrap();
    let login = pb::LoginReply {
        user_id: ME,
        device_id: 5,
        token: vec![1, 2].into(),
    };
    depot.new_login("me", &login).unwrap();
    assert_eq!(depot.login("me").unwrap(), Some(login));
    let mine = depot.account(ME).unwrap();
    assert_eq!((mine.key(), texts(&mine, 9).len()), (0, 0));
    assert_eq!(mine.state(pb::Kind::Contact, BOB).unwrap(), None);
    assert_eq!(depot.account(BOB).unwrap().key(), 7);
}

#[test]
fn a_directory_in_use_is_named_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Depot::open(dir.path()).unwrap();
    assert!(matches!(
        Depot::open(dir.path()),
        Err(StoreError::Locked(_))
    ));
}

/// The committer lets go of the files a moment after the last handle was dropped.
fn reopened(dir: &std::path::Path) -> Depot {
    loop {
        match Depot::open(dir) {
            Err(StoreError::Locked(_)) => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}
