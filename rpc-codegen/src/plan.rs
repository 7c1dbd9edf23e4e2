//! The narrow waist between a schema and Rust text: what a service is to the emitter.
//!
//! Knows: names, comments, Rust types of messages.   Does not know: descriptors, tokens, files.
//!
//! Invariants (`check` has seen to them)
//! - Method names of a plan are unique, also against what the client adds of its own.

use prost_build::Comments;
use syn::Ident;

use crate::error::Error;

/// A service to generate code for.
pub(crate) struct Service {
    /// Rust name, such as `Greeter`.
    pub(crate) name: Ident,
    /// Name on the wire, such as `greeter.Greeter`.
    pub(crate) full_name: String,
    pub(crate) docs: Docs,
    pub(crate) deprecated: bool,
    pub(crate) methods: Vec<Method>,
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

impl Service {
    /// Takes a service as prost-build describes it.
    pub(crate) fn new(service: &prost_build::Service) -> Result<Self, Error> {
        let full_name = match service.package.as_str() {
            "" => service.proto_name.clone(),
            package => format!("{package}.{}", service.proto_name),
        };
        Ok(Self {
            name: ident(&service.name)?,
            full_name,
            docs: Docs::new(&service.comments),
            deprecated: service.options.deprecated(),
            methods: service
                .methods
                .iter()
                .map(Method::new)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl Method {
    fn new(method: &prost_build::Method) -> Result<Self, Error> {
        Ok(Self {
            name: ident(&method.name)?,
            name_with: ident(&with(&method.name))?,
            proto_name: method.proto_name.clone(),
            docs: Docs::new(&method.comments),
            deprecated: method.options.deprecated(),
            client_streaming: method.client_streaming,
            server_streaming: method.server_streaming,
            input: Message::new(&method.input_type, &method.input_proto_type)?,
            output: Message::new(&method.output_type, &method.output_proto_type)?,
        })
    }
}

impl Message {
    fn new(rust: &str, full_name: &str) -> Result<Self, Error> {
        let rust = syn::parse_str(rust).map_err(|_| {
            let hint =
                "extern_path maps a protobuf name to a Rust path such as ::my_crate::Message";
            Error::general(
                format!("'{rust}' (for {full_name}) is not a Rust type"),
                Some(hint),
            )
        })?;
        Ok(Self {
            rust,
            full_name: full_name.trim_start_matches('.').to_owned(),
        })
    }
}

impl Docs {
    /// The same lines that prost-build puts above messages.
    fn new(comments: &Comments) -> Self {
        let mut text = String::new();
        comments.append_with_indent(0, &mut text);
        Self(
            text.lines()
                .filter_map(|line| line.strip_prefix("///"))
                .map(str::to_owned)
                .collect(),
        )
    }
}

fn with(method: &str) -> String {
    // prost-build has marked keywords: `r#type`, `self_`.
    format!(
        "{}_with",
        method.trim_start_matches("r#").trim_end_matches('_')
    )
}

fn ident(name: &str) -> Result<Ident, Error> {
    syn::parse_str(name)
        .map_err(|_| Error::general(format!("'{name}' is not a name in Rust"), Some("rename it")))
}
