//! Packets recorded from brpc 1.17, replayed against a running `brpc_echo`.

use super::peer::{Frame, Peer, RpcMeta};
use super::*;

use std::io::Write;

use prost::Message;
use tests::Program;

/// Recordings of unary calls; `NAME.c2s` is what the client sent, `NAME.s2c` what brpc answered.
const UNARY: [&str; 7] = [
    "echo_plain",
    "echo_attachment",
    "echo_checksum",
    "echo_timeout_ms",
    "echo_pooled",
    "press_nomethod",
    "press_noservice",
];

#[test]
fn recorded_calls_are_answered_by_brpc_echo_field_for_field_as_brpc_did() {
    let mut server = Program::start("brpc_echo", &["--addr", "127.0.0.1:0"]).unwrap();
    let line = server.line_with("serving").unwrap();
    let addr: SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
    for name in UNARY {
        let (Some(sent), Some(answered)) = (recorded(name, "c2s"), recorded(name, "s2c")) else {
            return;
        };
        let (sent, answered) = (frames(&sent), frames(&answered));
        let mut peer = Peer::connect(addr);
        for frame in &sent {
            peer.0.write_all(&frame.encode()).unwrap();
        }
        let count = sent.len().min(answered.len());
        assert!(count > 0, "{name} holds a whole call");
        let mut ours: Vec<Frame> = sent.iter().map(|_| peer.receive().unwrap()).collect();
        // Answers may come in any order; recordings are compared by correlation id.
        ours.sort_by_key(|frame| frame.meta.correlation_id());
        let mut theirs = answered;
        theirs.sort_by_key(|frame| frame.meta.correlation_id());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(fields(ours), fields(theirs), "{name}");
            assert_eq!(ours.body, theirs.body, "{name}");
        }
    }
    server.terminate().unwrap();
    assert!(server.finish().unwrap().0.success());
}

#[test]
fn recorded_json_calls_are_answered_byte_for_byte_as_brpc_did() {
    let mut server = Program::start("brpc_echo", &["--addr", "127.0.0.1:0"]).unwrap();
    let line = server.line_with("serving").unwrap();
    let addr: SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
    let (Some(sent), Some(answered)) =
        (recorded("press_http", "c2s"), recorded("press_http", "s2c"))
    else {
        return;
    };
    let mut peer = Peer::connect(addr);
    peer.0.write_all(&sent).unwrap();
    let mut ours = vec![0; answered.len()];
    peer.0.read_exact(&mut ours).unwrap();
    assert_eq!(
        ours.escape_ascii().to_string(),
        answered.escape_ascii().to_string()
    );
    server.terminate().unwrap();
    assert!(server.finish().unwrap().0.success());
}

#[test]
fn recorded_grpc_calls_are_answered_field_for_field_as_brpc_did() {
    let mut server = Program::start("brpc_echo", &["--addr", "127.0.0.1:0"]).unwrap();
    let line = server.line_with("serving").unwrap();
    let addr: SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
    let (Some(sent), Some(answered)) =
        (recorded("grpc_unary", "c2s"), recorded("grpc_unary", "s2c"))
    else {
        return;
    };
    let theirs = grpc_answers(&mut &answered[..], usize::MAX);
    // The recordings end in the middle of what the last call has to say.
    assert!(theirs.len() >= 9, "{theirs:?}");
    let mut peer = Peer::connect(addr);
    peer.0.write_all(&sent).unwrap();
    let ours = grpc_answers(&mut peer.0, theirs.len());
    assert_eq!(ours, theirs);
    server.terminate().unwrap();
    assert!(server.finish().unwrap().0.success());
}

/// brpc's answer to the call that opens a stream is the first frame of that stream; every message that is
/// taken is acknowledged.
#[test]
fn a_recorded_stream_is_answered_by_brpc_echo_byte_for_byte_as_brpc_did() {
    let mut server = Program::start("brpc_echo", &["--addr", "127.0.0.1:0"]).unwrap();
    let line = server.line_with("serving").unwrap();
    let addr: SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
    let (Some(sent), Some(answered)) = (
        recorded("stream_echo", "c2s"),
        recorded("stream_echo", "s2c"),
    ) else {
        return;
    };
    // All at once, and byte by byte.
    for step in [sent.len(), 1] {
        let mut peer = Peer::connect(addr);
        peer.0.set_nodelay(true).unwrap();
        for piece in sent.chunks(step) {
            peer.0.write_all(piece).unwrap();
        }
        let mut ours = vec![0; answered.len()];
        peer.0.read_exact(&mut ours).unwrap();
        assert_eq!(
            ours.escape_ascii().to_string(),
            answered.escape_ascii().to_string()
        );
        // Unary calls go on beside the stream.
        let echo = "beside".to_owned(); // as the only field of EchoRequest
        peer.send(&Frame::call(7, "example.EchoService", "Echo", &echo));
        assert_eq!(peer.receive().unwrap().body, echo.encode_to_vec(), "echoed");
    }
    server.terminate().unwrap();
    assert!(server.finish().unwrap().0.success());
}

