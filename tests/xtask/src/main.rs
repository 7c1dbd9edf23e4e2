//! `cargo xtask`: the commands of the workspace that need more than cargo.
//!
//! Knows: cargo, the system's package manager, where binaries lie, how to measure a process.
//! Does not know: any of the workspace's types; it drives programs from outside.

mod bench;
mod packages;
mod protos;
mod prove;
mod soak;
mod steps;
mod test;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "The commands of the workspace that need more than cargo"
)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install the system packages the tests need if they are missing, then run every test
    Test(test::Options),
    /// Measure ours and the peers in the same run, and write target/bench/report.md
    Bench(bench::Options),
    /// Generate and check every service of Google's public schemas (npm's google-proto-files)
    Protos(protos::Options),
    /// Replay a chat log under kills, hurt a cluster for ten minutes, and write what the checker says to docs/proof.md
    Prove(prove::Options),
    /// Spawn, cancel, read, write and close at random for a long time; fail if anything leaks
    Soak(soak::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Task::Test(options) => test::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Protos(options) => protos::run(&options),
        Task::Prove(options) => prove::run(&options),
        Task::Soak(options) => soak::run(&options),
    }
}
