//! The runtime benchmark: what the scheduler costs, on one worker. `cargo xtask bench runtime` runs it
//! beside tokio and threads. Its last line is one JSON object.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use clap::{Parser, Subcommand};
use examples::memory_bytes;
use rpc_core::sync::{Mutex, Semaphore, channel};
use rpc_core::{Builder, JoinHandle, Runtime};

/// Measure the scheduler on one worker; one JSON line
#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    what: What,
    /// Whose thread-locals the coroutines see
    #[arg(long, value_enum, default_value_t = Identity::Own, global = true)]
    identity: Identity,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Identity {
    /// Their own
    Own,
    /// Their worker's
    Shared,
}

#[derive(Subcommand)]
enum What {
    /// `yield_now` through the scheduler and back
    Yield {
        /// Yields in all
        #[arg(long)]
        count: usize,
        /// Coroutines that take turns
        #[arg(long, default_value_t = 1)]
        tasks: usize,
    },
    /// Spawn an empty coroutine and join it
    Spawn {
        /// Spawns in all
        #[arg(long)]
        count: usize,
        /// Keep the thread-locals of the coroutine that ran before, as RPC handlers do
        #[arg(long)]
        reuse: bool,
    },
    /// A value to another coroutine and back, through two channels with a bound of one
    PingPong {
        /// Round trips in all
        #[arg(long)]
        count: usize,
    },
    /// Lock a mutex that others wait for, yield, hand it over
    Mutex {
        /// Locks in all
        #[arg(long)]
        count: usize,
        /// Coroutines that want it
        #[arg(long, default_value_t = 4)]
        tasks: usize,
    },
    /// Waits with a timeout that never comes: each sets a timer and cancels it
    Timers {
        /// Timers in all
        #[arg(long)]
        count: usize,
        /// Pairs of coroutines that pass a value to and fro; half of their timers are set at any time
        #[arg(long, default_value_t = 1000)]
        pairs: usize,
    },
    /// Coroutines that all wait at once
    Park {
        /// Coroutines in all
        #[arg(long)]
        count: usize,
    },
    /// GETs by unmodified ureq, one from each of `count` coroutines
    Gets {
        /// The server
        #[arg(long, value_name = "HOST:PORT")]
        addr: String,
        /// GETs at once
        #[arg(long, default_value_t = 1000)]
        count: usize,
    },
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let identity = match flags.identity {
        Identity::Own => rpc_core::Identity::Own,
        Identity::Shared => rpc_core::Identity::Shared,
    };
    let runtime = Runtime::builder().workers(1).identity(identity).build()?;
    let line = runtime.block_on(move || match flags.what {
        What::Yield { count, tasks } => Ok(each(count, yields(count, tasks)?)),
        What::Spawn { count, reuse } => Ok(each(count, spawns(count, reuse)?)),
        What::PingPong { count } => Ok(each(count, ping_pongs(count)?)),
        What::Mutex { count, tasks } => Ok(each(count, hand_offs(count, tasks)?)),
        What::Timers { count, pairs } => Ok(each(count, timers(count, pairs)?)),
        What::Park { count } => parks(count),
        What::Gets { addr, count } => gets(&addr, count),
    })?;
    println!("{line}");
    Ok(())
}

fn each(count: usize, seconds: f64) -> String {
    let each = seconds * 1e9 / count as f64;
    format!("{{\"count\":{count},\"seconds\":{seconds:.6},\"ns_each\":{each:.2}}}")
}

