//! What a user may do, in terms of what storage does.
//!
//! Every call of a logged-in user carries a [`lp::Caller`], set by access from the link's authentication; a
//! caller reads and writes its own timeline only, so no id in a request decides whose data is touched.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use rpc_core::{Code, Status};

use super::{
    check,
    moderate::Moderator,
    password::Passwords,
    rate::Rates,
    stores::{Stores, unread},
    token::Token,
};
use crate::{
    model::{
        DeviceId, HomeId, UserId,
        clock::Clock,
        limits::{PASSWORDS_PER_SECOND, SIGNS_PER_SECOND, TOKEN_LIFE_MS},
    },
    proto::{
        logic as lp, storage as pb,
        terminal::{self, GroupChange, Item, change_request::Change, group_change::What},
    },
};

/// The business over some stores.
pub struct Business {
    pub(super) stores: Arc<dyn Stores>,
    passwords: Passwords,
    clock: Arc<dyn Clock>,
    rates: Rates,
    /// Of what passes; whatever the others are.
    signs: Rates,
    /// Of passwords that are tried, by the account they are tried for, whoever tries.
    guesses: Rates,
    moderator: Box<dyn Moderator>,
    /// Where who registers here is at home.
    home: HomeId,
}

impl Business {
    /// Over `stores`.
    pub(super) fn new(
        stores: Arc<dyn Stores>,
        passwords: Passwords,
        clock: Arc<dyn Clock>,
        rates: Rates,
        moderator: Box<dyn Moderator>,
        home: HomeId,
    ) -> Self {
        Self {
            stores,
            passwords,
            clock,
            rates,
            signs: Rates::new(SIGNS_PER_SECOND),
            guesses: Rates::new(PASSWORDS_PER_SECOND),
            moderator,
            home,
        }
    }

    /// Makes an account. Asking again with the same name, nickname and password is answered the same, so
    /// that a lost answer can be asked for again.
    pub fn register(
        &self,
        request: terminal::RegisterRequest,
    ) -> Result<terminal::RegisterReply, Status> {
        check::name(&request.name)?;
        check::nickname(&request.nickname)?;
        check::password(&request.password)?;
        if let Some(user) = self.find(&request.name)? {
            return self.registered_before(user, &request);
        }
        let password_hash = self.passwords.hash(&request.password)?;
        let claim = pb::ClaimNameRequest {
            name: request.name.clone(),
            nickname: request.nickname.clone(),
            password_hash: password_hash.clone(),
            home: u32::from(self.home.0),
        };
        let claimed = self.stores.claim_name(claim)?;
        if claimed.taken {
            return self.registered_before(UserId(claimed.user_id), &request);
        }
        let account = pb::AccountRow {
            name: request.name,
            nickname: request.nickname,
            password_hash,
            created_ms: self.clock.unix_ms(),
            ..pb::AccountRow::default()
        };
        // The name's shard has sent the same on its way; doing it here lets the user log in at once.
        self.stores.create_account(pb::CreateAccountRequest {
            user_id: claimed.user_id,
            account: Some(account),
        })?;
        Ok(terminal::RegisterReply {
            user_id: claimed.user_id,
        })
    }

    /// Gives a device of a user a token.
    pub fn login(&self, request: terminal::LoginRequest) -> Result<terminal::LoginReply, Status> {
        check::name(&request.name)?;
        check::password(&request.password)?;
        check::device(&request.device)?;
        // Who has which name is no secret here (anybody may look a name up), so the two ways to be wrong
        // need not take the same time.
        let wrong = || Status::unauthenticated("the name or the password is wrong");
        let user = self.find(&request.name)?.ok_or_else(wrong)?;
        let account = self.row(user)?;
        if account.deleted || !self.verify(user, &request.password, &account.password_hash)? {
            return Err(wrong());
        }
        let mut random = [0; 8];
        rpc_core::base::rng::fill_secret(&mut random);
        let device = DeviceId(u64::from_be_bytes(random) >> 1 | 1);
        let mut secret = [0; 32];
        rpc_core::base::rng::fill_secret(&mut secret);
        let (token, kept) = Token::make(user, device, secret);
        let now_ms = self.clock.unix_ms();
        let row = pb::DeviceRow {
            label: request.device,
            token_hash: Bytes::copy_from_slice(&kept.hash),
            created_ms: now_ms,
            expires_ms: now_ms + TOKEN_LIFE_MS,
            ..pb::DeviceRow::default()
        };
        self.stores.add_device(pb::AddDeviceRequest {
            user_id: user.0,
            device_id: device.0,
            device: Some(row),
        })?;
        Ok(terminal::LoginReply {
            user_id: user.0,
            device_id: device.0,
            token,
        })
    }

