//! Which devices can be woken, and which are to be: push tokens and push intents.
//!
//! An intent is committed with the item that it is for, so no item arrives without one. There is one a device,
//! for its newest item; it goes when the push is delivered or given up, when the device has synced that item,
//! and with the device's token.

use std::sync::Arc;

use super::{Answer, Stop, Work, conversation};
use crate::{
    model::{DeviceId, Seq, UserId, limits::PUSH_DEVICES},
    proto::storage::{self as pb, settled_push::Outcome},
    storage::{engine::EngineError, table},
};

/// A failed push is tried again within this.
const AGAIN_MOST_MS: i64 = 3_600_000;

/// Sets where a device is reached; empty = nowhere any more.
pub(super) fn set_token(
    work: &mut Work<'_, '_>,
    user: UserId,
    device: DeviceId,
    token: &str,
) -> Result<Answer, Stop> {
    if token.is_empty() {
        keep_devices(work, user, |other| other != device)?;
        return Ok(Answer::Number(Seq::ZERO));
    }
    let mut row = tokens(work, user)?;
    row.devices.retain(|other| other.device_id != device.0);
    row.devices.push(pb::PushDevice {
        device_id: device.0,
        token: token.to_ascii_lowercase(),
        since_ms: work.home.now_ms,
    });
    if row.devices.len() > PUSH_DEVICES {
        let first = DeviceId(row.devices[0].device_id);
        keep_devices(work, user, |other| other != first)?;
        row.devices.remove(0);
    }
    put_tokens(work, user, &row);
    Ok(Answer::Number(Seq::ZERO))
}

/// Forgets the tokens, and what is pending, of devices that are not to be kept.
pub(super) fn keep_devices(
    work: &mut Work<'_, '_>,
    user: UserId,
    keep: impl Fn(DeviceId) -> bool,
) -> Result<(), EngineError> {
    let mut row = tokens(work, user)?;
    let gone: Vec<DeviceId> = row
        .devices
        .iter()
        .map(|device| DeviceId(device.device_id))
        .filter(|&device| !keep(device))
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    row.devices
        .retain(|device| !gone.contains(&DeviceId(device.device_id)));
    put_tokens(work, user, &row);
    for device in gone {
        work.draft.remove_row(&table::push(user, device));
    }
    Ok(())
}

/// The user's devices are to be woken for an item from `conversation`, unless the user does not want to be
/// told of those.
pub(super) fn intend(
    work: &mut Work<'_, '_>,
    user: UserId,
    conversation: UserId,
    number: Seq,
) -> Result<(), EngineError> {
    let devices = devices(work, user)?;
    if devices.is_empty() || conversation::is_muted(work, user, conversation)? {
        return Ok(());
    }
    for &device in &*devices {
        let key = table::push(user, device);
        let before = work.draft.message::<pb::PushRow>(&key)?;
        let mut row = before.unwrap_or_else(|| pb::PushRow {
            user_id: user.0,
            device_id: device.0,
            since_ms: work.home.now_ms,
            ..pb::PushRow::default()
        });
        row.number = number.0;
        work.draft.put_message(&key, &row);
    }
    Ok(())
}

/// Notes what became of a push. What is no longer pending needs nothing.
pub(super) fn settle(work: &mut Work<'_, '_>, settled: &pb::SettledPush) -> Result<Answer, Stop> {
    let (user, device) = (UserId(settled.user_id), DeviceId(settled.device_id));
    if let Some(Outcome::Gone(gone)) = &settled.outcome {
        let found = tokens(work, user)?.devices.into_iter().find(|known| {
            // A token that was registered since is good again.
            let older = gone.at_ms == 0 || known.since_ms <= gone.at_ms;
            known.device_id == device.0 && known.token == gone.token && older
        });
        if found.is_some() {
            keep_devices(work, user, |other| other != device)?;
            return Ok(Answer::Done);
        }
    }
    let key = table::push(user, device);
    let Some(mut row) = work.draft.message::<pb::PushRow>(&key)? else {
        return Ok(Answer::Done);
    };
    match &settled.outcome {
        Some(Outcome::AgainMs(after)) => {
            row.tries += 1;
            row.not_before_ms = work.home.now_ms + (*after).clamp(0, AGAIN_MOST_MS);
        }
        Some(Outcome::Over(_)) if row.number <= settled.number => {
            work.draft.remove_row(&key);
            return Ok(Answer::Done);
        }
        // What came meanwhile is an intent of its own; and another token may do.
        Some(Outcome::Over(_) | Outcome::Gone(_)) | None => {
            row.tries = 0;
            row.not_before_ms = 0;
            row.since_ms = work.home.now_ms;
        }
    }
    work.draft.put_message(&key, &row);
    Ok(Answer::Done)
}

fn tokens(work: &Work<'_, '_>, user: UserId) -> Result<pb::PushDevices, EngineError> {
    let row = work.draft.message(&table::push_devices(user))?;
    Ok(row.unwrap_or_default())
}

fn put_tokens(work: &mut Work<'_, '_>, user: UserId, row: &pb::PushDevices) {
    let key = table::push_devices(user);
    match row.devices.is_empty() {
        true => work.draft.remove_row(&key),
        false => work.draft.put_message(&key, row),
    }
    work.shard.warm.pushed.insert(user, ids(row));
}

/// The devices of a user that have a token.
fn devices(work: &mut Work<'_, '_>, user: UserId) -> Result<Arc<[DeviceId]>, EngineError> {
    if let Some(known) = work.shard.warm.pushed.get(&user) {
        return Ok(Arc::clone(known));
    }
    let known = ids(&tokens(work, user)?);
    work.shard.warm.pushed.insert(user, Arc::clone(&known));
    Ok(known)
}

fn ids(row: &pb::PushDevices) -> Arc<[DeviceId]> {
    row.devices
        .iter()
        .map(|device| DeviceId(device.device_id))
        .collect()
}
