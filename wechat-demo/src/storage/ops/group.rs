//! Groups: the truth at the group's home, a copy at every shard that has members.
//!
//! ```text
//!  a member's home            the group's home                 every shard with members
//!  change, send, amend ─────▶ checks, gives positions ───────▶ its members' items, one task for all of them
//! ```
//! The stream from the group's home to a shard carries messages and the roster alike, so a shard's copy of
//! the roster is the one that was true at the message: who is not in it gets no item (membership bounds).
//! The sender's own copy stands without a position until it comes back from the group's home. A group above
//! [`GROUP_COPIED`] members is stored once from then on ([`once`]): what goes to a shard is then which row of the
//! group's log is new, and of the roster those who live there.
//!
//! Invariants
//! - G-1  Positions and the roster's versions are given by the group's home alone.
//! - G-2  A shard resolves its own members, from its copy of the roster.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::{
    Answer, Once, Refusal, RefusalKind, Stop, Work, account, amend, contact, message, once, push,
    roster,
};
use crate::{
    model::{
        Pos, Seq, Site, UserId,
        limits::{ERASED_GROUPS, GROUP_COPIED},
    },
    proto::{
        storage::{self as pb, spread::What, task::Effect},
        terminal::{self, GroupChange, Kind, group_change},
    },
    storage::{engine::EngineError, shard::damaged, table},
};

/// Makes a group of the user and some contacts. Asked again under the same client id, it is the same group.
pub(super) fn create(
    work: &mut Work<'_, '_>,
    user: UserId,
    request: &terminal::CreateGroup,
) -> Result<Answer, Stop> {
    let once = match work.once(user, &request.client_id, "group", request)? {
        Once::Before(row) => return Ok(made(row.message_id)),
        Once::New(once) => once,
    };
    friends(work, user, &request.members)?;
    let group = work.shard.give_group(work.draft, work.home);
    once.done(work, group.0, Seq::ZERO);
    let make = pb::MakeGroup {
        owner: user.0,
        name: request.name.clone(),
        others: request.members.clone(),
    };
    work.add_task(&pb::Task {
        user_id: group.0,
        effect: Some(Effect::MakeGroup(make)),
    });
    Ok(made(group.0))
}

/// Asks the group's home for a change. What the copy here says is refused at once; what the truth there says
/// comes back as a refused item.
pub(super) fn change(
    work: &mut Work<'_, '_>,
    user: UserId,
    change: &GroupChange,
) -> Result<Answer, Stop> {
    let group = UserId(change.group_id);
    if !group.is_group() {
        return Err(invalid("give a group's id").into());
    }
    if let Some(group_change::What::Invite(invited)) = &change.what {
        friends(work, user, &invited.user_ids)?;
    }
    let joins = matches!(change.what, Some(group_change::What::Join(_)));
    match copy(work, group)? {
        // Only the group's home knows whether it is open.
        _ if joins => {}
        None => return Err(not_a_member().into()),
        Some(copy) if copy.stored_once => {
            // The copy does not name all whom a change may be about.
            let known = copy.members.contains(&user.0);
            known.then_some(()).ok_or_else(not_a_member)?;
        }
        Some(mut copy) => {
            let roster = copy.group.get_or_insert_default();
            roster::apply(roster, user.0, change, 0)
                .map_err(|why| Refusal::new(RefusalKind::PermissionDenied, why))?;
        }
    }
    let request_id = work.shard.give_message(work.draft, work.home).0;
    let change = pb::ChangeGroup {
        by: user.0,
        request_id,
        change: Some(change.clone()),
    };
    work.add_task(&pb::Task {
        user_id: group.0,
        effect: Some(Effect::ChangeGroup(change)),
    });
    Ok(Answer::Number(Seq::ZERO))
}

/// Leaves some groups of who has deleted the account: those that come after `after` in the order of ids. The last one
/// that was looked at, `None` if there was none left.
pub(super) fn leave_some(
    work: &mut Work<'_, '_>,
    user: UserId,
    after: u64,
) -> Result<Option<u64>, EngineError> {
    let held = |id| table::held(user, Kind::Group.into(), id);
    let (from, to) = (held(after + 1), held(u64::MAX));
    let ids = work.first_ids(&from, &to, ERASED_GROUPS)?;
    for &group_id in &ids {
        let copy = copy(work, UserId(group_id))?;
        if !copy.is_some_and(|copy| copy.members.contains(&user.0)) {
            continue;
        }
        leave(work, user, group_id);
    }
    Ok(ids.last().copied())
}

