//! `cargo xtask soak`: random work for a long time; it fails if anything leaks.

use anyhow::Result;
use clap::Args;

use crate::bench;
use crate::steps;

#[derive(Args)]
pub(crate) struct Options {
    /// How long, in minutes
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// The seed of an earlier run; a new one when left out
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    steps::step(&mut steps::cargo(&[
        "build",
        "--release",
        "--package",
        "examples",
        "--bin",
        "soak",
    ]))?;
    let mut soak = std::process::Command::new(bench::release_binary("soak")?);
    soak.args(["--minutes", &options.minutes.to_string()]);
    if let Some(seed) = options.seed {
        soak.args(["--seed", &seed.to_string()]);
    }
    // The allocator (mallopt(3)) gives large buffers back at once: what is held is then what is in use, not what
    // was at a crowded moment.
    soak.env("MALLOC_MMAP_THRESHOLD_", "65536");
    steps::last_step(&mut soak)
}
