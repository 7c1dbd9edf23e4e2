//! The socket benchmark's peer, an echo server on tokio's `current_thread`, and the load for both: one
//! thread that sends back whatever comes, so that it costs less than any server.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use peers::{Load, cpu_seconds};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An echo server on tokio, and the load for echo servers
#[derive(Parser)]
enum Flags {
    /// Write back what was read, a task for each connection
    Server {
        /// Where to listen
        #[arg(long, value_name = "HOST:PORT")]
        addr: String,
        /// Bytes of each connection's buffer
        #[arg(long, default_value_t = 16 << 10)]
        buffer: usize,
    },
    /// Keep `inflight` messages of `payload` bytes on the way on each connection
    Load {
        #[command(flatten)]
        load: Load,
    },
}

fn main() -> Result<()> {
    match Flags::parse() {
        Flags::Server { addr, buffer } => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(serve(&addr, buffer)),
        Flags::Load { load } => {
            println!("{}", measure(&load)?);
            Ok(())
        }
    }
}

async fn serve(addr: &str, buffer: usize) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(addr).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A connection that fails ends alone.
        tokio::spawn(async move { echo(stream, buffer).await.is_ok() });
    }
}

async fn echo(mut stream: tokio::net::TcpStream, buffer: usize) -> std::io::Result<()> {
    let mut buffer = vec![0; buffer];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n]).await?,
        }
    }
}

/// The result line: messages that came back while measuring, seconds, own CPU seconds.
fn measure(load: &Load) -> Result<String> {
    let address: SocketAddr = load.addr.parse().context("an address, not a name")?;
    let mut poll = Poll::new()?;
    let mut streams = Vec::new();
    for place in 0..load.connections {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        (&stream).write_all(&vec![b'x'; load.payload * load.inflight])?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry()
            .register(&mut stream, Token(place), Interest::READABLE)?;
        streams.push(stream);
    }
    let warm = Instant::now() + Duration::from_secs_f64(load.warmup);
    let mut buffer = vec![0; 64 << 10];
    reflect(&mut poll, &mut streams, &mut buffer, warm)?;
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let until = began + Duration::from_secs_f64(load.seconds);
    let bytes = reflect(&mut poll, &mut streams, &mut buffer, until)?;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let messages = bytes as f64 / load.payload as f64;
    Ok(format!(
        "{{\"connections\":{},\"inflight\":{},\"payload\":{},\"messages\":{messages:.0},\"seconds\":{seconds:.3},\"rate\":{:.0},\"client_cpu_share\":{:.2}}}",
        load.connections,
        load.inflight,
        load.payload,
        messages / seconds,
        cpu / seconds,
    ))
}

/// Sends back what comes, until `until`; the bytes that came.
fn reflect(
    poll: &mut Poll,
    streams: &mut [TcpStream],
    buffer: &mut [u8],
    until: Instant,
) -> Result<usize> {
    let mut events = Events::with_capacity(1024);
    let mut bytes = 0;
    while Instant::now() < until {
        poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        for event in &events {
            let stream = &mut streams[event.token().0];
            // A short read is the last: the next bytes bring the next event.
            loop {
                let n = match stream.read(buffer) {
                    Ok(0) => bail!("the server closed a connection"),
                    Ok(n) => n,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                };
                bytes += n;
                // What is on the way fits into the sockets' buffers.
                stream.write_all(&buffer[..n]).context("cannot send back")?;
                if n < buffer.len() {
                    break;
                }
            }
        }
    }
    Ok(bytes)
}