fn leave(work: &mut Work<'_, '_>, user: UserId, group_id: u64) {
    let leave = GroupChange {
        group_id,
        what: Some(group_change::What::Leave(true)),
    };
    let change = pb::ChangeGroup {
        by: user.0,
        request_id: work.shard.give_message(work.draft, work.home).0,
        change: Some(leave),
    };
    work.add_task(&pb::Task {
        user_id: group_id,
        effect: Some(Effect::ChangeGroup(change)),
    });
}

/// Whether `user` is a member, as far as this shard knows.
pub(super) fn check_member(
    work: &Work<'_, '_>,
    group: UserId,
    user: UserId,
) -> Result<pb::GroupCopyRow, Stop> {
    match copy(work, group)? {
        Some(copy) if copy.members.contains(&user.0) => Ok(copy),
        _ => Err(not_a_member().into()),
    }
}

/// Asks the group's home for a change of a message that is in the group's log alone.
pub(super) fn amend(
    work: &mut Work<'_, '_>,
    user: UserId,
    group: UserId,
    message_id: u64,
    what: pb::amend::What,
) -> Result<Answer, Stop> {
    if !check_member(work, group, user)?.stored_once {
        return Err(amend::no_such(message_id).into());
    }
    let request_id = work.shard.give_message(work.draft, work.home).0;
    let amend = pb::Amend {
        from: user.0,
        message_id,
        what: Some(what),
        request_id,
    };
    work.add_task(&pb::Task {
        user_id: group.0,
        effect: Some(Effect::Amend(amend)),
    });
    Ok(Answer::Number(Seq::ZERO))
}

/// How far this shard has heard of a group.
pub(super) fn seen(work: &Work<'_, '_>, group: UserId) -> Result<pb::GroupSeenRow, EngineError> {
    let row = work
        .draft
        .message(&table::group_seen(work.shard.id, group))?;
    Ok(row.unwrap_or_default())
}

// ---- At the group's home. ----

/// Effect of [`create`].
pub(super) fn make(
    work: &mut Work<'_, '_>,
    group: UserId,
    make: &pb::MakeGroup,
) -> Result<(), EngineError> {
    if work.draft.row(&table::group(group))?.is_some() {
        return Ok(());
    }
    let roster = roster::new(group.0, make.owner, &make.name, &make.others);
    let row = pb::GroupRow {
        group: Some(roster),
        version: 1,
        stored_once: false,
    };
    work.draft.put_message(&table::group(group), &row);
    let shards = shards(work, &row);
    spread_roster(work, group, row, 0, shards)
}

/// Effect of [`change`].
pub(super) fn changed(
    work: &mut Work<'_, '_>,
    group: UserId,
    change: &pb::ChangeGroup,
) -> Result<(), EngineError> {
    let asked = change.change.clone().unwrap_or_default();
    let Some(mut row) = home(work, group)? else {
        let why = "there is no such group";
        refuse(work, group, change.by, change.request_id, why);
        return Ok(());
    };
    let mut to = shards(work, &row);
    let at = next_position(work, group)?;
    let mut roster = row.group.take().unwrap_or_default();
    match roster::apply(&mut roster, change.by, &asked, at) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(why) => {
            refuse(work, group, change.by, change.request_id, why);
            return Ok(());
        }
    }
    row = pb::GroupRow {
        stored_once: row.stored_once || roster.members.len() > GROUP_COPIED,
        group: Some(roster),
        version: row.version + 1,
    };
    work.draft.put_message(&table::group(group), &row);
    set_count(work, group, at);
    to.extend(shards(work, &row));
    to.sort_unstable();
    to.dedup();
    spread_roster(work, group, row, at, to)
}

