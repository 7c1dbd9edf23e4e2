//! How far each device has acknowledged, and what may go because of it: deletions that every device has heard of.
//!
//! Of a state kind only the newest version is kept anyway, and messages are kept for ever; what is left to collect is
//! the items that say that something is gone. The *floor* is the highest number that was collected: a device with a lower
//! key is told everything anew ([`sync`](crate::storage::timeline::sync)), so that nothing rests on the keys that are
//! noted here but how often that happens.

use super::{Answer, Stop, Work};
use crate::{
    model::{DeviceId, Seq, UserId},
    proto::storage as pb,
    storage::{
        engine::{Engine, EngineError, Span, Table},
        shard::damaged,
        table, timeline,
    },
};

/// Deletions collected at once.
const COLLECTED_AT_ONCE: usize = 64;

/// A device has everything up to a key. Times are Unix times.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acknowledged {
    /// Whose device.
    pub user: UserId,
    /// Which.
    pub device: DeviceId,
    /// Up to where; zero = nobody knows, but it is there.
    pub key: Seq,
    /// What was deleted since is kept.
    pub collect_before_ms: i64,
    /// A device that was not seen since does not hold the floor.
    pub await_since_ms: i64,
    /// That a device is there need not be noted if it was since.
    pub seen_before_ms: i64,
}

/// Notes up to where a device has everything, and collects what no device needs any more.
pub(super) fn acknowledge(work: &mut Work<'_, '_>, noted: &Acknowledged) -> Result<Answer, Stop> {
    let key = table::device(noted.user, noted.device);
    let Some(mut row) = work.draft.message::<pb::DeviceRow>(&key)? else {
        // Logged out meanwhile.
        return Ok(Answer::Done);
    };
    row.acknowledged = row.acknowledged.max(noted.key.0);
    row.seen_ms = work.home.now_ms;
    work.draft.put_message(&key, &row);
    let least = least(work, noted)?;
    collect(work, noted, least)?;
    Ok(Answer::Done)
}

/// Whether anything may come of noting it.
pub fn matters(engine: &dyn Engine, noted: &Acknowledged) -> Result<bool, EngineError> {
    let row = timeline::message(engine, &table::device(noted.user, noted.device))?;
    let Some(row) = row else { return Ok(false) };
    Ok(last_seen(&row) < noted.seen_before_ms
        || !deletions(engine, noted.user, Seq(u64::MAX), 1)?.is_empty())
}

/// Notes that the item at `number` says that something was deleted.
pub(super) fn note_deletion(work: &mut Work<'_, '_>, user: UserId, number: Seq) {
    let key = table::deletion(user, number);
    work.draft.put_row(&key, &work.home.now_ms.to_be_bytes());
}

fn last_seen(row: &pb::DeviceRow) -> i64 {
    row.seen_ms.max(row.created_ms)
}

/// The least key that the devices of a user which are in use have acknowledged.
fn least(work: &Work<'_, '_>, noted: &Acknowledged) -> Result<Seq, EngineError> {
    let list: Option<pb::DeviceList> = work.draft.message(&table::devices(noted.user))?;
    let mut least = Seq(u64::MAX);
    for id in list.unwrap_or_default().device_ids {
        let key = table::device(noted.user, DeviceId(id));
        let row: Option<pb::DeviceRow> = work.draft.message(&key)?;
        let Some(row) = row else { continue };
        if last_seen(&row) >= noted.await_since_ms {
            least = least.min(Seq(row.acknowledged));
        }
    }
    Ok(least)
}

/// Collects old deletions below `least`. The newest item stays: a timeline's newest number is read off it.
fn collect(work: &mut Work<'_, '_>, noted: &Acknowledged, least: Seq) -> Result<(), EngineError> {
    let (engine, user) = (work.draft.engine(), noted.user);
    let end = least.min(timeline::newest(engine, user)?);
    let mut old = deletions(engine, user, end, COLLECTED_AT_ONCE)?;
    // Numbers rise with time, but where the clock was put back.
    old.retain(|(_, deleted_ms)| *deleted_ms <= noted.collect_before_ms);
    let Some((last, _)) = old.last() else {
        return Ok(());
    };
    let key = table::floor(user);
    let floor = work.draft.row(&key)?.and_then(|row| table::number(&row));
    let floor = floor.unwrap_or(0).max(last.0);
    work.draft.put_row(&key, &floor.to_be_bytes());
    for (number, _) in old {
        work.draft.remove_row(&table::deletion(user, number));
        work.draft.supersede(user, number);
    }
    Ok(())
}

/// The first deletions in a timeline that lie below `end`, as the tables have them: their numbers, and when they came.
fn deletions(
    engine: &dyn Engine,
    user: UserId,
    end: Seq,
    most: usize,
) -> Result<Vec<(Seq, i64)>, EngineError> {
    let (from, to) = (table::deletion(user, Seq::ZERO), table::deletion(user, end));
    let span = Span {
        from: &from,
        to: &to,
        backwards: false,
    };
    let (mut found, mut unreadable) = (Vec::new(), false);
    engine.scan(Table::Rows, span, &mut |key, row| {
        let read = table::deletion_number(key).zip(table::number(row));
        unreadable = read.is_none();
        found.extend(read.map(|(number, deleted_ms)| (number, deleted_ms as i64)));
        !unreadable && found.len() < most
    })?;
    match unreadable {
        true => Err(damaged(&format!("a deletion of {user}"))),
        false => Ok(found),
    }
}