    /// Who a token speaks for.
    pub fn authenticate(
        &self,
        request: lp::AuthenticateRequest,
    ) -> Result<lp::AuthenticateReply, Status> {
        let token = Token::read(&request.token)
            .ok_or_else(|| Status::unauthenticated("this is no token; log in again"))?;
        self.stores.check_token(pb::CheckTokenRequest {
            user_id: token.user.0,
            device_id: token.device.0,
            token_hash: Bytes::copy_from_slice(&token.hash),
        })?;
        Ok(lp::AuthenticateReply {
            user_id: token.user.0,
            device_id: token.device.0,
        })
    }

    /// Sends messages from the caller.
    pub fn send(&self, call: lp::SendCall) -> Result<terminal::SendReply, Status> {
        let (sender, device_id, request) = parts(call.caller, call.request)?;
        check::send(&request)?;
        self.may(sender, request.messages.len())?;
        for message in &request.messages {
            self.look(sender, &message.text)?;
        }
        if request.receiver == 0 || request.receiver == sender.0 {
            return Err(Status::invalid_argument(
                "give another user's id as the receiver",
            ));
        }
        self.stores.send(pb::SendMessages {
            sender: sender.0,
            request: Some(request),
            device_id,
        })
    }

    /// Changes something of the caller's own.
    pub fn change(&self, call: lp::ChangeCall) -> Result<terminal::ChangeReply, Status> {
        let (user, device_id, mut request) = parts(call.caller, call.request)?;
        let Some(change) = &request.change else {
            return Err(Status::invalid_argument(
                "the request names no change that is known here",
            ));
        };
        check::change(change)?;
        self.may(user, 1)?;
        let (mut password, mut end) = (None, None);
        match change {
            Change::Edit(edit) => self.look(user, &edit.text)?,
            Change::Profile(profile) => self.look(user, profile.nickname())?,
            Change::NewPost(post) => self.look(user, &post.text)?,
            Change::NewComment(comment) => self.look(user, &comment.text)?,
            Change::CreateGroup(create) => self.look(user, &create.name)?,
            Change::Group(GroupChange {
                what: Some(What::Name(text) | What::Announcement(text)),
                ..
            }) => self.look(user, text)?,
            Change::NewPassword(new) => {
                // A device that is logged out learns nothing about the password.
                self.logged_in(user, device_id)?;
                let old_hash = self.account(user)?.password_hash;
                if !self.verify(user, &new.old, &old_hash)? {
                    return Err(Status::permission_denied("the old password is wrong"));
                }
                let new_hash = self.passwords.hash(&new.new)?;
                password = Some(pb::PasswordChange { old_hash, new_hash });
                request.change = None;
            }
            Change::DeleteAccount(delete) => {
                self.logged_in(user, device_id)?;
                let password_hash = self.account(user)?.password_hash;
                if !self.verify(user, &delete.password, &password_hash)? {
                    return Err(Status::permission_denied("the password is wrong"));
                }
                end = Some(pb::AccountEnd { password_hash });
                request.change = None;
            }
            _ => {}
        }
        self.stores.change(pb::ChangeUser {
            user_id: user.0,
            device_id,
            request: Some(request),
            password,
            end,
        })
    }

    /// The caller's devices.
    pub fn list_devices(
        &self,
        call: lp::ListDevicesCall,
    ) -> Result<terminal::ListDevicesReply, Status> {
        let (user, device_id, _) = parts(call.caller, call.request)?;
        self.stores.list_devices(pb::DeviceOf {
            user_id: user.0,
            device_id,
        })
    }

