//! What the long link does not say twice: items and answers without what stands beside them, and whole again.
//!
//! Knows:       which fields repeat the notify, the item around a message, the request, or whose link it is.
//! Does not know: frames, links, who sends and who applies.
//!
//! Invariants
//! - B-1  What was shortened for a user and made whole for the same user is what it was, payloads byte for byte. What
//!   would not come out the same goes whole.
//! - B-2  Whole items stay as they are when they are made whole.

use prost::Message;

use crate::proto::terminal as pb;

/// Leaves out of a notify what its end of the link knows.
pub fn shorten_notify(notify: &mut pb::Notify, user: u64) {
    let (prev_key, key) = (notify.prev_key, notify.key);
    let Some(last) = notify.items.last_mut() else {
        return;
    };
    if prev_key == 0 && key != 1 {
        // It would read as the key before; without items it says less, and the terminal asks.
        notify.items.clear();
        return;
    }
    if last.number == key {
        last.number = 0;
    }
    if prev_key.checked_add(1) == Some(key) {
        notify.prev_key = 0;
    }
    shorten_items(&mut notify.items, user);
}

/// A notify as it was before [`shorten_notify`].
pub fn restore_notify(notify: &mut pb::Notify, user: u64) {
    let Some(last) = notify.items.last_mut() else {
        return;
    };
    if last.number == 0 {
        last.number = notify.key;
    }
    if notify.prev_key == 0 {
        notify.prev_key = notify.key.saturating_sub(1);
    }
    restore_items(&mut notify.items, user);
}

/// Leaves out of messages what their items or the link say.
pub fn shorten_items(items: &mut [pb::Item], user: u64) {
    items.iter_mut().for_each(|item| shorten(item, user));
}

/// Items as they were before [`shorten_items`].
pub fn restore_items(items: &mut [pb::Item], user: u64) {
    items.iter_mut().for_each(|item| restore(item, user));
}

fn shorten(item: &mut pb::Item, user: u64) {
    let Some(pos) = item
        .pos
        .filter(|_| item.kind == pb::Kind::Message as i32 && item.version != 0)
    else {
        return;
    };
    let Ok(mut message) = pb::Message::decode(item.payload.clone()) else {
        return;
    };
    // Fields of a later version are not known here and would be lost.
    let known = message.encoded_len() == item.payload.len();
    let says = message.message_id == item.id && message.sender == pos.sender;
    let all = item.id != 0 && pos.sender != 0 && message.receiver != 0;
    if !known || !says || !all {
        return;
    }
    message.message_id = 0;
    message.sender = 0;
    if message.receiver == user {
        message.receiver = 0;
    }
    item.payload = message.encode_to_vec().into();
    if item.version == 1 {
        item.version = 0;
    }
    if pos.sender == user {
        item.pos = Some(pb::Pos {
            count: pos.count,
            sender: 0,
        });
    }
}

fn restore(item: &mut pb::Item, user: u64) {
    let Some(pos) = &mut item.pos else { return };
    if item.kind != pb::Kind::Message as i32 {
        return;
    }
    let Ok(mut message) = pb::Message::decode(item.payload.clone()) else {
        return;
    };
    if message.message_id != 0 {
        return;
    }
    item.version = item.version.max(1);
    if pos.sender == 0 {
        pos.sender = user;
    }
    message.message_id = item.id;
    message.sender = pos.sender;
    if message.receiver == 0 {
        message.receiver = user;
    }
    item.payload = message.encode_to_vec().into();
}

/// Disks that have what was acknowledged, but for what was asked for otherwise.
const USUAL_COPIES: u32 = 2;

/// Leaves out of an answer what its request says.
pub fn shorten_sent(reply: &mut pb::SendReply, user: u64) {
    for sent in &mut reply.sent {
        sent.client_id.clear();
        if let Some(pos) = sent.pos.as_mut().filter(|pos| pos.sender == user) {
            pos.sender = 0;
        }
        if sent.prev_key.checked_add(1) == Some(sent.number) {
            sent.prev_key = 0;
        } else if sent.prev_key == 0 {
            // As in a notify: the terminal asks for the item instead.
            sent.sent_ms = 0;
        }
    }
    if reply.copies == USUAL_COPIES {
        reply.copies = 0;
    }
}