/// A member's message: gets its position and goes to every member.
pub(super) fn sent(
    work: &mut Work<'_, '_>,
    group: UserId,
    sent: pb::GroupSend,
) -> Result<(), EngineError> {
    let message = terminal::Message::decode(sent.message.clone())
        .map_err(|error| damaged(&format!("a message to a group: {error}")))?;
    let sender = UserId(message.sender);
    let Some(row) = home(work, group)?.filter(|row| is_member(row, sender.0)) else {
        message::refuse(
            work,
            sender,
            group,
            message,
            "you are not a member of the group",
        );
        return Ok(());
    };
    if once::holds(work, group, message.message_id)? {
        // It came before, by a stream of an earlier incarnation.
        return Ok(());
    }
    let pos = Pos {
        count: next_position(work, group)?,
        sender: sender.0,
    };
    set_count(work, group, pos.count);
    let to = shards(work, &row);
    if row.stored_once {
        let id = message.message_id;
        let added = once::add_message(work, group, id, pos, sent.message)?;
        let logged = pb::Logged {
            number: added.number.0,
            count: pos.count,
            message_id: id,
            sender: sender.0,
            row: None,
        };
        spread_row(work, group, to, logged, added.copy);
        return Ok(());
    }
    let deliver = pb::Deliver {
        message_id: message.message_id,
        pos: Some(pos.into()),
        message: sent.message,
    };
    spread(work, group, to, What::Deliver(deliver));
    Ok(())
}

/// What a member did to a message.
pub(super) fn amended(
    work: &mut Work<'_, '_>,
    group: UserId,
    amend: pb::Amend,
) -> Result<(), EngineError> {
    let row = home(work, group)?.unwrap_or_default();
    let roster = row.group.as_ref();
    let Some(member) = roster.and_then(|roster| roster::member(roster, amend.from)) else {
        return Ok(());
    };
    let since = member.joined;
    let to = shards(work, &row);
    if !once::holds(work, group, amend.message_id)? {
        // It was sent before the group was stored once, and each has a copy.
        spread(work, group, to, What::Amend(amend));
        return Ok(());
    }
    match once::amend(work, group, since, &amend)? {
        Ok(None) => {}
        Ok(Some(added)) => {
            let logged = pb::Logged {
                number: added.number.0,
                count: count(work, group)?,
                message_id: amend.message_id,
                sender: 0,
                row: None,
            };
            spread_row(work, group, to, logged, added.copy);
        }
        Err(why) => refuse(work, group, amend.from, amend.request_id, why),
    }
    Ok(())
}

// ---- At a shard with members. ----

/// Effect of what the group's home sends to a shard.
pub(super) fn arrived(
    work: &mut Work<'_, '_>,
    group: UserId,
    spread: pb::Spread,
) -> Result<(), EngineError> {
    match spread.what {
        Some(What::Roster(roster)) => take_roster(work, group, roster),
        Some(What::Deliver(deliver)) => take_message(work, group, &deliver),
        Some(What::Logged(logged)) => take_logged(work, group, &logged),
        Some(What::Amend(amend)) => {
            let members = copy(work, group)?.unwrap_or_default().members;
            for user in members.into_iter().filter(|&user| user != amend.from) {
                amend::take(work, UserId(user), &amend)?;
            }
            Ok(())
        }
        None => Err(damaged("a spread task without a content")),
    }
}

fn take_roster(work: &mut Work<'_, '_>, group: UserId, row: pb::Roster) -> Result<(), EngineError> {
    let before = copy(work, group)?.unwrap_or_default();
    if row.version <= before.version {
        return Ok(());
    }
    once::take(work, group, row.number, row.row.as_ref());
    let roster = row.group.clone().unwrap_or_default();
    let here = work.site();
    let members: Vec<u64> = roster
        .members
        .iter()
        .map(|member| member.user_id)
        .filter(|&user| work.home.place.site(UserId(user)) == here)
        .collect();
    let seen = seen(work, group)?;
    let stored_once = row.number != 0;
    if !stored_once {
        for &user in &members {
            put_item(work, UserId(user), row.version, &roster)?;
        }
    }
    for &user in &members {
        // Who was brought in while the account ended is not among those that its end has left.
        let new = before.members.binary_search(&user).is_err();
        if new && account::has_ended(work, UserId(user))? {
            leave(work, UserId(user), group.0);
        }
    }
    let left = terminal::Group {
        group_id: group.0,
        name: roster.name.clone(),
        left: true,
        ..terminal::Group::default()
    };
    let is_member = |user: &u64| members.binary_search(user).is_ok();
    for &user in before.members.iter().filter(|user| !is_member(user)) {
        once::leave(work, UserId(user), group, row.count, seen.number)?;
        put_item(work, UserId(user), row.version, &left)?;
    }
    if stored_once {
        for member in &roster.members {
            let user = UserId(member.user_id);
            once::join(work, user, group, member.joined)?;
            once::advance(work, user, group, seen.number, row.number)?;
        }
    }
    let copy = pb::GroupCopyRow {
        version: row.version,
        // Nothing is kept about a group whose members all live elsewhere, but that version.
        group: (!members.is_empty()).then_some(roster),
        members,
        stored_once,
    };
    work.draft
        .put_message(&table::group_copy(work.shard.id, group), &copy);
    note_seen(work, group, &seen, row.count, row.number);
    Ok(())
}

