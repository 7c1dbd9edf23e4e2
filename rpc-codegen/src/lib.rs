//! Generates rpc-core services, servers and clients from Protocol Buffers, in a build script, without
//! `protoc`.
//!
//! # From a `.proto` file to a service
//!
//! ```toml
//! [dependencies]
//! rpc-core = "0.1"
//!
//! [build-dependencies]
//! rpc-codegen = "0.1"
//! ```
//!
//! ```proto
//! // proto/greeter.proto
//! syntax = "proto3";
//! package greeter;
//!
//! service Greeter {
//!   // Greets by name.
//!   rpc SayHello(HelloRequest) returns (HelloReply);
//! }
//! message HelloRequest { string name = 1; }
//! message HelloReply { string text = 1; }
//! ```
//!
//! ```text
//! // build.rs
//! fn main() {
//!     rpc_codegen::compile_protos(&["proto/greeter.proto"], &["proto"]).unwrap();
//! }
//! ```
//!
//! ```text
//! // src/main.rs
//! rpc_core::include_proto!("greeter");
//!
//! struct MyGreeter;
//! impl Greeter for MyGreeter {
//!     fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
//!         Ok(Response::new(HelloReply { text: format!("hello {}", request.name) }))
//!     }
//! }
//! ```
//!
//! # What a service `Greeter` of package `greeter` becomes
//!
//! One file per package, `$OUT_DIR/greeter.rs` (`_.rs` without a package), with
//!
//! | item | what it is |
//! |---|---|
//! | `HelloRequest`, … | messages and enums, as prost writes them |
//! | `trait Greeter` | what a server implements: plain blocking functions |
//! | `GreeterServer<T>` | serves an implementation `T`; goes into a server builder's `add_service` |
//! | `GreeterClient` | calls through a channel: `say_hello`, and `say_hello_with` with options |
//! | `GREETER_DESCRIPTOR` | names and types of the service, as data |
//! | `FILE_DESCRIPTOR_SET` | the package's schema, encoded, for reflection and JSON |
//!
//! Comments of the schema become doc comments. The code needs nothing but `rpc-core` in scope, compiles
//! under the strictest lints, and carries no code block that rustdoc would run.
//!
//! Packages that refer to each other must be nested as modules the way their names are;
//! [`Builder::include_file`] writes the nesting.
//!
//! # Errors
//!
//! An [`Error`] lists everything that is wrong, each with its place and what to do, and `unwrap` in a build
//! script prints it as it is:
//!
//! ```text
//! proto/greeter.proto:6:16: name 'HelloReqest' is not defined
//!     hint: did you mean 'HelloRequest'?
//! ```
//!
//! # Limits
//!
//! - proto2 and proto3. Editions 2023 and 2024 as descriptor sets, which protoc makes of them
//!   ([`Builder::compile_descriptor_set`]).
//! - Methods of all kinds; a stream is an iterator, at handlers and callers alike.
//! - Unknown fields are dropped on decoding (prost).
//!
//! The same generator as a command: `rpc-codegen --out DIR -I INCLUDE FILE.proto`.
//!
//! # How it works
//!
//! `schema` (protox) parses and links → `check` refuses what cannot be generated → `generate` lets prost-build
//! write messages and describe services → `describe` makes a plan of them → `emit` turns a plan into tokens →
//! `module` puts a file together → `output` writes it.

mod builder;
mod check;
mod comments;
mod describe;
mod editions;
mod emit;
mod error;
mod generate;
mod module;
mod output;
mod plan;
mod schema;
mod sources;
mod suggest;

use std::path::Path;

pub use prost_types::FileDescriptorSet;

pub use crate::builder::Builder;
pub use crate::error::{Error, Problem};

/// Options, to be followed by [`Builder::compile_protos`] or [`Builder::compile_fds`].
pub fn configure() -> Builder {
    Builder::default()
}

/// Generates code for `.proto` files and all that they import, into `$OUT_DIR`, with default options.
///
/// `includes` are the directories that imports are relative to.
///
/// # Errors
/// As [`Builder::compile_protos`].
pub fn compile_protos(
    protos: &[impl AsRef<Path>],
    includes: &[impl AsRef<Path>],
) -> Result<(), Error> {
    configure().compile_protos(protos, includes)
}

/// Generates code from descriptors that another compiler made, into `$OUT_DIR`, with default options.
///
/// # Errors
/// As [`Builder::compile_fds`].
pub fn compile_fds(set: FileDescriptorSet) -> Result<(), Error> {
    configure().compile_fds(set)
}
