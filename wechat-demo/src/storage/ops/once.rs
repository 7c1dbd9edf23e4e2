//! A group that is stored once: its log at the group's home, and heads in its members' timelines.
//!
//! ```text
//!  the group's log   … 101   102   103   104               rows of the group's own timeline
//!                           └───────┬───────┘
//!  a member's        … 11 │  12    13    14  │ 15 …        the head at 12 stands for (101, 104]: row 102 is item 12,
//!  timeline                                                103 is 13, 104 is 14
//! ```
//! Nothing is copied within a home: a row of the log gives every member the next number of theirs. A *head*, the item at the first of
//! a run of such numbers, says which rows they are; readers put the rows in its place
//! ([`heads`](crate::storage::heads)). While the group is the newest thing in a member's timeline nothing is
//! written for that member at all, else one head.
//!
//! Members at other homes read a copy of the log that their home keeps: each row comes with the word that it is there.
//!
//! Knows: rows, heads, memberships.   Does not know: who may change what, who is told.
//!
//! Invariants
//! - O-1  The n-th number from a head on is the n-th row after its `from`. A run ends where a number or a row does not
//!   follow directly, and the next row opens a new head. So a number is one row for ever, whoever dies: nothing
//!   rests on memory, and no key that was handed out has to be remembered.
//! - O-2  A head reaches to where the group's next one begins or the member left; the newest one, which is open, to the
//!   last row that the member's shard has heard of. That moves in the commit that gives the numbers.
//! - O-3  A row is never changed. Each version of a message or of the roster's head is a row of its own; who reads
//!   several in one page gets the last. A recall removes the rows before it.
//! - O-4  A member reads the rows whose positions lie within their memberships.
//! - O-5  A group turns with its member number [`GROUP_COPIED`](crate::model::limits::GROUP_COPIED) + 1 and not back. What
//!   was sent before stays where it was copied to.
//! - O-6  A shard writes a row of another home's log in the commit in which it hears of it, and removes what the word says
//!   is gone. Shards of one home do so to the same rows, each in the log's order: what comes last is the same for all.

use bytes::Bytes;
use prost::Message;

use super::{Work, amend};
use crate::{
    model::{Pos, Seq, UserId, limits::GROUP_MEMBERSHIPS},
    proto::{
        storage::{self as pb, amend::What},
        terminal::{self, Item, Kind},
    },
    storage::{engine::EngineError, heads, shard::damaged, table},
};

/// Version of a message's first row: above any that the sender's own copy had before it had its place.
const PLACED: u64 = 1 << 16;
/// Rows that are kept of one message or roster: the first, and the newest.
const VERSIONS: usize = 64;

// ---- At the group's home: the log. ----

/// A row that was added to a log.
pub(super) struct Added {
    /// Its number.
    pub(super) number: Seq,
    /// What a home that copies the log has to do.
    pub(super) copy: pb::LogCopy,
}

/// Adds a message.
pub(super) fn add_message(
    work: &mut Work<'_, '_>,
    group: UserId,
    message_id: u64,
    pos: Pos,
    message: Bytes,
) -> Result<Added, EngineError> {
    let item = Item {
        kind: Kind::Message.into(),
        id: message_id,
        version: PLACED,
        pos: Some(pos.into()),
        payload: message,
        ..Item::default()
    };
    append(work, group, item)
}

/// Adds what all members see of the roster as it is since position `count`.
pub(super) fn add_roster(
    work: &mut Work<'_, '_>,
    version: u64,
    count: u64,
    roster: &terminal::Group,
) -> Result<Added, EngineError> {
    let pos = Pos { count, sender: 0 };
    let item = Item {
        kind: Kind::Group.into(),
        id: roster.group_id,
        version,
        pos: Some(pos.into()),
        payload: roster.encode_to_vec().into(),
        ..Item::default()
    };
    append(work, UserId(roster.group_id), item)
}

/// Whether a message is in the log.
pub(super) fn holds(
    work: &Work<'_, '_>,
    group: UserId,
    message_id: u64,
) -> Result<bool, EngineError> {
    let held = table::held(group, Kind::Message.into(), message_id);
    Ok(work.draft.row(&held)?.is_some())
}

