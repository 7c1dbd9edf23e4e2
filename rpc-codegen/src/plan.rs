//! The narrow waist between a schema, or a trait, and Rust text: what a service is to the emitter.
//!
//! Knows: names, comments, Rust types of messages.   Does not know: descriptors, tokens, files.
//!
//! rpc-macros compiles this file too: `#[service]` makes the same of a trait.
//!
//! Invariants (`check` has seen to them, or rustc will)
//! - Method names of a plan are unique, also against what the client adds of its own.

use syn::Ident;

/// A service to generate code for.
pub(crate) struct Service {
    /// Rust name, such as `Greeter`.
    pub(crate) name: Ident,
    /// Name on the wire, such as `greeter.Greeter`.
    pub(crate) full_name: String,
    pub(crate) docs: Docs,
    pub(crate) deprecated: bool,
    pub(crate) methods: Vec<Method>,
    /// Who sees what is made of it.
    pub(crate) vis: syn::Visibility,
    /// Rust's expression for the schema as an encoded descriptor set.
    pub(crate) schema: syn::Expr,
}

/// A method of a [`Service`].
pub(crate) struct Method {
    /// Rust name, such as `say_hello`.
    pub(crate) name: Ident,
    /// Name of the client's form with options, such as `say_hello_with`.
    pub(crate) name_with: Ident,
    /// Name on the wire, such as `SayHello`.
    pub(crate) proto_name: String,
    pub(crate) docs: Docs,
    pub(crate) deprecated: bool,
    /// The client sends a stream.
    pub(crate) client_streaming: bool,
    /// The server sends a stream.
    pub(crate) server_streaming: bool,
    pub(crate) input: Message,
    pub(crate) output: Message,
}

/// A request or a reply.
pub(crate) struct Message {
    /// Rust type as seen from the package's module.
    pub(crate) rust: syn::Type,
    /// Name in the schema, such as `greeter.HelloRequest`.
    pub(crate) full_name: String,
}

/// Lines of a doc comment, each as it follows `///`. Empty = the schema says nothing.
pub(crate) struct Docs(pub(crate) Vec<String>);
