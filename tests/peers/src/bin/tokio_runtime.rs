//! The runtime benchmark on tokio: the same steps as `bench_runtime` of the examples, the same
//! result lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::channel;
use tokio::sync::{Mutex, Semaphore};

/// Measure tokio's scheduler on one worker; one JSON line
#[derive(Parser)]
struct Flags {
    /// What to measure
    #[arg(value_enum)]
    what: What,
    /// Which of tokio's runtimes
    #[arg(long, value_enum, default_value_t = Flavor::Current)]
    flavor: Flavor,
    /// How many yields, spawns, round trips, locks, timers or parked tasks
    #[arg(long)]
    count: usize,
    /// Tasks that take turns yielding or want the mutex; pairs of tasks with timers
    #[arg(long, default_value_t = 1)]
    tasks: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// `yield_now` through the scheduler and back
    Yield,
    /// Spawn an empty task and await it
    Spawn,
    /// A value to another task and back, through two channels with a bound of one
    PingPong,
    /// Lock a mutex that others wait for, yield, hand it over
    Mutex,
    /// Waits with a timeout that never comes
    Timers,
    /// Tasks that all wait at once
    Park,
}

#[derive(Clone, Copy, ValueEnum)]
enum Flavor {
    /// The current-thread runtime
    Current,
    /// The multi-thread runtime with one worker
    Multi,
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let runtime = match flags.flavor {
        Flavor::Current => Builder::new_current_thread().enable_time().build()?,
        Flavor::Multi => Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()?,
    };
    match flags.what {
        What::Yield => print_each(&flags, yields(&runtime, flags.count, flags.tasks)?),
        What::Spawn => print_each(&flags, spawns(&runtime, flags.count)?),
        What::PingPong => print_each(&flags, ping_pongs(&runtime, flags.count)?),
        What::Mutex => print_each(&flags, hand_offs(&runtime, flags.count, flags.tasks)?),
        What::Timers => print_each(&flags, timers(&runtime, flags.count, flags.tasks)?),
        What::Park => parks(&runtime, flags.count)?,
    }
    Ok(())
}

fn print_each(flags: &Flags, seconds: f64) {
    let each = seconds * 1e9 / flags.count as f64;
    println!(
        "{{\"count\":{},\"seconds\":{seconds:.6},\"ns_each\":{each:.2}}}",
        flags.count
    );
}

/// Seconds for `count` yields, spread over `tasks` that take turns.
fn yields(runtime: &Runtime, count: usize, tasks: usize) -> anyhow::Result<f64> {
    let turns = count / tasks;
    runtime.block_on(runtime.spawn(async move {
        let started = Instant::now();
        let all: Vec<_> = (0..tasks)
            .map(|_| {
                tokio::spawn(async move {
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for task in all {
            task.await?;
        }
        Ok(started.elapsed().as_secs_f64())
    }))?
}

/// Seconds for `count` times spawn and await.
fn spawns(runtime: &Runtime, count: usize) -> anyhow::Result<f64> {
    runtime.block_on(runtime.spawn(async move {
        let started = Instant::now();
        for _ in 0..count {
            tokio::spawn(async {}).await?;
        }
        Ok(started.elapsed().as_secs_f64())
    }))?
}

/// Seconds for `count` round trips of a value.
fn ping_pongs(runtime: &Runtime, count: usize) -> anyhow::Result<f64> {
    runtime.block_on(runtime.spawn(async move {
        let (ping, mut pinged) = channel(1);
        let (pong, mut ponged) = channel(1);
        let echo = tokio::spawn(async move {
            while let Some(value) = pinged.recv().await {
                pong.send(value).await?;
            }
            anyhow::Ok(())
        });
        let started = Instant::now();
        for value in 0..count {
            ping.send(value).await?;
            anyhow::ensure!(
                ponged.recv().await == Some(value),
                "another value came back"
            );
        }
        let seconds = started.elapsed().as_secs_f64();
        drop(ping);
        echo.await??;
        Ok(seconds)
    }))?
}

/// Seconds for `count` locks, each held over a yield while the other tasks wait for it.
fn hand_offs(runtime: &Runtime, count: usize, tasks: usize) -> anyhow::Result<f64> {
    let turns = count / tasks;
    runtime.block_on(runtime.spawn(async move {
        let mutex = Arc::new(Mutex::new(0));
        let started = Instant::now();
        let all: Vec<_> = (0..tasks)
            .map(|_| {
                let mutex = mutex.clone();
                tokio::spawn(async move {
                    for _ in 0..turns {
                        let mut held = mutex.lock().await;
                        tokio::task::yield_now().await;
                        *held += 1;
                    }
                })
            })
            .collect();
        for task in all {
            task.await?;
        }
        anyhow::ensure!(*mutex.lock().await == turns * tasks, "a lock was lost");
        Ok(started.elapsed().as_secs_f64())
    }))?
}

/// Seconds for `count` receives with a timeout of a minute, each answered long before.
fn timers(runtime: &Runtime, count: usize, pairs: usize) -> anyhow::Result<f64> {
    let turns = count / pairs / 2;
    runtime.block_on(runtime.spawn(async move {
        let started = Instant::now();
        let mut all = Vec::new();
        for _ in 0..pairs {
            let (ping, pinged) = channel(1);
            let (pong, ponged) = channel(1);
            for (first, to, mut from) in [(true, ping, ponged), (false, pong, pinged)] {
                all.push(tokio::spawn(async move {
                    for turn in 0..turns {
                        if first {
                            to.send(turn).await?;
                        }
                        let value = tokio::time::timeout(MINUTE, from.recv()).await?;
                        anyhow::ensure!(value == Some(turn), "another value came");
                        if !first {
                            to.send(turn).await?;
                        }
                    }
                    Ok(())
                }));
            }
        }
        for task in all {
            task.await??;
        }
        Ok(started.elapsed().as_secs_f64())
    }))?
}

const MINUTE: Duration = Duration::from_secs(60);

/// Bytes for each of `count` tasks parked at once, and the seconds to park and to wake them all.
fn parks(runtime: &Runtime, count: usize) -> anyhow::Result<()> {
    let before = peers::memory_bytes();
    runtime.block_on(runtime.spawn(async move {
        let gate = Arc::new(Semaphore::new(1));
        let closed = gate.acquire().await?;
        let arrived = Arc::new(AtomicUsize::new(0));
        let started = Instant::now();
        let all: Vec<_> = (0..count)
            .map(|_| {
                let (gate, arrived) = (gate.clone(), arrived.clone());
                tokio::spawn(async move {
                    // Relaxed: a count, read by one that polls.
                    arrived.fetch_add(1, Ordering::Relaxed);
                    // The permit goes on to the next when it is dropped.
                    gate.acquire().await.map(drop)
                })
            })
            .collect();
        while arrived.load(Ordering::Relaxed) < count {
            tokio::task::yield_now().await;
        }
        let parked = started.elapsed().as_secs_f64();
        let bytes = peers::memory_bytes().saturating_sub(before) / count as u64;
        let started = Instant::now();
        drop(closed);
        for task in all {
            task.await??;
        }
        let woken = started.elapsed().as_secs_f64();
        println!(
            "{{\"count\":{count},\"park_seconds\":{parked:.6},\"wake_seconds\":{woken:.6},\"bytes_each\":{bytes}}}"
        );
        anyhow::Ok(())
    }))?
}
