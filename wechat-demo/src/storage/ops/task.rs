//! Effects: what a task from another shard does at its destination.
//!
//! An effect is never refused and never waits. Each is idempotent by its own name (account, contact
//! version, message id), so that a stream that begins anew does no harm.

use bytes::Bytes;
use prost::Message;

use super::{
    Answer, Refusal, RefusalKind, Stop, Work, account, amend, contact, conversation, group,
    message, moments,
};
use crate::{
    model::{HomeId, Incarnation, ShardId, Site, UserId},
    proto::storage::{self as pb, task::Effect},
    storage::{
        copies::CHUNK_BYTES,
        engine::EngineError,
        shard::{Draft, Home, Shard, damaged},
        stream::Place,
    },
};

/// The shard that a parcel is for.
pub(super) fn shard(parcel: &pb::Parcel) -> ShardId {
    ShardId(parcel.to_shard as u8)
}

/// Applies of a parcel what is next in its stream, each task in the entry that moves the mark.
pub(super) fn deliver(work: &mut Work<'_, '_>, parcel: &pb::Parcel) -> Result<Answer, Stop> {
    let from = Site {
        home: HomeId(parcel.from_home as u8),
        shard: ShardId(parcel.from_shard as u8),
    };
    let incarnation = Incarnation(parcel.incarnation as u16);
    // All of it is looked at before any of it is done: what cannot be read must not cost this store anything.
    for (n, task) in (parcel.first..).zip(&parcel.tasks) {
        let read = pb::Task::decode(task.clone()).map_err(|error| error.to_string());
        let whole = read.and_then(|task| match task.effect {
            Some(Effect::Refuse(pb::Refuse { refused: None })) | None => {
                Err("it has no effect that is known here".to_owned())
            }
            Some(_) => Ok(()),
        });
        whole.map_err(|why| {
            let text =
                format!("task {n} from {from} cannot be read: {why}; the stream waits at it");
            Refusal::new(RefusalKind::InvalidArgument, text)
        })?;
    }
    for (n, task) in (parcel.first..).zip(&parcel.tasks) {
        // As between shards of one store: an entry stays within what an engine takes.
        if work.draft.changes().len() > CHUNK_BYTES / work.home.place.shards() {
            break;
        }
        match work.shard.incoming.place(from, incarnation, n) {
            Place::Done => {}
            Place::Next => {
                apply(work.shard, work.home, work.draft, task.clone())?;
                work.shard.incoming.advance(from, incarnation, n);
            }
            Place::From(_) => break,
        }
    }
    work.shard.incoming.note(work.draft, from, incarnation);
    Ok(Answer::Reached(work.shard.incoming.mark(from, incarnation)))
}

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
