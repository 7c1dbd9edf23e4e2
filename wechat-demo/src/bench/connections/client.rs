//! The terminals' ends of a pair's links: opened, authenticated, and held.
//!
//! Knows:       blocking sockets, frames.   Does not know: what the other end costs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tungstenite::WebSocket;
use wechat_demo::longlink::{Decoder, Frame};
use wechat_demo::proto::terminal as pb;

use super::{Over, raise_descriptors};

/// Flags of the hidden `bench connections-client`.
#[derive(Args, Debug)]
pub(crate) struct Flags {
    /// Where the access process listens
    #[arg(long)]
    address: String,
    /// What is spoken
    #[arg(long, value_enum)]
    over: Over,
    /// The access process's certificate
    #[arg(long)]
    certificate: PathBuf,
}

/// Links whose AUTH is under way at once: the access process answers them in batches.
const TOGETHER: usize = 256;

/// One end of a link.
enum End {
    Plain(TcpStream),
    Browser(Box<WebSocket<TcpStream>>),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl End {
    fn open(flags: &Flags, tls: Option<&Arc<ClientConfig>>) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(&flags.address)?;
        stream.set_nodelay(true)?;
        Ok(match (flags.over, tls) {
            (Over::Tls, Some(tls)) => {
                let name = ServerName::try_from("localhost")?;
                let client = ClientConnection::new(Arc::clone(tls), name)?;
                Self::Tls(Box::new(StreamOwned::new(client, stream)))
            }
            (Over::Websocket, _) => {
                let config =
                    tungstenite::protocol::WebSocketConfig::default().read_buffer_size(512);
                let url = format!("ws://{}/link", flags.address);
                let opened = tungstenite::client::client_with_config(url, stream, Some(config));
                let (socket, _) = opened.map_err(|error| anyhow::anyhow!("{error}"))?;
                Self::Browser(Box::new(socket))
            }
            _ => Self::Plain(stream),
        })
    }

    fn send(&mut self, packet: bytes::Bytes) -> anyhow::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(&packet)?,
            Self::Tls(stream) => {
                stream.write_all(&packet)?;
                stream.flush()?;
            }
            Self::Browser(socket) => socket.send(tungstenite::Message::Binary(packet))?,
        }
        Ok(())
    }

    fn receive(&mut self) -> anyhow::Result<Frame> {
        let mut decoder = Decoder::default();
        let mut bytes = [0; 1024];
        loop {
            if let Some(frame) = decoder.next_frame()? {
                return Ok(frame);
            }
            let length = match self {
                Self::Plain(stream) => stream.read(&mut bytes)?,
                Self::Tls(stream) => stream.read(&mut bytes)?,
                Self::Browser(socket) => {
                    let message = socket.read()?.into_data();
                    decoder.feed(&message);
                    continue;
                }
            };
            if length == 0 {
                bail!("the access process closed a link");
            }
            decoder.feed(&bytes[..length]);
        }
    }
}

/// Reads how many links are to be open, opens them, says so; until the input ends.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    raise_descriptors()?;
    let tls = match flags.over {
        Over::Tls => Some(trust(&flags.certificate)?),
        Over::Plain | Over::Websocket => None,
    };
    let mut ends: Vec<End> = Vec::new();
    for line in std::io::stdin().lines() {
        let wanted: usize = line?.trim().parse().context("how many links")?;
        while ends.len() < wanted {
            let first = ends.len();
            for user in first..wanted.min(first + TOGETHER) {
                let mut end = End::open(flags, tls.as_ref())?;
                let request = pb::AuthRequest {
                    token: user.to_string().into(),
                    active: false,
                };
                end.send(Frame::of(pb::Command::Auth as u32, 1, &request)?.to_bytes())?;
                ends.push(end);
            }
            for end in &mut ends[first..] {
                let reply = pb::Reply::decode(end.receive()?.body)?;
                if reply.code != 0 {
                    bail!("AUTH was refused: {}", reply.error);
                }
            }
        }
        println!("{}", ends.len());
    }
    Ok(())
}

fn trust(certificate: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
