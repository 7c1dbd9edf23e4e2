//! A client of ZooKeeper: a session with an ensemble, as blocking calls.
//!
//! Knows: the servers' wire, reconnecting, what is watched.   Does not know: what a node means.
//!
//! A [`Session`] has a thread of its own that connects, keeps it alive and hears what comes; calls write to
//! the connection themselves and wait for their answers. It is a thread and not a coroutine so that
//! whether a process counts as alive does not depend on how busy its workers are. Calls park as everything
//! else does: they are at home in coroutines and in plain threads.
//!
//! Invariants
//! - ZK-1  A call whose request may have reached a server, and that has no answer, fails with
//!   [`Fault::Lost`]; it is never sent again here. One that was certainly not sent fails with
//!   [`Fault::Unreachable`].
//! - ZK-2  A session is over when a server says so, and only then: until that it connects again, to any
//!   server, with jitter.
//! - ZK-3  Of several changes of a watched path at least the last one is reported. After a reconnect
//!   every watched path counts as changed.
//! - ZK-4  Bounded: [`WATCHES`], [`PENDING`], and one event for each watched path.
//!
//! Read first: [`Session`], then `keeper.rs`.

mod keeper;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::time::Instant;
use crate::rpc::error::Error;
use keeper::{Keeper, Shared};
use wire::{Malformed, Op};

/// Paths that one session watches.
pub const WATCHES: usize = 1024;
/// Calls under way on one session.
pub const PENDING: usize = 1024;
/// Time for a call.
const CALL: Duration = Duration::from_secs(2);
/// Time for a new session, whichever server gives it.
const OPEN: Duration = Duration::from_secs(6);

/// An ensemble.
#[derive(Clone, Debug)]
pub struct ZooKeeper {
    addresses: Arc<[String]>,
}

/// A session. It is kept alive in the background until it is dropped, which ends it and what is ephemeral
/// of it.
///
/// Every call blocks for two seconds at most. After [`Fault::Expired`] the session is of no use any more.
pub struct Session {
    shared: Arc<Shared>,
}

/// What a new node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Stays until it is removed.
    Lasting,
    /// Goes with its session.
    Ephemeral,
    /// Stays, and its name gets ten digits: more than any sequence node made there before had.
    Sequence,
    /// Both.
    EphemeralSequence,
}

/// A node as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// What it holds.
    pub data: Bytes,
    /// 0 at creation, one more with every set.
    pub version: i32,
}

/// What a session is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// This watched path may have changed, once or several times: read it again.
    Changed(String),
    /// No server is connected; the session may yet go on.
    Disconnected,
    /// One is connected again, and the session goes on.
    Connected,
    /// The session is over.
    Expired,
}

/// Why a call did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// There is no such node, or no such parent.
    NoNode,
    /// The path is taken.
    NodeExists,
    /// Somebody was faster.
    BadVersion,
    /// It has children.
    NotEmpty,
    /// What is ephemeral has no children.
    EphemeralParent,
    /// The session is over.
    Expired,
    /// A path or a size that cannot be.
    Invalid,
    /// A bound of the session: [`WATCHES`] or [`PENDING`].
    Full,
    /// The server refused with this number (`KeeperException.Code`).
    Refused(i32),
    /// Not sent, for this reason: no server can be reached.
    Unreachable(String),
    /// No answer, for this reason: it was done or it was not.
    Lost(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoNode => "there is no such node",
            Self::NodeExists => "the node exists",
            Self::BadVersion => "the node has another version",
            Self::NotEmpty => "the node has children",
            Self::EphemeralParent => "an ephemeral node has no children",
            Self::Expired => "ZooKeeper has ended the session; open another",
            Self::Invalid => "ZooKeeper does not take this path, or data of this size",
            Self::Full => "the session has too many watches or calls under way",
            Self::Refused(code) => return write!(f, "ZooKeeper refuses with error {code}"),
            Self::Unreachable(why) => return write!(f, "ZooKeeper cannot be reached: {why}"),
            Self::Lost(why) => return write!(f, "no answer from ZooKeeper: {why}"),
        })
    }
}

impl std::error::Error for Fault {}

impl ZooKeeper {
    /// The ensemble whose servers listen at `HOST:PORT,HOST:PORT,…`; none need be there yet.
    ///
    /// # Errors
    /// An address that is none.
    pub fn new(hosts: &str) -> Result<Self, Error> {
        let addresses: Arc<[String]> = hosts.split(',').map(|host| host.trim().into()).collect();
        for address in addresses.iter() {
            let port = address
                .rsplit_once(':')
                .map(|(host, port)| (host, port.parse::<u16>()));
            // Another separator than the comma would make one server of several.
            let is_host = |host: &str| !host.is_empty() && !host.contains([';', ' ']);
            if !matches!(port, Some((host, Ok(1..))) if is_host(host)) {
                return Err(Error::Config(format!(
                    "{address:?} is no ZooKeeper server: expected HOST:PORT,HOST:PORT,… with ports from 1 to 65535"
                )));
            }
        }
        Ok(Self { addresses })
    }

