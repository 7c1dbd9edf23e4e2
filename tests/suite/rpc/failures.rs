//! Deadlines, cancellation, lost connections, limits, peers that misbehave.

use super::peer::{Frame, Peer, accept_one, metric};
use super::*;

use std::io::Write;

use rpc_core::{CallOptions, Code};

#[rpc_core::test]
fn a_call_past_its_deadline_fails_and_the_handler_is_not_waited_for() {
    let server = Served::start();
    let client = server.client();
    let options = CallOptions::new().deadline(Duration::from_millis(20));
    let status = client.hold_with(ask("closed"), options).unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(!status.never_ran());
    server.stage.open("closed");
    server.stop();
}

#[rpc_core::test]
fn a_late_reply_is_dropped_and_counted() {
    let server = Served::start();
    let client = server.client();
    let addr = server.addr;
    let before = on_a_thread(move || metric(addr, "rpc_server_late_replies_total"));
    let options = CallOptions::new().deadline(Duration::from_millis(20));
    client.hold_with(ask("late"), options).unwrap_err();
    server.stage.open("late");
    server.stage.until(|state| state.held == 1);
    // The next answer on the same connection comes after the late one.
    assert_eq!(client.echo(ask("next")).unwrap().text, "next");
    let after = on_a_thread(move || metric(addr, "rpc_server_late_replies_total"));
    // The counter is the process's: a test beside this one may have a late reply of its own.
    assert!(after - before >= 1.0);
    server.stop();
}

#[rpc_core::test]
fn a_call_whose_time_is_over_is_not_sent() {
    let server = Served::start();
    let client = server.client();
    let options = CallOptions::new().deadline(Duration::ZERO);
    let status = client.echo_with(ask("never"), options).unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let handle = &server.handle;
    assert_eq!(handle.in_flight(), 0);
    server.stop();
}

#[rpc_core::test]
fn a_deadline_cuts_the_handlers_blocking_read() {
    let server = Served::start();
    let (silent, accept) = accept_one();
    let silence = std::thread::spawn(accept);
    let request = Ask {
        target: silent,
        ..Ask::default()
    };
    let options = CallOptions::new().deadline(Duration::from_millis(50));
    // Kept: a connection that goes with its channel would cancel the read before its time is over.
    let client = server.client();
    let status = client.read_forever_with(request, options).unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    server.stage.until(|state| state.reads.len() == 1);
    let ended = server.stage.state.lock().reads[0].clone();
    assert_eq!(ended, format!("Some({})", libc::ETIMEDOUT));
    drop(silence.join());
    server.stop();
}

#[rpc_core::test]
fn a_lost_connection_cancels_the_handlers_blocking_read() {
    let server = Served::start();
    let (silent, accept) = accept_one();
    let silence = std::thread::spawn(accept);
    let addr = server.addr;
    let request = Ask {
        target: silent,
        ..Ask::default()
    };
    let stage = server.stage.clone();
    let caller = std::thread::spawn(move || {
        let mut peer = Peer::connect(addr);
        peer.send(&Frame::call(1, "probe.Probe", "ReadForever", &request));
        stage.until(|state| state.reading == 1);
        drop(peer);
    });
    server.stage.until(|state| state.reads.len() == 1);
    let ended = server.stage.state.lock().reads[0].clone();
    assert_eq!(ended, format!("Some({})", libc::ECANCELED));
    on_a_thread(move || caller.join().unwrap());
    drop(silence.join());
    server.stop();
}

#[rpc_core::test]
fn a_lost_connection_fails_its_calls_as_possibly_run() {
    let (addr, accept) = accept_one();
    let server = std::thread::spawn(move || {
        let mut stream = accept();
        Frame::read(&mut stream).unwrap().unwrap()
    });
    let channel = Channel::builder(&addr)
        .deadline(PATIENCE)
        .connect()
        .unwrap();
    let status = ProbeClient::new(channel).echo(ask("gone")).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(!status.never_ran(), "{status}");
    on_a_thread(move || server.join().unwrap());
}

