//! What `#[rpc_core::main]` and `#[rpc_core::test]` make of a function.
//!
//! Invariants
//! - The output calls `::rpc_core` by full path; nothing need be imported.
//! - A function that is refused is handed back beside the error, so that its callers and its imports raise no
//!   errors of their own.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Error, Ident, ItemFn, LitInt, ReturnType, Token, Type};

/// Which macro was written.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Entry {
    Main,
    Test,
}

/// The macro's output; errors become `compile_error!` at their place.
pub(crate) fn expand(entry: Entry, options: TokenStream, function: TokenStream) -> TokenStream {
    match try_expand(entry, options, &function) {
        Ok(output) => output,
        Err(error) => {
            let error = error.into_compile_error();
            quote! { #error #function }
        }
    }
}

fn try_expand(
    entry: Entry,
    options: TokenStream,
    function: &TokenStream,
) -> syn::Result<TokenStream> {
    let name = entry.name();
    let function: ItemFn = syn::parse2(function.clone())
        .map_err(|error| Error::new(error.span(), format!("{name} goes on a function: {error}")))?;
    let workers = workers(entry, options)?;
    check(entry, &function)?;

    let ItemFn {
        attrs,
        vis,
        sig,
        block,
        ..
    } = &function;
    let workers = match workers {
        Some(number) => quote! { ::core::option::Option::Some(#number) },
        None => quote! { ::core::option::Option::None },
    };
    let (test, run) = match entry {
        Entry::Main => (None, quote! { ::rpc_core::__main }),
        Entry::Test => (
            Some(quote! { #[::core::prelude::v1::test] }),
            quote! { ::rpc_core::__test },
        ),
    };
    // The closure names its type: `?` and `into` in the body would otherwise have nothing to aim at.
    let output = match &sig.output {
        ReturnType::Default => quote! { -> () },
        output => output.to_token_stream(),
    };
    let reports = entry == Entry::Test || sig.ident == "main";
    if reports && matches!(sig.output, ReturnType::Type(..)) {
        // The result is reported on the coroutine, as std does after main: an error need not be Send.
        let mut sig = sig.clone();
        sig.output = syn::parse_quote! { -> ::std::process::ExitCode };
        return Ok(quote! {
            #(#attrs)*
            #test
            #vis #sig {
                #run(#workers, || {
                    let body = || #output #block;
                    ::std::process::Termination::report(body())
                })
            }
        });
    }
    Ok(quote! {
        #(#attrs)*
        #test
        #vis #sig {
            #run(#workers, || #output #block)
        }
    })
}

/// The option `workers = N`, if given.
fn workers(entry: Entry, options: TokenStream) -> syn::Result<Option<LitInt>> {
    let name = entry.name();
    let mut workers = None;
    for Assignment { option, value } in
        Punctuated::<Assignment, Token![,]>::parse_terminated.parse2(options)?
    {
        if option != "workers" {
            let message = format!("{name} has no option '{option}'; it knows workers = N");
            return Err(Error::new(option.span(), message));
        }
        if !matches!(value.base10_parse::<u16>(), Ok(1..)) {
            return Err(Error::new(
                value.span(),
                "workers is a number from 1 to 65535",
            ));
        }
        if workers.replace(value).is_some() {
            return Err(Error::new(option.span(), "workers is given twice"));
        }
    }
    Ok(workers)
}

/// `option = value`, where the value is a number.
struct Assignment {
    option: Ident,
    value: LitInt,
}

impl Parse for Assignment {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let option = input.parse()?;
        let _: Token![=] = input.parse()?;
        let value = input
            .parse()
            .map_err(|error| Error::new(error.span(), "expected a number, as in workers = 2"))?;
        Ok(Self { option, value })
    }
}

/// Refuses what a closure cannot stand for.
fn check(entry: Entry, function: &ItemFn) -> syn::Result<()> {
    let name = entry.name();
    let refuse = |tokens: &dyn ToTokens, message: String| Err(Error::new(tokens.span(), message));
    let signature = &function.sig;
    if let Some(keyword) = &signature.asyncness {
        let message = format!(
            "{name} goes on a plain function: remove 'async', and call what blocks as it is"
        );
        return refuse(keyword, message);
    }
    let qualifiers: [&dyn ToTokens; 3] = [&signature.constness, &signature.safety, &signature.abi];
    for qualifier in qualifiers.map(ToTokens::to_token_stream) {
        if !qualifier.is_empty() {
            let message = format!("{name} goes on a plain function: remove '{qualifier}'");
            return refuse(&qualifier, message);
        }
    }
    if !signature.generics.params.is_empty() {
        return refuse(
            &signature.generics,
            format!("{name} cannot choose generic arguments: remove them"),
        );
    }
    if !signature.inputs.is_empty() {
        return refuse(
            &signature.inputs,
            format!("{name} has no arguments to pass: remove them"),
        );
    }
    if let ReturnType::Type(_, output) = &signature.output
        && matches!(**output, Type::ImplTrait(_))
    {
        return refuse(
            output,
            format!("{name} needs the name of the returned type instead of 'impl'"),
        );
    }
    let is_test = |attribute: &&syn::Attribute| {
        attribute
            .path()
            .segments
            .last()
            .is_some_and(|last| last.ident == "test")
    };
    match function.attrs.iter().find(is_test) {
        Some(attribute) if entry == Entry::Test => refuse(
            attribute,
            format!("{name} makes this a test already: remove the other attribute"),
        ),
        _ => Ok(()),
    }
}

