//! What becomes of a message after it was sent: edits, a recall, reactions. Each is a new version of the
//! message's item at both ends, under its first position; the version before it goes.
//!
//! Edits and the recall come from the sender alone, so the stream between the two homes orders them; a
//! reaction touches its own user's entry only. So both ends come to the same message, whatever crossed.
//! A recall empties the message for good: what arrives for it later finds nothing to change.

use prost::Message;

use super::{Answer, Refusal, RefusalKind, Stop, Work, contact, group};
use crate::{
    model::{Pos, Seq, UserId, limits::REACTIONS},
    proto::{
        storage::{self as pb, amend::What, task::Effect},
        terminal::{self, Kind},
    },
    storage::{engine::EngineError, shard::damaged, table},
};

/// A message's item, and the message in it.
struct Held {
    item: terminal::Item,
    message: terminal::Message,
}

/// Puts another text in the place of the first.
pub(super) fn edit(
    work: &mut Work<'_, '_>,
    user: UserId,
    request: &terminal::Edit,
) -> Result<Answer, Stop> {
    if let Some(group) = logged(work, user, request.message_id, request.group_id)? {
        let edited = pb::Edited {
            edits: 0, // the group's home counts
            text: request.text.clone(),
        };
        return group::amend(work, user, group, request.message_id, What::Edited(edited));
    }
    let held = own(work, user, request.message_id)?;
    if held.message.recalled {
        let text = "the message was recalled; send a new one";
        return Err(Refusal::new(RefusalKind::FailedPrecondition, text).into());
    }
    let edited = pb::Edited {
        edits: held.message.edits + 1,
        text: request.text.clone(),
    };
    if held.message.text == request.text {
        return Ok(Answer::Number(Seq(held.item.number)));
    }
    change(work, user, held, What::Edited(edited))
}

/// Takes a message back.
pub(super) fn recall(
    work: &mut Work<'_, '_>,
    user: UserId,
    request: terminal::Recall,
) -> Result<Answer, Stop> {
    let message_id = request.message_id;
    if let Some(group) = logged(work, user, message_id, request.group_id)? {
        return group::amend(work, user, group, message_id, What::Recalled(true));
    }
    let held = own(work, user, message_id)?;
    change(work, user, held, What::Recalled(true))
}

/// Says something about a message with one sign; empty takes it back.
pub(super) fn react(
    work: &mut Work<'_, '_>,
    user: UserId,
    request: &terminal::React,
) -> Result<Answer, Stop> {
    if let Some(group) = logged(work, user, request.message_id, request.group_id)? {
        let what = What::Reaction(request.emoji.clone());
        return group::amend(work, user, group, request.message_id, what);
    }
    let held = held(work, user, request.message_id)?.ok_or_else(|| no_such(request.message_id))?;
    if held.message.recalled {
        let text = "the message was recalled; there is nothing to react to";
        return Err(Refusal::new(RefusalKind::FailedPrecondition, text).into());
    }
    change(work, user, held, What::Reaction(request.emoji.clone()))
}

/// Effect of the above at the other's home. A message that is not there was refused.
pub(super) fn amended(
    work: &mut Work<'_, '_>,
    user: UserId,
    amend: pb::Amend,
) -> Result<(), EngineError> {
    let from = UserId(amend.from);
    // Taking back always works; what adds something is taken from those whose messages are.
    let recall = matches!(amend.what, Some(What::Recalled(_)));
    if recall || contact::takes_from(work, user, from)? {
        take(work, user, &amend)?;
    }
    Ok(())
}

/// Makes in `user`'s copy of a message the change that came from elsewhere.
pub(super) fn take(
    work: &mut Work<'_, '_>,
    user: UserId,
    amend: &pb::Amend,
) -> Result<(), EngineError> {
    let Some(what) = &amend.what else {
        return Err(damaged("an amendment without a change"));
    };
    let Some(held) = held(work, user, amend.message_id)? else {
        return Ok(());
    };
    if matches!(what, What::Reaction(_)) || held.message.sender == amend.from {
        write(work, user, UserId(amend.from), held, what)?;
    }
    Ok(())
}

