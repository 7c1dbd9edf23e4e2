//! Going away without losing a call.

use super::peer::{Frame, Peer, metric};
use super::*;

use rpc_core::Code;
use tests::Program;

#[rpc_core::test]
fn a_drain_answers_what_it_accepted_and_refuses_what_comes_after() {
    let server = Served::start();
    let client = server.client();
    let held = client.clone();
    let under_way = rpc_core::spawn(move || held.hold(ask("accepted")));
    server.stage.until(|state| state.waiting == 1);
    let addr = server.addr;
    let stage = server.stage.clone();
    server.handle.drain();
    // The refusal comes over a connection that stood before.
    let refused = loop {
        match client.echo(ask("after")) {
            Ok(_) => rpc_core::yield_now(),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.never_ran(), "{refused}");
    stage.open("accepted");
    assert_eq!(under_way.join().unwrap().unwrap().text, "accepted");
    server.stop();
    let reached = on_a_thread(move || TcpStream::connect(addr));
    assert!(reached.is_err(), "nobody listens any more");
}

#[rpc_core::test(workers = 2)]
fn every_call_of_a_drained_server_is_answered_or_certainly_never_ran() {
    let server = Served::start();
    let client = server.client();
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let client = client.clone();
            rpc_core::spawn(move || {
                let mut answered = 0_u32;
                loop {
                    match client.echo(ask("x")) {
                        Ok(_) => answered += 1,
                        Err(status) => return (answered, status),
                    }
                }
            })
        })
        .collect();
    while server.handle.in_flight() == 0 {
        rpc_core::yield_now();
    }
    server.stop();
    for caller in callers {
        let (_, status) = caller.join().unwrap();
        assert!(status.never_ran(), "{status}");
    }
}

#[rpc_core::test(workers = 2)]
fn with_another_address_a_drain_costs_no_call() {
    let (going, staying) = (Served::start(), Served::start());
    let target = format!("list://{},{}", going.addr, staying.addr);
    let channel = Channel::builder(&target)
        .deadline(PATIENCE)
        .connect()
        .unwrap();
    let client = ProbeClient::new(channel);
    let stop = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let (client, stop) = (client.clone(), stop.clone());
            rpc_core::spawn(move || {
                while stop.load(Ordering::Relaxed) == 0 {
                    client.echo(ask("x")).unwrap();
                }
            })
        })
        .collect();
    while going.handle.in_flight() == 0 {
        rpc_core::yield_now();
    }
    going.stop();
    client.echo(ask("after")).unwrap();
    stop.store(1, Ordering::Relaxed);
    for caller in callers {
        caller.join().unwrap();
    }
    staying.stop();
}

#[rpc_core::test]
fn idle_peers_do_not_keep_a_drain_from_ending() {
    let server = Served::with(|builder| builder.drain_limit(PATIENCE));
    let addr = server.addr;
    let mut peers = on_a_thread(move || {
        let mut peers: Vec<Peer> = (0..10).map(|_| Peer::connect(addr)).collect();
        for peer in &mut peers[..5] {
            peer.send(&Frame::call(1, "probe.Probe", "Echo", &ask("once")));
            peer.receive().unwrap();
        }
        peers
    });
    server.stop();
    on_a_thread(move || {
        peers
            .iter_mut()
            .for_each(|peer| assert!(peer.rest().is_empty()))
    });
}

#[rpc_core::test]
fn the_drains_limit_cancels_what_does_not_end() {
    let server = Served::with(|builder| builder.drain_limit(Duration::from_millis(50)));
    let (silent, accept) = peer::accept_one();
    let silence = std::thread::spawn(accept);
    let client = server.client();
    let request = Ask {
        target: silent,
        ..Ask::default()
    };
    let call = rpc_core::spawn(move || client.read_forever(request));
    server.stage.until(|state| state.reading == 1);
    let stage = server.stage.clone();
    server.stop();
    stage.until(|state| state.reads.len() == 1);
    assert_eq!(
        stage.state.lock().reads[0],
        format!("Some({})", libc::ECANCELED)
    );
    assert!(call.join().unwrap().is_err());
    drop(silence.join());
}

#[test]
fn sigterm_drains_a_server_program_and_it_ends_well() {
    let mut server = Program::start("brpc_echo", &["--addr", "127.0.0.1:0"]).unwrap();
    let line = server.line_with("serving").unwrap();
    let addr: SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
    let mut idle = Peer::connect(addr);
    idle.send(&Frame::call(
        1,
        "example.EchoService",
        "Echo",
        &ask("hello"),
    ));
    assert_eq!(idle.receive().unwrap().error_code(), 0);
    server.terminate().unwrap();
    let (status, lines) = server.finish().unwrap();
    assert!(status.success(), "{status}: {lines:?}");
    assert!(idle.rest().is_empty());
}

#[test]
fn a_second_signal_ends_a_draining_program_at_once() {
    let mut server = Program::start("brpc_echo", &["--addr", "127.0.0.1:0"]).unwrap();
    let line = server.line_with("serving").unwrap();
    let addr: SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
    // An answer that the peer does not read keeps the drain waiting.
    let mut peer = Peer::connect(addr);
    let mut call = Frame::call(1, "example.EchoService", "Echo", &ask("hello"));
    call.meta.attachment_size = Some(32 << 20);
    call.body.extend(vec![0; 32 << 20]);
    peer.send(&call);
    assert_eq!(peer.0.peek(&mut [0]).unwrap(), 1, "it answers");
    server.terminate().unwrap();
    // Once nobody listens any more, the first signal was taken.
    while TcpStream::connect(addr).is_ok() {
        std::thread::yield_now();
    }
    server.terminate().unwrap();
    let (status, lines) = server.finish().unwrap();
    assert_eq!(status.code(), Some(128 + libc::SIGTERM), "{lines:?}");
}

#[test]
fn a_server_out_of_descriptors_goes_on_when_some_are_free_again() {
    let program = tests::bin("brpc_echo");
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "ulimit -n 40; exec \"$0\" --addr 127.0.0.1:0"])
        .arg(program);
    let mut server = Program::start_command("brpc_echo", command).unwrap();
    let line = server.line_with("serving").unwrap();
    let addr: SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
    // The kernel completes all of them; the server can take in a part.
    let mut peers: Vec<Peer> = (0..60).map(|_| Peer::connect(addr)).collect();
    let hello = |id| Frame::call(id, "example.EchoService", "Echo", &ask("hello"));
    peers[0].send(&hello(0));
    assert_eq!(peers[0].receive().unwrap().error_code(), 0);
    let mut last = peers.pop().unwrap();
    last.send(&hello(59));
    drop(peers);
    assert_eq!(last.receive().unwrap().error_code(), 0);
    assert!(metric(addr, "rpc_server_accept_exhausted_total") > 0.0);
    server.terminate().unwrap();
    assert!(server.finish().unwrap().0.success());
}
