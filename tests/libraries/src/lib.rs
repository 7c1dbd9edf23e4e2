//! Other people's libraries and the servers they call, for tests and benchmarks.
//!
//! Knows: how each library opens a connection and makes one call; how to start what it calls.
//! Does not know: coroutines. This crate does not link `rpc-core`, so nothing in it can have been
//! written for it: the suite runs it on coroutines, a benchmark peer on threads.
//!
//! Read first: `calls`, then `servers`.

pub mod calls;
pub mod http;
pub mod processes;
pub mod threaded;