/// An answer as it was before [`shorten_sent`]; `false` if it is not for as many messages as were sent.
#[must_use]
pub fn restore_sent(reply: &mut pb::SendReply, request: &pb::SendRequest, user: u64) -> bool {
    for (sent, outgoing) in reply.sent.iter_mut().zip(&request.messages) {
        if sent.client_id.is_empty() {
            sent.client_id = outgoing.client_id.clone();
        }
        if let Some(pos) = sent.pos.as_mut().filter(|pos| pos.sender == 0) {
            pos.sender = user;
        }
        if sent.prev_key == 0 && sent.sent_ms != 0 {
            sent.prev_key = sent.number.saturating_sub(1);
        }
    }
    if reply.copies == 0 {
        reply.copies = USUAL_COPIES;
    }
    reply.sent.len() == request.messages.len()
}

/// What a whole answer tells of the sender's own timeline: the messages themselves, or only that it has moved when
/// one of them had been sent before.
#[must_use]
pub fn told_by(reply: &pb::SendReply, request: &pb::SendRequest, user: u64) -> pb::Notify {
    let key = reply.sent.iter().map(|sent| sent.number).max();
    let follows = |pair: &[pb::Sent]| pair[0].number == pair[1].prev_key;
    let new = reply.sent.iter().all(|sent| sent.sent_ms != 0) && reply.sent.windows(2).all(follows);
    let item = |(sent, outgoing): (&pb::Sent, &pb::Outgoing)| pb::Item {
        number: sent.number,
        kind: pb::Kind::Message as i32,
        id: sent.message_id,
        version: 1,
        pos: sent.pos,
        payload: pb::Message {
            message_id: sent.message_id,
            sender: user,
            receiver: request.receiver,
            client_id: outgoing.client_id.clone(),
            text: outgoing.text.clone(),
            sent_ms: sent.sent_ms,
            extra: outgoing.extra.clone(),
            ..pb::Message::default()
        }
        .encode_to_vec()
        .into(),
        deleted: false,
    };
    let items = reply.sent.iter().zip(&request.messages).map(item);
    pb::Notify {
        prev_key: reply.sent.first().map_or(0, |sent| sent.prev_key),
        key: key.unwrap_or(0),
        items: if new { items.collect() } else { Vec::new() },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const USER: u64 = 4_097;
    const PEER: u64 = 8_193;

    fn message(
        number: u64,
        version: u64,
        (sender, receiver): (u64, u64),
        sent_ms: i64,
    ) -> pb::Item {
        let id = 3 << 40 | number;
        let message = pb::Message {
            message_id: id,
            sender,
            receiver,
            client_id: vec![7; 10].into(),
            text: "x".repeat(20),
            sent_ms,
            ..pb::Message::default()
        };
        pb::Item {
            number,
            kind: pb::Kind::Message as i32,
            id,
            version,
            pos: Some(pb::Pos { count: 9, sender }),
            payload: message.encode_to_vec().into(),
            deleted: false,
        }
    }

    fn state(number: u64, version: u64) -> pb::Item {
        pb::Item {
            number,
            kind: pb::Kind::Contact as i32,
            id: PEER,
            version,
            payload: pb::Contact::default().encode_to_vec().into(),
            ..pb::Item::default()
        }
    }

    fn items() -> impl Strategy<Value = Vec<pb::Item>> {
        let ends = prop_oneof![
            Just((PEER, USER)),
            Just((USER, PEER)),
            Just((PEER, 1 << 63 | 5)),
            Just((USER, 1 << 63 | 5))
        ];
        let item = (any::<bool>(), 1..4_u64, ends, any::<i64>(), 1..50_u64);
        prop::collection::vec(item, 1..6).prop_map(|items| {
            let mut number = 0;
            let make = |(is_message, version, ends, sent_ms, step)| {
                number += step;
                match is_message {
                    true => message(number, version, ends, sent_ms),
                    false => state(number, version),
                }
            };
            items.into_iter().map(make).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_shortened_comes_out_whole(items in items(), before in 1..100_u64, beyond in 0..2_u64) {
            let first = items[0].number;
            let key = items.last().unwrap().number + beyond;
            let whole = pb::Notify { prev_key: first.saturating_sub(before), key, items };
            let mut notify = whole.clone();
            restore_notify(&mut notify, USER);
            if whole.prev_key != 0 {
                prop_assert_eq!(&notify, &whole, "whole stays whole");
            }
            notify = whole.clone();
            shorten_notify(&mut notify, USER);
            prop_assert!(notify.encoded_len() <= whole.encoded_len());
            let without = notify.items.is_empty();
            restore_notify(&mut notify, USER);
            if without {
                prop_assert!(whole.prev_key == 0 && whole.key != 1);
                prop_assert_eq!((notify.prev_key, notify.key), (whole.prev_key, whole.key));
            } else {
                prop_assert_eq!(notify, whole);
            }
        }

        #[test]
        fn any_bytes_are_made_whole_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(mut notify) = pb::Notify::decode(&bytes[..]) {
                restore_notify(&mut notify, USER);
            }
            if let Ok(mut reply) = pb::SendReply::decode(&bytes[..]) {
                let request = pb::SendRequest { receiver: PEER, messages: vec![pb::Outgoing::default()], ..Default::default() };
                let fits = restore_sent(&mut reply, &request, USER);
                prop_assert_eq!(fits, reply.sent.len() == 1);
                prop_assert!(told_by(&reply, &request, USER).items.len() <= 1);
            }
        }
    }

    #[test]
    fn a_message_with_a_field_of_a_later_version_goes_whole() {
        let mut item = message(5, 1, (PEER, USER), 1);
        let mut payload = item.payload.to_vec();
        payload.extend([0xf8, 0x07, 1]); // field 127
        item.payload = payload.into();
        let mut brief = [item.clone()];
        shorten_items(&mut brief, USER);
        assert_eq!(brief[0], item);
    }

    #[test]
    fn an_answer_tells_the_sender_the_very_items_of_its_timeline() {
        let whole: Vec<_> = (5..7).map(|n| message(n, 1, (USER, PEER), 99)).collect();
        let request = pb::SendRequest {
            receiver: PEER,
            messages: vec![
                pb::Outgoing {
                    client_id: vec![7; 10].into(),
                    text: "x".repeat(20),
                    ..pb::Outgoing::default()
                };
                2
            ],
            ..pb::SendRequest::default()
        };
        let sent = |item: &pb::Item| pb::Sent {
            client_id: vec![7; 10].into(),
            number: item.number,
            pos: item.pos,
            message_id: item.id,
            sent_ms: 99,
            prev_key: item.number - 1,
        };
        let answer = pb::SendReply {
            sent: whole.iter().map(sent).collect(),
            copies: 2,
            geo: false,
        };
        let mut reply = answer.clone();
        shorten_sent(&mut reply, USER);
        assert!(reply.encoded_len() < answer.encoded_len() - 2 * 12);
        assert!(restore_sent(&mut reply, &request, USER));
        assert_eq!(reply, answer);
        let notify = told_by(&reply, &request, USER);
        assert_eq!(
            (notify.prev_key, notify.key, notify.items),
            (4, 6, whole),
            "what the store would show"
        );
        reply.sent[1].sent_ms = 0;
        let notify = told_by(&reply, &request, USER);
        assert_eq!(
            (notify.key, notify.items.len()),
            (6, 0),
            "sent before: the terminal asks"
        );
        reply.sent.pop();
        assert!(!restore_sent(&mut reply, &request, USER));
    }

    #[test]
    fn an_answer_to_whom_nothing_was_known_before_makes_the_terminal_ask() {
        let mut reply = pb::SendReply {
            sent: vec![pb::Sent {
                number: 10_001,
                sent_ms: 5,
                ..pb::Sent::default()
            }],
            ..pb::SendReply::default()
        };
        shorten_sent(&mut reply, USER);
        assert_eq!(reply.sent[0].sent_ms, 0);
    }
}
