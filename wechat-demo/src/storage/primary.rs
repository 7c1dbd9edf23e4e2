//! What a store's primary answers, before it becomes RPC.
//!
//! Knows: which requests change something (they go through the committer) and which only read.
//! Does not know: how calls travel, who may ask what.

use std::{sync::Arc, time::Duration};

use rpc_core::sync::{
    WaitError,
    oneshot::{Receiver, oneshot},
};

use super::{
    acks::{Acks, Kept},
    committer::Submit,
    durability::{Promise, not_followed, waits_for_follower},
    engine::Engine,
    links::{Link, Links},
    members,
    mend::Watched,
    moments,
    notify::Notifier,
    ops::{Answer, Op, Refusal, RefusalKind, Stop},
    presence::Presence,
    push::{self, Desk},
    store::Store,
    timeline::{self, Standing},
};
use crate::{
    model::{
        DeviceId, HomeId, Incarnation, Placement, Seq, UserId,
        clock::Clock,
        limits::{LINKS_PER_CALL, POST_COMMENTS, WATCHED_USERS},
    },
    proto::{
        logic as lp,
        storage::{self as pb, settled_push::Outcome},
        terminal::{self, change_request::Change},
    },
};

/// A serving primary: the tables to read, the committer to write through, the links.
pub struct Primary {
    engine: Arc<dyn Engine>,
    submit: Submit,
    links: Arc<Links>,
    presence: Arc<Presence>,
    clock: Arc<dyn Clock>,
    place: Placement,
    home: HomeId,
    /// In which it began to serve.
    epoch: u64,
    desk: Desk,
    incarnation: Incarnation,
    acks: Arc<Acks>,
    durability: Option<Promise>,
}

/// A request waits this long for its commit unless its own deadline is nearer; while there are too few copies
/// that is how a caller learns of it.
const COMMIT_WAIT: Duration = Duration::from_secs(10);

/// Streams from one home to another that are carried at once.
const MOST_PARCELS: usize = 256;

impl Primary {
    /// Serves what `store` has; its committer takes what comes through `submit`. `kept` says how long deletions are.
    pub fn new(
        store: &Store,
        submit: Submit,
        notifier: Arc<Notifier>,
        clock: Arc<dyn Clock>,
        kept: Kept,
    ) -> Self {
        let identity = store.identity();
        let watched = Watched::new(store.engine(), submit.clone());
        let engine: Arc<dyn Engine> = Arc::new(watched);
        let acks = Acks::new(
            Arc::clone(&engine),
            submit.clone(),
            Arc::clone(&clock),
            kept,
        );
        Self {
            acks: Arc::new(acks),
            engine: Arc::clone(&engine),
            submit,
            links: Arc::clone(notifier.links()),
            presence: Arc::new(Presence::new(engine, Arc::clone(&clock), notifier)),
            place: identity.place,
            home: identity.home,
            epoch: identity.epoch,
            desk: Desk::new(clock.unix_ms()),
            clock,
            incarnation: identity.incarnation,
            durability: store.durability(),
        }
    }

