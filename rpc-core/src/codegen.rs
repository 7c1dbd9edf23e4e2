//! The only door that generated code uses. Not for use by hand: it changes with the generator.

pub use bytes;
pub use prost;
pub use prost_types;

pub use crate::rpc::client::{CallOptions, Channel};
pub use crate::rpc::descriptor::{MethodDescriptor, ServiceDescriptor};
pub use crate::rpc::message::{IntoRequest, Request, Response};
pub use crate::rpc::server::{Finished, ServerCall, Service};
pub use crate::rpc::status::Status;
pub use crate::rpc::streaming::{IntoStreamingRequest, Streaming};

/// Includes the code that `rpc_codegen::compile_protos` generated for a package: its messages, and a
/// trait, a server and a client for each service.
///
/// `rpc_core::include_proto!("greeter")` includes `$OUT_DIR/greeter.rs`.
#[macro_export]
macro_rules! include_proto {
    ($package:tt) => {
        include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
    };
}
