//! The services of gRPC's interoperability tests: generated code, and what both programs know.
//!
//! Knows: `proto/grpc/testing`.   Does not know: what a case does.

rpc_core::include_proto!("grpc.testing");

/// Echoed as it came by the server's initial metadata.
pub const ECHO_INITIAL: &str = "x-grpc-test-echo-initial";
/// Echoed as it came by the server's trailing metadata.
pub const ECHO_TRAILING: &str = "x-grpc-test-echo-trailing-bin";

/// The authority that vouches for [`SERVER_CHAIN`]; both lie open in the repository and protect nothing.
pub const TEST_CA: &[u8] = include_bytes!("../tls/ca.pem");
/// A certificate for `localhost` and 127.0.0.1.
pub const SERVER_CHAIN: &[u8] = include_bytes!("../tls/server.pem");
/// Its key.
pub const SERVER_KEY: &[u8] = include_bytes!("../tls/server.key");

/// A payload of so many zero bytes.
pub fn payload(size: usize) -> Payload {
    Payload {
        r#type: PayloadType::Compressable as i32,
        body: vec![0; size],
    }
}
