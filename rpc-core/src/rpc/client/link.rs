//! One address of a channel: a connection that is made, lost, and made again.
//!
//! Knows: connecting, backing off.   Does not know: calls.
//!
//! ```text
//!  Connecting ──made──▶ Ready ──lost, or the server says goodbye──▶ Connecting
//!      └──failed──▶ Failed ──after the backoff──▶ Connecting          any ──leave or end──▶ Closed
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConnection;

use super::backoff::Backoff;
use super::balance::Load;
use super::channel::{Board, ChannelLimits, Wire};
use super::connection::Connection;
use crate::base::lock::SpinLock;
use crate::base::rng::Rng;
use crate::base::time::Instant;
use crate::net::wait::GaveUp;
use crate::net::{Bell, address};
use crate::rpc::protocol::grpc::GrpcClient;
use crate::rpc::protocol::prpc::PrpcClient;
use crate::rpc::protocol::tls::TlsClient;
use crate::rpc::protocol::{ClientSession, Limits};
use crate::runtime::Handle;

/// An address and its connection.
pub(super) struct Link {
    target: String,
    limits: ChannelLimits,
    board: Arc<Board>,
    phase: SpinLock<Phase>,
    load: Load,
    /// Rung when the connection is lost or the channel ends; the link's coroutine listens.
    pub(super) bell: Bell,
}

/// How a link is.
#[derive(Clone)]
pub(super) enum Phase {
    /// An attempt is under way or about to begin.
    Connecting,
    /// Calls go here.
    Ready(Arc<Connection>),
    /// The last attempt failed, for this reason; the next comes after a while.
    Failed(Arc<str>),
    /// The channel or its runtime ended, or the server is not named any more; no more attempts.
    Closed(Arc<str>),
}

impl Link {
    /// Starts to connect, on a coroutine of `handle`'s runtime.
    pub fn start(
        target: String,
        weight: u32,
        limits: ChannelLimits,
        board: Arc<Board>,
        handle: Handle,
    ) -> Arc<Self> {
        let link = Arc::new(Self {
            target,
            limits,
            board,
            phase: SpinLock::new(Phase::Connecting),
            load: Load::new(weight),
            bell: Bell::new(),
        });
        let own = Arc::clone(&link);
        // Detached: it ends with the channel or with the runtime.
        drop(handle.spawn(move || own.look_after()));
        link
    }

    pub fn target(&self) -> &str {
        &self.target
    }

    /// What the server has to do for this channel.
    pub fn load(&self) -> &Load {
        &self.load
    }

    pub fn limits(&self) -> &ChannelLimits {
        &self.limits
    }

    /// A session for a new connection.
    ///
    /// # Errors
    /// TLS cannot be had with this target.
    pub fn session(&self, limits: Limits) -> io::Result<Box<dyn ClientSession>> {
        let credential = self.limits.credential.clone();
        let plain: Box<dyn ClientSession> = match self.limits.wire {
            Wire::Prpc => Box::new(PrpcClient::new(limits).with_credential(credential)),
            Wire::Grpc => {
                // A path names no host; gRPC's own clients say this.
                let authority = match address::is_local(&self.target) {
                    true => LOCALHOST,
                    false => &self.target,
                };
                let session = GrpcClient::new(limits, authority).with_credential(credential);
                Box::new(session.secure(self.limits.tls.is_some()))
            }
        };
        let Some((tls, config)) = &self.limits.tls else {
            return Ok(plain);
        };
        let host = match address::is_local(&self.target) {
            true => LOCALHOST,
            false => self.target.rsplit_once(':').map_or("", |(host, _)| host),
        };
        let name = tls.name_for(host).map_err(io::Error::other)?;
        let tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        Ok(Box::new(TlsClient::new(tls, plain)))
    }

    pub fn phase(&self) -> Phase {
        self.phase.lock().clone()
    }

