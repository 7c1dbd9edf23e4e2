//! Moments: posts for friends, and what is said to them.
//!
//! ```text
//!  a friend's home           the author's home, which is the post's         homes of those it concerns
//!                            post, own item ───────────────────────────────▶ a pointer for each in the audience
//!  comment, like, delete ──▶ checks audience and block, gives the place ───▶ an item for author and who took part
//! ```
//! A post lies at its author's home alone and is read there ([`moments`](crate::storage::moments)); what
//! stands in timelines are pointers to posts, and comments. A like is a comment without words, and wakes no device;
//! a pointer and a comment do.
//!
//! Invariants
//! - M-1  The post's home alone gives places, and ships in their order: nobody has an answer before its question.
//! - M-2  Nobody learns from a refusal whether there is a post that they may not see.
//! - M-3  Of what was deleted no word stays, neither at the post's home nor in a timeline.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::{Answer, Once, Refusal, RefusalKind, Stop, Work, contact, push};
use crate::{
    model::{
        Pos, Seq, Site, UserId,
        limits::{ERASED_POSTS, GONE_ITEMS, MOMENT_USERS, POST_COMMENTS},
    },
    proto::{
        storage::{self as pb, moment::What, remark, task::Effect},
        terminal::{self, Item, Kind},
    },
    storage::{
        engine::EngineError,
        moments::{NO_POST, is_for},
        shard::damaged,
        table,
    },
};

/// Versions of a post's pointer and of a comment: it is there, it is gone.
const THERE: u64 = 1;
const GONE: u64 = 2;

// ---- At the home of who does it. ----

/// Puts a post up and sends pointers to its audience.
pub(super) fn post(
    work: &mut Work<'_, '_>,
    user: UserId,
    request: &terminal::NewPost,
) -> Result<Answer, Stop> {
    let once = match work.once(user, &request.client_id, "post", request)? {
        Once::Before(row) => return Ok(made(&row)),
        Once::New(once) => once,
    };
    let post = terminal::Post {
        author: user.0,
        post_id: work.shard.give_message(work.draft, work.home).0,
        text: request.text.clone(),
        media: request.media.clone(),
        posted_ms: work.home.now_ms,
        audience: request.audience.clone(),
    };
    let told: Vec<u64> = contact::friends(work, user)?
        .into_iter()
        .filter(|&friend| is_for(&post, friend))
        .collect();
    let pointer = terminal::PostPointer {
        author: user.0,
        post_id: post.post_id,
        posted_ms: post.posted_ms,
    };
    let post_id = post.post_id;
    let item = there(Kind::Post, post_id, None, &pointer);
    let number = put(work, user, item)?.unwrap_or(Seq::ZERO);
    let row = pb::PostRow {
        post: Some(post),
        told: told.clone(),
        ..pb::PostRow::default()
    };
    work.draft.put_message(&table::post(user, post_id), &row);
    tell(work, user, told, MOMENT_USERS, &What::Posted(pointer));
    let row = once.done(work, post_id, number);
    Ok(made(&row))
}

/// Takes a post of the user's down, and all that was said to it.
pub(super) fn delete_post(
    work: &mut Work<'_, '_>,
    user: UserId,
    post_id: u64,
) -> Result<Answer, Stop> {
    let key = table::post(user, post_id);
    let Some(row) = work.draft.message::<pb::PostRow>(&key)? else {
        return Err(Refusal::new(RefusalKind::NotFound, NO_POST).into());
    };
    if row.deleted {
        let held = table::held(user, Kind::Post.into(), post_id);
        let row = work.draft.row(&held)?;
        let number = row.and_then(|row| table::number(&row)).unwrap_or(0);
        return Ok(Answer::Number(Seq(number)));
    }
    let (from, to) = (
        table::comment(user, post_id, 0),
        table::comment(user, post_id, u64::MAX),
    );
    let mut comment_ids = Vec::new();
    for row in work.draft.messages::<pb::CommentRow>(&from, &to)? {
        let comment_id = row.comment.unwrap_or_default().comment_id;
        work.draft
            .remove_row(&table::comment(user, post_id, comment_id));
        if !row.deleted {
            comment_ids.push(comment_id);
        }
    }
    comment_ids.sort_unstable();
    let number = put(work, user, gone(Kind::Post, post_id))?.unwrap_or(Seq::ZERO);
    let left = pb::PostRow {
        post: Some(terminal::Post {
            post_id,
            ..terminal::Post::default()
        }),
        deleted: true,
        ..pb::PostRow::default()
    };
    work.draft.put_message(&key, &left);
    let some = (GONE_ITEMS / comment_ids.len().max(1)).clamp(1, MOMENT_USERS);
    let concerned = concerned(user, &row);
    let pointers = What::Gone(pb::Gone {
        post_id,
        ..pb::Gone::default()
    });
    tell(work, user, row.told, MOMENT_USERS, &pointers);
    if !comment_ids.is_empty() {
        let post_id = 0;
        let comments = What::Gone(pb::Gone {
            post_id,
            comment_ids,
        });
        tell(work, user, concerned, some, &comments);
    }
    Ok(Answer::Number(number))
}

