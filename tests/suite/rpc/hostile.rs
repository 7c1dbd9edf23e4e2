//! Peers that mean no good, or that die: what bounds them, what counts them, and that others do not notice.
//!
//! Floods of HTTP/2 are in `grpc.rs`; peers that do not read, and connections above the bound, in `failures.rs`.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;

use rpc_core::{CallOptions, Code, Compression, Wire};

use super::lines::feed_server;
use super::peer::{http, metric};
use super::*;

#[rpc_core::test]
fn all_protocols_are_spoken_on_one_listener_at_once() {
    const ROUNDS: usize = 50;
    let (server, _) = feed_server();
    let addr = server.addr;
    let mut all = Vec::new();
    for wire in [Wire::Prpc, Wire::Grpc] {
        let builder = Channel::builder(&addr.to_string()).protocol(wire);
        let channel = builder.deadline(PATIENCE).connect().unwrap();
        let (unary, streams) = (ProbeClient::new(channel.clone()), channel);
        all.push(rpc_core::spawn(move || {
            for round in 0..ROUNDS {
                let text = format!("{wire:?} {round}");
                assert_eq!(unary.echo(ask(&text)).unwrap().text, text);
            }
        }));
        // Over baidu_std these are STRM frames between the calls above.
        all.push(rpc_core::spawn(move || {
            for round in 0..ROUNDS as i64 {
                let numbers = lines::watch(&streams, round);
                assert!(numbers.into_iter().eq(1..=round), "{wire:?}");
            }
        }));
    }
    all.push(rpc_core::spawn(move || {
        on_a_thread(move || {
            for round in 0..ROUNDS {
                let body = format!("{{\"text\":\"{round}\"}}");
                let length = body.len();
                let text = format!(
                    "POST /probe.Probe/Echo HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\
                     Content-Length: {length}\r\n\r\n{body}"
                );
                assert_eq!(http(addr, &text).2, body);
            }
        });
    }));
    for one in all {
        one.join().expect("every call has its own answer");
    }
    server.stop();
}

#[rpc_core::test]
fn a_decompression_bomb_is_refused_at_the_limit_and_nobody_else_notices() {
    const LIMIT: usize = 1 << 20;
    let server = Served::with(|builder| builder.max_message_size(LIMIT));
    let addr = server.addr;
    let refused =
        "rpc_server_calls_total{service=\"probe.Probe\",method=\"Echo\",outcome=\"refused\"}";
    let bystander = server.client();
    let text = "0".repeat(8 * LIMIT);
    let bombs = [
        (Wire::Prpc, Compression::Snappy),
        (Wire::Prpc, Compression::Gzip),
        (Wire::Prpc, Compression::Zlib),
        (Wire::Grpc, Compression::Gzip),
        (Wire::Grpc, Compression::Zstd),
    ];
    for (wire, kind) in bombs {
        let before = on_a_thread(move || metric(addr, refused));
        let builder = Channel::builder(&addr.to_string()).protocol(wire);
        let client = ProbeClient::new(builder.deadline(PATIENCE).connect().unwrap());
        let options = CallOptions::new().compression(kind);
        let status = client.echo_with(ask(&text), options).unwrap_err();
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{wire:?} {kind}: {status}"
        );
        assert!(
            status.message().contains("1048576"),
            "{wire:?} {kind}: {status}"
        );
        assert_eq!(
            client.echo(ask("same connection")).unwrap().text,
            "same connection"
        );
        assert_eq!(bystander.echo(ask("other")).unwrap().text, "other");
        assert!(
            on_a_thread(move || metric(addr, refused)) > before,
            "{wire:?} {kind}"
        );
    }
    server.stop();
}

/// Sends what begins a message and nothing more, then reads until the server closes.
fn begin_and_wait(addr: SocketAddr, start: &'static [u8]) -> std::thread::JoinHandle<Vec<u8>> {
    let mut stream = TcpStream::connect(addr).expect("the server listens");
    stream.write_all(start).expect("the server reads");
    std::thread::spawn(move || {
        let mut said = Vec::new();
        // A reset is an end too.
        let _ = stream.read_to_end(&mut said);
        said
    })
}