/// The next version of a member's item of the group.
fn put_item(
    work: &mut Work<'_, '_>,
    user: UserId,
    version: u64,
    payload: &terminal::Group,
) -> Result<(), EngineError> {
    let held = table::held(user, Kind::Group.into(), payload.group_id);
    let before = match work.draft.row(&held)? {
        None => None,
        Some(row) => Some(Seq(
            table::number(&row).ok_or_else(|| damaged("a group item's number"))?
        )),
    };
    let id = payload.group_id;
    let number = work.put_state(user, Kind::Group, id, version, before, payload)?;
    work.draft.put_row(&held, &number.0.to_be_bytes());
    Ok(())
}

fn take_message(
    work: &mut Work<'_, '_>,
    group: UserId,
    deliver: &pb::Deliver,
) -> Result<(), EngineError> {
    let Some(copy) = copy(work, group)? else {
        return Ok(());
    };
    let pos: Pos = deliver.pos.unwrap_or_default().into();
    for &user in &copy.members {
        let user = UserId(user);
        if user.0 == pos.sender {
            amend::place(work, user, deliver.message_id, pos)?;
        } else {
            message::add(work, user, group, pos, deliver)?;
        }
    }
    let seen = seen(work, group)?;
    note_seen(work, group, &seen, pos.count, 0);
    Ok(())
}

/// A row of the group's log: the next number of every member here.
fn take_logged(
    work: &mut Work<'_, '_>,
    group: UserId,
    logged: &pb::Logged,
) -> Result<(), EngineError> {
    let seen = seen(work, group)?;
    if logged.number <= seen.number {
        return Ok(());
    }
    once::take(work, group, logged.number, logged.row.as_ref());
    for user in copy(work, group)?.unwrap_or_default().members {
        let user = UserId(user);
        let own = user.0 == logged.sender;
        if own {
            once::drop_own(work, user, logged.message_id)?;
        }
        let number = once::advance(work, user, group, seen.number, logged.number)?;
        if !own && logged.sender != 0 {
            push::intend(work, user, group, number)?;
        }
    }
    note_seen(work, group, &seen, logged.count, logged.number);
    Ok(())
}

fn note_seen(
    work: &mut Work<'_, '_>,
    group: UserId,
    before: &pb::GroupSeenRow,
    count: u64,
    number: u64,
) {
    let row = pb::GroupSeenRow {
        count: count.max(before.count),
        number: number.max(before.number),
    };
    work.draft
        .put_message(&table::group_seen(work.shard.id, group), &row);
}

// ---- Both. ----

/// Tells the shards `to` of the roster as it is since position `count`.
fn spread_roster(
    work: &mut Work<'_, '_>,
    group: UserId,
    row: pb::GroupRow,
    count: u64,
    to: Vec<Site>,
) -> Result<(), EngineError> {
    let mut roster = pb::Roster {
        group: row.group,
        version: row.version,
        count,
        number: 0,
        row: None,
    };
    if !row.stored_once {
        spread(work, group, to, What::Roster(roster));
        return Ok(());
    }
    let head = roster.group.get_or_insert_default();
    head.size = head.members.len() as u32;
    let mut by_home: BTreeMap<Site, Vec<terminal::Member>> =
        to.into_iter().map(|shard| (shard, Vec::new())).collect();
    for member in std::mem::take(&mut head.members) {
        let home = work.home.place.site(UserId(member.user_id));
        by_home.entry(home).or_default().push(member);
    }
    let added = once::add_roster(work, row.version, count, head)?;
    roster.number = added.number.0;
    for (shard, members) in by_home {
        roster.group.get_or_insert_default().members = members;
        roster.row = (shard.home != work.home.id).then(|| added.copy.clone());
        spread(work, group, vec![shard], What::Roster(roster.clone()));
    }
    Ok(())
}