/// The sender's own copy of a message to a group gets the position that the group's home gave.
pub(super) fn place(
    work: &mut Work<'_, '_>,
    user: UserId,
    message_id: u64,
    pos: Pos,
) -> Result<(), EngineError> {
    let Some(held) = held(work, user, message_id)? else {
        return Ok(());
    };
    let pos = Some(pos.into());
    if held.item.pos != pos {
        let item = terminal::Item { pos, ..held.item };
        next(work, user, item, &held.message)?;
    }
    Ok(())
}

/// Changes the user's own copy and sends word to the other's home.
fn change(work: &mut Work<'_, '_>, user: UserId, held: Held, what: What) -> Result<Answer, Stop> {
    let message = &held.message;
    let (message_id, before) = (message.message_id, held.item.number);
    let to_group = UserId(message.receiver).is_group();
    let other = if message.sender == user.0 || to_group {
        message.receiver
    } else {
        message.sender
    };
    if to_group {
        group::check_member(work, UserId(other), user)?;
    }
    let Some(number) = write(work, user, user, held, &what)? else {
        return Ok(Answer::Number(Seq(before)));
    };
    let amend = pb::Amend {
        from: user.0,
        message_id,
        what: Some(what),
        request_id: 0, // what the own copy takes is not refused
    };
    work.add_task(&pb::Task {
        user_id: other,
        effect: Some(Effect::Amend(amend)),
    });
    Ok(Answer::Number(number))
}

/// Makes the next version of a message in `user`'s timeline; `None` if nothing would change.
fn write(
    work: &mut Work<'_, '_>,
    user: UserId,
    by: UserId,
    held: Held,
    what: &What,
) -> Result<Option<Seq>, EngineError> {
    let Held { item, mut message } = held;
    if !apply(&mut message, by, what) {
        return Ok(None);
    }
    next(work, user, item, &message).map(Some)
}

/// The next version of a message's item takes the place of the one before.
fn next(
    work: &mut Work<'_, '_>,
    user: UserId,
    before: terminal::Item,
    message: &terminal::Message,
) -> Result<Seq, EngineError> {
    let given = work.add_item(user, |number| terminal::Item {
        number,
        version: before.version + 1,
        payload: message.encode_to_vec().into(),
        ..before.clone()
    })?;
    work.draft.supersede(user, Seq(before.number));
    let key = table::held(user, Kind::Message.into(), message.message_id);
    work.draft.put_row(&key, &given.number.0.to_be_bytes());
    Ok(given.number)
}

/// What a change makes of a message; false if it is so already or came too late.
pub(super) fn apply(message: &mut terminal::Message, by: UserId, what: &What) -> bool {
    if message.recalled {
        return false;
    }
    match what {
        What::Recalled(_) => {
            message.recalled = true;
            message.text.clear();
            message.extra = None;
            message.reactions.clear();
        }
        What::Edited(edited) => {
            if edited.edits <= message.edits {
                return false;
            }
            message.edits = edited.edits;
            message.text.clone_from(&edited.text);
        }
        What::Reaction(emoji) => {
            let reactions = &mut message.reactions;
            let at = reactions.binary_search_by_key(&by.0, |reaction| reaction.user_id);
            match (at, emoji.is_empty()) {
                (Ok(at), true) => drop(reactions.remove(at)),
                (Ok(at), false) if reactions[at].emoji == *emoji => return false,
                (Ok(at), false) => reactions[at].emoji.clone_from(emoji),
                (Err(_), true) => return false,
                (Err(_), false) if reactions.len() >= REACTIONS => return false,
                (Err(at), false) => {
                    let reaction = terminal::Reaction {
                        user_id: by.0,
                        emoji: emoji.clone(),
                    };
                    reactions.insert(at, reaction);
                }
            }
        }
    }
    true
}

/// The group whose log may have a message that `user`'s timeline has no copy of.
fn logged(
    work: &Work<'_, '_>,
    user: UserId,
    message_id: u64,
    group_id: u64,
) -> Result<Option<UserId>, EngineError> {
    let group = UserId(group_id);
    let key = table::held(user, Kind::Message.into(), message_id);
    let elsewhere = group.is_group() && work.draft.row(&key)?.is_none();
    Ok(elsewhere.then_some(group))
}

