//! An engine in memory that can crash: what is not synced may be lost, batch by batch from the end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
};

use bytes::Bytes;

use super::{Durability, Engine, EngineError, Snapshot, Span, Table, check, fold};

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
    /// A snapshot holds on to the rows it was made of.
    current: Mutex<Arc<Rows>>,
    fuse: Fuse,
}

/// The rows of one moment.
struct Moment(Arc<Rows>);

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
            current: Mutex::new(Arc::new(current)),
            fuse,
        }
    }

    /// Another disk with what is synced on this one.
    pub fn copy(&self) -> Self {
        let synced = self.inner.lock().unwrap().synced.clone();
        let inner = Inner {
            synced,
            ..Inner::default()
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
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

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError> {
        Ok(Box::new(Moment(Arc::clone(&self.current.lock().unwrap()))))
    }

    fn write(&self, parts: &[&[u8]], durability: Durability) -> Result<(), EngineError> {
        fold(parts)?;
        self.fuse.step()?;
        let batch = parts.concat();
        let mut current = self.current.lock().unwrap();
        apply(Arc::make_mut(&mut current), &batch);
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

impl Snapshot for Moment {
    fn scan(
        &mut self,
        table: Table,
        span: Span<'_>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        let mut rows = self
            .0
            .range((table, span.from.to_vec())..(table, span.to.to_vec()));
        let mut show = |((_, key), value): (&(Table, Vec<u8>), &Vec<u8>)| visit(key, value);
        if span.backwards {
            rows.rev().all(&mut show);
        } else {
            rows.all(&mut show);
        }
        Ok(())
    }
}

fn apply(rows: &mut Rows, batch: &[u8]) {
    for change in check(&[batch]) {
        let change = change.expect("what is written was checked");
        let key = (change.table, change.key.to_vec());
        match change.value {
            Some(value) => rows.insert(key, value.to_vec()),
            None => rows.remove(&key),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::engine::conformance;

    #[test]
    fn the_simulation_keeps_every_promise_of_an_engine() {
        conformance::run(&mut || {
            let disk = Disk::default();
            Box::new(move || {
                // Whatever was not synced is gone each time.
                disk.crash(0);
                Arc::new(disk.open(Fuse::none()))
            })
        });
    }
}
