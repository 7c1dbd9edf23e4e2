//! The links of a channel whose servers come and go.
//!
//! Knows: links, what naming tells.   Does not know: where that is from, calls.
//!
//! Invariants
//! - RL-1  A server that stays named keeps its link. One that is not named any more gets no more calls, and its
//!   connection ends with the answer to the last call that it has.
//! - RL-2  Once the roll has ended no link is added.

use std::sync::Arc;

use super::channel::{Board, ChannelLimits};
use super::link::Link;
use super::naming::{News, Place};
use crate::base::lock::SpinLock;
use crate::runtime::Handle;

/// See the module.
pub(super) struct Roll {
    state: SpinLock<State>,
    limits: ChannelLimits,
    board: Arc<Board>,
    handle: Handle,
}

struct State {
    links: Arc<[Arc<Link>]>,
    /// Why there is no link; `None` = nothing has been heard yet.
    trouble: Option<Arc<str>>,
    ended: bool,
}

impl Roll {
    pub fn new(limits: ChannelLimits, board: Arc<Board>, handle: Handle) -> Self {
        Self {
            state: SpinLock::new(State {
                links: Arc::default(),
                trouble: None,
                ended: false,
            }),
            limits,
            board,
            handle,
        }
    }

    /// The links there are now.
    pub fn links(&self) -> Arc<[Arc<Link>]> {
        Arc::clone(&self.state.lock().links)
    }

    /// Why there are no links, as far as is known.
    pub fn trouble(&self) -> Option<Arc<str>> {
        self.state.lock().trouble.clone()
    }

    /// Takes in what naming tells; one caller at a time. Trouble changes no link: who was named still serves, perhaps.
    pub fn hear(&self, news: News) {
        match news {
            News::Trouble(why) => self.state.lock().trouble = Some(why.into()),
            News::Places(places) => self.set(&places),
        }
        self.board.wake_all();
    }

    fn set(&self, places: &[Place]) {
        let before = self.links();
        let links: Arc<[_]> = places
            .iter()
            .map(|place| self.link(&before, place))
            .collect();
        let ended = {
            let mut state = self.state.lock();
            if !state.ended {
                state.links = Arc::clone(&links);
            }
            state.ended
        };
        let stays = |link: &Link| links.iter().any(|other| std::ptr::eq(&**other, link));
        for link in before.iter().filter(|link| !stays(link)) {
            link.leave();
        }
        if ended {
            links.iter().for_each(|link| link.end());
        }
    }

    fn link(&self, before: &[Arc<Link>], place: &Place) -> Arc<Link> {
        let same = before.iter().find(|link| link.target() == place.address);
        if let Some(link) = same {
            link.load().set_weight(place.weight);
            return Arc::clone(link);
        }
        let (limits, board) = (self.limits.clone(), Arc::clone(&self.board));
        Link::start(
            place.address.clone(),
            place.weight,
            limits,
            board,
            self.handle,
        )
    }

    /// No more calls, no more connections.
    pub fn end(&self) {
        let links = {
            let mut state = self.state.lock();
            state.ended = true;
            Arc::clone(&state.links)
        };
        links.iter().for_each(|link| link.end());
    }
}
