//! The gRPC load generator: a closed loop of `inflight` callers on each tonic channel.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use peers::counting::Counting;
use peers::proto::EchoRequest;
use peers::proto::echo_service_client::EchoServiceClient;
use peers::{FIGURES, Load, Look, Phase, Seen};
use tonic::transport::{Channel, Endpoint};

/// Load a gRPC example.EchoService and measure it
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    load: Load,
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let load = Flags::parse().load;
    let phase = Arc::new(Phase::default());
    let (mut callers, mut connections, mut asker) = (Vec::new(), Vec::new(), None);
    for _ in 0..load.connections {
        let endpoint = Endpoint::from_shared(format!("http://{}", load.addr))?.tcp_nodelay(true);
        let channel = endpoint.connect().await?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        for _ in 0..load.inflight {
            let client = EchoServiceClient::new(channel.clone());
            callers.push(tokio::spawn(call(
                client,
                phase.clone(),
                seen.clone(),
                load.payload,
            )));
        }
        connections.push(seen);
        asker.get_or_insert_with(|| EchoServiceClient::new(channel));
    }
    tokio::time::sleep(Duration::from_secs_f64(load.warmup)).await;
    let mut asker = asker.ok_or_else(|| anyhow::anyhow!("no connection was asked for"))?;
    let mut look = async || {
        let message = FIGURES.to_owned();
        Look::new(
            &asker
                .echo(EchoRequest { message })
                .await?
                .into_inner()
                .message,
        )
    };
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
    println!("{}", all.line_with(&load, seconds, cpu, looks));
    Ok(())
}

async fn call(
    mut client: EchoServiceClient<Channel>,
    phase: Arc<Phase>,
    seen: Arc<Mutex<Seen>>,
    payload: usize,
) {
    let message = "x".repeat(payload);
    while !phase.is_over() {
        let started = Instant::now();
        let result = client
            .echo(EchoRequest {
                message: message.clone(),
            })
            .await;
        if phase.is_measuring() {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(_) => seen.answered(started.elapsed()),
                Err(_) => seen.failed(),
            }
        }
    }
}
