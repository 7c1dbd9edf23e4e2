//! A view that changes by joining alone, for tests of what lies below views.

use std::sync::Arc;

use bytes::Bytes;

use super::{Fatal, Peer, Reign};
use crate::storage::views::machine::{Member, Standing};

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
    }
}

impl Reign for Fixed {
    fn standing(&mut self) -> Standing {
        match self.peer {
            Some(_) => Standing::With(self.epoch, member()),
            None => Standing::Alone(self.epoch),
        }
    }

    fn peer(&mut self, _: &Member) -> Arc<dyn Peer> {
        let peer = self.peer.as_ref().or(self.spare.as_ref());
        Arc::clone(peer.expect("there is another copy"))
    }

    fn pause(&mut self) -> Result<(), Fatal> {
        (self.pause)()
    }

    fn candidates(&mut self) -> Vec<Member> {
        self.spare.iter().map(|_| member()).collect()
    }

    fn learning(&mut self, _: Option<Member>) {}

    fn join(&mut self) {
        self.peer = self.spare.take();
        self.epoch += 1;
    }

    fn over(&mut self, _: u64) {}
}
