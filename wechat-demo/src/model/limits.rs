//! How large things may be, in one place.
//!
//! Everything that comes from outside is checked against these before it is kept.

/// Bytes of a user name: UTF-8, no white space, no control characters.
pub const NAME_BYTES: usize = 64;
/// Bytes of a nickname.
pub const NICKNAME_BYTES: usize = 128;
/// Bytes of an avatar: a URL, or a media store's file id.
pub const AVATAR_BYTES: usize = 256;
/// Contacts that one step of a deletion parts from.
pub const ERASED_CONTACTS: usize = 500;
/// Groups that one step of a deletion leaves.
pub const ERASED_GROUPS: usize = 200;
/// Posts that one step of a deletion takes down.
pub const ERASED_POSTS: usize = 8;
/// Bytes of a password: at least.
pub const PASSWORD_MIN_BYTES: usize = 6;
/// Bytes of a password: at most. argon2 is fed no more.
pub const PASSWORD_MAX_BYTES: usize = 256;
/// Passwords a second that may be tried for one account in the long run, four seconds' worth at once.
pub const PASSWORDS_PER_SECOND: u32 = 2;
/// Bytes of a device's label.
pub const DEVICE_LABEL_BYTES: usize = 128;
/// Devices a user has at once; a further login logs the oldest out.
pub const DEVICES_PER_USER: usize = 32;
/// Bytes of a contact request's greeting.
pub const GREETING_BYTES: usize = 512;
/// Contacts of a user: friends, and those where one has asked and the other has not answered.
pub const CONTACTS_PER_USER: u64 = 5000;
/// Bytes of a message's text.
pub const TEXT_BYTES: usize = 8192;
/// Members up to which each gets a copy of what is said in a group; one that has had more is stored once.
pub const GROUP_COPIED: usize = 500;
/// Members of a group.
pub const GROUP_MEMBERS: usize = 5000;
/// Memberships of one user in one group stored once that are remembered, the newest; of what was said in those before
/// a fresh device gets nothing.
pub const GROUP_MEMBERSHIPS: usize = 16;
/// Users named in one change of a group.
pub const GROUP_NAMED: usize = GROUP_COPIED - 1;
/// Bytes of a group's name.
pub const GROUP_NAME_BYTES: usize = 128;
/// Bytes of a group's announcement.
pub const ANNOUNCEMENT_BYTES: usize = 2048;
/// Users mentioned in one message.
pub const MENTIONS: usize = 32;
/// Bytes of a media pointer's file id.
pub const FILE_ID_BYTES: usize = 128;
/// Bytes of a media pointer's display name.
pub const FILE_NAME_BYTES: usize = 256;
/// Bytes of a media pointer's hash (blake3).
pub const HASH_BYTES: usize = 32;
/// Bytes of a media pointer's key.
pub const MEDIA_KEY_BYTES: usize = 32;
/// Bytes of a media pointer's content type.
pub const CONTENT_TYPE_BYTES: usize = 64;
/// Bytes of the text that a reply quotes.
pub const QUOTE_BYTES: usize = 256;
/// Reactions to one message; those that come later are not shown.
pub const REACTIONS: usize = 32;
/// Bytes of a reaction.
pub const EMOJI_BYTES: usize = 32;
/// Bytes of what a user calls a contact.
pub const REMARK_BYTES: usize = 128;
/// Bytes of a message's [`Extra`](crate::proto::terminal::Extra), encoded, with all of the above at their most.
pub const EXTRA_BYTES: usize = 1280;
/// Bytes of a post's text.
pub const POST_TEXT_BYTES: usize = 4096;
/// Pictures and the like of a post.
pub const POST_MEDIA: usize = 9;
/// Users named by a post's audience.
pub const AUDIENCE_USERS: usize = 500;
/// Bytes of a comment.
pub const COMMENT_BYTES: usize = 512;
/// Comments and likes that a post takes, those that were deleted included.
pub const POST_COMMENTS: u64 = 1000;
/// Members of a page of a group's when the terminal does not say.
pub const MEMBERS_DEFAULT: usize = 200;
/// Members of a page of a group's at most.
pub const MEMBERS_MAX: usize = 1000;
/// Posts of an album's page when the terminal does not say.
pub const ALBUM_DEFAULT_POSTS: usize = 20;
/// Posts of an album's page at most.
pub const ALBUM_MAX_POSTS: usize = 50;
/// Users whom one task tells of a post or a comment.
pub const MOMENT_USERS: usize = 500;
/// Items that one task ends: users times comments.
pub const GONE_ITEMS: usize = 16_384;
/// Messages of one send request.
pub const MESSAGES_PER_SEND: usize = 32;
/// Items of a sync page when the terminal does not say.
pub const SYNC_DEFAULT_ITEMS: usize = 200;
/// Items of a sync page at most.
pub const SYNC_MAX_ITEMS: usize = 1000;
/// Bytes of items after which a page ends even if more would be allowed; the page's last item may go over it.
pub const SYNC_PAGE_BYTES: usize = 512 << 10;
/// Links in one call that registers or drops them; targets in one notify call.
pub const LINKS_PER_CALL: usize = 512;
/// Live links a user has at once; a further one takes the place of the one that expires first.
pub const LINKS_PER_USER: usize = 32;
/// Users with live links that one store remembers.
pub const LINKED_USERS: usize = 1 << 20;
/// Contacts whose presence one device asks for.
pub const WATCHED_USERS: usize = 64;
/// Pairs of device and contact that one store watches; beyond, a question is answered and not watched.
pub const WATCHES: usize = 1 << 17;
/// Signs that one link, or one target of a notify call, holds; beyond, the oldest are forgotten.
pub const SIGNS: usize = 64;
/// Signs and questions for presence a second that one user may make in the long run.
pub const SIGNS_PER_SECOND: u32 = 4;
/// Bytes of an access process's address.
pub const ADDRESS_BYTES: usize = 64;
/// A registered link is forgotten after this if it is not renewed. Longer than the longest heartbeat (10 min).
pub const LINK_LIFE_MS: i64 = 15 * 60 * 1000;
/// Devices of a user that can be woken; a further one takes the place of the one that registered first.
pub const PUSH_DEVICES: usize = 8;
/// Hexadecimal digits of a push token: at least.
pub const PUSH_TOKEN_MIN_BYTES: usize = 16;
/// Hexadecimal digits of a push token: at most.
pub const PUSH_TOKEN_MAX_BYTES: usize = 200;
/// Pushes in one call that takes or settles them.
pub const PUSHES_PER_CALL: usize = 256;
/// A device with a live link has this long to sync before it is woken.
pub const PUSH_HOLD_MS: i64 = 10_000;
/// A token is good for this long.
pub const TOKEN_LIFE_MS: i64 = 30 * 24 * 3600 * 1000;
/// Bytes of items that travel inside a notify (NotifyData).
pub const INLINE_BYTES: usize = 1024;
/// Bytes of a frame of the long link: Mars' limit.
pub const FRAME_BYTES: usize = 1 << 20;
/// Requests that wait for the committer of one store; beyond, `Unavailable`.
pub const WAITING_REQUESTS: usize = 16_384;
/// Bytes of the requests that wait for the committer of one store; beyond, `Unavailable`.
pub const WAITING_BYTES: usize = 64 << 20;
/// Numbers by which `max_seq` is raised ahead (seqsvr's step).
pub const SEQ_STEP: u64 = 10_000;

