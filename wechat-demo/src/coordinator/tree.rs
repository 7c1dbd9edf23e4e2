//! The tree as a pure state machine: told the time and the change, it says what came of it and which rows
//! must be on the disk before anybody hears of it.

use std::collections::{BTreeMap, btree_map::Entry};
use std::time::Duration;

use bytes::Bytes;

use super::{DATA_BYTES, Fault, PATH_BYTES};
use crate::proto::coordinator as pb;

/// Nodes at once.
pub const NODES: usize = 100_000;
/// Sessions at once.
pub const SESSIONS: usize = 4096;
/// Shortest and longest time-out of a session.
const TIMEOUT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(120));

/// Nodes and sessions.
#[derive(Debug, Default)]
pub struct Tree {
    /// By path. The root, `/`, is always there and has no row until it has a child.
    nodes: BTreeMap<String, pb::NodeRow>,
    sessions: BTreeMap<u64, Heard>,
    /// The last stamp given.
    stamp: u64,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    timeout: Duration,
    /// When it was last heard of, on the caller's clock.
    at: Duration,
}

/// A row to be written; `None` = removed.
#[derive(Clone, PartialEq, Debug)]
pub enum Row {
    /// A node, by its path.
    Node(String, Option<pb::NodeRow>),
    /// A session, by its number.
    Session(u64, Option<pb::SessionRow>),
}

/// What a change is.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// See [`super::Session::create`].
    Create {
        /// Of the new node.
        data: Bytes,
        /// Goes with the session.
        ephemeral: bool,
        /// Gets a number.
        sequence: bool,
    },
    /// See [`super::Session::set`].
    Set {
        /// The new ones.
        data: Bytes,
        /// The one replaced.
        version: u64,
    },
    /// See [`super::Session::remove`].
    Remove {
        /// The one removed.
        version: u64,
    },
}

/// Where a change happened and the version after it.
pub type Changed = (String, u64);

impl Tree {
    /// As it was found on the disk; every session counts as heard of at `now`.
    pub fn load(rows: Vec<Row>, now: Duration) -> Self {
        let mut tree = Self::default();
        for row in rows {
            match row {
                Row::Node(path, Some(node)) => {
                    tree.stamp = tree.stamp.max(node.stamp);
                    tree.nodes.insert(path, node);
                }
                Row::Session(id, Some(row)) => {
                    let timeout = Duration::from_millis(row.timeout_ms);
                    tree.sessions.insert(id, Heard { timeout, at: now });
                }
                Row::Node(_, None) | Row::Session(_, None) => {}
            }
        }
        tree
    }

    /// Opens session `id`, which must be a new random number.
    pub fn open(&mut self, id: u64, timeout: Duration, now: Duration) -> Result<Vec<Row>, Fault> {
        if self.sessions.len() >= SESSIONS {
            return Err(Fault::Full);
        }
        let timeout = timeout.clamp(TIMEOUT.0, TIMEOUT.1);
        let Entry::Vacant(free) = self.sessions.entry(id) else {
            return Err(Fault::Invalid);
        };
        free.insert(Heard { timeout, at: now });
        let row = pb::SessionRow {
            timeout_ms: timeout.as_millis() as u64,
        };
        Ok(vec![Row::Session(id, Some(row))])
    }

    /// Notes that a session lives.
    pub fn hear(&mut self, session: u64, now: Duration) -> Result<(), Fault> {
        let heard = self.sessions.get_mut(&session).ok_or(Fault::Expired)?;
        heard.at = now;
        Ok(())
    }

    /// Notes that all sessions live.
    pub fn hear_all(&mut self, now: Duration) {
        self.sessions.values_mut().for_each(|heard| heard.at = now);
    }

    /// Whether there is such a session.
    pub fn is_open(&self, session: u64) -> bool {
        self.sessions.contains_key(&session)
    }