/// Takes the 15 s that a head may take.
#[rpc_core::test]
fn those_who_never_finish_a_head_are_closed_in_time_and_counted() {
    let server = Served::start();
    let addr = server.addr;
    let count = |reason: &str| {
        let sample = format!("rpc_server_bad_input_total{{reason=\"{reason}\"}}");
        on_a_thread(move || metric(addr, &sample))
    };
    let before = (count("slow"), count("http_slow"));
    let starts: [&[u8]; 3] = [
        b"P",
        b"GET /status HTTP/1.1\r\nHost: t\r\nX-Slow: ",
        b"PRI * HTTP/2.0\r\n\r\nSM",
    ];
    let slow: Vec<_> = (0..20)
        .flat_map(|_| starts.map(|start| begin_and_wait(addr, start)))
        .collect();
    let client = server.client();
    for (index, one) in slow.into_iter().enumerate() {
        assert_eq!(client.echo(ask("others")).unwrap().text, "others");
        let said = on_a_thread(move || one.join().unwrap());
        if index % 3 == 1 {
            let said = String::from_utf8_lossy(&said);
            assert!(said.starts_with("HTTP/1.1 408"), "{said}");
        }
    }
    assert!(count("slow") - before.0 >= 20.0, "by the protocol's name");
    assert!(count("http_slow") - before.1 >= 40.0, "by a head");
    server.stop();
}

/// Resident bytes of a process.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("the kernel says") << 10
}

#[rpc_core::test]
fn ten_thousand_connections_that_say_nothing_hold_little_and_hinder_nobody() {
    const COUNT: u64 = 10_000;
    on_a_thread(|| {
        let args = ["--addr", "127.0.0.1:0"];
        let mut program = tests::Program::start("bench_echo_server", &args).unwrap();
        let line = program.line_with("listening on ").unwrap();
        let addr: SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
        let open = "rpc_server_connections";
        metric(addr, open); // warm
        let before = resident(program.id());
        let silent: Vec<TcpStream> = (0..COUNT)
            .map(|_| TcpStream::connect(addr).expect("a descriptor is free"))
            .collect();
        while metric(addr, open) <= COUNT as f64 {
            std::thread::yield_now();
        }
        let each = resident(program.id()).saturating_sub(before) / COUNT;
        assert!(
            each < 4096,
            "{each} bytes for a connection that says nothing"
        );
        let call = "POST /example.EchoService/Echo HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\
                    Content-Length: 15\r\n\r\n{\"message\":\"x\"}";
        assert_eq!(http(addr, call).2, r#"{"message":"x"}"#);
        drop(silent);
        while metric(addr, open) > 1.0 {
            std::thread::yield_now();
        }
        program.terminate().unwrap();
        assert!(program.finish().unwrap().0.success());
    });
}

/// Where the server of the next test notes which calls ran; unset in every other process.
const RAN: &str = "RPC_TEST_NOTES_CALLS_IN";

/// Answers, once it is noted that the call ran.
struct Notes(std::fs::File);
impl Probe for Notes {
    fn echo(&self, request: Request<Ask>) -> Result<Response<Told>, Status> {
        let text = request.into_inner().text;
        // One write to a file opened for appending: whole, and there even if the process is killed next.
        (&self.0).write_all(format!("{text}\n").as_bytes())?;
        Ok(Response::new(Told {
            text,
            ..Told::default()
        }))
    }
    fn hold(&self, _: Request<Ask>) -> Result<Response<Told>, Status> {
        Err(Status::unimplemented("hold"))
    }
    fn remaining(&self, _: Request<Ask>) -> Result<Response<Told>, Status> {
        Err(Status::unimplemented("remaining"))
    }
    fn nested(&self, _: Request<Ask>) -> Result<Response<Told>, Status> {
        Err(Status::unimplemented("nested"))
    }
    fn read_forever(&self, _: Request<Ask>) -> Result<Response<Told>, Status> {
        Err(Status::unimplemented("read_forever"))
    }
    fn panic(&self, _: Request<Ask>) -> Result<Response<Told>, Status> {
        Err(Status::unimplemented("panic"))
    }
    fn fail(&self, _: Request<Ask>) -> Result<Response<Told>, Status> {
        Err(Status::unimplemented("fail"))
    }
}

/// Not a test by itself: the next one starts it in a process of its own.
#[test]
fn the_server_that_is_killed() {
    let Ok(path) = std::env::var(RAN) else {
        return;
    };
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    let server = Server::builder().add_service(ProbeServer::new(Notes(file)));
    let bound = server.bind("127.0.0.1:0").unwrap();
    println!("\nlistening on {}", bound.local_addr());
    bound.serve().unwrap();
}

/// Calls until five have failed: the last of them never leave.
fn call_on(
    caller: usize,
    client: &ProbeClient,
    ended: &AtomicUsize,
) -> Vec<(String, Result<(), Status>)> {
    let mut all = Vec::new();
    let mut failed = 0;
    while failed < 5 {
        let text = format!("{caller}-{}", all.len());
        let result = client.echo(ask(&text));
        failed += usize::from(result.is_err());
        ended.fetch_add(1, Ordering::Relaxed);
        all.push((text, result.map(drop)));
    }
    all
}

#[rpc_core::test]
fn a_server_killed_under_load_leaves_no_caller_in_doubt_of_what_never_ran() {
    for wire in [Wire::Prpc, Wire::Grpc] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ran");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "rpc::hostile::the_server_that_is_killed",
            "--nocapture",
        ]);
        command.env(RAN, &path);
        let mut program = tests::Program::start_command("server", command).unwrap();
        let (addr, program) = on_a_thread(move || {
            let line = program.line_with("listening on ").unwrap();
            let addr = line.rsplit(' ').next().unwrap().to_owned();
            (addr, program)
        });
        let builder = Channel::builder(&addr).protocol(wire).deadline(PATIENCE);
        let client = ProbeClient::new(builder.connect().unwrap());
        let answered = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..32)
            .map(|caller| {
                let (client, answered) = (client.clone(), Arc::clone(&answered));
                rpc_core::spawn(move || call_on(caller, &client, &answered))
            })
            .collect();
        while answered.load(Ordering::Relaxed) < 5000 {
            rpc_core::yield_now();
        }
        on_a_thread(move || program.kill().unwrap());
        let mut certain = 0;
        let calls: Vec<_> = callers
            .into_iter()
            .flat_map(|caller| caller.join().unwrap())
            .collect();
        let ran = std::fs::read_to_string(&path).unwrap();
        let ran: HashSet<&str> = ran.lines().collect();
        for (text, result) in &calls {
            match result {
                Ok(()) => assert!(ran.contains(&**text), "{wire:?}: {text} was answered"),
                Err(status) if status.never_ran() => {
                    assert!(!ran.contains(&**text), "{wire:?}: {text}: {status}");
                    certain += 1;
                }
                // It may have run or not.
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{wire:?}: {status}"),
            }
        }
        assert!(
            certain > 0,
            "{wire:?}: with nobody there a call surely never ran"
        );
    }
}

