//! A view that changes by joining alone, for tests of what lies below views.

use std::sync::Arc;

use bytes::Bytes;

use super::{Fatal, Peer, Reign};
use crate::storage::views::machine::{Crew, Member, Post, Standing};

/// One backup, for ever; or none until the spare has joined.
pub struct Fixed {
    /// Of the view.
    pub epoch: u64,
    /// The backup.
    pub peer: Option<Arc<dyn Peer>>,
    /// Could become the backup.
    pub spare: Option<Arc<dyn Peer>>,
    /// Called between attempts.
    pub pause: Box<dyn FnMut() -> Result<(), Fatal> + Send>,
}

fn member() -> Member {
    Member {
        address: "the other copy".to_owned(),
        disk: Bytes::new(),
        idc: String::new(),
    }
}

impl Reign for Fixed {
    fn standing(&mut self) -> Standing {
        Standing::With(Crew {
            epoch: self.epoch,
            backup: self.peer.as_ref().map(|_| member()),
            follower: None,
            sole: false,
        })
    }

    fn peer(&mut self, _: &Member) -> Arc<dyn Peer> {
        let peer = self.peer.as_ref().or(self.spare.as_ref());
        Arc::clone(peer.expect("there is another copy"))
    }

    fn pause(&mut self) -> Result<(), Fatal> {
        (self.pause)()
    }

    fn candidates(&mut self, post: Post) -> Vec<Member> {
        let spare = self.spare.iter().filter(|_| post == Post::Backup);
        spare.map(|_| member()).collect()
    }

    fn learning(&mut self, _: Post, _: Option<Member>) {}

    fn lags(&mut self, _: &Member) {}

    fn hands_over(&mut self) -> bool {
        false
    }

    fn handed(&mut self) {}

    fn join(&mut self, _: Post) {
        self.peer = self.spare.take();
        self.epoch += 1;
    }

    fn over(&mut self, _: u64) {}
}
