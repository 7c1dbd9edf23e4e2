//! What a shard does: requests from logic, and effects of tasks from other shards.
//!
//! Each checks first and changes afterwards: what is refused has changed nothing. It all happens in
//! memory, in the draft of the shard's next entry; nobody sees it before that is committed.

use bytes::Bytes;
use prost::Message;

use super::{
    engine::{EngineError, Span, Table},
    sequence::Given,
    shard::{Draft, Home, Shard},
    table::{self, Key},
};
use crate::{
    model::{ClientMsgId, DeviceId, Placement, Seq, ShardId, Site, UserId},
    proto::{
        storage as pb,
        terminal::{self, Kind, change_request::Change},
    },
};

mod account;
mod amend;
mod bond;
mod contact;
mod conversation;
pub mod floor;
mod group;
mod message;
mod moments;
mod once;
mod push;
mod roster;
pub mod task;

pub use contact::takes;

/// A request that changes something.
#[derive(Clone, PartialEq, Debug)]
pub enum Op {
    /// Gives a name to a new user.
    ClaimName(pb::ClaimNameRequest),
    /// Makes the account of a user whose name was claimed.
    CreateAccount(pb::CreateAccountRequest),
    /// Makes a device known, with its token.
    AddDevice(pb::AddDeviceRequest),
    /// Forgets a device and so revokes its token.
    RemoveDevice(pb::RemoveDeviceRequest),
    /// Sends messages to one receiver.
    Send(pb::SendMessages),
    /// Asks somebody to be a contact.
    AskContact(pb::AskContactRequest),
    /// Says yes to somebody who asked.
    AcceptContact(pb::AcceptContactRequest),
    /// Changes something of one user's.
    Change(pb::ChangeUser),
    /// Notes what became of a push.
    SettlePush(pb::SettledPush),
    /// Applies tasks of another home's.
    Deliver(pb::Parcel),
    /// Notes up to where a device has everything.
    Acknowledge(floor::Acknowledged),
}

/// What an [`Op`] came to. It is told only once it is committed.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// Of [`Op::ClaimName`].
    Claimed(pb::ClaimNameReply),
    /// Of [`Op::Send`].
    Sent(terminal::SendReply),
    /// Of the ops that put one item into the caller's timeline: its number.
    Number(Seq),
    /// Of a change that makes a group, a post or a comment.
    Made {
        /// Its id.
        id: u64,
        /// Of its item in the caller's timeline; zero = none yet.
        number: Seq,
    },
    /// Of [`Op::Deliver`]: the stream is applied up to here.
    Reached(u64),
    /// Of the others.
    Done,
}

/// Why a request was not done; nothing was changed. The text is for whoever called.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// Whose fault it is.
    pub kind: RefusalKind,
    /// What is wrong and what to do.
    pub text: String,
}

/// Kinds of refusals, named as the status codes they become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusalKind {
    /// The request can never succeed.
    InvalidArgument,
    /// What it names does not exist.
    NotFound,
    /// The id is taken by something else.
    AlreadyExists,
    /// Not in the state things are in.
    FailedPrecondition,
    /// Something else is to be done first; then again.
    Aborted,
    /// It is somebody else's to do.
    PermissionDenied,
    /// The token is not good.
    Unauthenticated,
    /// Try again later, or elsewhere.
    Unavailable,
    /// The caller's time is over; whether it was done is not known.
    DeadlineExceeded,
    /// The store's own trouble.
    Internal,
}

/// How an op can end short of an answer.
#[derive(Debug)]
pub enum Stop {
    /// The caller is told.
    Refused(Refusal),
    /// The store cannot go on: what it reads is not what it wrote.
    Fatal(EngineError),
}

impl Op {
    /// The shard that must do it.
    pub fn shard(&self, place: Placement) -> ShardId {
        let user = match self {
            Self::ClaimName(request) => return place.shard_of_name(&request.name),
            Self::Deliver(parcel) => return task::shard(parcel),
            Self::CreateAccount(request) => request.user_id,
            Self::AddDevice(request) => request.user_id,
            Self::RemoveDevice(request) => request.user_id,
            Self::Send(request) => request.sender,
            Self::AskContact(request) => request.user_id,
            Self::AcceptContact(request) => request.user_id,
            Self::Change(request) => request.user_id,
            Self::SettlePush(request) => request.user_id,
            Self::Acknowledge(noted) => noted.user.0,
        };
        place.shard(UserId(user))
    }