    /// Ends a session, if it is there, and removes its nodes.
    pub fn close(&mut self, session: u64) -> Vec<Row> {
        if self.sessions.remove(&session).is_none() {
            return Vec::new();
        }
        let mut rows = vec![Row::Session(session, None)];
        let own: Vec<String> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.owner == session)
            .map(|(path, _)| path.clone())
            .collect();
        for path in own {
            self.take(&path, &mut rows);
        }
        rows
    }

    /// Ends the sessions that were not heard of for their time-out.
    pub fn expire(&mut self, now: Duration) -> Vec<Row> {
        let silent: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, heard)| now.saturating_sub(heard.at) > heard.timeout)
            .map(|(&id, _)| id)
            .collect();
        silent.into_iter().flat_map(|id| self.close(id)).collect()
    }

    /// A node.
    pub fn node(&self, path: &str) -> Option<&pb::NodeRow> {
        self.nodes.get(path)
    }

    /// Grows with every change of the node or of the list of its children; 0 = it is not there.
    pub fn stamp(&self, path: &str) -> u64 {
        self.nodes.get(path).map_or(0, |node| node.stamp)
    }

    /// Names of a node's children, sorted.
    pub fn children(&self, path: &str) -> Vec<String> {
        let begin = if path == "/" {
            "/".to_owned()
        } else {
            format!("{path}/")
        };
        self.nodes
            .range(begin.clone()..)
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(&begin))
            .filter_map(|path| path.get(begin.len()..))
            .filter(|name| !name.is_empty() && !name.contains('/'))
            .map(str::to_owned)
            .collect()
    }

    /// Does one change, all of it or nothing.
    pub fn change(
        &mut self,
        session: u64,
        path: &str,
        change: Change,
        now: Duration,
    ) -> Result<(Changed, Vec<Row>), Fault> {
        self.hear(session, now)?;
        let parent = parent(path).ok_or(Fault::Invalid)?;
        match change {
            Change::Create {
                data,
                ephemeral,
                sequence,
            } => {
                let owner = if ephemeral { session } else { 0 };
                self.create(path, parent, data, owner, sequence)
            }
            Change::Set { data, version } => self.set(path, data, version),
            Change::Remove { version } => {
                let node = self.nodes.get(path).ok_or(Fault::NoNode)?;
                if node.version != version {
                    return Err(Fault::BadVersion);
                }
                if !self.children(path).is_empty() {
                    return Err(Fault::NotEmpty);
                }
                let mut rows = Vec::new();
                self.take(path, &mut rows);
                Ok(((path.to_owned(), 0), rows))
            }
        }
    }

    fn create(
        &mut self,
        path: &str,
        parent: &str,
        data: Bytes,
        owner: u64,
        sequence: bool,
    ) -> Result<(Changed, Vec<Row>), Fault> {
        if data.len() > DATA_BYTES {
            return Err(Fault::Invalid);
        }
        if self.nodes.len() >= NODES {
            return Err(Fault::Full);
        }
        let mut above = match self.nodes.get(parent) {
            Some(node) if node.owner != 0 => return Err(Fault::Invalid),
            Some(node) => node.clone(),
            None if parent == "/" => pb::NodeRow {
                version: 1,
                ..Default::default()
            },
            None => return Err(Fault::NoNode),
        };
        let path = if sequence {
            let numbered = format!("{path}{:010}", above.next_sequence);
            above.next_sequence += 1;
            numbered
        } else {
            path.to_owned()
        };
        if self.nodes.contains_key(&path) {
            return Err(Fault::NodeExists);
        }
        let stamp = self.next_stamp();
        above.stamp = stamp;
        let node = pb::NodeRow {
            data,
            version: 1,
            stamp,
            owner,
            next_sequence: 0,
        };
        let rows = vec![
            Row::Node(parent.to_owned(), Some(above.clone())),
            Row::Node(path.clone(), Some(node.clone())),
        ];
        self.nodes.insert(parent.to_owned(), above);
        self.nodes.insert(path.clone(), node);
        Ok(((path, 1), rows))
    }

    fn set(&mut self, path: &str, data: Bytes, version: u64) -> Result<(Changed, Vec<Row>), Fault> {
        if data.len() > DATA_BYTES {
            return Err(Fault::Invalid);
        }
        let stamp = self.stamp + 1;
        let node = self.nodes.get_mut(path).ok_or(Fault::NoNode)?;
        if node.version != version {
            return Err(Fault::BadVersion);
        }
        node.version += 1;
        node.data = data;
        node.stamp = stamp;
        self.stamp = stamp;
        let row = Row::Node(path.to_owned(), Some(node.clone()));
        Ok(((path.to_owned(), version + 1), vec![row]))
    }

    /// Removes a node; its parent's list changes.
    fn take(&mut self, path: &str, rows: &mut Vec<Row>) {
        self.nodes.remove(path);
        rows.push(Row::Node(path.to_owned(), None));
        let stamp = self.next_stamp();
        let above = parent(path).and_then(|parent| Some((parent, self.nodes.get_mut(parent)?)));
        if let Some((parent, node)) = above {
            node.stamp = stamp;
            rows.push(Row::Node(parent.to_owned(), Some(node.clone())));
        }
    }

    fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }
}