    /// No more attempts; the connection is closed.
    pub fn end(&self) {
        if let Some(connection) = self.close("the channel was dropped") {
            connection.lose("the channel was closed");
        }
    }

    /// No more attempts and no more calls; the connection ends with the last call that it has.
    pub fn leave(&self) {
        if let Some(connection) = self.close("the server is not named any more") {
            connection.finish();
        }
    }

    /// `connection` takes no more calls: it broke, or its server is going away.
    pub fn retire(&self, connection: &Connection) {
        {
            let mut phase = self.phase.lock();
            match &*phase {
                Phase::Ready(current) if std::ptr::eq(Arc::as_ptr(current), connection) => {}
                _ => return,
            }
            // The old phase holds the connection; it goes when the lock is released.
            let old = std::mem::replace(&mut *phase, Phase::Connecting);
            drop(phase);
            drop(old);
        }
        self.bell.ring();
        self.board.wake_all();
    }

    fn look_after(self: Arc<Self>) {
        let mut backoff = Backoff::new(Rng::from_entropy());
        while !self.is_closed() {
            let pause = match Connection::open(&self) {
                Ok(connection) => {
                    let since = Instant::now();
                    self.enter(Phase::Ready(Arc::clone(&connection)));
                    if !self.wait_while_ready() {
                        self.close(RUNTIME_ENDED);
                        connection.lose(RUNTIME_ENDED);
                    }
                    if self.is_closed() {
                        // It may have been made a moment too late for whoever closed.
                        connection.finish();
                        break;
                    }
                    if since.elapsed() < GOOD_AFTER {
                        // It stood for a moment only: a server at its limit of connections, perhaps.
                        Some(backoff.next())
                    } else {
                        backoff.reset();
                        None
                    }
                }
                Err(error) => {
                    let why = format!("cannot connect to {}: {error}", self.target);
                    self.enter(Phase::Failed(why.into()));
                    Some(backoff.next())
                }
            };
            if let Some(pause) = pause {
                let woken = self.bell.wait("reconnect", Instant::after(pause));
                if woken == Err(GaveUp::Cancelled) {
                    self.close(RUNTIME_ENDED);
                }
                self.enter(Phase::Connecting);
            }
        }
    }

    /// False if this coroutine was cancelled.
    fn wait_while_ready(&self) -> bool {
        while let Phase::Ready(connection) = self.phase() {
            let until = match self.limits.keepalive {
                Some(silence) => Instant::after(silence.min(LOOK_EVERY)),
                None => Instant::NEVER,
            };
            match self.bell.wait("link", until) {
                Ok(()) => {}
                Err(GaveUp::TimedOut) => connection.look_at_clock(),
                Err(GaveUp::Cancelled) => return false,
            }
        }
        true
    }

    fn enter(&self, next: Phase) {
        {
            let mut phase = self.phase.lock();
            if matches!(*phase, Phase::Closed(_)) {
                return;
            }
            *phase = next;
        }
        self.board.wake_all();
    }

    /// Ends the link's coroutine; the connection that stood, if one did.
    fn close(&self, why: &str) -> Option<Arc<Connection>> {
        let closed = Phase::Closed(format!("{}: {why}", self.target).into());
        let before = {
            let mut phase = self.phase.lock();
            if matches!(*phase, Phase::Closed(_)) {
                return None;
            }
            std::mem::replace(&mut *phase, closed)
        };
        self.bell.ring();
        self.board.wake_all();
        match before {
            Phase::Ready(connection) => Some(connection),
            _ => None,
        }
    }

    fn is_closed(&self) -> bool {
        matches!(*self.phase.lock(), Phase::Closed(_))
    }
}

const RUNTIME_ENDED: &str = "the runtime that drove this channel has ended";
/// How often a connection with keepalive is looked at; bounds in time are kept to within this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What a server on the same machine is called.
const LOCALHOST: &str = "localhost";
/// A connection that stood this long was a good one: the next attempt comes at once.
const GOOD_AFTER: Duration = Duration::from_millis(500);
