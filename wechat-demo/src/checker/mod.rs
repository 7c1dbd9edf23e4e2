//! The checker: whether a history shows that nothing was lost, doubled, reordered or invented.
//!
//! Knows:       the guarantees of the backend, the lines of histories.
//! Does not know: how the backend keeps them; it never asks it anything.
//!
//! Lines are taken one by one in the order of their times ([`Checker::take`]); what can be judged at once is,
//! the rest is held against the final state ([`Checker::finish`]). Memory grows with messages and devices, not
//! with lines.
//!
//! Invariants
//! - X-1  A verdict of green needs evidence: planned faults that happened, acknowledgements, devices that were
//!   level in a final drain, a last line. Without it the verdict is `insufficient evidence`.
//! - X-2  What was not answered may have happened or not; nothing is concluded from it.
//! - X-3  Of each invariant the counter-example with the fewest lines is kept, the earliest among equals.
//!
//! Read first: [`Invariant`], then `watch.rs` and `asked.rs` (while lines come), then `settle.rs`, `members.rs` and
//! `processes.rs` (at the end).

mod asked;
mod change;
mod invariant;
mod members;
mod processes;
pub mod read;
mod settle;
mod state;
mod verdict;
mod watch;

#[cfg(test)]
mod tests;

pub use invariant::Invariant;
pub use state::{Checker, Place};
pub use verdict::{Verdict, Violation};
