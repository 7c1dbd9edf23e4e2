//! What a terminal keeps of its user's timeline: conversations, states, and the key they are complete up to.
//!
//! Knows:       where an item belongs, that items and key move in one commit.
//! Does not know: links, syncing, who reads.
//!
//! Two back ends behind [`LocalStore`]: [`memory`] forgets with the process; [`durable`] answers when the
//! items and the key are on the disk, by one fsync shared with every other terminal of the process.
//!
//! Invariants
//! - D-1  The key in the store and the items up to it are from the same commit: after any crash the key
//!   says exactly what the store holds.
//! - D-2  A state (account, contact, refusal) only moves to a newer version; in a full sync to what is there now.
//!   What was deleted is kept as that, and not shown.
//! - D-4  A message that was edited, recalled or reacted to comes again as a later version of its item and
//!   takes the place of the version before.
//! - D-3  A message is filed under its number too: if a server handed one out twice the store shows it
//!   twice. Hiding it is not the store's business; seeing it is the checker's.

pub mod durable;
pub mod memory;

use prost::Message;

use super::sync::{Cursor, Page};
use crate::model::{ClientMsgId, Pos, UserId};
use crate::proto::terminal as pb;

/// The local copy of one user's timeline.
pub trait LocalStore: Send + Sync + 'static {
    /// Whose timeline it is: a user id.
    fn owner(&self) -> u64;

    /// How far the store has got.
    fn cursor(&self) -> Cursor;

    /// Everything up to it is in the store; 0 = nothing.
    fn key(&self) -> u64 {
        self.cursor().key
    }

    /// Stores items and cursor in one commit, durable (as far as this store is) on return. The last page of a full
    /// sync takes out, in the same commit, what none of its pages had.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of it is stored, or, after a failed disk, the store takes no more.
    fn apply_page(
        &self,
        before: u64,
        page: Page,
        items: &[pb::Item],
        after: Cursor,
    ) -> Result<(), StoreError>;

    /// As [`LocalStore::apply_page`], of items that follow the key.
    ///
    /// # Errors
    /// As there.
    fn apply(&self, before: u64, items: &[pb::Item], after: u64) -> Result<(), StoreError> {
        let after = Cursor {
            key: after,
            ..Cursor::default()
        };
        self.apply_page(before, Page::Newer, items, after)
    }

    /// Takes out, in one commit, what came under numbers above `to`; the user's own messages among it wait in
    /// [`LocalStore::again`] from then on. Where something had an older version that is not here any more, only
    /// a full sync brings that back, and the cursor asks for one.
    ///
    /// # Errors
    /// As for [`LocalStore::apply_page`].
    fn rewind(&self, before: u64, to: u64) -> Result<Cursor, StoreError>;

    /// The first message that is to be sent again, and its name for [`LocalStore::said_again`].
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    fn again(&self) -> Result<Option<(u64, pb::SendRequest)>, StoreError>;

    /// It was sent again, or never will be.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    fn said_again(&self, name: u64) -> Result<(), StoreError>;

    /// The last `limit` messages with another user, or of a group, in the order of their positions.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    fn messages(&self, other: u64, limit: usize) -> Result<Vec<Stored>, StoreError>;

    /// Everybody with whom there are messages, in no particular order.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    fn conversations(&self) -> Result<Vec<u64>, StoreError>;

    /// How many messages of another user the own user has not read (see [`pb::Conversation`]); `most` at
    /// most are looked at, newest first.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    fn unread(&self, other: u64, most: usize) -> Result<usize, StoreError> {
        let (read, own) = (self.conversation(other)?.read, self.owner());
        let unread = |stored: &&Stored| {
            stored.message.sender != own && !stored.message.recalled && stored.pos.count > read
        };
        Ok(self.messages(other, most)?.iter().filter(unread).count())
    }

    /// Unread messages of all conversations that are not muted: what an icon shows. Stops at `most`.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    fn badge(&self, most: usize) -> Result<usize, StoreError> {
        let mut badge = 0;
        for other in self.conversations()? {
            if badge < most && !self.conversation(other)?.muted {
                badge += self.unread(other, most - badge)?;
            }
        }
        Ok(badge)
    }

    /// How far both have read in a conversation, and whether it is muted.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    fn conversation(&self, other: u64) -> Result<pb::Conversation, StoreError> {
        match self.state(pb::Kind::Conversation, other)? {
            None => Ok(pb::Conversation::default()),
            Some(item) => {
                pb::Conversation::decode(item.payload).map_err(|error| StoreError::Malformed {
                    number: item.number,
                    kind: item.kind,
                    what: error.to_string(),
                })
            }
        }
    }

    /// The newest `limit` posts of the user and of friends, newest first.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    fn posts(&self, limit: usize) -> Result<Vec<pb::PostPointer>, StoreError> {
        let mut items = self.states(pb::Kind::Post)?;
        items.retain(|item| !item.deleted);
        items.sort_unstable_by_key(|item| std::cmp::Reverse(item.number));
        let posts = items.into_iter().take(limit).map(|item| {
            pb::PostPointer::decode(item.payload).map_err(|error| StoreError::Malformed {
                number: item.number,
                kind: item.kind,
                what: error.to_string(),
            })
        });
        posts.collect()
    }

    /// The newest version of a state item.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    fn state(&self, kind: pb::Kind, id: u64) -> Result<Option<pb::Item>, StoreError>;

    /// The newest versions of all state items of a kind, in the order of their ids.
    ///
    /// # Errors
    /// [`StoreError`] when the disk fails.
    fn states(&self, kind: pb::Kind) -> Result<Vec<pb::Item>, StoreError>;
}

