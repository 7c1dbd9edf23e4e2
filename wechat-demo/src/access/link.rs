//! The long link as a protocol of rpc-core's port, and the same inside WebSocket.
//!
//! Knows:       the trait of sessions, how bytes are wrapped on their way.
//! Does not know: sockets, TLS (rpc-core's, under any protocol), what a command does.
//!
//! ```text
//! socket ─▶ recv_space ─▶ [WebSocket] ─▶ Inbound ─▶ events ─▶ Access: work in coroutines
//! socket ◀─ transmit ◀── [WebSocket] ◀── Link's Outbound ◀── replies, beats, notifies, from any thread
//! ```
//! A session is its driver's; what others have for the terminal they put into the [`Link`] and wake the
//! driver. An idle session holds no buffer, and there is no coroutine.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::{Arc, Weak};

use bytes::{BufMut, Bytes};
use rpc_core::rpc::protocol::{
    Bad, CallId, Driver, EndOfInput, Probe, Protocol, Reply, ServerConfig, ServerEvent,
    ServerSession,
};
use rpc_core::time::Instant;

use super::serve::Access;
use super::session::{Closing, Inbound};
use super::table::Link;

/// Bytes taken from a link's queue at once: beyond them the link's own bound holds.
const WRITE_ROOM: usize = 64 << 10;

/// How packets travel on a connection.
pub(super) trait Transport: Default + Send + 'static {
    const NAME: &'static str;

    /// Whether a connection begins as one of these.
    fn probe(prefix: &[u8]) -> Probe;

    /// Where the next bytes go.
    fn recv_space<'a>(&'a mut self, inbound: &'a mut Inbound) -> &'a mut dyn BufMut;

    /// Unwraps what was written there into `inbound`, and queues what the transport answers by itself.
    fn received(&mut self, inbound: &mut Inbound, out: &mut VecDeque<Bytes>)
    -> Result<(), Closing>;

    /// Wraps whole packets.
    fn send(&mut self, packets: Bytes, out: &mut VecDeque<Bytes>);

    /// Says that nothing more follows.
    fn goodbye(&mut self, out: &mut VecDeque<Bytes>);

    /// True if nothing was received in part.
    fn is_idle(&self) -> bool;

    /// Gives empty buffers back.
    fn release(&mut self);
}

/// Packets on the stream as they are.
#[derive(Default)]
pub(super) struct Plain;

impl Transport for Plain {
    const NAME: &'static str = "mars";

    /// A header's length is far below 2^24, and no other protocol of the port begins with a zero byte. What
    /// is no packet then ends under its own reason.
    fn probe(prefix: &[u8]) -> Probe {
        Probe::magic(prefix, &[0])
    }

    fn recv_space<'a>(&'a mut self, inbound: &'a mut Inbound) -> &'a mut dyn BufMut {
        inbound.space()
    }

    fn received(&mut self, _: &mut Inbound, _: &mut VecDeque<Bytes>) -> Result<(), Closing> {
        Ok(())
    }

    fn send(&mut self, packets: Bytes, out: &mut VecDeque<Bytes>) {
        out.push_back(packets);
    }

    fn goodbye(&mut self, _: &mut VecDeque<Bytes>) {}

    fn is_idle(&self) -> bool {
        true
    }

    fn release(&mut self) {}
}

/// The long link, for [`rpc_core::ServerBuilder::add_protocol`].
pub(super) struct Links<T> {
    access: Arc<Access>,
    transport: PhantomData<fn() -> T>,
}

impl<T: Transport> Links<T> {
    pub(super) fn new(access: Arc<Access>) -> Self {
        Self {
            access,
            transport: PhantomData,
        }
    }
}

