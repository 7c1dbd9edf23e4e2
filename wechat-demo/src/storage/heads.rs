//! Timelines as devices get them: items, and in the place of each head the rows of a group's log that it stands for.
//!
//! Knows: what a head means to a reader.   Does not know: when one is opened ([`ops`](super::ops)), what an item says.
//!
//! It rests on all shards of a home being one store: one moment of its tables holds a timeline and how far the
//! timeline's shard has heard of each group (O-2), and a copy of the log of a group of another home (O-6). Rows of a log up to there are never changed, only removed where
//! there is something newer, so they may be read a little later.
//!
//! Invariants
//! - H-1  Items come in the order of their numbers, and nothing is ever added at or below the number that a page ended at.
//! - H-2  A page looks at `LOOKED_AT` rows of logs at most for each item it may hold; where few are shown, the next page
//!   goes on.
//! - H-3  A row is shown to who was a member at its position, to no one else (O-4).

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;

use super::{
    engine::{Engine, EngineError, Snapshot, Span, Table},
    shard::damaged,
    table::{self, Key},
    timeline,
};
use crate::{
    model::{Seq, ShardId, UserId, limits::SYNC_PAGE_BYTES},
    planted::{self, Bug},
    proto::{
        storage as pb,
        terminal::{Item, Kind},
    },
};

/// Rows of logs that are looked at for one item of a page.
const LOOKED_AT: usize = 4;

/// How the item of a head begins: it has no number but that of its key, so its kind comes first. No other does.
const HEAD: [u8; 2] = [0x10, Kind::Head as u8];

/// What lies at one number of a timeline.
enum Row {
    Item(Bytes),
    Head(Head),
}

/// With its number.
type Numbered = (Seq, Row);

/// Rows (from, to] of a group's log; the first has the head's own number.
struct Head {
    group: UserId,
    from: u64,
    to: u64,
}

/// The head's item, as it lies in a timeline. `to` 0 = it is open.
pub(super) fn item(group: UserId, head: &pb::Head) -> Vec<u8> {
    let item = Item {
        kind: Kind::Head.into(),
        id: group.0,
        payload: head.encode_to_vec().into(),
        ..Item::default()
    };
    item.encode_to_vec()
}

/// Items of `user` above `after` and up to `end`, in number order, as far as a page of `limit` items goes.
pub fn page(
    engine: &dyn Engine,
    user: UserId,
    after: Seq,
    end: Seq,
    limit: usize,
) -> Result<pb::SyncPage, EngineError> {
    let (rows, rest) = rows(engine, user, after, end, limit)?;
    let mut page = Page {
        after: after.0,
        end: end.0,
        limit,
        key: after.0,
        items: Vec::new(),
        newest: HashMap::new(),
        shown: 0,
        bytes: 0,
        looked_at: 0,
    };
    let mut more = rest.is_some();
    for (number, row) in rows {
        let whole = match row {
            Row::Item(item) => page.add(number, item),
            Row::Head(head) => page.expand(engine, user, number, &head)?,
        };
        if !whole {
            more = true;
            break;
        }
    }
    if let Some(rest) = rest
        && planted::is_on(Bug::PageCursorOffByOne)
    {
        page.key = rest.0;
    }
    Ok(pb::SyncPage {
        items: page.items.into_iter().flatten().collect(),
        key: page.key,
        more,
        ..pb::SyncPage::default()
    })
}

/// The number of a user's newest item; [`Seq::ZERO`] if there is none.
pub fn newest(engine: &dyn Engine, user: UserId) -> Result<Seq, EngineError> {
    let mut moment = engine.snapshot()?;
    Ok(match last(&mut *moment, user, Seq(u64::MAX))? {
        None => Seq::ZERO,
        Some((number, Row::Item(_))) => number,
        Some((number, Row::Head(head))) => Seq(head.last(number)),
    })
}

/// What a page is being made of.
struct Page {
    after: u64,
    end: u64,
    limit: usize,
    /// Everything up to it has been looked at.
    key: u64,
    /// `None` = a later one is another version of it.
    items: Vec<Option<Bytes>>,
    /// Kind and id of a row of a log → where its newest version stands.
    newest: HashMap<(i32, u64), usize>,
    shown: usize,
    bytes: usize,
    looked_at: usize,
}

impl Page {
    fn is_full(&self) -> bool {
        self.shown == self.limit
            || self.bytes >= SYNC_PAGE_BYTES
            || self.looked_at == self.limit * LOOKED_AT
    }

    fn show(&mut self, item: Bytes) {
        self.bytes += item.len();
        self.shown += 1;
        self.items.push(Some(item));
    }

    /// Adds an item; false if the page is full.
    fn add(&mut self, number: Seq, item: Bytes) -> bool {
        if self.is_full() {
            return false;
        }
        self.key = number.0;
        self.show(item);
        true
    }