/// A message as the store shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Number of its item in the own timeline.
    pub number: u64,
    /// Its place in the conversation.
    pub pos: Pos,
    /// Sender, receiver, text.
    pub message: pb::Message,
}

/// Why something could not be stored or read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The caller's key is not the store's: two writers, or a driver that skipped a step.
    #[error("the store is at key {stored}, not {claimed}; restart the terminal")]
    OutOfStep {
        /// What the store holds.
        stored: u64,
        /// What the caller believed.
        claimed: u64,
    },
    /// An item whose payload does not decode, or that lacks its position.
    #[error("item {number} of kind {kind} is malformed: {what}")]
    Malformed {
        /// Its number in the timeline.
        number: u64,
        /// Its kind, as it came.
        kind: i32,
        /// What is wrong with it.
        what: String,
    },
    /// Another process has the directory.
    #[error("{0} is in use by another process; end it, or choose another directory")]
    Locked(String),
    /// The disk or the engine failed.
    #[error("the local store failed: {0}")]
    Engine(String),
}

/// Where an item belongs.
#[derive(Clone, Debug, PartialEq)]
enum Place {
    /// In the conversation with `other`.
    Message {
        other: u64,
        pos: Pos,
        message: Box<pb::Message>,
        /// Where versions before this one may stand (D-4).
        before: Vec<Pos>,
    },
    /// The state of (kind, id).
    State,
    /// A kind of a later version: the key moves past it.
    Unknown,
}

/// A message to a group stands last until the group's home has placed it.
fn unplaced(sender: u64) -> Pos {
    Pos {
        count: u64::MAX,
        sender,
    }
}

/// What is to be sent again of a message that was lost: under its old client id, and its old position unless a
/// group's home gives that.
fn lost_words(owner: u64, count: u64, message: pb::Message) -> Option<pb::SendRequest> {
    let own = message.sender == owner && !message.recalled;
    if !own || ClientMsgId::from_bytes(&message.client_id).is_none() {
        return None;
    }
    let to_group = UserId(message.receiver).is_group();
    let count = if to_group { 0 } else { count };
    let outgoing = pb::Outgoing {
        client_id: message.client_id,
        text: message.text,
        extra: message.extra,
        count,
    };
    Some(pb::SendRequest {
        receiver: message.receiver,
        messages: vec![outgoing],
        key: 0,
        geo: false,
    })
}

/// Decides where an item of `owner`'s timeline belongs.
fn place(owner: u64, item: &pb::Item) -> Result<Place, StoreError> {
    let malformed = |what: String| StoreError::Malformed {
        number: item.number,
        kind: item.kind,
        what,
    };
    match pb::Kind::try_from(item.kind) {
        Ok(pb::Kind::Message) => {
            let message =
                pb::Message::decode(item.payload.clone()).map_err(|e| malformed(e.to_string()))?;
            let pos = item
                .pos
                .ok_or_else(|| malformed("a message without a position".to_owned()))?;
            let to_group = UserId(message.receiver).is_group();
            let other = if message.sender == owner || to_group {
                message.receiver
            } else {
                message.sender
            };
            let pos = match pos.count {
                0 => unplaced(pos.sender),
                _ => pos.into(),
            };
            let mut before = Vec::new();
            if item.version > 1 {
                before.push(pos);
                if to_group && message.sender == owner {
                    before.push(unplaced(owner));
                }
            }
            Ok(Place::Message {
                other,
                pos,
                message: Box::new(message),
                before,
            })
        }
        Ok(
            pb::Kind::Account
            | pb::Kind::Contact
            | pb::Kind::Refused
            | pb::Kind::Conversation
            | pb::Kind::Group
            | pb::Kind::Post
            | pb::Kind::Comment,
        ) => Ok(Place::State),
        Ok(pb::Kind::Unspecified | pb::Kind::Head) | Err(_) => Ok(Place::Unknown),
    }
}

#[cfg(test)]
mod tests;
