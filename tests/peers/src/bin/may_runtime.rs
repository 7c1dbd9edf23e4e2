//! The runtime benchmark on may: the same steps as `bench_runtime` of the examples where may has them,
//! the same result lines. Its channels have no bound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use clap::{Parser, ValueEnum};
use may::coroutine::{self, JoinHandle};
use may::go;
use may::sync::Mutex;
use may::sync::mpsc::channel;

/// Measure may's scheduler on one worker; one JSON line
#[derive(Parser)]
struct Flags {
    /// What to measure
    #[arg(value_enum)]
    what: What,
    /// How many yields, spawns, round trips, locks or timers
    #[arg(long)]
    count: usize,
    /// Coroutines that take turns yielding or want the mutex; pairs of coroutines with timers
    #[arg(long, default_value_t = 1)]
    tasks: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// `yield_now` through the scheduler and back
    Yield,
    /// Spawn an empty coroutine and join it
    Spawn,
    /// A value to another coroutine and back, through two channels
    PingPong,
    /// Lock a mutex that others wait for, yield, hand it over
    Mutex,
    /// Waits with a timeout that never comes
    Timers,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    may::config().set_workers(1);
    let Flags { what, count, tasks } = flags;
    let measured = go!(move || match what {
        What::Yield => yields(count, tasks),
        What::Spawn => spawns(count),
        What::PingPong => ping_pongs(count),
        What::Mutex => hand_offs(count, tasks),
        What::Timers => timers(count, tasks),
    });
    let seconds = join(measured)??;
    let each = seconds * 1e9 / count as f64;
    println!("{{\"count\":{count},\"seconds\":{seconds:.6},\"ns_each\":{each:.2}}}");
    Ok(())
}

/// Seconds for `count` yields, spread over `tasks` coroutines that take turns.
fn yields(count: usize, tasks: usize) -> Result<f64> {
    let turns = count / tasks;
    let started = Instant::now();
    let all = (0..tasks)
        .map(|_| go!(move || (0..turns).for_each(|_| coroutine::yield_now())))
        .collect();
    join_all(all)?;
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds for `count` times spawn and join.
fn spawns(count: usize) -> Result<f64> {
    let started = Instant::now();
    for _ in 0..count {
        join(go!(|| ()))?;
    }
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds for `count` round trips of a value.
fn ping_pongs(count: usize) -> Result<f64> {
    let (ping, pinged) = channel();
    let (pong, ponged) = channel();
    let echo = go!(move || pinged.iter().try_for_each(|value| pong.send(value)));
    let started = Instant::now();
    for value in 0..count {
        ping.send(value)?;
        ensure!(ponged.recv()? == value, "another value came back");
    }
    let seconds = started.elapsed().as_secs_f64();
    drop(ping);
    join(echo)??;
    Ok(seconds)
}

/// Seconds for `count` locks, each held over a yield while the other coroutines wait for it.
fn hand_offs(count: usize, tasks: usize) -> Result<f64> {
    let mutex = Arc::new(Mutex::new(0));
    let turns = count / tasks;
    let lock = |mutex: &Mutex<usize>| {
        let mut held = mutex.lock().map_err(|_| anyhow!("a holder panicked"))?;
        coroutine::yield_now();
        *held += 1;
        Ok(())
    };
    let started = Instant::now();
    let all = (0..tasks)
        .map(|_| {
            let mutex = mutex.clone();
            go!(move || (0..turns).try_for_each(|_| lock(&mutex)))
        })
        .collect();
    join_all(all)?.into_iter().collect::<Result<()>>()?;
    let locks = *mutex.lock().map_err(|_| anyhow!("a holder panicked"))?;
    ensure!(locks == turns * tasks, "a lock was lost");
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds for `count` receives with a timeout of a minute, each answered long before.
fn timers(count: usize, pairs: usize) -> Result<f64> {
    let turns = count / pairs / 2;
    let started = Instant::now();
    let mut all = Vec::new();
    for _ in 0..pairs {
        let (ping, pinged) = channel();
        let (pong, ponged) = channel();
        for (first, to, from) in [(true, ping, ponged), (false, pong, pinged)] {
            all.push(go!(move || {
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
            }));
        }
    }
    join_all(all)?.into_iter().collect::<Result<()>>()?;
    Ok(started.elapsed().as_secs_f64())
}

fn join<T>(handle: JoinHandle<T>) -> Result<T> {
    handle.join().map_err(|_| anyhow!("a coroutine panicked"))
}

fn join_all<T>(handles: Vec<JoinHandle<T>>) -> Result<Vec<T>> {
    handles.into_iter().map(join).collect()
}

const MINUTE: Duration = Duration::from_secs(60);