    /// How much room it takes while it waits, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::ClaimName(request) => request.encoded_len(),
                Self::CreateAccount(request) => request.encoded_len(),
                Self::AddDevice(request) => request.encoded_len(),
                Self::RemoveDevice(request) => request.encoded_len(),
                Self::Send(request) => request.encoded_len(),
                Self::AskContact(request) => request.encoded_len(),
                Self::AcceptContact(request) => request.encoded_len(),
                Self::Change(request) => request.encoded_len(),
                Self::SettlePush(request) => request.encoded_len(),
                Self::Deliver(parcel) => parcel.encoded_len(),
                Self::Acknowledge(_) => 0,
            }
    }

    /// Does it in `draft`.
    pub fn execute(
        &self,
        shard: &mut Shard,
        home: Home,
        draft: &mut Draft<'_>,
    ) -> Result<Answer, Stop> {
        let mut work = Work { shard, home, draft };
        match self {
            Self::ClaimName(request) => account::claim_name(&mut work, request),
            Self::CreateAccount(request) => account::create(&mut work, request),
            Self::AddDevice(request) => account::add_device(&mut work, request),
            Self::RemoveDevice(request) => account::remove_device(&mut work, request),
            Self::Send(request) => message::send(&mut work, request),
            Self::AskContact(request) => contact::ask(&mut work, request),
            Self::AcceptContact(request) => contact::accept(&mut work, request),
            Self::Change(request) => change(&mut work, request),
            Self::SettlePush(request) => push::settle(&mut work, request),
            Self::Deliver(parcel) => task::deliver(&mut work, parcel),
            Self::Acknowledge(noted) => floor::acknowledge(&mut work, noted),
        }
    }
}