/// Makes a change of a member's, who reads from position `since` on, to a message in the log: the new row, `None` if it
/// is so already, or why not.
pub(super) fn amend(
    work: &mut Work<'_, '_>,
    group: UserId,
    since: u64,
    amend: &pb::Amend,
) -> Result<Result<Option<Added>, &'static str>, EngineError> {
    let held = table::held(group, Kind::Message.into(), amend.message_id);
    let last = rows(work, &held)?.last().copied().unwrap_or(0);
    let item = work.draft.item(group, Seq(last))?;
    let item = item.ok_or_else(|| damaged(&format!("the log of {group} lacks row {last}")))?;
    let unreadable = |error: prost::DecodeError| damaged(&format!("a row of {group}: {error}"));
    let item = Item::decode(item).map_err(unreadable)?;
    let mut message = terminal::Message::decode(item.payload.clone()).map_err(unreadable)?;
    if item.pos.is_none_or(|pos| pos.count < since) {
        return Ok(Err("there is no such message for you"));
    }
    let what = match amend.what.clone() {
        None => return Err(damaged("an amendment without a change")),
        Some(What::Reaction(sign)) => What::Reaction(sign),
        Some(_) if message.sender != amend.from => {
            return Ok(Err("only who sent a message can edit or recall it"));
        }
        Some(What::Edited(edited)) if edited.text == message.text => return Ok(Ok(None)),
        Some(What::Edited(edited)) => What::Edited(pb::Edited {
            edits: message.edits + 1,
            ..edited
        }),
        Some(What::Recalled(recalled)) => What::Recalled(recalled),
    };
    if message.recalled && !matches!(what, What::Recalled(_)) {
        return Ok(Err("the message was recalled"));
    }
    if !amend::apply(&mut message, UserId(amend.from), &what) {
        return Ok(Ok(None));
    }
    let mut gone = Vec::new();
    if message.recalled {
        gone = rows(work, &held)?;
        for &row in &gone {
            work.draft.supersede(group, Seq(row));
        }
        work.draft.remove_row(&held);
    }
    let item = Item {
        version: item.version + 1,
        payload: message.encode_to_vec().into(),
        ..item
    };
    let mut added = append(work, group, item)?;
    added.copy.gone.extend(gone);
    Ok(Ok(Some(added)))
}

fn append(work: &mut Work<'_, '_>, group: UserId, mut item: Item) -> Result<Added, EngineError> {
    let held = table::held(group, item.kind, item.id);
    let given = work.shard.give_number(work.draft, work.home, group)?;
    item.number = given.number.0;
    let mut copy = pb::LogCopy {
        item: item.encode_to_vec().into(),
        gone: Vec::new(),
    };
    work.draft.add_item(group, given, copy.item.clone());
    let mut rows = rows(work, &held)?;
    rows.push(given.number.0);
    if rows.len() > VERSIONS {
        let row = rows.remove(1);
        work.draft.supersede(group, Seq(row));
        copy.gone.push(row);
    }
    let row: Vec<u8> = rows.iter().flat_map(|row| row.to_be_bytes()).collect();
    work.draft.put_row(&held, &row);
    let number = given.number;
    Ok(Added { number, copy })
}

/// The rows that there are of something, oldest first.
fn rows(work: &Work<'_, '_>, held: &table::Key) -> Result<Vec<u64>, EngineError> {
    let row = work.draft.row(held)?.unwrap_or_default();
    let rows = row.chunks(8).map(table::number).collect::<Option<_>>();
    rows.ok_or_else(|| damaged("the list of a message's rows"))
}

// ---- At a member's home: the log of another home's group, and heads. ----

/// Takes over what has changed in the log.
pub(super) fn take(
    work: &mut Work<'_, '_>,
    group: UserId,
    number: u64,
    copy: Option<&pb::LogCopy>,
) {
    let Some(copy) = copy else { return };
    work.draft.place_item(group, Seq(number), &copy.item);
    for &row in &copy.gone {
        work.draft.supersede(group, Seq(row));
    }
}

