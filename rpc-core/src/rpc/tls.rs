//! TLS as configuration: who we are, whom we trust.
//!
//! Knows: certificates and keys as PEM text, rustls.   Does not know: connections, files.
//!
//! The sessions are in `protocol::tls`. TLS 1.3 and 1.2; the cryptography is ring's.

#![forbid(unsafe_code)]

use core::net::SocketAddr;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::error::Error;
use crate::base::lock::SpinLock;
use crate::base::time::unix_nanos;

/// A server's side of TLS: its certificates, and which clients it lets in. Cheap to clone; clones share
/// their certificates.
#[derive(Clone)]
pub struct ServerTls {
    identities: Arc<Identities>,
    clients: Clients,
    required: bool,
}

/// Which certificates clients have to show.
#[derive(Clone)]
enum Clients {
    Anonymous,
    /// Signed by one of these; none at all is let in too unless `required`.
    Signed {
        roots: Arc<RootCertStore>,
        required: bool,
    },
}

impl ServerTls {
    /// Answers as `chain` (PEM, the server's certificate first) with its private `key` (PEM; PKCS#8, PKCS#1
    /// or SEC1), whatever name a client asks for.
    ///
    /// # Errors
    /// One of them holds no PEM of its kind, or the key is not the certificate's.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let names = Names {
            any: certified(chain, key)?,
            named: HashMap::new(),
        };
        Ok(Self {
            identities: Arc::new(Identities(SpinLock::new(Arc::new(names)))),
            clients: Clients::Anonymous,
            required: false,
        })
    }

    /// Answers clients that ask for `name` (SNI; `*.example.com` stands for one label) as another chain.
    ///
    /// # Errors
    /// As [`ServerTls::from_pem`].
    pub fn add_name(self, name: &str, chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let identity = certified(chain, key)?;
        self.identities.change(|names| {
            names.named.insert(name.to_ascii_lowercase(), identity);
        });
        Ok(self)
    }

    /// Answers new connections as `chain` from now on, and keeps those that are open.
    ///
    /// # Errors
    /// As [`ServerTls::from_pem`]; then nothing has changed.
    pub fn replace(&self, chain: &[u8], key: &[u8]) -> Result<(), Error> {
        let identity = certified(chain, key)?;
        self.identities.change(|names| names.any = identity);
        Ok(())
    }

    /// Asks clients for a certificate signed by one of `roots` (PEM). A wrong one ends the handshake, and so
    /// does none where `required`. Handlers see it as [`Peer::certificates`].
    ///
    /// # Errors
    /// `roots` holds no certificate.
    pub fn client_roots(mut self, roots: &[u8], required: bool) -> Result<Self, Error> {
        let roots = Arc::new(root_store(roots)?);
        self.clients = Clients::Signed { roots, required };
        Ok(self)
    }

    /// Refuses connections in plain text. Default: both are answered on one port.
    #[must_use]
    pub fn required(mut self, required: bool) -> Self {
        self.required = required;
        self
    }

    /// True if plain text is refused.
    pub(crate) fn is_required(&self) -> bool {
        self.required
    }

    /// What new sessions are made from. `alpn` are the protocols to agree on, best first.
    pub(crate) fn config(&self, alpn: &[&str]) -> Result<Arc<ServerConfig>, Error> {
        let builder = ServerConfig::builder_with_details(provider(), Arc::new(WallClock))
            .with_safe_default_protocol_versions()
            .map_err(refused)?;
        let builder = match &self.clients {
            Clients::Anonymous => builder.with_no_client_auth(),
            Clients::Signed { roots, required } => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider());
                let verifier = match required {
                    true => verifier,
                    false => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(verifier.build().map_err(refused)?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&self.identities) as Arc<_>);
        config.alpn_protocols = wire_names(alpn);
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for ServerTls {
    /// Without keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("required", &self.required)
            .finish_non_exhaustive()
    }
}

/// A server's certificates by name; replaced as a whole, so that a handshake sees one state of them.
struct Identities(SpinLock<Arc<Names>>);

#[derive(Clone)]
struct Names {
    any: Arc<CertifiedKey>,
    /// In lower case.
    named: HashMap<String, Arc<CertifiedKey>>,
}

