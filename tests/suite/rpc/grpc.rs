//! gRPC and HTTP/2 on the same port: our client, and peers that we did not write.

use super::peer::{accept_one, metric};
use super::*;

use std::io::Write;
use std::process::Command;

use rpc_core::{CallOptions, Code, Wire};
use tests::Program;

impl Served {
    fn grpc(&self) -> ProbeClient {
        let builder = Channel::builder(&self.addr.to_string())
            .deadline(PATIENCE)
            .protocol(Wire::Grpc);
        ProbeClient::new(builder.connect().expect("the server listens"))
    }
}

#[rpc_core::test]
fn our_own_client_calls_over_grpc_as_over_baidu_std() {
    let server = Served::start();
    let client = server.grpc();
    let mut request = Request::new(Ask {
        text: "hi".into(),
        size: 300_000,
        ..Ask::default()
    });
    request.metadata_mut().append("x-own", "1");
    request.metadata_mut().append_bytes("k-bin", vec![0, 255]);
    let told = client.echo(request).unwrap();
    assert_eq!((&*told.text, told.data.len()), ("hi", 300_000));
    assert_eq!(told.metadata().get("x-own"), Some("1"));
    assert_eq!(told.metadata().get_bytes("k-bin").unwrap()[..], [0, 255]);
    let failed = client.fail(ask("not ☺ now\n")).unwrap_err();
    assert_eq!(failed.code(), Code::FailedPrecondition);
    assert_eq!(failed.message(), "not ☺ now\n");
    assert_eq!(failed.metadata().get("why"), Some("because"));
    assert_eq!(client.panic(ask("")).unwrap_err().code(), Code::Internal);
    let short = CallOptions::new().deadline(Duration::from_secs(40));
    let left = client
        .remaining_with(Ask::default(), short)
        .unwrap()
        .remaining_ms;
    assert!((1..=40_000).contains(&left), "{left}");
    let zipped = CallOptions::new().compression(rpc_core::rpc::compression::Compression::Gzip);
    assert_eq!(client.echo_with(ask("zip"), zipped).unwrap().text, "zip");
    server.stop();
}

#[rpc_core::test]
fn many_calls_at_once_share_a_grpc_connection() {
    let server = Served::start();
    let client = server.grpc();
    let callers: Vec<_> = (0..2000)
        .map(|i| {
            let client = client.clone();
            rpc_core::spawn(move || {
                client
                    .echo(ask(&i.to_string()))
                    .map(|told| told.text.clone())
            })
        })
        .collect();
    for (i, caller) in callers.into_iter().enumerate() {
        assert_eq!(caller.join().unwrap().unwrap(), i.to_string());
    }
    assert_eq!(server.handle.connections(), 1);
    server.stop();
}

#[rpc_core::test]
fn a_grpc_call_that_is_given_up_is_cancelled_at_the_server() {
    let server = Served::start();
    let client = server.grpc();
    let (silent, accept) = accept_one();
    let silence = std::thread::spawn(accept);
    let request = Ask {
        target: silent,
        ..Ask::default()
    };
    let caller = client.clone();
    let call = rpc_core::spawn(move || caller.read_forever(request));
    server.stage.until(|state| state.reading == 1);
    call.cancel();
    assert_eq!(call.join().unwrap().unwrap_err().code(), Code::Cancelled);
    // The connection stands; the handler learns it from the stream's reset.
    server.stage.until(|state| state.reads.len() == 1);
    let ended = server.stage.state.lock().reads[0].clone();
    assert_eq!(ended, format!("Some({})", libc::ECANCELED));
    assert_eq!(client.echo(ask("on")).unwrap().text, "on");
    drop(silence.join());
    server.stop();
}

#[rpc_core::test]
fn a_drain_loses_no_grpc_call() {
    let server = Served::start();
    let client = server.grpc();
    let held = rpc_core::spawn({
        let client = client.clone();
        move || client.hold(ask("gate"))
    });
    server.stage.until(|state| state.waiting == 1);
    server.handle.drain();
    server.stage.open("gate");
    assert_eq!(held.join().unwrap().unwrap().text, "gate");
    server.stop();
}

/// What `curl` says to `args`: its standard output.
fn curl(args: &[&str]) -> Option<String> {
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--http2-prior-knowledge",
        ])
        .args(args)
        .output();
    tool("curl", output)
}