/// Gives `user` the next number for row `row` of the group's log, of which this shard had heard up to `before`.
pub(super) fn advance(
    work: &mut Work<'_, '_>,
    user: UserId,
    group: UserId,
    before: u64,
    row: u64,
) -> Result<Seq, EngineError> {
    let given = work.shard.give_number(work.draft, work.home, user)?;
    work.draft.add_headed(user, given);
    let number = given.number.0;
    let known = work.shard.warm.heads.get(&(user, group)).copied();
    let (head, from) = match known {
        Some(known) => known,
        None => {
            let member = member(work, user, group)?;
            (member.head, member.from)
        }
    };
    let goes_on = || {
        // Nothing came after the run's last number, and neither number nor row has jumped.
        let last = head + (before - from) - 1;
        given.previous.0 == last && number - head == row - from - 1
    };
    if head != 0 && goes_on() {
        work.shard.warm.heads.insert((user, group), (head, from));
        return Ok(given.number);
    }
    if head != 0 {
        put_head(work, user, group, (head, from), before);
    }
    let mut member = member(work, user, group)?;
    (member.head, member.from) = (number, row - 1);
    put_head(work, user, group, (number, row - 1), 0);
    put_member(work, user, group, &member);
    Ok(given.number)
}

/// Notes that `user` reads from position `joined` on; who does so already goes on.
pub(super) fn join(
    work: &mut Work<'_, '_>,
    user: UserId,
    group: UserId,
    joined: u64,
) -> Result<(), EngineError> {
    // A timeline that has no item of the group of its own holds it at number 0: that is how a user's groups are found.
    let held = table::held(user, Kind::Group.into(), group.0);
    if work.draft.row(&held)?.is_none() {
        work.draft.put_row(&held, &0_u64.to_be_bytes());
    }
    let mut member = member(work, user, group)?;
    let last = member.spans.last();
    if last.is_none_or(|span| span.left != 0) {
        member.spans.push(pb::Span { joined, left: 0 });
        if member.spans.len() > GROUP_MEMBERSHIPS {
            member.spans.remove(0);
        }
        put_member(work, user, group, &member);
    }
    Ok(())
}

/// Ends what `user` reads at position `left`, and with row `last` of the log.
pub(super) fn leave(
    work: &mut Work<'_, '_>,
    user: UserId,
    group: UserId,
    left: u64,
    last: u64,
) -> Result<(), EngineError> {
    let mut member = member(work, user, group)?;
    if member.head != 0 {
        put_head(work, user, group, (member.head, member.from), last);
        (member.head, member.from) = (0, 0);
    }
    if let Some(span) = member.spans.last_mut() {
        span.left = left;
        put_member(work, user, group, &member);
    }
    Ok(())
}

/// Removes the sender's own copy of a message that has its row now.
pub(super) fn drop_own(
    work: &mut Work<'_, '_>,
    user: UserId,
    message_id: u64,
) -> Result<(), EngineError> {
    let held = table::held(user, Kind::Message.into(), message_id);
    if let Some(row) = work.draft.row(&held)? {
        let number = table::number(&row).ok_or_else(|| damaged("a held item's number"))?;
        work.draft.supersede(user, Seq(number));
        work.draft.remove_row(&held);
    }
    Ok(())
}

/// Writes the head at `number`, of the rows from `from` on; `to` 0 = it is open.
fn put_head(
    work: &mut Work<'_, '_>,
    user: UserId,
    group: UserId,
    (number, from): (u64, u64),
    to: u64,
) {
    let shard = u32::from(work.shard.id.0);
    let item = heads::item(group, &pb::Head { from, to, shard });
    work.draft.place_item(user, Seq(number), &item);
}

fn member(
    work: &Work<'_, '_>,
    user: UserId,
    group: UserId,
) -> Result<pb::GroupMemberRow, EngineError> {
    let row = work.draft.message(&table::group_member(user, group))?;
    Ok(row.unwrap_or_default())
}

fn put_member(work: &mut Work<'_, '_>, user: UserId, group: UserId, row: &pb::GroupMemberRow) {
    work.draft
        .put_message(&table::group_member(user, group), row);
    let open = (row.head, row.from);
    work.shard.warm.heads.insert((user, group), open);
}
