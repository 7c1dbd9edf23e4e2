//! HTTP/1.1 for whoever asks GETs: enough of a server, plain or inside TLS.
//!
//! Knows: request heads, rustls, certificates. Does not know: threads, and how long a wait is.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::Result;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Answers GETs until the client ends: each with its own path, those below `/wait` after `wait`.
///
/// # Errors
/// The connection's, and a head above 16 KiB.
pub fn serve<T>(mut stream: impl Read + Write, wait: impl Fn() -> T) -> io::Result<()> {
    let mut head = Vec::new();
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            let mut part = [0; 1024];
            let n = stream.read(&mut part)?;
            if n == 0 {
                return Ok(());
            }
            head.extend_from_slice(&part[..n]);
            if head.len() > HEAD_MAX {
                return Err(io::Error::other("a request head above 16 KiB"));
            }
        }
        let text = String::from_utf8_lossy(&head);
        let path = text.split(' ').nth(1).unwrap_or_default();
        if path.starts_with("/wait") {
            wait();
        }
        let length = path.len();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{path}");
        stream.write_all(answer.as_bytes())?;
        stream.flush()?;
    }
}

/// A fresh self-signed certificate for 127.0.0.1, and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
}

impl Certificate {
    /// Makes one.
    ///
    /// # Errors
    /// What rcgen and rustls say.
    pub fn new() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)?;
        Ok(Self {
            config: Arc::new(config),
            certificate,
        })
    }

    /// The server's end of TLS on `stream`.
    ///
    /// # Errors
    /// What rustls says.
    pub fn accept(&self, stream: TcpStream) -> Result<StreamOwned<ServerConnection, TcpStream>> {
        let connection = ServerConnection::new(Arc::clone(&self.config))?;
        Ok(StreamOwned::new(connection, stream))
    }

    /// The certificate alone, in DER, for who is to trust it.
    pub fn der(&self) -> &[u8] {
        &self.certificate
    }
}

const HEAD_MAX: usize = 16 << 10;
