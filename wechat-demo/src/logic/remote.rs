//! Storage over RPC: every call to the home of the user whose things it reads or changes.

use std::{collections::BTreeMap, time::Duration};

use rpc_core::{CallOptions, Response, Status};

use super::stores::{Stores, unread};
use crate::{
    homes::{HomeClient, Homes},
    model::{HomeId, UserId},
    proto::{logic as lp, storage as pb, terminal},
};

/// The storage processes of all homes.
pub struct RemoteStores {
    /// By id of home.
    homes: Vec<HomeClient>,
}

/// Who decides whose a name is.
const NAMES: HomeId = HomeId(0);
/// A home that takes longer to note links is not waited for: its users' keys are not read.
const LINKS: Duration = Duration::from_secs(2);
/// Who is there is not waited for longer.
const PASSING: Duration = Duration::from_secs(1);

impl RemoteStores {
    /// Begins to connect to the storage processes of the one home there is; nobody need be there yet.
    pub fn of_one(addresses: &[String]) -> anyhow::Result<Self> {
        let home = HomeClient::new("--storage", addresses)?;
        Ok(Self { homes: vec![home] })
    }

    /// Begins to connect to those of several.
    pub fn of(homes: &Homes) -> anyhow::Result<Self> {
        let clients = homes
            .iter()
            .map(|(_, name, addresses)| HomeClient::new(&format!("--homes {name}"), addresses));
        Ok(Self {
            homes: clients.collect::<anyhow::Result<_>>()?,
        })
    }

    fn call<Out>(
        &self,
        home: HomeId,
        call: impl Fn(&pb::StorageClient) -> Result<Response<Out>, Status>,
    ) -> Result<Out, Status> {
        let client = self.homes.get(usize::from(home.0));
        let client = client.ok_or_else(|| Status::not_found(format!("there is no {home}")))?;
        client.call(call)
    }

    /// Notes the links of some home's users there.
    fn register_at(
        &self,
        home: HomeId,
        links: Vec<lp::Link>,
    ) -> Result<Vec<lp::NewestKey>, Status> {
        let users: Vec<u64> = links.iter().map(|link| link.user_id).collect();
        let request = lp::RegisterLinksRequest { links };
        let reply = self.call(home, |client| {
            client.register_links_with(request.clone(), CallOptions::new().deadline(LINKS))
        });
        match reply {
            Ok(reply) => Ok(reply.newest),
            Err(status) => unread(status, &users),
        }
    }
}

/// Asks homes at the same time: one that is cut off must not hold up the others.
fn side_by_side<In: Send, Out: Send>(
    homes: BTreeMap<HomeId, In>,
    ask: impl Fn(HomeId, In) -> Result<Out, Status> + Sync,
) -> Vec<(HomeId, Result<Out, Status>)> {
    let ask = &ask;
    if homes.len() < 2 {
        return homes
            .into_iter()
            .map(|(home, what)| (home, ask(home, what)))
            .collect();
    }
    rpc_core::scope(|scope| {
        let asked: Vec<_> = homes
            .into_iter()
            .map(|(home, what)| (home, scope.spawn(move || ask(home, what))))
            .collect();
        let ended = |_| Err(Status::internal("a call to a home ended without an answer"));
        let told = asked
            .into_iter()
            .map(|(home, part)| (home, part.join().unwrap_or_else(ended)));
        told.collect()
    })
}

/// Links by the homes of their users.
fn by_home(links: Vec<lp::Link>) -> BTreeMap<HomeId, Vec<lp::Link>> {
    let mut homes: BTreeMap<HomeId, Vec<lp::Link>> = BTreeMap::new();
    for link in links {
        let home = UserId(link.user_id).home();
        homes.entry(home).or_default().push(link);
    }
    homes
}

/// One line per method, with whose home it is for: the same request may go out several times, so it is cloned.
macro_rules! calls {
    ($($name:ident($request:ident: $type:ty) -> $reply:ty, $user:expr;)*) => {
        $(fn $name(&self, $request: $type) -> Result<$reply, Status> {
            let home = UserId($user).home();
            self.call(home, |client| client.$name($request.clone()))
        })*
    };
}

impl Stores for RemoteStores {
    fn claim_name(&self, request: pb::ClaimNameRequest) -> Result<pb::ClaimNameReply, Status> {
        self.call(NAMES, |client| client.claim_name(request.clone()))
    }

    fn find_name(&self, request: pb::FindNameRequest) -> Result<pb::FindNameReply, Status> {
        self.call(NAMES, |client| client.find_name(request.clone()))
    }

