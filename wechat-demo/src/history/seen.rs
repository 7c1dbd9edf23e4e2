//! Items and messages in the few words that the checker compares.

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::proto::terminal as pb;

/// A message about to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Client id, in hexadecimal.
    pub c: String,
    /// Hash of the text.
    pub h: u64,
}

/// An item as a terminal got it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Number in the timeline.
    pub n: u64,
    /// Kind.
    pub k: i32,
    /// Id within the kind.
    pub i: u64,
    /// Version.
    pub v: u64,
    /// Hash of the text of a message, of the whole payload else.
    pub h: u64,
    /// Place in the conversation, of a message.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p: Option<(u64, u64)>,
    /// Client id of a message, or of the message that was refused.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub c: Option<String>,
    /// Sender and receiver of a message.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub who: Option<(u64, u64)>,
    /// State of a contact.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub s: Option<i32>,
    /// Deleted.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub x: bool,
    /// Recalled, of a message; left, of a group.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub g: bool,
    /// Members of a group, each with the position after which it has the messages.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub m: Vec<(u64, u64)>,
    /// Marks of a conversation: received and read, the other's received and read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub r: Option<[u64; 4]>,
}

impl Seen {
    /// An item in these words. A payload that does not decode is left to the hash.
    #[must_use]
    pub fn of(item: &pb::Item) -> Self {
        let mut seen = Self {
            n: item.number,
            k: item.kind,
            i: item.id,
            v: item.version,
            h: hash_of(&item.payload),
            p: item.pos.map(|pos| (pos.count, pos.sender)),
            x: item.deleted,
            ..Self::default()
        };
        match pb::Kind::try_from(item.kind) {
            Ok(pb::Kind::Message) => {
                if let Ok(message) = pb::Message::decode(item.payload.clone()) {
                    seen.h = hash_of(message.text.as_bytes());
                    seen.c = Some(cmid(&message.client_id));
                    seen.who = Some((message.sender, message.receiver));
                    seen.g = message.recalled;
                }
            }
            Ok(pb::Kind::Refused) => {
                if let Ok(refused) = pb::Refused::decode(item.payload.clone()) {
                    seen.c = Some(cmid(&refused.client_id));
                }
            }
            Ok(pb::Kind::Contact) => {
                if let Ok(contact) = pb::Contact::decode(item.payload.clone()) {
                    seen.s = Some(contact.state);
                }
            }
            Ok(pb::Kind::Group) => {
                if let Ok(group) = pb::Group::decode(item.payload.clone()) {
                    let members = group.members.iter();
                    seen.m = members.map(|one| (one.user_id, one.joined)).collect();
                    seen.g = group.left;
                }
            }
            Ok(pb::Kind::Conversation) => {
                if let Ok(marks) = pb::Conversation::decode(item.payload.clone()) {
                    let theirs = (marks.peer_received, marks.peer_read);
                    seen.r = Some([marks.received, marks.read, theirs.0, theirs.1]);
                }
            }
            _ => {}
        }
        seen
    }
}

/// Bytes in hexadecimal: client ids, requests.
#[must_use]
pub fn cmid(id: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(2 * id.len());
    for byte in id {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

/// The bytes of [`cmid`]'s text; `None` if it is none.
#[must_use]
pub fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// The first eight bytes of BLAKE3.
#[must_use]
pub fn hash_of(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    let (first, _) = hash.as_bytes().split_at(8);
    u64::from_be_bytes(first.try_into().expect("eight bytes are eight bytes"))
}
