//! The `wechat-demo` command: one binary, a role per subcommand.

mod bench;
mod chaos;
mod chat;
mod cli;
mod page;
mod replay;
mod simulate;
mod svg;
mod takeout;
mod transfer;
mod up;

use std::process::ExitCode;
use std::time::Duration;

use wechat_demo::cluster::parent;
use wechat_demo::{access, checker, coordinator, dispatch, edge, logic, push, storage, wan};

use cli::Command;

/// Time a role gets to drain after its launcher is gone.
const LAST_DRAIN: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    write_traces();
    if cli.exit_with_parent
        && let Err(error) = parent::when_it_ends(end_in_order)
    {
        return fail(&error.into());
    }
    let result = match cli.command {
        Command::Up(flags) => up::run(&flags),
        Command::Chat(flags) => chat::run(flags),
        Command::Replay(flags) => replay::run(flags),
        Command::Export(flags) => transfer::export(&flags),
        Command::Import(flags) => transfer::import(&flags),
        Command::Takeout(flags) => takeout::run(&flags),
        Command::Bench(flags) => bench::run(flags),
        Command::Simulate(flags) => simulate::run(&flags),
        Command::Chaos(flags) => chaos::run(&flags),
        Command::Check(options) => checker::read::run(&options),
        Command::Access(options) => access::run(options).map(|()| ExitCode::SUCCESS),
        Command::Logic(options) => logic::role::run(options).map(|()| ExitCode::SUCCESS),
        Command::Coordinator(options) => {
            coordinator::role::run(&options).map(|()| ExitCode::SUCCESS)
        }
        Command::Storage(options) => storage::role::run(options).map(|()| ExitCode::SUCCESS),
        Command::Edge(options) => edge::role::run(options).map(|()| ExitCode::SUCCESS),
        Command::Promote(options) => storage::promote::run(options).map(|()| ExitCode::SUCCESS),
        Command::Dr(options) => storage::dr::run(options).map(|()| ExitCode::SUCCESS),
        Command::Push(options) => push::role::run(options).map(|()| ExitCode::SUCCESS),
        Command::Wan(options) => wan::role::run(options).map(|()| ExitCode::SUCCESS),
        Command::Dispatch(options) => dispatch::role::run(&options).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| fail(&error))
}

/// One line that says what went wrong and what to do.
fn fail(error: &anyhow::Error) -> ExitCode {
    let line = format!("{error:#}").replace('\n', " ");
    eprintln!("wechat-demo: {line}");
    ExitCode::FAILURE
}

/// Traces go to standard error; `RUST_LOG` chooses which. The engine's own are of use to its authors,
/// and come through only where another crate of the build has asked for `log` records.
fn write_traces() {
    const USUAL: &str = "info,fjall=warn,lsm_tree=warn";
    let chosen = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(chosen.unwrap_or_else(|_| USUAL.into()))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

/// Ends this process as SIGTERM would, so that a server drains; by force if that takes too long.
fn end_in_order() {
    let asked =
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
    if asked.is_ok() {
        std::thread::sleep(LAST_DRAIN);
    }
    std::process::exit(1);
}
