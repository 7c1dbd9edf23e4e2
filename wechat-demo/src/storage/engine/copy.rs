//! A store copied row by row: to a new member, to another back end, into a file.
//!
//! Knows: rows, and whether a copy is whole.   Does not know: how pieces travel, what rows mean.
//!
//! The source is one [`Snapshot`], so what arrives is a store as a crash would have left it (E-4). Pieces are
//! runs of [`super::super::changes`]; a target takes them in any order but is a store only after
//! [`Target::finish`]: until then a mark in it refuses every other use ([`check_finished`]).

use bytes::Bytes;

use super::{Durability, Engine, EngineError, Snapshot, Span, Table};
use crate::storage::{changes::Changes, table};

/// Where a copy comes from.
pub struct Source {
    snapshot: Box<dyn Snapshot>,
    /// Of the tables, the first that is not done.
    table: usize,
    /// Last key of it that was given out; empty at its beginning.
    after: Vec<u8>,
    rows: u64,
}

/// Where a copy goes: an engine that is nothing else meanwhile.
pub struct Target<'e> {
    engine: &'e dyn Engine,
}

/// Bytes of rows removed at once when a copy begins anew.
const CLEAR_BYTES: usize = 1 << 20;

impl Source {
    /// Everything that `engine` has now.
    pub fn new(engine: &dyn Engine) -> Result<Self, EngineError> {
        Ok(Self {
            snapshot: engine.snapshot()?,
            table: 0,
            after: Vec::new(),
            rows: 0,
        })
    }

    /// The next rows, about `max_bytes` of them and at least one; `None` after the last.
    pub fn piece(&mut self, max_bytes: usize) -> Result<Option<Bytes>, EngineError> {
        let mut piece = Changes::default();
        while let Some(&table) = Table::ALL.get(self.table) {
            // The shortest key after `after`.
            let mut from = self.after.clone();
            from.push(0);
            let span = Span {
                from: &from,
                ..Span::ALL
            };
            let (after, rows) = (&mut self.after, &mut self.rows);
            self.snapshot.scan(table, span, &mut |key, value| {
                piece.put(table, key, value);
                after.clear();
                after.extend_from_slice(key);
                *rows += 1;
                piece.len() < max_bytes
            })?;
            if piece.len() >= max_bytes {
                break;
            }
            self.table += 1;
            self.after.clear();
        }
        Ok((!piece.is_empty()).then(|| piece.into_bytes().into()))
    }

    /// Rows given out so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

impl<'e> Target<'e> {
    /// Begins a copy into an engine that is empty, or holds what an unfinished copy left; that is removed.
    /// `false` if there is a store.
    pub fn begin(engine: &'e dyn Engine) -> Result<Option<Self>, EngineError> {
        if !is_unfinished(engine)? {
            for table in Table::ALL {
                let mut empty = true;
                engine.scan(table, Span::ALL, &mut |_, _| {
                    empty = false;
                    false
                })?;
                if !empty {
                    return Ok(None);
                }
            }
        }
        engine.take_over()?;
        // The mark is there before the first row and after the last.
        let mut mark = Changes::default();
        mark.put(Table::Meta, &table::copying(), &[]);
        engine.write(&[mark.as_bytes()], Durability::Synced)?;
        clear(engine)?;
        Ok(Some(Self { engine }))
    }

    /// Writes a piece.
    pub fn put(&mut self, piece: &[u8]) -> Result<(), EngineError> {
        self.engine.write(&[piece], Durability::Buffered)
    }

    /// Syncs all of it and makes it a store, on a disk of its own.
    pub fn finish(self) -> Result<(), EngineError> {
        let mut mark = Changes::default();
        mark.remove(Table::Meta, &table::disk());
        mark.remove(Table::Meta, &table::copying());
        self.engine.write(&[mark.as_bytes()], Durability::Synced)
    }
}

/// An error if a copy into `engine` was begun and not finished.
pub fn check_finished(engine: &dyn Engine) -> Result<(), EngineError> {
    if is_unfinished(engine)? {
        return Err(EngineError::Unfinished);
    }
    Ok(())
}

fn is_unfinished(engine: &dyn Engine) -> Result<bool, EngineError> {
    Ok(engine.get(Table::Meta, &table::copying())?.is_some())
}

/// Removes every row but the mark.
fn clear(engine: &dyn Engine) -> Result<(), EngineError> {
    for table in Table::ALL {
        loop {
            let mut gone = Changes::default();
            engine.scan(table, Span::ALL, &mut |key, _| {
                if (table, key) != (Table::Meta, &*table::copying()) {
                    gone.remove(table, key);
                }
                gone.len() < CLEAR_BYTES
            })?;
            if gone.is_empty() {
                break;
            }
            engine.write(&[gone.as_bytes()], Durability::Buffered)?;
        }
    }
    Ok(())
}
