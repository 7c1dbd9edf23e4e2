//! The thin client: one account on one device.
//!
//! Knows:       the long link, syncing by one number, the outbox, a local store.
//! Does not know: who uses it: `chat`, `replay` and load generators are its callers.
//!
//! ```text
//!            ┌ keeper: connect, AUTH, read ──── Notify, Beat ───▶ applier: Sync machine ──▶ LocalStore
//! Terminal ──┤                     └── replies ─▶ whoever asked        │  asks on the link
//!            └ a sender per busy conversation ◀── Outbox               └──▶ Observer
//! ```
//! Decisions are in pure parts ([`sync`], [`heartbeat`], [`adaptive`], [`signalling`], [`race`], [`ladder`],
//! [`outbox`]) that are told the time;
//! the coroutines around them are plain blocking code. Where to connect is [`nearby`]'s to find.
//!
//! Invariants
//! - T-1  One coroutine applies; so Notify and Sync are serial (K-1..K-3 in [`sync`]).
//! - T-2  A message keeps its client id over retries and links, until the backend answered for it (O-2).
//! - T-3  The keeper reconnects until it is stopped or the token is no longer good.
//!
//! Read first: [`sync`], then `client.rs`.

pub mod adaptive;
mod client;
mod connection;
pub mod error;
pub mod heartbeat;
pub mod ladder;
mod link;
pub mod media;
pub mod nearby;
pub mod outbox;
mod passing;
pub mod race;
pub mod signalling;
pub mod store;
pub mod sync;

pub use client::{Config, Observer, Terminal, new_client_id};
pub use connection::{Connection, login, register};
pub use error::TerminalError;
pub use heartbeat::Beats;
