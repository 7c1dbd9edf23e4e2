//! Other people's libraries and the servers they call, for tests and benchmarks.
//!
//! Knows: how each library opens a connection and makes one call; how to start what it calls.
//! Does not know: coroutines. This crate does not link `rpc-core`, so nothing in it can have been
//! written for it: the suite runs it on coroutines, a benchmark peer on threads.
//!
//! Read first: `calls`, then `servers`.

pub mod calls;
pub mod http;
pub mod load;
pub mod processes;
pub mod relay;
pub mod threaded;
pub mod zookeeper;

use anyhow::{Result, ensure};

/// Raises the soft limit of open files for this process and the servers it starts. A thousand
/// connections with both ends here are 2,000, a tokio runtime has three more, and tests run side by
/// side.
///
/// # Errors
/// The hard limit is below 16,384, or `prlimit` is not installed.
pub fn room_for_descriptors() -> Result<()> {
    let own = std::process::id().to_string();
    let mut prlimit = std::process::Command::new("prlimit");
    let raised = prlimit.args(["--pid", &own, "--nofile=16384:"]).status();
    ensure!(
        raised.as_ref().is_ok_and(|status| status.success()),
        "16,384 open files are needed (`ulimit -Hn` shows the limit), and prlimit: {raised:?}"
    );
    Ok(())
}