/// Tells the shards `to` of a row of the group's log; those of other homes get the row.
fn spread_row(
    work: &mut Work<'_, '_>,
    group: UserId,
    to: Vec<Site>,
    logged: pb::Logged,
    copy: pb::LogCopy,
) {
    let own = work.home.id;
    let (here, elsewhere) = to.into_iter().partition(|site| site.home == own);
    let copied = pb::Logged {
        row: Some(copy),
        ..logged.clone()
    };
    spread(work, group, here, What::Logged(logged));
    spread(work, group, elsewhere, What::Logged(copied));
}

fn spread(work: &mut Work<'_, '_>, group: UserId, to: Vec<Site>, what: What) {
    let task = pb::Task {
        user_id: group.0,
        effect: Some(Effect::Spread(pb::Spread { what: Some(what) })),
    };
    let task = Bytes::from(task.encode_to_vec());
    for shard in to {
        work.draft
            .add_task(work.shard, work.home, shard, task.clone());
    }
}

/// The shards that have members, each once.
fn shards(work: &Work<'_, '_>, row: &pb::GroupRow) -> Vec<Site> {
    let members = row.group.iter().flat_map(|group| &group.members);
    let mut shards: Vec<Site> = members
        .map(|member| work.home.place.site(UserId(member.user_id)))
        .collect();
    shards.sort_unstable();
    shards.dedup();
    shards
}

fn is_member(row: &pb::GroupRow, user: u64) -> bool {
    let group = row.group.as_ref();
    group.is_some_and(|group| roster::role(group, user).is_some())
}

/// Tells whoever asked for something that it was not done; nobody where the request has no id.
fn refuse(work: &mut Work<'_, '_>, group: UserId, by: u64, request_id: u64, why: &str) {
    if request_id == 0 {
        return;
    }
    let refused = terminal::Refused {
        message_id: request_id,
        receiver: group.0,
        reason: why.to_owned(),
        ..terminal::Refused::default()
    };
    work.refuse(UserId(by), refused);
}

/// The last position given.
fn count(work: &Work<'_, '_>, group: UserId) -> Result<u64, EngineError> {
    match work.draft.row(&table::group_count(group))? {
        None => Ok(0),
        Some(row) => table::number(&row).ok_or_else(|| damaged("a group's count")),
    }
}

fn next_position(work: &Work<'_, '_>, group: UserId) -> Result<u64, EngineError> {
    let last = count(work, group)?;
    Ok(message::next_position(work.home.incarnation, last))
}

fn set_count(work: &mut Work<'_, '_>, group: UserId, count: u64) {
    let key = table::group_count(group);
    work.draft.put_row(&key, &count.to_be_bytes());
}

fn home(work: &Work<'_, '_>, group: UserId) -> Result<Option<pb::GroupRow>, EngineError> {
    work.draft.message(&table::group(group))
}

fn copy(work: &Work<'_, '_>, group: UserId) -> Result<Option<pb::GroupCopyRow>, EngineError> {
    work.draft.message(&table::group_copy(work.shard.id, group))
}

/// Only contacts are brought into a group.
fn friends(work: &mut Work<'_, '_>, user: UserId, others: &[u64]) -> Result<(), Stop> {
    for &other in others {
        if !contact::takes_from(work, user, UserId(other))? {
            let text = format!(
                "{} is not a contact of yours; ask them first",
                UserId(other)
            );
            return Err(Refusal::new(RefusalKind::FailedPrecondition, text).into());
        }
    }
    Ok(())
}

fn made(id: u64) -> Answer {
    let number = Seq::ZERO;
    Answer::Made { id, number }
}

fn not_a_member() -> Refusal {
    let text = "you are not a member of the group";
    Refusal::new(RefusalKind::PermissionDenied, text)
}

fn invalid(text: &str) -> Refusal {
    Refusal::new(RefusalKind::InvalidArgument, text)
}
