//! gRPC's interoperability cases against grpcio, both ways; what passes is the table in docs/interop.md.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::Program;

/// The cases that both clients know, in the order of grpc's doc/interop-test-descriptions.md.
const CASES: [&str; 21] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
    "rpc_soak",
    "channel_soak",
    "long_lived_channel",
    "client_compressed_unary",
    "server_compressed_unary",
    "client_compressed_streaming",
    "server_compressed_streaming",
];

/// What is at either end in a column of the table.
#[derive(Clone, Copy)]
struct Column {
    client: &'static str,
    server: &'static str,
    tls: bool,
}

const fn column(client: &'static str, server: &'static str, tls: bool) -> Column {
    Column {
        client,
        server,
        tls,
    }
}

const COLUMNS: [Column; 6] = [
    column("rpc-core", "rpc-core", false),
    column("grpcio", "rpc-core", false),
    column("rpc-core", "grpcio", false),
    column("rpc-core", "rpc-core", true),
    column("grpcio", "rpc-core", true),
    column("rpc-core", "grpcio", true),
];

impl Column {
    /// grpcio does not tell a server whether a message was compressed, so it cannot refuse one that is not.
    fn has(self, case: &str) -> bool {
        self.server != "grpcio" || !case.starts_with("client_compressed")
    }

    fn cases(self) -> impl Iterator<Item = &'static str> {
        CASES.into_iter().filter(move |case| self.has(case))
    }

    fn start_server(self, python: &Path) -> Program {
        if self.server == "grpcio" {
            let mut command = script(python, "interop_server.py");
            if self.tls {
                command.args([certificate("server.pem"), certificate("server.key")]);
            }
            return Program::start_command("interop_server.py", command).unwrap();
        }
        let mut args = vec!["--addr", "127.0.0.1:0"];
        args.extend(self.tls.then_some("--tls"));
        Program::start("interop_server", &args).unwrap()
    }

    fn start_client(self, python: &Path, addr: &str) -> Program {
        if self.client == "grpcio" {
            let mut command = script(python, "interop_client.py");
            command.arg(addr);
            if self.tls {
                command.arg(certificate("ca.pem"));
            }
            command.args(self.cases());
            return Program::start_command("interop_client.py", command).unwrap();
        }
        let mut args = vec!["--addr", addr];
        args.extend(self.tls.then_some("--tls"));
        args.extend(self.cases().flat_map(|case| ["--case", case]));
        Program::start("interop_client", &args).unwrap()
    }
}

fn script(python: &Path, name: &str) -> Command {
    let mut command = Command::new(python);
    command
        .arg(tests::root().join("tests/python").join(name))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn certificate(name: &str) -> PathBuf {
    tests::root().join("examples/tls").join(name)
}

#[test]
fn every_interoperability_case_passes_with_grpcio_at_either_end() {
    let Some(python) = tests::python() else {
        return;
    };
    let mut passed = Vec::new();
    for column in COLUMNS {
        let mut server = column.start_server(&python);
        let line = server.line_with("serving").unwrap();
        let client = column.start_client(&python, line.rsplit(' ').next().unwrap());
        let (status, lines) = client.finish().unwrap();
        server.kill().unwrap();
        assert!(status.success(), "{lines:?}");
        passed.push(lines);
    }
    let path = tests::root().join("docs/interop.md");
    let table = table(&passed);
    if std::fs::read_to_string(&path).ok().as_deref() != Some(&table) {
        std::fs::write(&path, table).unwrap();
        panic!("docs/interop.md was not what the cases say; it is now: look at the difference");
    }
}

/// The document: a row for each case, a column for each pair of ends.
fn table(passed: &[Vec<String>]) -> String {
    let mut text = String::from(
        "# Interoperability\n\n\
         Written by `tests/suite/rpc/interop.rs`, which runs the cases of gRPC's\n\
         `doc/interop-test-descriptions.md` that need no cloud service, through the programs\n\
         `interop_client` and `interop_server` of `examples` and through grpcio (Python).\n\n\
         | case |",
    );
    for Column {
        client,
        server,
        tls,
    } in COLUMNS
    {
        let over = if tls { " over TLS" } else { "" };
        let _ = write!(text, " {client} calls {server}{over} |");
    }
    text.push_str("\n|---|---|---|---|---|---|---|\n");
    for case in CASES {
        let _ = write!(text, "| {case} |");
        for (column, lines) in COLUMNS.iter().zip(passed) {
            let ok = lines.contains(&format!("ok {case}"));
            text.push_str(match (column.has(case), ok) {
                (true, true) => " pass |",
                (true, false) => " **fail** |",
                (false, _) => " – |",
            });
        }
        text.push('\n');
    }
    text.push_str(
        "\n–: grpcio does not tell a server whether a message was compressed, so it cannot refuse one that\n\
         is not; to a client it does not tell either, so that grpcio's `server_compressed_*` see the answers'\n\
         contents alone. `cacheable_unary` needs a caching proxy between the two, `orca_*` is a protocol of load\n\
         reports that is not spoken here. `grpc.rs` beside the test runs curl, h2load and tonic, in both\n\
         directions, against the same server.\n",
    );
    text
}

#[test]
fn health_and_reflection_answer_grpcios_own_clients() {
    let Some(python) = tests::python() else {
        return;
    };
    let mut server = Program::start("interop_server", &["--addr", "127.0.0.1:0"]).unwrap();
    let line = server.line_with("serving").unwrap();
    let addr = line.rsplit(' ').next().unwrap();
    let mut command = Command::new(&python);
    command
        .arg(tests::root().join("tests/python/standard_client.py"))
        .arg(addr)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let mut client = Program::start_command("standard_client.py", command).unwrap();
    client.line_with("watching").unwrap();
    // The drain tells the watch, and ends it.
    server.terminate().unwrap();
    let (status, lines) = client.finish().unwrap();
    assert!(status.success(), "{lines:?}");
    assert!(server.finish().unwrap().0.success());
}
