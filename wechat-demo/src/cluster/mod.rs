//! A whole cluster on one machine: every role a process of this very binary, on loopback.
//!
//! Knows:       which processes there are, their flags, ports, logs, and how to tell that one is healthy.
//! Does not know: what they do; it speaks HTTP to their RPC ports and nothing else.
//!
//! Invariants
//! - C-1  A child never outlives its launcher: its standard input is a pipe from it, and it ends when
//!   that pipe does ([`parent`]), however the launcher ended.
//! - C-2  A role that is started again gets the very flags it had, so the others find it where it was.
//! - C-3  A child's words go to its own file under `logs/`; when it dies the launcher quotes the last.
//!
//! Read first: [`layout`], then [`process`].

mod clusters;
mod ensemble;
pub mod layout;
pub mod parent;
mod probe;
pub mod process;

pub use clusters::{Clusters, IDCS, Process};
pub use ensemble::EnsembleFlags;
pub use layout::{Layout, Plan, Ports, Role};
pub use probe::{Figures, ask, figures};
pub use process::Cluster;
