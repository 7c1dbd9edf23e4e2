//! What is said between ZooKeeper and its clients: frames of jute, its servers' own encoding.
//!
//! Knows: bytes, operations, answers.   Does not know: sockets, sessions, time.
//!
//! Numbers are big-endian; text and bytes follow their length (`int`, -1 = none). A frame is its length
//! and what it holds: a header, then the body. The layout is that of `zookeeper.jute` in the server's
//! source; version 3.6 brought the last part used here, watches that stay.

#![forbid(unsafe_code)]

use bytes::{Buf, Bytes};

use super::{Fault, Kind, Node};

/// Bytes of one frame; servers send and take 1 MiB unless they are told otherwise.
pub(super) const FRAME_MAX: usize = 4 << 20;
/// The number of what the server says unasked.
pub(super) const EVENT: i32 = -1;
/// The number of signs of life.
pub(super) const PING: i32 = -2;
/// The number of watches that are set again after a loss; nobody waits for their answers.
pub(super) const REWATCH: i32 = -8;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub(super) enum Op {
    Create = 1,
    Delete = 2,
    GetData = 4,
    SetData = 5,
    GetChildren = 8,
    Ping = 11,
    AddWatch = 106,
    CloseSession = -11,
}

/// The session as the server knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ticket {
    /// 0 = none yet.
    pub id: i64,
    pub password: Vec<u8>,
    /// Milliseconds.
    pub timeout: i32,
}

/// What a server sends.
#[derive(PartialEq, Debug)]
pub(super) enum Incoming {
    /// A watched path has changed.
    Changed(String),
    /// An answer: to which number, and its body or what went wrong.
    Answer(i32, Result<Bytes, Fault>),
}

/// A frame under construction.
struct Frame(Vec<u8>);

impl Frame {
    fn new() -> Self {
        Self(vec![0; 4])
    }

    fn of(number: i32, op: Op) -> Self {
        Self::new().int(number).int(op as i32)
    }

