//! The whole-system tests: one binary, a module per subject.
//!
//! * `examples` runs the examples as a reader would, and asks them with curl.
//! * `hooks` calls the replaced C library functions from programs that know nothing of coroutines.
//! * `identity` asks coroutines whether they are threads: C's locks, thread-locals, signals, fork.
//! * `libraries` makes a thousand calls at once through other people's libraries, to real servers.
//! * `architecture` reads the sources: floors, roles, seams, house rules.
//! * `cluster` starts a whole backend with `up` and chats in it.
//! * `inside` looks into running programs: stalls, dumps, debuggers.
//! * `page` looks at a cluster and hurts it through the operations page, in a real browser.
//! * `replay` plays a real chat log through terminals, with processes killed on the way.
//! * `readme` holds code, commands, links and figures of the documents to what is there.
//! * `rpc` calls over real sockets: calls, failures, drain, HTTP, recorded packets of brpc.
//! * `runtime` is about coroutines: identity, stacks, stealing.
//! * `stacks` is about what stacks cost, what goes back, and what happens where there are none.
//! * `shared` is about coroutines without a thread's identity of their own: rules P2 to P4.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops; its helpers too"
)]

mod architecture;
mod cluster;
mod examples;
mod hooks;
mod identity;
mod inside;
mod libraries;
mod page;
mod readme;
mod replay;
mod rpc;
mod runtime;
mod shared;
mod stacks;