/// The output of a program, or `None`, said loudly, where it is not installed.
fn tool(name: &str, output: std::io::Result<std::process::Output>) -> Option<String> {
    match output {
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}: {errors}");
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(error) => {
            let said =
                format!("NOT RUN: {name} is absent ({error}); `cargo xtask test` installs it\n");
            std::io::stderr().write_all(said.as_bytes()).ok()?;
            None
        }
    }
}

#[rpc_core::test]
fn curl_calls_in_json_and_reads_the_console_over_http2() {
    let server = Served::start();
    let base = format!("http://{}", server.addr);
    on_a_thread(move || {
        let json = "content-type: application/json";
        let echo = format!("{base}/probe.Probe/Echo");
        let said = curl(&[
            "-H",
            json,
            "-d",
            r#"{"text":"héllo","size":3}"#,
            "-w",
            " %{http_version} %{http_code}",
            &echo,
        ]);
        let Some(said) = said else { return };
        assert_eq!(said, r#"{"text":"héllo","data":"BwcH"} 2 200"#);
        let status = curl(&["-w", " %{http_code}", &format!("{base}/status")]).unwrap();
        assert!(
            status.contains("[probe.Probe]") && status.ends_with(" 200"),
            "{status}"
        );
        let nope = curl(&[
            "-w",
            " %{http_code}",
            "-H",
            json,
            "-d",
            "{}",
            &format!("{base}/probe.Probe/Nope"),
        ]);
        assert!(nope.unwrap().ends_with(" 404"));
        let fail = format!("{base}/probe.Probe/Fail");
        let failed = curl(&[
            "-w",
            " %{http_code}",
            "-H",
            json,
            "-d",
            r#"{"text":"no"}"#,
            &fail,
        ]);
        assert!(failed.unwrap().ends_with(" 400"));
        let head = curl(&["--head", &format!("{base}/health")]).unwrap();
        assert!(head.starts_with("HTTP/2 200"), "{head}");
    });
    server.stop();
}

#[rpc_core::test]
fn h2load_has_every_request_answered() {
    let server = Served::start();
    let url = format!("http://{}/probe.Probe/Echo", server.addr);
    on_a_thread(move || {
        let folder = tempfile::tempdir().unwrap();
        let body = folder.path().join("body");
        // The message {text: "hi"} with its prefix.
        std::fs::write(&body, b"\0\0\0\0\x04\x0a\x02hi").unwrap();
        let output = Command::new("h2load")
            .args([
                "-n",
                "5000",
                "-c",
                "4",
                "-m",
                "32",
                "-H",
                "content-type: application/grpc",
            ])
            .args(["-H", "te: trailers", "-d"])
            .arg(&body)
            .arg(&url)
            .output();
        if let Some(said) = tool("h2load", output) {
            assert!(
                said.contains("5000 succeeded, 0 failed, 0 errored"),
                "{said}"
            );
        }
    });
    server.stop();
}

#[rpc_core::test]
fn tonic_calls_our_server_and_we_call_tonics() {
    let port = |program: &mut Program| -> SocketAddr {
        let line = program.line_with("listening").unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    on_a_thread(move || {
        let load = |client: &str, addr: SocketAddr, more: &[&str]| {
            let addr = addr.to_string();
            let flags = [
                "--addr",
                &addr,
                "--inflight",
                "16",
                "--seconds",
                "0.5",
                "--warmup",
                "0.1",
            ];
            let client = Program::start(client, &[&flags[..], more].concat()).unwrap();
            let (status, lines) = client.finish().unwrap();
            assert!(status.success(), "{lines:?}");
            let told: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
            assert_eq!(told["failed"], 0, "{told}");
            assert!(told["calls"].as_f64().unwrap() > 0.0, "{told}");
        };
        let mut ours = Program::start("bench_echo_server", &["--addr", "127.0.0.1:0"]).unwrap();
        load("tonic_echo_client", port(&mut ours), &[]);
        ours.kill().unwrap();
        let mut tonics = Program::start("tonic_echo_server", &["--addr", "127.0.0.1:0"]).unwrap();
        load(
            "bench_echo_client",
            port(&mut tonics),
            &["--protocol", "grpc"],
        );
        tonics.kill().unwrap();
    });
}

/// Kinds of frames, as far as floods use them.
mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

/// The head of a call of `method`; it goes on.
fn head(method: &str, flags: u8, id: u32) -> Vec<u8> {
    let path = format!("/probe.Probe/{method}");
    let mut block = vec![0x83, 0x86, 0x04, path.len() as u8];
    block.extend_from_slice(path.as_bytes());
    block.extend_from_slice(b"\x0f\x10\x10application/grpc");
    frame(kind::HEADERS, flags, id, &block)
}

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Sends a client's preface and then `frames` on a connection of their own until the server closes it; the
/// kind of the last frame it sent.
fn flood(addr: SocketAddr, frames: impl Iterator<Item = Vec<u8>>) -> Option<u8> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let reader = stream.try_clone().unwrap();
    let said = std::thread::spawn(move || last_kind(reader));
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .unwrap();
    let mut sent = frame(kind::SETTINGS, 0, 0, &[]);
    for frame in frames {
        sent.extend_from_slice(&frame);
        // Once the server has closed, writing fails: that is what is waited for.
        if sent.len() > 4096 && stream.write_all(&std::mem::take(&mut sent)).is_err() {
            break;
        }
    }
    let _ = stream.write_all(&sent);
    said.join().unwrap()
}

fn last_kind(mut stream: TcpStream) -> Option<u8> {
    let mut last = None;
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        last = Some(head[3]);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if stream.read_exact(&mut payload).is_err() {
            break;
        }
    }
    last
}

