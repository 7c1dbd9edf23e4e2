//! Effects: what a task from another shard does at its destination.
//!
//! An effect is never refused and never waits. Each is idempotent by its own name (account, contact
//! version, message id), so that a stream that begins anew does no harm.

use bytes::Bytes;
use prost::Message;

use super::{Work, account, amend, contact, conversation, group, message, moments};
use crate::{
    model::UserId,
    proto::storage::{self as pb, task::Effect},
    storage::{
        engine::EngineError,
        shard::{Draft, Home, Shard, damaged},
    },
};

/// Applies a task in `draft`.
pub fn apply(
    shard: &mut Shard,
    home: Home,
    draft: &mut Draft<'_>,
    task: Bytes,
) -> Result<(), EngineError> {
    let task = pb::Task::decode(task).map_err(|error| damaged(&format!("a task: {error}")))?;
    let mut work = Work { shard, home, draft };
    let user = UserId(task.user_id);
    match task.effect {
        Some(Effect::CreateAccount(row)) => account::ensure(&mut work, user, &row).map(drop),
        Some(Effect::Erase(done)) => account::erase(&mut work, user, done),
        Some(Effect::Deliver(deliver)) => message::deliver(&mut work, user, deliver),
        Some(Effect::Refuse(pb::Refuse {
            refused: Some(refused),
        })) => message::refused(&mut work, user, refused),
        Some(Effect::Asked(asked)) => contact::asked(&mut work, user, asked),
        Some(Effect::Accepted(accepted)) => contact::accepted(&mut work, user, accepted),
        Some(Effect::Removed(removed)) => contact::removed(&mut work, user, &removed),
        Some(Effect::Renamed(renamed)) => contact::renamed(&mut work, user, renamed),
        Some(Effect::Amend(amend)) if user.is_group() => group::amended(&mut work, user, amend),
        Some(Effect::Amend(amend)) => amend::amended(&mut work, user, amend),
        Some(Effect::MakeGroup(make)) => group::make(&mut work, user, &make),
        Some(Effect::ChangeGroup(change)) => group::changed(&mut work, user, &change),
        Some(Effect::GroupSend(sent)) => group::sent(&mut work, user, sent),
        Some(Effect::Spread(spread)) => group::arrived(&mut work, user, spread),
        Some(Effect::Remark(remark)) => moments::remarked(&mut work, user, remark),
        Some(Effect::Moment(moment)) => moments::arrived(&mut work, user, &moment),
        Some(Effect::Marked(marked)) => conversation::marked(&mut work, user, &marked),
        Some(Effect::Refuse(pb::Refuse { refused: None })) | None => Err(damaged(
            "a task without an effect; was it written by a newer version?",
        )),
    }
}
