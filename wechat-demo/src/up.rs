//! `up`: a whole cluster here, with two accounts ready to chat.
//!
//! Knows:       the launcher, what people want to see of it.
//! Does not know: what the roles do.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use rpc_core::time::Instant;
use wechat_demo::cluster::{Cluster, EnsembleFlags, Layout, Plan, Role, figures};
use wechat_demo::proto::terminal as pb;
use wechat_demo::push::role::Provider;
use wechat_demo::storage::location::EngineFlags;
use wechat_demo::terminal::error::code;
use wechat_demo::terminal::{Connection, TerminalError, login, register};

use crate::page::Page;

/// Port of the long links unless another is asked for; ten more follow it.
pub(crate) const DEFAULT_PORT: u16 = 7100;
/// Where the edge is then.
pub(crate) const EDGE_PORT: u16 = DEFAULT_PORT + 8;
/// Password of the two ready accounts, and what `chat` uses unless it is given another.
pub(crate) const DEMO_PASSWORD: &str = "wechat-demo";
/// The ready accounts.
const ACCOUNTS: [(&str, &str); 2] = [("alice", "Alice"), ("bob", "Bob")];
/// Pause between looks at the cluster.
const LOOK: Duration = Duration::from_millis(200);
/// How long the two accounts may take while the copies of the store find each other.
const PATIENCE: Duration = Duration::from_secs(30);

/// Flags of `up`.
#[derive(Args, Debug)]
pub(crate) struct Flags {
    /// Directory for everything the cluster keeps; made if it is missing, continued if it is there
    #[arg(long, value_name = "DIR", default_value = "wechat-data")]
    dir: PathBuf,
    /// Port of the long links; pages and RPC take the ten after it. 0 = any free ports
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PORT)]
    port: u16,
    /// Port of the operations page, on loopback; 0 = any free one [default: the one before --port]
    #[arg(long, value_name = "N")]
    page_port: Option<u16>,
    #[command(flatten)]
    engine: EngineFlags,
    #[command(flatten)]
    coordination: EnsembleFlags,
    #[command(flatten)]
    push: Option<Provider>,
}

