//! Reading: what is committed, straight from the tables.
//!
//! Reads run on the caller's own coroutine. They nearly always end in memory (memory tables, block cache),
//! where a hop to the blocking pool would cost more than the read; a cold block holds the worker for one
//! disk read, and a page is bounded in items and bytes.

use bytes::Bytes;
use prost::Message;

use super::{
    engine::{Engine, EngineError, Span, Table},
    heads,
    ops::{Refusal, RefusalKind, Stop},
    shard::damaged,
    table::{self, Key},
};
use crate::{
    model::{
        DeviceId, Incarnation, Seq, UserId,
        limits::{SYNC_DEFAULT_ITEMS, SYNC_MAX_ITEMS},
    },
    planted::{self, Bug},
    proto::{storage as pb, terminal},
};

/// Numbers that [`Bug::SilentSkip`] still shows.
const SKIPPED: u64 = 20;

/// What a key is, to the user's timeline as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Everything up to it is, or was, in this timeline.
    Good,
    /// It was given, and lost with all above this number.
    Lost(Seq),
    /// It was never given here.
    Unknown,
}

/// The answer to a device of `user`: what is above its key, one page of it, in number order.
///
/// Nothing is ever added at or below a number that was visible, so no item can hide under the key that is
/// handed out. Of a state kind only the newest version is there: a device that has not seen the last page may have
/// none at all of something, and so it is judged by the number that it is owed. `incarnation` is the store's.
/// `limit` 0 means the default.
pub fn sync(
    engine: &dyn Engine,
    incarnation: Incarnation,
    user: UserId,
    request: &terminal::SyncRequest,
) -> Result<pb::SyncPage, Stop> {
    let limit = match request.limit as usize {
        0 => SYNC_DEFAULT_ITEMS,
        limit => limit.min(SYNC_MAX_ITEMS),
    };
    let (key, end) = (Seq(request.key), Seq(request.full_to));
    let reach = key.max(end).max(Seq(request.owed));
    if request.anew || (end > Seq::ZERO && key > end) {
        return begin_full(engine, user, limit);
    }
    let page = match end {
        Seq::ZERO => newer(engine, user, key, limit)?,
        end => full(engine, user, key, end, limit)?,
    };
    // What has newer items in its own incarnation was given.
    let given = reach == key && key.incarnation() == incarnation && !page.items.is_empty();
    if !given {
        match standing(engine, incarnation, user, reach)? {
            Standing::Good => {}
            Standing::Lost(last) => return Ok(rewind(last)),
            Standing::Unknown => return begin_full(engine, user, limit),
        }
    }
    // The floor is read after the page: what is collected in between raises it. Who has nothing yet and gets all of it
    // in one page misses no deletion.
    let below = |floor| end == Seq::ZERO && (key > Seq::ZERO || page.more) && key < floor;
    match below(floor(engine, user)?) {
        true => begin_full(engine, user, limit),
        false => Ok(page),
    }
}

/// Up to here deletions were collected: a device with a lower key would not hear of them.
pub fn floor(engine: &dyn Engine, user: UserId) -> Result<Seq, EngineError> {
    match engine.get(Table::Rows, &table::floor(user))? {
        None => Ok(Seq::ZERO),
        Some(row) => {
            let floor = table::number(&row).ok_or_else(|| damaged(&format!("floor of {user}")))?;
            Ok(Seq(floor))
        }
    }
}

/// What `key` is to the timeline of `user`.
pub fn standing(
    engine: &dyn Engine,
    incarnation: Incarnation,
    user: UserId,
    key: Seq,
) -> Result<Standing, EngineError> {
    if key == Seq::ZERO {
        return Ok(Standing::Good);
    }
    if key.incarnation() < incarnation {
        let last = last_of(engine, user, key.incarnation())?;
        if key > last {
            return Ok(Standing::Lost(last));
        }
    } else if key > newest(engine, user)? {
        return Ok(Standing::Unknown);
    }
    Ok(Standing::Good)
}

/// The last number of a user that has survived of this incarnation and those before it.
fn last_of(
    engine: &dyn Engine,
    user: UserId,
    incarnation: Incarnation,
) -> Result<Seq, EngineError> {
    let (from, to) = (
        table::survived(user, Incarnation(incarnation.0.saturating_add(1))),
        table::survived(user, Incarnation(u16::MAX)),
    );
    let span = Span {
        from: &from,
        to: &to,
        backwards: false,
    };
    let mut last = None;
    engine.scan(Table::Rows, span, &mut |_, row| {
        last = Some(table::number(row));
        false
    })?;
    match last {
        // Nothing was given in a later incarnation.
        None => newest(engine, user),
        Some(last) => Ok(Seq(last.ok_or_else(|| damaged("a surviving number"))?)),
    }
}

