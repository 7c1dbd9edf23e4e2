//! A plan from a service as prost-build describes it.
//!
//! Knows: prost-build's words.   Does not know: tokens, files.

use prost_build::Comments;
use syn::{Ident, parse_quote};

use crate::error::Error;
use crate::plan::{Docs, Message, Method, Service};

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
            vis: parse_quote! { pub },
            schema: parse_quote! { FILE_DESCRIPTOR_SET },
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
