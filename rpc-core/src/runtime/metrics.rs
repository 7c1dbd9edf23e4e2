//! What a runtime counts.
//!
//! Knows: numbers.   Does not know: how they are shown.
//!
//! On the paths of every switch one thread counts at a time, with a load and a store; where a system
//! call is made anyway, any thread may count.

use super::pinned::Pinned;
use super::shared::Shared;
use super::task::Reason;
use crate::base::metric::{Counter, Histogram, Snapshot};

macro_rules! causes {
    ($($(#[doc = $doc:literal])* $pattern:pat => $variant:ident = $name:literal;)*) => {
        /// Kinds of [`Reason`], as metrics tell them apart.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(super) enum Cause { $($(#[doc = $doc])* $variant,)* }

        impl Cause {
            const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The value of the label `reason`.
            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub(super) const fn of(reason: Reason) -> Self {
                match reason { $($pattern => Self::$variant,)* }
            }
        }
    };
}

causes! {
    /// A descriptor.
    Reason::Io(..) => Io = "io";
    /// A futex word.
    Reason::Futex(_) => Futex = "futex";
    /// Time.
    Reason::Sleep => Sleep = "sleep";
    /// A lock of ours.
    Reason::Lock => Lock = "lock";
    /// A channel of ours.
    Reason::Channel => Channel = "channel";
    /// Another coroutine.
    Reason::Join => Join = "join";
    /// A remote call.
    Reason::Call => Call = "call";
    /// All else.
    Reason::Other(_) => Other = "other";
}

/// One worker's numbers.
#[derive(Default)]
pub(super) struct Counts {
    /// Closures that began to run here.
    pub(super) started: Counter,
    /// Jobs that ended here.
    pub(super) ended: Counter,
    /// Jobs of this worker that ended on a thread which had lost it.
    pub(super) ended_elsewhere: Counter,
    /// Times that closures were taken from another worker's queue.
    pub(super) steals: Counter,
    /// Wake-ups of coroutines of this worker from elsewhere.
    pub(super) from_elsewhere: Counter,
    /// Eventfd writes to end this worker's sleep.
    pub(super) wakes: Counter,
    parks: [Counter; Cause::ALL.len()],
}

impl Counts {
    /// Jobs started and not ended.
    pub(super) fn live(&self) -> u64 {
        // What has ended is read first: a job cannot end before it is started.
        let ended = self.ended.get() + self.ended_elsewhere.get();
        self.started.get().saturating_sub(ended)
    }

    /// Only by the worker's holder.
    #[inline]
    pub(super) fn parked(&self, reason: Reason) {
        self.parks[Cause::of(reason) as usize].bump();
    }
}

/// What the watchdog counts.
#[derive(Default)]
pub(super) struct StallCounts {
    /// Times that a worker's queues were given to a spare thread.
    pub(super) rescues: Counter,
    /// Times that a thread had not come back for the watchdog's time.
    pub(super) stalls: Counter,
    /// How long such threads stayed away in all, in ns, once they had come back.
    pub(super) stalled: Histogram,
}

/// A runtime's numbers at one moment; those that only grow count from its start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// Coroutines resumed.
    pub switches: u64,
    /// Closures that began to run.
    pub started: u64,
    /// Coroutines that run or wait.
    pub live: u64,
    /// Times that a worker took closures from another's queue.
    pub steals: u64,
    /// Waits, by what for.
    pub parks: Vec<(&'static str, u64)>,
    /// Wake-ups that came from another thread.
    pub wakes_from_elsewhere: u64,
    /// Eventfd writes that ended a worker's sleep.
    pub eventfd_writes: u64,
    /// Times that a stuck worker's queues were given to a spare thread.
    pub rescues: u64,
    /// Times that a worker had not come back for the watchdog's time.
    pub stalls: u64,
    /// How long stalled workers stayed away until they came back, in nanoseconds. Waits in the kernel
    /// are in [`super::Runtime::pinned`] too.
    pub stalled: Snapshot,
    /// Waits in the kernel that held a worker because the coroutine could not park.
    pub pinned_waits: u64,
    /// How long the ended ones held one, in nanoseconds.
    pub pinned_nanos: u64,
    /// OS threads that run workers or are stuck in a coroutine.
    pub threads: u64,
}

impl Metrics {
    pub(super) fn of(shared: &Shared) -> Self {
        let workers = shared.workers();
        let sum = |count: fn(&Counts) -> &Counter| {
            workers
                .iter()
                .map(|worker| count(&worker.counts).get())
                .sum()
        };
        let seats = shared.seats();
        let mut pinned = Pinned::default();
        shared.add_pinned(&mut pinned);
        Self {
            switches: seats.iter().map(|seat| seat.switches.get()).sum(),
            started: sum(|counts| &counts.started),
            live: workers.iter().map(|worker| worker.live()).sum(),
            steals: sum(|counts| &counts.steals),
            parks: Cause::ALL
                .iter()
                .map(|cause| {
                    let parks = workers
                        .iter()
                        .map(|w| w.counts.parks[*cause as usize].get());
                    (cause.name(), parks.sum())
                })
                .collect(),
            wakes_from_elsewhere: sum(|counts| &counts.from_elsewhere),
            eventfd_writes: sum(|counts| &counts.wakes),
            rescues: shared.watchdog.counts.rescues.get(),
            stalls: shared.watchdog.counts.stalls.get(),
            stalled: shared.watchdog.counts.stalled.snapshot(),
            pinned_waits: pinned.waits,
            pinned_nanos: pinned.time.as_nanos() as u64,
            threads: seats.iter().filter(|seat| seat.worker().is_some()).count() as u64,
        }
    }
}
