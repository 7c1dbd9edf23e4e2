//! A thread that sees workers which do not come back: it names them, and gives their queues to a spare.
//!
//! Knows: seats, whether they move on.   Does not know: why a coroutine stays away.
//!
//! It looks at every seat twice per shortest setting, and sleeps without a tick while all workers do.
//!
//! Invariants
//! - G-1  It declares itself asleep, then looks at the idle bits once more, then sleeps; a worker clears
//!   its bit, or a thread takes up a worker, then looks whether the watchdog sleeps. Both sequentially
//!   consistent.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::capture;
use super::metrics::StallCounts;
use super::seat::Seat;
use super::shared::Shared;
use crate::base::sys;
use crate::base::time::Instant;
use crate::coroutine::trace::Trace;

/// See the page above.
pub(super) struct Watchdog {
    /// How long a worker may stay away while others wait; zero = for ever.
    rescue_after: Duration,
    /// How long it may stay away before it is named; zero = for ever.
    report_after: Duration,
    state: AtomicU32,
    thread: Mutex<Option<JoinHandle<()>>>,
    pub(super) counts: StallCounts,
}

impl Watchdog {
    /// One that does not run yet. Without `membarrier` there is no rescue.
    pub(super) fn new(rescue_after: Duration, report_after: Duration) -> Self {
        let can_rescue = !rescue_after.is_zero() && sys::membarrier_register();
        Self {
            rescue_after: if can_rescue {
                rescue_after
            } else {
                Duration::ZERO
            },
            report_after,
            state: AtomicU32::new(AWAKE),
            thread: Mutex::new(None),
            counts: StallCounts::default(),
        }
    }

    pub(super) fn start(&self, shared: &'static Shared) -> std::io::Result<()> {
        let Some(period) = self.period() else {
            return Ok(());
        };
        let thread = thread::Builder::new()
            .name("rpc-core watchdog".into())
            .spawn(move || shared.watchdog.run(shared, period))?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Ends the thread, once all workers have ended.
    pub(super) fn end(&self) {
        self.state.store(OVER, Ordering::SeqCst);
        sys::futex_wake(&self.state, 1);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // It does not panic; if it did, the panic has been reported.
            let _ = thread.join();
        }
    }

    /// A worker runs again that slept (G-1).
    #[inline]
    pub(super) fn rouse(&self) {
        if self.state.load(Ordering::SeqCst) == ASLEEP
            && self
                .state
                .compare_exchange(ASLEEP, AWAKE, Ordering::SeqCst, Ordering::Relaxed)
                .is_ok()
        {
            sys::futex_wake(&self.state, 1);
        }
    }

    fn period(&self) -> Option<Duration> {
        let set = [self.rescue_after, self.report_after];
        let shortest = set.into_iter().filter(|time| !time.is_zero()).min()?;
        Some((shortest / 2).clamp(PERIOD_MIN, PERIOD_MAX))
    }