/// An item's fields beside its payload, encoded, at most.
const ITEM_OVERHEAD: usize = 256;

const _: () = assert!(
    SYNC_PAGE_BYTES + TEXT_BYTES + EXTRA_BYTES + 4 * ITEM_OVERHEAD <= FRAME_BYTES,
    "a full sync page fits a frame"
);
const _: () = assert!(
    MESSAGES_PER_SEND * (TEXT_BYTES + EXTRA_BYTES + ITEM_OVERHEAD) <= FRAME_BYTES,
    "a full send request fits a frame"
);
/// A message with everything on it, encoded.
const MESSAGE_BYTES: usize =
    TEXT_BYTES + EXTRA_BYTES + REACTIONS * (EMOJI_BYTES + 16) + 2 * ITEM_OVERHEAD;
/// The roster of a group whose members have copies, encoded: 20 bytes a member.
const ROSTER_BYTES: usize =
    GROUP_COPIED * 20 + ANNOUNCEMENT_BYTES + GROUP_NAME_BYTES + 2 * ITEM_OVERHEAD;
/// Bytes of the push intents of one item, as rows.
const INTENTS_BYTES: usize = PUSH_DEVICES * 80;
/// Bytes that one task may add to a log entry: an item for each member of a group, all in one shard.
const LARGEST_TASK: usize = GROUP_COPIED
    * (INTENTS_BYTES
        + if MESSAGE_BYTES > ROSTER_BYTES {
            MESSAGE_BYTES
        } else {
            ROSTER_BYTES
        });
/// Bytes that a row of a group's log adds for one member: two heads and the membership, as rows, and the intents.
const HEADED_BYTES: usize = 2 * 96 + 64 + GROUP_MEMBERSHIPS * 24 + INTENTS_BYTES;
const _: () = assert!(
    GROUP_MEMBERS * HEADED_BYTES <= LARGEST_TASK && GROUP_MEMBERS * 20 <= LARGEST_TASK,
    "no task of a group that is stored once is larger than one that makes copies"
);
const _: () = assert!(
    LARGEST_TASK + (1 << 20) <= 8 << 20,
    "an entry with the largest task fits a log's row"
);
/// Bytes of a post as others see it, encoded.
const POST_BYTES: usize = POST_TEXT_BYTES
    + POST_MEDIA * (FILE_ID_BYTES + FILE_NAME_BYTES + 2 * HASH_BYTES + MEDIA_KEY_BYTES + 128)
    + 64;
const _: () = assert!(
    ALBUM_MAX_POSTS * (POST_BYTES + AUDIENCE_USERS * 10) <= FRAME_BYTES,
    "an album's page fits a frame"
);
const _: () = assert!(
    POST_BYTES + POST_COMMENTS as usize * (COMMENT_BYTES + 128) <= FRAME_BYTES,
    "a post with all that was said fits a frame"
);
const _: () = assert!(
    MOMENT_USERS * (COMMENT_BYTES + 2 * ITEM_OVERHEAD) <= LARGEST_TASK
        && GONE_ITEMS * ITEM_OVERHEAD <= LARGEST_TASK,
    "no task of moments is larger than a group's"
);
const _: () = assert!(SYNC_DEFAULT_ITEMS <= SYNC_MAX_ITEMS);
const _: () = assert!(NAME_BYTES < u8::MAX as usize, "a key's length fits a byte");
