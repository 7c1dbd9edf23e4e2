//! Who is whose contact: the two ends of a [`Bond`] as rows and items, what the user calls them, whom the
//! user blocks.
//!
//! Invariant
//! - N-1  A user has at most [`CONTACTS_PER_USER`] contacts, requests that wait included. Who asks a user that has as
//!   many is turned down and told so, and leaves no row there.

use super::{
    Answer, Refusal, RefusalKind, Stop, Work, account,
    bond::{Bond, Event, Word},
    push,
};
use crate::{
    model::{
        Seq, UserId,
        limits::{CONTACTS_PER_USER, ERASED_CONTACTS},
    },
    proto::{
        storage::{self as pb, task::Effect},
        terminal::{self, Kind, contact::State},
    },
    storage::{engine::EngineError, shard::damaged, table},
};

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
    let (bond, word) = bond(&row).after(Event::Ask);
    if word.is_none() {
        return Ok(Answer::Number(Seq(row.number)));
    }
    if !counts(&row) && count(work, user)? >= CONTACTS_PER_USER {
        let text = format!(
            "you have {CONTACTS_PER_USER} contacts, requests included; remove some before you ask others"
        );
        return Err(Refusal::new(RefusalKind::FailedPrecondition, text).into());
    }
    let mut contact = row.contact.clone().unwrap_or_default();
    if bond.state == State::Asked {
        contact.name.clone_from(&request.peer_name);
        contact.nickname.clone_from(&request.peer_nickname);
        contact.avatar.clone_from(&request.peer_avatar);
        contact.gone = false;
        contact.greeting.clone_from(&request.greeting);
    }
    let number = write(work, user, peer, row, bond, contact)?;
    tell(work, user, peer, word, &own, &request.greeting);
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
    if bond(&row).state == State::Friend {
        return Ok(Answer::Number(Seq(row.number)));
    }
    let (bond, word) = bond(&row).after(Event::Accept);
    if word.is_none() {
        let text = format!("{peer} has not asked to be your contact; ask them first");
        return Err(Refusal::new(RefusalKind::FailedPrecondition, text).into());
    }
    let contact = row.contact.clone().unwrap_or_default();
    let number = write(work, user, peer, row, bond, contact)?;
    tell(work, user, peer, word, &own, "");
    Ok(Answer::Number(number))
}

/// Ends it, at both ends: a friendship, an own request, or theirs (that is saying no).
pub(super) fn remove(work: &mut Work<'_, '_>, user: UserId, peer: UserId) -> Result<Answer, Stop> {
    let own = account::account(work, user)?;
    let row = known(work, user, peer)?;
    let (bond, word) = bond(&row).after(Event::Remove);
    if word.is_none() {
        return Ok(Answer::Number(Seq(row.number)));
    }
    let contact = row.contact.clone().unwrap_or_default();
    let number = write(work, user, peer, row, bond, contact)?;
    tell(work, user, peer, word, &own, "");
    Ok(Answer::Number(number))
}

/// Calls `peer` something.
pub(super) fn remark(
    work: &mut Work<'_, '_>,
    user: UserId,
    request: &terminal::Remark,
) -> Result<Answer, Stop> {
    let peer = UserId(request.user_id);
    let row = known(work, user, peer)?;
    rewrite(work, user, peer, row, |contact| {
        contact.remark.clone_from(&request.remark);
    })
}

/// Takes nothing more from `peer`, or takes it again.
pub(super) fn block(
    work: &mut Work<'_, '_>,
    user: UserId,
    request: &terminal::Block,
) -> Result<Answer, Stop> {
    let peer = UserId(request.user_id);
    let row = known(work, user, peer)?;
    rewrite(work, user, peer, row, |contact| {
        contact.blocked = request.blocked
    })
}

/// Parts from some contacts of who has deleted the account, and tells them so; false if there were none left.
pub(super) fn part_from_some(work: &mut Work<'_, '_>, user: UserId) -> Result<bool, EngineError> {
    let mut rows = all(work, user)?;
    rows.retain(counts);
    let some = rows.len().min(ERASED_CONTACTS);
    let own = pb::AccountRow {
        deleted: true,
        ..pb::AccountRow::default()
    };
    for row in rows.drain(..some) {
        let (bond, word) = bond(&row).after(Event::Remove);
        let contact = row.contact.clone().unwrap_or_default();
        let peer = UserId(contact.user_id);
        write(work, user, peer, row, bond, contact)?;
        tell(work, user, peer, word, &own, "");
    }
    Ok(some > 0)
}

/// Tells the user's contacts what the user is called now, and where the picture is.
pub(super) fn tell_all(
    work: &mut Work<'_, '_>,
    user: UserId,
    own: &pb::AccountRow,
) -> Result<(), EngineError> {
    for row in all(work, user)? {
        let Some(contact) = &row.contact else {
            continue;
        };
        if matches!(contact.state(), State::Friend | State::Asked) {
            let renamed = pb::Renamed {
                from: user.0,
                nickname: own.nickname.clone(),
                avatar: own.avatar.clone(),
            };
            work.add_task(&pb::Task {
                user_id: contact.user_id,
                effect: Some(Effect::Renamed(renamed)),
            });
        }
    }
    Ok(())
}