impl Refusal {
    /// A refusal of a kind.
    pub fn new(kind: RefusalKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<EngineError> for Stop {
    fn from(error: EngineError) -> Self {
        Self::Fatal(error)
    }
}

/// One op at work: the shard, and the draft it changes.
struct Work<'w, 'e> {
    shard: &'w mut Shard,
    home: Home,
    draft: &'w mut Draft<'e>,
}

impl Work<'_, '_> {
    /// The shard at work.
    fn site(&self) -> Site {
        Site {
            home: self.home.id,
            shard: self.shard.id,
        }
    }

    /// Gives the next number of `user` to an item and adds it to the timeline.
    fn add_item(
        &mut self,
        user: UserId,
        make: impl FnOnce(u64) -> terminal::Item,
    ) -> Result<Given, EngineError> {
        let given = self.shard.give_number(self.draft, self.home, user)?;
        let item = make(given.number.0);
        if item.deleted {
            floor::note_deletion(self, user, given.number);
        }
        self.draft
            .add_item(user, given, item.encode_to_vec().into());
        Ok(given)
    }

    /// The next version of a state item; the version before it goes.
    fn put_state(
        &mut self,
        user: UserId,
        kind: Kind,
        id: u64,
        version: u64,
        before: Option<Seq>,
        payload: &impl Message,
    ) -> Result<Seq, EngineError> {
        let given = self.add_item(user, |number| terminal::Item {
            version,
            ..plain_item(number, kind, id, payload)
        })?;
        if let Some(before) = before {
            self.draft.supersede(user, before);
        }
        Ok(given.number)
    }

    /// What became of a request that makes something under a client id; `what` it makes.
    fn once(
        &self,
        user: UserId,
        client_id: &[u8],
        what: &str,
        request: &impl Message,
    ) -> Result<Once, Stop> {
        let id = ClientMsgId::from_bytes(client_id).ok_or_else(|| {
            let text = format!("a client id has 8 to 16 bytes, not {}", client_id.len());
            Refusal::new(RefusalKind::InvalidArgument, text)
        })?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(what.as_bytes());
        hasher.update(&request.encode_to_vec());
        let body_hash = Bytes::copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        let key = table::sent(user, id);
        match self.draft.message::<pb::SentRow>(&key)? {
            None => Ok(Once::New(Making { key, body_hash })),
            Some(row) if row.body_hash == body_hash => Ok(Once::Before(row)),
            Some(_) => {
                let text = format!("client id {id} was used for something else; make a new one");
                Err(Refusal::new(RefusalKind::AlreadyExists, text).into())
            }
        }
    }

    /// Ids at the end of the first keys of `Rows` from `from` to `to`, as the tables have them.
    fn first_ids(&self, from: &Key, to: &Key, most: usize) -> Result<Vec<u64>, EngineError> {
        let span = Span {
            from,
            to,
            backwards: false,
        };
        let mut ids = Vec::with_capacity(most);
        self.draft.engine().scan(Table::Rows, span, &mut |key, _| {
            ids.extend(table::last_id(key));
            ids.len() < most
        })?;
        Ok(ids)
    }

    /// Sends word back to `user` that something was not taken elsewhere.
    fn refuse(&mut self, user: UserId, refused: terminal::Refused) {
        let refused = Some(refused);
        self.add_task(&pb::Task {
            user_id: user.0,
            effect: Some(pb::task::Effect::Refuse(pb::Refuse { refused })),
        });
    }

    /// Sends a task to the home of the user it is for.
    fn add_task(&mut self, task: &pb::Task) {
        let to = self.home.place.site(UserId(task.user_id));
        self.draft
            .add_task(self.shard, self.home, to, task.encode_to_vec().into());
    }
}

/// Whether something was made before.
enum Once {
    /// It was; this is what was answered.
    Before(pb::SentRow),
    /// It is new.
    New(Making),
}

/// Something that is being made for the first time.
struct Making {
    key: Key,
    body_hash: Bytes,
}

impl Making {
    /// Notes that it was made, under which id, and with which number in the user's timeline.
    fn done(self, work: &mut Work<'_, '_>, id: u64, number: Seq) -> pb::SentRow {
        let row = pb::SentRow {
            body_hash: self.body_hash,
            message_id: id,
            number: number.0,
            ..pb::SentRow::default()
        };
        work.draft.put_message(&self.key, &row);
        row
    }
}

/// What one user changes of its own.
fn change(work: &mut Work<'_, '_>, call: &pb::ChangeUser) -> Result<Answer, Stop> {
    let user = UserId(call.user_id);
    if let Some(password) = &call.password {
        return account::set_password(work, user, DeviceId(call.device_id), password);
    }
    if let Some(end) = &call.end {
        return account::delete(work, user, end);
    }
    account::check_there(work, user)?;
    match call
        .request
        .as_ref()
        .and_then(|request| request.change.as_ref())
    {
        Some(Change::Remark(remark)) => contact::remark(work, user, remark),
        Some(Change::Block(block)) => contact::block(work, user, block),
        Some(Change::RemoveContact(peer)) => contact::remove(work, user, UserId(peer.user_id)),
        Some(Change::Edit(edit)) => amend::edit(work, user, edit),
        Some(Change::Recall(recall)) => amend::recall(work, user, *recall),
        Some(Change::React(react)) => amend::react(work, user, react),
        Some(Change::Mark(mark)) => conversation::mark(work, user, mark),
        Some(Change::Mute(mute)) => conversation::mute(work, user, mute),
        Some(Change::Profile(profile)) => account::set_profile(work, user, profile),
        Some(Change::LogOut(device)) => account::log_out(work, user, DeviceId(device.device_id)),
        Some(Change::CreateGroup(create)) => group::create(work, user, create),
        Some(Change::Group(change)) => group::change(work, user, change),
        Some(Change::PushToken(set)) => {
            push::set_token(work, user, DeviceId(call.device_id), &set.token)
        }
        Some(Change::NewPost(post)) => moments::post(work, user, post),
        Some(Change::DeletePost(post)) => moments::delete_post(work, user, post.post_id),
        Some(Change::NewComment(comment)) => moments::comment(work, user, comment),
        Some(Change::Like(like)) => moments::like(work, user, like),
        Some(Change::DeleteComment(comment)) => moments::delete_comment(work, user, comment),
        Some(Change::NewPassword(_) | Change::DeleteAccount(_)) | None => {
            let text = "the request names no change that is known here";
            Err(Refusal::new(RefusalKind::InvalidArgument, text).into())
        }
    }
}

/// An item without a position, in its first version.
fn plain_item(number: u64, kind: Kind, id: u64, payload: &impl Message) -> terminal::Item {
    terminal::Item {
        number,
        kind: kind.into(),
        id,
        version: 1,
        pos: None,
        payload: payload.encode_to_vec().into(),
        deleted: false,
    }
}
