//! The embedded back end: fjall, a log-structured merge tree with one journal for all its tables.
//!
//! Reads go to memory tables and a block cache first; a cold block costs one disk read on the calling
//! thread. Writes are for the committer alone: fjall syncs inside its journal lock, so a second writer
//! would wait for the first one's disk.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use super::{Durability, Engine, EngineError, Snapshot, Span, Table, check};

/// A fjall database in a directory of its own.
pub struct Embedded {
    db: Database,
    tables: Tables,
}

/// By [`Table`] number.
type Tables = Arc<[Keyspace; 5]>;

/// fjall's own snapshot. A keyspace's own `range` reads past the last finished batch and could show half of
/// the one being written; a snapshot does not (E-1).
struct Moment {
    snapshot: fjall::Snapshot,
    tables: Tables,
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
        // Reading the journal fjall asserts some of what a flipped bit changes before it looks at the checksum.
        // What was opened by then is dropped, so nothing half-made is seen.
        catch_unwind(AssertUnwindSafe(|| Self::recover(dir))).unwrap_or_else(|panic| {
            let why = panic.downcast_ref::<String>().map(String::as_str);
            let why = why.or_else(|| panic.downcast_ref::<&str>().copied());
            let why = why.unwrap_or("no reason is given").replace('\n', " ");
            Err(EngineError::Damaged(format!("it cannot be opened: {why}")))
        })
    }

    fn recover(dir: &Path) -> Result<Self, EngineError> {
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
        let tables = Arc::new(tables);
        Ok(Self { db, tables })
    }

    /// Whether there is a database in `dir`.
    pub fn is_there(dir: &Path) -> bool {
        dir.join("version").is_file() && dir.join("keyspaces").is_dir()
    }

    /// Writes memory tables to disk, for tests of what lies there.
    #[cfg(test)]
    pub fn flush(&self) {
        for table in &*self.tables {
            table.rotate_memtable_and_wait().unwrap();
        }
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

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError> {
        Ok(Box::new(Moment {
            snapshot: self.db.snapshot(),
            tables: Arc::clone(&self.tables),
        }))
    }

    fn write(&self, parts: &[&[u8]], durability: Durability) -> Result<(), EngineError> {
        let mut batch = self.db.batch();
        for change in check(parts) {
            let change = change?;
            match change.value {
                Some(value) => batch.insert(self.table(change.table), change.key, value),
                None => batch.remove(self.table(change.table), change.key),
            }
        }
        let mode = match durability {
            Durability::Buffered => None,
            Durability::Synced => Some(PersistMode::SyncData),
        };
        Ok(batch.durability(mode).commit()?)
    }
}

impl Snapshot for Moment {
    fn scan(
        &mut self,
        table: Table,
        span: Span<'_>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        let table = &self.tables[table as usize];
        let rows = self.snapshot.range(table, span.from..span.to);
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
}

impl From<fjall::Error> for EngineError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
                Self::Disk(error.to_string())
            }
            fjall::Error::InvalidVersion(Some(version)) => Self::Format(format!("{version:?}")),
            // By what its own thread met: it syncs and writes beside ours.
            fjall::Error::Poisoned => {
                Self::Disk("a write behind the batches has failed".to_owned())
            }
            other => Self::Damaged(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::engine::conformance;

    #[test]
    fn fjall_keeps_every_promise_of_an_engine() {
        let mut dirs = Vec::new();
        conformance::run(&mut || {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().to_owned();
            dirs.push(dir);
            Box::new(move || Arc::new(Embedded::open(&path).unwrap()))
        });
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
