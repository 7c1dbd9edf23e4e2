//! `wechat.logic.Logic` over RPC.

use rpc_core::{Request, Response, Status};

use super::business::Business;
use crate::proto::{
    logic::{self as lp, Logic},
    terminal,
};

/// Answers with what the business says.
pub struct LogicService {
    /// The business.
    pub business: Business,
}

macro_rules! answers {
    ($($name:ident($request:ty) -> $reply:ty;)*) => {
        $(fn $name(&self, request: Request<$request>) -> Result<Response<$reply>, Status> {
            self.business.$name(request.into_inner()).map(Response::new)
        })*
    };
}

impl Logic for LogicService {
    answers! {
        register(terminal::RegisterRequest) -> terminal::RegisterReply;
        login(terminal::LoginRequest) -> terminal::LoginReply;
        authenticate(lp::AuthenticateRequest) -> lp::AuthenticateReply;
        send(lp::SendCall) -> terminal::SendReply;
        sync(lp::SyncCall) -> terminal::SyncReply;
        find_user(lp::FindUserCall) -> terminal::FindUserReply;
        add_contact(lp::AddContactCall) -> terminal::AddContactReply;
        accept_contact(lp::AcceptContactCall) -> terminal::AcceptContactReply;
        change(lp::ChangeCall) -> terminal::ChangeReply;
        list_devices(lp::ListDevicesCall) -> terminal::ListDevicesReply;
        open_post(lp::OpenPostCall) -> terminal::OpenPostReply;
        open_album(lp::OpenAlbumCall) -> terminal::OpenAlbumReply;
        list_members(lp::ListMembersCall) -> terminal::ListMembersReply;
        register_links(lp::RegisterLinksRequest) -> lp::RegisterLinksReply;
        drop_links(lp::DropLinksRequest) -> lp::DropLinksReply;
        typing(lp::TypingCall) -> terminal::TypingReply;
        presence(lp::PresenceCall) -> terminal::PresenceReply;
    }
}
