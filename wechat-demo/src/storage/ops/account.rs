//! Names, accounts, devices.

use super::{Answer, Refusal, RefusalKind, Stop, Work, contact, plain_item, push};
use crate::{
    model::{DeviceId, Seq, UserId, limits::DEVICES_PER_USER},
    proto::{
        storage as pb,
        terminal::{self, Kind},
    },
    storage::{engine::EngineError, shard::damaged, table},
};

/// Gives the name to a new user, whose account its home makes. Names are decided here and nowhere else.
pub(super) fn claim_name(
    work: &mut Work<'_, '_>,
    request: &pb::ClaimNameRequest,
) -> Result<Answer, Stop> {
    let key = table::name(&request.name);
    if let Some(row) = work.draft.row(&key)? {
        let user_id = table::number(&row).ok_or_else(|| damaged("a name's row"))?;
        return Ok(Answer::Claimed(pb::ClaimNameReply {
            user_id,
            taken: true,
        }));
    }
    let user = work.shard.give_user(work.draft);
    work.draft.put_row(&key, &user.0.to_be_bytes());
    let account = pb::AccountRow {
        name: request.name.clone(),
        nickname: request.nickname.clone(),
        password_hash: request.password_hash.clone(),
        created_ms: work.home.now_ms,
        ..pb::AccountRow::default()
    };
    let effect = Some(pb::task::Effect::CreateAccount(account));
    work.add_task(&pb::Task {
        user_id: user.0,
        effect,
    });
    Ok(Answer::Claimed(pb::ClaimNameReply {
        user_id: user.0,
        taken: false,
    }))
}

/// What the name's task does too; whoever comes first makes the account.
pub(super) fn create(
    work: &mut Work<'_, '_>,
    request: &pb::CreateAccountRequest,
) -> Result<Answer, Stop> {
    let Some(account) = &request.account else {
        return Err(Refusal::new(RefusalKind::InvalidArgument, "an account is missing").into());
    };
    Ok(Answer::Number(ensure(
        work,
        UserId(request.user_id),
        account,
    )?))
}

/// Makes the account unless it is there; the number of its item.
pub(super) fn ensure(
    work: &mut Work<'_, '_>,
    user: UserId,
    account: &pb::AccountRow,
) -> Result<Seq, EngineError> {
    let key = table::account(user);
    if let Some(there) = work.draft.message::<pb::AccountRow>(&key)? {
        return Ok(Seq(there.number));
    }
    let payload = terminal::Account {
        user_id: user.0,
        name: account.name.clone(),
        nickname: account.nickname.clone(),
    };
    let given = work.add_item(user, |number| {
        plain_item(number, Kind::Account, user.0, &payload)
    })?;
    let row = pb::AccountRow {
        number: given.number.0,
        version: 1,
        ..account.clone()
    };
    work.draft.put_message(&key, &row);
    Ok(given.number)
}

/// Makes a device known. The oldest goes when there are too many.
pub(super) fn add_device(
    work: &mut Work<'_, '_>,
    request: &pb::AddDeviceRequest,
) -> Result<Answer, Stop> {
    let user = UserId(request.user_id);
    let Some(device) = &request.device else {
        return Err(Refusal::new(RefusalKind::InvalidArgument, "a device is missing").into());
    };
    account(work, user)?;
    let mut list = devices(work, user)?;
    list.device_ids.retain(|&id| id != request.device_id);
    list.device_ids.push(request.device_id);
    while list.device_ids.len() > DEVICES_PER_USER {
        let oldest = DeviceId(list.device_ids.remove(0));
        work.draft.remove_row(&table::device(user, oldest));
        push::keep_devices(work, user, |device| device != oldest)?;
    }
    work.draft.put_message(&table::devices(user), &list);
    work.draft
        .put_message(&table::device(user, DeviceId(request.device_id)), device);
    Ok(Answer::Done)
}

/// Forgets a device; its token is good no longer.
pub(super) fn remove_device(
    work: &mut Work<'_, '_>,
    request: &pb::RemoveDeviceRequest,
) -> Result<Answer, Stop> {
    let device = DeviceId(request.device_id);
    keep_devices(work, UserId(request.user_id), |other| other != device)?;
    Ok(Answer::Done)
}

/// Calls the user something else, to the contacts too.
pub(super) fn set_profile(
    work: &mut Work<'_, '_>,
    user: UserId,
    profile: &terminal::Profile,
) -> Result<Answer, Stop> {
    let before = account(work, user)?;
    if before.nickname == profile.nickname {
        return Ok(Answer::Number(Seq(before.number)));
    }
    let payload = terminal::Account {
        user_id: user.0,
        name: before.name.clone(),
        nickname: profile.nickname.clone(),
    };
    let version = before.version + 1;
    let gone = Some(Seq(before.number));
    let number = work.put_state(user, Kind::Account, user.0, version, gone, &payload)?;
    let row = pb::AccountRow {
        nickname: profile.nickname.clone(),
        number: number.0,
        version,
        ..before
    };
    work.draft.put_message(&table::account(user), &row);
    contact::tell_all(work, user, &profile.nickname)?;
    Ok(Answer::Number(number))
}

/// Changes the password and logs every device out but the one that asks.
pub(super) fn set_password(
    work: &mut Work<'_, '_>,
    user: UserId,
    kept: DeviceId,
    change: &pb::PasswordChange,
) -> Result<Answer, Stop> {
    let before = account(work, user)?;
    if before.password_hash != change.old_hash {
        let text = "the password was changed by another device a moment ago; log in again";
        return Err(Refusal::new(RefusalKind::FailedPrecondition, text).into());
    }
    let row = pb::AccountRow {
        password_hash: change.new_hash.clone(),
        ..before
    };
    work.draft.put_message(&table::account(user), &row);
    keep_devices(work, user, |device| device == kept)?;
    Ok(Answer::Number(Seq::ZERO))
}

/// Logs one device out. One that is not there is out already.
pub(super) fn log_out(
    work: &mut Work<'_, '_>,
    user: UserId,
    device: DeviceId,
) -> Result<Answer, Stop> {
    keep_devices(work, user, |other| other != device)?;
    Ok(Answer::Number(Seq::ZERO))
}

/// Forgets the devices that are not to be kept; their tokens are good no longer.
fn keep_devices(
    work: &mut Work<'_, '_>,
    user: UserId,
    keep: impl Fn(DeviceId) -> bool,
) -> Result<(), EngineError> {
    let mut list = devices(work, user)?;
    let before = list.device_ids.len();
    list.device_ids.retain(|&id| {
        let kept = keep(DeviceId(id));
        if !kept {
            work.draft.remove_row(&table::device(user, DeviceId(id)));
        }
        kept
    });
    if list.device_ids.len() != before {
        work.draft.put_message(&table::devices(user), &list);
        push::keep_devices(work, user, keep)?;
    }
    Ok(())
}

/// The account of a user of this shard.
pub(super) fn account(work: &Work<'_, '_>, user: UserId) -> Result<pb::AccountRow, Stop> {
    let row = work.draft.message(&table::account(user))?;
    Ok(row.ok_or_else(|| Refusal::new(RefusalKind::NotFound, format!("there is no {user}")))?)
}

fn devices(work: &Work<'_, '_>, user: UserId) -> Result<pb::DeviceList, EngineError> {
    Ok(work
        .draft
        .message(&table::devices(user))?
        .unwrap_or_default())
}
