//! The whole-system tests, one binary.
