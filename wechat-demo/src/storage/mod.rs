//! The storage layer: what is kept, twice, before anybody is told that it is.
//!
//! Knows: logs, tables, numbers, streams, the copies of a store and who is primary, live links.
//! Does not know: terminals, sessions, passwords in the clear; whom a caller may ask about.
//!
//! A *store* is all shards of a home. Two processes have a copy of it, the primary and the backup, and others
//! are ready to become one; the *view* says who is what, and changes when one dies ([`views`]). The primary's
//! one committer, a plain OS thread, works in rounds: it executes what waits against the shards' state ([`shard`]), which makes one log entry per
//! shard; syncs the entries here while the backup syncs them there ([`copies`]); then they are *committed*:
//! it applies them to the tables, answers, feeds the streams, notifies. Where one database serves all storage
//! processes ([`location`]) it keeps the copies, and the backup is a stand-in: views and leases are the same, and
//! the database's own fence keeps a deposed primary from writing.
//!
//! Invariants
//! - S-1  Nothing uncommitted is visible: readers see tables alone, and those hold committed entries only.
//! - S-2  What a shard did is a function of its log: tables = the log's changes applied in order, so a
//!   lost table write is made good by applying again.
//! - S-3  A failed sync ends the process; it is never retried (what the kernel dropped would be taken for synced).
//! - S-4  A number, once visible, is at or below its section's `max_seq` in the same log, so it is never given again.
//! - S-5  A task leaves its source only after the entry that caused it is committed, and is applied in the
//!   commit that moves the destination's mark: in order, once.
//!
//! Read first: [`store::Store::round`], then [`shard`], then [`copies`], then [`views`].

pub mod acks;
pub mod archive;
mod carry;
pub mod changes;
pub mod committer;
pub mod copies;
pub mod dr;
pub mod durability;
pub mod engine;
pub mod heads;
pub mod links;
pub mod location;
pub mod log;
pub mod members;
pub mod mend;
pub mod meter;
#[cfg(test)]
mod model_tests;
pub mod moments;
pub mod notify;
pub mod ops;
pub mod presence;
pub mod primary;
pub mod promote;
pub mod push;
pub mod role;
pub mod sequence;
pub mod service;
pub mod shard;
pub mod store;
pub mod stream;
pub mod table;
pub mod timeline;
pub mod views;
pub mod wire;
pub mod witness;