/// Takes some posts down of who has deleted the account: those that come after `after`. The last one, `None` if there
/// was none left.
pub(super) fn take_some_down(
    work: &mut Work<'_, '_>,
    user: UserId,
    after: u64,
) -> Result<Option<u64>, EngineError> {
    let (from, to) = (table::post(user, after + 1), table::post(user, u64::MAX));
    let ids = work.first_ids(&from, &to, ERASED_POSTS)?;
    for &post_id in &ids {
        match delete_post(work, user, post_id) {
            Ok(_) | Err(Stop::Refused(_)) => {}
            Err(Stop::Fatal(error)) => return Err(error),
        }
    }
    Ok(ids.last().copied())
}

/// Says something to a post. Whether it is taken is the word of the post's home.
pub(super) fn comment(
    work: &mut Work<'_, '_>,
    user: UserId,
    request: &terminal::NewComment,
) -> Result<Answer, Stop> {
    let once = match work.once(user, &request.client_id, "comment", request)? {
        Once::Before(row) => return Ok(made(&row)),
        Once::New(once) => once,
    };
    let author = UserId(request.author);
    reaches(work, user, author)?;
    let comment = terminal::Comment {
        text: request.text.clone(),
        reply_to: request.reply_to,
        ..terminal::Comment::default()
    };
    let what = remark::What::Comment(comment);
    let client_id = request.client_id.clone();
    let id = remark(work, user, author, request.post_id, client_id, what);
    let row = once.done(work, id, Seq::ZERO);
    Ok(made(&row))
}

/// Likes a post, or no longer.
pub(super) fn like(
    work: &mut Work<'_, '_>,
    user: UserId,
    request: &terminal::Like,
) -> Result<Answer, Stop> {
    let author = UserId(request.author);
    if request.liked {
        reaches(work, user, author)?;
    }
    let what = remark::What::Liked(request.liked);
    remark(work, user, author, request.post_id, Bytes::new(), what);
    Ok(Answer::Number(Seq::ZERO))
}

/// Takes a comment back: the user's own, or one to a post of the user's.
pub(super) fn delete_comment(
    work: &mut Work<'_, '_>,
    user: UserId,
    request: &terminal::DeleteComment,
) -> Result<Answer, Stop> {
    let author = UserId(request.author);
    let what = remark::What::Deleted(request.comment_id);
    remark(work, user, author, request.post_id, Bytes::new(), what);
    Ok(Answer::Number(Seq::ZERO))
}

/// Only posts of friends are spoken to; who is none of theirs gets the word that there is none.
fn reaches(work: &mut Work<'_, '_>, user: UserId, author: UserId) -> Result<(), Stop> {
    if user == author || contact::takes_from(work, user, author)? {
        return Ok(());
    }
    Err(Refusal::new(RefusalKind::NotFound, NO_POST).into())
}

/// Sends something on to the post's home; the id that was made for it.
fn remark(
    work: &mut Work<'_, '_>,
    by: UserId,
    author: UserId,
    post_id: u64,
    client_id: Bytes,
    what: remark::What,
) -> u64 {
    let id = work.shard.give_message(work.draft, work.home).0;
    let remark = pb::Remark {
        by: by.0,
        post_id,
        id,
        client_id,
        what: Some(what),
    };
    work.add_task(&pb::Task {
        user_id: author.0,
        effect: Some(Effect::Remark(remark)),
    });
    id
}

// ---- At the post's home. ----

/// Effect of [`comment`], [`like`] and [`delete_comment`].
pub(super) fn remarked(
    work: &mut Work<'_, '_>,
    author: UserId,
    remark: pb::Remark,
) -> Result<(), EngineError> {
    let row: Option<pb::PostRow> = work.draft.message(&table::post(author, remark.post_id))?;
    let Some(row) = row.filter(|row| !row.deleted) else {
        refuse(work, author, &remark, NO_POST);
        return Ok(());
    };
    let by = remark.by;
    let like_id = part(&row, by).map_or(0, |at| row.parts[at].like_id);
    match &remark.what {
        Some(remark::What::Deleted(id)) => take_back(work, author, row, &remark, *id),
        Some(remark::What::Liked(false)) if like_id == 0 => Ok(()),
        Some(remark::What::Liked(false)) => take_back(work, author, row, &remark, like_id),
        Some(remark::What::Liked(true)) if like_id != 0 => Ok(()),
        Some(remark::What::Liked(true)) => {
            let like = terminal::Comment {
                like: true,
                ..terminal::Comment::default()
            };
            say(work, author, row, &remark, like)
        }
        Some(remark::What::Comment(comment)) => {
            let comment = comment.clone();
            say(work, author, row, &remark, comment)
        }
        None => Err(damaged("a remark without a content")),
    }
}

