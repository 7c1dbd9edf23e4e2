//! The whole-system tests: one binary, a module per subject.
//!
//! * `architecture` reads the sources: floors, roles, seams, house rules.
//! * `runtime` is about coroutines: identity, stacks, stealing.

mod architecture;
mod runtime;