/// A page of what is above `key`.
fn newer(engine: &dyn Engine, user: UserId, key: Seq, limit: usize) -> Result<pb::SyncPage, Stop> {
    let key = if planted::is_on(Bug::SilentSkip) {
        Seq(key.0.max(newest(engine, user)?.0.saturating_sub(SKIPPED)))
    } else {
        key
    };
    let mut page = heads::page(engine, user, key, Seq(u64::MAX), limit)?;
    if planted::is_on(Bug::TombstoneCollectedEarly) {
        let deleted = |item: &Bytes| terminal::Item::decode(&**item).is_ok_and(|item| item.deleted);
        page.items.retain(|item| !deleted(item));
    }
    if page.more {
        page.owed = newest(engine, user)?.0;
    }
    Ok(page)
}

fn rewind(last: Seq) -> pb::SyncPage {
    pb::SyncPage {
        rewind: Some(last.0),
        ..pb::SyncPage::default()
    }
}

/// The first page of everything there is now.
fn begin_full(engine: &dyn Engine, user: UserId, limit: usize) -> Result<pb::SyncPage, Stop> {
    let end = newest(engine, user)?;
    if end == Seq::ZERO {
        let text = format!("{user} has no timeline");
        return Err(Refusal::new(RefusalKind::NotFound, text).into());
    }
    full(engine, user, Seq::ZERO, end, limit)
}

/// One page of a full sync up to `end`. What was there at its beginning and is not seen by then has gone, or
/// comes above `end`.
fn full(
    engine: &dyn Engine,
    user: UserId,
    key: Seq,
    end: Seq,
    limit: usize,
) -> Result<pb::SyncPage, Stop> {
    let mut page = heads::page(engine, user, key, end, limit)?;
    let newest = newest(engine, user)?;
    if !page.more {
        page.key = end.0;
        page.more = newest > end;
    }
    if page.more {
        page.owed = newest.0;
    }
    page.full_to = end.0;
    Ok(page)
}

/// The number of a user's newest item; [`Seq::ZERO`] if there is none.
pub fn newest(engine: &dyn Engine, user: UserId) -> Result<Seq, EngineError> {
    heads::newest(engine, user)
}

/// Whose a name is.
pub fn find_name(engine: &dyn Engine, name: &str) -> Result<UserId, Stop> {
    // A longer name cannot have been given, and would not fit a key.
    let found = if name.is_empty() || name.len() >= Key::MAX {
        None
    } else {
        engine.get(Table::Rows, &table::name(name))?
    };
    let Some(row) = found else {
        let text = format!("nobody is called {name:?}; check the spelling");
        return Err(Refusal::new(RefusalKind::NotFound, text).into());
    };
    let id = table::number(&row).ok_or_else(|| damaged(&format!("name {name:?}")))?;
    Ok(UserId(id))
}

/// A user's account.
pub fn account(engine: &dyn Engine, user: UserId) -> Result<pb::AccountRow, Stop> {
    let row = message(engine, &table::account(user))?;
    Ok(row.ok_or_else(|| Refusal::new(RefusalKind::NotFound, format!("there is no {user}")))?)
}

/// Whether a token is good: `Ok` if the device is known, has this token, and the token has not expired.
pub fn check_token(
    engine: &dyn Engine,
    user: UserId,
    device: DeviceId,
    token_hash: &[u8],
    now_ms: i64,
) -> Result<(), Stop> {
    let row: Option<pb::DeviceRow> = message(engine, &table::device(user, device))?;
    // Comparing hashes of random tokens tells a guesser nothing by its timing.
    match row {
        Some(row) if row.token_hash == token_hash && now_ms < row.expires_ms => Ok(()),
        _ => {
            let text = "the token is unknown, expired or revoked; log in again";
            Err(Refusal::new(RefusalKind::Unauthenticated, text).into())
        }
    }
}

/// Whether a device is one of the user's: not logged out.
pub fn check_device(engine: &dyn Engine, user: UserId, device: DeviceId) -> Result<(), Stop> {
    if engine
        .get(Table::Rows, &table::device(user, device))?
        .is_some()
    {
        return Ok(());
    }
    let text = "this device was logged out; log in again";
    Err(Refusal::new(RefusalKind::Unauthenticated, text).into())
}

/// The devices of a user, oldest first, as `asking` sees them.
pub fn devices(
    engine: &dyn Engine,
    user: UserId,
    asking: DeviceId,
) -> Result<Vec<terminal::Device>, Stop> {
    let list: pb::DeviceList = message(engine, &table::devices(user))?.unwrap_or_default();
    let mut devices = Vec::with_capacity(list.device_ids.len());
    for id in list.device_ids {
        let row: Option<pb::DeviceRow> = message(engine, &table::device(user, DeviceId(id)))?;
        // Logged out between the two reads.
        let Some(row) = row else { continue };
        devices.push(terminal::Device {
            device_id: id,
            label: row.label,
            created_ms: row.created_ms,
            own: id == asking.0,
        });
    }
    Ok(devices)
}

/// A row that is a message.
pub(super) fn message<M: Message + Default>(
    engine: &dyn Engine,
    key: &Key,
) -> Result<Option<M>, EngineError> {
    let Some(row) = engine.get(Table::Rows, key)? else {
        return Ok(None);
    };
    M::decode(row)
        .map(Some)
        .map_err(|error| damaged(&format!("row {key:?}: {error}")))
}