/// A message that `user` has sent.
fn own(work: &Work<'_, '_>, user: UserId, message_id: u64) -> Result<Held, Stop> {
    let held = held(work, user, message_id)?.ok_or_else(|| no_such(message_id))?;
    if held.message.sender != user.0 {
        let text = "only who sent a message can edit or recall it";
        return Err(Refusal::new(RefusalKind::PermissionDenied, text).into());
    }
    Ok(held)
}

/// A message in `user`'s timeline.
fn held(work: &Work<'_, '_>, user: UserId, message_id: u64) -> Result<Option<Held>, EngineError> {
    let key = table::held(user, Kind::Message.into(), message_id);
    let Some(row) = work.draft.row(&key)? else {
        return Ok(None);
    };
    let number = table::number(&row).ok_or_else(|| damaged("a held item's number"))?;
    let lost = |why: &str| damaged(&format!("message {message_id} of {user}: {why}"));
    let item = work
        .draft
        .item(user, Seq(number))?
        .ok_or_else(|| lost("it is not in the timeline"))?;
    let item = terminal::Item::decode(item).map_err(|error| lost(&error.to_string()))?;
    let message = terminal::Message::decode(item.payload.clone())
        .map_err(|error| lost(&error.to_string()))?;
    Ok(Some(Held { item, message }))
}

pub(super) fn no_such(message_id: u64) -> Refusal {
    let text = format!("your timeline has no message {message_id}");
    Refusal::new(RefusalKind::NotFound, text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn edited(edits: u32, text: &str) -> What {
        What::Edited(pb::Edited {
            edits,
            text: text.to_owned(),
        })
    }

    proptest! {
        /// The sender's changes are in one order everywhere, the receiver's too; how they mix does not matter.
        #[test]
        fn both_ends_come_to_the_same_message(
            steps in prop::collection::vec((any::<bool>(), 0..4_u8, "[a-c]{0,2}"), 0..12),
            first in any::<u64>(), second in any::<u64>())
        {
            let mut edits = 0;
            let mut by: [Vec<What>; 2] = Default::default();
            for (sender, what, text) in steps {
                match (sender, what) {
                    (true, 0) => {
                        edits += 1;
                        by[0].push(edited(edits, &text));
                    }
                    (true, 1) => by[0].push(What::Recalled(true)),
                    (sender, _) => by[usize::from(!sender)].push(What::Reaction(text)),
                }
            }
            let mix = |mut chance: u64| {
                let mut message = terminal::Message { text: "hello".to_owned(), ..Default::default() };
                let mut at = [0, 0];
                while at[0] < by[0].len() || at[1] < by[1].len() {
                    let who = if at[0] == by[0].len() { 1 } else if at[1] == by[1].len() { 0 } else { (chance & 1) as usize };
                    chance = chance.rotate_right(1);
                    apply(&mut message, UserId(who as u64 + 1), &by[who][at[who]]);
                    at[who] += 1;
                }
                message
            };
            prop_assert_eq!(mix(first), mix(second));
        }
    }

    #[test]
    fn a_recalled_message_says_nothing_and_stays_so() {
        let mut message = terminal::Message {
            text: "secret".to_owned(),
            extra: Some(terminal::Extra::default()),
            ..Default::default()
        };
        assert!(apply(
            &mut message,
            UserId(2),
            &What::Reaction("+".to_owned())
        ));
        assert!(apply(&mut message, UserId(1), &What::Recalled(true)));
        let empty = terminal::Message {
            recalled: true,
            ..Default::default()
        };
        assert_eq!(message, empty);
        assert!(!apply(&mut message, UserId(1), &edited(1, "secret")));
        assert!(!apply(
            &mut message,
            UserId(2),
            &What::Reaction("+".to_owned())
        ));
        assert_eq!(message, empty);
    }

    #[test]
    fn an_edit_that_was_overtaken_changes_nothing() {
        let mut message = terminal::Message::default();
        assert!(apply(&mut message, UserId(1), &edited(2, "b")));
        assert!(!apply(&mut message, UserId(1), &edited(1, "a")));
        assert_eq!(message.text, "b");
    }
}