#[rpc_core::test]
fn an_answer_to_no_call_is_dropped_and_the_right_one_still_arrives() {
    let (addr, accept) = accept_one();
    let server = std::thread::spawn(move || {
        let mut stream = accept();
        let call = Frame::read(&mut stream).unwrap().unwrap();
        let id = call.meta.correlation_id();
        let told = |text: &str| Told {
            text: text.into(),
            ..Told::default()
        };
        let stray = Frame::answer(id + 4711, &told("stray"));
        let right = Frame::answer(id, &told("right"));
        let again = Frame::answer(id, &told("again"));
        let all = [stray.encode(), right.encode(), again.encode()].concat();
        stream.write_all(&all).unwrap();
        // The same connection carries the next call.
        let call = Frame::read(&mut stream).unwrap().unwrap();
        let next = Frame::answer(call.meta.correlation_id(), &told("next"));
        stream.write_all(&next.encode()).unwrap();
    });
    let channel = Channel::builder(&addr)
        .deadline(PATIENCE)
        .connect()
        .unwrap();
    let client = ProbeClient::new(channel);
    assert_eq!(client.echo(ask("1")).unwrap().text, "right");
    assert_eq!(client.echo(ask("2")).unwrap().text, "next");
    on_a_thread(move || server.join().unwrap());
}

#[rpc_core::test]
fn a_server_that_sends_nonsense_fails_its_calls_and_is_left() {
    let (addr, accept) = accept_one();
    let server = std::thread::spawn(move || {
        let mut stream = accept();
        Frame::read(&mut stream).unwrap().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        // Our end closes.
        stream.read_to_end(&mut Vec::new()).map(|_| ())
    });
    let channel = Channel::builder(&addr)
        .deadline(PATIENCE)
        .connect()
        .unwrap();
    let status = ProbeClient::new(channel).echo(ask("1")).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let _ = on_a_thread(move || server.join().unwrap());
}

#[rpc_core::test]
fn without_a_server_a_call_certainly_never_ran() {
    let (addr, accept) = accept_one();
    drop(accept);
    let text = Channel::builder(&addr).connect().unwrap_err().to_string();
    assert!(text.contains(&addr) && !text.contains('\n'), "{text}");
    let channel = Channel::builder(&addr)
        .deadline(PATIENCE)
        .connect_lazy()
        .unwrap();
    let status = ProbeClient::new(channel).echo(ask("nowhere")).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.never_ran(), "{status}");
}

#[rpc_core::test]
fn a_loop_around_a_failing_call_does_not_starve_its_worker() {
    let (addr, accept) = accept_one();
    drop(accept);
    let channel = Channel::builder(&addr).connect_lazy().unwrap();
    let client = ProbeClient::new(channel);
    let stop = Arc::new(AtomicUsize::new(0));
    let seen = stop.clone();
    let caller = rpc_core::spawn(move || {
        while seen.load(Ordering::Relaxed) == 0 {
            client.echo(ask("nobody")).unwrap_err();
        }
    });
    // Its timer fires only if the loop lets the worker get to it.
    rpc_core::time::sleep(Duration::from_millis(1));
    stop.store(1, Ordering::Relaxed);
    caller.join().unwrap();
}

#[rpc_core::test]
fn a_channel_finds_its_server_again_after_a_restart() {
    let first = Served::start();
    let addr = first.addr.to_string();
    let client = first.client();
    client.echo(ask("before")).unwrap();
    first.stop();
    let second = Served::at(&addr, |builder| builder);
    let options = CallOptions::new().wait_for_ready(true);
    let after = client.echo_with(ask("after"), options).unwrap();
    assert_eq!(after.text, "after");
    second.stop();
}

