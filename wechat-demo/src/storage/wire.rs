//! Storage's calls to others, over RPC: the primary to other copies, the primary to access processes.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rpc_core::{Channel, Code, Response, Status};

use super::{
    copies::{Peer, PeerError},
    notify::AccessCalls,
    ops::{Refusal, RefusalKind},
    views::machine::Member,
};
use crate::proto::{
    access::{AccessClient, NotifyReply, NotifyRequest},
    storage as pb,
};

/// A call to another copy that takes longer is given up and asked about again.
const REPLICA_DEADLINE: Duration = Duration::from_secs(2);
/// A notify that takes longer is dropped; the next heartbeat heals it.
const NOTIFY_DEADLINE: Duration = Duration::from_secs(2);
/// Access processes whose channels are kept.
const CHANNELS: usize = 1024;

/// Another copy at an address.
pub struct RemotePeer {
    /// Whose answers are wanted; another disk at the address refuses.
    disk: Bytes,
    /// What the address is good for.
    client: Result<pb::ReplicaClient, PeerError>,
}

/// Access processes at any addresses.
#[derive(Default)]
pub struct RemoteAccess {
    clients: Mutex<HashMap<String, AccessClient>>,
}

impl RemotePeer {
    /// Begins to connect to where a copy is; nobody need be there yet.
    pub fn new(member: &Member) -> Self {
        let channel = Channel::builder(&member.address)
            .deadline(REPLICA_DEADLINE)
            .connect_lazy();
        Self {
            disk: member.disk.clone(),
            client: channel
                .map(pb::ReplicaClient::new)
                .map_err(|error| PeerError::Unreachable(error.to_string())),
        }
    }

    fn call<Out>(
        &self,
        call: impl FnOnce(&pb::ReplicaClient) -> Result<Response<Out>, Status>,
    ) -> Result<Out, PeerError> {
        let client = self.client.as_ref().map_err(PeerError::clone)?;
        Ok(call(client).map_err(peer_error)?.into_inner())
    }
}

impl Peer for RemotePeer {
    fn marks(&self, mut request: pb::MarksRequest) -> Result<pb::MarksReply, PeerError> {
        request.disk = self.disk.clone();
        self.call(|client| client.marks(request))
    }

    fn read_log(&self, mut request: pb::ReadLogRequest) -> Result<pb::ReadLogReply, PeerError> {
        request.disk = self.disk.clone();
        self.call(|client| client.read_log(request))
    }

    fn append(&self, mut request: pb::AppendRequest) -> Result<pb::AppendReply, PeerError> {
        request.disk = self.disk.clone();
        self.call(|client| client.append(request))
    }

    fn load(&self, mut request: pb::LoadRequest) -> Result<pb::LoadReply, PeerError> {
        request.disk = self.disk.clone();
        self.call(|client| client.load(request))
    }
}

impl RemoteAccess {
    fn client(&self, address: &str) -> Option<AccessClient> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(address) {
            return Some(client.clone());
        }
        if clients.len() >= CHANNELS {
            clients.clear();
        }
        let channel = Channel::builder(address)
            .deadline(NOTIFY_DEADLINE)
            .connect_lazy()
            .ok()?;
        let client = AccessClient::new(channel);
        clients.insert(address.to_owned(), client.clone());
        Some(client)
    }
}

impl AccessCalls for RemoteAccess {
    fn notify(&self, address: &str, request: NotifyRequest) -> Option<NotifyReply> {
        let outcome = self.client(address)?.notify(request);
        match outcome {
            Ok(reply) => Some(reply.into_inner()),
            Err(status) => {
                tracing::debug!(address, %status, "a notify was not delivered");
                None
            }
        }
    }
}

/// What becomes of a refusal on the wire.
pub fn status(refusal: Refusal) -> Status {
    let code = match refusal.kind {
        RefusalKind::InvalidArgument => Code::InvalidArgument,
        RefusalKind::NotFound => Code::NotFound,
        RefusalKind::AlreadyExists => Code::AlreadyExists,
        RefusalKind::FailedPrecondition => Code::FailedPrecondition,
        RefusalKind::Aborted => Code::Aborted,
        RefusalKind::PermissionDenied => Code::PermissionDenied,
        RefusalKind::Unauthenticated => Code::Unauthenticated,
        RefusalKind::Unavailable => Code::Unavailable,
        RefusalKind::DeadlineExceeded => Code::DeadlineExceeded,
        RefusalKind::Internal => Code::Internal,
    };
    Status::new(code, refusal.text)
}

/// Whether the other copy may answer better when asked again.
fn peer_error(status: Status) -> PeerError {
    match status.code() {
        Code::FailedPrecondition | Code::InvalidArgument => {
            PeerError::Refused(status.message().to_owned())
        }
        _ => PeerError::Unreachable(status.to_string()),
    }
}