/// Seconds for `count` yields, spread over `tasks` coroutines that take turns.
fn yields(count: usize, tasks: usize) -> Result<f64> {
    let turns = count / tasks;
    let started = Instant::now();
    let coroutine = move || (0..turns).for_each(|_| rpc_core::yield_now());
    join_all((0..tasks).map(|_| rpc_core::spawn(coroutine)).collect())?;
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds for `count` times spawn and join.
fn spawns(count: usize, reuse: bool) -> Result<f64> {
    let started = Instant::now();
    for _ in 0..count {
        Builder::new()
            .reuse_thread_locals(reuse)
            .spawn(|| ())
            .join()
            .map_err(|error| anyhow!("{error}"))?;
    }
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds for `count` round trips of a value.
fn ping_pongs(count: usize) -> Result<f64> {
    let (ping, pinged) = channel(1);
    let (pong, ponged) = channel(1);
    let echo = rpc_core::spawn(move || pinged.iter().try_for_each(|value| pong.send(value)));
    let started = Instant::now();
    for value in 0..count {
        ping.send(value)?;
        ensure!(ponged.recv()? == value, "another value came back");
    }
    let seconds = started.elapsed().as_secs_f64();
    drop(ping);
    join_all(vec![echo])?
        .into_iter()
        .collect::<Result<(), _>>()?;
    Ok(seconds)
}

/// Seconds for `count` locks, each held over a yield while the other coroutines wait for it.
fn hand_offs(count: usize, tasks: usize) -> Result<f64> {
    let mutex = Arc::new(Mutex::new(0));
    let turns = count / tasks;
    let started = Instant::now();
    let all = (0..tasks)
        .map(|_| {
            let mutex = mutex.clone();
            rpc_core::spawn(move || {
                for _ in 0..turns {
                    let mut held = mutex.lock();
                    rpc_core::yield_now();
                    *held += 1;
                }
            })
        })
        .collect();
    join_all(all)?;
    ensure!(*mutex.lock() == turns * tasks, "a lock was lost");
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds for `count` receives with a timeout of a minute, each answered long before.
fn timers(count: usize, pairs: usize) -> Result<f64> {
    let turns = count / pairs / 2;
    let started = Instant::now();
    let all = (0..pairs)
        .flat_map(|_| {
            let (ping, pinged) = channel(1);
            let (pong, ponged) = channel(1);
            [(true, ping, ponged), (false, pong, pinged)]
        })
        .map(|(first, to, from)| {
            rpc_core::spawn(move || {
                for turn in 0..turns {
                    if first {
                        to.send(turn)?;
                    }
                    ensure!(from.recv_timeout(MINUTE)? == turn, "another value came");
                    if !first {
                        to.send(turn)?;
                    }
                }
                Ok(())
            })
        })
        .collect();
    join_all(all)?.into_iter().collect::<Result<()>>()?;
    Ok(started.elapsed().as_secs_f64())
}

const MINUTE: Duration = Duration::from_secs(60);

/// Bytes for each of `count` coroutines parked at once, the seconds to park them all, and the seconds
/// to wake and join them.
fn parks(count: usize) -> Result<String> {
    let before = memory_bytes();
    let gate = Arc::new(Semaphore::new(1));
    let closed = gate.acquire()?;
    let arrived = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let all = (0..count)
        .map(|_| {
            let (gate, arrived) = (gate.clone(), arrived.clone());
            Builder::new().reuse_thread_locals(true).spawn(move || {
                // Relaxed: a count, read by one that polls.
                arrived.fetch_add(1, Ordering::Relaxed);
                // The permit goes on to the next when it is dropped.
                gate.acquire().is_ok()
            })
        })
        .collect();
    while arrived.load(Ordering::Relaxed) < count {
        rpc_core::yield_now();
    }
    let parked = started.elapsed().as_secs_f64();
    let bytes = memory_bytes().saturating_sub(before) / count as u64;
    let started = Instant::now();
    drop(closed);
    ensure!(
        join_all(all)?.into_iter().all(|ok| ok),
        "a coroutine's wait failed"
    );
    let woken = started.elapsed().as_secs_f64();
    Ok(format!(
        "{{\"count\":{count},\"park_seconds\":{parked:.6},\"wake_seconds\":{woken:.6},\"bytes_each\":{bytes}}}"
    ))
}

/// Seconds for one GET from each of `count` coroutines at once, over connections opened before.
fn gets(addr: &str, count: usize) -> Result<String> {
    let ready = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Semaphore::new(1));
    let closed = gate.acquire()?;
    let all = (0..count)
        .map(|_| {
            let (ready, gate, url) = (ready.clone(), gate.clone(), format!("http://{addr}/"));
            rpc_core::spawn(move || {
                let agent = ureq::Agent::new_with_defaults();
                // Opens the connection, which the agent keeps; only the second GET is timed.
                let opened = get(&agent, &url);
                ready.fetch_add(1, Ordering::Relaxed);
                let open = gate.acquire().map(drop);
                open.is_ok() && opened.and_then(|()| get(&agent, &url)).is_ok()
            })
        })
        .collect();
    while ready.load(Ordering::Relaxed) < count {
        rpc_core::time::sleep(Duration::from_millis(1));
    }
    let started = Instant::now();
    drop(closed);
    let answered = join_all(all)?.into_iter().filter(|ok| *ok).count();
    let seconds = started.elapsed().as_secs_f64();
    let failed = count - answered;
    ensure!(answered > 0, "no GET to {addr} was answered");
    Ok(format!(
        "{{\"count\":{count},\"failed\":{failed},\"seconds\":{seconds:.6}}}"
    ))
}

fn get(agent: &ureq::Agent, url: &str) -> Result<(), ureq::Error> {
    agent.get(url).call()?.body_mut().read_to_string().map(drop)
}

fn join_all<T>(handles: Vec<JoinHandle<T>>) -> Result<Vec<T>> {
    let joined = handles.into_iter().map(JoinHandle::join);
    joined
        .map(|value| value.map_err(|error| anyhow!("a coroutine ended early: {error}")))
        .collect()
}
