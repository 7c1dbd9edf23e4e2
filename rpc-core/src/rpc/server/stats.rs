//! What a server counts.
//!
//! Knows: numbers.   Does not know: how they are shown; see [`crate::rpc::console`].

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::base::metric::{Counter, Histogram};

/// How a call ended, for counting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The handler's answer went out.
    Answered,
    /// The handler returned a failure.
    Failed,
    /// The framework refused it: limits, bad body, expired before it ran.
    Refused,
    /// The handler panicked.
    Panicked,
    /// Its connection was lost first.
    Lost,
}

/// One method's numbers.
#[derive(Default)]
pub(super) struct MethodStats {
    /// Calls that began to run and have not ended.
    pub running: AtomicUsize,
    /// Calls that ended with the handler's answer.
    pub answered: Counter,
    /// Calls that ended with the handler's failure.
    pub failed: Counter,
    /// Calls that the framework refused.
    pub refused: Counter,
    /// Calls whose handler panicked.
    pub panicked: Counter,
    /// Calls whose connection was lost before they ended.
    pub lost: Counter,
    /// Nanoseconds from arrival to answer: time in queues counts.
    pub latency: Histogram,
    /// Calls ended up to the last tick; only the janitor touches it.
    ended_before: AtomicU64,
    /// Calls a second between the last two ticks, as the bits of an `f64`.
    qps: AtomicU64,
}

impl MethodStats {
    /// Counts a call that began to run.
    pub fn began(&self) {
        // Relaxed, here and below: the numbers order nothing else.
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a call; `began` if its beginning was counted.
    pub fn ended(&self, outcome: Outcome, latency: Duration, began: bool) {
        if began {
            self.running.fetch_sub(1, Ordering::Relaxed);
        }
        match outcome {
            Outcome::Answered => &self.answered,
            Outcome::Failed => &self.failed,
            Outcome::Refused => &self.refused,
            Outcome::Panicked => &self.panicked,
            Outcome::Lost => &self.lost,
        }
        .add(1);
        self.latency.record(latency.as_nanos() as u64);
    }

    /// Calls that ended, however.
    pub fn ended_total(&self) -> u64 {
        self.answered.get() + self.errors() + self.lost.get()
    }

    /// Calls that ended in a failure of any kind but a lost connection.
    pub fn errors(&self) -> u64 {
        self.failed.get() + self.refused.get() + self.panicked.get()
    }

    /// Calls a second between the last two ticks.
    pub fn qps(&self) -> f64 {
        f64::from_bits(self.qps.load(Ordering::Relaxed))
    }

    /// Closes an interval of `elapsed` for [`qps`](Self::qps). Called by the janitor alone.
    pub fn tick(&self, elapsed: Duration) {
        let now = self.ended_total();
        let before = self.ended_before.swap(now, Ordering::Relaxed);
        let qps = (now - before) as f64 / elapsed.as_secs_f64().max(1e-3);
        self.qps.store(qps.to_bits(), Ordering::Relaxed);
    }
}

macro_rules! close_reasons {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal;)*) => {
        /// Why a connection was closed, as far as it was not bad input (sessions count that).
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum CloseReason { $($(#[doc = $doc])* $variant,)* }

        impl CloseReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The value of the label `reason` in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

close_reasons! {
    /// The peer ended its stream in order.
    PeerClosed = "peer_closed";
    /// Reading or writing failed.
    PeerReset = "peer_reset";
    /// The peer did not read: above the bound of unwritten bytes.
    UnwrittenLimit = "unwritten_limit";
    /// The peer did not read: no byte left within the time.
    Stalled = "stalled";
    /// Above the bound of open connections.
    TooManyConnections = "too_many_connections";
    /// What the session found wrong; it has its own counter.
    BadInput = "bad_input";
    /// All that was to be said was said (HTTP `Connection: close`).
    Finished = "finished";
    /// The server was drained.
    Drained = "drained";
}

/// The whole server's numbers.
#[derive(Default)]
pub(super) struct ServerStats {
    /// Connections accepted.
    pub accepted: Counter,
    /// Times that accepting failed for lack of descriptors or memory.
    pub exhausted: Counter,
    /// Times that accepting failed otherwise.
    pub accept_failed: Counter,
    /// Calls refused because the server had too many under way.
    pub over_concurrency: Counter,
    /// Calls whose time was over before they ran.
    pub expired: Counter,
    /// Pages served.
    pub pages: Counter,
    closed: [Counter; CloseReason::ALL.len()],
}

impl ServerStats {
    /// Counts a closed connection.
    pub fn closed(&self, reason: CloseReason) {
        self.closed[reason as usize].add(1);
    }

    /// How often connections were closed for `reason`.
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize].get()
    }
}
