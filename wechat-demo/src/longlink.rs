//! The long link's wire: Mars' framing of packets on a byte stream.
//!
//! Knows:       the 20-byte header (five big-endian u32: head length, client version, command, seq,
//!              body length), the limits, the reserved seqs.
//! Does not know: sockets, time, what a body means, which end it serves.
//!
//! Invariants
//! - L-1  How the stream is cut into reads changes neither the frames nor the verdict.
//! - L-2  A stream once found broken stays broken: nothing after a bad header is believed.
//! - L-3  Nothing is allocated for a body before its header was found sound; a packet never exceeds
//!   [`MAX_PACKET`].
//!
//! The layout is that of Mars' `longlink_packer.cc`; a header longer than 20 bytes carries an extension
//! that is skipped.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Bytes of a header without extension, as we write it.
pub const HEADER_LEN: usize = 20;
/// The one client version spoken; another number means the stream is broken.
pub const CLIENT_VERSION: u32 = 200;
/// Upper bound of a packet, header included, in bytes.
pub const MAX_PACKET: usize = 1 << 20;
/// Largest body that fits a packet, in bytes.
pub const MAX_BODY: usize = MAX_PACKET - HEADER_LEN;
/// Seq of a push, which is never answered.
pub const SEQ_PUSH: u32 = 0;
/// Seq of a heartbeat and of its answer.
pub const SEQ_NOOP: u32 = u32::MAX;
/// Seqs from here on never name a request.
pub const SEQ_RESERVED: u32 = 0xFFFF_FFF0;

/// One packet, taken off the stream or to be put on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the body is; see `terminal.proto`.
    pub cmd: u32,
    /// Ties a reply to its request; [`SEQ_PUSH`] and [`SEQ_NOOP`] are special.
    pub seq: u32,
    /// At most [`MAX_BODY`] bytes.
    pub body: Bytes,
}

impl Frame {
    /// A frame around an encoded message.
    ///
    /// # Errors
    /// [`TooLarge`] when the message does not fit a packet.
    pub fn of(cmd: u32, seq: u32, body: &impl Message) -> Result<Self, TooLarge> {
        let length = body.encoded_len();
        if length > MAX_BODY {
            return Err(TooLarge { length });
        }
        Ok(Self {
            cmd,
            seq,
            body: body.encode_to_vec().into(),
        })
    }

    /// Header and body in one piece, ready to be written.
    ///
    /// # Panics
    /// When the body is above [`MAX_BODY`]: whoever makes bodies bounds them, as [`Frame::of`] does.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        assert!(self.body.len() <= MAX_BODY, "a frame's body fits a packet");
        let mut packet = BytesMut::with_capacity(HEADER_LEN + self.body.len());
        packet.put_u32(HEADER_LEN as u32);
        packet.put_u32(CLIENT_VERSION);
        packet.put_u32(self.cmd);
        packet.put_u32(self.seq);
        packet.put_u32(self.body.len() as u32);
        packet.put_slice(&self.body);
        packet.freeze()
    }
}

/// A message that does not fit a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a body of {length} bytes exceeds the long link's {MAX_BODY}; ask for or send less at a time"
)]
pub struct TooLarge {
    /// Encoded length of the message, in bytes.
    pub length: usize,
}

/// Why a stream cannot be read on. The name of each is the reason under which it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFrame {
    /// The header claims to be shorter than 20 bytes.
    HeadLength(u32),
    /// The peer speaks another version, or is not a terminal at all.
    Version(u32),
    /// Header and body together exceed [`MAX_PACKET`].
    Oversized {
        /// Claimed length of the header.
        head: u32,
        /// Claimed length of the body.
        body: u32,
    },
}

impl BadFrame {
    /// The reason under which a closed link is counted.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::HeadLength(_) => "bad_head_length",
            Self::Version(_) => "bad_version",
            Self::Oversized { .. } => "oversized_packet",
        }
    }
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::HeadLength(head) => write!(f, "head length {head} is below {HEADER_LEN}"),
            Self::Version(version) => write!(f, "client version {version} is not {CLIENT_VERSION}"),
            Self::Oversized { head, body } => {
                write!(f, "a packet of {head} + {body} bytes exceeds {MAX_PACKET}")
            }
        }
    }
}

