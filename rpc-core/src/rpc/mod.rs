//! Remote calls: what a call is (pure, floor 4) and how it gets to the wire and back (floor 5).
//!
//! Floor 4, this folder without `client`, `server` and `console`, is sans-I/O:
//! [`status`], [`metadata`], [`message`], [`streaming`], [`compression`], [`transcode`] and [`protocol`] are
//! told the time and handed the bytes. They know no socket, no thread, no clock.
//!
//! Read first: [`protocol`], then [`protocol::call`].

pub mod auth;
pub mod client;
pub mod compression;
mod console;
pub mod cors;
pub mod descriptor;
pub mod error;
mod http_rule;
pub mod message;
pub mod metadata;
pub mod protocol;
pub mod server;
pub mod status;
pub mod status_map;
pub mod streaming;
pub mod tls;
pub mod transcode;
