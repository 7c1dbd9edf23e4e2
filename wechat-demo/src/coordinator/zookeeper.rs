//! ZooKeeper as the coordinator: the same tree, kept by an ensemble of servers.
//!
//! Knows: how the two count versions and name faults.   Does not know: the servers' wire, reconnecting.
//!
//! Every node is below a root of this cluster's own, so that several clusters may share an ensemble.

use std::sync::Arc;
use std::time::Duration;

use rpc_core::Error;
use rpc_core::zookeeper::{self as zk, ZooKeeper};

use super::tree::parent;
use super::{Coordinator, DATA_BYTES, Event, Fault, Kind, Node, Session};

/// An ensemble, and where in its tree ours begins.
#[derive(Debug)]
pub struct ZooKeeperCoordinator {
    ensemble: ZooKeeper,
    /// Empty, or a path.
    root: Arc<str>,
}

struct ZooKeeperSession {
    session: zk::Session,
    root: Arc<str>,
}

impl ZooKeeperCoordinator {
    /// The ensemble at `HOST:PORT,HOST:PORT,…`, below `/PATH` where that follows; nobody need be there yet.
    ///
    /// # Errors
    /// An address or a path that is none.
    pub fn new(text: &str) -> Result<Self, Error> {
        let (ensemble, path) = ZooKeeper::with_path(text)?;
        Ok(Self {
            ensemble,
            root: path.into(),
        })
    }
}

impl Coordinator for ZooKeeperCoordinator {
    fn open(&self, timeout: Duration) -> Result<Arc<dyn Session>, Fault> {
        let session = self.ensemble.open(timeout).map_err(fault)?;
        if !self.root.is_empty() {
            session.create_all(&self.root).map_err(fault)?;
        }
        let root = Arc::clone(&self.root);
        Ok(Arc::new(ZooKeeperSession { session, root }))
    }
}

impl ZooKeeperSession {
    /// The path in the servers' tree.
    fn at(&self, path: &str) -> Result<String, Fault> {
        parent(path).ok_or(Fault::Invalid)?;
        Ok(format!("{}{path}", self.root))
    }

    /// The path in ours.
    fn ours(&self, path: String) -> String {
        path.strip_prefix(&*self.root)
            .map_or(path.clone(), str::to_owned)
    }
}

impl Session for ZooKeeperSession {
    fn read(&self, path: &str) -> Result<Option<Node>, Fault> {
        let node = self.session.read(&self.at(path)?).map_err(fault)?;
        Ok(node.map(|node| Node {
            data: node.data,
            version: ours(node.version),
        }))
    }

    fn children(&self, path: &str) -> Result<Vec<String>, Fault> {
        let names = self.session.children(&self.at(path)?).map_err(fault)?;
        Ok(names.unwrap_or_default())
    }

    fn create(&self, path: &str, data: &[u8], kind: Kind) -> Result<String, Fault> {
        check(data)?;
        let kind = match kind {
            Kind::Lasting => zk::Kind::Lasting,
            Kind::Ephemeral => zk::Kind::Ephemeral,
            Kind::Sequence => zk::Kind::Sequence,
            Kind::EphemeralSequence => zk::Kind::EphemeralSequence,
        };
        let made = self.session.create(&self.at(path)?, data, kind);
        made.map(|path| self.ours(path)).map_err(fault)
    }

    fn set(&self, path: &str, data: &[u8], version: u64) -> Result<u64, Fault> {
        check(data)?;
        let set = self.session.set(&self.at(path)?, data, theirs(version));
        set.map(ours).map_err(fault)
    }

    fn remove(&self, path: &str, version: u64) -> Result<(), Fault> {
        let removed = self.session.remove(&self.at(path)?, theirs(version));
        removed.map_err(fault)
    }

    fn watch(&self, path: &str) -> Result<(), Fault> {
        self.session.watch(&self.at(path)?).map_err(fault)
    }

    fn next_event(&self, wait: Duration) -> Option<Event> {
        Some(match self.session.next_event(wait)? {
            zk::Event::Changed(path) => Event::Changed(self.ours(path)),
            zk::Event::Disconnected => Event::Disconnected,
            zk::Event::Connected => Event::Connected,
            zk::Event::Expired => Event::Expired,
        })
    }
}

/// The bound is ours: servers take more.
fn check(data: &[u8]) -> Result<(), Fault> {
    if data.len() > DATA_BYTES {
        return Err(Fault::Invalid);
    }
    Ok(())
}

/// Theirs begin with 0, ours with 1.
fn ours(version: i32) -> u64 {
    version as u64 + 1
}

/// -1, which no node has, for what none of theirs can be.
fn theirs(version: u64) -> i32 {
    let version = version.checked_sub(1).map(i32::try_from);
    version.and_then(Result::ok).unwrap_or(-1)
}

fn fault(fault: zk::Fault) -> Fault {
    match fault {
        zk::Fault::NoNode => Fault::NoNode,
        zk::Fault::NodeExists => Fault::NodeExists,
        zk::Fault::BadVersion => Fault::BadVersion,
        zk::Fault::NotEmpty => Fault::NotEmpty,
        zk::Fault::Expired => Fault::Expired,
        zk::Fault::Invalid | zk::Fault::EphemeralParent => Fault::Invalid,
        zk::Fault::Full => Fault::Full,
        zk::Fault::Refused(_) => Fault::Refused(fault.to_string()),
        zk::Fault::Unreachable(why) | zk::Fault::Lost(why) => Fault::Lost(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_begin_with_one_and_what_cannot_be_is_nobodys() {
        assert_eq!((ours(0), theirs(1)), (1, 0));
        assert_eq!((theirs(0), theirs(u64::MAX)), (-1, -1));
        assert_eq!(theirs(ours(i32::MAX)), i32::MAX);
    }
}
