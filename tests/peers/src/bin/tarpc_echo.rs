//! tarpc in the RPC benchmark, with bincode over TCP: the server answers what it was sent; the client is a
//! closed loop of `inflight` callers on each connection.
//!
//! One thread each, as for tonic.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use futures::{StreamExt, future};
use peers::counting::Counting;
use peers::{FIGURES, Load, Look, Phase, Seen};
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context, serde_transport};

/// The echo service of the RPC benchmark over tarpc
#[derive(Parser)]
enum Flags {
    /// Answer what was sent
    Server {
        /// Where to listen
        #[arg(long, value_name = "HOST:PORT")]
        addr: String,
    },
    /// Call and measure
    Client {
        #[command(flatten)]
        load: Load,
    },
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What is called.
#[tarpc::service]
trait Echo {
    /// Answers what it was sent.
    async fn echo(message: String) -> String;
}

#[derive(Clone)]
struct Answering;

impl Echo for Answering {
    async fn echo(self, _: context::Context, message: String) -> String {
        match message == FIGURES {
            true => peers::figures(0),
            false => message,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Flags::parse() {
        Flags::Server { addr } => serve(&addr).await,
        Flags::Client { load } => measure(&load).await,
    }
}

async fn serve(addr: &str) -> anyhow::Result<()> {
    let mut listener = serde_transport::tcp::listen(addr, Bincode::default).await?;
    while let Some(transport) = listener.next().await {
        let transport = transport?;
        transport.get_ref().set_nodelay(true)?;
        let channel = BaseChannel::with_defaults(transport);
        let calls = channel.execute(Answering.serve()).for_each(|call| {
            tokio::spawn(call);
            future::ready(())
        });
        tokio::spawn(calls);
    }
    Ok(())
}

async fn measure(load: &Load) -> anyhow::Result<()> {
    let phase = Arc::new(Phase::default());
    let (mut callers, mut connections, mut asker) = (Vec::new(), Vec::new(), None);
    for _ in 0..load.connections {
        let transport = serde_transport::tcp::connect(&load.addr, Bincode::default).await?;
        transport.get_ref().set_nodelay(true)?;
        let client = EchoClient::new(client::Config::default(), transport).spawn();
        let seen = Arc::new(Mutex::new(Seen::default()));
        for _ in 0..load.inflight {
            let (phase, seen) = (phase.clone(), seen.clone());
            callers.push(tokio::spawn(call(
                client.clone(),
                phase,
                seen,
                load.payload,
            )));
        }
        connections.push(seen);
        asker.get_or_insert(client);
    }
    tokio::time::sleep(Duration::from_secs_f64(load.warmup)).await;
    let asker = asker.ok_or_else(|| anyhow::anyhow!("no connection was asked for"))?;
    let look = async || Look::new(&asker.echo(context::current(), FIGURES.to_owned()).await?);
    let before = look().await?;
    let window = phase.begin();
    tokio::time::sleep(Duration::from_secs_f64(load.seconds)).await;
    let (seconds, cpu) = phase.end(&window);
    for caller in callers {
        caller.await?;
    }
    let mut all = Seen::default();
    for seen in &connections {
        all.add(&seen.lock().unwrap_or_else(PoisonError::into_inner));
    }
    let looks = [before, look().await?];
    println!("{}", all.line_with(load, seconds, cpu, looks));
    Ok(())
}

async fn call(client: EchoClient, phase: Arc<Phase>, seen: Arc<Mutex<Seen>>, payload: usize) {
    let message = "x".repeat(payload);
    while !phase.is_over() {
        let started = Instant::now();
        let result = client.echo(context::current(), message.clone()).await;
        if phase.is_measuring() {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(_) => seen.answered(started.elapsed()),
                Err(_) => seen.failed(),
            }
        }
    }
}
