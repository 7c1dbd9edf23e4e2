//! Attribute macros of rpc-core; use them as `#[rpc_core::main]`, `#[rpc_core::test]` and
//! `#[rpc_core::service]`.
//!
//! Knows: Rust functions and traits.   Does not know: the runtime, but for the two functions it calls there,
//! `::rpc_core::__main` and `::rpc_core::__test`, and `::rpc_core::codegen`.

mod entry;
mod service;

// The narrow waist of rpc-codegen and what stands on it, compiled here as well: depending on that crate
// would bring its parsers into every build of rpc-core.
#[path = "../../rpc-codegen/src/emit.rs"]
mod emit;
#[path = "../../rpc-codegen/src/plan.rs"]
mod plan;

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

/// Makes a service of a trait, without a `.proto`: a server, a client, and, where asked, a mock for it, as
/// rpc-codegen makes them of a schema.
///
/// ```text
/// #[rpc_core::service(package = "shop")]
/// pub trait Orders {
///     /// Takes an order.
///     fn place(&self, request: Request<Order>) -> Result<Response<Receipt>, Status>;
///     fn follow(&self, request: Request<Receipt>)
///         -> Result<Response<impl Iterator<Item = Result<Step, Status>>>, Status>;
///     fn add_up(&self, request: Request<Streaming<Order>>) -> Result<Response<Receipt>, Status>;
/// }
/// ```
///
/// gives `OrdersServer`, which serves an implementation, and `OrdersClient`, which calls through a channel
/// (`place`, `place_with`, …); on the wire the service is `shop.Orders` and its methods are `Place`, `Follow`,
/// `AddUp`. Messages are whatever implements `prost::Message`. `package = "…"` may be left out; `mock`
/// adds `OrdersMock`.
///
/// Nobody has a schema of such a service: it is called over baidu_std and gRPC, by programs that have the
/// trait; JSON and reflection need a `.proto`.
#[proc_macro_attribute]
pub fn service(options: TokenStream, item: TokenStream) -> TokenStream {
    service::expand(options.into(), item.into()).into()
}
