//! A thousand blocking conversations on one OS thread.
//!
//! Each coroutine below opens a plain `std::net::TcpStream`, writes a request and blocks in `read`. The
//! server answers after a tenth of a second. One after the other that takes 100 s; here they all wait at
//! once, on one worker.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use clap::Parser;

/// Fetch from a slow server, many times at once, with blocking std::net on one thread
#[derive(Parser)]
struct Flags {
    /// Conversations at once
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// How long the server thinks
    #[arg(long, value_name = "MS", default_value_t = 100)]
    delay_ms: u64,
}

#[rpc_core::main(workers = 1)]
fn main() {
    let flags: Flags = examples::parse_flags();
    let delay = Duration::from_millis(flags.delay_ms);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| examples::fail(error));
    let addr = listener
        .local_addr()
        .unwrap_or_else(|error| examples::fail(error));
    rpc_core::spawn(move || serve(&listener, delay));
    let started = Instant::now();
    let mut fetches = Vec::new();
    for number in 1..=flags.count {
        fetches.push(rpc_core::spawn(move || fetch(addr)));
        if number.is_multiple_of(100) {
            // The kernel holds 128 connections for a listener of std, and drops the next for a second.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let mut failed = 0;
    for fetch in fetches {
        match fetch.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                eprintln!("error: {error}");
                failed += 1;
            }
            Err(error) => examples::fail(error),
        }
    }
    println!(
        "{} fetches that wait {delay:?} each took {:?} together on one thread, {failed} failed",
        flags.count,
        started.elapsed(),
    );
    std::process::exit(i32::from(failed > 0));
}

/// One blocking conversation.
fn fetch(addr: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.ends_with("slow but sure\n") {
        return Ok(());
    }
    Err(std::io::Error::other(format!(
        "an answer of {} bytes",
        answer.len()
    )))
}

/// The slow server: as blocking as the rest, one coroutine for each connection.
fn serve(listener: &TcpListener, delay: Duration) {
    for stream in listener.incoming() {
        rpc_core::spawn(move || -> std::io::Result<()> {
            let mut stream = stream?;
            let _request = stream.read(&mut [0; 512])?;
            std::thread::sleep(delay);
            stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 14\r\n\r\nslow but sure\n")
        });
    }
}
