//! What rpc-codegen promises, tested from outside. The generated code itself is compiled and run by the
//! other test program, `tests/generated`, so that this one can rewrite it even when it does not compile.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on may panic, also in its helpers"
)]

/// The command's output and exit status.
mod command;
/// Every wrong schema gets its place and a way out.
mod errors;
/// What is generated, word for word.
mod golden;
/// Descriptor sets, build-script output, and input other than files.
mod options;
/// Encoded descriptor sets with all their options, and editions.
mod sets;