impl std::error::Error for BadFrame {}

/// Room that is made for the next read, unless the rest of a packet asks for more; and how much of it may be
/// used up before it is made again.
const SPACE: usize = 1 << 10;
const SPACE_MIN: usize = 1 << 8;

/// Turns bytes into frames. Holds at most one unfinished packet besides what was fed last.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Received and not yet handed out.
    buffer: BytesMut,
    /// L-2: the verdict on a broken stream.
    broken: Option<BadFrame>,
}

impl Decoder {
    /// Takes over what was read from the stream, in any portion.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// Where the stream's next bytes may be written directly, instead of [`Decoder::feed`].
    pub fn space(&mut self) -> &mut BytesMut {
        if self.buffer.capacity() - self.buffer.len() < SPACE_MIN {
            self.buffer.reserve(SPACE);
        }
        &mut self.buffer
    }

    /// Gives the buffer back if nothing waits in it.
    pub fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// The next whole frame; `None` when more bytes are needed first.
    ///
    /// # Errors
    /// [`BadFrame`] once the stream is broken, and for ever after: the link has to be closed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, BadFrame> {
        if let Some(bad) = self.broken {
            return Err(bad);
        }
        match self.parse() {
            Err(bad) => {
                self.broken = Some(bad);
                self.buffer = BytesMut::new();
                Err(bad)
            }
            parsed => parsed,
        }
    }

    /// Bytes that wait for the rest of their packet.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    fn parse(&mut self) -> Result<Option<Frame>, BadFrame> {
        let word = |at: usize| -> Option<u32> {
            let bytes = self.buffer.get(at..at + 4)?;
            Some(u32::from_be_bytes(
                bytes.try_into().expect("the range is four bytes long"),
            ))
        };
        // Each word is judged as soon as it is there, so that a browser or a port scanner is turned
        // away at its first bytes rather than waited for.
        let Some(head) = word(0) else { return Ok(None) };
        if (head as usize) < HEADER_LEN {
            return Err(BadFrame::HeadLength(head));
        }
        if head as usize > MAX_PACKET {
            return Err(BadFrame::Oversized { head, body: 0 });
        }
        let Some(version) = word(4) else {
            return Ok(None);
        };
        if version != CLIENT_VERSION {
            return Err(BadFrame::Version(version));
        }
        let (Some(cmd), Some(seq), Some(body)) = (word(8), word(12), word(16)) else {
            return Ok(None);
        };
        if head as u64 + u64::from(body) > MAX_PACKET as u64 {
            return Err(BadFrame::Oversized { head, body });
        }
        let (head, body) = (head as usize, body as usize);
        if self.buffer.len() < head + body {
            self.buffer.reserve(head + body - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(head);
        let body = self.buffer.split_to(body).freeze();
        Ok(Some(Frame { cmd, seq, body }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(cmd: u32, seq: u32, body: &[u8]) -> Frame {
        Frame {
            cmd,
            seq,
            body: Bytes::copy_from_slice(body),
        }
    }

    fn drain(decoder: &mut Decoder) -> Result<Vec<Frame>, BadFrame> {
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next_frame()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn a_stream_split_at_every_byte_yields_the_same_frames() {
        let sent = [
            frame(3, 1, b"hello"),
            frame(6, SEQ_NOOP, b""),
            frame(10001, SEQ_PUSH, &[7; 300]),
        ];
        let stream: Vec<u8> = sent.iter().flat_map(|f| f.to_bytes()).collect();
        for cut in 0..=stream.len() {
            let mut decoder = Decoder::default();
            decoder.feed(&stream[..cut]);
            let mut got = drain(&mut decoder).unwrap();
            decoder.feed(&stream[cut..]);
            got.extend(drain(&mut decoder).unwrap());
            assert_eq!(got, sent, "cut at byte {cut}");
            assert_eq!(decoder.buffered(), 0);
        }
    }

    #[test]
    fn the_header_is_laid_out_as_mars_lays_it_out() {
        let packet = frame(0x0102_0304, 0x0506_0708, b"xy").to_bytes();
        assert_eq!(
            &packet[..],
            [
                0, 0, 0, 20, 0, 0, 0, 200, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 2, b'x', b'y'
            ]
        );
    }

    #[test]
    fn an_extension_of_the_header_is_skipped() {
        let mut packet = frame(3, 9, b"body").to_bytes().to_vec();
        packet[3] = 24;
        packet.splice(HEADER_LEN..HEADER_LEN, [1, 2, 3, 4]);
        let mut decoder = Decoder::default();
        decoder.feed(&packet);
        assert_eq!(decoder.next_frame(), Ok(Some(frame(3, 9, b"body"))));
    }

    #[test]
    fn the_largest_packet_passes_and_one_byte_more_does_not() {
        let mut decoder = Decoder::default();
        decoder.feed(&frame(4, 1, &vec![1; MAX_BODY]).to_bytes());
        assert_eq!(decoder.next_frame().unwrap().unwrap().body.len(), MAX_BODY);

        let mut header = frame(4, 1, b"").to_bytes().to_vec();
        header[16..20].copy_from_slice(&(MAX_BODY as u32 + 1).to_be_bytes());
        decoder.feed(&header);
        let bad = BadFrame::Oversized {
            head: 20,
            body: MAX_BODY as u32 + 1,
        };
        assert_eq!(decoder.next_frame(), Err(bad));
        // L-2: a sound packet behind it changes nothing.
        decoder.feed(&frame(4, 1, b"").to_bytes());
        assert_eq!(decoder.next_frame(), Err(bad));
    }

    #[test]
    fn a_browser_is_turned_away_at_its_first_word() {
        let mut decoder = Decoder::default();
        decoder.feed(b"GET ");
        assert!(matches!(
            decoder.next_frame(),
            Err(BadFrame::Oversized { .. })
        ));
        let mut decoder = Decoder::default();
        decoder.feed(&[0, 0, 0, 19]);
        assert_eq!(decoder.next_frame(), Err(BadFrame::HeadLength(19)));
        let mut decoder = Decoder::default();
        decoder.feed(&[0, 0, 0, 20, 0, 0, 0, 201]);
        assert_eq!(decoder.next_frame(), Err(BadFrame::Version(201)));
    }

    #[test]
    fn a_message_above_the_limit_is_refused_before_it_is_framed() {
        let text = vec![0_u8; MAX_PACKET];
        assert!(matches!(Frame::of(1, 1, &text), Err(TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn any_cutting_of_any_stream_yields_the_same_frames(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
            cuts in prop::collection::vec(1_usize..64, 1..40),
        ) {
            let sent: Vec<Frame> =
                bodies.iter().enumerate().map(|(i, body)| frame(i as u32, i as u32 + 1, body)).collect();
            let stream: Vec<u8> = sent.iter().flat_map(|f| f.to_bytes()).collect();
            let (mut rest, mut got, mut decoder) = (&stream[..], Vec::new(), Decoder::default());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (portion, later) = rest.split_at((*cut).min(rest.len()));
                decoder.feed(portion);
                got.extend(drain(&mut decoder).unwrap());
                rest = later;
            }
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn garbage_gets_the_same_verdict_however_it_is_cut(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            cut in 0_usize..400,
        ) {
            let cut = cut.min(bytes.len());
            let mut whole = Decoder::default();
            whole.feed(&bytes);
            let (mut halves, mut got) = (Decoder::default(), Vec::new());
            let verdict = (|| {
                halves.feed(&bytes[..cut]);
                got.extend(drain(&mut halves)?);
                halves.feed(&bytes[cut..]);
                got.extend(drain(&mut halves)?);
                Ok::<(), BadFrame>(())
            })();
            let mut all = Vec::new();
            let expected = (|| {
                while let Some(frame) = whole.next_frame()? {
                    all.push(frame);
                }
                Ok::<(), BadFrame>(())
            })();
            prop_assert_eq!(verdict, expected);
            prop_assert_eq!(got, all);
        }
    }
}
