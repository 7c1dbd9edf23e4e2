//! Messages from one user to another.

use std::{
    collections::HashSet,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use prost::Message;

use super::{Answer, Refusal, RefusalKind, Stop, Work, contact, group, plain_item, push};
use crate::{
    model::{
        ClientMsgId, DeviceId, Incarnation, MessageId, Pos, Seq, UserId, limits::MESSAGES_PER_SEND,
    },
    planted::{self, Bug},
    proto::{
        storage as pb,
        terminal::{self, Kind},
    },
    storage::{engine::EngineError, shard::damaged, table},
};

/// What became of one message of a request.
enum Known {
    /// It was sent before; this is what was answered.
    Before(pb::SentRow),
    /// It is new.
    New,
}

/// Puts messages into the sender's timeline and on their way. What was sent before under the same client
/// id is answered as it was; the same id with another body is refused, and then nothing is sent.
pub(super) fn send(work: &mut Work<'_, '_>, request: &pb::SendMessages) -> Result<Answer, Stop> {
    let sender = UserId(request.sender);
    let Some(send) = &request.request else {
        return Err(invalid("a send request is missing").into());
    };
    let receiver = UserId(send.receiver);
    if receiver == sender || receiver.0 == 0 {
        return Err(invalid("a message needs a receiver other than its sender").into());
    }
    if send.messages.is_empty() || send.messages.len() > MESSAGES_PER_SEND {
        let text = format!(
            "send 1 to {MESSAGES_PER_SEND} messages at once, not {}",
            send.messages.len()
        );
        return Err(invalid(text).into());
    }
    let known = look_up(work, sender, receiver, &send.messages)?;
    let mut count = match receiver.is_group() {
        true => {
            group::check_member(work, receiver, sender)?;
            0
        }
        false => conversation_count(work, sender, receiver)?,
    };
    let before = count;
    let mut sent = Vec::with_capacity(send.messages.len());
    for (outgoing, (id, known)) in send.messages.iter().zip(known) {
        let (row, sent_ms, previous) = match known {
            Known::Before(row) => (row, 0, Seq(0)),
            Known::New => {
                let at = match receiver.is_group() {
                    // A group's home counts itself.
                    true => 0,
                    false => position(work.home.incarnation, count, outgoing.count),
                };
                count = count.max(at);
                let pos = Pos {
                    count: at,
                    sender: sender.0,
                };
                let (row, previous) = send_one(work, pos, receiver, id, outgoing)?;
                work.draft.answers(DeviceId(request.device_id));
                (row, work.home.now_ms, previous)
            }
        };
        sent.push(terminal::Sent {
            client_id: outgoing.client_id.clone(),
            number: row.number,
            pos: row.pos,
            message_id: row.message_id,
            sent_ms,
            prev_key: previous.0,
        });
    }
    if count != before {
        set_conversation_count(work, sender, receiver, count);
    }
    Ok(Answer::Sent(terminal::SendReply {
        sent,
        // How many have it is known once it is committed.
        ..terminal::SendReply::default()
    }))
}

/// Where the next message stands after `count`. One of an earlier incarnation, lost here and said again, stands where
/// it stood: it may have been answered there. What is new stands above all that may be lost.
fn position(incarnation: Incarnation, count: u64, before: u64) -> u64 {
    match before {
        0 => next_position(incarnation, count),
        before if Seq(before).incarnation() < incarnation => before,
        _ => next_position(incarnation, count),
    }
}

/// The position after `count`. The incarnation is in it, as in numbers, so that none is given twice though a tail was
/// lost.
pub(super) fn next_position(incarnation: Incarnation, count: u64) -> u64 {
    (count + 1).max(Seq::new(incarnation, 1).0)
}

/// Effect of a message at the receiver's home: an item of the receiver's, or word back that there is none.
pub(super) fn deliver(
    work: &mut Work<'_, '_>,
    receiver: UserId,
    deliver: pb::Deliver,
) -> Result<(), EngineError> {
    let message = terminal::Message::decode(deliver.message.clone())
        .map_err(|error| damaged(&format!("a delivered message: {error}")))?;
    let pos = deliver.pos.unwrap_or_default();
    let sender = UserId(message.sender);
    if !contact::takes_from(work, receiver, sender)? {
        let why = format!("{receiver} takes no messages from you; ask them to be a contact");
        refuse(work, sender, receiver, message, &why);
        return Ok(());
    }
    let count = conversation_count(work, receiver, sender)?;
    if pos.count > count {
        set_conversation_count(work, receiver, sender, pos.count);
    }
    add(work, receiver, sender, pos.into(), &deliver)
}

/// Adds a message to a receiver's timeline, unless it is there. `conversation` is the sender or a group.
pub(super) fn add(
    work: &mut Work<'_, '_>,
    receiver: UserId,
    conversation: UserId,
    pos: Pos,
    deliver: &pb::Deliver,
) -> Result<(), EngineError> {
    let held = table::held(receiver, Kind::Message.into(), deliver.message_id);
    if work.draft.row(&held)?.is_some() {
        return Ok(());
    }
    let (id, payload) = (MessageId(deliver.message_id), deliver.message.clone());
    let given = work.add_item(receiver, |number| message_item(number, id, pos, payload))?;
    work.draft.put_row(&held, &given.number.0.to_be_bytes());
    push::intend(work, receiver, conversation, given.number)
}

/// Effect of a refusal at the sender's home.
pub(super) fn refused(
    work: &mut Work<'_, '_>,
    sender: UserId,
    refused: terminal::Refused,
) -> Result<(), EngineError> {
    let held = table::held(sender, Kind::Refused.into(), refused.message_id);
    if work.draft.row(&held)?.is_some() {
        return Ok(());
    }
    let given = work.add_item(sender, |number| {
        plain_item(number, Kind::Refused, refused.message_id, &refused)
    })?;
    work.draft.put_row(&held, &given.number.0.to_be_bytes());
    Ok(())
}

fn look_up(
    work: &Work<'_, '_>,
    sender: UserId,
    receiver: UserId,
    messages: &[terminal::Outgoing],
) -> Result<Vec<(ClientMsgId, Known)>, Stop> {
    let mut known = Vec::with_capacity(messages.len());
    for outgoing in messages {
        let id = ClientMsgId::from_bytes(&outgoing.client_id).ok_or_else(|| {
            invalid(format!(
                "a client id has 8 to 16 bytes, not {}",
                outgoing.client_id.len()
            ))
        })?;
        if known.iter().any(|(other, _)| *other == id) {
            return Err(invalid(format!("client id {id} stands twice in one request")).into());
        }
        known.push(
            match work
                .draft
                .message::<pb::SentRow>(&table::sent(sender, id))?
            {
                None => (id, Known::New),
                Some(_) if planted::is_on(Bug::NoDedupe) => (id, Known::New),
                Some(_)
                    if planted::is_on(Bug::DedupeLostOnFailover)
                        && !taken_here().contains(&(sender, id)) =>
                {
                    (id, Known::New)
                }
                Some(row) if row.body_hash == body_hash(receiver, outgoing)[..] => {
                    (id, Known::Before(row))
                }
                Some(_) => {
                    let text =
                        format!("client id {id} was used for another message; make a new one");
                    return Err(Refusal::new(RefusalKind::AlreadyExists, text).into());
                }
            },
        );
    }
    Ok(known)
}

/// The row that says so, and the sender's newest number before.
fn send_one(
    work: &mut Work<'_, '_>,
    pos: Pos,
    receiver: UserId,
    id: ClientMsgId,
    outgoing: &terminal::Outgoing,
) -> Result<(pb::SentRow, Seq), EngineError> {
    let sender = UserId(pos.sender);
    let message_id = work.shard.give_message(work.draft, work.home);
    let message = terminal::Message {
        message_id: message_id.0,
        sender: sender.0,
        receiver: receiver.0,
        client_id: outgoing.client_id.clone(),
        text: outgoing.text.clone(),
        sent_ms: work.home.now_ms,
        extra: outgoing.extra.clone(),
        ..terminal::Message::default()
    };
    let payload = Bytes::from(message.encode_to_vec());
    let given = work.add_item(sender, |number| {
        message_item(number, message_id, pos, payload.clone())
    })?;
    let held = table::held(sender, Kind::Message.into(), message_id.0);
    work.draft.put_row(&held, &given.number.0.to_be_bytes());
    let row = pb::SentRow {
        body_hash: Bytes::copy_from_slice(&body_hash(receiver, outgoing)),
        number: given.number.0,
        pos: Some(pos.into()),
        message_id: message_id.0,
    };
    work.draft.put_message(&table::sent(sender, id), &row);
    if planted::is_on(Bug::DedupeLostOnFailover) {
        taken_here().insert((sender, id));
    }
    let effect = match receiver.is_group() {
        true => pb::task::Effect::GroupSend(pb::GroupSend { message: payload }),
        false => pb::task::Effect::Deliver(pb::Deliver {
            message_id: message_id.0,
            pos: Some(pos.into()),
            message: payload,
        }),
    };
    work.add_task(&pb::Task {
        user_id: receiver.0,
        effect: Some(effect),
    });
    Ok((row, given.previous))
}

/// Sends word back to the sender that a message was not taken.
pub(super) fn refuse(
    work: &mut Work<'_, '_>,
    sender: UserId,
    receiver: UserId,
    message: terminal::Message,
    why: &str,
) {
    let refused = terminal::Refused {
        message_id: message.message_id,
        client_id: message.client_id,
        receiver: receiver.0,
        reason: why.to_owned(),
    };
    work.refuse(sender, refused);
}

fn message_item(number: u64, id: MessageId, pos: Pos, payload: Bytes) -> terminal::Item {
    terminal::Item {
        number,
        kind: Kind::Message.into(),
        id: id.0,
        version: 1,
        pos: Some(pos.into()),
        payload,
        deleted: false,
    }
}

/// The highest position count that the user's home has seen in the conversation with `peer`.
pub(super) fn conversation_count(
    work: &mut Work<'_, '_>,
    user: UserId,
    peer: UserId,
) -> Result<u64, EngineError> {
    if let Some(&count) = work.shard.warm.counts.get(&(user, peer)) {
        return Ok(count);
    }
    let count = match work.draft.row(&table::conversation(user, peer))? {
        None => 0,
        Some(row) => table::number(&row).ok_or_else(|| damaged("a conversation's count"))?,
    };
    work.shard.warm.counts.insert((user, peer), count);
    Ok(count)
}

fn set_conversation_count(work: &mut Work<'_, '_>, user: UserId, peer: UserId, count: u64) {
    let key = table::conversation(user, peer);
    work.draft.put_row(&key, &count.to_be_bytes());
    work.shard.warm.counts.insert((user, peer), count);
}

/// What this process has taken; empty but for [`Bug::DedupeLostOnFailover`].
fn taken_here() -> MutexGuard<'static, HashSet<(UserId, ClientMsgId)>> {
    static TAKEN: LazyLock<Mutex<HashSet<(UserId, ClientMsgId)>>> = LazyLock::new(Mutex::default);
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What makes two requests under one client id the same message.
fn body_hash(receiver: UserId, outgoing: &terminal::Outgoing) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&receiver.0.to_be_bytes());
    hasher.update(outgoing.text.as_bytes());
    if let Some(extra) = &outgoing.extra {
        // The length keeps text and extra apart.
        hasher.update(&(outgoing.text.len() as u64).to_be_bytes());
        hasher.update(&extra.encode_to_vec());
    }
    let mut hash = [0; 16];
    hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    hash
}

fn invalid(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::InvalidArgument, text)
}
