//! Coordination: a small tree of nodes that all processes agree on.
//!
//! Knows: nodes, versions, sessions.   Does not know: what a node's data means; user data never gets here.
//!
//! [`Coordinator`] and [`Session`] are shaped after what ZooKeeper offers. Behind them stand a real ensemble,
//! [`zookeeper`], or the embedded one, a process of its own: [`remote`] is its client, [`role`] the process.
//!
//! Invariants
//! - K-1  A node changes by compare-and-set alone: [`Session::set`] names the version it replaces.
//! - K-2  A change is on the disk before it is answered. An answer may be lost: [`Fault::Lost`] says neither
//!   yes nor no, and [`agree`] finds out, because whoever proposes data makes them unmistakable.
//! - K-3  An ephemeral node lives as long as its session: until it is closed, or the coordinator has not
//!   heard of it for its time-out. A coordinator that starts again gives every session its full time-out.
//!   ZooKeeper brings time-outs within bounds of its own (2 to 20 ticks).
//! - K-4  Reads may be stale elsewhere than in the embedded one; nothing may rest on them but K-1's refusal.
//! - K-5  Of several changes of a watched path at least the last one is reported, also when it happened
//!   while the client was cut off.
//!
//! Where processes are that are looked for by name, [`names`] says.
//!
//! Read first: [`Session`], then [`tree`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub mod disk;
pub mod flags;
pub mod keeper;
pub mod names;
pub mod remote;
pub mod role;
pub mod tree;
pub mod zookeeper;

/// Bytes of a node's data.
pub const DATA_BYTES: usize = 64 << 10;
/// Bytes of a path.
pub const PATH_BYTES: usize = 512;
/// Paths that one session watches.
pub const WATCHES: usize = 64;

/// The way to a coordinator.
pub trait Coordinator: Send + Sync + 'static {
    /// Opens a session that ends when the coordinator has not heard of it for `timeout`.
    ///
    /// # Errors
    /// [`Fault::Lost`] when it cannot be reached, [`Fault::Full`] when it has too many.
    fn open(&self, timeout: Duration) -> Result<Arc<dyn Session>, Fault>;
}

/// A session. It is kept alive in the background until it is dropped, which closes it.
///
/// Every call blocks for a few seconds at most. After [`Fault::Expired`] the session is of no use any
/// more; open another.
pub trait Session: Send + Sync + 'static {
    /// A node, if it is there.
    fn read(&self, path: &str) -> Result<Option<Node>, Fault>;

    /// Names of a node's children, sorted; empty where there is no such node.
    fn children(&self, path: &str) -> Result<Vec<String>, Fault>;

    /// Makes a node and gives its path. Its parent must be there and not be ephemeral.
    ///
    /// # Errors
    /// [`Fault::NodeExists`], [`Fault::NoNode`] for the parent, and those of every call.
    fn create(&self, path: &str, data: &[u8], kind: Kind) -> Result<String, Fault>;

    /// Replaces a node's data if it has this version; gives the new one.
    ///
    /// # Errors
    /// [`Fault::BadVersion`], [`Fault::NoNode`], and those of every call.
    fn set(&self, path: &str, data: &[u8], version: u64) -> Result<u64, Fault>;

    /// Removes a node without children if it has this version.
    ///
    /// # Errors
    /// [`Fault::BadVersion`], [`Fault::NoNode`], [`Fault::NotEmpty`], and those of every call.
    fn remove(&self, path: &str, version: u64) -> Result<(), Fault>;

    /// From now on changes of the node, or of the list of its children, come as [`Event::Changed`]; it
    /// need not be there. At most [`WATCHES`] paths.
    fn watch(&self, path: &str) -> Result<(), Fault>;

    /// The next event, or `None` when none came within `wait`.
    fn next_event(&self, wait: Duration) -> Option<Event>;
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
    /// At most [`DATA_BYTES`].
    pub data: Bytes,
    /// 1 at creation, one more with every set.
    pub version: u64,
}

/// What a session is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// This watched path has changed, once or several times: read it again.
    Changed(String),
    /// The coordinator cannot be reached; the session may yet go on.
    Disconnected,
    /// It is reached again, and the session goes on.
    Connected,
    /// The session is over.
    Expired,
}

/// Why a call did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// There is no such node, or no such parent.
    #[error("there is no such node")]
    NoNode,
    /// The path is taken.
    #[error("the node exists")]
    NodeExists,
    /// Somebody was faster.
    #[error("the node has another version")]
    BadVersion,
    /// It has children.
    #[error("the node has children")]
    NotEmpty,
    /// The session is over.
    #[error("the coordinator has ended the session; open another")]
    Expired,
    /// A path, a size or a kind that cannot be.
    #[error("the coordinator does not take this path or these data")]
    Invalid,
    /// A bound of the coordinator.
    #[error("the coordinator is full")]
    Full,
    /// It may not be done here: rights, a quota. Nothing that asking again would change.
    #[error("the coordinator refuses: {0}")]
    Refused(String),
    /// No answer: it was done or it was not.
    #[error("no answer from the coordinator: {0}")]
    Lost(String),
}

/// What came of a proposal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Agreed {
    /// The node says what was proposed, under this version.
    Ours(u64),
    /// Somebody else was faster; this is what the node says, if it is there.
    Theirs(Option<Node>),
}

/// Replaces the data of `path` if they have `version` (`None`: if the node is not there), and finds out what
/// came of it when the answer is lost: so `data` must hold something that nobody else would propose.
///
/// # Errors
/// Those of every call; after [`Fault::Lost`] it is still not known.
pub fn agree(
    session: &dyn Session,
    path: &str,
    version: Option<u64>,
    data: &[u8],
) -> Result<Agreed, Fault> {
    let proposed = match version {
        Some(version) => session.set(path, data, version),
        None => session.create(path, data, Kind::Lasting).map(|_| 1),
    };
    match proposed {
        Ok(version) => Ok(Agreed::Ours(version)),
        Err(Fault::BadVersion | Fault::NodeExists | Fault::NoNode | Fault::Lost(_)) => {
            let unknown = matches!(proposed, Err(Fault::Lost(_)));
            match session.read(path)? {
                Some(node) if node.data == data => Ok(Agreed::Ours(node.version)),
                // A proposal whose answer was lost may still be on its way.
                node if unknown && node.as_ref().map(|node| node.version) == version => {
                    Err(Fault::Lost("a proposal may still be under way".to_owned()))
                }
                node => Ok(Agreed::Theirs(node)),
            }
        }
        Err(fault) => Err(fault),
    }
}
