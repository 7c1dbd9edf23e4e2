//! `bench`: what things cost, measured.
//!
//! Knows:       how each measurement is asked for.   Does not know: how it is made.
//!
//! Load is open-loop: a message is due at a time fixed beforehand, and its latency counts from then, however
//! late it could be sent (no coordinated omission). It runs in this process; its processor time is told apart
//! from the servers'. Beside it stands the disk's own append and fdatasync.
//!
//! Read first: the file of the measurement.

mod connections;
mod cost;
mod disk;
mod fanout;
mod ground;
mod messages;
mod numbers;
mod proximity;
mod wire;

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
    /// Durable messages between pairs, at a fixed rate
    Messages(messages::Load),
    /// Bytes of TCP payload for a question and for a message
    Wire(wire::Load),
    /// Connect time by carrier network through the wan relay, with dispatch and without
    Proximity(proximity::Load),
    /// Messages to a large group, until the last member has each
    Fanout(fanout::Load),
    /// Numbers given, and a shard with many people started again
    Numbers(numbers::Load),
    /// Memory of idle links of terminals, over several processes
    Connections(connections::Flags),
    #[command(hide = true)]
    ConnectionsServer(connections::server::Flags),
    #[command(hide = true)]
    ConnectionsClient(connections::client::Flags),
}

/// Makes one measurement and prints its report. A number is never a failure; what did not work is.
pub(crate) fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    match flags.what {
        What::Messages(load) => messages::run(&load)?,
        What::Wire(load) => wire::run(&load)?,
        What::Proximity(load) => proximity::run(&load)?,
        What::Fanout(load) => fanout::run(&load)?,
        What::Numbers(load) => numbers::run(&load)?,
        What::Connections(flags) => connections::run(&flags)?,
        What::ConnectionsServer(flags) => connections::server::run(flags)?,
        What::ConnectionsClient(flags) => connections::client::run(&flags)?,
    }
    Ok(ExitCode::SUCCESS)
}