    /// As [`new`](Self::new), for text with a path behind the addresses, as `HOST:PORT,HOST:PORT/PATH`; the
    /// path, without a `/` at its end: empty if there is none.
    ///
    /// # Errors
    /// An address or a path that is none.
    pub fn with_path(text: &str) -> Result<(Self, String), Error> {
        let (hosts, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        let path = path.strip_suffix('/').unwrap_or(path);
        if path.contains("//") {
            return Err(Error::Config(format!(
                "{path:?} is no path of ZooKeeper: expected names with one / before each"
            )));
        }
        Ok((Self::new(hosts)?, path.to_owned()))
    }

    /// Opens a session that ends when the ensemble has not heard of it for `timeout`, which servers bring
    /// within bounds of their own (usually 2 to 20 of their ticks).
    ///
    /// # Errors
    /// [`Fault::Unreachable`] with the reason of one server, when none gives a session.
    pub fn open(&self, timeout: Duration) -> Result<Session, Fault> {
        let shared = Arc::new(Shared::default());
        let session = Session {
            shared: Arc::clone(&shared),
        };
        let keeper = Keeper::new(Arc::clone(&self.addresses), shared, timeout);
        std::thread::Builder::new()
            .name("zookeeper".to_owned())
            .spawn(move || keeper.run())
            .map_err(|error| Fault::Unreachable(format!("no thread for the session: {error}")))?;
        session.shared.connected(Instant::after(OPEN))?;
        Ok(session)
    }
}

impl Session {
    /// A node, if it is there. What is read may be a little old: only a change's refusal is the truth.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn read(&self, path: &str) -> Result<Option<Node>, Fault> {
        let answer = self.call(|number| wire::get(number, Op::GetData, path));
        found(answer.and_then(|body| wire::node(body).map_err(malformed)))
    }

    /// Names of a node's children, sorted, if it is there.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn children(&self, path: &str) -> Result<Option<Vec<String>>, Fault> {
        let answer = self.call(|number| wire::get(number, Op::GetChildren, path));
        found(answer.and_then(|body| wire::children(body).map_err(malformed)))
    }

    /// Makes a node that anybody may change, and gives its path. Its parent must be there.
    ///
    /// # Errors
    /// [`Fault::NodeExists`], [`Fault::NoNode`] and [`Fault::EphemeralParent`] for the parent, and those of
    /// every call.
    pub fn create(&self, path: &str, data: &[u8], kind: Kind) -> Result<String, Fault> {
        let body = self.call(|number| wire::create(number, path, data, kind))?;
        wire::created(body).map_err(malformed)
    }

    /// Makes the nodes of a path that are not there, without data.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn create_all(&self, path: &str) -> Result<(), Fault> {
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1);
        for end in ends.chain([path.len()]) {
            match self.create(&path[..end], b"", Kind::Lasting) {
                Ok(_) | Err(Fault::NodeExists) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Replaces a node's data if it has this version (from 0); gives the new one.
    ///
    /// # Errors
    /// [`Fault::BadVersion`], [`Fault::NoNode`], and those of every call.
    pub fn set(&self, path: &str, data: &[u8], version: i32) -> Result<i32, Fault> {
        // To the server, a negative one is any.
        if version < 0 {
            return Err(Fault::BadVersion);
        }
        let body = self.call(|number| wire::set_data(number, path, data, version))?;
        wire::version(body).map_err(malformed)
    }

    /// Removes a node without children if it has this version (from 0).
    ///
    /// # Errors
    /// [`Fault::BadVersion`], [`Fault::NoNode`], [`Fault::NotEmpty`], and those of every call.
    pub fn remove(&self, path: &str, version: i32) -> Result<(), Fault> {
        if version < 0 {
            return Err(Fault::BadVersion);
        }
        self.call(|number| wire::delete(number, path, version))
            .map(drop)
    }

    /// From now on changes of the node, or of the list of its children, come as [`Event::Changed`]; it
    /// need not be there. At most [`WATCHES`] paths.
    ///
    /// # Errors
    /// [`Fault::Full`], and those of every call.
    pub fn watch(&self, path: &str) -> Result<(), Fault> {
        self.shared.remember(path)?;
        self.call(|number| wire::add_watch(number, path)).map(drop)
    }

    /// The next event, or `None` when none came within `wait`, or the caller was cancelled.
    pub fn next_event(&self, wait: Duration) -> Option<Event> {
        self.shared.next_event(Instant::after(wait))
    }

    fn call(&self, request: impl FnOnce(i32) -> Vec<u8>) -> Result<Bytes, Fault> {
        let until = Instant::after(CALL);
        let line = self.shared.connected(until)?;
        let answer = line.ask(request)?;
        let outcome = answer
            .recv_timeout(until - Instant::now())
            .unwrap_or_else(|cut| Err(Fault::Lost(keeper::why(cut))));
        if outcome == Err(Fault::Expired) {
            self.shared.expire();
        }
        outcome
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("zookeeper::Session")
    }
}

/// A missing node is an answer.
fn found<T>(answer: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match answer {
        Err(Fault::NoNode) => Ok(None),
        answer => answer.map(Some),
    }
}

fn malformed(_: Malformed) -> Fault {
    Fault::Lost("the server sent what is no answer".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_address_says_what_was_expected() {
        for wrong in ["", "a", "a:", ":1", "a:0", "a:1,", "a:1;b:2"] {
            let text = ZooKeeper::new(wrong).unwrap_err().to_string();
            assert!(text.contains("HOST:PORT,HOST:PORT"), "{wrong}: {text}");
        }
        assert!(ZooKeeper::new("a:1, b:2").is_ok());
        for (text, path) in [("a:1", ""), ("a:1,b:2/", ""), ("a:1/x/y", "/x/y")] {
            assert_eq!(ZooKeeper::with_path(text).unwrap().1, path);
        }
        assert!(ZooKeeper::with_path("a:1//x").is_err());
    }

    #[test]
    fn nobody_at_home_is_said_with_the_reason() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let ensemble = ZooKeeper::new(&address).unwrap();
        let fault = ensemble.open(Duration::from_secs(4)).unwrap_err();
        let Fault::Unreachable(why) = &fault else {
            panic!("{fault:?}")
        };
        assert!(why.contains(&address), "{why}");
    }
}
