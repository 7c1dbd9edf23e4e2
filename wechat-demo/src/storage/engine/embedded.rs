//! The embedded back end: fjall, a log-structured merge tree with one journal for all its tables.
//!
//! Reads go to memory tables and a block cache first; a cold block costs one disk read on the calling
//! thread. Writes are for the committer alone: fjall syncs inside its journal lock, so a second writer
//! would wait for the first one's disk.

use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use super::{Durability, Engine, EngineError, Span, Table};
use crate::storage::changes;

/// A fjall database in a directory of its own.
pub struct Embedded {
    db: Database,
    /// By [`Table`] number.
    tables: [Keyspace; 5],
}

/// Bytes of blocks kept in memory.
const CACHE_BYTES: u64 = 64 << 20;
/// Bytes of a memory table. Inserting walks a skip list, and a list that fits the processor's cache takes a
/// quarter less time per message than fjall's default of 64 MiB.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Bytes of journal before fjall flushes memory tables to let go of it: what a restart has to read again.
const JOURNAL_BYTES: u64 = 128 << 20;

impl Embedded {
    /// Opens the database in `dir`, which is created if it is missing.
    pub fn open(dir: &Path) -> Result<Self, EngineError> {
        let db = Database::builder(dir)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(1)
            .open()
            .map_err(|error| match error {
                fjall::Error::Locked => EngineError::InUse(dir.display().to_string()),
                other => EngineError::from(other),
            })?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let open = |name| db.keyspace(name, options);
        let tables = [
            open("log")?,
            open("meta")?,
            open("timeline")?,
            open("rows")?,
            open("tasks")?,
        ];
        Ok(Self { db, tables })
    }

    /// Whether there is a database in `dir`.
    pub fn is_there(dir: &Path) -> bool {
        dir.join("version").is_file() && dir.join("keyspaces").is_dir()
    }

    fn table(&self, table: Table) -> &Keyspace {
        &self.tables[table as usize]
    }
}

impl Engine for Embedded {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.table(table).get(key)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        table: Table,
        span: Span<'_>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        // A keyspace's own `range` reads past the last finished batch and could show half of the one
        // being written; a snapshot does not (E-1).
        let rows = self
            .db
            .snapshot()
            .range(self.table(table), span.from..span.to);
        let mut show = |row: fjall::Guard| -> Result<bool, EngineError> {
            let (key, value) = row.into_inner()?;
            Ok(visit(&key, &value))
        };
        if span.backwards {
            for row in rows.rev() {
                if !show(row)? {
                    break;
                }
            }
        } else {
            for row in rows {
                if !show(row)? {
                    break;
                }
            }
        }
        Ok(())
    }

    fn write(&self, parts: &[&[u8]], durability: Durability) -> Result<(), EngineError> {
        let mut batch = self.db.batch();
        for part in parts {
            for change in changes::read(part) {
                let change = change?;
                match change.value {
                    Some(value) => batch.insert(self.table(change.table), change.key, value),
                    None => batch.remove(self.table(change.table), change.key),
                }
            }
        }
        let mode = match durability {
            Durability::Buffered => None,
            Durability::Synced => Some(PersistMode::SyncData),
        };
        Ok(batch.durability(mode).commit()?)
    }
}

impl From<fjall::Error> for EngineError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Io(error) => Self::Disk(error.to_string()),
            other => Self::Damaged(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::changes::Changes;

    #[test]
    fn rows_outlive_the_process_that_synced_them() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Embedded::open(dir.path()).unwrap();
        let mut changes = Changes::default();
        changes.put(Table::Rows, b"a", b"1");
        changes.put(Table::Rows, b"b", b"");
        changes.put(Table::Log, b"a", b"other table");
        changes.remove(Table::Rows, b"a");
        engine
            .write(&[changes.as_bytes()], Durability::Synced)
            .unwrap();
        drop(engine);
        let engine = Embedded::open(dir.path()).unwrap();
        assert_eq!(engine.get(Table::Rows, b"a").unwrap(), None);
        assert_eq!(engine.get(Table::Rows, b"b").unwrap(), Some(Bytes::new()));
        assert_eq!(
            engine.get(Table::Log, b"a").unwrap().unwrap(),
            "other table"
        );
    }

    #[test]
    fn scans_go_both_ways_and_stop_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Embedded::open(dir.path()).unwrap();
        let mut changes = Changes::default();
        for key in 0..10_u8 {
            changes.put(Table::Timeline, &[key], &[key]);
        }
        engine
            .write(&[changes.as_bytes()], Durability::Buffered)
            .unwrap();
        let collect = |from: u8, to: u8, backwards, most| {
            let mut keys = Vec::new();
            let span = Span {
                from: &[from],
                to: &[to],
                backwards,
            };
            engine
                .scan(Table::Timeline, span, &mut |key, _| {
                    keys.push(key[0]);
                    keys.len() < most
                })
                .unwrap();
            keys
        };
        assert_eq!(collect(3, 7, false, 99), [3, 4, 5, 6]);
        assert_eq!(collect(3, 7, true, 2), [6, 5]);
        assert_eq!(collect(8, 99, false, 99), [8, 9]);
    }

    #[test]
    fn a_second_process_is_told_that_the_store_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Embedded::open(dir.path()).unwrap();
        assert!(matches!(
            Embedded::open(dir.path()),
            Err(EngineError::InUse(_))
        ));
    }
}
