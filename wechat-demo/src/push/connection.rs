//! One connection to the push service: HTTP/2 inside TLS, blocking, a batch of requests at a time.
//!
//! Knows: sockets, TLS, deadlines.   Does not know: what is asked, what an answer means.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::BufMut;
use rpc_core::rpc::protocol::requests::{Outcome, Requests};
use rpc_core::time::Instant;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Time for connecting and for the handshake, each; and for the server to take what is written.
const PATIENCE: Duration = Duration::from_secs(10);
/// A server that is silent for so long is asked for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Bytes of an answer's body.
const BODY: usize = 4 << 10;
/// What lies in the socket is taken without waiting for more.
const GLANCE: Duration = Duration::from_millis(1);

/// Where the service is, and whom to trust.
pub(super) struct Server {
    address: String,
    host: String,
    config: Arc<ClientConfig>,
}

impl Server {
    /// `address` is `HOST:PORT`; the certificate has to be for the host and signed by one of `roots` (PEM).
    pub(super) fn new(address: &str, roots: &[u8]) -> anyhow::Result<Self> {
        let (host, _) = address
            .rsplit_once(':')
            .context("expected HOST:PORT, for example api.push.apple.com:443")?;
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(roots) {
            // A bundle of a whole system may hold what this library does not read.
            let certificate = certificate.context("a certificate among the roots is no PEM")?;
            let _ = store.add(certificate);
        }
        anyhow::ensure!(!store.is_empty(), "the roots hold no certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let host = host.to_owned();
        ServerName::try_from(&host[..]).context("the host is neither a name nor an address")?;
        Ok(Self {
            address: address.to_owned(),
            host,
            config: Arc::new(config),
        })
    }

    /// Connects, and has the handshake behind it.
    pub(super) fn connect(&self) -> io::Result<Connection> {
        let mut socket = self.socket()?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let mut tls =
            ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        // A batch is written whole.
        tls.set_buffer_limit(None);
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        if tls.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other("the server speaks no HTTP/2"));
        }
        Ok(Connection {
            socket,
            tls,
            requests: Requests::new(&self.host, BODY, KEEPALIVE),
        })
    }

    fn socket(&self) -> io::Result<TcpStream> {
        let mut last = None;
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("the host has no address")))
    }
}

/// A connection that was opened.
pub(super) struct Connection {
    socket: TcpStream,
    tls: ClientConnection,
    requests: Requests,
}

impl Connection {
    /// Whether it may take further requests, after a glance at what the server has said meanwhile.
    pub(super) fn is_usable(&mut self) -> bool {
        self.read(GLANCE).is_ok() && self.flush().is_ok() && !self.is_spent()
    }

    /// True once the server has said that it is going away.
    pub(super) fn is_spent(&self) -> bool {
        self.requests.is_spent()
    }

    /// Sends requests 0 to `count` by `send`, as many at once as the server takes, and waits for the answers.
    /// Those without an outcome at the end have none that is known: the error or the deadline came first.
    pub(super) fn exchange(
        &mut self,
        count: usize,
        until: Instant,
        mut send: impl FnMut(&mut Requests, usize) -> bool,
    ) -> (Vec<Option<Outcome>>, io::Result<()>) {
        let mut outcomes = vec![None; count];
        let (mut next, mut open) = (0, 0);
        loop {
            while next < count && self.requests.can_send() && send(&mut self.requests, next) {
                next += 1;
                open += 1;
            }
            let over = open == 0 && (next == count || self.requests.is_spent());
            let now = Instant::now();
            if over || now >= until {
                return (outcomes, self.flush());
            }
            let step = self
                .flush()
                .and_then(|()| self.read(until.saturating_since(now)));
            while let Some((token, outcome)) = self.requests.next_ended() {
                outcomes[token as usize] = Some(outcome);
                open -= 1;
            }
            if step.is_err() {
                return (outcomes, step);
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        for bytes in self.requests.transmit().drain(..) {
            self.tls.writer().write_all(&bytes)?;
        }
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Takes what comes next, or what the session does when nothing comes.
    fn read(&mut self, most: Duration) -> io::Result<()> {
        let now = Instant::now();
        let wait = match self.requests.deadline() {
            None => most,
            Some(deadline) => most.min(deadline.saturating_since(now)),
        };
        // No time at all would mean for ever.
        self.socket.set_read_timeout(Some(wait.max(GLANCE)))?;
        match self.tls.read_tls(&mut self.socket) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return self
                    .requests
                    .timed_out(Instant::now())
                    .map_err(io::Error::other);
            }
            Err(error) => return Err(error),
        }
        self.tls.process_new_packets().map_err(io::Error::other)?;
        let now = Instant::now();
        let mut plain = [0; 4096];
        loop {
            let mut rest = match self.tls.reader().read(&mut plain) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => &plain[..n],
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            while !rest.is_empty() {
                let space = self.requests.recv_space();
                let n = space.remaining_mut().min(rest.len());
                space.put_slice(&rest[..n]);
                rest = &rest[n..];
                self.requests.received(n, now).map_err(io::Error::other)?;
            }
        }
    }
}
