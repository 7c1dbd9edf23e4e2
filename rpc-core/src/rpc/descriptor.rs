//! What a service is called and what it takes, as data.
//!
//! Knows: names.   Does not know: handlers, connections.
//!
//! Generated code makes one static of each; servers and clients share them.

#![forbid(unsafe_code)]

/// One method of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodDescriptor {
    /// Full name of the service: `example.EchoService`.
    pub service: &'static str,
    /// Name of the method as in the .proto: `Echo`.
    pub name: &'static str,
    /// Full name of the request message.
    pub input: &'static str,
    /// Full name of the response message.
    pub output: &'static str,
    /// The client sends a stream.
    pub client_streaming: bool,
    /// The server sends a stream.
    pub server_streaming: bool,
}

/// A service and its methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceDescriptor {
    /// Full name: `example.EchoService`.
    pub name: &'static str,
    /// The methods; a handler is called with an index into this.
    pub methods: &'static [MethodDescriptor],
    /// The serialized `google.protobuf.FileDescriptorSet` that holds the service and all it refers to; empty
    /// = nobody has its schema: it was made of a trait.
    pub file_descriptor_set: &'static [u8],
}