/// What a gRPC server said on each stream, until `count` of them have ended or there is no more: fields and
/// data, in their order.
fn grpc_answers(from: &mut impl Read, count: usize) -> Vec<(u32, Vec<String>)> {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const END_STREAM: u8 = 1;
    let mut decoder = hpack::Decoder::new();
    let mut open: HashMap<u32, Vec<String>> = HashMap::new();
    let mut ended = Vec::new();
    let mut head = [0; 9];
    while ended.len() < count && from.read_exact(&mut head).is_ok() {
        let [a, b, c, kind, flags, e, f, g, h] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        from.read_exact(&mut payload).unwrap();
        let id = u32::from_be_bytes([e, f, g, h]);
        match kind {
            DATA => {
                let said = open.entry(id).or_default();
                said.push(format!("data {}", payload.escape_ascii()));
            }
            HEADERS => {
                let text = |bytes| String::from_utf8(bytes).unwrap();
                for (name, value) in decoder.decode(&payload).unwrap() {
                    let field = format!("{}: {}", text(name), text(value));
                    open.entry(id).or_default().push(field);
                }
            }
            _ => continue,
        }
        if flags & END_STREAM != 0 {
            ended.push((id, open.remove(&id).unwrap_or_default()));
        }
    }
    // Streams end in any order.
    ended.sort();
    ended
}

/// The fields of an answer; what brpc writes out as zero or empty counts as absent, and the address
/// before an error's text is that of the server that wrote it.
fn fields(frame: &Frame) -> RpcMeta {
    let mut meta = frame.meta.clone();
    if let Some(response) = &mut meta.response {
        response.error_code = response.error_code.filter(|code| *code != 0);
        response.error_text = response
            .error_text
            .take()
            .filter(|text| !text.is_empty())
            .map(|text| {
                text.split_once(']')
                    .map_or(text.clone(), |(_, rest)| rest.to_owned())
            });
    }
    meta.attachment_size = meta.attachment_size.filter(|size| *size != 0);
    meta.checksum_type = meta.checksum_type.filter(|kind| *kind != 0);
    meta.checksum_value = meta.checksum_value.filter(|value| !value.is_empty());
    meta
}

fn recorded(name: &str, side: &str) -> Option<Vec<u8>> {
    let path = tests::recorded(&format!("prpc-golden/{name}.{side}"))?;
    Some(std::fs::read(path).expect("a recording that is there can be read"))
}

/// The whole messages of a recording; its last one may be cut.
fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Ok(Some(frame)) = Frame::read(&mut bytes) {
        frames.push(frame);
    }
    frames
}

#[test]
fn the_echo_programs_talk_to_each_other() {
    let mut server = Program::start("brpc_echo", &["--addr", "127.0.0.1:0"]).unwrap();
    let line = server.line_with("serving").unwrap();
    let addr = line.rsplit(' ').next().unwrap();
    let flags = [
        "--addr",
        addr,
        "--message",
        "hi",
        "--attachment",
        "xyz",
        "--checksum",
    ];
    let client = Program::start("brpc_echo_client", &flags).unwrap();
    let (status, lines) = client.finish().unwrap();
    assert!(status.success(), "{lines:?}");
    assert!(lines.contains(&"message: hi".to_owned()), "{lines:?}");
    assert!(lines.contains(&"attachment: xyz".to_owned()), "{lines:?}");
    let load = ["--addr", addr, "--count", "2000", "--inflight", "50"];
    let (status, lines) = Program::start("brpc_echo_client", &load)
        .unwrap()
        .finish()
        .unwrap();
    assert!(
        status.success() && lines[0].contains("0 failed"),
        "{lines:?}"
    );
}

#[test]
fn wrong_flags_used_ports_and_absent_servers_are_one_line_each() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let wrong: [(&str, &[&str], i32, &str); 3] = [
        ("brpc_echo", &["--adr", "x"], 2, "--adr"),
        ("brpc_echo", &["--addr", &addr], 1, &addr),
        ("brpc_echo_client", &["--addr", &closed], 1, &closed),
    ];
    for (program, flags, code, part) in wrong {
        let mut command = std::process::Command::new(tests::bin(program));
        command.args(flags);
        let (status, _, errors) = tests::run(&mut command).unwrap();
        assert_eq!(status.code(), Some(code), "{program} {flags:?}: {errors}");
        assert_eq!(errors.trim_end().lines().count(), 1, "{errors}");
        assert!(errors.contains(part), "{errors}");
    }
}