/// Effect of [`tell_all`] at a contact's home.
pub(super) fn renamed(
    work: &mut Work<'_, '_>,
    user: UserId,
    renamed: pb::Renamed,
) -> Result<(), EngineError> {
    let peer = UserId(renamed.from);
    let row = row(work, user, peer)?;
    let Some(mut contact) = row.contact.clone() else {
        return Ok(());
    };
    if (&contact.nickname, &contact.avatar) == (&renamed.nickname, &renamed.avatar) {
        return Ok(());
    }
    contact.nickname = renamed.nickname;
    contact.avatar = renamed.avatar;
    let bond = bond(&row);
    write(work, user, peer, row, bond, contact).map(drop)
}

/// Effect of [`ask`] at the other's home.
pub(super) fn asked(
    work: &mut Work<'_, '_>,
    user: UserId,
    asked: pb::Asked,
) -> Result<(), EngineError> {
    // Ids are checked before asking, and an account's row is never removed.
    let Some(own) = work
        .draft
        .message::<pb::AccountRow>(&table::account(user))?
    else {
        return Ok(());
    };
    let from = UserId(asked.from);
    if own.deleted {
        let why = format!("{user} has deleted the account");
        turn_down(work, user, from, asked.round, &own, why);
        return Ok(());
    }
    if !counts(&row(work, user, from)?) && count(work, user)? >= CONTACTS_PER_USER {
        let why = format!("{user} has as many contacts as one can have");
        turn_down(work, user, from, asked.round, &own, why);
        return Ok(());
    }
    let word = Word::Asked(asked.round);
    hear(work, user, from, word, &own, |contact| {
        contact.name = asked.name;
        contact.nickname = asked.nickname;
        contact.avatar = asked.avatar;
        contact.greeting = asked.greeting;
    })
}

/// Effect of [`accept`] at the other's home.
pub(super) fn accepted(
    work: &mut Work<'_, '_>,
    user: UserId,
    accepted: pb::Accepted,
) -> Result<(), EngineError> {
    let word = Word::Accepted(accepted.round);
    let own = pb::AccountRow::default(); // an acceptance is never answered
    hear(work, user, UserId(accepted.from), word, &own, |contact| {
        contact.name = accepted.name;
        contact.nickname = accepted.nickname;
        contact.avatar = accepted.avatar;
    })
}

/// Effect of [`remove`] at the other's home.
pub(super) fn removed(
    work: &mut Work<'_, '_>,
    user: UserId,
    removed: &pb::Removed,
) -> Result<(), EngineError> {
    let word = Word::Removed(removed.round);
    let own = pb::AccountRow::default(); // a removal is never answered
    hear(work, user, UserId(removed.from), word, &own, |contact| {
        contact.gone = removed.gone;
    })
}

/// Whether what `peer` sends to `user` is taken.
pub(super) fn takes_from(
    work: &mut Work<'_, '_>,
    user: UserId,
    peer: UserId,
) -> Result<bool, EngineError> {
    if let Some(&known) = work.shard.warm.friends.get(&(user, peer)) {
        return Ok(known);
    }
    let taken = takes(&row(work, user, peer)?);
    work.shard.warm.friends.insert((user, peer), taken);
    Ok(taken)
}

/// All whose words the user takes.
pub(super) fn friends(work: &Work<'_, '_>, user: UserId) -> Result<Vec<u64>, EngineError> {
    let rows = all(work, user)?;
    let contacts = rows.into_iter().filter(takes).filter_map(|row| row.contact);
    Ok(contacts.map(|contact| contact.user_id).collect())
}

fn all(work: &Work<'_, '_>, user: UserId) -> Result<Vec<pb::ContactRow>, EngineError> {
    let (from, to) = (
        table::contact(user, UserId(0)),
        table::contact(user, UserId(u64::MAX)),
    );
    work.draft.messages(&from, &to)
}

/// What the other end said, at this end.
fn hear(
    work: &mut Work<'_, '_>,
    user: UserId,
    peer: UserId,
    word: Word,
    own: &pb::AccountRow,
    learn: impl FnOnce(&mut terminal::Contact),
) -> Result<(), EngineError> {
    let row = row(work, user, peer)?;
    let before = bond(&row);
    let (bond, answer) = before.after(Event::Heard(word));
    if bond == before {
        return Ok(());
    }
    let mut contact = row.contact.clone().unwrap_or_default();
    learn(&mut contact);
    let number = write(work, user, peer, row, bond, contact)?;
    tell(work, user, peer, answer, own, "");
    if bond.state == State::AskedMe {
        push::intend(work, user, peer, number)?;
    }
    Ok(())
}

