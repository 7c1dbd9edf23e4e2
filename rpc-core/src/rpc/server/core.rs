//! What all connections of a server share.
//!
//! Knows: services, bounds, the table of connections.   Does not know: how one connection works.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use slab::Slab;

use super::certificates::CertificateFiles;
use super::connection::Connection;
use super::options::Options;
use super::registry::Registry;
use super::stats::{CloseReason, ServerStats};
use super::{OwnMetrics, Pages};
use crate::base::lock::SpinLock;
use crate::base::metric::Counter;
use crate::base::time::Instant;
use crate::net::Bell;
use crate::rpc::console::{self, MethodView, ServerView};
use crate::rpc::protocol::{BadReason, Page, PageRequest, ServerConfig, counters};
use crate::rpc::status::Status;
use crate::rpc::status_map::ELIMIT;
use crate::rpc::tls::ServerTls;
use crate::runtime::{Handle, Run, spawn_detached};

/// A server, as its connections and calls see it.
pub(super) struct Core {
    /// Shared with the sessions.
    pub config: Arc<ServerConfig>,
    /// The same object as `config.routes`.
    pub registry: Arc<Registry>,
    pub options: Options,
    /// Numbers that `/metrics` shows after the server's.
    own_metrics: Option<OwnMetrics>,
    /// Asked before the console, in this order.
    pages: Vec<(String, Pages)>,
    /// Looked at by the janitor.
    pub certificates: Option<(CertificateFiles, ServerTls)>,
    pub stats: ServerStats,
    /// Calls that were spawned and have not ended; at most `options.max_concurrency`.
    in_flight: AtomicUsize,
    /// Open connections; at most `options.max_connections`.
    connections: SpinLock<Slab<Arc<Connection>>>,
    /// Rung when the drain may have something to do; the serving coroutine listens.
    pub bell: Bell,
    draining: AtomicBool,
    pub started: Instant,
    /// The time when a call last ended or bytes last came, in nanoseconds.
    last_seen: AtomicU64,
    /// Moving average of how long a call keeps its worker, in nanoseconds.
    mean_run_ns: AtomicU64,
    /// The runtime that serves; set before the first connection.
    home: OnceLock<Handle>,
}

impl Core {
    pub fn new(
        config: Arc<ServerConfig>,
        registry: Arc<Registry>,
        options: Options,
        own_metrics: Option<OwnMetrics>,
        pages: Vec<(String, Pages)>,
        certificates: Option<(CertificateFiles, ServerTls)>,
    ) -> Self {
        Self {
            config,
            registry,
            options,
            own_metrics,
            pages,
            certificates,
            stats: ServerStats::default(),
            in_flight: AtomicUsize::new(0),
            connections: SpinLock::new(Slab::new()),
            bell: Bell::new(),
            draining: AtomicBool::new(false),
            started: Instant::now(),
            last_seen: AtomicU64::new(0),
            mean_run_ns: AtomicU64::new(0),
            home: OnceLock::new(),
        }
    }

    /// Says on which runtime the server runs; the first one stays.
    pub fn set_home(&self, handle: Handle) {
        self.home.get_or_init(|| handle);
    }

    /// Spawns something of a connection.
    pub fn spawn(&self, run: Arc<dyn Run>, name: &'static str) {
        let home = self
            .home
            .get()
            .expect("connections come after serving began");
        spawn_detached(run, name, *home);
    }

    /// Takes a place for a call, or says why there is none.
    pub fn admit(&self) -> Result<(), Status> {
        // Relaxed: the number bounds, it guards no other memory.
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        if before < self.options.max_concurrency {
            return Ok(());
        }
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.stats.over_concurrency.add(1);
        Err(Status::from_errno(
            ELIMIT,
            format!(
                "the server has {} calls under way, its limit: try again later or elsewhere",
                self.options.max_concurrency
            ),
        ))
    }

    /// Takes note of the time, for [`is_surely_before`](Self::is_surely_before).
    pub fn seen(&self, now: Instant) {
        // Relaxed: an older time only means that the clock is asked.
        self.last_seen.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// Takes note that a call ended `now`. What passed since the last end is taken for its run: true
    /// where calls run one after the other, and a mere estimate elsewhere.
    pub fn call_ended(&self, now: Instant) {
        let before = Instant::from_nanos(self.last_seen.load(Ordering::Relaxed));
        self.seen(now);
        let run = now.saturating_since(before).min(RUN_MAX).as_nanos() as u64;
        // Relaxed, and an update that loses against another is no loss: it is an average.
        let mean = self.mean_run_ns.load(Ordering::Relaxed);
        let next = mean - mean / SMOOTHING + run / SMOOTHING;
        self.mean_run_ns.store(next, Ordering::Relaxed);
    }

    /// How long a call keeps its worker, roughly.
    pub fn mean_run(&self) -> Duration {
        Duration::from_nanos(self.mean_run_ns.load(Ordering::Relaxed))
    }

    /// True if `deadline` is so far from the time last seen that the clock need not be asked. The time is
    /// seen whenever a call ends and whenever bytes come, so it is late by one call's run at most.
    pub fn is_surely_before(&self, deadline: Instant) -> bool {
        let seen = Instant::from_nanos(self.last_seen.load(Ordering::Relaxed));
        seen + SURELY < deadline
    }

    /// Gives a call's place back.
    pub fn release(&self) {
        // AcqRel: the drain that reads 0 sees what the call did.
        let before = self.in_flight.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "a place is given back once");
        if before == 1 && self.is_draining() {
            self.bell.ring();
        }
    }

