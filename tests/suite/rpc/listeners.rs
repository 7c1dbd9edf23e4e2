//! Ways to a server beside a TCP port: Unix sockets, a proxy's header, the process itself; and whether the
//! other end is still there.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use rpc_core::Wire;

use super::peer::{Frame, Peer, accept_one};
use super::*;

/// A server at a Unix socket in `folder`, and its target.
fn at_a_socket(folder: &Path) -> (Served, String) {
    let target = format!("unix:{}", folder.join("probe.sock").display());
    (Served::at(&target, |builder| builder), target)
}

fn client_of(target: &str, wire: Wire) -> ProbeClient {
    let builder = Channel::builder(target).deadline(PATIENCE).protocol(wire);
    ProbeClient::new(builder.connect().expect("the server listens"))
}

/// As [`ask`], and for the caller's address.
fn wondering(text: &str) -> Ask {
    Ask {
        tell_peer: true,
        ..ask(text)
    }
}

#[rpc_core::test]
fn a_unix_socket_speaks_what_a_port_speaks() {
    let folder = tempfile::tempdir().unwrap();
    let (server, target) = at_a_socket(folder.path());
    for wire in [Wire::Prpc, Wire::Grpc] {
        let mut large = wondering("over a socket");
        large.size = 3 << 20;
        let told = client_of(&target, wire).echo(large).unwrap();
        assert_eq!((&*told.text, told.data.len()), ("over a socket", 3 << 20));
        assert_eq!(told.peer, "", "who calls over a Unix socket has no address");
    }
    let path = folder.path().join("probe.sock");
    let shown = path.clone();
    let output = on_a_thread(move || {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "60"])
            .arg("--unix-socket")
            .arg(shown)
            .args([
                "--json",
                r#"{"text":"curl"}"#,
                "http://localhost/probe.Probe/Echo",
            ]);
        curl.output()
            .expect("curl is installed by the test command")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        r#"{"text":"curl"}"#,
        "{said}"
    );
    server.stop();
    assert!(!path.exists(), "a drained server leaves no file");
}

#[rpc_core::test]
fn grpcio_calls_over_a_unix_socket() {
    let Some(python) = tests::python() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (server, target) = at_a_socket(folder.path());
    let program = format!(
        "import grpc\n\
         call = grpc.insecure_channel('{target}').unary_unary('/probe.Probe/Echo')\n\
         print(call(b'\\x0a\\x06grpcio', timeout=60))"
    );
    let output = on_a_thread(move || {
        let mut command = Command::new(python);
        command.args(["-c", &program]).output().unwrap()
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "b'\\n\\x06grpcio'\n",
        "{said}"
    );
    server.stop();
}

#[rpc_core::test]
fn a_channel_finds_a_unix_socket_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (server, target) = at_a_socket(folder.path());
    let client = client_of(&target, Wire::Prpc);
    assert_eq!(client.echo(ask("before")).unwrap().text, "before");
    server.stop();
    assert!(client.echo(ask("meanwhile")).unwrap_err().never_ran());
    let (server, _) = at_a_socket(folder.path());
    let patient = rpc_core::CallOptions::new().wait_for_ready(true);
    assert_eq!(
        client.echo_with(ask("after"), patient).unwrap().text,
        "after"
    );
    server.stop();
}

/// A header that names 192.0.2.1:4660 as the caller.
const HEADER: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\x12\x34\0\x50";

#[rpc_core::test]
fn behind_a_proxy_handlers_see_the_address_that_its_header_names() {
    let server = Served::with(|builder| builder.proxy_protocol(true));
    let addr = server.addr;
    let told = on_a_thread(move || {
        let mut peer = Peer::connect(addr);
        peer.0.write_all(HEADER).unwrap();
        peer.send(&Frame::call(
            1,
            "probe.Probe",
            "Echo",
            &wondering("proxied"),
        ));
        let answer = peer.receive().expect("the call is answered");
        <Told as prost::Message>::decode(&answer.body[..]).unwrap()
    });
    assert_eq!((&*told.text, &*told.peer), ("proxied", "192.0.2.1:4660"));

    let own = on_a_thread(move || {
        // A health check of the proxy's own, by HTTP.
        let mut stream = TcpStream::connect(addr).unwrap();
        let check = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(check).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    assert!(own.starts_with("HTTP/1.1 200 "), "{own}");
    server.stop();
}

#[rpc_core::test]
fn behind_a_proxy_a_bare_connection_is_closed_and_counted() {
    let server = Served::with(|builder| builder.proxy_protocol(true));
    let addr = server.addr;
    on_a_thread(move || {
        for bad in [
            &b"GET /health HTTP/1.1\r\n\r\n"[..],
            b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\x12\x34\0\x50",
        ] {
            let mut stream = TcpStream::connect(addr).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(bad).unwrap();
            assert_eq!(
                stream.read(&mut [0; 64]).unwrap_or(0),
                0,
                "nothing is answered"
            );
        }
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(HEADER).unwrap();
        let page = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(page).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let counted = text
            .lines()
            .find(|line| line.contains("reason=\"proxy_header\""));
        let counted = counted.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        assert!(counted.is_some_and(|count| count >= 2.0), "{text}");
    });
    server.stop();
}

#[rpc_core::test]
fn a_server_of_this_process_is_called_without_an_address_and_ends_with_its_channel() {
    let stage = Arc::new(Stage::default());
    let server = Server::builder().add_service(ProbeServer::new(Actor(stage.clone())));
    let channel = Channel::in_process(server).unwrap();
    let client = ProbeClient::new(channel);
    let told = client.echo(wondering("inside")).unwrap();
    assert_eq!((&*told.text, &*told.peer), ("inside", ""));
    assert_eq!(client.fail(ask("no")).unwrap_err().message(), "no");
    // The server's own share goes when it has ended.
    let last = Arc::downgrade(&stage);
    drop((client, stage));
    while last.upgrade().is_some() {
        rpc_core::yield_now();
    }
}

#[test]
fn a_plain_thread_has_a_server_of_this_process_too() {
    let server = Server::builder().add_service(ProbeServer::new(Actor(Arc::default())));
    let client = ProbeClient::new(Channel::in_process(server).unwrap());
    assert_eq!(client.echo(ask("thread")).unwrap().text, "thread");
}

#[rpc_core::test]
fn a_server_silent_under_a_call_is_asked_for_a_sign_of_life() {
    const PING: u8 = 6;
    let (addr, accept) = accept_one();
    let asked = rpc_core::spawn_blocking(move || {
        let mut stream = accept();
        // SETTINGS, and nothing more.
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
        stream.read_exact(&mut [0; 24]).unwrap();
        let mut kinds = Vec::new();
        while kinds.last() != Some(&PING) {
            let mut head = [0; 9];
            stream.read_exact(&mut head).unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            stream.read_exact(&mut vec![0; length as usize]).unwrap();
            kinds.push(head[3]);
        }
        kinds
    });
    let builder = Channel::builder(&addr)
        .deadline(PATIENCE)
        .protocol(Wire::Grpc)
        .keepalive(Duration::from_millis(100));
    let client = ProbeClient::new(builder.connect().unwrap());
    let failed = client.echo(ask("anybody there?")).unwrap_err();
    assert_eq!(failed.code(), rpc_core::Code::Unavailable, "{failed:?}");
    let kinds = asked.join().unwrap();
    assert!(kinds.contains(&1), "the call went out before: {kinds:?}");
}
