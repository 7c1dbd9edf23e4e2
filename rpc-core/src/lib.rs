//! Services written as plain blocking code, run as stackful coroutines.
#![doc = include_str!("../README.md")]

pub mod base;
pub mod codegen;
mod coroutine;
#[cfg(feature = "hooks")]
mod hook;
mod net;
pub mod rpc;
mod runtime;
pub mod sync;

pub use coroutine::identity::IdentityError;
#[cfg(feature = "hooks")]
pub use hook::keep_when_cut;
pub use rpc::client::{Balance, CallOptions, Channel, ChannelBuilder, Wire, naming, zookeeper};
pub use rpc::compression::{Compression, CompressionSwitch};
pub use rpc::cors::Cors;
pub use rpc::error::Error;
pub use rpc::message::{IntoRequest, Request, Response};
pub use rpc::metadata::MetadataMap;
pub use rpc::server::{BoundServer, Health, Server, ServerBuilder, ServerHandle};
pub use rpc::status::{Code, Status};
pub use rpc::streaming::{ByteSender, ByteStream, IntoStreamingRequest, Streaming};
pub use rpc::tls::{ClientTls, ServerTls};
pub use rpc_macros::{main, service, test};
pub use runtime::{
    BuildError, Builder, Deadline, Dir, Dump, DumpGroup, Guards, Handle, Identity, JoinError,
    JoinHandle, LocalKey, Metrics, Pinned, PinnedWait, Priority, Reason, Runtime, RuntimeBuilder,
    Scope, ScopedJoinHandle, StackClass, Stacks, block_on, dump, scope, spawn, spawn_blocking,
    spawn_local, stacks, trim_stacks, without_hooks, yield_now,
};
#[doc(hidden)]
pub use runtime::{run_main as __main, run_test as __test};

/// Time in coroutines: sleeping, and scopes that must end in time.
pub mod time {
    pub use crate::base::time::Instant;
    pub use crate::runtime::{Elapsed, sleep, sleep_until, timeout};
}

/// Declares values that each coroutine (and each OS thread) has for itself. With `inherited`, a
/// coroutine begins with a clone of what its spawner has at that moment; the type is `Clone + Send` then.
///
/// ```
/// # let runtime = rpc_core::Runtime::builder().workers(1).build().unwrap();
/// # runtime.block_on(|| {
/// use std::cell::Cell;
///
/// rpc_core::local! {
///     /// Calls made so far.
///     static CALLS: Cell<u32> = Cell::new(0);
///     /// The request on whose behalf all this runs.
///     inherited static REQUEST: Cell<u64> = Cell::new(0);
/// }
///
/// CALLS.set(3);
/// REQUEST.set(77);
/// let seen = rpc_core::spawn(|| (CALLS.get(), REQUEST.get())).join().unwrap();
/// assert_eq!(seen, (0, 77));
/// # });
/// ```
#[macro_export]
macro_rules! local {
    () => {};
    ($(#[$meta:meta])* $vis:vis inherited static $name:ident: $type:ty = $first:expr $(; $($rest:tt)*)?) => {
        $(#[$meta])*
        $vis static $name: $crate::LocalKey<$type> = $crate::LocalKey::__inherited(|| $first);
        $($crate::local! { $($rest)* })?
    };
    ($(#[$meta:meta])* $vis:vis static $name:ident: $type:ty = $first:expr $(; $($rest:tt)*)?) => {
        $(#[$meta])*
        $vis static $name: $crate::LocalKey<$type> = $crate::LocalKey::__new(|| $first);
        $($crate::local! { $($rest)* })?
    };
}
