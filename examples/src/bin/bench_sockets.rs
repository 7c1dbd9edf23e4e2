//! The socket benchmark: an echo server in plain `std::net` on one worker, and what a hook costs on a
//! call that need not wait. `cargo xtask bench sockets` runs it beside tokio. Where it measures itself
//! its last line is one JSON object.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use rpc_core::{Builder, Runtime};

/// Measure hooked sockets on one worker
#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Write back what was read, a coroutine for each connection
    Server {
        /// Where to listen
        #[arg(long, value_name = "HOST:PORT")]
        addr: String,
        /// Bytes of each connection's buffer
        #[arg(long, default_value_t = 16 << 10)]
        buffer: usize,
    },
    /// Nanoseconds of a write and a read of one byte that need not wait: in a coroutine, and on an OS
    /// thread, where a hook is the system call
    Call {
        /// Pairs of calls in all
        #[arg(long, default_value_t = 1_000_000)]
        count: usize,
    },
}

fn main() -> Result<()> {
    let runtime = Runtime::builder().workers(1).build()?;
    match Flags::parse().what {
        What::Server { addr, buffer } => runtime.block_on(move || serve(&addr, buffer)),
        What::Call { count } => {
            println!("{}", calls(&runtime, count)?);
            Ok(())
        }
    }
}

fn serve(addr: &str, buffer: usize) -> Result<()> {
    let listener = TcpListener::bind(addr).with_context(|| format!("cannot listen on {addr}"))?;
    for stream in listener.incoming() {
        let stream = stream?;
        stream.set_nodelay(true)?;
        // A connection that fails ends alone.
        Builder::new()
            .reuse_thread_locals(true)
            .spawn(move || echo(stream, buffer).is_ok());
    }
    Ok(())
}

fn echo(mut stream: TcpStream, buffer: usize) -> std::io::Result<()> {
    let mut buffer = vec![0; buffer];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

/// Both sides in turns, so that a change of the processor's speed meets both.
fn calls(runtime: &Runtime, count: usize) -> Result<String> {
    let each = count / TURNS;
    let (mut hooked, mut bare) = (f64::MAX, f64::MAX);
    for _ in 0..TURNS {
        hooked = hooked.min(runtime.block_on(move || pairs(each))?);
        bare = bare.min(pairs(each)?);
    }
    let (hooked, bare) = (hooked * 1e9 / 2.0, bare * 1e9 / 2.0);
    Ok(format!(
        "{{\"count\":{count},\"hooked_ns\":{hooked:.1},\"bare_ns\":{bare:.1},\"bookkeeping_ns\":{:.1}}}",
        hooked - bare
    ))
}

/// Seconds for one write and one read.
fn pairs(count: usize) -> Result<f64> {
    let (mut near, mut far) = UnixStream::pair()?;
    let started = Instant::now();
    for _ in 0..count {
        near.write_all(b"x")?;
        far.read_exact(&mut [0])?;
    }
    Ok(started.elapsed().as_secs_f64() / count as f64)
}

/// Turns of each side, short enough that some of them are not disturbed; the best counts, for whatever
/// disturbs only adds.
const TURNS: usize = 1000;