/// Gives a comment or like its place and ships it.
fn say(
    work: &mut Work<'_, '_>,
    author: UserId,
    mut row: pb::PostRow,
    remark: &pb::Remark,
    comment: terminal::Comment,
) -> Result<(), EngineError> {
    let (by, post_id) = (UserId(remark.by), remark.post_id);
    let key = table::comment(author, post_id, remark.id);
    if work.draft.row(&key)?.is_some() {
        return Ok(());
    }
    let post = row.post.clone().unwrap_or_default();
    let sees = by == author || (contact::takes_from(work, author, by)? && is_for(&post, by.0));
    let why = if !sees {
        Some(NO_POST)
    } else if row.count >= POST_COMMENTS {
        Some("the post has all the comments and likes it takes")
    } else if comment.reply_to != 0 && !stands(work, author, post_id, comment.reply_to)? {
        Some("the comment that is answered is gone")
    } else {
        None
    };
    if let Some(why) = why {
        refuse(work, author, remark, why);
        return Ok(());
    }
    row.count += 1;
    let comment = terminal::Comment {
        author: author.0,
        post_id,
        comment_id: remark.id,
        by: by.0,
        said_ms: work.home.now_ms,
        ..comment
    };
    note_part(&mut row, by.0, comment.like.then_some(remark.id));
    let place = row.count;
    work.draft.put_message(&table::post(author, post_id), &row);
    let said = pb::CommentRow {
        comment: Some(comment.clone()),
        place,
        deleted: false,
    };
    work.draft.put_message(&key, &said);
    let comment = Some(comment);
    let said = What::Said(pb::Said { comment, place });
    tell(work, author, concerned(author, &row), MOMENT_USERS, &said);
    Ok(())
}

/// Takes a comment or like back, if it is `remark.by`'s to take.
fn take_back(
    work: &mut Work<'_, '_>,
    author: UserId,
    mut row: pb::PostRow,
    remark: &pb::Remark,
    comment_id: u64,
) -> Result<(), EngineError> {
    let key = table::comment(author, remark.post_id, comment_id);
    let there: Option<pb::CommentRow> = work.draft.message(&key)?;
    let there = there.unwrap_or_default();
    let comment = there.comment.unwrap_or_default();
    if comment.comment_id == 0 || (remark.by != comment.by && remark.by != author.0) {
        refuse(work, author, remark, "there is no such comment of yours");
        return Ok(());
    }
    if there.deleted {
        return Ok(());
    }
    if comment.like {
        note_part(&mut row, comment.by, Some(0));
        work.draft
            .put_message(&table::post(author, remark.post_id), &row);
    }
    let left = pb::CommentRow {
        comment: Some(terminal::Comment {
            comment_id,
            by: comment.by,
            ..terminal::Comment::default()
        }),
        place: there.place,
        deleted: true,
    };
    work.draft.put_message(&key, &left);
    let gone = What::Gone(pb::Gone {
        post_id: 0,
        comment_ids: vec![comment_id],
    });
    tell(work, author, concerned(author, &row), MOMENT_USERS, &gone);
    Ok(())
}

/// Whether there is a comment to answer.
fn stands(
    work: &Work<'_, '_>,
    author: UserId,
    post_id: u64,
    comment_id: u64,
) -> Result<bool, EngineError> {
    let key = table::comment(author, post_id, comment_id);
    let row: Option<pb::CommentRow> = work.draft.message(&key)?;
    Ok(row.is_some_and(|row| !row.deleted && !row.comment.unwrap_or_default().like))
}

fn part(row: &pb::PostRow, user: u64) -> Option<usize> {
    row.parts
        .binary_search_by_key(&user, |part| part.user_id)
        .ok()
}

/// Notes that a user takes part, and their like where it changes.
fn note_part(row: &mut pb::PostRow, user_id: u64, like_id: Option<u64>) {
    let found = row
        .parts
        .binary_search_by_key(&user_id, |part| part.user_id);
    let at = found.unwrap_or_else(|at| {
        let part = pb::Part {
            user_id,
            like_id: 0,
        };
        row.parts.insert(at, part);
        at
    });
    if let Some(like_id) = like_id {
        row.parts[at].like_id = like_id;
    }
}