    fn run(&self, shared: &'static Shared, period: Duration) {
        let mut watched: Vec<Watched> = Vec::new();
        let mut reports = Reports::default();
        while self.state.load(Ordering::SeqCst) != OVER {
            let seats = shared.seats();
            watched.resize_with(seats.len(), Watched::default);
            let now = Instant::now();
            let mut quiet = true;
            for (seat, watched) in seats.iter().zip(&mut watched) {
                quiet &= self.look(shared, seat, watched, now, &mut reports);
            }
            if !quiet {
                sys::futex_wait(&self.state, AWAKE, Some(period));
                continue;
            }
            let slept =
                self.state
                    .compare_exchange(AWAKE, ASLEEP, Ordering::SeqCst, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if slept.is_ok() && seats.iter().all(|seat| is_quiet(shared, seat)) {
                sys::futex_wait(&self.state, ASLEEP, None);
            }
            let _ = self
                .state
                .compare_exchange(ASLEEP, AWAKE, Ordering::SeqCst, Ordering::Relaxed);
        }
    }

    /// One look at one thread. True if it has nothing to do.
    fn look(
        &self,
        shared: &'static Shared,
        seat: &'static Seat,
        watched: &mut Watched,
        now: Instant,
        reports: &mut Reports,
    ) -> bool {
        let quiet = is_quiet(shared, seat);
        let steps = (seat.tid(), seat.switches.get(), seat.turns.get());
        if quiet || steps != watched.steps {
            if std::mem::take(&mut watched.reported) {
                self.counts
                    .stalled
                    .record((now - watched.since).as_nanos() as u64);
            }
            watched.steps = steps;
            watched.since = now;
            watched.used = None;
            return quiet;
        }
        let away = now - watched.since;
        let used = sys::thread_cpu_nanos(seat.tid()).unwrap_or(0);
        let used = Duration::from_nanos(used - *watched.used.get_or_insert(used));
        // A thread that only waits for a processor comes back by itself.
        let is_due = |after: Duration| {
            let due = !after.is_zero() && away >= after;
            due && (used >= after / 2 || thread_state(seat.tid()) != Some('R'))
        };
        if !seat.is_lost() && is_due(self.rescue_after) {
            self.rescue(shared, seat, now);
        }
        if !watched.reported && is_due(self.report_after) {
            watched.reported = true;
            if let Some(hidden) = reports.may_report(now) {
                report(shared, seat, away, hidden);
            }
            self.counts.stalls.add(1);
        }
        false
    }

    /// Gives the worker of a stuck thread to a spare one, if anything waits for it (P1).
    fn rescue(&self, shared: &'static Shared, seat: &'static Seat, now: Instant) {
        let Some(worker) = seat.worker().filter(|_| shared.facts.is_some()) else {
            return;
        };
        if seat.running().is_none() || !(shared.ends() || worker.is_waited_for(now)) {
            return;
        }
        if shared.crew.have_spare(shared) && seat.claim() {
            self.counts.rescues.add(1);
            shared.crew.order(shared, worker);
        }
    }
}

/// What the watchdog remembers of a seat.
#[derive(Default)]
struct Watched {
    /// Its thread and how far that had come.
    steps: (i32, u64, u64),
    /// When it was first seen there.
    since: Instant,
    /// Processor time used when it was seen there again.
    used: Option<u64>,
    reported: bool,
}

/// One report a second, so that a storm of stalls stays readable.
#[derive(Default)]
struct Reports {
    last: Option<Instant>,
    hidden: usize,
}

impl Reports {
    /// How many were not shown since the last; `None` if this one is not shown either.
    fn may_report(&mut self, now: Instant) -> Option<usize> {
        if self.last.is_some_and(|last| now - last < REPORT_EVERY) {
            self.hidden += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.hidden))
    }
}

/// Whether the seat's thread waits for work.
fn is_quiet(shared: &Shared, seat: &Seat) -> bool {
    match seat.worker() {
        Some(worker) => !seat.is_lost() && shared.is_idle(worker.index()),
        None => true,
    }
}

/// Names the thread's coroutine, says what it does and shows its stack.
fn report(shared: &Shared, seat: &Seat, away: Duration, hidden: usize) {
    let Some(worker) = seat.worker() else { return };
    let who = seat.running().map_or_else(
        || "its loop (a callback of the runtime itself)".to_owned(),
        |task| format!("coroutine {}", task.name_and_place()),
    );
    let what = match thread_state(seat.tid()) {
        Some('R') => "uses the processor",
        Some(_) => "is blocked in the kernel",
        None => "has just ended",
    };
    let rescued = if seat.is_lost() {
        "; a spare thread has taken over the worker's other coroutines"
    } else {
        ""
    };
    let mut text = format!(
        "worker {} has not come back for {} ms: {who} {what}{rescued}",
        worker.index(),
        away.as_millis()
    );
    if hidden > 0 {
        text.push_str(&format!(" ({hidden} earlier stalls were not shown)"));
    }
    match capture::capture(seat) {
        Some(stack) => {
            for line in Trace::default().lines(&stack) {
                text.push_str(&format!("\n    {line}"));
            }
        }
        None => text.push_str("\n    (no stack: the thread has moved on or blocks SIGURG)"),
    }
    shared.report(&text);
}

/// `R` running, `S` or `D` asleep in the kernel.
fn thread_state(tid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).ok()?;
    // The name before it may hold anything.
    let (_, after) = stat.rsplit_once(')')?;
    after.trim_start().chars().next()
}

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
const OVER: u32 = 2;
const PERIOD_MIN: Duration = Duration::from_micros(100);
const PERIOD_MAX: Duration = Duration::from_millis(50);
const REPORT_EVERY: Duration = Duration::from_secs(1);
