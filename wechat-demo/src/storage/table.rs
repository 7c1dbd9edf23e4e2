//! The keys of all tables. Part of the disk format: integers are big-endian, so rows sort by them.

use std::{fmt, hash, ops::Deref};

use crate::model::{
    ClientMsgId, DeviceId, HomeId, Incarnation, SectionId, Seq, ShardId, Site, UserId,
};

/// A key, built on the stack.
#[derive(Clone)]
pub struct Key {
    len: u8,
    bytes: [u8; Self::MAX],
}

impl Key {
    /// The longest key: a tag and a name.
    pub const MAX: usize = 1 + crate::model::limits::NAME_BYTES;

    /// A key of the given parts; together at most [`Key::MAX`] bytes.
    pub fn new(parts: &[&[u8]]) -> Self {
        let mut bytes = [0; Self::MAX];
        let mut len = 0;
        for part in parts {
            bytes[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        }
        Self {
            len: len as u8,
            bytes,
        }
    }

    fn tagged(tag: Tag, parts: &[&[u8]]) -> Self {
        let mut key = Self::new(&[&[tag as u8]]);
        for part in parts {
            let len = usize::from(key.len);
            key.bytes[len..len + part.len()].copy_from_slice(part);
            key.len += part.len() as u8;
        }
        key
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Key {}

impl hash::Hash for Key {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        state.write(self);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// First byte of a key in `Rows`.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Tag {
    Name = 1,
    Account = 2,
    Device = 3,
    Contact = 4,
    Sent = 5,
    Conversation = 6,
    Held = 7,
    Section = 8,
    Counter = 9,
    StreamOut = 10,
    StreamIn = 11,
    Marks = 12,
    Group = 13,
    GroupCopy = 14,
    Push = 15,
    PushDevices = 16,
    Post = 17,
    Comment = 18,
    Survived = 19,
    Deletion = 20,
    Floor = 21,
    GroupCount = 31,
    GroupSeen = 32,
    GroupMember = 33,
    Contacts = 30,
}

/// What a shard counts besides its users' numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Counter {
    /// User ids given out by a shard of names.
    Users = 1,
    /// Message ids.
    Messages = 2,
    /// Group ids.
    Groups = 3,
}

// ---- Log, Meta ----

/// `Log`: one entry.
pub fn log(shard: ShardId, offset: u64) -> Key {
    Key::new(&[&[shard.0], &offset.to_be_bytes()])
}

/// `Meta`: what the store is.
pub fn store() -> Key {
    Key::new(&[&[1]])
}

/// `Meta`: offset up to which a shard's entries are in the tables.
pub fn applied(shard: ShardId) -> Key {
    Key::new(&[&[2, shard.0]])
}

/// `Meta`: the last entry that was trimmed from a shard's log.
pub fn log_base(shard: ShardId) -> Key {
    Key::new(&[&[3, shard.0]])
}

/// `Meta`: that a copy into the store is not finished.
pub fn copying() -> Key {
    Key::new(&[&[5]])
}

/// `Meta`: which disk this is.
pub fn disk() -> Key {
    Key::new(&[&[4]])
}

/// Whether a key of `Meta` says what the disk is, whatever lies on it.
pub fn is_disks_own(key: &[u8]) -> bool {
    [store(), disk()].iter().any(|own| **own == *key)
}

// ---- Timeline, Tasks ----

/// `Timeline`: one item.
pub fn item(user: UserId, number: Seq) -> Key {
    Key::new(&[&user.0.to_be_bytes(), &number.0.to_be_bytes()])
}

/// The number in a key made by [`item`].
pub fn item_number(key: &[u8]) -> Option<Seq> {
    let number = key.get(8..16)?;
    Some(Seq(u64::from_be_bytes(number.try_into().ok()?)))
}

/// `Tasks`: task `n` of a stream.
pub fn task(from: ShardId, incarnation: Incarnation, to: Site, n: u64) -> Key {
    Key::new(&[
        &[from.0],
        &incarnation.0.to_be_bytes(),
        &[to.home.0, to.shard.0],
        &n.to_be_bytes(),
    ])
}

/// The `n` in a key made by [`task`].
pub fn task_n(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(5..13)?.try_into().ok()?))
}

