//! The whole-system tests: one binary, a module per subject.
//!
//! * `architecture` reads the sources: floors, roles, seams, house rules.

mod architecture;
