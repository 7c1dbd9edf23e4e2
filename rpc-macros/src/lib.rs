//! Attribute macros of rpc-core; use them as `#[rpc_core::main]` and `#[rpc_core::test]`.
//!
//! Knows: Rust functions.   Does not know: the runtime, but for the two functions it calls there,
//! `::rpc_core::__main` and `::rpc_core::__test`.

mod entry;

use proc_macro::TokenStream;

use crate::entry::Entry;

/// Runs the function on a runtime, as a coroutine, so that what it calls may wait without blocking a thread.
///
/// ```text
/// #[rpc_core::main(workers = 2)]
/// fn main() -> Result<(), rpc_core::Error> {
///     Server::builder().add_service(GreeterServer::new(MyGreeter)).serve("0.0.0.0:8000")
/// }
/// ```
///
/// `workers` is the number of OS threads; without it the runtime takes as many as the machine has
/// processors. The function keeps its attributes, visibility and return type; it takes no arguments and is
/// not `async`.
#[proc_macro_attribute]
pub fn main(options: TokenStream, function: TokenStream) -> TokenStream {
    entry::expand(Entry::Main, options.into(), function.into()).into()
}

/// A test that runs on a runtime of its own, as a coroutine.
///
/// ```text
/// #[rpc_core::test(workers = 1)]
/// fn two_coroutines_share_a_worker() {
///     …
/// }
/// ```
///
/// Takes the place of `#[test]`; `#[ignore]` and `#[should_panic]` work as usual. Without `workers` there is one,
/// so that what two coroutines do to each other on a thread they share is what the test sees.
#[proc_macro_attribute]
pub fn test(options: TokenStream, function: TokenStream) -> TokenStream {
    entry::expand(Entry::Test, options.into(), function.into()).into()
}
