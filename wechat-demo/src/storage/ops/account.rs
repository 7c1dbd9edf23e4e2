//! Names, accounts, devices; how an account ends.
//!
//! Deleting an account is one commit that leaves a row with nothing but the name, so that nobody else gets it, and
//! no device. What hangs on it, groups, contacts, posts, goes in steps of bounded size: each is a task to
//! the account's own home, sent by the step before.

use super::{Answer, Refusal, RefusalKind, Stop, Work, contact, group, moments, plain_item, push};
use crate::{
    model::{DeviceId, HomeId, Seq, UserId, limits::DEVICES_PER_USER},
    proto::{
        storage::{self as pb, task::Effect},
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
    let home = u8::try_from(request.home).map(HomeId);
    let home = home.ok().filter(|&home| home <= HomeId::MAX);
    let home = home.ok_or_else(|| {
        let text = format!("there is no home {}", request.home);
        Refusal::new(RefusalKind::InvalidArgument, text)
    })?;
    let user = work.shard.give_user(work.draft, home);
    work.draft.put_row(&key, &user.0.to_be_bytes());
    let account = pb::AccountRow {
        name: request.name.clone(),
        nickname: request.nickname.clone(),
        password_hash: request.password_hash.clone(),
        created_ms: work.home.now_ms,
        ..pb::AccountRow::default()
    };
    let effect = Some(Effect::CreateAccount(account));
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
        avatar: account.avatar.clone(),
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

/// Calls the user something else or shows another picture, to the contacts too.
pub(super) fn set_profile(
    work: &mut Work<'_, '_>,
    user: UserId,
    profile: &terminal::Profile,
) -> Result<Answer, Stop> {
    let before = account(work, user)?;
    let or = |new: &Option<String>, old: &String| new.as_ref().unwrap_or(old).clone();
    let nickname = or(&profile.nickname, &before.nickname);
    let avatar = or(&profile.avatar, &before.avatar);
    if (&before.nickname, &before.avatar) == (&nickname, &avatar) {
        return Ok(Answer::Number(Seq(before.number)));
    }
    let payload = terminal::Account {
        user_id: user.0,
        name: before.name.clone(),
        nickname: nickname.clone(),
        avatar: avatar.clone(),
    };
    let version = before.version + 1;
    let gone = Some(Seq(before.number));
    let number = work.put_state(user, Kind::Account, user.0, version, gone, &payload)?;
    let row = pb::AccountRow {
        nickname,
        avatar,
        number: number.0,
        version,
        ..before
    };
    work.draft.put_message(&table::account(user), &row);
    contact::tell_all(work, user, &row)?;
    Ok(Answer::Number(number))
}

/// Ends the account. The rest follows by [`erase`].
pub(super) fn delete(
    work: &mut Work<'_, '_>,
    user: UserId,
    end: &pb::AccountEnd,
) -> Result<Answer, Stop> {
    let before = account(work, user)?;
    if before.password_hash != end.password_hash {
        return Err(changed_meanwhile().into());
    }
    let version = before.version + 1;
    let given = work.add_item(user, |number| terminal::Item {
        version,
        payload: bytes::Bytes::new(),
        deleted: true,
        ..plain_item(number, Kind::Account, user.0, &())
    })?;
    work.draft.supersede(user, Seq(before.number));
    let row = pb::AccountRow {
        name: before.name,
        number: given.number.0,
        version,
        deleted: true,
        ..pb::AccountRow::default()
    };
    work.draft.put_message(&table::account(user), &row);
    keep_devices(work, user, |_| false)?;
    go_on(work, user, pb::Erase::default());
    Ok(Answer::Number(given.number))
}

/// Effect of [`delete`], and of itself: one step, until nothing is left.
pub(super) fn erase(
    work: &mut Work<'_, '_>,
    user: UserId,
    done: pb::Erase,
) -> Result<(), EngineError> {
    // First what others could still do with the account.
    if contact::part_from_some(work, user)? {
        go_on(work, user, done);
    } else if let Some(group_id) = group::leave_some(work, user, done.group_id)? {
        go_on(work, user, pb::Erase { group_id, ..done });
    } else if let Some(post_id) = moments::take_some_down(work, user, done.post_id)? {
        go_on(work, user, pb::Erase { post_id, ..done });
    }
    Ok(())
}

fn go_on(work: &mut Work<'_, '_>, user: UserId, erase: pb::Erase) {
    work.add_task(&pb::Task {
        user_id: user.0,
        effect: Some(Effect::Erase(erase)),
    });
}

/// Nothing is changed of an account that is deleted.
pub(super) fn check_there(work: &Work<'_, '_>, user: UserId) -> Result<(), Stop> {
    match has_ended(work, user)? {
        true => Err(no_account(user).into()),
        false => Ok(()),
    }
}

/// Whether the user has deleted the account.
pub(super) fn has_ended(work: &Work<'_, '_>, user: UserId) -> Result<bool, EngineError> {
    let row: Option<pb::AccountRow> = work.draft.message(&table::account(user))?;
    Ok(row.is_some_and(|row| row.deleted))
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
        return Err(changed_meanwhile().into());
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
    let row: Option<pb::AccountRow> = work.draft.message(&table::account(user))?;
    let there = row.filter(|row| !row.deleted);
    Ok(there.ok_or_else(|| no_account(user))?)
}

fn no_account(user: UserId) -> Refusal {
    Refusal::new(RefusalKind::NotFound, format!("there is no {user}"))
}

fn changed_meanwhile() -> Refusal {
    let text = "the password was changed by another device a moment ago; log in again";
    Refusal::new(RefusalKind::FailedPrecondition, text)
}

fn devices(work: &Work<'_, '_>, user: UserId) -> Result<pb::DeviceList, EngineError> {
    Ok(work
        .draft
        .message(&table::devices(user))?
        .unwrap_or_default())
}
