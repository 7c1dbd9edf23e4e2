//! Rust text of one service. rpc-macros compiles this file too, for `#[service]`.
//!
//! Knows: the plan, tokens.   Does not know: descriptors, options of messages, files.
//!
//! Generated code names `::rpc_core::codegen` and `::core`/`::std`, always by full path: a schema may
//! well have a message called `Result`.

use heck::ToShoutySnakeCase;
use proc_macro2::{Literal, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::Ident;

use crate::plan::{Docs, Method, Service};

/// Which parts of a service to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    pub(crate) client: bool,
    pub(crate) server: bool,
    /// Trait methods get a body that answers `UNIMPLEMENTED`.
    pub(crate) default_stubs: bool,
    /// Servers get a stand-in for tests.
    pub(crate) mock: bool,
    /// The trait is there already.
    pub(crate) trait_given: bool,
}

/// Everything that is generated for one service.
pub(crate) fn service(service: &Service, parts: Parts) -> TokenStream {
    if !parts.client && !parts.server {
        return TokenStream::new();
    }
    let descriptor = descriptor(service);
    let server = parts
        .server
        .then(|| {
            let own = (!parts.trait_given).then(|| service_trait(service, parts));
            [own, Some(server(service))]
        })
        .into_iter()
        .flatten()
        .flatten();
    let mock = (parts.server && parts.mock).then(|| mock(service));
    let client = parts.client.then(|| client(service));
    quote! { #descriptor #(#server)* #mock #client }
}

fn descriptor(service: &Service) -> TokenStream {
    let (ident, full_name) = (descriptor_ident(service), &service.full_name);
    let (vis, schema) = (&service.vis, &service.schema);
    let doc = format!(" Names and types of `{full_name}`, as data.");
    let methods = service.methods.iter().map(|method| {
        let (name, input, output) = (
            &method.proto_name,
            &method.input.full_name,
            &method.output.full_name,
        );
        let (client_streaming, server_streaming) =
            (method.client_streaming, method.server_streaming);
        quote! {
            ::rpc_core::codegen::MethodDescriptor {
                service: #full_name,
                name: #name,
                input: #input,
                output: #output,
                client_streaming: #client_streaming,
                server_streaming: #server_streaming,
            }
        }
    });
    quote! {
        #[doc = #doc]
        #vis static #ident: ::rpc_core::codegen::ServiceDescriptor = ::rpc_core::codegen::ServiceDescriptor {
            name: #full_name,
            methods: &[#(#methods),*],
            file_descriptor_set: #schema,
        };
    }
}

fn service_trait(service: &Service, parts: Parts) -> TokenStream {
    let (name, vis) = (&service.name, &service.vis);
    let docs = doc_comment(&service.docs, || {
        format!(" What a server of `{}` has to do.", service.full_name)
    });
    let methods = service.methods.iter().map(|method| {
        let (name, request, reply) = (&method.name, handler_request(method), handler_reply(method));
        let docs = doc_comment(&method.docs, || {
            format!(" Answers a call of `{}`.", method.proto_name)
        });
        let body = if parts.default_stubs {
            let message = format!(
                "{}/{} is not implemented",
                service.full_name, method.proto_name
            );
            // A stream in the signature has no type of its own: the empty one will do.
            let nothing = method.server_streaming.then(|| {
                quote! { ::<::rpc_core::codegen::Response<::core::iter::Empty<_>>, _> }
            });
            quote! {{
                let _ = request;
                ::core::result::Result #nothing ::Err(::rpc_core::codegen::Status::unimplemented(#message))
            }}
        } else {
            quote! { ; }
        };
        quote! { #docs fn #name(&self, request: #request) -> #reply #body }
    });
    quote! {
        #docs
        #vis trait #name: ::core::marker::Send + ::core::marker::Sync + 'static { #(#methods)* }
    }
}

fn server(service: &Service) -> TokenStream {
    let (name, server, descriptor) = (
        &service.name,
        server_ident(service),
        descriptor_ident(service),
    );
    let (full_name, vis) = (&service.full_name, &service.vis);
    let doc = format!(
        " Serves an implementation of [`{name}`]; hand it to a server builder's `add_service`."
    );
    let arms = service.methods.iter().enumerate().map(|(index, method)| {
        let (call, request) = (call(method), handler_request(method));
        let (method, index) = (&method.name, Literal::usize_unsuffixed(index));
        quote! { #index => call.#call(|request: #request| <T as #name>::#method(&self.inner, request)), }
    });
    quote! {
        #[doc = #doc]
        #vis struct #server<T> { inner: ::std::sync::Arc<T> }

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

fn mock(service: &Service) -> TokenStream {
    let (name, mock) = (&service.name, format_ident!("{}Mock", service.name));
    let vis = &service.vis;
    let doc = format!(
        " A [`{name}`] for tests: each method does what it was told. One that was told nothing answers \
         `UNIMPLEMENTED`."
    );
    let does = |method: &Method| {
        let request = handler_request(method);
        let reply = caller_reply(method);
        quote! { ::core::ops::Fn(#request) -> #reply + ::core::marker::Send + ::core::marker::Sync }
    };
    let fields = service.methods.iter().map(|method| {
        let (name, does) = (&method.name, does(method));
        quote! { #name: ::core::option::Option<::std::boxed::Box<dyn #does>> }
    });
    let setters = service.methods.iter().map(|method| {
        let (name, does) = (&method.name, does(method));
        let plain = plain(name);
        let (setter, doc) = (
            format_ident!("on_{plain}"),
            format!(" Says what `{plain}` does."),
        );
        quote! {
            #[doc = #doc]
            #[must_use]
            pub fn #setter(mut self, does: impl #does + 'static) -> Self {
                self.#name = ::core::option::Option::Some(::std::boxed::Box::new(does));
                self
            }
        }
    });
    let methods = service.methods.iter().map(|method| {
        let (name, request, reply) = (&method.name, handler_request(method), handler_reply(method));
        let message = format!(
            "{}/{}: the mock was not told what to do",
            service.full_name, method.proto_name
        );
        quote! {
            fn #name(&self, request: #request) -> #reply {
                match &self.#name {
                    ::core::option::Option::Some(does) => does(request),
                    ::core::option::Option::None => ::core::result::Result::Err(
                        ::rpc_core::codegen::Status::unimplemented(#message),
                    ),
                }
            }
        }
    });
    quote! {
        #[doc = #doc]
        #[derive(Default)]
        #vis struct #mock { #(#fields),* }

        impl #mock {
            /// Nothing is told yet.
            pub fn new() -> Self { ::core::default::Default::default() }

            #(#setters)*
        }

        impl #name for #mock { #(#methods)* }
    }
}

fn client(service: &Service) -> TokenStream {
    let client = format_ident!("{}Client", service.name);
    let vis = &service.vis;
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
        #vis struct #client { channel: ::rpc_core::codegen::Channel }

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
    let (descriptor, call) = (descriptor_ident(service), call(method));
    let reply = caller_reply(method);
    let request = match (method.client_streaming, method.server_streaming) {
        (false, _) => quote! { impl ::rpc_core::codegen::IntoRequest<#input> },
        (true, false) => {
            quote! { impl ::rpc_core::codegen::IntoStreamingRequest<Message = #input> }
        }
        // They are sent on a coroutine of their own.
        (true, true) => quote! {
            impl ::rpc_core::codegen::IntoStreamingRequest<
                Message = #input,
                Messages: ::core::marker::Send + 'static,
            >
        },
    };
    let docs = doc_comment(&method.docs, || format!(" Calls `{}`.", method.proto_name));
    let doc_with = format!(
        " [`{}`](Self::{0}) with options for this call.",
        plain(name)
    );
    let deprecated = method.deprecated.then(|| quote! { #[deprecated] });
    quote! {
        #docs
        #deprecated
        pub fn #name(&self, request: #request) -> #reply {
            self.#name_with(request, ::core::default::Default::default())
        }

        #[doc = #doc_with]
        #deprecated
        pub fn #name_with(
            &self,
            request: #request,
            options: ::rpc_core::codegen::CallOptions,
        ) -> #reply {
            self.channel.#call::<#input, #output>(&#descriptor.methods[#index], request, options)
        }
    }
}

/// What servers and channels call the kind of the method.
fn call(method: &Method) -> Ident {
    let name = match (method.client_streaming, method.server_streaming) {
        (false, false) => "unary",
        (true, false) => "client_stream",
        (false, true) => "server_stream",
        (true, true) => "bidi",
    };
    format_ident!("{name}")
}

/// What a handler gets.
fn handler_request(method: &Method) -> TokenStream {
    let message = &method.input.rust;
    if method.client_streaming {
        let messages = streaming(message);
        quote! { ::rpc_core::codegen::Request<#messages> }
    } else {
        quote! { ::rpc_core::codegen::Request<#message> }
    }
}

/// What a handler gives.
fn handler_reply(method: &Method) -> TokenStream {
    let message = &method.output.rust;
    if method.server_streaming {
        let item = result(message);
        response(&quote! { impl ::core::iter::Iterator<Item = #item> })
    } else {
        response(message)
    }
}

/// What a caller gets.
fn caller_reply(method: &Method) -> TokenStream {
    let message = &method.output.rust;
    if method.server_streaming {
        response(&streaming(message))
    } else {
        response(message)
    }
}

/// The name without what marks it as no keyword.
fn plain(name: &Ident) -> String {
    name.to_string().trim_start_matches("r#").to_owned()
}

fn streaming(message: &syn::Type) -> TokenStream {
    quote! { ::rpc_core::codegen::Streaming<#message> }
}

fn response(body: &impl ToTokens) -> TokenStream {
    result(&quote! { ::rpc_core::codegen::Response<#body> })
}

fn result(value: &impl ToTokens) -> TokenStream {
    quote! { ::core::result::Result<#value, ::rpc_core::codegen::Status> }
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
