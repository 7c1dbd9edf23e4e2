//! `up`: a whole cluster here, with two accounts ready to chat.
//!
//! Knows:       the launcher, what people want to see of it.
//! Does not know: what the roles do.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use rpc_core::time::Instant;
use wechat_demo::cluster::{Cluster, Clusters, EnsembleFlags, IDCS, Plan, Role, figures};
use wechat_demo::proto::terminal as pb;
use wechat_demo::push::role::Provider;
use wechat_demo::storage::location::EngineFlags;
use wechat_demo::terminal::error::code;
use wechat_demo::terminal::{Connection, TerminalError, login, register};

use crate::page::Page;
use crate::replay::parse_idcs;

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
    /// Data centres: 1, or 3 (sh, hk, ca), each with every role; each takes eleven ports then, and what they share as many
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_idcs)]
    idcs: u8,
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
    let idcs = usize::from(flags.idcs);
    if database.is_some() && idcs > 1 {
        bail!("--idcs {idcs}: one database keeps the store of one IDC; leave --database out");
    }
    let [alone, several] = [flags.dir.clone(), flags.dir.join(IDCS[0])]
        .map(|dir| dir.join(Role::Storage1.name()).exists());
    let other = if idcs > 1 { alone } else { several };
    if other {
        let had = if alone { 1 } else { IDCS.len() };
        bail!(
            "--dir {} holds a cluster of --idcs {had}; pass that, or another directory",
            flags.dir.display()
        );
    }
    // Where a database keeps the store, the directory says nothing about it.
    let no_store = database.is_none() && !alone && !several;
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
    let mut clusters = Clusters::bring_up(&flags.dir, flags.port, &plan, idcs, &binary)?;
    make_accounts(&clusters.link_addresses())?;
    wait_for_dispatch(&clusters)?;
    greet(&clusters, flags, &page);
    watch(clusters.parts_mut(), &page)?;
    println!("\nending: every process finishes what it does");
    for process in clusters.drain() {
        println!(
            "{process} did not finish in time and was killed; nothing acknowledged is lost by that"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until dispatch knows where to send terminals.
fn wait_for_dispatch(clusters: &Clusters) -> anyhow::Result<()> {
    let dispatch = clusters.common().rpc(Role::Dispatch);
    let (points, until) = (clusters.idcs().count() as f64, Instant::now() + PATIENCE);
    while figures(dispatch).sum("wechat_dispatch_points", &[]) != Some(points) {
        anyhow::ensure!(
            Instant::now() < until,
            "access does not tell dispatch of itself; see {}",
            clusters.common().log(Role::Dispatch).display()
        );
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Two accounts that are each other's contacts, at home in different IDCs if there are several; nothing happens where they
/// exist. Terminals connect to `addresses`.
fn make_accounts(addresses: &[String]) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut logins = Vec::new();
    for ((name, nickname), address) in ACCOUNTS.into_iter().zip(addresses.iter().cycle()) {
        let registered = patiently(until, || register(address, name, DEMO_PASSWORD, nickname));
        if let Err(error) = registered
            && !error.is_refusal(code::ALREADY_EXISTS)
        {
            anyhow::bail!("cannot register {name}: {error}");
        }
        match patiently(until, || login(address, name, DEMO_PASSWORD, "up")) {
            Ok(login) => logins.push((address, login)),
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
            user_id: second.1.user_id,
            greeting: "hello".to_owned(),
        };
        speak_as(first)?.call(pb::Command::AddContact, &request)
    });
    let accepted = asked.and_then(|_| {
        patiently(until, || -> Result<pb::AcceptContactReply, _> {
            let request = pb::AcceptContactRequest {
                user_id: first.1.user_id,
            };
            speak_as(second)?.call(pb::Command::AcceptContact, &request)
        })
    });
    match accepted {
        // A refusal means that they are contacts already.
        Ok(_) | Err(TerminalError::Refused { .. }) => Ok(()),
        Err(error) => anyhow::bail!("cannot make the two accounts contacts: {error}"),
    }
}

/// A link that speaks for a login.
fn speak_as((address, login): &(&String, pb::LoginReply)) -> Result<Connection, TerminalError> {
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

fn greet(clusters: &Clusters, flags: &Flags, page: &Page) {
    let dispatch = clusters.common().rpc(Role::Dispatch);
    let command = std::env::args()
        .next()
        .unwrap_or_else(|| "wechat-demo".to_owned());
    println!(
        "the cluster is up; terminals connect to {}",
        clusters.link_addresses().join(", ")
    );
    println!("\nchat in two other terminals:");
    let pairs = [("alice", "bob"), ("bob", "alice")].into_iter();
    let near: Vec<_> = clusters.idcs().map(Cluster::layout).collect();
    for ((me, other), layout) in pairs.zip(near.iter().cycle()) {
        let address = if layout.ports.link == DEFAULT_PORT {
            String::new()
        } else {
            let edge = layout.rpc(Role::Edge);
            format!(" --addr {} --edge {edge}", layout.link_address())
        };
        println!("  {command} chat --user {me} --to {other}{address} --dispatch {dispatch}");
    }
    println!("\nsee what it does, and kill some of it: {}", page.url());
    println!("\nlook at the roles:");
    for layout in clusters.parts().iter().map(Cluster::layout) {
        for role in layout.roles().into_iter().rev() {
            let name = layout
                .idc()
                .map_or_else(|| role.to_string(), |idc| format!("{idc}/{role}"));
            println!("  {name:<16} http://{}/status", layout.rpc(role));
        }
    }
    if let Some(ensemble) = &clusters.common().plan.zookeeper {
        println!("  {:<16} {ensemble}", "ZooKeeper");
    }
    println!(
        "\nCtrl-C ends it; {} keeps its data for the next time\n",
        flags.dir.display()
    );
}

/// Shows the cluster's state and keeps it running, until asked to stop.
fn watch(idcs: &mut [Cluster], page: &Page) -> anyhow::Result<()> {
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    };
    let style =
        ProgressStyle::with_template("{spinner} {msg}").expect("the template is well-formed");
    bar.set_style(style);
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