    fn register_links(
        &self,
        request: lp::RegisterLinksRequest,
    ) -> Result<lp::RegisterLinksReply, Status> {
        let users: Vec<u64> = request.links.iter().map(|link| link.user_id).collect();
        let parts = side_by_side(by_home(request.links), |home, links| {
            self.register_at(home, links)
        });
        let mut parts: BTreeMap<HomeId, _> = parts
            .into_iter()
            .map(|(home, part)| Ok((home, part?.into_iter())))
            .collect::<Result<_, Status>>()?;
        // In the order in which they were asked for, which each home has kept.
        let newest = users.into_iter().map(|user| {
            let part = parts.get_mut(&UserId(user).home());
            let newest = part.and_then(Iterator::next);
            newest.ok_or_else(|| {
                Status::internal("a home answered for fewer links than it was asked for")
            })
        });
        Ok(lp::RegisterLinksReply {
            newest: newest.collect::<Result<_, _>>()?,
        })
    }

    fn watch(&self, request: pb::WatchRequest) -> Result<terminal::PresenceReply, Status> {
        let mut homes: BTreeMap<HomeId, Vec<u64>> = BTreeMap::new();
        for user in request.user_ids {
            homes.entry(UserId(user).home()).or_default().push(user);
        }
        let own = UserId(request.user_id).home();
        // The own home notes whom the device watches even if nobody is at home there: that ends an earlier watch.
        homes.entry(own).or_default();
        let (user_id, device_id) = (request.user_id, request.device_id);
        let parts = side_by_side(homes, |home, user_ids| {
            let request = pb::WatchRequest {
                user_id,
                device_id,
                user_ids,
            };
            let options = || CallOptions::new().deadline(PASSING);
            self.call(home, |client| client.watch_with(request.clone(), options()))
        });
        let mut reply = terminal::PresenceReply::default();
        for (home, part) in parts {
            match part {
                Ok(part) => reply.presences.extend(part.presences),
                Err(status) if home == own => return Err(status),
                // Nothing is said of who lives where nobody can be asked.
                Err(status) => tracing::debug!(%home, %status, "who is there is not known"),
            }
        }
        Ok(reply)
    }

    fn drop_links(&self, request: lp::DropLinksRequest) -> Result<lp::DropLinksReply, Status> {
        for (home, links) in by_home(request.links) {
            let request = lp::DropLinksRequest { links };
            // Best effort: a link that is not dropped is found gone by the first notify.
            let told = self.call(home, |client| client.drop_links(request.clone()));
            if let Err(status) = told {
                tracing::debug!(%home, %status, "links are not dropped");
            }
        }
        Ok(lp::DropLinksReply {})
    }

    calls! {
        create_account(it: pb::CreateAccountRequest) -> pb::CreateAccountReply, it.user_id;
        get_account(it: pb::GetAccountRequest) -> pb::GetAccountReply, it.user_id;
        add_device(it: pb::AddDeviceRequest) -> pb::AddDeviceReply, it.user_id;
        remove_device(it: pb::RemoveDeviceRequest) -> pb::RemoveDeviceReply, it.user_id;
        check_token(it: pb::CheckTokenRequest) -> pb::CheckTokenReply, it.user_id;
        send(it: pb::SendMessages) -> terminal::SendReply, it.sender;
        ask_contact(it: pb::AskContactRequest) -> pb::ContactReply, it.user_id;
        accept_contact(it: pb::AcceptContactRequest) -> pb::ContactReply, it.user_id;
        sync(it: pb::SyncPageRequest) -> pb::SyncPage, it.user_id;
        change(it: pb::ChangeUser) -> terminal::ChangeReply, it.user_id;
        list_devices(it: pb::DeviceOf) -> terminal::ListDevicesReply, it.user_id;
        open_post(it: pb::ReadPost) -> terminal::OpenPostReply,
            it.request.as_ref().map_or(0, |post| post.author);
        open_album(it: pb::ReadAlbum) -> terminal::OpenAlbumReply,
            it.request.as_ref().map_or(0, |album| album.author);
        list_members(it: pb::ReadMembers) -> terminal::ListMembersReply,
            it.request.as_ref().map_or(0, |group| group.group_id);
        pick_friends(it: pb::PickFriendsRequest) -> pb::PickFriendsReply, it.user_id;
        check_device(it: pb::DeviceOf) -> pb::CheckDeviceReply, it.user_id;
        typing(it: pb::TypingTo) -> terminal::TypingReply, it.to;
    }
}
