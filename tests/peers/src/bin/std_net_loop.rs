//! The floor under every RPC figure: frames of a fixed size over plain `std::net`, a thread per
//! connection, no protocol. Figures from different days compare by their ratio to this one.
//!
//! The client keeps `inflight` frames on the way: it writes a frame for each that came back, all of
//! a read's in one write. The server writes back what it read.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use peers::{Load, Phase, Seen};

/// A bare echo loop over std::net
#[derive(Parser)]
enum Flags {
    /// Write back what was read
    Server {
        /// Where to listen
        #[arg(long, value_name = "HOST:PORT")]
        addr: String,
    },
    /// Keep frames of `payload` bytes on the way
    Client {
        #[command(flatten)]
        load: Load,
    },
}

fn main() -> anyhow::Result<()> {
    match Flags::parse() {
        Flags::Server { addr } => serve(&addr),
        Flags::Client { load } => measure(&load),
    }
}

fn serve(addr: &str) -> anyhow::Result<()> {
    for stream in TcpListener::bind(addr)?.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

fn measure(load: &Load) -> anyhow::Result<()> {
    let phase = Arc::new(Phase::default());
    let mut callers = Vec::new();
    for _ in 0..load.connections {
        let stream = TcpStream::connect(&load.addr)?;
        stream.set_nodelay(true)?;
        let (phase, load) = (phase.clone(), load.clone());
        callers.push(std::thread::spawn(move || exchange(stream, &load, &phase)));
    }
    std::thread::sleep(Duration::from_secs_f64(load.warmup));
    let window = phase.begin();
    std::thread::sleep(Duration::from_secs_f64(load.seconds));
    let (seconds, cpu) = phase.end(&window);
    let mut all = Seen::default();
    for caller in callers {
        all.add(
            &caller
                .join()
                .map_err(|_| anyhow::anyhow!("a connection's thread panicked"))??,
        );
    }
    println!("{}", all.line(load, seconds, cpu));
    Ok(())
}

fn exchange(mut stream: TcpStream, load: &Load, phase: &Phase) -> std::io::Result<Seen> {
    let mut seen = Seen::default();
    let frames = vec![b'x'; load.payload * load.inflight];
    let mut buffer = vec![0; 64 << 10];
    let mut sent: VecDeque<Instant> = VecDeque::with_capacity(load.inflight);
    stream.write_all(&frames)?;
    sent.extend(std::iter::repeat_n(Instant::now(), load.inflight));
    let mut part = 0;
    while !phase.is_over() {
        let read = part + stream.read(&mut buffer)?;
        part = read % load.payload;
        let (back, now) = (read / load.payload, Instant::now());
        for began in sent.drain(..back) {
            if phase.is_measuring() {
                seen.answered(now - began);
            }
        }
        stream.write_all(&frames[..back * load.payload])?;
        sent.extend(std::iter::repeat_n(now, back));
    }
    Ok(seen)
}
