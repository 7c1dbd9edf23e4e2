//! Who is whose contact: asked at one home, answered at the other, the same at both in the end.
//!
//! ```text
//!   A's row              stream              B's row
//!   none ──ask──▶ ASKED ──Asked──▶ none → ASKED_ME ──accept──▶ FRIEND
//!   ASKED → FRIEND ◀──Accepted──
//! ```
//! When both ask at once, each finds `Asked` coming in while it has asked itself, and is a friend: both
//! see the same two requests, so no further task is needed.

use super::{Answer, Refusal, RefusalKind, Stop, Work, account};
use crate::{
    model::{Seq, UserId},
    proto::{
        storage as pb,
        terminal::{self, Kind, contact::State},
    },
    storage::{engine::EngineError, table},
};
use prost::Message;

/// Asks `peer` to be a contact. Asking somebody who asked first is accepting.
pub(super) fn ask(
    work: &mut Work<'_, '_>,
    request: &pb::AskContactRequest,
) -> Result<Answer, Stop> {
    let (user, peer) = (UserId(request.user_id), UserId(request.peer));
    if user == peer {
        let text = "you cannot be your own contact; give another user's id";
        return Err(Refusal::new(RefusalKind::InvalidArgument, text).into());
    }
    let own = account::account(work, user)?;
    let row = row(work, user, peer)?;
    match state(&row) {
        State::Asked | State::Friend => return Ok(Answer::Number(Seq(row.number))),
        State::AskedMe => return befriend(work, user, peer, row, own),
        State::Blocked | State::Removed | State::Unspecified => {}
    }
    let contact = terminal::Contact {
        user_id: peer.0,
        name: request.peer_name.clone(),
        nickname: request.peer_nickname.clone(),
        state: State::Asked.into(),
        greeting: request.greeting.clone(),
    };
    let number = write(work, user, peer, row, contact)?;
    let asked = pb::Asked {
        from: user.0,
        name: own.name,
        nickname: own.nickname,
        greeting: request.greeting.clone(),
    };
    work.add_task(&pb::Task {
        user_id: peer.0,
        effect: Some(pb::task::Effect::Asked(asked)),
    });
    Ok(Answer::Number(number))
}

/// Says yes to `peer`, who asked.
pub(super) fn accept(
    work: &mut Work<'_, '_>,
    request: &pb::AcceptContactRequest,
) -> Result<Answer, Stop> {
    let (user, peer) = (UserId(request.user_id), UserId(request.peer));
    let own = account::account(work, user)?;
    let row = row(work, user, peer)?;
    match state(&row) {
        State::Friend => Ok(Answer::Number(Seq(row.number))),
        State::AskedMe => befriend(work, user, peer, row, own),
        _ => {
            let text = format!("{peer} has not asked to be your contact; ask them first");
            Err(Refusal::new(RefusalKind::FailedPrecondition, text).into())
        }
    }
}

/// Effect of [`ask`] at the other's home.
pub(super) fn asked(
    work: &mut Work<'_, '_>,
    user: UserId,
    asked: pb::Asked,
) -> Result<(), EngineError> {
    if work.draft.row(&table::account(user))?.is_none() {
        return Ok(()); // ids are checked before asking; an account is never removed
    }
    let peer = UserId(asked.from);
    let row = row(work, user, peer)?;
    let state = match state(&row) {
        State::Asked => State::Friend,
        State::Unspecified | State::Removed => State::AskedMe,
        State::AskedMe | State::Friend | State::Blocked => return Ok(()),
    };
    let contact = terminal::Contact {
        user_id: peer.0,
        name: asked.name,
        nickname: asked.nickname,
        state: state.into(),
        greeting: asked.greeting,
    };
    write(work, user, peer, row, contact)?;
    Ok(())
}

/// Effect of [`accept`] at the other's home.
pub(super) fn accepted(
    work: &mut Work<'_, '_>,
    user: UserId,
    accepted: pb::Accepted,
) -> Result<(), EngineError> {
    let peer = UserId(accepted.from);
    let row = row(work, user, peer)?;
    if state(&row) != State::Asked {
        return Ok(());
    }
    let contact = terminal::Contact {
        name: accepted.name,
        nickname: accepted.nickname,
        state: State::Friend.into(),
        ..row.contact.clone().unwrap_or_default()
    };
    write(work, user, peer, row, contact)?;
    Ok(())
}

/// Whether `peer` may write to `user`.
pub(super) fn are_friends(
    work: &mut Work<'_, '_>,
    user: UserId,
    peer: UserId,
) -> Result<bool, EngineError> {
    if let Some(&known) = work.shard.warm.friends.get(&(user, peer)) {
        return Ok(known);
    }
    let friends = state(&row(work, user, peer)?) == State::Friend;
    work.shard.warm.friends.insert((user, peer), friends);
    Ok(friends)
}

fn befriend(
    work: &mut Work<'_, '_>,
    user: UserId,
    peer: UserId,
    row: pb::ContactRow,
    own: pb::AccountRow,
) -> Result<Answer, Stop> {
    let contact = terminal::Contact {
        state: State::Friend.into(),
        ..row.contact.clone().unwrap_or_default()
    };
    let number = write(work, user, peer, row, contact)?;
    let accepted = pb::Accepted {
        from: user.0,
        name: own.name,
        nickname: own.nickname,
    };
    work.add_task(&pb::Task {
        user_id: peer.0,
        effect: Some(pb::task::Effect::Accepted(accepted)),
    });
    Ok(Answer::Number(number))
}

/// The next version of a contact: a new item, and the old one goes.
fn write(
    work: &mut Work<'_, '_>,
    user: UserId,
    peer: UserId,
    before: pb::ContactRow,
    contact: terminal::Contact,
) -> Result<Seq, EngineError> {
    let version = before.version + 1;
    let given = work.add_item(user, |number| terminal::Item {
        number,
        kind: Kind::Contact.into(),
        id: peer.0,
        version,
        pos: None,
        payload: contact.encode_to_vec().into(),
        deleted: false,
    })?;
    if before.version > 0 {
        work.draft.supersede(user, Seq(before.number));
    }
    let friends = contact.state() == State::Friend;
    work.shard.warm.friends.insert((user, peer), friends);
    let row = pb::ContactRow {
        contact: Some(contact),
        version,
        number: given.number.0,
    };
    work.draft.put_message(&table::contact(user, peer), &row);
    Ok(given.number)
}

fn row(work: &Work<'_, '_>, user: UserId, peer: UserId) -> Result<pb::ContactRow, EngineError> {
    Ok(work
        .draft
        .message(&table::contact(user, peer))?
        .unwrap_or_default())
}

fn state(row: &pb::ContactRow) -> State {
    row.contact
        .as_ref()
        .map_or(State::Unspecified, terminal::Contact::state)
}
