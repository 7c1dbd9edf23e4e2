//! What `#[rpc_core::service]` makes of a trait: a plan, which `emit` turns into the same that a schema gives.
//!
//! Knows: the forms a method may have.   Does not know: what is made of the plan.

use heck::ToUpperCamelCase;
use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, Expr, ExprLit, FnArg, GenericArgument, Item, ItemTrait, Lit, Meta,
    PathArguments, ReceiverKind, ReturnType, Signature, Token, TraitItem, Type, TypeParamBound,
    parse_quote,
};

use crate::emit::{self, Parts};
use crate::plan::{Docs, Message, Method, Service};

/// The macro's output; errors become `compile_error!` at their place.
pub(crate) fn expand(options: TokenStream, item: TokenStream) -> TokenStream {
    match try_expand(options, &item) {
        Ok(output) => output,
        Err(error) => {
            let error = error.into_compile_error();
            quote! { #error #item }
        }
    }
}

fn try_expand(options: TokenStream, item: &TokenStream) -> syn::Result<TokenStream> {
    let mut item: ItemTrait = syn::parse2(item.clone())
        .map_err(|error| Error::new(error.span(), format!("service goes on a trait: {error}")))?;
    let options = Options::parse(options)?;
    if !item.generics.params.is_empty() {
        let message = "a service has no type parameters: calls name no types";
        return Err(Error::new(item.generics.span(), message));
    }
    let methods = item.items.iter().map(method).collect::<syn::Result<_>>()?;
    let name = item.ident.clone();
    let service = Service {
        full_name: match &options.package {
            Some(package) => format!("{package}.{name}"),
            None => name.to_string(),
        },
        name,
        docs: docs(&item.attrs),
        deprecated: false,
        methods,
        vis: item.vis.clone(),
        schema: parse_quote! { &[] },
    };
    let parts = Parts {
        client: true,
        server: true,
        default_stubs: false,
        mock: options.mock,
        trait_given: true,
    };
    item.supertraits.extend::<[TypeParamBound; 3]>([
        parse_quote! { ::core::marker::Send },
        parse_quote! { ::core::marker::Sync },
        parse_quote! { 'static },
    ]);
    let mut made = syn::parse2::<syn::File>(emit::service(&service, parts))?.items;
    made.iter_mut().for_each(quieten);
    Ok(quote! { #item #(#made)* })
}

/// Keeps the lints of the trait's crate off what it did not write.
fn quieten(item: &mut Item) {
    let attrs = match item {
        Item::Impl(item) => &mut item.attrs,
        Item::Static(item) => &mut item.attrs,
        Item::Struct(item) => &mut item.attrs,
        _ => return,
    };
    attrs.push(parse_quote! {
        #[allow(
            dead_code, missing_debug_implementations, missing_docs, unreachable_pub, unused_qualifications,
            clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction,
            reason = "generated"
        )]
    });
}

/// What is written in the attribute.
#[derive(Default)]
struct Options {
    package: Option<String>,
    mock: bool,
}

impl Options {
    fn parse(options: TokenStream) -> syn::Result<Self> {
        let mut parsed = Self::default();
        for meta in Punctuated::<Meta, Token![,]>::parse_terminated.parse2(options)? {
            match &meta {
                Meta::Path(path) if path.is_ident("mock") => parsed.mock = true,
                Meta::NameValue(pair) if pair.path.is_ident("package") => {
                    let Expr::Lit(ExprLit {
                        lit: Lit::Str(package),
                        ..
                    }) = &pair.value
                    else {
                        return Err(Error::new(pair.value.span(), "package is a text"));
                    };
                    let parts = package.value();
                    if parts
                        .split('.')
                        .any(|part| syn::parse_str::<syn::Ident>(part).is_err())
                    {
                        let message = "package is names with dots between them";
                        return Err(Error::new(package.span(), message));
                    }
                    parsed.package = Some(parts);
                }
                _ => {
                    let message = "service knows package = \"…\" and mock";
                    return Err(Error::new(meta.span(), message));
                }
            }
        }
        Ok(parsed)
    }
}

fn method(item: &TraitItem) -> syn::Result<Method> {
    let TraitItem::Fn(function) = item else {
        return Err(Error::new(item.span(), "a service has methods alone"));
    };
    let signature = &function.sig;
    let name = signature.ident.clone();
    let plain = name.to_string().trim_start_matches("r#").to_owned();
    let (input, client_streaming) = request(signature)?;
    let (output, server_streaming) = reply(signature)?;
    Ok(Method {
        name_with: format_ident!("{plain}_with"),
        proto_name: plain.to_upper_camel_case(),
        name,
        docs: docs(&function.attrs),
        deprecated: false,
        client_streaming,
        server_streaming,
        input: message(input),
        output: message(output),
    })
}

/// There is no schema: messages are called what Rust calls them.
fn message(rust: Type) -> Message {
    let full_name = rust.to_token_stream().to_string().replace(' ', "");
    Message { rust, full_name }
}

/// `(&self, request: Request<T>)`: `T`, and whether it is a stream of `T`.
fn request(signature: &Signature) -> syn::Result<(Type, bool)> {
    let expected = "expected (&self, request: Request<Message>), with Request<Streaming<Message>> for a stream";
    let wrong = || Error::new(signature.inputs.span(), expected);
    let by_reference = matches!(
        signature.inputs.first(),
        Some(FnArg::Receiver(own)) if matches!(own.kind, ReceiverKind::Reference(_, _, None))
    );
    let plain = signature.asyncness.is_none() && signature.generics.params.is_empty();
    let (2, true, true, Some(FnArg::Typed(argument))) = (
        signature.inputs.len(),
        by_reference,
        plain,
        signature.inputs.last(),
    ) else {
        return Err(wrong());
    };
    let inner = argument_of(&argument.ty, "Request").ok_or_else(wrong)?;
    Ok(match argument_of(inner, "Streaming") {
        Some(message) => (message.clone(), true),
        None => (inner.clone(), false),
    })
}

/// `Result<Response<T>, Status>`: `T`, and whether it is `impl Iterator<Item = Result<T, Status>>`.
fn reply(signature: &Signature) -> syn::Result<(Type, bool)> {
    let expected = "expected -> Result<Response<Message>, Status>, or for a stream \
                    Result<Response<impl Iterator<Item = Result<Message, Status>>>, Status>";
    let wrong = || Error::new(signature.output.span(), expected);
    let ReturnType::Type(_, output) = &signature.output else {
        return Err(Error::new(signature.ident.span(), expected));
    };
    let inner = argument_of(output, "Result")
        .and_then(|response| argument_of(response, "Response"))
        .ok_or_else(wrong)?;
    let Type::ImplTrait(stream) = inner else {
        return Ok((inner.clone(), false));
    };
    let item = stream.bounds.iter().find_map(|bound| match bound {
        TypeParamBound::Trait(bound) => item_of(bound.path.segments.last()?),
        _ => None,
    });
    let message = item.and_then(|item| argument_of(item, "Result"));
    Ok((message.ok_or_else(wrong)?.clone(), true))
}

/// The item of an `Iterator<Item = …>`.
fn item_of(segment: &syn::PathSegment) -> Option<&Type> {
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else {
        return None;
    };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::AssocType(own) if own.ident == "Item" => Some(&own.ty),
        _ => None,
    })
}

/// The first type in `…::name<…>`.
fn argument_of<'a>(ty: &'a Type, name: &str) -> Option<&'a Type> {
    let Type::Path(path) = ty else {
        return None;
    };
    let last = path
        .path
        .segments
        .last()
        .filter(|last| last.ident == name)?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return None;
    };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}

/// The lines of doc comments.
fn docs(attributes: &[Attribute]) -> Docs {
    let lines = attributes
        .iter()
        .filter_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
                Expr::Lit(ExprLit {
                    lit: Lit::Str(line),
                    ..
                }) => Some(line.value()),
                _ => None,
            },
            _ => None,
        });
    Docs(lines.collect())
}
