//! Where rows lie: one database of a few ordered tables, written in batches.
//!
//! Knows: keys, values, batches, syncing.   Does not know: what any of them mean.
//!
//! A back end provides [`Engine`]: [`embedded`], a database of the process's own, or [`mysql`], any that
//! speaks MySQL's protocol. One thread writes, any thread reads. All keep the promises below; one suite
//! of tests, `conformance.rs`, runs over every back end.
//!
//! Invariants
//! - E-1  A batch is atomic for [`Engine::scan`], for [`Snapshot`] and across a crash: all of it or nothing.
//!   Of two changes of one row in a batch the later one holds.
//! - E-2  Batches survive in the order of writing: when one survives a crash, so do all before it. A
//!   [`Durability::Synced`] batch survives, once written, everything but the loss of the disk.
//! - E-3  After an error from `write` the engine is not written again: the caller ends (S-3). A batch that
//!   [`check`] refuses changes nothing and is the exception.
//! - E-4  A snapshot of all tables is what a crash at that moment would have left, had everything been synced:
//!   whoever opens a copy of it ([`copy`]) opens the store.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::changes::{self, BadChanges};

#[cfg(test)]
mod conformance;
pub mod copy;
#[cfg(test)]
mod damage_tests;
pub mod embedded;
pub mod mysql;
#[cfg(test)]
pub mod simulated;
pub mod slow;

/// Bytes of the longest key; the shortest has one.
pub const KEY_BYTES: usize = 255;
/// Bytes of the longest value: a log entry may hold a whole round.
pub const VALUE_BYTES: usize = 8 << 20;

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

impl Span<'_> {
    /// Every key there may be.
    pub const ALL: Self = Self {
        from: &[],
        to: &[0xff; KEY_BYTES + 1],
        backwards: false,
    };
}

/// A store's database.
pub trait Engine: Send + Sync + 'static {
    /// The value of a row.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// All tables as they are now, whatever is written later.
    fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError>;

    /// Makes this process the one that writes; whoever wrote before is refused from now on. What that one was
    /// writing is either in what is read afterwards, or never. Nothing to do where opening it was that.
    fn take_over(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Writes runs of [`super::changes`] as one batch; after [`Engine::take_over`].
    fn write(&self, parts: &[&[u8]], durability: Durability) -> Result<(), EngineError>;

    /// Visits rows in key order until `visit` returns false. What is visited is one moment's state (E-1).
    fn scan(
        &self,
        table: Table,
        span: Span<'_>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        if span.from >= span.to {
            return Ok(());
        }
        self.snapshot()?.scan(table, span, visit)
    }
}

/// One moment's state of all tables. It costs the database room while it is held.
pub trait Snapshot: Send {
    /// Visits rows in key order until `visit` returns false.
    fn scan(
        &mut self,
        table: Table,
        span: Span<'_>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError>;
}

/// Reads a batch and holds it against the bounds.
pub fn check<'a>(
    parts: &'a [&'a [u8]],
) -> impl Iterator<Item = Result<changes::Change<'a>, EngineError>> {
    parts
        .iter()
        .flat_map(|part| changes::read(part))
        .map(|change| {
            let change = change?;
            let (key, value) = (change.key.len(), change.value.map_or(0, <[u8]>::len));
            if !(1..=KEY_BYTES).contains(&key) || value > VALUE_BYTES {
                return Err(EngineError::Bounds { key, value });
            }
            Ok(change)
        })
}

/// The rows of a batch by table and key, each with its last change.
pub type Batch<'a> = BTreeMap<(Table, &'a [u8]), Option<&'a [u8]>>;

/// Folds a batch into its rows, held against the bounds.
pub fn fold<'a>(parts: &'a [&'a [u8]]) -> Result<Batch<'a>, EngineError> {
    check(parts)
        .map(|change| change.map(|change| ((change.table, change.key), change.value)))
        .collect()
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
    /// Another version of the program, or of its database, wrote it.
    #[error(
        "the store has format {0}, which this program does not read; use the version that wrote it"
    )]
    Format(String),
    /// The disk failed, or is full.
    #[error("the store's disk: {0}")]
    Disk(String),
    /// A database that is another process failed, refused, or cannot be reached.
    #[error("the database: {0}")]
    Database(String),
    /// Another process writes the store now.
    #[error(
        "another process has taken the store over (this one had epoch {0}); it serves, this one ends"
    )]
    Fenced(u64),
    /// A copy into this store was begun and not finished.
    #[error("a copy into this store was not finished; make it again from the beginning")]
    Unfinished,
    /// A row that no back end has to take.
    #[error(
        "a row with a key of {key} and a value of {value} bytes; keys have 1 to {KEY_BYTES}, values up to {VALUE_BYTES}"
    )]
    Bounds {
        /// Bytes of the key.
        key: usize,
        /// Bytes of the value.
        value: usize,
    },
    /// A run of changes could not be read.
    #[error(transparent)]
    Changes(#[from] BadChanges),
    /// A test's planned crash.
    #[cfg(test)]
    #[error("crashed as planned")]
    Crashed,
}