#[rpc_core::test]
fn a_malformed_frame_closes_its_connection_alone_and_is_counted() {
    let server = Served::start();
    let client = server.client();
    let held = client.clone();
    let under_way = rpc_core::spawn(move || held.hold(ask("bystander")));
    server.stage.until(|state| state.waiting == 1);
    let addr = server.addr;
    let sample = "rpc_server_bad_input_total{reason=\"bad_magic\"}";
    let before = on_a_thread(move || metric(addr, sample));
    on_a_thread(move || {
        let mut peer = Peer::connect(addr);
        peer.send(&Frame::call(1, "probe.Probe", "Echo", &ask("well-formed")));
        assert_eq!(peer.receive().unwrap().error_code(), 0);
        peer.0.write_all(b"NONSENSE-THAT-IS-NO-FRAME").unwrap();
        assert!(peer.rest().is_empty());
    });
    assert_eq!(on_a_thread(move || metric(addr, sample)) - before, 1.0);
    server.stage.open("bystander");
    assert!(under_way.join().unwrap().is_ok());
    server.stop();
}

#[rpc_core::test]
fn a_foreign_protocol_is_closed_with_a_counted_reason() {
    let server = Served::start();
    let addr = server.addr;
    let tls = "rpc_server_bad_input_total{reason=\"unknown_protocol\"}";
    let h2 = "rpc_server_bad_input_total{reason=\"http2_protocol\"}";
    on_a_thread(move || {
        let before = (metric(addr, tls), metric(addr, h2));
        let mut peer = Peer::connect(addr);
        peer.0
            .write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3])
            .unwrap();
        assert!(peer.rest().is_empty());
        let mut peer = Peer::connect(addr);
        peer.0
            .write_all(b"PRI * HTTP/2.0\r\n\r\nBUT NOT REALLY")
            .unwrap();
        peer.rest();
        assert_eq!(metric(addr, tls) - before.0, 1.0);
        assert_eq!(metric(addr, h2) - before.1, 1.0);
    });
    server.stop();
}

#[rpc_core::test]
fn a_call_above_the_concurrency_limit_is_refused_alone() {
    let server = Served::with(|builder| builder.max_concurrency(2));
    let client = server.client();
    let held: Vec<_> = (0..2)
        .map(|_| {
            let client = client.clone();
            rpc_core::spawn(move || client.hold(ask("full")))
        })
        .collect();
    server.stage.until(|state| state.waiting == 2);
    let status = client.echo(ask("one too many")).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.never_ran());
    server.stage.open("full");
    assert!(held.into_iter().all(|call| call.join().unwrap().is_ok()));
    assert_eq!(client.echo(ask("again")).unwrap().text, "again");
    server.stop();
}

#[rpc_core::test]
fn a_channel_at_its_bound_of_pending_calls_says_so_at_once() {
    let server = Served::start();
    let channel = Channel::builder(&server.addr.to_string())
        .max_pending(1)
        .connect()
        .unwrap();
    let client = ProbeClient::new(channel);
    let held = client.clone();
    let call = rpc_core::spawn(move || held.hold(ask("only one")));
    server.stage.until(|state| state.waiting == 1);
    let status = client.echo(ask("two")).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.never_ran(), "{status}");
    server.stage.open("only one");
    assert!(call.join().unwrap().is_ok());
    server.stop();
}

#[rpc_core::test]
fn a_peer_that_never_reads_is_closed_at_the_bound_and_counted() {
    let server = Served::with(|builder| builder.unwritten(1 << 20, 1 << 20, PATIENCE));
    let addr = server.addr;
    let sample = "rpc_server_connections_closed_total{reason=\"unwritten_limit\"}";
    on_a_thread(move || {
        let mut peer = Peer::connect(addr);
        // More than the sockets of both ends hold, whatever their sizes.
        let greedy = Ask {
            size: 16 << 20,
            ..Ask::default()
        };
        for id in 0..4 {
            let call = Frame::call(id, "probe.Probe", "Echo", &greedy).encode();
            // It fails where the server has closed already.
            let _ = peer.0.write_all(&call);
        }
        while metric(addr, sample) == 0.0 {
            std::thread::yield_now();
        }
    });
    assert_eq!(server.client().echo(ask("others")).unwrap().text, "others");
    server.stop();
}

