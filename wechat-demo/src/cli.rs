//! The command line, and its one-line errors.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use wechat_demo::{access, checker, coordinator, dispatch, edge, logic, push, storage, wan};

use crate::{bench, chaos, chat, replay, simulate, takeout, transfer, up};

/// Exit status for a command line that cannot be understood.
const USAGE: u8 = 2;

/// A WeChat-style messaging backend: a cluster on one machine, terminals, and its roles one by one
#[derive(Debug, Parser)]
#[command(name = "wechat-demo", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// End, in order, when standard input ends: for processes that a launcher started
    #[arg(long, global = true, hide = true)]
    pub(crate) exit_with_parent: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a whole cluster here, with two accounts ready to chat
    Up(up::Flags),
    /// Chat in this terminal
    Chat(chat::Flags),
    /// Play a chat log through real terminals against a fresh cluster, and check every line
    Replay(replay::Flags),
    /// Write a store to a file, from one moment
    Export(transfer::Export),
    /// Make a store of a file that `export` wrote, with the same engine or another
    Import(transfer::Import),
    /// Write what the backend has of one account to a file, a JSON object a line
    Takeout(takeout::Flags),
    /// Measure
    Bench(bench::Flags),
    /// What the terminal's rules come to, on virtual time
    Simulate(simulate::Flags),
    /// Load a cluster, hurt it in every way there is, and judge what came of it
    Chaos(chaos::Flags),
    /// Judge histories of a run: nothing lost, doubled, reordered, invented
    Check(checker::read::Options),
    /// The access role: long links from terminals
    Access(access::Options),
    /// The logic role: the business
    Logic(logic::role::Options),
    /// The coordinator role: who is primary, who is there
    Coordinator(coordinator::role::Options),
    /// The storage role: a copy of the store, or ready to become one
    Storage(storage::role::Options),
    /// Make a disk the store that may lack what was acknowledged: for when no better one is left
    Promote(storage::promote::Options),
    /// Have a store's follower in another IDC serve it, or bring it back, and say what that cost
    Dr(storage::dr::Options),
    /// The push role: wakes devices that have no link, through their system's push service
    Push(push::role::Options),
    /// The network between places: distance, bandwidth, stalls, cuts
    Wan(wan::role::Options),
    /// The edge role: takes pictures, files and voice messages in, and gives them out
    Edge(edge::role::Options),
    /// The dispatch role: where a terminal should connect
    Dispatch(dispatch::role::Options),
}

/// The parsed command line; or how the process ends, after help or one line that says what to do.
pub(crate) fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            // Nobody reads it if standard output is gone.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        eprintln!("wechat-demo: {}", in_one_line(&error));
        ExitCode::from(USAGE)
    })
}

/// clap's first paragraph, without its heading, and where to read more.
fn in_one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "say what to do, for example `wechat-demo up`; see `wechat-demo --help`".to_owned();
    }
    let message = error.render().to_string();
    let paragraph = message.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    let line = words.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    format!("{line}; see `wechat-demo --help`")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_flag_is_one_line_that_names_it() {
        for (line, part) in [
            (&["wechat-demo", "up", "--nonsense"][..], "--nonsense"),
            (&["wechat-demo", "chat"], "--user"),
            (&["wechat-demo", "up", "--apns-topic", "t"], "--apns-key"),
            (
                &["wechat-demo", "push", "--listen", "l", "--storage", "s"],
                "apns",
            ),
            (&["wechat-demo", "replay"], "FILE"),
            (&["wechat-demo", "replay", "x", "--limit", "many"], "many"),
            (
                &["wechat-demo", "replay", "x", "--kill", "logic@200%"],
                "200",
            ),
            (&["wechat-demo"], "wechat-demo up"),
        ] {
            let error = Cli::try_parse_from(line).unwrap_err();
            let text = in_one_line(&error);
            assert!(text.contains(part) && !text.contains('\n'), "{text}");
        }
    }
}
