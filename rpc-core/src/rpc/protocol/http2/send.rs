//! What leaves: blocks, data within the windows, resets, credit.
//!
//! Knows: windows, order.   Does not know: what the peer has asked for.

use bytes::{Buf, Bytes};

use super::frame::{ErrorCode, FrameHead, HEADER, flag, kind};
use super::hpack::encode::Encoder;
use super::stream::{Inbox, LateBlock, Stream, Tail};
use super::{Role, STREAM_WINDOW, Session};
use crate::base::buf::SMALL;
use crate::rpc::protocol::Body;

impl<T: Inbox> Session<T> {
    /// Client: opens a stream; `None` where the peer takes no more now (or, with no stream open, ever).
    pub fn open(&mut self, inbox: T) -> Option<u32> {
        if !self.can_open() {
            return None;
        }
        let id = self.next_own;
        self.next_own += 2;
        let stream = Stream::new(inbox, self.peer.initial_window, STREAM_WINDOW);
        self.streams.insert(id, stream);
        Some(id)
    }

    /// True if another stream can be opened now.
    pub fn can_open(&self) -> bool {
        !self.is_spent() && self.streams.len() < self.peer.max_streams as usize
    }

    /// True if no stream can ever be opened any more: the peer is going away, or there are no more ids.
    pub fn is_spent(&self) -> bool {
        self.bad.is_some() || self.peer_leaving.is_some() || self.next_own > super::MOST - 2
    }

    /// True if what is sent on the stream now leaves at once, whatever its windows.
    pub fn is_clear(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(Stream::is_clear)
    }

    /// True if `len` bytes of data can leave now in one frame.
    fn fits(&self, id: u32, len: usize) -> bool {
        let window = match self.streams.get(&id) {
            Some(stream) if stream.is_clear() => stream.send_window.min(self.send_window),
            _ => return false,
        };
        len <= self.peer.max_frame && len as i64 <= window
    }

    /// Sends a block of fields that `write` encodes. `end`: and nothing after it. Only on a stream that
    /// [is clear](Session::is_clear).
    pub fn block(&mut self, id: u32, end: bool, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        debug_assert!(self.is_clear(id), "blocks do not queue here");
        let mut block = std::mem::take(&mut self.block);
        self.encoder.begin(&mut block);
        write(&mut self.encoder, &mut block);
        self.put_block(id, end, &block);
        block.clear();
        self.block = block;
        if end {
            self.close_local(id);
        }
    }

    /// Sends `prefix` and `body`, as far as the windows go; the rest waits. True if nothing waits.
    pub fn data(&mut self, id: u32, prefix: &[u8], body: Body<'_>, end: bool) -> bool {
        let len = prefix.len() + body.len();
        if self.fits(id, len) && len < SMALL {
            let flags = if end { flag::END_STREAM } else { 0 };
            let space = self.out.space(HEADER + len);
            put(space, 0, FrameHead::new(len, kind::DATA, flags, id), prefix);
            write_body(&body, &mut space[HEADER + prefix.len()..]);
            self.spend_window(id, len);
            if end {
                self.close_local(id);
            }
            return true;
        }
        let Some(stream) = self
            .streams
            .get_mut(&id)
            .filter(|stream| !stream.local_closed)
        else {
            return true; // gone: nobody waits for it
        };
        match body {
            Body::Bytes(bytes) if bytes.len() >= SMALL => {
                if !prefix.is_empty() {
                    stream.queue.push_back(Bytes::copy_from_slice(prefix));
                }
                stream.queue.push_back(bytes);
            }
            body if len > 0 => {
                let mut whole = vec![0; len];
                whole[..prefix.len()].copy_from_slice(prefix);
                write_body(&body, &mut whole[prefix.len()..]);
                stream.queue.push_back(whole.into());
            }
            _ => {}
        }
        if end {
            stream.tail = Tail::End;
        }
        self.pump(id);
        match self.streams.get_mut(&id) {
            Some(stream) if !stream.queue.is_empty() => {
                stream.tell = true;
                false
            }
            _ => true,
        }
    }