    fn int(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn long(mut self, value: i64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn bytes(self, value: &[u8]) -> Self {
        let mut frame = self.int(value.len() as i32);
        frame.0.extend(value);
        frame
    }

    fn text(self, value: &str) -> Self {
        self.bytes(value.as_bytes())
    }

    fn byte(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    fn done(mut self) -> Vec<u8> {
        let length = (self.0.len() - 4) as i32;
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}

/// The first frame of a connection: opens a session, or goes on with one.
pub(super) fn connect(ticket: &Ticket, last_seen: i64) -> Vec<u8> {
    Frame::new()
        .int(0) // version of the protocol
        .long(last_seen)
        .int(ticket.timeout)
        .long(ticket.id)
        .bytes(&ticket.password)
        .byte(0) // a server that may write is wanted
        .done()
}

/// The server's first frame; `None` when the session is over.
pub(super) fn connected(frame: Bytes) -> Result<Option<Ticket>, Malformed> {
    let mut body = Body(frame);
    body.int()?;
    let timeout = body.int()?;
    let id = body.long()?;
    let password = body.bytes()?.to_vec();
    Ok((timeout > 0 && id != 0).then_some(Ticket {
        id,
        password,
        timeout,
    }))
}

pub(super) fn ping() -> Vec<u8> {
    Frame::of(PING, Op::Ping).done()
}

pub(super) fn close(number: i32) -> Vec<u8> {
    Frame::of(number, Op::CloseSession).done()
}

pub(super) fn create(number: i32, path: &str, data: &[u8], kind: Kind) -> Vec<u8> {
    let flags = match kind {
        Kind::Lasting => 0,
        Kind::Ephemeral => 1,
        Kind::Sequence => 2,
        Kind::EphemeralSequence => 3,
    };
    Frame::of(number, Op::Create)
        .text(path)
        .bytes(data)
        .int(1) // one entry: anybody may do everything
        .int(ALL_RIGHTS)
        .text("world")
        .text("anyone")
        .int(flags)
        .done()
}

pub(super) fn delete(number: i32, path: &str, version: i32) -> Vec<u8> {
    Frame::of(number, Op::Delete).text(path).int(version).done()
}

/// Of [`Op::GetData`] and [`Op::GetChildren`].
pub(super) fn get(number: i32, op: Op, path: &str) -> Vec<u8> {
    Frame::of(number, op)
        .text(path)
        .byte(0) // no watch that goes with its first event
        .done()
}

pub(super) fn set_data(number: i32, path: &str, data: &[u8], version: i32) -> Vec<u8> {
    Frame::of(number, Op::SetData)
        .text(path)
        .bytes(data)
        .int(version)
        .done()
}

/// A watch on a node and on the list of its children that stays until the connection ends.
pub(super) fn add_watch(number: i32, path: &str) -> Vec<u8> {
    Frame::of(number, Op::AddWatch).text(path).int(0).done()
}

/// Takes a server's frame apart; with it comes the number of the newest change the server had seen, where
/// it says one.
pub(super) fn incoming(frame: Bytes) -> Result<(Incoming, Option<i64>), Malformed> {
    let mut body = Body(frame);
    let number = body.int()?;
    let seen = Some(body.long()?).filter(|seen| *seen > 0);
    let code = body.int()?;
    if number == EVENT {
        body.int()?; // what happened
        body.int()?; // the state of the session
        return Ok((Incoming::Changed(body.text()?), seen));
    }
    let outcome = match code {
        0 => Ok(body.0),
        code => Err(fault(code)),
    };
    Ok((Incoming::Answer(number, outcome), seen))
}

/// The path in the answer to [`create`].
pub(super) fn created(body: Bytes) -> Result<String, Malformed> {
    Body(body).text()
}

/// The answer to [`Op::GetData`].
pub(super) fn node(body: Bytes) -> Result<Node, Malformed> {
    let mut body = Body(body);
    let data = body.bytes()?;
    let version = body.version()?;
    Ok(Node { data, version })
}

/// The version in the answer to [`set_data`].
pub(super) fn version(body: Bytes) -> Result<i32, Malformed> {
    Body(body).version()
}

/// The answer to [`Op::GetChildren`], sorted.
pub(super) fn children(body: Bytes) -> Result<Vec<String>, Malformed> {
    let mut body = Body(body);
    let count = body.int()?;
    // The frame's bytes bound it, whatever the number says.
    let mut names = (0..count)
        .map(|_| body.text())
        .collect::<Result<Vec<_>, _>>()?;
    names.sort();
    Ok(names)
}

/// A frame that ends too early, or holds what it cannot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

/// What is left of a frame.
struct Body(Bytes);

impl Body {
    fn int(&mut self) -> Result<i32, Malformed> {
        self.0.try_get_i32().map_err(|_| Malformed)
    }

    fn long(&mut self) -> Result<i64, Malformed> {
        self.0.try_get_i64().map_err(|_| Malformed)
    }

    fn bytes(&mut self) -> Result<Bytes, Malformed> {
        // -1 stands for none.
        let length = usize::try_from(self.int()?.max(0)).map_err(|_| Malformed)?;
        if length > self.0.len() {
            return Err(Malformed);
        }
        Ok(self.0.split_to(length))
    }

    fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Malformed)
    }

    /// Of a node's description.
    fn version(&mut self) -> Result<i32, Malformed> {
        // czxid, mzxid, ctime and mtime stand before it.
        for _ in 0..4 {
            self.long()?;
        }
        self.int()
    }
}

/// What a server's error number means to whoever asked.
fn fault(code: i32) -> Fault {
    match code {
        -101 => Fault::NoNode,
        -103 => Fault::BadVersion,
        -108 => Fault::EphemeralParent,
        -110 => Fault::NodeExists,
        -111 => Fault::NotEmpty,
        -112 => Fault::Expired,
        -8 => Fault::Invalid,
        -4 | -7 | -118 | -127 => Fault::Lost(format!("the server answered with error {code}")),
        code => Fault::Refused(code),
    }
}

/// Read, write, create, delete, administer.
const ALL_RIGHTS: i32 = 31;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(frame: Vec<u8>) -> Bytes {
        let length = i32::from_be_bytes(frame[..4].try_into().unwrap());
        assert_eq!(length as usize, frame.len() - 4);
        Bytes::from(frame).slice(4..)
    }

    #[test]
    fn a_request_has_the_layout_of_the_servers_source() {
        let frame = body(create(7, "/a", b"xy", Kind::EphemeralSequence));
        let wanted = [
            &[0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2][..],
            b"/a\0\0\0\x02xy\0\0\0\x01\0\0\0\x1f\0\0\0\x05world\0\0\0\x06anyone\0\0\0\x03",
        ];
        assert_eq!(frame, wanted.concat());
    }

    #[test]
    fn a_session_that_is_over_comes_with_nothing() {
        let ticket = Ticket {
            id: 9,
            password: vec![1; 16],
            timeout: 4000,
        };
        let reply = |ticket: &Ticket| {
            let frame = Frame::new().int(0).int(ticket.timeout).long(ticket.id);
            body(frame.bytes(&ticket.password).byte(0).done())
        };
        assert_eq!(connected(reply(&ticket)), Ok(Some(ticket)));
        let over = Ticket {
            id: 0,
            password: vec![0; 16],
            timeout: 0,
        };
        assert_eq!(connected(reply(&over)), Ok(None));
    }

    #[test]
    fn answers_events_and_errors_are_told_apart() {
        let head = |number, seen, code| Frame::new().int(number).long(seen).int(code);
        let changed = body(head(EVENT, -1, 0).int(3).int(3).text("/a").done());
        assert_eq!(
            incoming(changed),
            Ok((Incoming::Changed("/a".to_owned()), None))
        );
        let (answer, seen) = incoming(body(head(5, 77, 0).text("/a-1").done())).unwrap();
        let Incoming::Answer(5, Ok(path)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!((created(path), seen), (Ok("/a-1".to_owned()), Some(77)));
        for (code, wanted) in [(-101, Fault::NoNode), (-999, Fault::Refused(-999))] {
            let answer = incoming(body(head(5, 77, code).done())).unwrap().0;
            assert_eq!(answer, Incoming::Answer(5, Err(wanted)));
        }
    }

    proptest! {
        /// Whatever a server sends, nothing panics, and nothing larger than the frame comes of it.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = connected(bytes.clone());
            let _ = incoming(bytes.clone());
            let _ = (created(bytes.clone()), version(bytes.clone()));
            prop_assert!(node(bytes.clone()).is_ok_and(|node| node.data.len() <= bytes.len()) || node(bytes.clone()).is_err());
            prop_assert!(children(bytes.clone()).is_ok_and(|names| names.len() * 4 <= bytes.len()) || children(bytes).is_err());
        }
    }
}
