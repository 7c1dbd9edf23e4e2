//! The malloc benchmark: what the heap costs when many coroutines use it, each of which the C library
//! takes for a thread. `cargo xtask bench runtime` runs it beside threads. Its last line is one JSON object.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use clap::Parser;
use examples::memory_bytes;
use rpc_core::sync::Barrier;
use rpc_core::{JoinHandle, Runtime};

/// Allocate and free from many coroutines on one worker; one JSON line
#[derive(Parser)]
struct Flags {
    /// Coroutines at once
    #[arg(long)]
    count: usize,
    /// How often each allocates and frees, taking turns with the others
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let runtime = Runtime::builder().workers(1).build()?;
    let line = runtime.block_on(move || {
        // As many coroutines that allocate nothing: stacks and thread blocks are not the subject.
        let (_, before) = run(flags.count, 0)?;
        let (seconds, held) = run(flags.count, flags.rounds)?;
        let pairs = flags.count * flags.rounds * PAIRS_A_ROUND;
        let bytes_each = held.saturating_sub(before) as f64 / flags.count as f64;
        anyhow::Ok(format!(
            "{{\"count\":{},\"ns_each\":{:.2},\"bytes_each\":{bytes_each:.1}}}",
            flags.count,
            seconds * 1e9 / pairs as f64
        ))
    })?;
    println!("{line}");
    Ok(())
}

/// Seconds that `count` coroutines take, and the bytes this process holds when all are done and none has
/// ended.
fn run(count: usize, rounds: usize) -> Result<(f64, u64)> {
    let done = Arc::new(Barrier::new(count + 1));
    let all: Vec<_> = (0..count)
        .map(|_| {
            let done = Arc::clone(&done);
            rpc_core::spawn(move || {
                done.wait();
                for _ in 0..rounds {
                    allocate_and_free();
                    rpc_core::yield_now();
                }
                done.wait();
                done.wait();
            })
        })
        .collect();
    done.wait();
    let started = Instant::now();
    done.wait();
    let seconds = started.elapsed().as_secs_f64();
    let held = memory_bytes();
    done.wait();
    let joined = all.into_iter().map(JoinHandle::join);
    joined
        .collect::<Result<Vec<()>, _>>()
        .map_err(|error| anyhow!("a coroutine ended early: {error}"))?;
    Ok((seconds, held))
}

/// Seven chunks of each of sixteen sizes, at once and back again: what fills malloc's per-thread cache.
fn allocate_and_free() {
    for size in (24..1000).step_by(64) {
        let chunks: [Vec<u8>; CHUNKS] = std::array::from_fn(|_| {
            let mut chunk = Vec::with_capacity(size);
            chunk.push(1);
            std::hint::black_box(chunk)
        });
        drop(chunks);
    }
}

const CHUNKS: usize = 7;
const PAIRS_A_ROUND: usize = 16 * CHUNKS;
