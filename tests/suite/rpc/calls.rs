//! Calls that succeed, calls that fail, and what travels beside them.

use super::peer::{Frame, Peer};
use super::*;

use rpc_core::{CallOptions, Code, Compression, Wire};

#[rpc_core::test]
fn message_attachment_metadata_and_log_id_come_back() {
    let server = Served::start();
    let client = server.client();
    let mut request = Request::new(ask("hello"));
    request.set_attachment(attachment("beside"));
    request.set_log_id(42);
    request.metadata_mut().append("own", "1");
    let options = CallOptions::new().metadata("added", "2").checksum(true);
    let response = client.echo_with(request, options).unwrap();
    assert_eq!(response.text, "hello");
    assert_eq!(response.attachment(), "beside");
    assert_eq!(response.remaining_ms, 42, "the handler saw the log id");
    assert_eq!(response.metadata().get("own"), Some("1"));
    assert_eq!(response.metadata().get("added"), Some("2"));
    server.stop();
}

#[rpc_core::test]
fn a_large_message_and_attachment_arrive_whole() {
    let server = Served::start();
    let client = server.client();
    let text: String = (0..3 << 20)
        .map(|i| char::from(b'a' + (i % 23) as u8))
        .collect();
    let mut request = Request::new(Ask {
        text: text.clone(),
        size: 2 << 20,
        ..Ask::default()
    });
    request.set_attachment(vec![9; 5 << 20]);
    let response = client.echo(request).unwrap();
    assert!(response.text == text && response.data == vec![7; 2 << 20]);
    assert!(response.attachment() == &vec![9; 5 << 20]);
    server.stop();
}

#[rpc_core::test]
fn a_compressed_message_arrives_as_it_was_and_an_unknown_kind_is_not_sent() {
    let server = Served::start();
    let client = server.client();
    let text = "again and ".repeat(10_000);
    for kind in [Compression::Snappy, Compression::Gzip, Compression::Zlib] {
        let options = CallOptions::new().compression(kind).checksum(true);
        let response = client.echo_with(ask(&text), options).unwrap();
        assert!(response.text == text, "{kind}");
    }
    let options = CallOptions::new().compression(Compression::Lz4);
    let status = client.echo_with(ask(&text), options).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    server.stop();
}

#[rpc_core::test]
fn answers_are_compressed_as_their_requests_where_the_server_says_so() {
    let text = "again and ".repeat(100);
    let kinds = [Compression::Snappy, Compression::Gzip, Compression::Zlib];
    let server = Served::with(|builder| builder.mirror_compression(100));
    let client = server.client();
    for kind in kinds {
        let options = CallOptions::new().compression(kind).checksum(true);
        let long = client.echo_with(ask(&text), options.clone()).unwrap();
        assert_eq!((long.compression(), &long.text), (kind, &text));
        let short = client.echo_with(ask("short"), options).unwrap();
        assert_eq!(short.compression(), Compression::None, "{kind}");
    }
    let plain = client.echo(ask(&text)).unwrap();
    assert_eq!(plain.compression(), Compression::None);
    server.stop();
    let server = Served::start();
    let options = CallOptions::new().compression(Compression::Gzip);
    let answer = server.client().echo_with(ask(&text), options).unwrap();
    assert_eq!(
        answer.compression(),
        Compression::None,
        "by default the handler says"
    );
    server.stop();
}

