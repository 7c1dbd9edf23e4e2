//! Services written as plain blocking code, run as stackful coroutines.

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
pub use rpc::client::{CallOptions, Channel, ChannelBuilder, Wire};
pub use rpc::compression::Compression;
pub use rpc::error::Error;
pub use rpc::message::{IntoRequest, Request, Response};
pub use rpc::metadata::MetadataMap;
pub use rpc::server::{BoundServer, Health, Server, ServerBuilder, ServerHandle};
pub use rpc::status::{Code, Status};
pub use rpc::streaming::{ByteSender, ByteStream, IntoStreamingRequest, Streaming};
pub use rpc_macros::{main, test};
pub use runtime::{
    BuildError, Builder, Deadline, Dir, Guards, Handle, Identity, JoinError, JoinHandle, Metrics,
    Pinned, PinnedWait, Priority, Reason, Runtime, RuntimeBuilder, StackClass, Stacks, spawn,
    spawn_blocking, stacks, trim_stacks, yield_now,
};
#[doc(hidden)]
pub use runtime::{run_main as __main, run_test as __test};

/// Time in coroutines: sleeping, and scopes that must end in time.
pub mod time {
    pub use crate::base::time::Instant;
    pub use crate::runtime::{Elapsed, sleep, sleep_until, timeout};
}