impl Identities {
    fn change(&self, change: impl FnOnce(&mut Names)) {
        let mut names = Names::clone(&self.0.lock());
        change(&mut names);
        let old = std::mem::replace(&mut *self.0.lock(), Arc::new(names));
        drop(old);
    }
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let names = Arc::clone(&self.0.lock());
        let found = hello.server_name().and_then(|name| {
            let name = name.to_ascii_lowercase();
            let wild = || {
                let (_, rest) = name.split_once('.')?;
                names.named.get(&format!("*.{rest}"))
            };
            names.named.get(&name).or_else(wild).cloned()
        });
        Some(found.unwrap_or_else(|| Arc::clone(&names.any)))
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identities")
    }
}

/// A client's side of TLS: which servers it trusts, and who it is if they ask. Cheap to clone.
#[derive(Clone)]
pub struct ClientTls {
    roots: Arc<RootCertStore>,
    identity: Option<(
        Arc<Vec<CertificateDer<'static>>>,
        Arc<PrivateKeyDer<'static>>,
    )>,
    server_name: Option<ServerName<'static>>,
}

impl ClientTls {
    /// Trusts servers whose certificate is signed by one of `roots` (PEM).
    ///
    /// # Errors
    /// `roots` holds no certificate.
    pub fn from_roots(roots: &[u8]) -> Result<Self, Error> {
        Ok(Self {
            roots: Arc::new(root_store(roots)?),
            identity: None,
            server_name: None,
        })
    }

    /// Shows servers that ask for it the certificate `chain` (PEM, ours first) with its private `key` (PEM).
    ///
    /// # Errors
    /// One of them holds no PEM of its kind, or the key is not the certificate's.
    pub fn identity(mut self, chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        certified(chain, key)?;
        self.identity = Some((Arc::new(certificates(chain)?), Arc::new(private_key(key)?)));
        Ok(self)
    }

    /// The name that the server's certificate has to carry. Default: the host of the channel's target.
    ///
    /// # Errors
    /// It is neither a DNS name nor an address.
    pub fn server_name(mut self, name: &str) -> Result<Self, Error> {
        self.server_name = Some(parse_name(name)?);
        Ok(self)
    }

    /// The name to ask the server at `host` for.
    pub(crate) fn name_for(&self, host: &str) -> Result<ServerName<'static>, Error> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => parse_name(host.trim_start_matches('[').trim_end_matches(']')),
        }
    }

    /// What new sessions are made from. `alpn` are the protocols to offer, best first.
    pub(crate) fn config(&self, alpn: &[&str]) -> Result<Arc<ClientConfig>, Error> {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), provider())
                .build()
                .map_err(refused)?;
        let builder = ClientConfig::builder_with_details(provider(), Arc::new(WallClock))
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .with_webpki_verifier(verifier);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(Vec::clone(chain), key.clone_key())
                .map_err(refused)?,
        };
        config.alpn_protocols = wire_names(alpn);
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for ClientTls {
    /// Without keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

/// Who is at the other end of a connection, as far as its protocol told.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The address a PROXY header named: the connection's own is the proxy's.
    pub address: Option<SocketAddr>,
    /// The certificates the peer showed and that were verified, in DER, its own first; empty = none.
    pub certificates: Vec<Vec<u8>>,
    /// The name the client asked for (SNI).
    pub server_name: Option<String>,
}

fn certified(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, Error> {
    let provider = provider();
    let identity = CertifiedKey::from_der(certificates(chain)?, private_key(key)?, &provider)
        .map_err(refused)?;
    identity.keys_match().map_err(refused)?;
    Ok(Arc::new(identity))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates
        .map_err(|error| Error::Config(format!("TLS: a certificate is no PEM: {error}")))?;
    match certificates.is_empty() {
        true => Err(Error::Config(
            "TLS: there is no certificate: expected PEM with BEGIN CERTIFICATE".into(),
        )),
        false => Ok(certificates),
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        Error::Config(format!(
            "TLS: there is no private key: expected PEM with BEGIN PRIVATE KEY ({error})"
        ))
    })
}

fn root_store(pem: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(refused)?;
    }
    Ok(roots)
}

fn wire_names(alpn: &[&str]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
}

fn parse_name(name: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name.to_owned()).map_err(|_| {
        Error::Config(format!(
            "TLS: {name:?} is neither a DNS name nor an address"
        ))
    })
}

fn refused(error: impl fmt::Display) -> Error {
    Error::Config(format!("TLS: {error}"))
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(ring::default_provider())))
}

/// Certificates expire by the one clock of the house.
#[derive(Debug)]
struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_nanos(
            unix_nanos(),
        )))
    }
}
