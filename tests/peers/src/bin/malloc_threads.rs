//! The heap of many operating-system threads: what the coroutines of `bench_malloc` compare with.

use std::sync::{Arc, Barrier};
use std::time::Instant;

use clap::Parser;

/// Allocate and free from many threads at once
#[derive(Parser)]
struct Flags {
    /// Threads at once
    #[arg(long)]
    count: usize,
    /// How often each allocates and frees, giving way to the others in between
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    // As many threads that allocate nothing: stacks and thread blocks are not the subject.
    let (_, before) = run(flags.count, 0)?;
    let (seconds, held) = run(flags.count, flags.rounds)?;
    let pairs = flags.count * flags.rounds * PAIRS_A_ROUND;
    println!(
        "{{\"count\":{},\"ns_each\":{:.2},\"bytes_each\":{:.1}}}",
        flags.count,
        seconds * 1e9 / pairs as f64,
        held.saturating_sub(before) as f64 / flags.count as f64
    );
    Ok(())
}

/// Seconds that `count` threads take, and the bytes this process holds when all are done and none has ended.
fn run(count: usize, rounds: usize) -> anyhow::Result<(f64, u64)> {
    let barrier = Arc::new(Barrier::new(count + 1));
    let mut threads = Vec::new();
    for _ in 0..count {
        let barrier = Arc::clone(&barrier);
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        threads.push(thread.spawn(move || {
            barrier.wait();
            for _ in 0..rounds {
                allocate_and_free();
                std::thread::yield_now();
            }
            barrier.wait();
            barrier.wait();
        })?);
    }
    barrier.wait();
    let started = Instant::now();
    barrier.wait();
    let seconds = started.elapsed().as_secs_f64();
    let held = peers::memory_bytes();
    barrier.wait();
    for thread in threads {
        let ended = thread.join();
        ended.map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    }
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
