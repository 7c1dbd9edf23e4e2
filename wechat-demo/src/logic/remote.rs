//! Storage over RPC: routes calls to the storage process that serves.
//!
//! Every storage process says in which epoch it knows its store and whether it serves. The one that serves
//! in the highest epoch gets the calls. A scout asks all of them all the time, so that nobody has to wait
//! for one that has stopped to learn that another serves.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use rpc_core::{CallOptions, Channel, Code, Response, Status};

use super::stores::Stores;
use crate::proto::{logic as lp, storage as pb, terminal};

/// Storage processes of one home.
pub struct RemoteStores {
    clients: Arc<[pb::StorageClient]>,
    /// The one that serves, as far as is known; the next call begins there.
    current: Arc<AtomicUsize>,
}

/// Longer than a primary waits for a commit, so that its own words arrive.
const DEADLINE: Duration = Duration::from_secs(12);
/// A process that takes longer to say who it is does not serve.
const DESCRIBE: Duration = Duration::from_millis(300);
/// Pause between two looks at all of them.
const SCOUT: Duration = Duration::from_millis(200);

impl RemoteStores {
    /// Begins to connect to `HOST:PORT,…`; nobody need be there yet.
    pub fn new(addresses: &[String]) -> anyhow::Result<Self> {
        let clients: Arc<[_]> = addresses
            .iter()
            .map(|address| {
                let channel = Channel::builder(address)
                    .deadline(DEADLINE)
                    .connect_lazy()
                    .with_context(|| format!("--storage {address}"))?;
                Ok(pb::StorageClient::new(channel))
            })
            .collect::<anyhow::Result<_>>()?;
        anyhow::ensure!(
            !clients.is_empty(),
            "--storage needs at least one HOST:PORT"
        );
        let current = Arc::new(AtomicUsize::new(0));
        let (asked, told) = (Arc::clone(&clients), Arc::downgrade(&current));
        std::thread::Builder::new()
            .name("scout".to_owned())
            .spawn(move || scout(&asked, &told))
            .context("a thread cannot start")?;
        Ok(Self { clients, current })
    }

    /// Calls one process after the other, as long as the call certainly did not run.
    fn call<Out>(
        &self,
        call: impl Fn(&pb::StorageClient) -> Result<Response<Out>, Status>,
    ) -> Result<Out, Status> {
        // Relaxed: a hint where to begin.
        let first = self.current.load(Ordering::Relaxed);
        let mut outcome = Err(Status::unavailable("no storage process was asked"));
        for step in 0..self.clients.len() {
            let at = (first + step) % self.clients.len();
            outcome = call(&self.clients[at]);
            if !outcome.as_ref().is_err_and(elsewhere) {
                if step > 0 {
                    self.current.store(at, Ordering::Relaxed);
                }
                break;
            }
        }
        outcome.map(Response::into_inner)
    }
}

/// Asks all processes, again and again, which of them serves; as long as somebody wants to know.
fn scout(clients: &[pb::StorageClient], current: &Weak<AtomicUsize>) {
    while current.strong_count() > 0 {
        let serving = clients.iter().enumerate().filter_map(|(at, client)| {
            let options = CallOptions::new().deadline(DESCRIBE);
            let reply = client.describe_with(pb::DescribeRequest {}, options).ok()?;
            reply.serving.then_some((reply.epoch, at))
        });
        if let (Some((_, at)), Some(current)) = (serving.max(), current.upgrade()) {
            current.store(at, Ordering::Relaxed);
        }
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
