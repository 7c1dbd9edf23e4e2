//! The load of the library benchmark: many connections opened, then one call on each at once.
//!
//! Knows: which libraries, a barrier, a clock. Does not know: what runs a caller. Threads and coroutines
//! take the same callers; each side is a program of its own.
//!
//! The result line: `open_seconds` from the first caller's start to the last open connection, log-in
//! or handshake included; `seconds` from the first call to the last answer.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Barrier, mpsc};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::calls::{self, Call};
use crate::room_for_descriptors;

/// The flags of both sides.
#[derive(clap::Args, Clone, Debug)]
pub struct Load {
    /// Whose calls
    #[arg(value_enum)]
    library: Library,
    /// The server
    #[arg(long, value_name = "HOST:PORT")]
    addr: SocketAddr,
    /// The certificate to trust, in DER; for ureq-tls
    #[arg(long)]
    certificate: Option<PathBuf>,
    /// Calls at once
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4000))]
    count: u32,
    /// How long the server is to take, where the caller says so
    #[arg(long, value_name = "SECONDS", default_value_t = 0.1)]
    wait: f64,
}

/// A library and how it is used.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Library {
    /// BLPOP by the redis driver
    Redis,
    /// SELECT SLEEP by the mysql driver
    Mysql,
    /// GET by ureq
    Ureq,
    /// GET by ureq inside rustls
    UreqTls,
    /// GET by libcurl
    Curl,
    /// BLPOP by the redis driver's asynchronous half, a tokio runtime for each connection
    Tokio,
}

impl Load {
    fn open(&self, caller: u32) -> Result<Call> {
        let (addr, wait) = (self.addr, self.wait);
        match self.library {
            Library::Redis => calls::redis(addr, &format!("nothing {caller}"), wait),
            Library::Tokio => calls::tokio_redis(addr, &format!("nothing {caller}"), wait),
            Library::Mysql => calls::mysql(addr, &format!("SELECT SLEEP({wait})")),
            Library::Ureq => calls::ureq(&format!("http://{addr}"), "/wait", None),
            Library::Curl => calls::curl(&format!("http://{addr}"), "/wait"),
            Library::UreqTls => {
                let path = self.certificate.as_ref().context("--certificate FILE")?;
                let trusted = std::fs::read(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                calls::ureq(&format!("https://{addr}"), "/wait", Some(&trusted))
            }
        }
    }
}

/// A caller, to be run on a thread of its own or what passes for one.
pub type Caller = Box<dyn FnOnce() + Send>;

/// What a caller saw: its connection open, its call begun and ended.
struct Seen {
    open: Instant,
    begun: Instant,
    ended: Instant,
    result: Result<String>,
}

/// Runs the load on what `start` starts; gives the result line.
///
/// # Errors
/// A caller cannot be started, or none of them got an answer.
pub fn run(load: &Load, start: impl Fn(Caller) -> Result<()>) -> Result<String> {
    room_for_descriptors()?;
    let all_open = Arc::new(Barrier::new(load.count as usize));
    let (tell, seen) = mpsc::channel();
    let started = Instant::now();
    for caller in 0..load.count {
        let (load, all_open, tell) = (load.clone(), Arc::clone(&all_open), tell.clone());
        start(Box::new(move || {
            let call = load.open(caller);
            let open = Instant::now();
            all_open.wait();
            let begun = Instant::now();
            let result = call.and_then(|mut call| call());
            let ended = Instant::now();
            // The receiver counts to the last caller.
            let _ = tell.send(Seen {
                open,
                begun,
                ended,
                result,
            });
        }))?;
    }
    drop(tell);
    let seen: Vec<Seen> = seen.iter().collect();
    let begun = seen.iter().map(|s| s.begun).min();
    let ended = seen.iter().map(|s| s.ended).max();
    let open = seen.iter().map(|s| s.open).max();
    let (begun, ended, open) = begun
        .zip(ended)
        .zip(open)
        .map(|((begun, ended), open)| (begun, ended, open))
        .context("no caller ended")?;
    let failures: Vec<_> = seen
        .iter()
        .filter_map(|s| s.result.as_ref().err())
        .collect();
    if let Some(first) = failures.first() {
        eprintln!("the first of {} failures: {first:#}", failures.len());
    }
    ensure!(failures.len() < seen.len(), "no call was answered");
    Ok(format!(
        "{{\"count\":{},\"failed\":{},\"seconds\":{:.6},\"open_seconds\":{:.6}}}",
        load.count,
        failures.len(),
        (ended - begun).as_secs_f64(),
        (open - started).as_secs_f64(),
    ))
}
