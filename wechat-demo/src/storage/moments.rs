//! Reading moments: posts and what was said to them, at the author's home, as one reader may see them.
//!
//! Knows: who is in a post's audience.   Does not know: whom the reader takes things from; that is known at the
//! reader's own home ([`friends_among`]).

use prost::Message;

use super::{
    engine::{Engine, EngineError, Span, Table},
    ops::{Refusal, RefusalKind, Stop, takes},
    shard::damaged,
    table::{self, Key},
    timeline,
};
use crate::{
    model::{
        UserId,
        limits::{ALBUM_DEFAULT_POSTS, ALBUM_MAX_POSTS},
    },
    proto::{
        storage as pb,
        terminal::{self, audience::Who},
    },
};

/// What is told about a post that is not there, and about one that is not for whoever asks.
pub const NO_POST: &str = "there is no such post, or it is not for you";

/// Posts that one page of an album looks at; one that shows few of them goes on with the next page.
const LOOKED_AT: usize = 500;

/// A post and what was said to it, in order.
pub fn post(
    engine: &dyn Engine,
    author: UserId,
    post_id: u64,
    reader: UserId,
) -> Result<terminal::OpenPostReply, Stop> {
    let row: Option<pb::PostRow> = timeline::message(engine, &table::post(author, post_id))?;
    let friend = takes_from(engine, author, reader)?;
    let Some(post) = row.and_then(|row| shown(row, author, reader, friend)) else {
        return Err(Refusal::new(RefusalKind::NotFound, NO_POST).into());
    };
    let (from, to) = (
        table::comment(author, post_id, 0),
        table::comment(author, post_id, u64::MAX),
    );
    let mut said = Vec::new();
    scan(engine, (&from, &to), false, |row: pb::CommentRow| {
        if !row.deleted {
            said.push((row.place, row.comment.unwrap_or_default()));
        }
        true
    })?;
    said.sort_unstable_by_key(|(place, _)| *place);
    Ok(terminal::OpenPostReply {
        post: Some(post),
        comments: said.into_iter().map(|(_, comment)| comment).collect(),
    })
}

/// A page of an author's posts below `before`, newest first; what is not for the reader is not there.
pub fn album(
    engine: &dyn Engine,
    author: UserId,
    request: &terminal::OpenAlbumRequest,
    reader: UserId,
) -> Result<terminal::OpenAlbumReply, Stop> {
    let limit = match request.limit as usize {
        0 => ALBUM_DEFAULT_POSTS,
        limit => limit.min(ALBUM_MAX_POSTS),
    };
    let mut reply = terminal::OpenAlbumReply::default();
    let friend = takes_from(engine, author, reader)?;
    if reader != author && !friend {
        return Ok(reply);
    }
    let before = match request.before {
        0 => u64::MAX,
        before => before,
    };
    let (from, to) = (table::post(author, 0), table::post(author, before));
    let mut looked_at = 0;
    let mut last = 0;
    scan(engine, (&from, &to), true, |row: pb::PostRow| {
        if reply.posts.len() == limit || looked_at == LOOKED_AT {
            reply.next = last;
            return false;
        }
        looked_at += 1;
        last = row.post.as_ref().map_or(0, |post| post.post_id);
        reply.posts.extend(shown(row, author, reader, friend));
        true
    })?;
    Ok(reply)
}

/// Those of `users` whose words `user` takes.
pub fn friends_among(
    engine: &dyn Engine,
    user: UserId,
    users: &[u64],
) -> Result<Vec<u64>, EngineError> {
    let mut friends = Vec::new();
    for &other in users {
        if takes_from(engine, user, UserId(other))? {
            friends.push(other);
        }
    }
    Ok(friends)
}

/// Whether a post is for somebody who is a friend of its author.
pub fn is_for(post: &terminal::Post, friend: u64) -> bool {
    let Some(audience) = &post.audience else {
        return true;
    };
    let named = audience.user_ids.contains(&friend);
    match audience.who() {
        Who::All => true,
        Who::Only => named,
        Who::Except => !named,
        Who::Nobody => false,
    }
}

/// The post as `reader` sees it, if they do: whom else it is for is the author's own business.
fn shown(row: pb::PostRow, author: UserId, reader: UserId, friend: bool) -> Option<terminal::Post> {
    let post = row.post.filter(|_| !row.deleted)?;
    if reader == author {
        return Some(post);
    }
    let seen = friend && is_for(&post, reader.0);
    seen.then_some(terminal::Post {
        audience: None,
        ..post
    })
}

/// Whether `user` takes what `peer` sends.
pub fn takes_from(engine: &dyn Engine, user: UserId, peer: UserId) -> Result<bool, EngineError> {
    let row: Option<pb::ContactRow> = timeline::message(engine, &table::contact(user, peer))?;
    Ok(row.is_some_and(|row| takes(&row)))
}

/// Reads rows until `each` says that it is enough.
fn scan<M: Message + Default>(
    engine: &dyn Engine,
    (from, to): (&Key, &Key),
    backwards: bool,
    mut each: impl FnMut(M) -> bool,
) -> Result<(), EngineError> {
    let span = Span {
        from,
        to,
        backwards,
    };
    let mut unreadable = None;
    engine.scan(Table::Rows, span, &mut |key, row| match M::decode(row) {
        Ok(row) => each(row),
        Err(error) => {
            unreadable = Some(damaged(&format!("row {key:02x?}: {error}")));
            false
        }
    })?;
    unreadable.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_post_is_for_whom_its_audience_names() {
        let for_two = |who: Who| {
            let post = terminal::Post {
                audience: Some(terminal::Audience {
                    who: who.into(),
                    user_ids: vec![2],
                }),
                ..Default::default()
            };
            [2, 3].map(|user| is_for(&post, user))
        };
        assert_eq!(for_two(Who::All), [true, true]);
        assert_eq!(for_two(Who::Only), [true, false]);
        assert_eq!(for_two(Who::Except), [false, true]);
        assert_eq!(for_two(Who::Nobody), [false, false]);
        assert!(is_for(&terminal::Post::default(), 3));
    }

    #[test]
    fn readers_do_not_learn_whom_else_a_post_is_for() {
        let post = terminal::Post {
            audience: Some(terminal::Audience {
                who: Who::Except.into(),
                user_ids: vec![7],
            }),
            ..Default::default()
        };
        let row = pb::PostRow {
            post: Some(post.clone()),
            ..Default::default()
        };
        let seen = |reader, friend| shown(row.clone(), UserId(1), UserId(reader), friend);
        assert_eq!(seen(1, false), Some(post));
        assert_eq!(seen(2, true), Some(terminal::Post::default()));
        assert_eq!(seen(7, true), None);
        assert_eq!(seen(2, false), None, "a friend no longer");
    }
}
