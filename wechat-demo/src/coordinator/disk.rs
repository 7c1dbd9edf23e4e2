//! The tree's rows on the disk: a fjall database of two tables, synced with every write.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use prost::Message;

use super::tree::Row;
use crate::proto::coordinator as pb;

/// The database.
pub struct Disk {
    db: Database,
    nodes: Keyspace,
    sessions: Keyspace,
}

/// Why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Another process has it.
    #[error(
        "the coordinator's directory {0} is in use by another process; stop that one or give another --data-dir"
    )]
    InUse(String),
    /// A row that is none.
    #[error(
        "the coordinator's data are damaged ({0}); restore its directory, or remove it when no store is to go on"
    )]
    Damaged(String),
    /// The disk failed, or is full.
    #[error("the coordinator's disk: {0}")]
    Failed(String),
}

impl Disk {
    /// Opens the database in `dir`, which is created if it is missing, and reads all of it.
    pub fn open(dir: &Path) -> Result<(Self, Vec<Row>), DiskError> {
        let db = Database::builder(dir).worker_threads(1).open();
        let db = db.map_err(|error| match error {
            fjall::Error::Locked => DiskError::InUse(dir.display().to_string()),
            other => failed(&other),
        })?;
        let options = KeyspaceCreateOptions::default;
        let disk = Self {
            nodes: db.keyspace("nodes", options).map_err(|e| failed(&e))?,
            sessions: db.keyspace("sessions", options).map_err(|e| failed(&e))?,
            db,
        };
        let rows = disk.read()?;
        Ok((disk, rows))
    }

    /// Writes rows as one batch and syncs it. After an error the disk is not used again.
    pub fn write(&self, rows: &[Row]) -> Result<(), DiskError> {
        let mut batch = self.db.batch();
        for row in rows {
            match row {
                Row::Node(path, Some(node)) => {
                    batch.insert(&self.nodes, path.as_bytes(), node.encode_to_vec());
                }
                Row::Node(path, None) => batch.remove(&self.nodes, path.as_bytes()),
                Row::Session(id, Some(row)) => {
                    batch.insert(&self.sessions, id.to_be_bytes(), row.encode_to_vec());
                }
                Row::Session(id, None) => batch.remove(&self.sessions, id.to_be_bytes()),
            }
        }
        let synced = batch.durability(Some(PersistMode::SyncData)).commit();
        synced.map_err(|error| failed(&error))
    }

    fn read(&self) -> Result<Vec<Row>, DiskError> {
        let snapshot = self.db.snapshot();
        let mut rows = Vec::new();
        for row in snapshot.iter(&self.nodes) {
            let (key, value) = row.into_inner().map_err(|error| failed(&error))?;
            let path = String::from_utf8(key.to_vec()).map_err(|error| damaged(&error))?;
            let node = pb::NodeRow::decode(&value[..]).map_err(|error| damaged(&error))?;
            rows.push(Row::Node(path, Some(node)));
        }
        for row in snapshot.iter(&self.sessions) {
            let (key, value) = row.into_inner().map_err(|error| failed(&error))?;
            let id: [u8; 8] = (&key[..]).try_into().map_err(|error| damaged(&error))?;
            let session = pb::SessionRow::decode(&value[..]).map_err(|error| damaged(&error))?;
            rows.push(Row::Session(u64::from_be_bytes(id), Some(session)));
        }
        Ok(rows)
    }
}

fn failed(error: &fjall::Error) -> DiskError {
    DiskError::Failed(error.to_string())
}

fn damaged(error: &dyn std::error::Error) -> DiskError {
    DiskError::Damaged(error.to_string())
}
