//! What a connection costs the server that idles after a call, by protocol.

use anyhow::Result;

use super::Section;
use super::program::{self, CLIENT_CORE, SERVER_CORE, Server};
use super::report::{self, Table};
use super::samples::Samples;
use super::targets::{Bar, Target};

const CONNECTIONS: &str = "2000";

/// Shown, arguments of the client.
const KINDS: [(&str, &[&str]); 6] = [
    ("open, nothing said", &["--protocol", "nothing"]),
    ("baidu_std", &["--protocol", "baidu_std"]),
    ("HTTP/1.1", &["--protocol", "http1"]),
    ("gRPC", &["--protocol", "grpc"]),
    ("baidu_std in TLS", &["--protocol", "baidu_std", "--tls"]),
    ("gRPC in TLS", &["--protocol", "grpc", "--tls"]),
];

pub(crate) fn run(rounds: u32) -> Section {
    let mut all: [Samples; KINDS.len()] = Default::default();
    let mut failures = Vec::new();
    for round in 1..=rounds {
        for ((name, args), samples) in KINDS.iter().zip(&mut all) {
            eprintln!("==> idle connections, round {round} of {rounds}: {name}");
            match measure(args) {
                Ok(bytes) => samples.push(bytes),
                Err(error) => failures.push(format!("round {round}, {name}: {error:#}")),
            }
        }
    }
    let mut table = Table::new(&[
        "connection",
        "bytes of the server's for each: median (least–greatest)",
    ]);
    for ((name, _), samples) in KINDS.iter().zip(&all) {
        table.row(vec![(*name).to_owned(), samples.spread()]);
    }
    let text = format!(
        "## Idle connections\n\n{CONNECTIONS} connections, each after one call (or none), beyond a hundred that were there before. Anonymous resident memory \
         of the server's process once it is steady, so the allocator's overhead is in it; the kernel's own memory for sockets is not.\n\n{}\n{}",
        table.text(),
        report::failures(&failures),
    );
    Section {
        text,
        plots: Vec::new(),
        targets: targets(&all),
    }
}

fn targets(all: &[Samples; KINDS.len()]) -> Vec<Target> {
    let target = |what, kind: usize, most| {
        let word =
            "The allocator's overhead is in it, and what the connection keeps of its one call.";
        Target::new(what, all[kind].median(), "bytes", Bar::AtMost(most), word)
    };
    vec![
        target("idle connection, PRPC", 1, 1024.0),
        target("idle connection, HTTP/1.1", 2, 1024.0),
        target("idle connection, HTTP/2 (gRPC)", 3, 8192.0),
    ]
}

fn measure(args: &[&str]) -> Result<f64> {
    let addr = program::free_addr()?;
    let addr_arg = addr.to_string();
    let mut command = program::release("bench_echo_server", SERVER_CORE)?;
    let server = Server::start(command.args(["--addr", &addr_arg, "--tls"]), addr)?;
    let mut client = program::release("bench_idle", CLIENT_CORE)?;
    client.args(["--addr", &addr_arg, "--pid", &server.id().to_string()]);
    client.args(["--connections", CONNECTIONS]).args(args);
    program::field(&program::start(&mut client)?.result()?, "bytes_each")
}
