//! Rust text of one service.
//!
//! Knows: the plan, tokens.   Does not know: descriptors, options of messages, files.
//!
//! Generated code names `::rpc_core::codegen` and `::core`/`::std`, always by full path: a schema may
//! well have a message called `Result`.

use heck::ToShoutySnakeCase;
use proc_macro2::{Literal, TokenStream};
use quote::{format_ident, quote};
use syn::Ident;

use crate::plan::{Docs, Message, Method, Service};

/// Which parts of a service to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    pub(crate) client: bool,
    pub(crate) server: bool,
    /// Trait methods get a body that answers `UNIMPLEMENTED`.
    pub(crate) default_stubs: bool,
}

/// Everything that is generated for one service.
pub(crate) fn service(service: &Service, parts: Parts) -> TokenStream {
    if !parts.client && !parts.server {
        return TokenStream::new();
    }
    let descriptor = descriptor(service);
    let server = parts
        .server
        .then(|| [service_trait(service, parts), server(service)])
        .into_iter()
        .flatten();
    let client = parts.client.then(|| client(service));
    quote! { #descriptor #(#server)* #client }
}

fn descriptor(service: &Service) -> TokenStream {
    let (ident, full_name) = (descriptor_ident(service), &service.full_name);
    let doc = format!(" Names and types of `{full_name}`, as data.");
    let methods = service.methods.iter().map(|method| {
        let (name, input, output) = (
            &method.proto_name,
            &method.input.full_name,
            &method.output.full_name,
        );
        quote! {
            ::rpc_core::codegen::MethodDescriptor {
                service: #full_name,
                name: #name,
                input: #input,
                output: #output,
                client_streaming: false,
                server_streaming: false,
            }
        }
    });
    quote! {
        #[doc = #doc]
        pub static #ident: ::rpc_core::codegen::ServiceDescriptor = ::rpc_core::codegen::ServiceDescriptor {
            name: #full_name,
            methods: &[#(#methods),*],
            file_descriptor_set: FILE_DESCRIPTOR_SET,
        };
    }
}

fn service_trait(service: &Service, parts: Parts) -> TokenStream {
    let name = &service.name;
    let docs = doc_comment(&service.docs, || {
        format!(" What a server of `{}` has to do.", service.full_name)
    });
    let methods = service.methods.iter().map(|method| {
        let (name, request, reply) = (&method.name, request(&method.input), reply(&method.output));
        let docs = doc_comment(&method.docs, || {
            format!(" Answers a call of `{}`.", method.proto_name)
        });
        let body = if parts.default_stubs {
            let message = format!(
                "{}/{} is not implemented",
                service.full_name, method.proto_name
            );
            quote! {{
                let _ = request;
                ::core::result::Result::Err(::rpc_core::codegen::Status::unimplemented(#message))
            }}
        } else {
            quote! { ; }
        };
        quote! { #docs fn #name(&self, request: #request) -> #reply #body }
    });
    quote! {
        #docs
        pub trait #name: ::core::marker::Send + ::core::marker::Sync + 'static { #(#methods)* }
    }
}

fn server(service: &Service) -> TokenStream {
    let (name, server, descriptor) = (
        &service.name,
        server_ident(service),
        descriptor_ident(service),
    );
    let full_name = &service.full_name;
    let doc = format!(
        " Serves an implementation of [`{name}`]; hand it to a server builder's `add_service`."
    );
    let arms = service.methods.iter().enumerate().map(|(index, method)| {
        let (method, request) = (&method.name, request(&method.input));
        let index = Literal::usize_unsuffixed(index);
        quote! { #index => call.unary(|request: #request| <T as #name>::#method(&self.inner, request)), }
    });
    quote! {
        #[doc = #doc]
        pub struct #server<T> { inner: ::std::sync::Arc<T> }

        impl<T: #name> #server<T> {
            /// The service's name on the wire.
            pub const NAME: &'static str = #full_name;

            /// Serves `inner`.
            pub fn new(inner: T) -> Self { Self::from_arc(::std::sync::Arc::new(inner)) }

            /// Serves `inner` and leaves a share of it to the caller.
            pub fn from_arc(inner: ::std::sync::Arc<T>) -> Self { Self { inner } }
        }

        impl<T: #name> ::rpc_core::codegen::Service for #server<T> {
            fn descriptor(&self) -> &'static ::rpc_core::codegen::ServiceDescriptor { &#descriptor }

            fn call(&self, method: usize, call: ::rpc_core::codegen::ServerCall) -> ::rpc_core::codegen::Finished {
                match method {
                    #(#arms)*
                    _ => call.unimplemented(),
                }
            }
        }
    }
}

fn client(service: &Service) -> TokenStream {
    let client = format_ident!("{}Client", service.name);
    let mut docs = vec![format!(
        " Calls `{}` through a channel; cheap to clone.",
        service.full_name
    )];
    if !service.docs.0.is_empty() {
        docs.push(String::new());
        docs.extend_from_slice(&service.docs.0);
    }
    let deprecated = service.deprecated.then(|| quote! { #[deprecated] });
    let methods = service
        .methods
        .iter()
        .enumerate()
        .map(|(index, method)| client_method(service, index, method));
    quote! {
        #(#[doc = #docs])*
        #deprecated
        #[derive(Clone)]
        pub struct #client { channel: ::rpc_core::codegen::Channel }

        impl #client {
            /// A client that calls through `channel`.
            pub fn new(channel: ::rpc_core::codegen::Channel) -> Self { Self { channel } }

            #(#methods)*
        }
    }
}

fn client_method(service: &Service, index: usize, method: &Method) -> TokenStream {
    let Method {
        name, name_with, ..
    } = method;
    let index = Literal::usize_unsuffixed(index);
    let (input, output) = (&method.input.rust, &method.output.rust);
    let (descriptor, reply) = (descriptor_ident(service), reply(&method.output));
    let docs = doc_comment(&method.docs, || format!(" Calls `{}`.", method.proto_name));
    let doc_with = format!(
        " [`{}`](Self::{0}) with options for this call.",
        name.to_string().trim_start_matches("r#")
    );
    let deprecated = method.deprecated.then(|| quote! { #[deprecated] });
    quote! {
        #docs
        #deprecated
        pub fn #name(&self, request: impl ::rpc_core::codegen::IntoRequest<#input>) -> #reply {
            self.#name_with(request, ::core::default::Default::default())
        }

        #[doc = #doc_with]
        #deprecated
        pub fn #name_with(
            &self,
            request: impl ::rpc_core::codegen::IntoRequest<#input>,
            options: ::rpc_core::codegen::CallOptions,
        ) -> #reply {
            self.channel.unary::<#input, #output>(&#descriptor.methods[#index], request, options)
        }
    }
}

fn request(message: &Message) -> TokenStream {
    let rust = &message.rust;
    quote! { ::rpc_core::codegen::Request<#rust> }
}

fn reply(message: &Message) -> TokenStream {
    let rust = &message.rust;
    quote! {
        ::core::result::Result<::rpc_core::codegen::Response<#rust>, ::rpc_core::codegen::Status>
    }
}

/// The schema's comment, or a sentence in its place.
fn doc_comment(docs: &Docs, otherwise: impl FnOnce() -> String) -> TokenStream {
    let lines = if docs.0.is_empty() {
        vec![otherwise()]
    } else {
        docs.0.clone()
    };
    quote! { #(#[doc = #lines])* }
}

fn server_ident(service: &Service) -> Ident {
    format_ident!("{}Server", service.name)
}

fn descriptor_ident(service: &Service) -> Ident {
    format_ident!(
        "{}_DESCRIPTOR",
        service.name.to_string().to_shouty_snake_case()
    )
}
