//! What passes: who writes to whom, and who is there. Nothing of it is kept.
//!
//! The caller's home knows whether the other is a contact; the other's home knows whether that one takes what the
//! caller sends, and where the links are. Both are asked.

use rpc_core::Status;

use super::business::{Business, parts};
use crate::{
    model::{UserId, limits::WATCHED_USERS},
    proto::{logic as lp, storage as pb, terminal},
};

impl Business {
    /// Tells a contact's live links that the caller writes. A contact who takes nothing from the caller is not
    /// told, and that is not told either.
    pub fn typing(&self, call: lp::TypingCall) -> Result<terminal::TypingReply, Status> {
        let (user, device_id, request) = parts(call.caller, call.request)?;
        self.may_sign(user)?;
        if self
            .friends(user, device_id, vec![request.peer])?
            .is_empty()
        {
            let text = format!(
                "{} is no contact of yours that you take things from",
                UserId(request.peer)
            );
            return Err(Status::failed_precondition(text));
        }
        self.stores.typing(pb::TypingTo {
            from: user.0,
            to: request.peer,
        })
    }

    /// Which of some contacts are there; the device is told of changes from now on.
    pub fn presence(&self, call: lp::PresenceCall) -> Result<terminal::PresenceReply, Status> {
        let (user, device_id, request) = parts(call.caller, call.request)?;
        if request.user_ids.len() > WATCHED_USERS {
            let text = format!(
                "ask for {WATCHED_USERS} contacts at most, not {}",
                request.user_ids.len()
            );
            return Err(Status::invalid_argument(text));
        }
        self.may_sign(user)?;
        let user_ids = self.friends(user, device_id, request.user_ids)?;
        self.stores.watch(pb::WatchRequest {
            user_id: user.0,
            device_id,
            user_ids,
        })
    }
}