type Frames = Box<dyn Iterator<Item = Vec<u8>> + Send>;

/// Floods, each with the reason it is closed for.
fn floods() -> Vec<(&'static str, Frames)> {
    fn each(second: impl Fn(u32) -> Vec<u8> + Send + 'static) -> Frames {
        let both = move |id| [head("Echo", END_HEADERS, id), second(id)].concat();
        Box::new((1..40_000).step_by(2).map(both))
    }
    fn after(first: Vec<u8>, again: Vec<u8>) -> Frames {
        Box::new(std::iter::once(first).chain(std::iter::repeat_n(again, 5000)))
    }
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    let settings = frame(kind::SETTINGS, 0, 0, &[]);
    let no_index = frame(
        kind::HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &[0xff, 0xff, 0x7f],
    );
    vec![
        ("http2_ping", after(ping.clone(), ping)),
        ("http2_settings", after(settings.clone(), settings)),
        (
            "http2_rapid_reset",
            each(|id| frame(kind::RST_STREAM, 0, id, &[0, 0, 0, 8])),
        ),
        (
            // The server is made to reset: a window update of nothing.
            "http2_rapid_reset",
            each(|id| frame(kind::WINDOW_UPDATE, 0, id, &[0; 4])),
        ),
        (
            "http2_continuation",
            after(head("Echo", 0, 1), frame(kind::CONTINUATION, 0, 1, &[])),
        ),
        (
            "http2_empty",
            after(head("Echo", END_HEADERS, 1), frame(kind::DATA, 0, 1, &[])),
        ),
        ("http2_compression", after(no_index.clone(), no_index)),
    ]
}

#[rpc_core::test]
fn a_flood_closes_its_own_connection_and_nobody_elses() {
    let server = Served::start();
    let client = server.grpc();
    let addr = server.addr;
    for (reason, frames) in floods() {
        let sample = format!("rpc_server_bad_input_total{{reason=\"{reason}\"}}");
        let name = sample.clone();
        let before = on_a_thread(move || metric(addr, &name));
        let last = on_a_thread(move || flood(addr, frames));
        assert!(
            last.is_none_or(|kind| kind == kind::GOAWAY),
            "{reason}: the last frame was of kind {last:?}"
        );
        let after = on_a_thread(move || metric(addr, &sample));
        assert!(after > before, "{reason} is counted");
        assert_eq!(client.echo(ask(reason)).unwrap().text, reason);
    }
    server.stop();
}

#[rpc_core::test]
fn a_head_above_the_limit_is_answered() {
    let server = Served::start();
    let url = format!("http://{}/status", server.addr);
    on_a_thread(move || {
        let large = format!("x-large: {}", "v".repeat(20_000));
        if let Some(said) = curl(&["-o", "/dev/null", "-w", "%{http_code}", "-H", &large, &url]) {
            assert_eq!(said, "431");
        }
    });
    server.stop();
}
