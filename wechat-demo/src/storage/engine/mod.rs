//! Where rows lie: one database of a few ordered tables, written in batches.
//!
//! Knows: keys, values, batches, syncing.   Does not know: what any of them mean.
//!
//! A back end provides [`Engine`]; see [`embedded`]. One thread writes, any thread reads.
//!
//! Invariants
//! - E-1  A batch is atomic for [`Engine::scan`] and across a crash: all of it or nothing.
//! - E-2  Batches survive in the order of writing: when one survives a crash, so do all before it. A
//!   [`Durability::Synced`] batch survives, once written, everything but the loss of the disk.
//! - E-3  After an error from `write` the engine is not written again: the caller ends (S-3).

use bytes::Bytes;

use super::changes::BadChanges;

pub mod embedded;
#[cfg(test)]
pub mod simulated;

/// The ordered tables of a store. The numbers are part of the disk format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Table {
    /// Log entries by shard and offset.
    Log = 0,
    /// What the store knows of itself and its logs; never in a log entry.
    Meta = 1,
    /// Items by user and number.
    Timeline = 2,
    /// Everything that is read by its exact key.
    Rows = 3,
    /// Tasks that wait for their destination, by stream and n.
    Tasks = 4,
}

impl Table {
    /// Every table, by number.
    pub const ALL: [Self; 5] = [
        Self::Log,
        Self::Meta,
        Self::Timeline,
        Self::Rows,
        Self::Tasks,
    ];

    /// The table of that number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// What has happened when `write` returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Readers see it; a crash may lose it (never without everything after it).
    Buffered,
    /// It is on the disk, and so is everything written before it.
    Synced,
}

/// Keys from `from` on and below `to`.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// First key that may be visited.
    pub from: &'a [u8],
    /// First key past the end.
    pub to: &'a [u8],
    /// Visit the last key first.
    pub backwards: bool,
}

/// A store's database.
pub trait Engine: Send + Sync + 'static {
    /// The value of a row.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Visits rows in key order until `visit` returns false. What is visited is one moment's state (E-1).
    fn scan(
        &self,
        table: Table,
        span: Span<'_>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError>;

    /// Writes runs of [`super::changes`] as one batch.
    fn write(&self, parts: &[&[u8]], durability: Durability) -> Result<(), EngineError>;
}

/// Why a database could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Another process has it.
    #[error(
        "the store at {0} is in use by another process; stop that one or give another --data-dir"
    )]
    InUse(String),
    /// The database's own checks failed.
    #[error(
        "the store is damaged ({0}); restore it: stop both copies and copy the other one's directory here"
    )]
    Damaged(String),
    /// The disk failed, or is full.
    #[error("the store's disk: {0}")]
    Disk(String),
    /// A run of changes could not be read.
    #[error(transparent)]
    Changes(#[from] BadChanges),
    /// A test's planned crash.
    #[cfg(test)]
    #[error("crashed as planned")]
    Crashed,
}