    /// Adds what a head stands for; false if that is not all of it.
    fn expand(
        &mut self,
        engine: &dyn Engine,
        user: UserId,
        number: Seq,
        head: &Head,
    ) -> Result<bool, EngineError> {
        let member: Option<pb::GroupMemberRow> =
            timeline::message(engine, &table::group_member(user, head.group))?;
        let spans = member.unwrap_or_default().spans;
        let first = head.from + (self.after + 1).saturating_sub(number.0);
        let last = head
            .from
            .saturating_add(self.end.saturating_sub(number.0).saturating_add(1))
            .min(head.to);
        let (from, to) = (
            table::item(head.group, Seq(first + 1)),
            table::item(head.group, Seq(last.saturating_add(1))),
        );
        let mut whole = true;
        let mut scan_log = |key: &[u8], row: &[u8]| {
            whole = !self.is_full();
            if whole {
                self.looked_at += 1;
                let at = number_of(key, head.group)?.0;
                self.key = number.0 + (at - head.from - 1);
                let mut item = Item::decode(row)
                    .map_err(|error| damaged(&format!("a row of {}: {error}", head.group)))?;
                let pos = item.pos.map_or(0, |pos| pos.count);
                if spans.iter().any(|span| holds(span, pos)) {
                    item.number = self.key;
                    self.show_newest((item.kind, item.id), item.encode_to_vec().into());
                }
            }
            Ok(whole)
        };
        let mut moment = engine.snapshot()?;
        scan(
            &mut *moment,
            Table::Timeline,
            (&from, &to),
            false,
            &mut scan_log,
        )?;
        if whole && last > first {
            self.key = number.0 + (last - head.from - 1);
        }
        Ok(whole)
    }

    /// Shows a version of something in the place of those before it.
    fn show_newest(&mut self, what: (i32, u64), item: Bytes) {
        if let Some(before) = self.newest.insert(what, self.items.len()) {
            self.items[before] = None;
            self.shown -= 1;
        }
        self.show(item);
    }
}

impl Head {
    /// The number of its last row, if the head has `number`.
    fn last(&self, number: Seq) -> u64 {
        number.0 + self.to.saturating_sub(self.from + 1)
    }
}

/// Whether a membership takes in a position.
fn holds(span: &pb::Span, pos: u64) -> bool {
    span.joined <= pos && (span.left == 0 || pos < span.left)
}

/// The rows of a timeline that a page may be made of, of one moment, and the number of the first after those.
fn rows(
    engine: &dyn Engine,
    user: UserId,
    after: Seq,
    end: Seq,
    limit: usize,
) -> Result<(Vec<Numbered>, Option<Seq>), EngineError> {
    let mut moment = engine.snapshot()?;
    let mut found = Vec::new();
    let mut bytes = 0;
    let mut rest = None;
    let (from, to) = (
        table::item(user, Seq(after.0.saturating_add(1))),
        table::item(user, Seq(end.0.saturating_add(1))),
    );
    let mut note = |key: &[u8], item: &[u8]| {
        let number = number_of(key, user)?;
        if found.len() == limit || bytes >= SYNC_PAGE_BYTES {
            rest = Some(number);
            return Ok(false);
        }
        bytes += item.len();
        found.push((number, Bytes::copy_from_slice(item)));
        Ok(true)
    };
    scan(
        &mut *moment,
        Table::Timeline,
        (&from, &to),
        false,
        &mut note,
    )?;
    let mut rows = Vec::with_capacity(found.len() + 1);
    // The head before may stand for more.
    if after > Seq::ZERO
        && let Some((number, Row::Head(head))) = last(&mut *moment, user, after)?
        && head.last(number) > after.0
    {
        rows.push((number, Row::Head(head)));
    }
    for (number, item) in found {
        rows.push((number, row(&mut *moment, item)?));
    }
    Ok((rows, rest))
}

/// The last row of a timeline at or below a number.
fn last(
    moment: &mut dyn Snapshot,
    user: UserId,
    upto: Seq,
) -> Result<Option<Numbered>, EngineError> {
    let (from, to) = (
        table::item(user, Seq::ZERO),
        table::item(user, Seq(upto.0.saturating_add(1))),
    );
    let mut found = None;
    let mut note = |key: &[u8], item: &[u8]| {
        found = Some((number_of(key, user)?, Bytes::copy_from_slice(item)));
        Ok(false)
    };
    scan(moment, Table::Timeline, (&from, &to), true, &mut note)?;
    match found {
        None => Ok(None),
        Some((number, item)) => Ok(Some((number, row(moment, item)?))),
    }
}

/// Reads a row of a timeline. How far an open head goes is read at the same moment.
fn row(moment: &mut dyn Snapshot, item: Bytes) -> Result<Row, EngineError> {
    if !item.starts_with(&HEAD) {
        return Ok(Row::Item(item));
    }
    let unreadable = |error: prost::DecodeError| damaged(&format!("a head: {error}"));
    let item = Item::decode(item).map_err(unreadable)?;
    let head = pb::Head::decode(item.payload).map_err(unreadable)?;
    let group = UserId(item.id);
    let mut to = head.to;
    if to == 0 {
        let key = table::group_seen(ShardId(head.shard as u8), group);
        let end = Key::new(&[&key, &[0]]);
        let mut note = |_: &[u8], row: &[u8]| {
            to = pb::GroupSeenRow::decode(row).map_err(unreadable)?.number;
            Ok(false)
        };
        scan(moment, Table::Rows, (&key, &end), false, &mut note)?;
    }
    let from = head.from;
    Ok(Row::Head(Head { group, from, to }))
}

/// Takes a key and a row, and says whether to go on.
type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> Result<bool, EngineError> + 'v;

/// Visits rows until `visit` says that it is enough.
fn scan(
    moment: &mut dyn Snapshot,
    table: Table,
    (from, to): (&Key, &Key),
    backwards: bool,
    visit: &mut Visit<'_>,
) -> Result<(), EngineError> {
    if from[..] >= to[..] {
        return Ok(());
    }
    let span = Span {
        from,
        to,
        backwards,
    };
    let mut failed = None;
    moment.scan(table, span, &mut |key, row| {
        visit(key, row).unwrap_or_else(|error| {
            failed = Some(error);
            false
        })
    })?;
    failed.map_or(Ok(()), Err)
}

fn number_of(key: &[u8], user: UserId) -> Result<Seq, EngineError> {
    table::item_number(key).ok_or_else(|| damaged(&format!("timeline of {user}")))
}
