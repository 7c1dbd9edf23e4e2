//! The logic layer over RPC.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rpc_core::{CallOptions, Response, Status};

use super::backend::{Answer, Backend, Refusal};
use crate::coordinator::names;
use crate::model::brief;
use crate::proto::logic::{
    AcceptContactCall, AddContactCall, AuthenticateRequest, Caller, ChangeCall, DropLinksRequest,
    FindUserCall, Link, ListDevicesCall, ListMembersCall, LogicClient, NewestKey, OpenAlbumCall,
    OpenPostCall, PresenceCall, RegisterLinksRequest, SendCall, SyncCall, TypingCall,
};
use crate::proto::terminal as pb;

/// Time for a command: longer than logic gives storage, so that its own words arrive, and shorter than a
/// terminal waits.
const COMMAND: Duration = Duration::from_secs(15);
/// Time for a batch of registrations: beats and AUTHs wait for it.
const REGISTER: Duration = Duration::from_secs(5);

/// Logic processes, all alike.
pub(super) struct RemoteLogic {
    client: LogicClient,
}

impl RemoteLogic {
    /// Begins to connect; nobody need be there yet.
    pub(super) fn new(addresses: &[String]) -> anyhow::Result<Self> {
        let channel = names::channel("--logic", addresses, COMMAND)?;
        Ok(Self {
            client: LogicClient::new(channel),
        })
    }
}

impl Backend for RemoteLogic {
    fn authenticate(&self, token: Bytes) -> Result<Caller, Refusal> {
        let reply = self.client.authenticate(AuthenticateRequest { token })?;
        Ok(Caller {
            user_id: reply.user_id,
            device_id: reply.device_id,
        })
    }

    fn open_command(&self, command: pb::Command, body: Bytes) -> Result<Answer, Refusal> {
        match command {
            pb::Command::Register => answer(
                self.client
                    .register(decode::<pb::RegisterRequest>(command, body)?),
            ),
            pb::Command::Login => answer(
                self.client
                    .login(decode::<pb::LoginRequest>(command, body)?),
            ),
            other => Err(Refusal::unknown(other as u32)),
        }
    }

    fn command(
        &self,
        caller: Caller,
        command: pb::Command,
        body: Bytes,
    ) -> Result<Answer, Refusal> {
        let user = caller.user_id;
        let caller = Some(caller);
        let client = &self.client;
        macro_rules! pass_on {
            ($method:ident($call:ident)) => {{
                let request = Some(decode(command, body)?);
                answer(client.$method($call { caller, request }))
            }};
        }
        match command {
            pb::Command::Send => {
                let request = Some(decode(command, body)?);
                let mut reply = client.send(SendCall { caller, request })?.into_inner();
                let told = reply.sent.iter().map(|sent| sent.number).max();
                brief::shorten_sent(&mut reply, user);
                Ok(Answer {
                    told: told.unwrap_or(0),
                    body: reply.encode_to_vec().into(),
                })
            }
            pb::Command::Sync => {
                let request = Some(decode(command, body)?);
                let mut reply = client.sync(SyncCall { caller, request })?.into_inner();
                brief::shorten_items(&mut reply.items, user);
                Ok(Answer {
                    told: reply.key,
                    body: reply.encode_to_vec().into(),
                })
            }
            pb::Command::FindUser => pass_on!(find_user(FindUserCall)),
            pb::Command::AddContact => pass_on!(add_contact(AddContactCall)),
            pb::Command::AcceptContact => pass_on!(accept_contact(AcceptContactCall)),
            pb::Command::Change => pass_on!(change(ChangeCall)),
            pb::Command::ListDevices => pass_on!(list_devices(ListDevicesCall)),
            pb::Command::OpenPost => pass_on!(open_post(OpenPostCall)),
            pb::Command::OpenAlbum => pass_on!(open_album(OpenAlbumCall)),
            pb::Command::ListMembers => pass_on!(list_members(ListMembersCall)),
            pb::Command::Typing => pass_on!(typing(TypingCall)),
            pb::Command::Presence => pass_on!(presence(PresenceCall)),
            other => Err(Refusal::unknown(other as u32)),
        }
    }

    fn register_links(&self, links: Vec<Link>) -> Result<Vec<NewestKey>, Refusal> {
        let options = CallOptions::new().deadline(REGISTER);
        let request = RegisterLinksRequest { links };
        Ok(self
            .client
            .register_links_with(request, options)?
            .into_inner()
            .newest)
    }

    fn drop_links(&self, links: Vec<Link>) -> Result<(), Refusal> {
        let options = CallOptions::new().deadline(REGISTER);
        self.client
            .drop_links_with(DropLinksRequest { links }, options)?;
        Ok(())
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self {
            code: status.code().number().unsigned_abs(),
            text: status.message().to_owned(),
        }
    }
}

fn answer<Reply: Message>(result: Result<Response<Reply>, Status>) -> Result<Answer, Refusal> {
    let body = result?.into_inner().encode_to_vec().into();
    Ok(Answer { body, told: 0 })
}

fn decode<Request: Message + Default>(
    command: pb::Command,
    body: Bytes,
) -> Result<Request, Refusal> {
    Request::decode(body).map_err(|error| Refusal::undecodable(command, &error))
}