// ---- Rows ----

/// Whose a name is.
pub fn name(name: &str) -> Key {
    Key::tagged(Tag::Name, &[name.as_bytes()])
}

/// A user's account.
pub fn account(user: UserId) -> Key {
    Key::tagged(Tag::Account, &[&user.0.to_be_bytes()])
}

/// One of a user's devices.
pub fn device(user: UserId, device: DeviceId) -> Key {
    Key::tagged(
        Tag::Device,
        &[&user.0.to_be_bytes(), &device.0.to_be_bytes()],
    )
}

/// The list of a user's devices.
pub fn devices(user: UserId) -> Key {
    Key::tagged(Tag::Device, &[&user.0.to_be_bytes()])
}

/// What `peer` is to `user`.
pub fn contact(user: UserId, peer: UserId) -> Key {
    Key::tagged(
        Tag::Contact,
        &[&user.0.to_be_bytes(), &peer.0.to_be_bytes()],
    )
}

/// How many contacts `user` has: friends, and those where one has asked.
pub fn contacts(user: UserId) -> Key {
    Key::tagged(Tag::Contacts, &[&user.0.to_be_bytes()])
}

/// What became of a message that `sender` sent under a client id.
pub fn sent(sender: UserId, id: ClientMsgId) -> Key {
    Key::tagged(Tag::Sent, &[&sender.0.to_be_bytes(), &id.0])
}

/// Highest position count that `user`'s home has seen in the conversation with `peer`.
pub fn conversation(user: UserId, peer: UserId) -> Key {
    Key::tagged(
        Tag::Conversation,
        &[&user.0.to_be_bytes(), &peer.0.to_be_bytes()],
    )
}

/// How far `user` and `peer` have read what the other said.
pub fn marks(user: UserId, peer: UserId) -> Key {
    Key::tagged(Tag::Marks, &[&user.0.to_be_bytes(), &peer.0.to_be_bytes()])
}

/// A group, at its home.
pub fn group(group: UserId) -> Key {
    Key::tagged(Tag::Group, &[&group.0.to_be_bytes()])
}

/// What a shard with members knows of a group.
pub fn group_copy(shard: ShardId, group: UserId) -> Key {
    Key::tagged(Tag::GroupCopy, &[&[shard.0], &group.0.to_be_bytes()])
}

/// The last position that a group's home has given.
pub fn group_count(group: UserId) -> Key {
    Key::tagged(Tag::GroupCount, &[&group.0.to_be_bytes()])
}

/// How far a shard with members has heard of a group.
pub fn group_seen(shard: ShardId, group: UserId) -> Key {
    Key::tagged(Tag::GroupSeen, &[&[shard.0], &group.0.to_be_bytes()])
}

/// A user as a member of a group that is stored once.
pub fn group_member(user: UserId, group: UserId) -> Key {
    Key::tagged(
        Tag::GroupMember,
        &[&user.0.to_be_bytes(), &group.0.to_be_bytes()],
    )
}

/// A post, at its author's home. Ids given at one shard rise, so an album sorts by age.
pub fn post(author: UserId, post_id: u64) -> Key {
    Key::tagged(
        Tag::Post,
        &[&author.0.to_be_bytes(), &post_id.to_be_bytes()],
    )
}

/// What was said to a post, at the post's home.
pub fn comment(author: UserId, post_id: u64, comment_id: u64) -> Key {
    Key::tagged(
        Tag::Comment,
        &[
            &author.0.to_be_bytes(),
            &post_id.to_be_bytes(),
            &comment_id.to_be_bytes(),
        ],
    )
}