mod numbers {
    rpc_core::include_proto!("numbers");
}

/// Squares numbers; 0 keeps its worker until `released`, those below 0 keep it for 1 ms.
struct Burner(Arc<AtomicUsize>);

impl numbers::Numbers for Burner {
    fn square(
        &self,
        request: Request<numbers::Number>,
    ) -> Result<Response<numbers::Number>, Status> {
        let value = request.value;
        let began = std::time::Instant::now();
        while value < 0 && began.elapsed() < Duration::from_millis(1)
            || value == 0 && self.0.load(Ordering::Acquire) == 0
        {
            std::hint::spin_loop();
        }
        Ok(Response::new(numbers::Number {
            value: value * value,
        }))
    }
}

#[test]
fn a_call_that_burns_holds_back_no_answer_that_another_worker_has() {
    use super::peer::{Frame, Peer};
    let runtime = rpc_core::Runtime::builder()
        .workers(2)
        .rescue_after(Duration::ZERO)
        .build()
        .unwrap();
    let released = Arc::new(AtomicUsize::new(0));
    let service = numbers::NumbersServer::new(Burner(Arc::clone(&released)));
    let bound = runtime.block_on(move || {
        let builder = Server::builder().add_service(service).handle_signals(false);
        builder.bind("127.0.0.1:0").unwrap()
    });
    let (addr, handle) = (bound.local_addr(), bound.handle());
    let serving = runtime.spawn(move || bound.serve());
    let mut peer = Peer::connect(addr);
    let call = |value: i64| {
        Frame::call(
            value,
            "numbers.Numbers",
            "Square",
            &numbers::Number { value },
        )
        .encode()
    };
    // The server learns that its calls take long: others are woken to share a batch.
    for value in 1..=30 {
        peer.0.write_all(&call(-value)).unwrap();
        peer.receive().unwrap();
    }
    // A quick one is answered first, so that its worker has a turn to come, which the burner keeps away.
    let batch: Vec<u8> = [1, 0].into_iter().chain(2..30).flat_map(call).collect();
    peer.0.write_all(&batch).unwrap();
    let answered: HashSet<i64> = (1..30)
        .map(|_| peer.receive().unwrap().meta.correlation_id.unwrap())
        .collect();
    assert_eq!(answered.len(), 29);
    assert!(!answered.contains(&0), "it still burns");
    released.store(1, Ordering::Release);
    assert_eq!(peer.receive().unwrap().meta.correlation_id, Some(0));
    handle.drain();
    drop(peer);
    serving.join().unwrap().unwrap();
}