#[rpc_core::test]
fn a_slow_reader_is_not_read_meanwhile_and_gets_every_answer() {
    let server = Served::with(|builder| builder.unwritten(1 << 16, 1 << 30, PATIENCE));
    let addr = server.addr;
    on_a_thread(move || {
        let mut peer = Peer::connect(addr);
        let greedy = Ask {
            size: 2 << 20,
            ..Ask::default()
        };
        for id in 0..40 {
            peer.send(&Frame::call(id, "probe.Probe", "Echo", &greedy));
        }
        let mut ids: Vec<i64> = (0..40)
            .map(|_| {
                let answer = peer.receive().unwrap();
                assert!(answer.body.len() > 2 << 20);
                answer.meta.correlation_id()
            })
            .collect();
        ids.sort_unstable();
        assert!(ids.into_iter().eq(0..40));
    });
    server.stop();
}

#[rpc_core::test]
fn a_peer_that_stalls_is_closed_after_its_time() {
    let server = Served::with(|builder| builder.unwritten(1 << 20, 1 << 30, Duration::ZERO));
    let addr = server.addr;
    let sample = "rpc_server_connections_closed_total{reason=\"stalled\"}";
    on_a_thread(move || {
        let mut peer = Peer::connect(addr);
        let greedy = Ask {
            size: 32 << 20,
            ..Ask::default()
        };
        peer.send(&Frame::call(1, "probe.Probe", "Echo", &greedy));
        while metric(addr, sample) == 0.0 {
            std::thread::yield_now();
        }
    });
    server.stop();
}

#[rpc_core::test]
fn a_message_above_the_limit_closes_its_connection_and_is_counted() {
    let server = Served::with(|builder| builder.max_message_size(1 << 16));
    let client = server.client();
    let status = client.echo(ask(&"x".repeat(1 << 17))).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let options = CallOptions::new().wait_for_ready(true);
    let small = client.echo_with(ask("small"), options).unwrap();
    assert_eq!(small.text, "small");
    server.stop();
}

#[rpc_core::test]
fn a_cancelled_caller_leaves_at_once() {
    let server = Served::start();
    let client = server.client();
    let call = rpc_core::spawn(move || client.hold(ask("abandoned")).unwrap_err());
    server.stage.until(|state| state.waiting == 1);
    call.cancel();
    assert_eq!(call.join().unwrap().code(), Code::Cancelled);
    server.stage.open("abandoned");
    server.stop();
}

#[rpc_core::test]
fn a_connection_above_the_bound_is_closed_at_once_and_counted() {
    let server = Served::with(|builder| builder.max_connections(2));
    let addr = server.addr;
    let sample = "rpc_server_connections_closed_total{reason=\"too_many_connections\"}";
    on_a_thread(move || {
        let mut first = Peer::connect(addr);
        first.send(&Frame::call(1, "probe.Probe", "Echo", &ask("first")));
        assert_eq!(first.receive().unwrap().error_code(), 0);
        let mut second = Peer::connect(addr);
        second.send(&Frame::call(1, "probe.Probe", "Echo", &ask("second")));
        assert_eq!(second.receive().unwrap().error_code(), 0);
        assert!(Peer::connect(addr).rest().is_empty());
        drop(second);
        // Its place is free as soon as the server has seen its end.
        let refused = loop {
            let mut probe = Peer::connect(addr);
            probe.send(&Frame::call(1, "probe.Probe", "Echo", &ask("probe")));
            if matches!(Frame::read(&mut probe.0), Ok(Some(_))) {
                drop(probe);
                break loop {
                    if let Some(count) = try_metric(addr, sample) {
                        break count;
                    }
                };
            }
        };
        assert!(refused >= 1.0);
    });
    server.stop();
}

/// As [`metric`], where the server may close the connection instead.
fn try_metric(addr: SocketAddr, sample: &str) -> Option<f64> {
    let mut peer = Peer::connect(addr);
    peer.0
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    peer.0.read_to_string(&mut answer).ok()?;
    let line = answer.lines().find_map(|line| line.strip_prefix(sample));
    line?.trim().parse().ok()
}
