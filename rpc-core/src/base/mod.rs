//! Floor 0: what everything else stands on.
//!
//! Knows: the kernel's calls, time, randomness, small containers.
//! Does not know: coroutines, scheduling, protocols.

pub(crate) mod atomic;
pub mod buf;
pub mod lock;
pub mod metric;
pub mod rng;
pub mod signal;
pub mod socket;
pub mod sys;
pub mod time;
