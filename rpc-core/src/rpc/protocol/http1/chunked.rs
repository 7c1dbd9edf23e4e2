//! A body in chunks (RFC 9112 §7.1). Extensions and trailers are read and dropped.

use bytes::{Buf, Bytes, BytesMut};

use super::head::Refusal;
use crate::rpc::protocol::BadReason;

/// A chunked body as it grows.
#[derive(Debug, Default)]
pub struct Chunked {
    body: BytesMut,
    state: State,
    /// Bytes of trailers so far.
    trailers: usize,
}

#[derive(Debug, Default)]
enum State {
    /// At a chunk's size.
    #[default]
    Size,
    /// Inside a chunk of which so much is left.
    Data(usize),
    /// At the line's end after a chunk.
    DataEnd,
    /// Behind the last chunk.
    Trailers,
}

/// Longest line with a chunk's size and extensions.
const LINE_MAX: usize = 1 << 10;
/// Bytes of trailers that are passed over.
const TRAILERS_MAX: usize = 8 << 10;

impl Chunked {
    /// Takes what `input` holds of the body; the whole body once it ended.
    pub fn take(&mut self, input: &mut BytesMut, max: usize) -> Result<Option<Bytes>, Refusal> {
        loop {
            match self.state {
                // httparse takes a size without digits for 0.
                State::Size if input.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) => {
                    return Err(bad("the size of a chunk is malformed"));
                }
                State::Size => match httparse::parse_chunk_size(input) {
                    Err(_) => return Err(bad("the size of a chunk is malformed")),
                    Ok(status) if line_length(&status, input.len()) > LINE_MAX => {
                        return Err(bad("the line with a chunk's size is too long"));
                    }
                    Ok(httparse::Status::Partial) => return Ok(None),
                    Ok(httparse::Status::Complete((line, size))) => {
                        input.advance(line);
                        let left = max - self.body.len();
                        let size = usize::try_from(size).ok().filter(|size| *size <= left);
                        self.state = match size {
                            None => return Err(too_large(max)),
                            Some(0) => State::Trailers,
                            Some(size) => State::Data(size),
                        };
                    }
                },
                State::Data(left) => {
                    let n = left.min(input.len());
                    self.body.extend_from_slice(&input[..n]);
                    input.advance(n);
                    if n < left {
                        self.state = State::Data(left - n);
                        return Ok(None);
                    }
                    self.state = State::DataEnd;
                }
                State::DataEnd => match input.get(..2) {
                    Some(b"\r\n") => {
                        input.advance(2);
                        self.state = State::Size;
                    }
                    None if input.first().is_none_or(|byte| *byte == b'\r') => return Ok(None),
                    _ => return Err(bad("a chunk is longer than its size says")),
                },
                State::Trailers => {
                    let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
                        if self.trailers + input.len() > TRAILERS_MAX {
                            return Err(bad("the trailers are too long"));
                        }
                        return Ok(None);
                    };
                    let last = &input[..=end] == b"\r\n";
                    self.trailers += end + 1;
                    input.advance(end + 1);
                    if last {
                        return Ok(Some(std::mem::take(&mut self.body).freeze()));
                    }
                    if self.trailers > TRAILERS_MAX {
                        return Err(bad("the trailers are too long"));
                    }
                }
            }
        }
    }
}

/// Length of the line with a chunk's size as far as it is here.
const fn line_length(status: &httparse::Status<(usize, u64)>, held: usize) -> usize {
    match status {
        httparse::Status::Complete((line, _)) => *line,
        httparse::Status::Partial => held,
    }
}

fn bad(text: &str) -> Refusal {
    Refusal::new(400, BadReason::HttpBadChunk, text)
}

/// A body above the limit.
pub fn too_large(max: usize) -> Refusal {
    let text = format!("the body is above the limit of {max} bytes");
    Refusal::new(413, BadReason::BodyTooLarge, text)
}
