//! Bytes in, frames out.
//!
//! Knows: headers and lengths.   Does not know: what a meta says.
//!
//! Bytes are read into one buffer; all complete frames at its start are cut off as one block of which
//! meta, data and attachment are slices. A frame too long for the buffer gets an allocation of its own
//! size, into which the rest is read directly; after one of 64 KiB or more only the next header is read
//! at first, so that the next long frame is not even moved in part.

use bytes::{BufMut, Bytes, BytesMut, buf::Limit};

use super::{HEADER, MAGIC, STREAM_MAGIC};
use crate::base::buf::SMALL;
use crate::rpc::protocol::{BadReason, Limits, counters};

/// A message of the peer. Its parts are slices of one allocation.
#[derive(Debug)]
pub struct Frame {
    /// Meta, data and attachment.
    pub bytes: Bytes,
    /// Where in [`Frame::bytes`] the meta ends.
    pub meta: usize,
    /// A frame of a stream: the meta is no `RpcMeta` but a `StreamFrameMeta`.
    pub stream: bool,
}

impl Frame {
    /// The message that `bytes` are, if they are a whole one of PRPC.
    pub fn whole(mut bytes: Bytes) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEADER>()?;
        let [b'P', b'R', b'P', b'C', a, b, c, d, e, f, g, h] = *head else {
            return None;
        };
        let body = u32::from_be_bytes([a, b, c, d]) as usize;
        let meta = u32::from_be_bytes([e, f, g, h]) as usize;
        if body != rest.len() || meta > body {
            return None;
        }
        bytes::Buf::advance(&mut bytes, HEADER);
        Some(Self {
            bytes,
            meta,
            stream: false,
        })
    }
}

/// Receive side of a PRPC connection, server's and client's alike.
pub struct Framer {
    /// What was read and not yet cut; the limit keeps the driver from reading past a long frame.
    space: Limit<BytesMut>,
    /// Complete frames, cut off; headers are valid.
    block: Bytes,
    /// Size of the next buffer: grows with the frames, from [`FIRST`] to [`MOST`].
    want: usize,
    /// Longest frame of the last block: the buffer is replaced when less room is left.
    longest: usize,
    /// The last frame was [`MOST`] or longer, or this is the first: read the next header alone.
    header_first: bool,
    /// Frames of [`SMALL`] or more that were moved in part.
    #[cfg(test)]
    copied: u64,
    /// Set once the stream cannot be followed any further.
    bad: Option<BadReason>,
    max_body: usize,
    max_meta: usize,
}

/// Size of the first receive buffer.
const FIRST: usize = 8 << 10;
/// Size of the largest receive buffer; longer frames get their own.
const MOST: usize = 64 << 10;
/// With less room than this left, a buffer is replaced.
const LEAST: usize = 1 << 10;

/// What a header announces.
enum Header {
    /// Too few bytes to tell.
    Partial,
    /// Lengths of everything after the header, and of the meta; whether it is a frame of a stream.
    Whole {
        body: usize,
        meta: usize,
        stream: bool,
    },
}

impl Framer {
    /// Nothing read yet; allocates nothing.
    pub fn new(limits: &Limits) -> Self {
        Self {
            space: BytesMut::new().limit(0),
            block: Bytes::new(),
            want: FIRST,
            longest: 0,
            header_first: true,
            #[cfg(test)]
            copied: 0,
            bad: None,
            max_body: limits.max_body.min(u32::MAX as usize - HEADER),
            max_meta: limits.max_meta,
        }
    }

    /// Where the next bytes go.
    pub fn recv_space(&mut self) -> &mut dyn BufMut {
        if !self.space.has_remaining_mut() {
            self.make_room();
        }
        &mut self.space
    }

    /// Cuts off what is complete.
    ///
    /// # Errors
    /// The stream cannot be followed any further, and every frame before that point is taken.
    pub fn received(&mut self) -> Result<(), BadReason> {
        if !self.space.has_remaining_mut() && self.space.get_ref().len() >= self.want {
            self.want = (self.want * 2).min(MOST);
        }
        if self.block.is_empty() {
            self.cut();
        }
        match self.bad {
            Some(reason) if self.block.is_empty() => Err(reason),
            _ => Ok(()),
        }
    }

    /// The next complete frame.
    pub fn next(&mut self) -> Option<Frame> {
        if self.block.is_empty() {
            self.cut();
        }
        let Ok(Header::Whole { body, meta, stream }) = self.header(&self.block) else {
            return None;
        };
        let end = HEADER + body;
        let bytes = if end == self.block.len() {
            let mut last = std::mem::take(&mut self.block);
            bytes::Buf::advance(&mut last, HEADER);
            last
        } else {
            let bytes = self.block.slice(HEADER..end);
            bytes::Buf::advance(&mut self.block, end);
            bytes
        };
        Some(Frame {
            bytes,
            meta,
            stream,
        })
    }

