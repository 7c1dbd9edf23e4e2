//! Reading: what is committed, straight from the tables.
//!
//! Reads run on the caller's own coroutine. They nearly always end in memory (memory tables, block cache),
//! where a hop to the blocking pool would cost more than the read; a cold block holds the worker for one
//! disk read, and a page is bounded in items and bytes.

use bytes::Bytes;
use prost::Message;

use super::{
    engine::{Engine, EngineError, Span, Table},
    ops::{Refusal, RefusalKind, Stop},
    shard::damaged,
    table::{self, Key},
};
use crate::{
    model::{
        DeviceId, Seq, SyncKey, UserId,
        limits::{SYNC_DEFAULT_ITEMS, SYNC_MAX_ITEMS, SYNC_PAGE_BYTES},
    },
    planted::{self, Bug},
    proto::{storage as pb, terminal},
};

/// Numbers that [`Bug::SilentSkip`] still shows.
const SKIPPED: u64 = 20;

/// The items of `user` above `key`, in number order, one page of them.
///
/// All of it is one moment's state, and nothing is ever added at or below a number that was visible, so no
/// item can hide under the key that is handed out. Of a state kind only the newest version is there.
/// `limit` 0 means the default.
pub fn sync(
    engine: &dyn Engine,
    user: UserId,
    key: SyncKey,
    limit: usize,
) -> Result<pb::SyncPage, Stop> {
    let limit = match limit {
        0 => SYNC_DEFAULT_ITEMS,
        limit => limit.min(SYNC_MAX_ITEMS),
    };
    let key = if planted::is_on(Bug::SilentSkip) {
        SyncKey(key.0.max(newest(engine, user)?.0.saturating_sub(SKIPPED)))
    } else {
        key
    };
    let mut page = pb::SyncPage {
        items: Vec::new(),
        key: key.0,
        more: false,
    };
    let mut bytes = 0;
    let Some(next) = key.0.checked_add(1) else {
        return Err(above_newest(user, key).into());
    };
    let (from, to) = (
        table::item(user, Seq(next)),
        table::item(user, Seq(u64::MAX)),
    );
    let span = Span {
        from: &from,
        to: &to,
        backwards: false,
    };
    let mut unreadable = false;
    engine.scan(Table::Timeline, span, &mut |row, item| {
        if page.items.len() == limit || bytes >= SYNC_PAGE_BYTES {
            page.more = true;
            if planted::is_on(Bug::PageCursorOffByOne) {
                page.key = table::item_number(row).map_or(page.key, |number| number.0);
            }
            return false;
        }
        let Some(number) = table::item_number(row) else {
            unreadable = true;
            return false;
        };
        page.key = number.0;
        bytes += item.len();
        page.items.push(Bytes::copy_from_slice(item));
        true
    })?;
    if unreadable {
        return Err(damaged(&format!("timeline of {user}")).into());
    }
    if page.items.is_empty() && key.0 > newest(engine, user)?.0 {
        return Err(above_newest(user, key).into());
    }
    Ok(page)
}

/// The number of a user's newest item; [`Seq::ZERO`] if there is none.
pub fn newest(engine: &dyn Engine, user: UserId) -> Result<Seq, EngineError> {
    let (from, to) = (
        table::item(user, Seq::ZERO),
        table::item(user, Seq(u64::MAX)),
    );
    let mut newest = Some(Seq::ZERO);
    engine.scan(
        Table::Timeline,
        Span {
            from: &from,
            to: &to,
            backwards: true,
        },
        &mut |key, _| {
            newest = table::item_number(key);
            false
        },
    )?;
    newest.ok_or_else(|| damaged(&format!("timeline of {user}")))
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

fn above_newest(user: UserId, key: SyncKey) -> Refusal {
    let text = format!(
        "key {} was never given to {user}; start again from key 0",
        key.0
    );
    Refusal::new(RefusalKind::FailedPrecondition, text)
}