    /// Calls that were spawned and have not ended.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// True once the drain has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Begins the drain; the serving coroutine does the rest.
    pub fn start_drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Enters a connection into the table; its key, or `None` at the bound.
    pub fn enter(&self, make: impl FnOnce(usize) -> Arc<Connection>) -> Option<Arc<Connection>> {
        let mut table = self.connections.lock();
        if table.len() >= self.options.max_connections {
            return None;
        }
        let entry = table.vacant_entry();
        let connection = make(entry.key());
        entry.insert(Arc::clone(&connection));
        Some(connection)
    }

    /// Takes a closed connection out of the table.
    pub fn leave(&self, key: usize, reason: CloseReason) {
        let gone = self.connections.lock().try_remove(key);
        // The last reference may be this one: dropping it closes the socket, outside the lock.
        drop(gone);
        self.stats.closed(reason);
        if self.is_draining() {
            self.bell.ring();
        }
    }

    /// Open connections.
    pub fn connection_count(&self) -> usize {
        self.connections.lock().len()
    }

    /// Calls `look` for every connection, a batch at a time so that the table is never locked for long.
    /// Those that come or go meanwhile may be missed.
    pub fn each_connection(&self, mut look: impl FnMut(&Arc<Connection>)) {
        let mut from = 0;
        loop {
            let (batch, end) = {
                let table = self.connections.lock();
                let end = table.capacity();
                let to = (from + BATCH).min(end);
                let batch: Vec<_> = (from..to)
                    .filter_map(|key| table.get(key).cloned())
                    .collect();
                (batch, end)
            };
            batch.iter().for_each(&mut look);
            from += BATCH;
            if from >= end {
                return;
            }
        }
    }

    /// The program's own answer to a plain request, or the console's.
    pub fn page(&self, request: &PageRequest) -> Page {
        let mut own = self.pages.iter();
        if let Some((_, answer)) = own.find(|(prefix, _)| request.path.starts_with(prefix)) {
            return answer(request);
        }
        if !self.options.console {
            return Page::text(404, "not found\n");
        }
        let home = self.home.get();
        let dump = || home.map_or_else(String::new, |home| home.dump().to_string());
        let mut page = console::page(request, || self.view(), dump);
        if let Some(render) = &self.own_metrics
            && request.path == "/metrics"
            && page.status == 200
        {
            page.body = [&page.body[..], render().as_bytes()].concat().into();
        }
        page
    }

    /// Name, help text and value of each counter.
    fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        let counter =
            |name: &'static str, help: &'static str, counter: &Counter| (name, help, counter.get());
        let stats = &self.stats;
        vec![
            counter(
                "connections_accepted",
                "connections accepted",
                &stats.accepted,
            ),
            counter(
                "accept_exhausted",
                "times that accepting failed for lack of descriptors or memory",
                &stats.exhausted,
            ),
            counter(
                "accept_failed",
                "times that accepting failed",
                &stats.accept_failed,
            ),
            counter(
                "calls_over_concurrency",
                "calls refused at the server's concurrency limit",
                &stats.over_concurrency,
            ),
            counter(
                "calls_expired",
                "calls whose time was over before they ran",
                &stats.expired,
            ),
            counter("pages", "console pages served", &stats.pages),
            counter(
                "late_replies",
                "answers that came after their call was given up",
                &counters::LATE_REPLIES,
            ),
            counter(
                "stray_stream_messages",
                "messages that came for streams that are over",
                &counters::STRAY_STREAM_MESSAGES,
            ),
            counter(
                "copied_bodies",
                "bodies of 4 KiB or more that were copied",
                &counters::COPIED_BODIES,
            ),
        ]
    }

    fn view(&self) -> ServerView {
        let methods = self.registry.methods().iter().map(|method| MethodView {
            service: method.descriptor.service,
            method: method.descriptor.name,
            running: method.stats.running.load(Ordering::Relaxed),
            answered: method.stats.answered.get(),
            failed: method.stats.failed.get(),
            refused: method.stats.refused.get(),
            panicked: method.stats.panicked.get(),
            lost: method.stats.lost.get(),
            qps: method.stats.qps(),
            latency: method.stats.latency.snapshot(),
        });
        let stats = &self.stats;
        let closed = CloseReason::ALL
            .iter()
            .map(|r| (r.name(), stats.closed_for(*r)));
        let bad = BadReason::ALL.iter().map(|r| (r.name(), r.counted()));
        ServerView {
            identity: self.config.identity.clone(),
            uptime: self.started.elapsed(),
            draining: self.is_draining(),
            connections: self.connection_count(),
            in_flight: self.in_flight(),
            methods: methods.collect(),
            counters: self.counters(),
            runtime: self.home.get().map(Handle::metrics),
            closed: closed.collect(),
            bad_input: bad.collect(),
        }
    }
}

/// One call counts for so much less than its share in the moving average.
const SMOOTHING: u64 = 16;
/// A gap longer than this was no run but a pause.
const RUN_MAX: Duration = Duration::from_millis(10);
/// A deadline this far ahead needs no look at the clock before a call begins.
const SURELY: Duration = Duration::from_millis(100);
/// Connections looked at under one lock.
const BATCH: usize = 256;