impl Entry {
    fn name(self) -> &'static str {
        match self {
            Self::Main => "#[rpc_core::main]",
            Self::Test => "#[rpc_core::test]",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(entry: Entry, options: &str, function: &str) -> String {
        expand(entry, options.parse().unwrap(), function.parse().unwrap()).to_string()
    }

    /// Compares token by token, whatever the white space.
    fn assert_expands(entry: Entry, options: &str, function: &str, expected: &str) {
        let normal = |text: &str| {
            let function: ItemFn = syn::parse_str(text).unwrap();
            function.to_token_stream().to_string()
        };
        assert_eq!(
            normal(&expanded(entry, options, function)),
            normal(expected)
        );
    }

    /// The refusal's message; also holds that the function itself is still there.
    fn refusal(entry: Entry, options: &str, function: &str) -> String {
        let output = expanded(entry, options, function);
        let function: TokenStream = function.parse().unwrap();
        assert!(output.contains("compile_error"), "{output}");
        assert!(output.ends_with(&function.to_string()), "{output}");
        let error = try_expand(entry, options.parse().unwrap(), &function).unwrap_err();
        error.to_string()
    }

    #[test]
    fn main_runs_its_body_on_a_runtime() {
        assert_expands(
            Entry::Main,
            "",
            "fn main() { work(); }",
            "fn main() { ::rpc_core::__main(::core::option::Option::None, || -> () { work(); }) }",
        );
    }

    #[test]
    fn the_number_of_workers_is_passed_on() {
        assert_expands(
            Entry::Main,
            "workers = 4,",
            "fn main() {}",
            "fn main() { ::rpc_core::__main(::core::option::Option::Some(4), || -> () {}) }",
        );
    }

    #[test]
    fn attributes_visibility_and_return_type_stay() {
        assert_expands(
            Entry::Main,
            "",
            "#[doc = \"Starts.\"] #[inline] pub(crate) fn start() -> Result<u8, Box<dyn Error>> { Ok(f()?) }",
            "#[doc = \"Starts.\"] #[inline] pub(crate) fn start() -> Result<u8, Box<dyn Error>> {
                ::rpc_core::__main(::core::option::Option::None, || -> Result<u8, Box<dyn Error>> { Ok(f()?) })
            }",
        );
    }

    #[test]
    fn a_test_is_a_test_of_the_standard_harness() {
        assert_expands(
            Entry::Test,
            "workers = 1",
            "#[should_panic] fn promise() -> Result<(), E> { f() }",
            "#[should_panic] #[::core::prelude::v1::test] fn promise() -> ::std::process::ExitCode {
                ::rpc_core::__test(::core::option::Option::Some(1), || {
                    let body = || -> Result<(), E> { f() };
                    ::std::process::Termination::report(body())
                })
            }",
        );
    }

    #[test]
    fn functions_that_a_closure_cannot_stand_for_are_refused() {
        let cases = [
            (
                "async fn f() {}",
                "#[rpc_core::main] goes on a plain function: remove 'async', and call what blocks as it is",
            ),
            (
                "const fn f() {}",
                "#[rpc_core::main] goes on a plain function: remove 'const'",
            ),
            (
                "unsafe fn f() {}",
                "#[rpc_core::main] goes on a plain function: remove 'unsafe'",
            ),
            (
                "extern \"C\" fn f() {}",
                "#[rpc_core::main] goes on a plain function: remove 'extern \"C\"'",
            ),
            (
                "fn f<T>() {}",
                "#[rpc_core::main] cannot choose generic arguments: remove them",
            ),
            (
                "fn f(a: u8) {}",
                "#[rpc_core::main] has no arguments to pass: remove them",
            ),
            (
                "fn f() -> impl Termination {}",
                "#[rpc_core::main] needs the name of the returned type instead of 'impl'",
            ),
        ];
        for (function, message) in cases {
            assert_eq!(refusal(Entry::Main, "", function), message, "{function}");
        }
    }

    #[test]
    fn other_items_are_refused() {
        let message = refusal(Entry::Main, "", "struct S ;");
        assert!(
            message.starts_with("#[rpc_core::main] goes on a function: expected "),
            "{message}"
        );
    }

    #[test]
    fn wrong_options_are_refused() {
        let cases = [
            (
                "threads = 2",
                "#[rpc_core::test] has no option 'threads'; it knows workers = N",
            ),
            ("workers = 0", "workers is a number from 1 to 65535"),
            ("workers = -1", "workers is a number from 1 to 65535"),
            ("workers = 70000", "workers is a number from 1 to 65535"),
            ("workers = two", "expected a number, as in workers = 2"),
            ("workers = 1, workers = 2", "workers is given twice"),
            ("workers", "expected `=`"),
        ];
        for (options, message) in cases {
            assert!(
                refusal(Entry::Test, options, "fn f() { }").contains(message),
                "{options}"
            );
        }
    }

    #[test]
    fn a_second_test_attribute_is_refused() {
        let message = refusal(Entry::Test, "", "#[test] fn f() { }");
        assert_eq!(
            message,
            "#[rpc_core::test] makes this a test already: remove the other attribute"
        );
    }
}
