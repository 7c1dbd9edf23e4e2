//! An engine in memory that can crash: what is not synced may be lost, batch by batch from the end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
};

use bytes::Bytes;

use super::{Durability, Engine, EngineError, Span, Table};
use crate::storage::changes;

type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// Counts down with each step of a process; at 0 the process is dead and every further step fails.
#[derive(Clone, Debug, Default)]
pub struct Fuse(Arc<AtomicI64>);

/// The disk of one process; it outlives the process.
#[derive(Clone, Default)]
pub struct Disk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    synced: Rows,
    /// Written since, oldest first.
    unsynced: Vec<Vec<u8>>,
}

/// The engine of one process over a [`Disk`].
pub struct Simulated {
    disk: Disk,
    current: Mutex<Rows>,
    fuse: Fuse,
}

impl Fuse {
    /// Burns out after `steps` steps.
    pub fn new(steps: i64) -> Self {
        Self(Arc::new(AtomicI64::new(steps)))
    }

    /// Never burns out.
    pub fn none() -> Self {
        Self::new(i64::MAX)
    }

    /// One step; an error if the process is dead.
    pub fn step(&self) -> Result<(), EngineError> {
        if self.0.fetch_sub(1, Ordering::Relaxed) > 0 {
            Ok(())
        } else {
            Err(EngineError::Crashed)
        }
    }

    /// Whether the process is dead.
    pub fn burnt(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= 0
    }
}

impl Disk {
    /// A power cut: the first `kept` unsynced batches survive, as far as there are so many.
    pub fn crash(&self, kept: usize) {
        let mut inner = self.inner.lock().unwrap();
        let unsynced = std::mem::take(&mut inner.unsynced);
        for batch in unsynced.iter().take(kept) {
            apply(&mut inner.synced, batch);
        }
    }

    /// Starts a process on the disk; call [`Disk::crash`] first if the last one died.
    pub fn open(&self, fuse: Fuse) -> Simulated {
        let inner = self.inner.lock().unwrap();
        let mut current = inner.synced.clone();
        for batch in &inner.unsynced {
            apply(&mut current, batch);
        }
        Simulated {
            disk: self.clone(),
            current: Mutex::new(current),
            fuse,
        }
    }

    /// Changes rows behind everybody's back, as rot does.
    pub fn rot(&self, change: impl FnOnce(&mut Rows)) {
        change(&mut self.inner.lock().unwrap().synced);
    }
}

impl Engine for Simulated {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let current = self.current.lock().unwrap();
        Ok(current
            .get(&(table, key.to_vec()))
            .map(|value| Bytes::copy_from_slice(value)))
    }

    fn scan(
        &self,
        table: Table,
        span: Span<'_>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        let current = self.current.lock().unwrap();
        let rows = current.range((table, span.from.to_vec())..(table, span.to.to_vec()));
        let mut show = |((_, key), value): (&(Table, Vec<u8>), &Vec<u8>)| visit(key, value);
        if span.backwards {
            rows.rev().all(&mut show);
        } else {
            let mut rows = rows;
            rows.all(&mut show);
        }
        Ok(())
    }

    fn write(&self, parts: &[&[u8]], durability: Durability) -> Result<(), EngineError> {
        self.fuse.step()?;
        let batch = parts.concat();
        let mut current = self.current.lock().unwrap();
        apply(&mut current, &batch);
        let mut disk = self.disk.inner.lock().unwrap();
        disk.unsynced.push(batch);
        // The process may die between the write and the sync: then the batch may survive or not.
        self.fuse.step()?;
        if durability == Durability::Synced {
            for batch in std::mem::take(&mut disk.unsynced) {
                apply(&mut disk.synced, &batch);
            }
        }
        // … or after the sync, before anybody hears of it.
        self.fuse.step()
    }
}

fn apply(rows: &mut Rows, batch: &[u8]) {
    for change in changes::read(batch) {
        let change = change.expect("a test writes well-formed changes");
        let key = (change.table, change.key.to_vec());
        match change.value {
            Some(value) => rows.insert(key, value.to_vec()),
            None => rows.remove(&key),
        };
    }
}