    /// What the caller's timeline has above a key.
    pub fn sync(&self, call: lp::SyncCall) -> Result<terminal::SyncReply, Status> {
        let (user, device_id, request) = parts(call.caller, call.request)?;
        let page = self.stores.sync(pb::SyncPageRequest {
            user_id: user.0,
            device_id,
            request: Some(request),
        })?;
        let items = page
            .items
            .into_iter()
            .map(Item::decode)
            .collect::<Result<_, _>>()
            .map_err(|error| {
                Status::internal(format!("an item of {user} cannot be read: {error}"))
            })?;
        Ok(terminal::SyncReply {
            items,
            key: page.key,
            more: page.more,
            rewind: page.rewind,
            full_to: page.full_to,
            owed: page.owed,
        })
    }

    /// Looks a name up.
    pub fn find_user(&self, call: lp::FindUserCall) -> Result<terminal::FindUserReply, Status> {
        let (caller, device_id, request) = parts(call.caller, call.request)?;
        self.may(caller, 1)?;
        self.logged_in(caller, device_id)?;
        let user = match request.user_id {
            0 => {
                check::name(&request.name)?;
                self.find(&request.name)?.ok_or_else(|| {
                    Status::not_found(format!(
                        "nobody is called {:?}; check the spelling",
                        request.name
                    ))
                })?
            }
            id => UserId(id),
        };
        let account = self.account(user)?;
        Ok(terminal::FindUserReply {
            user_id: user.0,
            name: account.name,
            nickname: account.nickname,
            avatar: account.avatar,
        })
    }

    /// Asks somebody to be the caller's contact.
    pub fn add_contact(
        &self,
        call: lp::AddContactCall,
    ) -> Result<terminal::AddContactReply, Status> {
        let (user, device_id, request) = parts(call.caller, call.request)?;
        check::greeting(&request.greeting)?;
        self.may(user, 1)?;
        self.logged_in(user, device_id)?;
        self.look(user, &request.greeting)?;
        if request.user_id == user.0 {
            return Err(Status::invalid_argument(
                "you cannot be your own contact; give another user's id",
            ));
        }
        let peer = self.account(UserId(request.user_id))?;
        let reply = self.stores.ask_contact(pb::AskContactRequest {
            user_id: user.0,
            peer: request.user_id,
            peer_name: peer.name,
            peer_nickname: peer.nickname,
            peer_avatar: peer.avatar,
            greeting: request.greeting,
            device_id,
        })?;
        Ok(terminal::AddContactReply {
            number: reply.number,
        })
    }

    /// Says yes to somebody who asked the caller.
    pub fn accept_contact(
        &self,
        call: lp::AcceptContactCall,
    ) -> Result<terminal::AcceptContactReply, Status> {
        let (user, device_id, request) = parts(call.caller, call.request)?;
        self.may(user, 1)?;
        let request = pb::AcceptContactRequest {
            user_id: user.0,
            peer: request.user_id,
            device_id,
        };
        let reply = self.stores.accept_contact(request)?;
        Ok(terminal::AcceptContactReply {
            number: reply.number,
        })
    }

    /// Who is in a group that the caller is in.
    pub fn list_members(
        &self,
        call: lp::ListMembersCall,
    ) -> Result<terminal::ListMembersReply, Status> {
        let (reader, device_id, request) = parts(call.caller, call.request)?;
        self.may(reader, 1)?;
        self.logged_in(reader, device_id)?;
        self.stores.list_members(pb::ReadMembers {
            reader: reader.0,
            request: Some(request),
        })
    }

    /// Tells the users' homes where their links are. A home that cannot be reached is no error: its users'
    /// keys are marked as not read.
    pub fn register_links(
        &self,
        request: lp::RegisterLinksRequest,
    ) -> Result<lp::RegisterLinksReply, Status> {
        check::links(&request.links)?;
        let users: Vec<u64> = request.links.iter().map(|link| link.user_id).collect();
        let reply = self.stores.register_links(request);
        reply.or_else(|status| {
            let newest = unread(status, &users)?;
            Ok(lp::RegisterLinksReply { newest })
        })
    }

