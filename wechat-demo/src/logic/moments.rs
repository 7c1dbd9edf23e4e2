//! Reading moments: what the post's home shows to the caller, and of that what the caller's own home lets through.
//!
//! The author's home knows the audience and whom the author has blocked; the caller's home knows whose words the
//! caller takes. Nothing is handed on before both have been asked.

use rpc_core::{Code, Status};

use super::business::{Business, parts};
use crate::{
    model::UserId,
    proto::{logic as lp, storage as pb, terminal},
};

impl Business {
    /// A post and what was said to it: by the author, by the caller, by the caller's friends. Of the caller's own
    /// post all of it.
    pub fn open_post(&self, call: lp::OpenPostCall) -> Result<terminal::OpenPostReply, Status> {
        let (reader, device_id, request) = parts(call.caller, call.request)?;
        self.may(reader, 1)?;
        let author = request.author;
        let read = pb::ReadPost {
            reader: reader.0,
            request: Some(request),
        };
        let found = self.stores.open_post(read);
        let found = match found {
            Err(status) if status.code() != Code::NotFound => return Err(status),
            found => found,
        };
        // Also where there is none: a device that is logged out is told nothing, not even that.
        let said = found.iter().flat_map(|reply| &reply.comments);
        let mut others: Vec<u64> = said.map(|comment| comment.by).collect();
        others.push(author);
        let friends = self.friends(reader, device_id, others)?;
        let mut reply = found?;
        if reader.0 == author {
            return Ok(reply);
        }
        let takes = |user: u64| friends.binary_search(&user).is_ok();
        if !takes(author) {
            return Err(Status::not_found(
                "there is no such post, or it is not for you",
            ));
        }
        reply
            .comments
            .retain(|comment| [author, reader.0].contains(&comment.by) || takes(comment.by));
        Ok(reply)
    }

    /// An author's posts that the caller may see.
    pub fn open_album(&self, call: lp::OpenAlbumCall) -> Result<terminal::OpenAlbumReply, Status> {
        let (reader, device_id, request) = parts(call.caller, call.request)?;
        self.may(reader, 1)?;
        let author = request.author;
        let friends = self.friends(reader, device_id, vec![author])?;
        if reader.0 != author && friends.is_empty() {
            return Ok(terminal::OpenAlbumReply::default());
        }
        self.stores.open_album(pb::ReadAlbum {
            reader: reader.0,
            request: Some(request),
        })
    }

    /// Those of `others` whose words `user` takes, in the order of their ids.
    pub(super) fn friends(
        &self,
        user: UserId,
        device_id: u64,
        mut others: Vec<u64>,
    ) -> Result<Vec<u64>, Status> {
        others.sort_unstable();
        others.dedup();
        let request = pb::PickFriendsRequest {
            user_id: user.0,
            device_id,
            user_ids: others,
        };
        Ok(self.stores.pick_friends(request)?.user_ids)
    }
}
