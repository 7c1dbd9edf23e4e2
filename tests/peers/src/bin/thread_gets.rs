//! GETs by unmodified ureq from one operating-system thread each: what the coroutines of
//! `bench_runtime gets` replace.

use std::sync::{Arc, Barrier};
use std::time::Instant;

use clap::Parser;

/// Ask a slow server from many threads at once
#[derive(Parser)]
struct Flags {
    /// The server
    #[arg(long, value_name = "HOST:PORT")]
    addr: String,
    /// How many GETs at once
    #[arg(long, default_value_t = 1000)]
    count: usize,
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let barrier = Arc::new(Barrier::new(flags.count + 1));
    let mut threads = Vec::new();
    for _ in 0..flags.count {
        let (barrier, url) = (barrier.clone(), format!("http://{}/", flags.addr));
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        threads.push(thread.spawn(move || {
            let agent = ureq::Agent::new_with_defaults();
            // Opens the connection, which the agent keeps; only the second GET is timed.
            let opened = get(&agent, &url);
            barrier.wait();
            opened.and_then(|()| get(&agent, &url))
        })?);
    }
    barrier.wait();
    let started = Instant::now();
    let mut failed = 0;
    for thread in threads {
        let result = thread
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        failed += usize::from(result.is_err());
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{{\"count\":{},\"failed\":{failed},\"seconds\":{seconds:.6}}}",
        flags.count
    );
    Ok(())
}

fn get(agent: &ureq::Agent, url: &str) -> Result<(), ureq::Error> {
    agent.get(url).call()?.body_mut().read_to_string().map(drop)
}