    /// Tells the users' homes that links are gone.
    pub fn drop_links(&self, request: lp::DropLinksRequest) -> Result<lp::DropLinksReply, Status> {
        check::links(&request.links)?;
        self.stores.drop_links(request)
    }

    /// Whether the calling device is still one of the user's, before anything is read for it elsewhere.
    fn logged_in(&self, user: UserId, device_id: u64) -> Result<(), Status> {
        let user_id = user.0;
        let device = pb::DeviceOf { user_id, device_id };
        self.stores.check_device(device).map(drop)
    }

    /// Takes `cost` things from what the user may do just now.
    pub(super) fn may(&self, user: UserId, cost: usize) -> Result<(), Status> {
        self.rates.take(user, cost, self.clock.unix_ms())
    }

    /// Whether the user may pass one thing more just now.
    pub(super) fn may_sign(&self, user: UserId) -> Result<(), Status> {
        self.signs.take(user, 1, self.clock.unix_ms())
    }

    /// Whether a password is the account's, unless too many were tried just now.
    fn verify(&self, user: UserId, password: &str, hash: &str) -> Result<bool, Status> {
        self.guesses.take(user, 1, self.clock.unix_ms())?;
        self.passwords.verify(password, hash)
    }

    /// Has the moderator look at a text.
    fn look(&self, sender: UserId, text: &str) -> Result<(), Status> {
        let outcome = self.moderator.look(sender, text);
        outcome.map_err(Status::invalid_argument)
    }

    /// Answers a registration of a name that is taken: by this very user, or by another.
    fn registered_before(
        &self,
        user: UserId,
        request: &terminal::RegisterRequest,
    ) -> Result<terminal::RegisterReply, Status> {
        let account = match self.row(user) {
            // The name is claimed and the account under way.
            Err(status) if status.code() == Code::NotFound => {
                return Err(Status::unavailable(
                    "the name was taken a moment ago; try again",
                ));
            }
            other => other?,
        };
        let same = !account.deleted
            && account.nickname == request.nickname
            && self.verify(user, &request.password, &account.password_hash)?;
        if !same {
            let text = format!(
                "the name {:?} is taken; choose another, or log in",
                request.name
            );
            return Err(Status::already_exists(text));
        }
        Ok(terminal::RegisterReply { user_id: user.0 })
    }

    fn find(&self, name: &str) -> Result<Option<UserId>, Status> {
        match self.stores.find_name(pb::FindNameRequest {
            name: name.to_owned(),
        }) {
            Ok(reply) => Ok(Some(UserId(reply.user_id))),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// A user's account that is not deleted.
    fn account(&self, user: UserId) -> Result<pb::AccountRow, Status> {
        let row = self.row(user)?;
        if row.deleted {
            let text = format!("there is no {user} any more");
            return Err(Status::not_found(text));
        }
        Ok(row)
    }

    /// A user's account, even if it is deleted: then little but the name is there.
    fn row(&self, user: UserId) -> Result<pb::AccountRow, Status> {
        let reply = self
            .stores
            .get_account(pb::GetAccountRequest { user_id: user.0 })?;
        reply.account.ok_or_else(|| {
            Status::internal(format!("storage has no account in its answer for {user}"))
        })
    }
}

/// Takes a call apart: who calls, from which device, and what for.
pub(super) fn parts<T>(
    caller: Option<lp::Caller>,
    request: Option<T>,
) -> Result<(UserId, u64, T), Status> {
    match (caller, request) {
        (Some(caller), Some(request)) if caller.user_id != 0 => {
            Ok((UserId(caller.user_id), caller.device_id, request))
        }
        (None, _) | (Some(_), Some(_)) => Err(Status::unauthenticated(
            "the caller is missing; authenticate first",
        )),
        (Some(_), None) => Err(Status::invalid_argument("the request is missing")),
    }
}
