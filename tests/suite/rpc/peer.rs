//! A peer that speaks baidu_std by hand, so that it can misbehave.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use prost::Message;

/// `RpcMeta`, as far as these tests look at it.
#[derive(Clone, PartialEq, Message)]
pub struct RpcMeta {
    #[prost(message, optional, tag = "1")]
    pub request: Option<RpcRequestMeta>,
    #[prost(message, optional, tag = "2")]
    pub response: Option<RpcResponseMeta>,
    #[prost(int64, optional, tag = "4")]
    pub correlation_id: Option<i64>,
    #[prost(int32, optional, tag = "5")]
    pub attachment_size: Option<i32>,
    #[prost(int32, optional, tag = "10")]
    pub content_type: Option<i32>,
    #[prost(int32, optional, tag = "11")]
    pub checksum_type: Option<i32>,
    #[prost(bytes = "vec", optional, tag = "12")]
    pub checksum_value: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RpcRequestMeta {
    #[prost(string, required, tag = "1")]
    pub service_name: String,
    #[prost(string, required, tag = "2")]
    pub method_name: String,
    #[prost(int64, optional, tag = "3")]
    pub log_id: Option<i64>,
    #[prost(int32, optional, tag = "8")]
    pub timeout_ms: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RpcResponseMeta {
    #[prost(int32, optional, tag = "1")]
    pub error_code: Option<i32>,
    #[prost(string, optional, tag = "2")]
    pub error_text: Option<String>,
}

/// One message as on the wire: meta, data and attachment together.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub meta: RpcMeta,
    pub body: Vec<u8>,
}

impl Frame {
    /// A call of `service/method`.
    pub fn call(id: i64, service: &str, method: &str, message: &impl Message) -> Self {
        let request = RpcRequestMeta {
            service_name: service.into(),
            method_name: method.into(),
            ..RpcRequestMeta::default()
        };
        let meta = RpcMeta {
            request: Some(request),
            correlation_id: Some(id),
            ..RpcMeta::default()
        };
        Self {
            meta,
            body: message.encode_to_vec(),
        }
    }

    /// The answer to the call with `id`.
    pub fn answer(id: i64, message: &impl Message) -> Self {
        let meta = RpcMeta {
            response: Some(RpcResponseMeta::default()),
            correlation_id: Some(id),
            ..RpcMeta::default()
        };
        Self {
            meta,
            body: message.encode_to_vec(),
        }
    }

    /// The error number of an answer; 0 = success.
    pub fn error_code(&self) -> i32 {
        self.meta
            .response
            .as_ref()
            .map_or(0, |response| response.error_code())
    }

    pub fn encode(&self) -> Vec<u8> {
        let meta = self.meta.encode_to_vec();
        let mut out = b"PRPC".to_vec();
        out.extend(((meta.len() + self.body.len()) as u32).to_be_bytes());
        out.extend((meta.len() as u32).to_be_bytes());
        out.extend(meta);
        out.extend(&self.body);
        out
    }

    /// The next message of a stream; `None` at its end.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut header = [0; 12];
        let mut got = 0;
        while got < header.len() {
            match from.read(&mut header[got..])? {
                0 if got == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => got += n,
            }
        }
        assert_eq!(&header[..4], b"PRPC");
        let number =
            |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap()) as usize;
        let mut all = vec![0; number(4)];
        from.read_exact(&mut all)?;
        let body = all.split_off(number(8));
        let meta = RpcMeta::decode(&all[..]).expect("a meta parses");
        Ok(Some(Self { meta, body }))
    }
}

/// A client of plain blocking sockets. Use it on a thread of its own.
pub struct Peer(pub TcpStream);

impl Peer {
    pub fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("the server listens");
        stream
            .set_read_timeout(Some(super::PATIENCE))
            .expect("the timeout is valid");
        Self(stream)
    }

    pub fn send(&mut self, frame: &Frame) {
        self.0.write_all(&frame.encode()).expect("the server reads");
    }

    pub fn receive(&mut self) -> Option<Frame> {
        Frame::read(&mut self.0).expect("the server answers in whole messages")
    }

    /// Everything until the server closes; a reset counts as the end.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
            _ => rest,
        }
    }
}

/// A server of plain blocking sockets with one connection.
pub fn accept_one() -> (String, impl FnOnce() -> TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = listener.local_addr().expect("it is bound").to_string();
    (addr, move || {
        listener.accept().expect("somebody connects").0
    })
}

/// One HTTP/1.1 exchange: status, head, body.
pub fn http(addr: SocketAddr, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(addr).expect("the server listens");
    stream
        .set_read_timeout(Some(super::PATIENCE))
        .expect("the timeout is valid");
    stream
        .write_all(request.as_bytes())
        .expect("the server reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the server answers in text and closes");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (
        status.expect("a status line has a number"),
        head.to_owned(),
        body.to_owned(),
    )
}

/// A GET that closes the connection.
pub fn get(addr: SocketAddr, path: &str) -> (u16, String, String) {
    http(
        addr,
        &format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"),
    )
}

/// The value of one sample of `/metrics`.
pub fn metric(addr: SocketAddr, sample: &str) -> f64 {
    let (status, _, body) = get(addr, "/metrics");
    assert_eq!(status, 200);
    let line = body
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in:\n{body}"))
        .parse()
        .expect("a number")
}
