//! Storage over RPC: routes calls to the storage process that serves.
//!
//! Every storage process says in which epoch it knows its store and whether it serves. The one that serves
//! in the highest epoch gets the calls. A scout asks all of them all the time, so that nobody has to wait
//! for one that has stopped to learn that another serves.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::Context;
use rpc_core::{CallOptions, Code, Response, Status, sync::Mutex};

use super::stores::Stores;
use crate::{
    coordinator::names::{Clients, Known},
    proto::{logic as lp, storage as pb, terminal},
};

/// Storage processes of one home.
pub struct RemoteStores {
    home: Arc<Mutex<Home>>,
}

/// What is known of them.
struct Home {
    clients: Known<pb::StorageClient>,
    /// The one that serves, as far as is known; the next call begins there.
    current: usize,
}

/// Longer than a primary waits for a commit, so that its own words arrive.
const DEADLINE: Duration = Duration::from_secs(12);
/// A process that takes longer to say who it is does not serve.
const DESCRIBE: Duration = Duration::from_millis(300);
/// Pause between two looks at all of them.
const SCOUT: Duration = Duration::from_millis(200);

impl RemoteStores {
    /// Begins to connect to `HOST:PORT,…`, or to whoever is registered at `zk://HOST:PORT,…/PATH`; nobody need be
    /// there yet.
    pub fn new(addresses: &[String]) -> anyhow::Result<Self> {
        let client = pb::StorageClient::new;
        let mut clients = Clients::new("--storage", addresses, DEADLINE, client)?;
        let home = Arc::new(Mutex::new(Home {
            clients: Arc::clone(clients.now()),
            current: 0,
        }));
        let told = Arc::downgrade(&home);
        std::thread::Builder::new()
            .name("scout".to_owned())
            .spawn(move || scout(clients, &told))
            .context("a thread cannot start")?;
        Ok(Self { home })
    }

    /// Calls one process after the other, as long as the call certainly did not run.
    fn call<Out>(
        &self,
        call: impl Fn(&pb::StorageClient) -> Result<Response<Out>, Status>,
    ) -> Result<Out, Status> {
        let (clients, first) = {
            let home = self.home.lock();
            (Arc::clone(&home.clients), home.current)
        };
        let mut outcome = Err(Status::unavailable("no storage process is known yet"));
        for step in 0..clients.len() {
            let at = (first + step) % clients.len();
            outcome = call(&clients[at].1);
            if !outcome.as_ref().is_err_and(elsewhere) {
                if step > 0 {
                    self.home.lock().serves(&clients, at);
                }
                break;
            }
        }
        outcome.map(Response::into_inner)
    }
}

impl Home {
    /// Takes in who is there now.
    fn renew(&mut self, clients: &Known<pb::StorageClient>) {
        if !Arc::ptr_eq(&self.clients, clients) {
            let before = self.clients.get(self.current).map(|known| &known.0);
            let same = clients.iter().position(|known| Some(&known.0) == before);
            self.current = same.unwrap_or(0);
            self.clients = Arc::clone(clients);
        }
    }

    /// One of `clients` serves; it is of no use where others are known meanwhile.
    fn serves(&mut self, clients: &Known<pb::StorageClient>, at: usize) {
        if Arc::ptr_eq(&self.clients, clients) {
            self.current = at;
        }
    }
}

/// Asks all processes, again and again, which of them serves; as long as somebody wants to know.
fn scout(mut clients: Clients<pb::StorageClient>, home: &Weak<Mutex<Home>>) {
    while let Some(told) = home.upgrade() {
        let clients = clients.now();
        told.lock().renew(clients);
        let serving = clients.iter().enumerate().filter_map(|(at, (_, client))| {
            let options = CallOptions::new().deadline(DESCRIBE);
            let reply = client.describe_with(pb::DescribeRequest {}, options).ok()?;
            reply.serving.then_some((reply.epoch, at))
        });
        if let Some((_, at)) = serving.max() {
            told.lock().serves(clients, at);
        }
        drop(told);
        std::thread::sleep(SCOUT);
    }
}

/// Whether another process may do what this one certainly did not.
fn elsewhere(status: &Status) -> bool {
    status.never_ran() && status.code() == Code::Unavailable
}

/// One line per method: the same request may go out several times, so it is cloned.
macro_rules! calls {
    ($($name:ident($request:ty) -> $reply:ty;)*) => {
        $(fn $name(&self, request: $request) -> Result<$reply, Status> {
            self.call(|client| client.$name(request.clone()))
        })*
    };
}

impl Stores for RemoteStores {
    calls! {
        claim_name(pb::ClaimNameRequest) -> pb::ClaimNameReply;
        find_name(pb::FindNameRequest) -> pb::FindNameReply;
        create_account(pb::CreateAccountRequest) -> pb::CreateAccountReply;
        get_account(pb::GetAccountRequest) -> pb::GetAccountReply;
        add_device(pb::AddDeviceRequest) -> pb::AddDeviceReply;
        remove_device(pb::RemoveDeviceRequest) -> pb::RemoveDeviceReply;
        check_token(pb::CheckTokenRequest) -> pb::CheckTokenReply;
        send(pb::SendMessages) -> terminal::SendReply;
        ask_contact(pb::AskContactRequest) -> pb::ContactReply;
        accept_contact(pb::AcceptContactRequest) -> pb::ContactReply;
        sync(pb::SyncPageRequest) -> pb::SyncPage;
        change(pb::ChangeUser) -> terminal::ChangeReply;
        list_devices(pb::DeviceOf) -> terminal::ListDevicesReply;
        open_post(pb::ReadPost) -> terminal::OpenPostReply;
        open_album(pb::ReadAlbum) -> terminal::OpenAlbumReply;
        pick_friends(pb::PickFriendsRequest) -> pb::PickFriendsReply;
        check_device(pb::DeviceOf) -> pb::CheckDeviceReply;
        register_links(lp::RegisterLinksRequest) -> lp::RegisterLinksReply;
        drop_links(lp::DropLinksRequest) -> lp::DropLinksReply;
        typing(pb::TypingTo) -> terminal::TypingReply;
        watch(pb::WatchRequest) -> terminal::PresenceReply;
    }
}
