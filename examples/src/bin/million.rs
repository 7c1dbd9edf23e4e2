//! A million coroutines that all wait at once, under the kernel's default limits.
//!
//! ```text
//! cargo run --release --bin million
//! cargo run --release --bin million -- --count 200000 --identity own
//! ```
//! Each has a stack of its own with a guard below; a page of it is in memory. Under own identity each has
//! its own thread-locals as well, about 5 KiB. The figures count everything that the program holds: stacks,
//! thread-locals, handles, queues, and the kernel's page tables.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use clap::{Parser, ValueEnum};
use rpc_core::sync::Semaphore;
use rpc_core::{Builder, Runtime};

/// Lets many coroutines wait at once and says what they cost
#[derive(Parser)]
struct Flags {
    /// Coroutines in all
    #[arg(long, default_value_t = 1_000_000)]
    count: usize,
    /// Whose thread-locals they see
    #[arg(long, value_enum, default_value_t = Identity::Shared)]
    identity: Identity,
    /// KiB of address space for each stack
    #[arg(long, default_value_t = 64)]
    stack: usize,
    /// Print one JSON object instead of sentences
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Identity {
    /// Their own: each is a thread to every library
    Own,
    /// Their worker's
    Shared,
}

/// What was found.
struct Figures {
    count: usize,
    /// Bytes for each while all wait.
    bytes: u64,
    /// Mappings of the process while all wait.
    mappings: usize,
    /// From the first spawn until all wait.
    park: Duration,
    /// From the first wake-up until all have ended.
    wake: Duration,
    /// Bytes for each that are still held after their stacks were given back.
    left: u64,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let identity = match flags.identity {
        Identity::Own => rpc_core::Identity::Own,
        Identity::Shared => rpc_core::Identity::Shared,
    };
    let runtime = Runtime::builder()
        .workers(1)
        .identity(identity)
        .stack_size(flags.stack << 10)
        .build()?;
    let before = memory();
    let mut figures = runtime.block_on(move || wait_together(flags.count, before))?;
    rpc_core::trim_stacks();
    figures.left = memory().saturating_sub(before) / figures.count as u64;
    if flags.json {
        println!("{}", figures.json());
    } else {
        println!("{}", figures.text());
    }
    Ok(())
}

/// Runs on a coroutine: starts `count` others, each of which waits at a gate, then opens it.
fn wait_together(count: usize, before: u64) -> Result<Figures> {
    let gate = Arc::new(Semaphore::new(1));
    let closed = gate.acquire()?;
    let arrived = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let (gate, arrived) = (gate.clone(), arrived.clone());
        let coroutine = Builder::new().reuse_thread_locals(true).spawn(move || {
            // Relaxed: a count, read by one that polls.
            arrived.fetch_add(1, Ordering::Relaxed);
            // The permit goes on to the next when it is dropped.
            gate.acquire().map(drop)
        });
        all.push(coroutine);
    }
    while arrived.load(Ordering::Relaxed) < count {
        rpc_core::yield_now();
    }
    let park = started.elapsed();
    let bytes = memory().saturating_sub(before) / count as u64;
    let mappings = fs::read_to_string("/proc/self/maps")?.lines().count();
    let started = Instant::now();
    drop(closed);
    for handle in all {
        let outcome = handle.join().map_err(|error| anyhow!("{error}"))?;
        ensure!(outcome.is_ok(), "a coroutine's wait was cut");
    }
    Ok(Figures {
        count,
        bytes,
        mappings,
        park,
        wake: started.elapsed(),
        left: 0,
    })
}

impl Figures {
    fn text(&self) -> String {
        format!(
            "{} coroutines waited at once: {} bytes each, {} mappings in all\n\
             {:.2} s until all waited, {:.2} s until all had ended; {} bytes each are left",
            self.count,
            self.bytes,
            self.mappings,
            self.park.as_secs_f64(),
            self.wake.as_secs_f64(),
            self.left
        )
    }

    fn json(&self) -> String {
        format!(
            "{{\"count\":{},\"bytes_each\":{},\"mappings\":{},\"park_seconds\":{:.6},\"wake_seconds\":{:.6},\"bytes_left_each\":{}}}",
            self.count,
            self.bytes,
            self.mappings,
            self.park.as_secs_f64(),
            self.wake.as_secs_f64(),
            self.left
        )
    }
}

/// Bytes this process holds: resident pages and page tables (VmRSS + VmPTE).
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status
        .lines()
        .filter(|l| l.starts_with("VmRSS:") || l.starts_with("VmPTE:"));
    held.filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum::<u64>()
        * 1024
}
