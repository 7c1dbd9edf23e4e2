//! `bench`: what things cost, measured.
//!
//! Knows:       how each measurement is asked for.   Does not know: how it is made.
//!
//! Read first: the file of the measurement.

mod connections;

use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Flags of `bench`.
#[derive(Args, Debug)]
pub(crate) struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Memory of idle links of terminals, over several processes
    Connections(connections::Flags),
    #[command(hide = true)]
    ConnectionsServer(connections::server::Flags),
    #[command(hide = true)]
    ConnectionsClient(connections::client::Flags),
}

/// Makes one measurement and prints its report.
pub(crate) fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    match flags.what {
        What::Connections(flags) => connections::run(&flags)?,
        What::ConnectionsServer(flags) => connections::server::run(flags)?,
        What::ConnectionsClient(flags) => connections::client::run(&flags)?,
    }
    Ok(ExitCode::SUCCESS)
}