/// Says no to `peer`, who asked in `round`, and why.
fn turn_down(
    work: &mut Work<'_, '_>,
    user: UserId,
    peer: UserId,
    round: u64,
    own: &pb::AccountRow,
    reason: String,
) {
    tell(work, user, peer, Some(Word::Removed(round)), own, "");
    let refused = terminal::Refused {
        message_id: work.shard.give_message(work.draft, work.home).0,
        receiver: user.0,
        reason,
        ..terminal::Refused::default()
    };
    work.refuse(peer, refused);
}

fn tell(
    work: &mut Work<'_, '_>,
    user: UserId,
    peer: UserId,
    word: Option<Word>,
    own: &pb::AccountRow,
    greeting: &str,
) {
    let (name, nickname, avatar) = (own.name.clone(), own.nickname.clone(), own.avatar.clone());
    let effect = match word {
        None => return,
        Some(Word::Asked(round)) => Effect::Asked(pb::Asked {
            from: user.0,
            name,
            nickname,
            greeting: greeting.to_owned(),
            round,
            avatar,
        }),
        Some(Word::Accepted(round)) => Effect::Accepted(pb::Accepted {
            from: user.0,
            name,
            nickname,
            round,
            avatar,
        }),
        Some(Word::Removed(round)) => Effect::Removed(pb::Removed {
            from: user.0,
            round,
            gone: own.deleted,
        }),
    };
    work.add_task(&pb::Task {
        user_id: peer.0,
        effect: Some(effect),
    });
}

/// Changes what the user alone decides about a contact.
fn rewrite(
    work: &mut Work<'_, '_>,
    user: UserId,
    peer: UserId,
    row: pb::ContactRow,
    change: impl FnOnce(&mut terminal::Contact),
) -> Result<Answer, Stop> {
    let mut contact = row.contact.clone().unwrap_or_default();
    change(&mut contact);
    if row.contact.as_ref() == Some(&contact) {
        return Ok(Answer::Number(Seq(row.number)));
    }
    let bond = bond(&row);
    Ok(Answer::Number(write(work, user, peer, row, bond, contact)?))
}

/// The next version of a contact: a new item, and the old one goes.
fn write(
    work: &mut Work<'_, '_>,
    user: UserId,
    peer: UserId,
    before: pb::ContactRow,
    bond: Bond,
    contact: terminal::Contact,
) -> Result<Seq, EngineError> {
    let contact = terminal::Contact {
        user_id: peer.0,
        state: bond.state.into(),
        ..contact
    };
    let version = before.version + 1;
    let counted = counts(&before);
    let before = (before.version > 0).then_some(Seq(before.number));
    let number = work.put_state(user, Kind::Contact, peer.0, version, before, &contact)?;
    let row = pb::ContactRow {
        contact: Some(contact),
        version,
        number: number.0,
        round: bond.round,
    };
    if counted != counts(&row) {
        let others = count(work, user)? - u64::from(counted);
        let count = others + u64::from(!counted);
        let key = table::contacts(user);
        work.draft.put_row(&key, &count.to_be_bytes());
    }
    let taken = takes(&row);
    work.shard.warm.friends.insert((user, peer), taken);
    work.draft.put_message(&table::contact(user, peer), &row);
    Ok(number)
}

fn row(work: &Work<'_, '_>, user: UserId, peer: UserId) -> Result<pb::ContactRow, EngineError> {
    Ok(work
        .draft
        .message(&table::contact(user, peer))?
        .unwrap_or_default())
}

/// How many contacts the user has.
fn count(work: &Work<'_, '_>, user: UserId) -> Result<u64, EngineError> {
    match work.draft.row(&table::contacts(user))? {
        None => Ok(0),
        Some(row) => table::number(&row).ok_or_else(|| damaged("a count of contacts")),
    }
}

/// Whether a row is one of those that are counted.
fn counts(row: &pb::ContactRow) -> bool {
    matches!(
        bond(row).state,
        State::Asked | State::AskedMe | State::Friend
    )
}

/// The row of somebody there is one of.
pub(super) fn known(
    work: &Work<'_, '_>,
    user: UserId,
    peer: UserId,
) -> Result<pb::ContactRow, Stop> {
    let row = row(work, user, peer)?;
    if row.version == 0 {
        let text = format!("{peer} is not among your contacts; ask them first");
        return Err(Refusal::new(RefusalKind::NotFound, text).into());
    }
    Ok(row)
}

/// Whether a user takes what comes from the contact of this row.
pub fn takes(row: &pb::ContactRow) -> bool {
    bond(row).state == State::Friend && row.contact.as_ref().is_some_and(|contact| !contact.blocked)
}

fn bond(row: &pb::ContactRow) -> Bond {
    let state = row
        .contact
        .as_ref()
        .map_or(State::Unspecified, terminal::Contact::state);
    Bond {
        state,
        round: row.round,
    }
}
