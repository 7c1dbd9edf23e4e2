//! Storage over RPC: finds the primary among the addresses it was given.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::Context;
use rpc_core::{Channel, Code, Response, Status};

use super::stores::Stores;
use crate::proto::{logic as lp, storage as pb, terminal};

/// Storage processes of one home.
pub struct RemoteStores {
    clients: Vec<pb::StorageClient>,
    /// The one that answered last; the next call begins there.
    current: AtomicUsize,
}

/// Longer than a primary waits for a commit, so that its own words arrive.
const DEADLINE: Duration = Duration::from_secs(12);

impl RemoteStores {
    /// Begins to connect to `HOST:PORT,…`; nobody need be there yet.
    pub fn new(addresses: &[String]) -> anyhow::Result<Self> {
        let clients = addresses
            .iter()
            .map(|address| {
                let channel = Channel::builder(address)
                    .deadline(DEADLINE)
                    .connect_lazy()
                    .with_context(|| format!("--storage {address}"))?;
                Ok(pb::StorageClient::new(channel))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        anyhow::ensure!(
            !clients.is_empty(),
            "--storage needs at least one HOST:PORT"
        );
        Ok(Self {
            clients,
            current: AtomicUsize::new(0),
        })
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
        register_links(lp::RegisterLinksRequest) -> lp::RegisterLinksReply;
        drop_links(lp::DropLinksRequest) -> lp::DropLinksReply;
    }
}