impl<T: Transport> Protocol for Links<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn probe(&self, prefix: &[u8]) -> Probe {
        T::probe(prefix)
    }

    fn session(&self, _config: &Arc<ServerConfig>) -> Box<dyn ServerSession> {
        let link = self.access.open();
        Box::new(LinkSession {
            inbound: Inbound::new(self.access.limits(), Instant::ZERO),
            access: Arc::clone(&self.access),
            link,
            transport: T::default(),
            out: VecDeque::new(),
            draining: false,
            said_goodbye: false,
        })
    }
}

/// One link's protocol state.
struct LinkSession<T> {
    access: Arc<Access>,
    link: Arc<Link>,
    inbound: Inbound,
    transport: T,
    /// What the socket is given next: at most [`WRITE_ROOM`] and a packet.
    out: VecDeque<Bytes>,
    /// Commands under way are still answered, then the link ends.
    draining: bool,
    said_goodbye: bool,
}

impl<T: Transport> LinkSession<T> {
    /// Takes over what has changed elsewhere.
    fn catch_up(&mut self) {
        if !self.inbound.is_authenticated() && self.link.is_authenticated() {
            self.inbound.authenticated();
        }
        if self.draining && self.link.is_quiet() {
            self.link.close_quietly(Closing::Draining);
        }
    }
}

impl<T: Transport> ServerSession for LinkSession<T> {
    fn attached(&mut self, driver: Weak<dyn Driver>, accepted: Instant) {
        self.link.driven_by(driver);
        self.inbound.opened(accepted);
    }

    fn recv_space(&mut self) -> &mut dyn BufMut {
        self.transport.recv_space(&mut self.inbound)
    }

    fn received(&mut self, _n: usize, now: Instant) -> Result<(), Bad> {
        self.inbound.heard(now);
        if let Err(closing) = self.transport.received(&mut self.inbound, &mut self.out) {
            self.link.close_quietly(closing);
        }
        Ok(())
    }

    fn next_event(&mut self) -> Option<ServerEvent> {
        self.catch_up();
        while !self.draining && self.link.has_room() {
            match self.inbound.next_event() {
                Err(closing) => self.link.close_quietly(closing),
                Ok(None) => return None,
                Ok(Some(event)) => {
                    if let Some(work) = self.access.take_up(&self.link, event) {
                        return Some(ServerEvent::Work(work));
                    }
                }
            }
        }
        None
    }

    fn answer(&mut self, _id: CallId, _reply: Reply<'_>) {
        debug_assert!(false, "links give out work, not calls");
    }

    fn transmit(&mut self) -> &mut VecDeque<Bytes> {
        self.catch_up();
        if self.out.is_empty() {
            if let Some(packets) = self.link.take(WRITE_ROOM) {
                self.transport.send(packets, &mut self.out);
            } else if self.link.is_closing() && !self.said_goodbye {
                self.said_goodbye = true;
                self.transport.goodbye(&mut self.out);
            }
        }
        &mut self.out
    }

    fn deadline(&self) -> Option<Instant> {
        (!self.link.is_closing()).then(|| self.inbound.deadline())
    }

    fn timed_out(&mut self, now: Instant) -> Result<(), Bad> {
        self.catch_up();
        if let Some(closing) = self.inbound.expired(now) {
            self.link.close_quietly(closing);
        }
        Ok(())
    }

    fn wants_input(&self) -> bool {
        !self.draining && self.link.has_room()
    }

    fn end_of_input(&mut self) -> EndOfInput {
        EndOfInput::Abandon
    }

    fn drain(&mut self) {
        self.draining = true;
    }

    fn is_idle(&self) -> bool {
        self.link.is_quiet()
            && self.out.is_empty()
            && self.inbound.is_empty()
            && self.transport.is_idle()
    }

    fn is_finished(&self) -> bool {
        self.link.is_closing() && self.link.unsent() == 0
    }

    fn release(&mut self) {
        self.out = VecDeque::new();
        self.inbound.release();
        self.transport.release();
        self.link.release();
    }
}

impl<T> Drop for LinkSession<T> {
    fn drop(&mut self) {
        self.link.close_quietly(Closing::Gone);
        self.access.left(&self.link);
    }
}