/// That a user's timeline holds the item of this kind and id, and under which number.
pub fn held(user: UserId, kind: i32, id: u64) -> Key {
    Key::tagged(
        Tag::Held,
        &[&user.0.to_be_bytes(), &[kind as u8], &id.to_be_bytes()],
    )
}

/// The id at the end of a key made by [`held`] or [`post`].
pub fn last_id(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*key.last_chunk()?))
}

/// That a device of a user is to be woken.
pub fn push(user: UserId, device: DeviceId) -> Key {
    Key::tagged(Tag::Push, &[&user.0.to_be_bytes(), &device.0.to_be_bytes()])
}

/// Where pushes reach a user's devices.
pub fn push_devices(user: UserId) -> Key {
    Key::tagged(Tag::PushDevices, &[&user.0.to_be_bytes()])
}

/// `max_seq` of a section.
pub fn section(section: SectionId) -> Key {
    Key::tagged(Tag::Section, &[&section.0.to_be_bytes()])
}

/// How far a counter may have got.
pub fn counter(shard: ShardId, counter: Counter) -> Key {
    Key::tagged(Tag::Counter, &[&[shard.0, counter as u8]])
}

/// Last `n` given out in a stream, at its source.
pub fn stream_out(from: ShardId, incarnation: Incarnation, to: Site) -> Key {
    stream(Tag::StreamOut, from, incarnation, to)
}

/// Last `n` applied of a stream, at its destination.
pub fn stream_in(from: Site, incarnation: Incarnation, to: ShardId) -> Key {
    stream(Tag::StreamIn, to, incarnation, from)
}

/// The keys of all streams that begin in a shard: first, and first past the last.
pub fn streams_out(from: ShardId) -> (Key, Key) {
    streams(Tag::StreamOut, from)
}

/// The keys of the marks of all streams that end in a shard.
pub fn streams_in(to: ShardId) -> (Key, Key) {
    streams(Tag::StreamIn, to)
}

fn stream(tag: Tag, own: ShardId, incarnation: Incarnation, other: Site) -> Key {
    let other = [other.home.0, other.shard.0];
    Key::tagged(tag, &[&[own.0], &incarnation.0.to_be_bytes(), &other])
}

fn streams(tag: Tag, own: ShardId) -> (Key, Key) {
    (
        Key::tagged(tag, &[&[own.0]]),
        Key::tagged(tag, &[&[own.0], &[0xff; 5]]),
    )
}

/// Incarnation and the other end in a key made by [`stream_out`] or [`stream_in`].
pub fn stream_of(key: &[u8]) -> Option<(Incarnation, Site)> {
    let [high, low, home, shard] = *key.get(2..)? else {
        return None;
    };
    let other = Site {
        home: HomeId(home),
        shard: ShardId(shard),
    };
    Some((Incarnation(u16::from_be_bytes([high, low])), other))
}

/// The last number of a user that was there when numbers of this incarnation were first given to them.
pub fn survived(user: UserId, incarnation: Incarnation) -> Key {
    Key::tagged(
        Tag::Survived,
        &[&user.0.to_be_bytes(), &incarnation.0.to_be_bytes()],
    )
}

/// When an item was put into a timeline that says that something was deleted.
pub fn deletion(user: UserId, number: Seq) -> Key {
    Key::tagged(
        Tag::Deletion,
        &[&user.0.to_be_bytes(), &number.0.to_be_bytes()],
    )
}

/// The number in a key made by [`deletion`].
pub fn deletion_number(key: &[u8]) -> Option<Seq> {
    item_number(key.get(1..)?)
}

/// The highest number at which something was collected from a user's timeline.
pub fn floor(user: UserId) -> Key {
    Key::tagged(Tag::Floor, &[&user.0.to_be_bytes()])
}

/// Reads a row that is one number.
pub fn number(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}
