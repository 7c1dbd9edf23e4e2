//! The servers of a channel, and which of them gets the next call.
//!
//! Knows: links, how they are balanced.   Does not know: sockets, what a call is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::balance::{Balance, two_of};
use super::channel::{Board, ChannelLimits};
use super::connection::Connection;
use super::link::{Link, Phase};
use super::naming::{self, Follower};
use super::roll::Roll;
use super::target::parse_target;
use crate::base::rng::Rng;
use crate::base::time::Instant;
use crate::rpc::error::Error;
use crate::rpc::status::{Code, Status};
use crate::runtime::Handle;

/// See the module.
pub(super) struct Servers {
    links: Links,
    balance: Balance,
    /// Another number for each call.
    next: AtomicUsize,
}

enum Links {
    /// What the target lists.
    Listed(Vec<Arc<Link>>),
    /// What naming tells, as long as the follower lives.
    Named {
        roll: Arc<Roll>,
        _follower: Follower,
    },
}

/// What looking for a connection came to.
pub(super) enum Pick {
    Ready(Arc<Connection>),
    /// An attempt is under way.
    Undecided,
    /// Every address failed; why one of them did.
    Failed(Arc<str>),
}

impl Servers {
    /// Begins to connect to those of `target`.
    ///
    /// # Errors
    /// The target cannot be read, or the background runtime could not be started.
    pub fn start(
        target: &str,
        balance: Option<Balance>,
        limits: &ChannelLimits,
        board: &Arc<Board>,
        handle: Handle,
    ) -> Result<Self, Error> {
        let (links, usual) = if target.starts_with(naming::SCHEME) {
            let path = naming::Path::parse(target)?;
            let roll = Arc::new(Roll::new(limits.clone(), Arc::clone(board), handle));
            let told = Arc::clone(&roll);
            let _follower = Follower::start(path, move |news| told.hear(news))?;
            (Links::Named { roll, _follower }, Balance::P2c)
        } else {
            let start = |addr| Link::start(addr, 1, limits.clone(), Arc::clone(board), handle);
            let links = parse_target(target)?.into_iter().map(start).collect();
            (Links::Listed(links), Balance::InTurn)
        };
        Ok(Self {
            links,
            balance: balance.unwrap_or(usual),
            // Not all clients begin with the same server.
            next: AtomicUsize::new(Rng::from_entropy().next_u64() as usize),
        })
    }

    /// A connection to one of those that have one.
    pub fn pick(&self, wait_for_ready: bool, now: Instant) -> Pick {
        match &self.links {
            Links::Listed(links) => self.pick_among(links, wait_for_ready, now),
            Links::Named { roll, .. } => match roll.links() {
                links if !links.is_empty() => self.pick_among(&links, wait_for_ready, now),
                _ => match roll.trouble() {
                    Some(why) if !wait_for_ready => Pick::Failed(why),
                    _ => Pick::Undecided,
                },
            },
        }
    }

    fn pick_among(&self, links: &[Arc<Link>], wait_for_ready: bool, now: Instant) -> Pick {
        // Relaxed: the number only spreads calls.
        let first = match links.len() {
            1 => 0,
            _ => self.next.fetch_add(1, Ordering::Relaxed),
        };
        if links.len() > 1 && self.balance == Balance::P2c {
            let (one, other) = two_of(links.len(), first);
            if let Some(connection) = better(&links[one], &links[other], now) {
                return Pick::Ready(connection);
            }
        }
        let mut failed = None;
        let mut undecided = wait_for_ready;
        for i in 0..links.len() {
            match links[first.wrapping_add(i) % links.len()].phase() {
                Phase::Ready(connection) => return Pick::Ready(connection),
                Phase::Connecting => undecided = true,
                Phase::Failed(why) => failed = failed.or(Some(why)),
                Phase::Closed(why) => {
                    failed = failed.or(Some(why));
                    undecided &= links.len() > 1;
                }
            }
        }
        match failed {
            Some(why) if !undecided => Pick::Failed(why),
            _ => Pick::Undecided,
        }
    }

    /// Makes an attempt that counts as a part of what its server has to do, where servers are compared by that.
    pub fn weigh<R>(
        &self,
        connection: &Connection,
        began: Instant,
        attempt: impl FnOnce() -> Result<R, Status>,
    ) -> Result<R, Status> {
        if self.balance != Balance::P2c {
            return attempt();
        }
        let load = connection.load();
        let begun = load.begin();
        let result = attempt();
        drop(begun);
        let now = Instant::now();
        let refused = |status: &Status| status.code() == Code::Unavailable;
        let least = match result.as_ref().is_err_and(refused) {
            // Or who refuses at once would seem to be the fastest.
            true => REFUSED,
            false => Duration::ZERO,
        };
        load.took((now - began).max(least), now);
        result
    }

    /// How many a call may be offered to beside the first.
    pub fn others(&self) -> usize {
        match &self.links {
            Links::Listed(links) => links.len() - 1,
            // One may have been named meanwhile.
            Links::Named { roll, .. } => roll.links().len().max(2) - 1,
        }
    }

    /// No more calls, no more connections.
    pub fn end(&self) {
        match &self.links {
            Links::Listed(links) => links.iter().for_each(|link| link.end()),
            Links::Named { roll, .. } => roll.end(),
        }
    }

    /// Where they are.
    pub fn targets(&self) -> Vec<String> {
        let of = |links: &[Arc<Link>]| links.iter().map(|link| link.target().to_owned()).collect();
        match &self.links {
            Links::Listed(links) => of(links),
            Links::Named { roll, .. } => of(&roll.links()),
        }
    }
}

/// The connection of the one that has less to do, or of the one that has a connection.
fn better(one: &Link, other: &Link, now: Instant) -> Option<Arc<Connection>> {
    let cheaper = one.load().cost(now) <= other.load().cost(now);
    let (first, second) = if cheaper { (one, other) } else { (other, one) };
    [first, second]
        .into_iter()
        .find_map(|link| match link.phase() {
            Phase::Ready(connection) => Some(connection),
            _ => None,
        })
}

/// A server that did not take a call counts as one that took so long.
const REFUSED: Duration = Duration::from_millis(100);
