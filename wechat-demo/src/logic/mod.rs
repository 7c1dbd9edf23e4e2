//! The logic layer: the business, stateless; it keeps everything in storage.
//!
//! Knows: what a caller may do, how large things may be, passwords and tokens.
//! Does not know: sockets, tables, shards, links' sessions. Stores are [`stores::Stores`], time is a
//! [`crate::model::clock::Clock`].
//!
//! Read first: [`business::Business`].

pub mod business;
mod check;
mod moderate;
mod moments;
mod password;
mod presence;
mod rate;
mod remote;
pub mod role;
mod service;
pub mod stores;
mod token;

pub use password::{Cost, Passwords};