    /// Sends a last block once the data before it has left.
    pub fn end_later(&mut self, id: u32, block: LateBlock) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.tail = Tail::Block(block);
            self.pump(id);
        }
    }

    /// Breaks the stream off once the data before has left.
    pub fn break_later(&mut self, id: u32, code: ErrorCode) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.tail = Tail::Reset(code);
            self.pump(id);
        }
    }

    /// Ends our direction once the data before has left.
    pub fn end(&mut self, id: u32) {
        if self.is_clear(id) {
            self.put_head(0, kind::DATA, flag::END_STREAM, id);
            self.close_local(id);
        } else if let Some(stream) = self.streams.get_mut(&id) {
            stream.tail = Tail::End;
        }
    }

    /// Ends a stream in both directions; what waits is dropped. What the user kept, if it was open.
    pub fn reset(&mut self, id: u32, code: ErrorCode) -> Option<T> {
        let stream = self.streams.remove(&id)?;
        self.put_frame(kind::RST_STREAM, 0, id, &code.0.to_be_bytes());
        Some(stream.inbox)
    }

    /// Client: the peer has sent its last byte on the stream, and what we still had to say does not
    /// matter any more. What the user kept.
    pub fn end_from_peer(&mut self, id: u32) -> Option<T> {
        let stream = self.streams.remove(&id)?;
        if !stream.local_closed {
            let code = ErrorCode::CANCEL.0.to_be_bytes();
            self.put_frame(kind::RST_STREAM, 0, id, &code);
        }
        Some(stream.inbox)
    }

    /// The user is done with `n` bytes of the stream's data: the peer may send as many again.
    pub fn credit(&mut self, id: u32, n: usize) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let n = u32::try_from(n).unwrap_or(u32::MAX).min(stream.arrived);
        stream.arrived -= n;
        stream.credit += n;
        if stream.remote_closed || stream.credit < STREAM_WINDOW / 2 {
            return;
        }
        let more = std::mem::take(&mut stream.credit);
        stream.recv_window += i64::from(more);
        self.put_window(id, more);
    }

    /// Sends what a stream's windows allow; while others wait for the connection's, a frame at most.
    pub(super) fn pump(&mut self, id: u32) {
        loop {
            let others = !self.blocked.is_empty();
            let Some(stream) = self.streams.get_mut(&id) else {
                return;
            };
            if stream.queue.is_empty() {
                return self.after_queue(id);
            }
            if stream.send_window <= 0 {
                return; // its own WINDOW_UPDATE comes back here
            }
            if self.send_window <= 0 || others && !stream.listed {
                if !std::mem::replace(&mut stream.listed, true) {
                    self.blocked.push_back(id);
                }
                return;
            }
            let windows = stream.send_window.min(self.send_window) as usize;
            let most = windows.min(self.peer.max_frame);
            let queued: usize = stream.queue.iter().map(Bytes::len).sum();
            let len = queued.min(most);
            let end = len == queued && matches!(stream.tail, Tail::End);
            let flags = if end { flag::END_STREAM } else { 0 };
            self.out
                .put(&FrameHead::new(len, kind::DATA, flags, id).bytes());
            let mut left = len;
            while left > 0 {
                let Some(front) = stream.queue.front_mut() else {
                    break;
                };
                let n = left.min(front.len());
                let piece = if n == front.len() {
                    stream.queue.pop_front().unwrap_or_default()
                } else {
                    let piece = front.slice(..n);
                    front.advance(n);
                    piece
                };
                self.out.push(piece);
                left -= n;
            }
            if end {
                stream.tail = Tail::Open; // it has left with the data
            }
            self.spend_window(id, len);
            if end {
                self.tell(id);
                return self.close_local(id);
            }
            if others {
                return;
            }
        }
    }

    /// The connection's window has grown: those that wait for it take turns.
    pub(super) fn pump_blocked(&mut self) {
        while self.send_window > 0 {
            let Some(id) = self.blocked.pop_front() else {
                return;
            };
            // It stays marked as listed meanwhile: this is its turn.
            self.pump(id);
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.listed = !stream.queue.is_empty() && stream.send_window > 0;
                if stream.listed {
                    self.blocked.push_back(id);
                }
            }
        }
    }

    /// The queue is empty: what follows it leaves.
    fn after_queue(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        match std::mem::take(&mut stream.tail) {
            Tail::Open => self.tell(id),
            Tail::End => self.end(id),
            Tail::Block(write) => self.block(id, true, write),
            Tail::Reset(code) => drop(self.reset(id, code)),
        }
    }

    /// Tells the sender of room, if it waits for that.
    fn tell(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && std::mem::take(&mut stream.tell)
        {
            self.events.push_back(super::Event::Writable { id });
        }
    }

    fn spend_window(&mut self, id: u32, len: usize) {
        self.send_window -= len as i64;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send_window -= len as i64;
            // Frames that a peer makes small do not earn it anything (CVE-2019-9511).
            if len >= SMALL_FRAME || stream.queue.is_empty() {
                self.budgets.moved();
            }
        }
    }

    /// We send no more on the stream. The server is done with it then, whatever the client still sends.
    fn close_local(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.local_closed = true;
        if self.role == Role::Client {
            return;
        }
        if !stream.remote_closed {
            // RFC 9113 §8.1: the rest of the request is not needed.
            let code = ErrorCode::NO_ERROR.0.to_be_bytes();
            self.put_frame(kind::RST_STREAM, 0, id, &code);
        }
        self.streams.remove(&id);
        self.budgets.resets.earn();
    }

    fn put_block(&mut self, id: u32, end: bool, block: &[u8]) {
        let most = self.peer.max_frame;
        let (mut part, mut rest) = block.split_at(block.len().min(most));
        let mut kind = kind::HEADERS;
        let mut flags = if end { flag::END_STREAM } else { 0 };
        loop {
            if rest.is_empty() {
                flags |= flag::END_HEADERS;
            }
            self.put_frame(kind, flags, id, part);
            if rest.is_empty() {
                return;
            }
            (part, rest) = rest.split_at(rest.len().min(most));
            (kind, flags) = (kind::CONTINUATION, 0);
        }
    }
}

/// Data frames smaller than this are only useful if nothing waits behind them.
const SMALL_FRAME: usize = 512;

fn put(space: &mut [u8], at: usize, head: FrameHead, payload: &[u8]) {
    space[at..at + HEADER].copy_from_slice(&head.bytes());
    space[at + HEADER..at + HEADER + payload.len()].copy_from_slice(payload);
}

fn write_body(body: &Body<'_>, space: &mut [u8]) {
    match body {
        Body::Message(message) => message.encode(space),
        Body::Bytes(bytes) => space.copy_from_slice(bytes),
    }
}