/// Who is told what is said to a post: the author and those who have said something.
fn concerned(author: UserId, row: &pb::PostRow) -> Vec<u64> {
    let mut users: Vec<u64> = row.parts.iter().map(|part| part.user_id).collect();
    if part(row, author.0).is_none() {
        users.push(author.0);
    }
    users
}

/// Sends something to the homes of `users`, `some` at most in one task.
fn tell(work: &mut Work<'_, '_>, author: UserId, users: Vec<u64>, some: usize, what: &What) {
    let mut homes: BTreeMap<Site, Vec<u64>> = BTreeMap::new();
    for user in users {
        let home = work.home.place.site(UserId(user));
        homes.entry(home).or_default().push(user);
    }
    for (home, users) in homes {
        for users in users.chunks(some) {
            let moment = pb::Moment {
                user_ids: users.to_vec(),
                what: Some(what.clone()),
            };
            let task = pb::Task {
                user_id: author.0,
                effect: Some(Effect::Moment(moment)),
            };
            let task = task.encode_to_vec().into();
            work.draft.add_task(work.shard, work.home, home, task);
        }
    }
}

fn refuse(work: &mut Work<'_, '_>, author: UserId, remark: &pb::Remark, why: &str) {
    let refused = terminal::Refused {
        message_id: remark.id,
        client_id: remark.client_id.clone(),
        receiver: author.0,
        reason: why.to_owned(),
    };
    work.refuse(UserId(remark.by), refused);
}

// ---- At the homes of those it concerns. ----

/// Effect of what the post's home sends to a shard. Of others' words a user gets those of friends.
pub(super) fn arrived(
    work: &mut Work<'_, '_>,
    author: UserId,
    moment: &pb::Moment,
) -> Result<(), EngineError> {
    for &user in &moment.user_ids {
        let user = UserId(user);
        match &moment.what {
            Some(What::Posted(pointer)) => {
                if contact::takes_from(work, user, author)? {
                    let item = there(Kind::Post, pointer.post_id, None, pointer);
                    if let Some(number) = put(work, user, item)? {
                        push::intend(work, user, author, number)?;
                    }
                }
            }
            Some(What::Said(said)) => {
                let comment = said.comment.clone().unwrap_or_default();
                let by = UserId(comment.by);
                if user == author || user == by || contact::takes_from(work, user, by)? {
                    let pos = Pos {
                        count: said.place,
                        sender: by.0,
                    };
                    let id = comment.comment_id;
                    let item = there(Kind::Comment, id, Some(pos), &comment);
                    if let Some(number) = put(work, user, item)?
                        && user != by
                        && !comment.like
                    {
                        push::intend(work, user, by, number)?;
                    }
                }
            }
            Some(What::Gone(dead)) => {
                if dead.post_id != 0 {
                    put(work, user, gone(Kind::Post, dead.post_id))?;
                }
                for &id in &dead.comment_ids {
                    put(work, user, gone(Kind::Comment, id))?;
                }
            }
            None => return Err(damaged("a moment without a content")),
        }
    }
    Ok(())
}

/// Puts an item into a timeline in the place of an older version, and returns its number there. What is no newer
/// changes nothing, nor does the end of what never came.
fn put(work: &mut Work<'_, '_>, user: UserId, item: Item) -> Result<Option<Seq>, EngineError> {
    let held = table::held(user, item.kind, item.id);
    let before = match work.draft.row(&held)? {
        None if item.deleted => return Ok(None),
        None => None,
        Some(row) => {
            let number = table::number(&row).ok_or_else(|| damaged("a held item's number"))?;
            Some(Seq(number))
        }
    };
    if let Some(before) = before {
        // One that was collected was the last.
        let there = work.draft.item(user, before)?.map(Item::decode).transpose();
        let there = there.map_err(|error| damaged(&format!("an item of {user}: {error}")))?;
        if there.is_none_or(|there| there.version >= item.version) {
            return Ok(None);
        }
    }
    let given = work.add_item(user, |number| Item { number, ..item })?;
    if let Some(before) = before {
        work.draft.supersede(user, before);
    }
    work.draft.put_row(&held, &given.number.0.to_be_bytes());
    Ok(Some(given.number))
}

fn there(kind: Kind, id: u64, pos: Option<Pos>, payload: &impl Message) -> Item {
    Item {
        kind: kind.into(),
        id,
        version: THERE,
        pos: pos.map(Into::into),
        payload: payload.encode_to_vec().into(),
        ..Item::default()
    }
}

fn gone(kind: Kind, id: u64) -> Item {
    Item {
        kind: kind.into(),
        id,
        version: GONE,
        deleted: true,
        ..Item::default()
    }
}

fn made(row: &pb::SentRow) -> Answer {
    Answer::Made {
        id: row.message_id,
        number: Seq(row.number),
    }
}
