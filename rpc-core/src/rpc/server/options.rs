//! The bounds a server keeps beside those of its sessions.

use std::time::Duration;

/// Bounds and switches; [`super::ServerBuilder`] documents each.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// Calls under way over all connections; at least 1.
    pub max_concurrency: usize,
    /// Open connections; at least 1.
    pub max_connections: usize,
    /// Unwritten bytes of a connection beyond which it is not read.
    pub unwritten_pause: usize,
    /// Unwritten bytes beyond which it is closed; not below `unwritten_pause`.
    pub unwritten_close: usize,
    /// Time without a byte leaving after which it is closed.
    pub stall_limit: Duration,
    /// How long a drain waits for calls under way.
    pub drain_limit: Duration,
    /// Answers of this many bytes or more are compressed as their requests were; `None` = as handlers say.
    pub mirror_compression: Option<usize>,
    /// SIGTERM and SIGINT start the drain.
    pub handle_signals: bool,
    /// Every connection begins with a PROXY header.
    pub proxy_header: bool,
    /// The console's pages are served.
    pub console: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_concurrency: 100_000,
            max_connections: 100_000,
            unwritten_pause: 4 << 20,
            unwritten_close: 64 << 20,
            stall_limit: Duration::from_secs(30),
            drain_limit: Duration::from_secs(10),
            mirror_compression: None,
            handle_signals: true,
            proxy_header: false,
            console: true,
        }
    }
}

/// Bytes read from one connection in one turn: more would let it starve the others of its worker.
pub(super) const READ_PER_TURN: usize = 64 << 10;

/// Connections accepted in one turn.
pub(super) const ACCEPTS_PER_TURN: usize = 64;

/// How long a connection that we end is still read (and its bytes dropped), so that the peer reads our
/// last answer rather than a reset.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// Bytes dropped while lingering before the connection is closed anyway.
pub(super) const LINGER_BYTES_MAX: usize = 1 << 20;

/// How long a listener out of descriptors waits before it tries again.
pub(super) const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

const _: () = assert!(READ_PER_TURN <= LINGER_BYTES_MAX);
