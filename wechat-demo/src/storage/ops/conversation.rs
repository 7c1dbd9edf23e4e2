//! How far each of two has received and read what the other said, and whether the user wants to be told.

use super::{Answer, Refusal, RefusalKind, Stop, Work, contact, group, message};
use crate::{
    model::{Seq, UserId},
    proto::{
        storage::{self as pb, task::Effect},
        terminal::{self, Kind},
    },
    storage::{engine::EngineError, table},
};

/// Moves the user's marks forward, and tells the other. Marks never fall and never pass what is there.
pub(super) fn mark(
    work: &mut Work<'_, '_>,
    user: UserId,
    request: &terminal::Mark,
) -> Result<Answer, Stop> {
    let peer = UserId(request.peer);
    let newest = match peer.is_group() {
        true => {
            group::check_member(work, peer, user)?;
            group::seen(work, peer)?.count
        }
        false => message::conversation_count(work, user, peer)?,
    };
    if request.read > request.received || request.received > newest {
        let text = format!(
            "marks must be read <= received <= {newest}, the newest of the conversation, not {} and {}",
            request.read, request.received
        );
        return Err(Refusal::new(RefusalKind::InvalidArgument, text).into());
    }
    let row = row(work, user, peer)?;
    let before = row.conversation.unwrap_or_default();
    let after = terminal::Conversation {
        received: before.received.max(request.received),
        read: before.read.max(request.read),
        ..before
    };
    if after == before {
        return Ok(Answer::Number(Seq(row.number)));
    }
    let marked = pb::Marked {
        from: user.0,
        received: after.received,
        read: after.read,
    };
    let number = write(work, user, peer, &row, after)?;
    // In a group reading is everybody's own business.
    if !peer.is_group() && contact::takes_from(work, user, peer)? {
        work.add_task(&pb::Task {
            user_id: peer.0,
            effect: Some(Effect::Marked(marked)),
        });
    }
    Ok(Answer::Number(number))
}

/// Whether messages from `peer` count in the badge.
pub(super) fn mute(
    work: &mut Work<'_, '_>,
    user: UserId,
    request: &terminal::Mute,
) -> Result<Answer, Stop> {
    let peer = UserId(request.peer);
    // A row only for somebody there is something with.
    match peer.is_group() {
        true => drop(group::check_member(work, peer, user)?),
        false => drop(contact::known(work, user, peer)?),
    }
    let row = row(work, user, peer)?;
    let before = row.conversation.unwrap_or_default();
    if before.muted == request.muted {
        return Ok(Answer::Number(Seq(row.number)));
    }
    let after = terminal::Conversation {
        muted: request.muted,
        ..before
    };
    Ok(Answer::Number(write(work, user, peer, &row, after)?))
}

/// Effect of [`mark`] at the other's home.
pub(super) fn marked(
    work: &mut Work<'_, '_>,
    user: UserId,
    marked: &pb::Marked,
) -> Result<(), EngineError> {
    let peer = UserId(marked.from);
    if !contact::takes_from(work, user, peer)? {
        return Ok(());
    }
    let row = row(work, user, peer)?;
    let before = row.conversation.unwrap_or_default();
    let after = terminal::Conversation {
        peer_received: before.peer_received.max(marked.received),
        peer_read: before.peer_read.max(marked.read),
        ..before
    };
    if after != before {
        write(work, user, peer, &row, after)?;
    }
    Ok(())
}

/// Whether the user does not want to be told of what comes from `peer`.
pub(super) fn is_muted(
    work: &Work<'_, '_>,
    user: UserId,
    peer: UserId,
) -> Result<bool, EngineError> {
    let row = row(work, user, peer)?;
    Ok(row
        .conversation
        .is_some_and(|conversation| conversation.muted))
}

fn write(
    work: &mut Work<'_, '_>,
    user: UserId,
    peer: UserId,
    before: &pb::ConversationRow,
    conversation: terminal::Conversation,
) -> Result<Seq, EngineError> {
    let conversation = terminal::Conversation {
        peer: peer.0,
        ..conversation
    };
    let version = before.version + 1;
    let gone = (before.version > 0).then_some(Seq(before.number));
    let number = work.put_state(
        user,
        Kind::Conversation,
        peer.0,
        version,
        gone,
        &conversation,
    )?;
    let row = pb::ConversationRow {
        conversation: Some(conversation),
        version,
        number: number.0,
    };
    work.draft.put_message(&table::marks(user, peer), &row);
    Ok(number)
}

fn row(
    work: &Work<'_, '_>,
    user: UserId,
    peer: UserId,
) -> Result<pb::ConversationRow, EngineError> {
    Ok(work
        .draft
        .message(&table::marks(user, peer))?
        .unwrap_or_default())
}
