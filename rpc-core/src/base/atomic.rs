//! The atomics of what the models check.
//!
//! Knows: std's.   Does not know: who uses them.
//!
//! The package `models` compiles files that name this module against loom's counterparts instead and
//! runs them through every interleaving. So this has loom's names and shapes, and no more of them
//! than those files need.

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
