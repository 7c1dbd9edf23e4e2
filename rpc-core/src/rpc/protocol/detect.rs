//! One port, several protocols: the first bytes of a connection decide which session it gets.
//!
//! Knows: the order protocols are asked in.   Does not know: any of them.

use core::net::SocketAddr;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut, buf::Limit};

use super::call::fill;
use super::{
    Bad, BadReason, Body, CallId, Driver, EndOfInput, Kind, Probe, Reply, Room, ServerConfig,
    ServerEvent, ServerSession, proxy,
};
use crate::base::time::Instant;
use crate::rpc::compression::Compression;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::status::Status;
use crate::rpc::tls::Peer;

/// A session that becomes one of `config`'s protocols with its first bytes.
pub fn server_session(config: &Arc<ServerConfig>) -> Box<dyn ServerSession> {
    Box::new(Detecting {
        config: Arc::clone(config),
        prefix: BytesMut::new().limit(0),
        chosen: None,
        attached: None,
        proxied: config.proxy_header.then(Box::default),
        silence: VecDeque::new(),
        draining: false,
        ended: false,
        deadline: Instant::NEVER,
    })
}

/// Bytes read before a protocol is chosen; PRPC's header, so that no body is among them.
const PREFIX: usize = 12;

struct Detecting {
    config: Arc<ServerConfig>,
    /// The first bytes; limited to [`PREFIX`], and before that to the proxy's header.
    prefix: Limit<BytesMut>,
    /// Everything goes here once it is set.
    chosen: Option<Box<dyn ServerSession>>,
    /// What the chosen session is told first.
    attached: Option<(Weak<dyn Driver>, Instant)>,
    /// What a proxy says of its caller, where one stands before this port.
    proxied: Option<Box<Proxied>>,
    /// Nothing is said before a protocol is chosen.
    silence: VecDeque<Bytes>,
    draining: bool,
    ended: bool,
    /// When the protocol must be known; `NEVER` before the first byte.
    deadline: Instant,
}

/// Time for the first bytes, from the first on.
const PREFIX_TIME: Duration = Duration::from_secs(15);

/// A connection that a proxy passes on.
#[derive(Default)]
struct Proxied {
    /// The header was read.
    done: bool,
    /// The address in it.
    address: Option<SocketAddr>,
    /// With what the protocol inside told; from the first event on.
    peer: Option<Arc<Peer>>,
}

impl Detecting {
    /// Reads the proxy's header. True once it is behind us.
    fn pass_header(&mut self) -> Result<bool, Bad> {
        let Some(proxied) = self.proxied.as_mut().filter(|proxied| !proxied.done) else {
            return Ok(true);
        };
        let prefix = self.prefix.get_mut();
        if prefix.len() == proxy::length(prefix)? {
            proxied.address = proxy::source(prefix)?;
            proxied.done = true;
            prefix.clear();
            // The caller may be silent, as it may without a proxy.
            self.deadline = Instant::NEVER;
        }
        // Bytes behind the header were not read: the space had no room for them.
        Ok(false)
    }

    /// Bytes of room for what is read before a protocol is chosen; at least 1.
    fn wanted(&self) -> usize {
        let held = self.prefix.get_ref();
        let whole = match &self.proxied {
            // After bytes of no header nothing is read any more.
            Some(proxied) if !proxied.done => proxy::wanted(held),
            _ => PREFIX,
        };
        whole.saturating_sub(held.len()).max(1)
    }

    fn detect(&mut self, now: Instant) -> Result<(), Bad> {
        let prefix = self.prefix.get_ref();
        let mut undecided = false;
        for protocol in &self.config.protocols {
            match protocol.probe(prefix) {
                Probe::No => {}
                Probe::NeedMore => undecided = true,
                Probe::Yes => {
                    let session = protocol.session(&self.config);
                    return self.choose(session, now);
                }
            }
        }
        if undecided && prefix.len() < PREFIX {
            return Ok(());
        }
        Err(Bad::counted(BadReason::UnknownProtocol))
    }

