//! The access layer: long links from terminals, notifies from storage's primaries.
//!
//! Knows:       links and whom they speak for, frames, which call of logic a command is.
//! Does not know: the business, timelines, passwords; it keeps nothing that outlives it.
//!
//! ```text
//! terminal ══ long link ══▶ LinkSession ─work─▶ commands ──▶ Backend (logic over RPC)
//!          (or WebSocket)       ▲ Outbound ◀──────── replies, beats
//!                               └──────────────┐
//! storage's primary ── RPC Notify ──▶ notify ──┘      registrar: RegisterLinks in batches, and a sweep
//! ```
//! A link is a protocol of rpc-core's port (`link.rs`), over TLS or not: no coroutine and no buffer while it
//! idles. Its state is pure ([`session`]); what its commands do is plain blocking code in coroutines.
//!
//! Invariants
//! - A-1  A link is registered with its user's primary before its AuthReply goes out, so nothing that
//!   happens after the terminal's first sync goes unnoticed (with S-2 in [`session`]).
//! - A-2  A beat's newest key was read from the primary after the beat came in, or is absent. Nothing
//!   here is ever shown as the newest key because it was seen before.
//! - A-3  Whatever one terminal sends, or does not read, ends at its own link.
//!
//! - A-4  Of two links of one device the newer lives; the older is closed as soon as both are seen here, and
//!   gets no notifies from the primary in any case.
//!
//! Read first: [`session`], then `link.rs`, then `serve.rs`.

mod backend;
mod beats;
mod commands;
mod link;
mod meter;
mod registrar;
mod remote;
mod role;
mod serve;
pub mod session;
mod table;
mod websocket;

pub use backend::{Answer, Backend, Refusal};
pub use beats::{BeatFlags, Beats};
pub use meter::Meter;
pub use role::{Options, Ready, run, start};
pub use serve::{Access, Door, Settings};