/// Runs until Ctrl-C or SIGTERM.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let database = flags.engine.database()?.map(str::to_owned);
    // Where a database keeps the store, the directory says nothing about it.
    let no_store = database.is_none() && !flags.dir.join(Role::Storage1.name()).exists();
    flags.coordination.look(no_store)?;
    let plan = Plan {
        database,
        zookeeper: flags.coordination.zookeeper.clone(),
        push: flags.push.clone(),
        dispatch: true,
        ..Plan::default()
    };
    let binary = std::env::current_exe().context("the path of this program")?;
    let page = Page::open(flags.page_port.unwrap_or(flags.port.saturating_sub(1)))?;
    let mut cluster = Cluster::bring_up(&flags.dir, flags.port, &plan, &binary)?;
    make_accounts(&cluster.layout().link_address())?;
    wait_for_dispatch(cluster.layout())?;
    greet(cluster.layout(), &page);
    watch(&mut cluster, &page)?;
    println!("\nending: every process finishes what it does");
    for role in cluster.drain() {
        println!(
            "{role} did not finish in time and was killed; nothing acknowledged is lost by that"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until dispatch knows where to send terminals.
fn wait_for_dispatch(layout: &Layout) -> anyhow::Result<()> {
    let (dispatch, until) = (layout.rpc(Role::Dispatch), Instant::now() + PATIENCE);
    while figures(dispatch).sum("wechat_dispatch_points", &[]) != Some(1.0) {
        anyhow::ensure!(
            Instant::now() < until,
            "access does not tell dispatch of itself; see {}",
            layout.log(Role::Access).display()
        );
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Two accounts that are each other's contacts; nothing happens where they exist.
fn make_accounts(address: &str) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut logins = Vec::new();
    for (name, nickname) in ACCOUNTS {
        let registered = patiently(until, || register(address, name, DEMO_PASSWORD, nickname));
        if let Err(error) = registered
            && !error.is_refusal(code::ALREADY_EXISTS)
        {
            anyhow::bail!("cannot register {name}: {error}");
        }
        match patiently(until, || login(address, name, DEMO_PASSWORD, "up")) {
            Ok(login) => logins.push(login),
            // The directory is older than this run and somebody has changed the password: theirs it is.
            Err(TerminalError::Refused { text, .. }) => {
                println!("{name} has another password than the demo's ({text})");
                return Ok(());
            }
            Err(error) => anyhow::bail!("cannot log {name} in: {error}"),
        }
    }
    let [first, second] = &logins[..] else {
        unreachable!("there are two accounts")
    };
    let asked = patiently(until, || -> Result<pb::AddContactReply, _> {
        let request = pb::AddContactRequest {
            user_id: second.user_id,
            greeting: "hello".to_owned(),
        };
        speak_as(address, first)?.call(pb::Command::AddContact, &request)
    });
    let accepted = asked.and_then(|_| {
        patiently(until, || -> Result<pb::AcceptContactReply, _> {
            let request = pb::AcceptContactRequest {
                user_id: first.user_id,
            };
            speak_as(address, second)?.call(pb::Command::AcceptContact, &request)
        })
    });
    match accepted {
        // A refusal means that they are contacts already.
        Ok(_) | Err(TerminalError::Refused { .. }) => Ok(()),
        Err(error) => anyhow::bail!("cannot make the two accounts contacts: {error}"),
    }
}

/// A link that speaks for a login.
fn speak_as(address: &str, login: &pb::LoginReply) -> Result<Connection, TerminalError> {
    let mut connection = Connection::open(address)?;
    let request = pb::AuthRequest {
        token: login.token.clone(),
        active: false,
    };
    connection.call::<pb::AuthReply>(pb::Command::Auth, &request)?;
    Ok(connection)
}

/// Again while the trouble is transient.
fn patiently<T>(
    until: Instant,
    ask: impl Fn() -> Result<T, TerminalError>,
) -> Result<T, TerminalError> {
    loop {
        match ask() {
            Err(error) if error.is_transient() && Instant::now() < until => {
                std::thread::sleep(LOOK)
            }
            result => return result,
        }
    }
}

fn greet(layout: &Layout, page: &Page) {
    let port = layout.ports.link;
    let address = if port == DEFAULT_PORT {
        String::new()
    } else {
        let edge = layout.rpc(Role::Edge);
        format!(" --addr {} --edge {edge}", layout.link_address())
    };
    let dispatch = layout.rpc(Role::Dispatch);
    let command = std::env::args()
        .next()
        .unwrap_or_else(|| "wechat-demo".to_owned());
    println!(
        "the cluster is up; terminals connect to {}",
        layout.link_address()
    );
    println!("\nchat in two other terminals:");
    for (me, other) in [("alice", "bob"), ("bob", "alice")] {
        println!("  {command} chat --user {me} --to {other}{address} --dispatch {dispatch}");
    }
    println!("\nsee what it does, and kill some of it: {}", page.url());
    println!("\nlook at the roles:");
    for role in layout.roles().into_iter().rev() {
        println!("  {role:<16} http://{}/status", layout.rpc(role));
    }
    if let Some(ensemble) = &layout.plan.zookeeper {
        println!("  {:<16} {ensemble}", "ZooKeeper");
    }
    println!(
        "\nCtrl-C ends it; {} keeps its data for the next time\n",
        layout.dir.display()
    );
}

/// Shows the cluster's state and keeps it running, until asked to stop.
fn watch(cluster: &mut Cluster, page: &Page) -> anyhow::Result<()> {
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    };
    let style =
        ProgressStyle::with_template("{spinner} {msg}").expect("the template is well-formed");
    bar.set_style(style);
    let idcs = std::slice::from_mut(cluster);
    let mut keeper = page.show(idcs)?;
    while !page.is_ending() {
        keeper.tend(idcs, page.board(), |line| {
            bar.suspend(|| println!("{line}"));
        });
        bar.set_message(page.board().summary());
        bar.tick();
        std::thread::sleep(LOOK);
    }
    bar.finish_and_clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    #[test]
    fn devices_are_woken_where_it_is_said_as_whom_and_only_there() {
        use clap::Parser;
        let flags = |line: &[&str]| Line::try_parse_from(line).map(|line| line.flags);
        assert_eq!(flags(&["up"]).unwrap().push, None);
        let whole = [
            "up",
            "--apns-key",
            "key.p8",
            "--apns-key-id",
            "K",
            "--apns-team-id",
            "T",
            "--apns-topic",
            "org.example.chat",
        ];
        let provider = flags(&whole).unwrap().push.unwrap();
        assert_eq!(provider.flags(), &whole[1..]);
        let error = flags(&whole[..5]).unwrap_err();
        assert!(error.to_string().contains("--apns-team-id"), "{error}");
    }
}
