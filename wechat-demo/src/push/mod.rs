//! The push role: wakes devices that have no link, through the push service of their system.
//!
//! Knows: APNs' API, what is due (storage says).   Does not know: tables, links, what a message says.
//!
//! ```text
//!   storage primary ──take──▶ [turn: at most a batch] ──streams of one HTTP/2 connection──▶ APNs
//!                  ◀──settle── delivered · again later · given up · token gone ◀────────────┘
//! ```
//! The process keeps nothing: what is pending, how often it was tried and when it is tried again stands in
//! the store, committed. So a push may be sent twice when a process dies, never zero times; its `apns-id` and
//! its `apns-collapse-id` are the same then, and the device shows one.
//!
//! Read first: `sender.rs`, then `apns.rs`.

mod apns;
mod connection;
mod meter;
pub mod role;
mod sender;