/// The path above `path`; `None` if it cannot be a node's: `/a/b`, no part empty.
pub(super) fn parent(path: &str) -> Option<&str> {
    let whole = path.len() <= PATH_BYTES
        && path
            .strip_prefix('/')?
            .split('/')
            .all(|part| !part.is_empty() && !part.contains(char::is_control));
    let (above, _) = path.rsplit_once('/').filter(|_| whole)?;
    Some(if above.is_empty() { "/" } else { above })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(7);

    fn create(data: &str, ephemeral: bool, sequence: bool) -> Change {
        Change::Create {
            data: Bytes::from(data.to_owned()),
            ephemeral,
            sequence,
        }
    }

    #[test]
    fn paths_are_absolute_and_have_no_empty_part() {
        for bad in ["", "/", "a", "/a/", "//a", "/a//b", "/a\n"] {
            assert_eq!(parent(bad), None, "{bad:?}");
        }
        assert_eq!((parent("/a"), parent("/a/b")), (Some("/"), Some("/a")));
        let long = format!("/{}", "x".repeat(PATH_BYTES));
        assert_eq!(parent(&long), None);
    }

    #[test]
    fn neighbours_with_a_common_beginning_are_not_children() {
        let mut tree = Tree::default();
        tree.open(1, NOW, NOW).unwrap();
        for path in ["/a", "/a-b", "/a/x", "/a/x/deep", "/ab"] {
            tree.change(1, path, create("", false, false), NOW).unwrap();
        }
        assert_eq!(tree.children("/a"), ["x"]);
        assert_eq!(tree.children("/"), ["a", "a-b", "ab"]);
    }

    /// A step of a random life: (session, what, node, version).
    fn steps() -> impl Strategy<Value = Vec<(u64, u8, u8, u64)>> {
        prop::collection::vec((1..4_u64, 0..6_u8, 0..5_u8, 1..4_u64), 0..80)
    }

    proptest! {
        /// What is on the disk is the tree: loading the rows written gives the same nodes back.
        #[test]
        fn the_rows_written_are_the_tree(steps in steps()) {
            let mut tree = Tree::default();
            let mut disk: BTreeMap<String, pb::NodeRow> = BTreeMap::new();
            let mut rows = Vec::new();
            for (session, what, node, version) in steps {
                let path = ["/a", "/b", "/a/x", "/a/y", "/b/z"][usize::from(node)];
                let done = match what {
                    0 => tree.open(session, NOW, NOW),
                    1 => Ok(tree.close(session)),
                    2 => tree.change(session, path, create("c", false, false), NOW).map(|done| done.1),
                    3 => tree.change(session, path, create("e", true, version == 1), NOW).map(|done| done.1),
                    4 => tree.change(session, path, Change::Set { data: Bytes::from_static(b"s"), version }, NOW).map(|done| done.1),
                    _ => tree.change(session, path, Change::Remove { version }, NOW).map(|done| done.1),
                };
                rows.extend(done.unwrap_or_default());
            }
            for row in rows {
                match row {
                    Row::Node(path, Some(node)) => drop(disk.insert(path, node)),
                    Row::Node(path, None) => drop(disk.remove(&path)),
                    Row::Session(..) => {}
                }
            }
            prop_assert_eq!(&disk, &tree.nodes);
            for (path, node) in &tree.nodes {
                prop_assert!(node.owner == 0 || tree.sessions.contains_key(&node.owner), "{} outlives its session", path);
                prop_assert!(node.owner == 0 || tree.children(path).is_empty());
                prop_assert!(path == "/" || tree.nodes.contains_key(parent(path).unwrap()));
            }
        }
    }
}
