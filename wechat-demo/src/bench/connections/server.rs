//! The access process of a pair, with a backend that knows everybody.
//!
//! Knows:       how to serve links.   Does not know: users.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use rpc_core::{Runtime, ServerTls};
use wechat_demo::access::session::Limits;
use wechat_demo::access::{Access, Answer, Backend, Refusal, Settings};
use wechat_demo::proto::logic::{Caller, Link, NewestKey};
use wechat_demo::proto::terminal as pb;

use super::{Over, raise_descriptors};

/// Flags of the hidden `bench connections-server`.
#[derive(Args, Debug)]
pub(crate) struct Flags {
    /// Links at most
    #[arg(long)]
    links: u64,
    /// What is spoken
    #[arg(long, value_enum)]
    over: Over,
    /// Where the certificate is left for the other end
    #[arg(long)]
    certificate: PathBuf,
}

/// Every token speaks for a user of its own; nothing ever happens to any.
#[derive(Default)]
struct Everybody {
    users: AtomicU64,
}

impl Backend for Everybody {
    fn authenticate(&self, _token: Bytes) -> Result<Caller, Refusal> {
        let user_id = self.users.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Caller {
            user_id,
            device_id: user_id,
        })
    }

    fn open_command(&self, command: pb::Command, _body: Bytes) -> Result<Answer, Refusal> {
        Err(Refusal::unknown(command as u32))
    }

    fn command(&self, _: Caller, command: pb::Command, _: Bytes) -> Result<Answer, Refusal> {
        Err(Refusal::unknown(command as u32))
    }

    fn register_links(&self, links: Vec<Link>) -> Result<Vec<NewestKey>, Refusal> {
        let newest = links.into_iter().map(|link| NewestKey {
            user_id: link.user_id,
            key: 1,
            reached: true,
            epoch: 1,
        });
        Ok(newest.collect())
    }

    fn drop_links(&self, _links: Vec<Link>) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Says where it listens, then serves until its launcher ends.
pub(crate) fn run(flags: Flags) -> anyhow::Result<()> {
    raise_descriptors()?;
    let runtime = Runtime::builder()
        .build()
        .context("the runtime cannot start")?;
    runtime.block_on(move || {
        let settings = Settings {
            rpc_address: "127.0.0.1:1".to_owned(),
            max_links: flags.links,
            limits: Limits::default(),
        };
        let access = Access::new(settings, Arc::new(Everybody::default()));
        let tls = match flags.over {
            Over::Tls => Some(certificate(&flags)?),
            Over::Plain | Over::Websocket => None,
        };
        let door = access.bind("127.0.0.1:0", tls)?;
        println!("{}", door.local_addr());
        door.serve().context("serving ended")
    })
}

/// One certificate and key for all pairs: whoever comes first makes them.
fn certificate(flags: &Flags) -> anyhow::Result<ServerTls> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    if !flags.certificate.exists() {
        fs::write(&flags.certificate, format!("{chain}{key}"))?;
    }
    let both = fs::read(&flags.certificate)?;
    Ok(ServerTls::from_pem(&both, &both)?)
}
