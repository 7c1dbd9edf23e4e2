//! Connections that idle: opens many to a server of another process, makes one call on each, and says what
//! each then costs the server.
//!
//! Memory is the server's anonymous resident memory (RssAnon), the difference before and after, once it
//! has not changed for two seconds. Its last line is one JSON object.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use examples::interop::TEST_CA;
use rpc_core::{Channel, ClientTls, Wire};

rpc_core::include_proto!("example");

/// Open many idle connections and measure what each costs the server
#[derive(Parser)]
struct Flags {
    /// The server, `bench_echo_server --tls`
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8100")]
    addr: String,
    /// Its process
    #[arg(long)]
    pid: u32,
    /// Connections to open
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    connections: u64,
    /// What is spoken
    #[arg(long, value_enum)]
    protocol: Protocol,
    /// Speak it inside TLS (not HTTP/1.1)
    #[arg(long)]
    tls: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Protocol {
    /// Nothing is said at all
    Nothing,
    #[value(name = "baidu_std")]
    BaiduStd,
    Grpc,
    Http1,
}

/// A connection that is kept open.
enum Held {
    Plain(#[expect(dead_code, reason = "held open")] TcpStream),
    Ours(#[expect(dead_code, reason = "held open")] Channel),
}

/// Connections opened before the first look: what the server makes once is then there.
const BEFORE: u64 = 100;
/// Memory that does not change for so long is taken for what idle connections hold.
const STEADY: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(20);

#[rpc_core::main]
fn main() {
    let flags: Flags = examples::parse_flags();
    let mut held = open(&flags, BEFORE).unwrap_or_else(|error| examples::fail(error));
    let before = steady(flags.pid);
    held.extend(open(&flags, flags.connections).unwrap_or_else(|error| examples::fail(error)));
    let after = steady(flags.pid);
    let bytes_each = (after - before) / flags.connections as f64;
    let line =
        serde_json::json!({ "connections": flags.connections, "bytes_each": bytes_each.round() });
    println!("{line}");
    drop(held);
}

fn open(flags: &Flags, count: u64) -> Result<Vec<Held>, rpc_core::Error> {
    (0..count).map(|_| one(flags)).collect()
}

fn one(flags: &Flags) -> Result<Held, rpc_core::Error> {
    let wire = match flags.protocol {
        Protocol::Nothing => return Ok(Held::Plain(TcpStream::connect(&flags.addr)?)),
        Protocol::Http1 => return Ok(Held::Plain(over_http(&flags.addr)?)),
        Protocol::BaiduStd => Wire::Prpc,
        Protocol::Grpc => Wire::Grpc,
    };
    let mut builder = Channel::builder(&flags.addr).protocol(wire);
    if flags.tls {
        builder = builder.tls(ClientTls::from_roots(TEST_CA)?);
    }
    let channel = builder.deadline(Duration::from_secs(10)).connect()?;
    let message = "x".repeat(100);
    let answer = EchoServiceClient::new(channel.clone()).echo(EchoRequest { message });
    answer.unwrap_or_else(|status| examples::fail(status));
    Ok(Held::Ours(channel))
}

fn over_http(addr: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr)?;
    let body = r#"{"message":"x"}"#;
    let length = body.len();
    let call = format!(
        "POST /example.EchoService/Echo HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(call.as_bytes())?;
    let mut answer = Vec::new();
    while !answer.ends_with(body.as_bytes()) {
        let mut piece = [0; 1024];
        match stream.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    Ok(stream)
}

/// The process's anonymous memory in bytes once it has settled.
fn steady(pid: u32) -> f64 {
    let began = Instant::now();
    let (mut last, mut since) = (anonymous(pid), Instant::now());
    while since.elapsed() < STEADY && began.elapsed() < LONGEST {
        sleep(Duration::from_millis(100));
        let now = anonymous(pid);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

fn anonymous(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.unwrap_or_else(|| examples::fail(format_args!("process {pid} is gone"))) * 1024.0
}