    /// Hands the first bytes over.
    fn choose(&mut self, mut session: Box<dyn ServerSession>, now: Instant) -> Result<(), Bad> {
        if let Some((driver, accepted)) = self.attached.take() {
            session.attached(driver, accepted);
        }
        if self.draining {
            session.drain();
        }
        let mut prefix = std::mem::take(self.prefix.get_mut());
        let mut result = Ok(());
        while !prefix.is_empty() && result.is_ok() {
            let taken = fill(session.recv_space(), &prefix);
            prefix.advance(taken);
            result = session.received(taken, now);
        }
        self.chosen = Some(session);
        result
    }
}

impl ServerSession for Detecting {
    fn attached(&mut self, driver: Weak<dyn Driver>, accepted: Instant) {
        self.attached = Some((driver, accepted));
    }

    fn recv_space(&mut self) -> &mut dyn BufMut {
        let wanted = self.wanted();
        match &mut self.chosen {
            Some(session) => session.recv_space(),
            None => {
                self.prefix.get_mut().reserve(wanted);
                self.prefix.set_limit(wanted);
                &mut self.prefix
            }
        }
    }

    fn received(&mut self, n: usize, now: Instant) -> Result<(), Bad> {
        if let Some(session) = &mut self.chosen {
            return session.received(n, now);
        }
        if self.deadline.is_never() {
            self.deadline = now + PREFIX_TIME;
        }
        match self.pass_header()? {
            true => self.detect(now),
            false => Ok(()),
        }
    }

    fn next_event(&mut self) -> Option<ServerEvent> {
        let session = self.chosen.as_mut()?;
        let event = session.next_event()?;
        if let Some(proxied) = &mut self.proxied
            && proxied.peer.is_none()
        {
            let inside = session.peer().map(|peer| Peer::clone(peer));
            proxied.peer = Some(Arc::new(Peer {
                address: proxied.address,
                ..inside.unwrap_or_default()
            }));
        }
        Some(event)
    }

    fn peer(&self) -> Option<&Arc<Peer>> {
        match &self.proxied {
            Some(proxied) => proxied.peer.as_ref(),
            None => self.chosen.as_ref()?.peer(),
        }
    }

    fn answer(&mut self, id: CallId, reply: Reply<'_>) {
        if let Some(session) = &mut self.chosen {
            session.answer(id, reply);
        }
    }

    fn carries(&self, kind: Kind) -> bool {
        self.chosen
            .as_ref()
            .is_some_and(|session| session.carries(kind))
    }

    fn cancels(&self) -> bool {
        self.chosen
            .as_ref()
            .is_some_and(|session| session.cancels())
    }

    fn begin(&mut self, id: CallId, metadata: &MetadataMap, compression: Compression) {
        if let Some(session) = &mut self.chosen {
            session.begin(id, metadata, compression);
        }
    }

    fn send(&mut self, id: CallId, message: Body<'_>, compression: Compression) -> Room {
        match &mut self.chosen {
            Some(session) => session.send(id, message, compression),
            None => Room::Open,
        }
    }

    fn finish(&mut self, id: CallId, result: Result<(), &Status>, trailers: &MetadataMap) {
        if let Some(session) = &mut self.chosen {
            session.finish(id, result, trailers);
        }
    }

    fn consumed(&mut self, id: CallId, bytes: usize) {
        if let Some(session) = &mut self.chosen {
            session.consumed(id, bytes);
        }
    }