    /// What passes; somebody has to [run](Presence::run) it.
    pub fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }

    /// What devices acknowledge; somebody has to [run](Acks::run) it.
    pub fn acks(&self) -> &Arc<Acks> {
        &self.acks
    }

    /// Shards of the store.
    pub fn shards(&self) -> u32 {
        self.place.shards() as u32
    }

    /// Does something and waits until both copies have it.
    pub fn execute(&self, op: Op) -> Result<Answer, Refusal> {
        self.begin(op)?.wait()
    }

    fn begin(&self, op: Op) -> Result<Begun, Refusal> {
        let (sender, receiver) = oneshot();
        let geo = waits_for_follower(&op, self.durability);
        // The caller may have gone by the time it is committed; nobody else wants the answer then.
        self.submit
            .submit(op, Box::new(move |answer| drop(sender.send(answer))))?;
        Ok(Begun { receiver, geo })
    }

    /// `Storage.Deliver`.
    pub fn deliver(&self, request: pb::DeliverRequest) -> Result<pb::DeliverReply, Refusal> {
        let invalid = |text: String| Refusal::new(RefusalKind::InvalidArgument, text);
        if request.parcels.len() > MOST_PARCELS {
            let text = format!(
                "{} parcels at once, at most {MOST_PARCELS}",
                request.parcels.len()
            );
            return Err(invalid(text));
        }
        for parcel in &request.parcels {
            let sound = parcel.from_home <= u32::from(HomeId::MAX.0)
                && parcel.from_home != u32::from(self.home.0)
                && parcel.from_shard < 256
                && parcel.incarnation <= u32::from(u16::MAX)
                && parcel.to_shard < self.shards()
                && parcel.first > 0;
            if !sound {
                let text = format!(
                    "no stream from shard {} of home {} can end in shard {} here: do all homes have the same \
                     number of shards, and the same --homes?",
                    parcel.from_shard, parcel.from_home, parcel.to_shard
                );
                return Err(invalid(text));
            }
        }
        let parcels = request.parcels.into_iter();
        let begun: Vec<_> = parcels
            .map(|parcel| self.begin(Op::Deliver(parcel)))
            .collect::<Result<_, _>>()?;
        let reached = begun.into_iter().map(|begun| match begun.wait()? {
            Answer::Reached(n) => Ok(n),
            other => Err(unexpected(&other)),
        });
        Ok(pb::DeliverReply {
            reached: reached.collect::<Result<_, _>>()?,
        })
    }

    /// `Storage.ClaimName`.
    pub fn claim_name(&self, request: pb::ClaimNameRequest) -> Result<pb::ClaimNameReply, Refusal> {
        if request.name.is_empty() || request.name.len() > crate::model::limits::NAME_BYTES {
            return Err(Refusal::new(
                RefusalKind::InvalidArgument,
                "the name is empty or too long",
            ));
        }
        match self.execute(Op::ClaimName(request))? {
            Answer::Claimed(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    }

    /// `Storage.CreateAccount`.
    pub fn create_account(
        &self,
        request: pb::CreateAccountRequest,
    ) -> Result<pb::CreateAccountReply, Refusal> {
        let number = number(self.execute(Op::CreateAccount(request))?)?.0;
        Ok(pb::CreateAccountReply { number })
    }

    /// `Storage.AddDevice`.
    pub fn add_device(&self, request: pb::AddDeviceRequest) -> Result<pb::AddDeviceReply, Refusal> {
        self.execute(Op::AddDevice(request))?;
        Ok(pb::AddDeviceReply {})
    }

    /// `Storage.RemoveDevice`.
    pub fn remove_device(
        &self,
        request: pb::RemoveDeviceRequest,
    ) -> Result<pb::RemoveDeviceReply, Refusal> {
        self.execute(Op::RemoveDevice(request))?;
        Ok(pb::RemoveDeviceReply {})
    }

    /// `Storage.Send`.
    pub fn send(&self, request: pb::SendMessages) -> Result<terminal::SendReply, Refusal> {
        self.check_device(request.sender, request.device_id)?;
        let key = request.request.as_ref().map_or(0, |request| request.key);
        self.check_key(UserId(request.sender), Seq(key))?;
        match self.execute(Op::Send(request))? {
            Answer::Sent(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    }

    /// `Storage.AskContact`.
    pub fn ask_contact(&self, request: pb::AskContactRequest) -> Result<pb::ContactReply, Refusal> {
        self.check_device(request.user_id, request.device_id)?;
        let number = number(self.execute(Op::AskContact(request))?)?.0;
        Ok(pb::ContactReply { number })
    }

    /// `Storage.AcceptContact`.
    pub fn accept_contact(
        &self,
        request: pb::AcceptContactRequest,
    ) -> Result<pb::ContactReply, Refusal> {
        self.check_device(request.user_id, request.device_id)?;
        let number = number(self.execute(Op::AcceptContact(request))?)?.0;
        Ok(pb::ContactReply { number })
    }

    /// `Storage.FindName`.
    pub fn find_name(&self, request: &pb::FindNameRequest) -> Result<pb::FindNameReply, Refusal> {
        let user = read(timeline::find_name(&*self.engine, &request.name))?;
        Ok(pb::FindNameReply { user_id: user.0 })
    }

    /// `Storage.GetAccount`.
    pub fn get_account(
        &self,
        request: &pb::GetAccountRequest,
    ) -> Result<pb::GetAccountReply, Refusal> {
        let account = read(timeline::account(&*self.engine, UserId(request.user_id)))?;
        Ok(pb::GetAccountReply {
            account: Some(account),
        })
    }

    /// `Storage.CheckToken`.
    pub fn check_token(
        &self,
        request: &pb::CheckTokenRequest,
    ) -> Result<pb::CheckTokenReply, Refusal> {
        let (user, device) = (UserId(request.user_id), DeviceId(request.device_id));
        let now_ms = self.clock.unix_ms();
        read(timeline::check_token(
            &*self.engine,
            user,
            device,
            &request.token_hash,
            now_ms,
        ))?;
        Ok(pb::CheckTokenReply {})
    }

    /// `Storage.Sync`.
    pub fn sync(&self, request: &pb::SyncPageRequest) -> Result<pb::SyncPage, Refusal> {
        self.check_device(request.user_id, request.device_id)?;
        let asked = request.request.unwrap_or_default();
        let user = UserId(request.user_id);
        let page = read(timeline::sync(
            &*self.engine,
            self.incarnation,
            user,
            &asked,
        ))?;
        let whole = asked.full_to == 0 && !asked.anew;
        let device = DeviceId(request.device_id);
        if whole && page.full_to == 0 && page.rewind.is_none() {
            self.cancel_push(user, device, Seq(asked.key))?;
            self.acks.heard(user, device, Seq(asked.key));
        } else {
            // It is there, and what it has is not whole.
            self.acks.heard(user, device, Seq::ZERO);
        }
        Ok(page)
    }

    /// A device that has all that it was to be woken for is not. Not waited for: who has synced once more
    /// than that is told the same.
    fn cancel_push(&self, user: UserId, device: DeviceId, key: Seq) -> Result<(), Refusal> {
        let pending = read(push::pending(&*self.engine, user, device))?;
        if pending.is_some_and(|row| row.number <= key.0) {
            let settled = pb::SettledPush {
                user_id: user.0,
                device_id: device.0,
                number: key.0,
                outcome: Some(Outcome::Over(pb::Over {})),
            };
            // A full queue costs one push too many.
            let _ = self.submit.submit(Op::SettlePush(settled), Box::new(drop));
        }
        Ok(())
    }

    /// `Storage.TakePushes`.
    pub fn take_pushes(
        &self,
        request: &pb::TakePushesRequest,
    ) -> Result<pb::TakePushesReply, Refusal> {
        let limit = request.limit as usize;
        push::few(limit)?;
        let now_ms = self.clock.unix_ms();
        let pushes = read(self.desk.take(&*self.engine, &self.links, now_ms, limit))?;
        Ok(pb::TakePushesReply { pushes })
    }

    /// `Storage.SettlePushes`.
    pub fn settle_pushes(
        &self,
        request: pb::SettlePushesRequest,
    ) -> Result<pb::SettlePushesReply, Refusal> {
        push::few(request.settled.len())?;
        let mut outcomes = Vec::with_capacity(request.settled.len());
        for settled in request.settled {
            let whose = (UserId(settled.user_id), DeviceId(settled.device_id));
            outcomes.push((whose, self.begin(Op::SettlePush(settled))?));
        }
        for (whose, outcome) in outcomes {
            outcome.wait()?;
            self.desk.settled(whose);
        }
        Ok(pb::SettlePushesReply {})
    }

    /// `Storage.Change`. A device that is logged out loses its link here at once.
    pub fn change(&self, request: pb::ChangeUser) -> Result<terminal::ChangeReply, Refusal> {
        self.check_device(request.user_id, request.device_id)?;
        let user = UserId(request.user_id);
        let change = request.request.as_ref();
        let revokes = request.password.is_some()
            || request.end.is_some()
            || matches!(
                change.and_then(|request| request.change.as_ref()),
                Some(Change::LogOut(_))
            );
        let reply = match self.execute(Op::Change(request))? {
            Answer::Made { id, number } => terminal::ChangeReply {
                number: number.0,
                made: id,
            },
            other => terminal::ChangeReply {
                number: number(other)?.0,
                ..Default::default()
            },
        };
        if revokes {
            self.links.retain(user, |device| {
                timeline::check_device(&*self.engine, user, device).is_ok()
            });
        }
        Ok(reply)
    }

    /// `Storage.ListDevices`.
    pub fn list_devices(
        &self,
        request: &pb::DeviceOf,
    ) -> Result<terminal::ListDevicesReply, Refusal> {
        self.check_device(request.user_id, request.device_id)?;
        let (user, device) = (UserId(request.user_id), DeviceId(request.device_id));
        let devices = read(timeline::devices(&*self.engine, user, device))?;
        Ok(terminal::ListDevicesReply { devices })
    }

    /// `Storage.OpenPost`.
    pub fn open_post(&self, request: &pb::ReadPost) -> Result<terminal::OpenPostReply, Refusal> {
        let asked = request.request.unwrap_or_default();
        let (author, reader) = (UserId(asked.author), UserId(request.reader));
        read(moments::post(&*self.engine, author, asked.post_id, reader))
    }

    /// `Storage.OpenAlbum`.
    pub fn open_album(&self, request: &pb::ReadAlbum) -> Result<terminal::OpenAlbumReply, Refusal> {
        let asked = request.request.unwrap_or_default();
        let (author, reader) = (UserId(asked.author), UserId(request.reader));
        read(moments::album(&*self.engine, author, &asked, reader))
    }

    /// `Storage.ListMembers`.
    pub fn list_members(
        &self,
        request: &pb::ReadMembers,
    ) -> Result<terminal::ListMembersReply, Refusal> {
        let asked = request.request.unwrap_or_default();
        read(members::page(&*self.engine, UserId(request.reader), &asked))
    }

    /// `Storage.PickFriends`.
    pub fn pick_friends(
        &self,
        request: &pb::PickFriendsRequest,
    ) -> Result<pb::PickFriendsReply, Refusal> {
        self.check_device(request.user_id, request.device_id)?;
        if request.user_ids.len() as u64 > POST_COMMENTS + 1 {
            let text = "ask about fewer users at once";
            return Err(Refusal::new(RefusalKind::InvalidArgument, text));
        }
        let user = UserId(request.user_id);
        let friends = moments::friends_among(&*self.engine, user, &request.user_ids);
        let user_ids = read(friends.map_err(Stop::Fatal))?;
        Ok(pb::PickFriendsReply { user_ids })
    }

    /// Every call of a user's names the device it comes from. `Storage.CheckDevice`.
    pub fn check_device(&self, user: u64, device: u64) -> Result<(), Refusal> {
        let (user, device) = (UserId(user), DeviceId(device));
        read(timeline::check_device(&*self.engine, user, device))
    }

    /// Who has what is lost says that again before anything new.
    fn check_key(&self, user: UserId, key: Seq) -> Result<(), Refusal> {
        let standing = timeline::standing(&*self.engine, self.incarnation, user, key);
        match read(standing.map_err(Stop::Fatal))? {
            Standing::Lost(_) => {
                let text = "what the device has was partly lost here; sync first";
                Err(Refusal::new(RefusalKind::Aborted, text))
            }
            Standing::Good | Standing::Unknown => Ok(()),
        }
    }

    /// `Storage.RegisterLinks`. A link is noted before its user's newest key is read: what is committed in
    /// between is in the key or comes as a notify, or both.
    pub fn register_links(
        &self,
        request: lp::RegisterLinksRequest,
    ) -> Result<lp::RegisterLinksReply, Refusal> {
        few(request.links.len())?;
        let now_ms = self.clock.unix_ms();
        let mut newest = Vec::with_capacity(request.links.len());
        for link in request.links {
            let (user, device) = (UserId(link.user_id), DeviceId(link.device_id));
            if self.check_device(link.user_id, link.device_id).is_err() {
                // It was logged out: its next call is refused, and it is told nothing.
                newest.push(lp::NewestKey {
                    user_id: user.0,
                    key: 0,
                    reached: false,
                    epoch: self.epoch,
                });
                continue;
            }
            let live = Link {
                device,
                access: link.access.into(),
                number: link.link,
                active: link.active,
            };
            self.links.register(user, live, now_ms);
            let key = read(timeline::newest(&*self.engine, user).map_err(Stop::Fatal))?;
            newest.push(lp::NewestKey {
                user_id: user.0,
                key: key.0,
                reached: true,
                epoch: self.epoch,
            });
        }
        Ok(lp::RegisterLinksReply { newest })
    }

    /// `Storage.Typing`.
    pub fn typing(&self, request: pb::TypingTo) -> Result<terminal::TypingReply, Refusal> {
        let told = self
            .presence
            .typing(UserId(request.from), UserId(request.to));
        read(told.map_err(Stop::Fatal))?;
        Ok(terminal::TypingReply {})
    }

    /// `Storage.Watch`.
    pub fn watch(&self, request: &pb::WatchRequest) -> Result<terminal::PresenceReply, Refusal> {
        if request.user_ids.len() > WATCHED_USERS {
            let text = format!("a device asks for {WATCHED_USERS} users at most");
            return Err(Refusal::new(RefusalKind::InvalidArgument, text));
        }
        let device = (UserId(request.user_id), DeviceId(request.device_id));
        let presences = self.presence.watch(device, &request.user_ids);
        Ok(terminal::PresenceReply {
            presences: read(presences.map_err(Stop::Fatal))?,
        })
    }

    /// `Storage.DropLinks`.
    pub fn drop_links(
        &self,
        request: &lp::DropLinksRequest,
    ) -> Result<lp::DropLinksReply, Refusal> {
        few(request.links.len())?;
        for link in &request.links {
            self.links
                .drop_link(UserId(link.user_id), DeviceId(link.device_id), link.link);
        }
        Ok(lp::DropLinksReply {})
    }
}

/// Something under way to its commit.
struct Begun {
    receiver: Receiver<Result<Answer, Refusal>>,
    /// It waits for another IDC's disk.
    geo: bool,
}

impl Begun {
    /// Waits until as many copies have it as were asked for.
    fn wait(self) -> Result<Answer, Refusal> {
        match self.receiver.recv_timeout(COMMIT_WAIT) {
            Ok(answer) => answer,
            Err(WaitError::Closed) => Err(Refusal::new(
                RefusalKind::Unavailable,
                "the store has ended; try again soon",
            )),
            Err(_) if self.geo => Err(not_followed()),
            Err(_) => {
                let text = "both copies did not have it in time; it may still be done: ask again with the same ids";
                Err(Refusal::new(RefusalKind::DeadlineExceeded, text))
            }
        }
    }
}

/// A read's outcome for its caller. A damaged block is one caller's trouble; where there is another copy, this one
/// ends and is mended ([`Watched`]).
fn read<T>(outcome: Result<T, Stop>) -> Result<T, Refusal> {
    outcome.map_err(|stop| match stop {
        Stop::Refused(refusal) => refusal,
        Stop::Fatal(error) => {
            tracing::error!(%error, "a read failed");
            Refusal::new(RefusalKind::Internal, error.to_string())
        }
    })
}

fn number(answer: Answer) -> Result<Seq, Refusal> {
    match answer {
        Answer::Number(number) => Ok(number),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(answer: &Answer) -> Refusal {
    Refusal::new(
        RefusalKind::Internal,
        format!("the committer answered with {answer:?}"),
    )
}

fn few(links: usize) -> Result<(), Refusal> {
    if links <= LINKS_PER_CALL {
        return Ok(());
    }
    let text = format!("a call has at most {LINKS_PER_CALL} links, this one {links}");
    Err(Refusal::new(RefusalKind::InvalidArgument, text))
}