#[rpc_core::test]
fn with_an_authenticator_only_who_is_vouched_for_calls_whatever_the_protocol() {
    let verify = |credential: &[u8]| match credential {
        b"Bearer 1" => Ok(()),
        _ => Err("no such key".to_owned()),
    };
    let server = Served::with(|builder| builder.authenticator(verify));
    for wire in [Wire::Prpc, Wire::Grpc] {
        let builder = || {
            Channel::builder(&server.addr.to_string())
                .protocol(wire)
                .deadline(PATIENCE)
        };
        let known = ProbeClient::new(builder().credential("Bearer 1").connect().unwrap());
        for _ in 0..3 {
            assert_eq!(
                known.echo(ask("let in")).unwrap().text,
                "let in",
                "{wire:?}"
            );
        }
        for stranger in [builder(), builder().credential("Bearer 2")] {
            let stranger = ProbeClient::new(stranger.connect().unwrap());
            let status = stranger.echo(ask("let in")).unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{wire:?}: {status}");
            assert!(
                status.message().contains("no such key"),
                "{wire:?}: {status}"
            );
        }
    }
    let addr = server.addr;
    on_a_thread(move || {
        let ask = |line: &str, header: &str| {
            let text = format!(
                "{line} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{header}Content-Length: 2\r\n\r\n{{}}"
            );
            peer::http(addr, &text).0
        };
        let key = "Authorization: Bearer 1\r\n";
        for line in ["POST /probe.Probe/Echo", "GET /status"] {
            assert_eq!((ask(line, key), ask(line, "")), (200, 401), "{line}");
        }
    });
    server.stop();
}

#[rpc_core::test]
fn an_empty_message_is_a_message() {
    let server = Served::start();
    let response = server.client().echo(Ask::default()).unwrap();
    assert_eq!(response.into_inner(), Told::default());
    server.stop();
}

#[rpc_core::test]
fn ten_thousand_calls_in_flight_each_get_their_own_answer() {
    let server = Served::start();
    let client = server.client();
    let calls: Vec<_> = (0..10_000)
        .map(|i| {
            let client = client.clone();
            rpc_core::spawn(move || {
                let sent = format!("gate {}", i % 10);
                let held = client.hold(ask(&sent)).unwrap();
                assert_eq!(held.text, sent);
                client.echo(ask(&i.to_string())).unwrap().into_inner().text == i.to_string()
            })
        })
        .collect();
    server.stage.until(|state| state.waiting == 10_000);
    for gate in 0..10 {
        server.stage.open(&format!("gate {gate}"));
    }
    assert!(calls.into_iter().all(|call| call.join().unwrap()));
    server.stop();
}

#[rpc_core::test(workers = 2)]
fn answers_reach_callers_on_other_workers() {
    let server = Served::start();
    let client = server.client();
    let calls: Vec<_> = (0..64)
        .map(|i| {
            let client = client.clone();
            rpc_core::spawn(move || {
                (0..50).all(|k| {
                    let text = format!("{i}/{k}");
                    client.echo(ask(&text)).unwrap().text == text
                })
            })
        })
        .collect();
    assert!(calls.into_iter().all(|call| call.join().unwrap()));
    server.stop();
}

#[rpc_core::test]
fn a_handlers_failure_keeps_code_text_and_metadata() {
    let server = Served::start();
    let status = server.client().fail(ask("not now")).unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::FailedPrecondition, "not now")
    );
    assert!(!status.never_ran());
    server.stop();
}

#[rpc_core::test]
fn a_panic_in_a_handler_is_internal_to_its_caller_alone() {
    let server = Served::start();
    let client = server.client();
    let status = client.panic(Ask::default()).unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(
        !status.message().contains("always panics"),
        "the text stays in the log"
    );
    assert_eq!(client.echo(ask("still here")).unwrap().text, "still here");
    assert_eq!(server.stage.panics.load(Ordering::Relaxed), 1);
    server.stop();
}

#[rpc_core::test]
fn a_deadline_reaches_the_nested_call() {
    let (outer, inner) = (Served::start(), Served::start());
    let request = Ask {
        target: inner.addr.to_string(),
        ..Ask::default()
    };
    let options = CallOptions::new().deadline(Duration::from_secs(30));
    let told = outer.client().nested_with(request, options).unwrap();
    // The nested channel allows an hour; what arrives is what was left of the outer thirty seconds.
    assert!(
        (1..=30_000).contains(&told.remaining_ms),
        "{} ms",
        told.remaining_ms
    );
    outer.stop();
    inner.stop();
}

