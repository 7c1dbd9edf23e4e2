//! What the business asks of storage: `wechat.storage.Storage`, whoever answers it.

use rpc_core::{Code, Status};

use crate::proto::{logic as lp, storage as pb, terminal};

/// Storage, as one. Calls block the coroutine; a write is answered once both copies have it. A status is
/// the store's own, or `Unavailable` when no primary can be reached.
pub trait Stores: Send + Sync + 'static {
    /// Gives a name to a new user, or says whose it is.
    fn claim_name(&self, request: pb::ClaimNameRequest) -> Result<pb::ClaimNameReply, Status>;
    /// Whose a name is.
    fn find_name(&self, request: pb::FindNameRequest) -> Result<pb::FindNameReply, Status>;
    /// Makes an account unless it is there.
    fn create_account(
        &self,
        request: pb::CreateAccountRequest,
    ) -> Result<pb::CreateAccountReply, Status>;
    /// A user's account.
    fn get_account(&self, request: pb::GetAccountRequest) -> Result<pb::GetAccountReply, Status>;
    /// Makes a device known.
    fn add_device(&self, request: pb::AddDeviceRequest) -> Result<pb::AddDeviceReply, Status>;
    /// Forgets a device and so revokes its token.
    fn remove_device(
        &self,
        request: pb::RemoveDeviceRequest,
    ) -> Result<pb::RemoveDeviceReply, Status>;
    /// Whether a token is good.
    fn check_token(&self, request: pb::CheckTokenRequest) -> Result<pb::CheckTokenReply, Status>;
    /// Sends messages.
    fn send(&self, request: pb::SendMessages) -> Result<terminal::SendReply, Status>;
    /// Asks somebody to be a contact.
    fn ask_contact(&self, request: pb::AskContactRequest) -> Result<pb::ContactReply, Status>;
    /// Says yes to somebody who asked.
    fn accept_contact(&self, request: pb::AcceptContactRequest)
    -> Result<pb::ContactReply, Status>;
    /// One page of a timeline.
    fn sync(&self, request: pb::SyncPageRequest) -> Result<pb::SyncPage, Status>;
    /// Changes something of one user's.
    fn change(&self, request: pb::ChangeUser) -> Result<terminal::ChangeReply, Status>;
    /// The devices of a user.
    fn list_devices(&self, request: pb::DeviceOf) -> Result<terminal::ListDevicesReply, Status>;
    /// A post and what was said to it, as the reader may see it at the author's home.
    fn open_post(&self, request: pb::ReadPost) -> Result<terminal::OpenPostReply, Status>;
    /// An author's posts, as the reader may see them there.
    fn open_album(&self, request: pb::ReadAlbum) -> Result<terminal::OpenAlbumReply, Status>;
    /// Who is in a group, for a reader who is.
    fn list_members(&self, request: pb::ReadMembers) -> Result<terminal::ListMembersReply, Status>;
    /// Those among some users whose words a user takes.
    fn pick_friends(&self, request: pb::PickFriendsRequest)
    -> Result<pb::PickFriendsReply, Status>;
    /// Whether a device is still logged in.
    fn check_device(&self, request: pb::DeviceOf) -> Result<pb::CheckDeviceReply, Status>;
    /// Notes links, and reads the newest keys.
    fn register_links(
        &self,
        request: lp::RegisterLinksRequest,
    ) -> Result<lp::RegisterLinksReply, Status>;
    /// Forgets links.
    fn drop_links(&self, request: lp::DropLinksRequest) -> Result<lp::DropLinksReply, Status>;
    /// Tells a user's links that another writes, if the user takes what the other sends.
    fn typing(&self, request: pb::TypingTo) -> Result<terminal::TypingReply, Status>;
    /// Which users are there, and has the device told of changes.
    fn watch(&self, request: pb::WatchRequest) -> Result<terminal::PresenceReply, Status>;
}

/// What registering links comes to when their users' home answers so: unless it refuses, their keys are not read.
pub(super) fn unread(status: Status, users: &[u64]) -> Result<Vec<lp::NewestKey>, Status> {
    if !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) {
        return Err(status);
    }
    let not_read = |&user_id| lp::NewestKey {
        user_id,
        key: 0,
        reached: false,
        epoch: 0,
    };
    Ok(users.iter().map(not_read).collect())
}
