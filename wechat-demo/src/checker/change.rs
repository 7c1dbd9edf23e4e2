//! What a user asked to be changed, as far as a promise hangs on it.

use prost::Message;

use crate::history::{bytes_of, hash_of};
use crate::proto::terminal as pb;
use pb::change_request::Change as Asked;
use pb::group_change::What;

/// A change of a user's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// What is taken back and must not be shown again: kind and id.
    Hide(i32, u64),
    /// A message reads otherwise: its id and the text's hash.
    Reword(u64, u64),
    /// Nothing more is taken from this user.
    Block(u64),
    /// It is taken again.
    Unblock(u64),
    /// No contact any more.
    Part(u64),
    /// Where the device is woken.
    Token(String),
    /// No promise hangs on it beyond its being done.
    Other,
}

/// The name of what passes and is kept nowhere.
pub(super) fn passes(command: u32) -> Option<&'static str> {
    match pb::Command::try_from(command as i32) {
        Ok(pb::Command::Typing) => Some("typing"),
        Ok(pb::Command::Presence) => Some("presence"),
        _ => None,
    }
}

/// What a `mutate` line asks for, and its name. What cannot be read is some change or other.
pub(super) fn read(command: u32, request: &str) -> (Change, &'static str) {
    const OTHER: (Change, &str) = (Change::Other, "other");
    if command != pb::Command::Change as u32 {
        return OTHER;
    }
    let decoded = bytes_of(request).and_then(|bytes| pb::ChangeRequest::decode(&*bytes).ok());
    let Some(asked) = decoded.and_then(|request| request.change) else {
        return OTHER;
    };
    let (message, post, comment) = (
        pb::Kind::Message as i32,
        pb::Kind::Post as i32,
        pb::Kind::Comment as i32,
    );
    match asked {
        Asked::Recall(it) => (Change::Hide(message, it.message_id), "recall"),
        Asked::DeletePost(it) => (Change::Hide(post, it.post_id), "delete-post"),
        Asked::DeleteComment(it) => (Change::Hide(comment, it.comment_id), "delete-comment"),
        Asked::Edit(it) => {
            let hash = hash_of(it.text.as_bytes());
            (Change::Reword(it.message_id, hash), "edit")
        }
        Asked::Block(it) if it.blocked => (Change::Block(it.user_id), "block"),
        Asked::Block(it) => (Change::Unblock(it.user_id), "unblock"),
        Asked::RemoveContact(it) => (Change::Part(it.user_id), "remove-contact"),
        Asked::Mark(_) => (Change::Other, "mark"),
        Asked::CreateGroup(_) => (Change::Other, "create-group"),
        Asked::Group(it) => match it.what {
            Some(What::Kick(_)) => (Change::Other, "kick"),
            Some(What::Invite(_)) => (Change::Other, "invite"),
            Some(What::Leave(_)) => (Change::Other, "leave"),
            Some(What::Join(_)) => (Change::Other, "join"),
            _ => OTHER,
        },
        Asked::PushToken(it) => (Change::Token(it.token), "push-token"),
        Asked::NewPost(_) => (Change::Other, "post"),
        _ => OTHER,
    }
}
