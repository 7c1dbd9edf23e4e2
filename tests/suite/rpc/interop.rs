//! gRPC's interoperability cases against grpcio, both ways; what passes is the table in docs/interop.md.

use std::fmt::Write as _;
use std::process::Command;

use tests::Program;

/// The cases that both clients know, in the order of grpc's doc/interop-test-descriptions.md.
const CASES: [&str; 17] = [
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
];

/// The client and the server of each column of the table.
const COLUMNS: [(&str, &str); 3] = [
    ("rpc-core", "rpc-core"),
    ("grpcio", "rpc-core"),
    ("rpc-core", "grpcio"),
];

#[test]
fn every_interoperability_case_passes_with_grpcio_at_either_end() {
    let Some(python) = tests::python() else {
        return;
    };
    let script = |name: &str| {
        let mut command = Command::new(&python);
        command
            .arg(tests::root().join("tests/python").join(name))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    let mut passed = Vec::new();
    for (client, server) in COLUMNS {
        let mut server = match server {
            "grpcio" => Program::start_command("interop_server.py", script("interop_server.py")),
            _ => Program::start("interop_server", &["--addr", "127.0.0.1:0"]),
        }
        .unwrap();
        let line = server.line_with("serving").unwrap();
        let addr = line.rsplit(' ').next().unwrap();
        let client = match client {
            "grpcio" => {
                let mut command = script("interop_client.py");
                command.arg(addr).args(CASES);
                Program::start_command("interop_client.py", command)
            }
            _ => Program::start("interop_client", &["--addr", addr, "--case", "all"]),
        };
        let (status, lines) = client.unwrap().finish().unwrap();
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
    for (client, server) in COLUMNS {
        let _ = write!(text, " {client} calls {server} |");
    }
    text.push_str("\n|---|---|---|---|\n");
    for case in CASES {
        let _ = write!(text, "| {case} |");
        for lines in passed {
            let ok = lines.contains(&format!("ok {case}"));
            text.push_str(if ok { " pass |" } else { " **fail** |" });
        }
        text.push('\n');
    }
    text.push_str(
        "\nNot among the programs' cases: those about which message of a call is compressed\n\
         (`client_compressed_*`, `server_compressed_*`) and `cacheable_unary`. `grpc.rs` beside the test runs\n\
         curl, h2load and tonic, in both directions, against the same server.\n",
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