    fn transmit(&mut self) -> &mut VecDeque<Bytes> {
        match &mut self.chosen {
            Some(session) => session.transmit(),
            None => &mut self.silence,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.chosen {
            Some(session) => session.deadline(),
            None => {
                let accepted = self.attached.as_ref().map(|(_, accepted)| *accepted);
                let limit = self.config.limits.first_bytes;
                let silent = accepted.zip(limit).map(|(at, limit)| at + limit);
                let deadline = silent.unwrap_or(Instant::NEVER).min(self.deadline);
                (!deadline.is_never()).then_some(deadline)
            }
        }
    }

    fn timed_out(&mut self, now: Instant) -> Result<(), Bad> {
        let due = self.deadline().is_some_and(|deadline| now >= deadline);
        match &mut self.chosen {
            Some(session) => session.timed_out(now),
            None if due => {
                self.ended = true;
                Err(Bad::counted(BadReason::Slow))
            }
            None => Ok(()),
        }
    }

    fn wants_input(&self) -> bool {
        self.chosen
            .as_ref()
            .is_none_or(|session| session.wants_input())
    }

    fn end_of_input(&mut self) -> EndOfInput {
        self.ended = true;
        match &mut self.chosen {
            Some(session) => session.end_of_input(),
            None => EndOfInput::Abandon,
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        if let Some(session) = &mut self.chosen {
            session.drain();
        }
    }

    fn is_idle(&self) -> bool {
        match &self.chosen {
            Some(session) => session.is_idle(),
            None => self.prefix.get_ref().is_empty(),
        }
    }

    fn is_finished(&self) -> bool {
        match &self.chosen {
            Some(session) => session.is_finished(),
            None => self.ended,
        }
    }

    fn release(&mut self) {
        match &mut self.chosen {
            Some(session) => session.release(),
            None if self.prefix.get_ref().is_empty() => self.prefix = BytesMut::new().limit(0),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::protocol::harness;

    #[test]
    fn bytes_of_no_protocol_are_refused_at_once() {
        for first in [&b"\x16\x03\x01"[..], b"*1\r\n", b"\0", b"PRP\x01", b"pRPC"] {
            let mut session = server_session(&harness::config());
            fill(session.recv_space(), first);
            let bad = session.received(first.len(), Instant::ZERO).unwrap_err();
            assert_eq!(bad.reason, BadReason::UnknownProtocol, "{first:?}");
        }
    }

    /// A configuration behind a proxy.
    fn behind_a_proxy() -> Arc<ServerConfig> {
        let plain = harness::config();
        Arc::new(ServerConfig {
            proxy_header: true,
            ..ServerConfig::clone(&plain)
        })
    }

    const HEADER: &[u8] =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\x12\x34\0\x50";

    #[test]
    fn behind_a_proxy_the_peer_is_who_the_header_names() {
        let request = b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n";
        let all = [HEADER, request].concat();
        for size in 1..all.len() {
            let mut session = server_session(&behind_a_proxy());
            let mut pages = 0;
            harness::feed(&mut *session, &all, &[size], |session, event| {
                assert!(matches!(event, ServerEvent::Page(_)));
                let peer = session.peer().expect("known with the first event");
                assert_eq!(peer.address, Some("192.0.2.1:4660".parse().unwrap()));
                pages += 1;
            });
            assert_eq!(pages, 1, "in pieces of {size}");
        }
    }

    #[test]
    fn behind_a_proxy_a_connection_without_the_header_is_refused() {
        for first in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PRPC",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
        ] {
            let mut session = server_session(&behind_a_proxy());
            let mut left = first;
            let mut result = Ok(());
            while !left.is_empty() && result.is_ok() {
                let taken = fill(session.recv_space(), left);
                left = &left[taken..];
                result = session.received(taken, Instant::ZERO);
            }
            let bad = result.unwrap_err();
            assert_eq!(bad.reason, BadReason::ProxyHeader, "{first:?}");
        }
    }

    #[test]
    fn a_prefix_that_nothing_follows_is_closed_in_time() {
        let mut session = server_session(&harness::config());
        assert_eq!(session.deadline(), None, "a silent connection may stay");
        for (at, byte) in [(1, b"P"), (14, b"R")] {
            fill(session.recv_space(), byte);
            assert_eq!(
                session.received(1, Instant::from_nanos(at * 1_000_000_000)),
                Ok(())
            );
        }
        let until = session.deadline().expect("it is waited for");
        assert_eq!(until, Instant::from_nanos(16_000_000_000));
        assert_eq!(
            session.timed_out(Instant::from_nanos(15_999_999_999)),
            Ok(())
        );
        let bad = session.timed_out(until).unwrap_err();
        assert_eq!(bad.reason, BadReason::Slow);
        assert!(session.is_finished());
    }

    #[test]
    fn a_prefix_shorter_than_the_magic_still_matches() {
        for first in [&b"P"[..], b"PR", b"PRP", b"PRI", b"PO", b"PATCH"] {
            let mut session = server_session(&harness::config());
            fill(session.recv_space(), first);
            assert_eq!(session.received(first.len(), Instant::ZERO), Ok(()));
            assert!(
                !session.is_idle(),
                "{first:?} is the beginning of something"
            );
        }
    }
}
