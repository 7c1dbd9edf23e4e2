//! The services that gRPC's own tools expect of a server: health and reflection.
//!
//! Knows: their schemas, which services a server has.   Does not know: connections.
//!
//! The descriptor sets (`*.bin`) are protoc's, from grpc-proto's `grpc/health/v1/health.proto` and
//! `grpc/reflection/{v1,v1alpha}/reflection.proto`; the messages here are written after the same files.

pub mod health;
pub mod reflection;

use crate::rpc::descriptor::MethodDescriptor;

/// A method of one of these services.
const fn method(
    service: &'static str,
    name: &'static str,
    types: [&'static str; 2],
    streams: [bool; 2],
) -> MethodDescriptor {
    MethodDescriptor {
        service,
        name,
        input: types[0],
        output: types[1],
        client_streaming: streams[0],
        server_streaming: streams[1],
    }
}