    /// Why the stream cannot be followed any further, once every frame before that point is taken.
    pub fn bad(&self) -> Option<BadReason> {
        self.bad.filter(|_| self.block.is_empty())
    }

    /// True in the middle of a frame.
    pub fn in_frame(&self) -> bool {
        self.block.is_empty() && !self.space.get_ref().is_empty()
    }

    /// True in the middle of a frame, or with frames not yet taken.
    pub fn holds_bytes(&self) -> bool {
        !self.block.is_empty() || !self.space.get_ref().is_empty()
    }

    /// Frames of 4 KiB or more that were moved in part, on this connection.
    #[cfg(test)]
    pub fn copied(&self) -> u64 {
        self.copied
    }

    /// Gives the memory back if it holds nothing.
    pub fn release(&mut self) {
        if !self.holds_bytes() {
            self.space = BytesMut::new().limit(0);
        }
    }

    /// Takes complete frames off the start of the buffer and makes the rest of the current frame fit.
    fn cut(&mut self) {
        if self.bad.is_some() {
            return;
        }
        let buffer = self.space.get_ref();
        let mut complete = 0;
        let mut longest = 0;
        let mut need = HEADER;
        loop {
            match self.header(&buffer[complete..]) {
                Err(reason) => {
                    self.bad = Some(reason);
                    break;
                }
                Ok(Header::Partial) => break,
                Ok(Header::Whole { body, .. }) => {
                    let end = HEADER + body;
                    if buffer.len() - complete < end {
                        need = end;
                        break;
                    }
                    complete += end;
                    longest = end.max(longest);
                    self.header_first = end >= MOST;
                }
            }
        }
        if complete > 0 {
            self.longest = longest;
            self.block = self.space.get_mut().split_to(complete).freeze();
        }
        if self.bad.is_none() {
            self.fit(need);
        }
    }

    /// Makes a frame of `need` bytes, of which some are in the buffer, fit into it.
    fn fit(&mut self, need: usize) {
        let held = self.space.get_ref().len();
        if held == 0 {
            self.space.set_limit(0); // `make_room` decides what is read next
            return;
        }
        if need > self.space.get_ref().capacity() {
            while self.want < need && self.want < MOST {
                self.want *= 2;
            }
            if held > HEADER && need >= SMALL {
                #[cfg(test)]
                {
                    self.copied += 1;
                }
                counters::COPIED_BODIES.add(1);
            }
            // A frame above MOST gets exactly its size, so that its end is the buffer's end.
            let mut larger = BytesMut::with_capacity(need.max(self.want));
            larger.extend_from_slice(self.space.get_ref());
            *self.space.get_mut() = larger;
        }
        let room = self.space.get_ref().capacity() - held;
        let wanted = if need >= MOST { need - held } else { room };
        self.space.set_limit(wanted.min(room));
    }

    /// Prepares the buffer for reading.
    fn make_room(&mut self) {
        if self.bad.is_some() {
            // Nothing will be parsed any more; a driver that reads on all the same gets room.
            self.space = BytesMut::with_capacity(LEAST).limit(LEAST);
            return;
        }
        let held = self.space.get_ref().len();
        let (least, want) = match self.header_first {
            true => (HEADER, LEAST),
            false => (self.longest.clamp(LEAST, self.want), self.want),
        };
        if self.space.get_ref().capacity() - held < least {
            self.space.get_mut().reserve(want);
        }
        let room = self.space.get_ref().capacity() - held;
        self.space
            .set_limit(if self.header_first { HEADER } else { room });
    }

    fn header(&self, bytes: &[u8]) -> Result<Header, BadReason> {
        let magic = &bytes[..bytes.len().min(4)];
        let stream = magic.first() == Some(&STREAM_MAGIC[0]);
        let expected = if stream { STREAM_MAGIC } else { MAGIC };
        if magic != &expected[..magic.len()] {
            return Err(BadReason::BadMagic);
        }
        let Some((lengths, _)) = bytes.get(4..).and_then(<[u8]>::split_first_chunk::<8>) else {
            return Ok(Header::Partial);
        };
        let [a, b, c, d, e, f, g, h] = *lengths;
        let body = u32::from_be_bytes([a, b, c, d]) as usize;
        let meta = u32::from_be_bytes([e, f, g, h]) as usize;
        if body > self.max_body {
            return Err(BadReason::BodyTooLarge);
        }
        if meta > body {
            return Err(BadReason::MetaBeyondBody);
        }
        if meta > self.max_meta {
            return Err(BadReason::MetaTooLarge);
        }
        Ok(Header::Whole { body, meta, stream })
    }
}
