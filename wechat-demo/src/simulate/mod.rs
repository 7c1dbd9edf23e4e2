//! `simulate`: what the terminal's rules come to over hours and crowds, on virtual time.
//!
//! Knows:       the terminal's pure parts, models of a radio and of a crowd.
//! Does not know: sockets, clocks; the same seed gives the same numbers.
//!
//! Read first: `radio.rs`.

mod radio;
mod storm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};

/// Flags of `simulate`.
#[derive(Args, Debug)]
pub(crate) struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A phone's radio over a day: channel set-ups, bytes and energy of three heartbeat policies
    Radio(radio::Flags),
    /// A crowd of terminals after an access process restarts: attempts to connect, over time
    Storm(storm::Flags),
}

/// Where to put the plot.
#[derive(Args, Debug)]
struct Plot {
    /// Write a plot as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Plot {
    fn write(&self, draw: impl FnOnce() -> String) -> anyhow::Result<()> {
        let Some(path) = &self.svg else {
            return Ok(());
        };
        write(path, &draw())
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("\nplot: {}", path.display());
    Ok(())
}

/// Runs one simulation and prints its table.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    match &flags.what {
        What::Radio(flags) => radio::run(flags)?,
        What::Storm(flags) => storm::run(flags)?,
    }
    Ok(ExitCode::SUCCESS)
}