#[rpc_core::test]
fn a_nested_call_carries_the_log_id_and_the_fields_marked_for_it() {
    let (outer, inner) = (Served::start(), Served::start());
    let mut request = Request::new(Ask {
        text: "context".into(),
        target: inner.addr.to_string(),
        ..Ask::default()
    });
    request.set_log_id(4711);
    request.metadata_mut().append("x-ctx-tenant", "acme");
    request.metadata_mut().append("private", "stays");
    let client = outer.client();
    let carried = client.nested(request).unwrap();
    assert_eq!(
        carried.remaining_ms, 4711,
        "the inner handler saw the log id"
    );
    assert_eq!(carried.metadata().get("x-ctx-tenant"), Some("acme"));
    assert_eq!(carried.metadata().get("private"), None);
    // The next call of the same connection comes with nothing, and carries nothing.
    let bare = Ask {
        text: "context".into(),
        target: inner.addr.to_string(),
        ..Ask::default()
    };
    let carried = client.nested(bare).unwrap();
    assert!(carried.metadata().is_empty() && carried.remaining_ms == 0);
    outer.stop();
    inner.stop();
}

#[rpc_core::test]
fn the_scope_a_call_is_made_in_bounds_it() {
    let server = Served::start();
    let client = server.client();
    let told = rpc_core::Deadline::within(Duration::from_secs(20), || {
        client.remaining(Ask::default()).unwrap()
    });
    assert!(
        (1..=20_000).contains(&told.remaining_ms),
        "{} ms",
        told.remaining_ms
    );
    server.stop();
}

#[rpc_core::test]
fn several_addresses_share_the_calls() {
    let (one, two) = (Served::start(), Served::start());
    let target = format!("list://{},{}", one.addr, two.addr);
    let channel = Channel::builder(&target)
        .deadline(PATIENCE)
        .connect()
        .unwrap();
    let client = ProbeClient::new(channel);
    one.stage.open("gate");
    two.stage.open("gate");
    // Both are connected sooner or later; then each call goes to the next of them.
    let held = |server: &Served| server.stage.state.lock().held;
    while held(&one) == 0 || held(&two) == 0 {
        client.hold(ask("gate")).unwrap();
    }
    let before = (held(&one), held(&two));
    for _ in 0..10 {
        client.hold(ask("gate")).unwrap();
    }
    assert_eq!((held(&one), held(&two)), (before.0 + 5, before.1 + 5));
    one.stop();
    two.stop();
}

#[rpc_core::test]
fn a_dropped_channel_leaves_no_connection_behind() {
    let server = Served::start();
    for round in 0..100 {
        let client = server.client();
        assert_eq!(client.echo(ask("x")).unwrap().text, "x", "round {round}");
    }
    while server.handle.connections() > 0 {
        rpc_core::yield_now();
    }
    server.stop();
}

#[rpc_core::test]
fn a_call_is_answered_in_the_content_type_it_was_made_in() {
    let server = Served::start();
    let addr = server.addr;
    on_a_thread(move || {
        let mut peer = Peer::connect(addr);
        let texts = [
            (1, r#"{"text":"two \u0041"}"#, r#"{"text":"two A"}"#),
            (2, r#"{"text":"three"}"#, r#"{"text":"three"}"#),
            (3, "# by hand\ntext: 'four' ' five'", r#"text:"four five""#),
        ];
        for (content_type, ask, told) in texts {
            let mut call = Frame::call(i64::from(content_type), "probe.Probe", "Echo", &());
            call.meta.content_type = Some(content_type);
            call.body = ask.into();
            peer.send(&call);
            let answer = peer.receive().unwrap();
            assert_eq!(answer.meta.content_type, Some(content_type));
            assert_eq!(
                answer.body.escape_ascii().to_string(),
                told.as_bytes().escape_ascii().to_string()
            );
            call.body = b"text: {".into();
            peer.send(&call);
            let refused = peer.receive().unwrap();
            assert_eq!(refused.error_code(), 1003, "EREQUEST");
        }
    });
    server.stop();
}
