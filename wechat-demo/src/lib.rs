//! The messaging backend, its terminal and its cluster launcher.
//!
//! One binary, a role per subcommand; roles meet over RPC alone (`proto/`), never by a function call.
//!
//! Read first: `proto/terminal.proto`, then [`model`], then [`storage`].

pub mod access;
pub mod checker;
pub mod cluster;
pub mod coordinator;
pub mod dispatch;
pub mod edge;
pub mod history;
pub mod homes;
pub mod logic;
pub mod longlink;
pub mod model;
pub mod planted;
pub mod proto;
pub mod push;
pub mod storage;
mod task;
pub mod terminal;
pub mod wan;
