//! Bytes in, events out.
//!
//! Knows: which frame may come when, and what each does.   Does not know: what a request is for.

use bytes::{Buf, BufMut};

use super::check::{Block, Check, Fields};
use super::frame::{ErrorCode, FrameHead, HEADER, MOST, PREFACE, Settings, flag, kind};
use super::stream::{Inbox, Stream};
use super::{
    CONNECTION_WINDOW, DRAIN_PING, Event, FRAME_MAX, Leaving, Role, STREAM_WINDOW, Session,
};
use crate::base::buf::SMALL;
use crate::base::time::Instant;
use crate::rpc::protocol::{BadReason, counters};

/// Where in the stream of bytes the input is.
pub enum Incoming {
    Preface,
    /// Nothing but SETTINGS may come first.
    FirstSettings,
    Frame,
    Data(DataFrame),
    /// So many bytes are passed over.
    Skip(usize),
}

/// A DATA frame of which the rest is still to come.
pub struct DataFrame {
    id: u32,
    /// Bytes of the payload without its padding.
    left: usize,
    padding: usize,
    end: bool,
}

/// A block of fields in several frames.
pub struct Continued {
    id: u32,
    end: bool,
    block: Vec<u8>,
    frames: usize,
}

/// Size of the first buffer to read into.
pub const FIRST: usize = 8 << 10;
/// Size of the largest.
const MOST_READ: usize = 64 << 10;
/// With less room than this left, a buffer is replaced.
const ROOM: usize = 1 << 10;
/// A payload up to this size is waited for, so that it is one slice of what was read.
const WHOLE: usize = 16 << 10;
/// Bytes of a block of fields as on the wire, and of any frame but DATA.
const BLOCK_MAX: usize = 64 << 10;
/// CONTINUATION frames of one block.
const CONTINUATIONS_MAX: usize = 32;

impl Incoming {
    pub fn is_mid_frame(&self) -> bool {
        matches!(self, Self::Data(_) | Self::Skip(_))
    }
}

impl<T: Inbox> Session<T> {
    /// Where the next bytes go: the receive buffer, or what a stream's user has offered.
    pub fn recv_space(&mut self) -> &mut dyn BufMut {
        self.direct = self.is_direct();
        if !self.direct {
            self.make_room();
        }
        if self.direct
            && let Incoming::Data(frame) = &self.incoming
            && let Some(stream) = self.streams.get_mut(&frame.id)
            && let Some(space) = stream.inbox.space(frame.left)
        {
            return space;
        }
        &mut self.input
    }

    /// Takes note of `n` bytes written into [`Session::recv_space`].
    pub fn received(&mut self, n: usize, now: Instant) {
        self.now = now;
        self.asked = Instant::NEVER; // a sign of life
        if std::mem::take(&mut self.direct) {
            if let Incoming::Data(frame) = &mut self.incoming {
                frame.left -= n;
                let (id, end) = (frame.id, frame.end && frame.left == 0);
                self.placed(id, end);
            }
        } else if !self.input.has_remaining_mut() && n >= self.want / 2 {
            self.want = (self.want * 2).min(MOST_READ);
        }
    }

    /// The next event; `fields` is given the fields of a block that the event is about.
    pub fn next(&mut self, fields: &mut dyn Fields) -> Option<Event<T>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.bad.is_some() || !self.step(fields) {
                self.note_head();
                return None;
            }
        }
    }

    /// True in the middle of the preface, of a frame that is no DATA, or of a block of fields.
    pub(super) fn is_mid_head(&self) -> bool {
        match &self.incoming {
            Incoming::Preface => true,
            Incoming::Data(_) | Incoming::Skip(_) => false,
            Incoming::FirstSettings | Incoming::Frame => {
                self.continued.is_some() || !self.input.get_ref().is_empty()
            }
        }
    }

    /// A head that is not complete has a deadline from its first byte on.
    fn note_head(&mut self) {
        if !self.is_mid_head() {
            self.head_since = Instant::NEVER;
        } else if self.head_since.is_never() {
            self.head_since = self.now;
        }
    }

    fn is_direct(&mut self) -> bool {
        let Incoming::Data(frame) = &self.incoming else {
            return false;
        };
        frame.left >= SMALL
            && self.input.get_ref().is_empty()
            && self
                .streams
                .get_mut(&frame.id)
                .is_some_and(|stream| stream.inbox.space(frame.left).is_some())
    }

    fn make_room(&mut self) {
        let need = self.need();
        let input = self.input.get_mut();
        if self.bad.is_some() {
            input.clear(); // whatever still comes is not looked at
        }
        let missing = need.saturating_sub(input.len()).max(ROOM);
        if input.capacity() - input.len() < missing {
            input.reserve(missing.max(self.want));
        }
        let room = input.capacity() - input.len();
        self.input.set_limit(room);
    }

    /// Bytes that have to be in the buffer for the next step.
    fn need(&self) -> usize {
        match &self.incoming {
            Incoming::Preface => PREFACE.len(),
            Incoming::Skip(_) => 0,
            Incoming::Data(frame) => frame.left.min(WHOLE),
            Incoming::FirstSettings | Incoming::Frame => {
                let head = FrameHead::read(self.input.get_ref());
                HEADER + head.map_or(0, |head| head.len.min(BLOCK_MAX))
            }
        }
    }

    /// One step of parsing; false if more bytes are needed first.
    fn step(&mut self, fields: &mut dyn Fields) -> bool {
        match &mut self.incoming {
            Incoming::Preface => self.step_preface(),
            Incoming::Skip(left) => {
                let n = (*left).min(self.input.get_ref().len());
                *left -= n;
                let done = *left == 0;
                self.input.get_mut().advance(n);
                if done {
                    self.incoming = Incoming::Frame;
                }
                done
            }
            Incoming::Data(_) => self.step_data(),
            Incoming::FirstSettings | Incoming::Frame => self.step_frame(fields),
        }
    }

    fn step_preface(&mut self) -> bool {
        let input = self.input.get_mut();
        let common = input.len().min(PREFACE.len());
        if input[..common] != PREFACE[..common] {
            self.fail(BadReason::Http2Protocol, ErrorCode::PROTOCOL_ERROR);
            return false;
        }
        if common < PREFACE.len() {
            return false;
        }
        input.advance(PREFACE.len());
        self.incoming = Incoming::FirstSettings;
        true
    }

    fn step_frame(&mut self, fields: &mut dyn Fields) -> bool {
        let Some(head) = FrameHead::read(self.input.get_ref()) else {
            return false;
        };
        let first = matches!(self.incoming, Incoming::FirstSettings);
        if first && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return self.broken();
        }
        let continued = self.continued.as_ref().map(|continued| continued.id);
        let expected = (head.kind == kind::CONTINUATION).then_some(head.stream);
        if continued != expected {
            return self.broken();
        }
        if head.len > FRAME_MAX || head.kind != kind::DATA && head.len > BLOCK_MAX {
            self.fail(BadReason::Http2FrameSize, ErrorCode::FRAME_SIZE_ERROR);
            return false;
        }
        if head.kind == kind::DATA {
            return self.begin_data(head);
        }
        if self.input.get_ref().len() < HEADER + head.len {
            return false;
        }
        match head.kind {
            kind::HEADERS => self.on_headers(head, fields),
            kind::CONTINUATION => self.on_continuation(head, fields),
            _ => {
                let mut input = std::mem::take(self.input.get_mut());
                self.on_control(head, &input[HEADER..HEADER + head.len]);
                input.advance(HEADER + head.len);
                *self.input.get_mut() = input;
            }
        }
        true
    }

    /// The peer broke the rules of the connection.
    fn broken(&mut self) -> bool {
        self.fail(BadReason::Http2Protocol, ErrorCode::PROTOCOL_ERROR);
        false
    }

    fn on_control(&mut self, head: FrameHead, payload: &[u8]) {
        self.incoming = Incoming::Frame;
        let word = payload
            .first_chunk()
            .map_or(0, |word| u32::from_be_bytes(*word));
        let (size, needs_stream) = match head.kind {
            kind::PRIORITY => (Some(5), Some(true)),
            kind::RST_STREAM => (Some(4), Some(true)),
            kind::PING => (Some(8), Some(false)),
            kind::WINDOW_UPDATE => (Some(4), None),
            kind::SETTINGS | kind::GOAWAY => (None, Some(false)),
            _ => (None, None),
        };
        if size.is_some_and(|size| size != payload.len()) {
            return self.fail(BadReason::Http2FrameSize, ErrorCode::FRAME_SIZE_ERROR);
        }
        if needs_stream.is_some_and(|needs| needs != (head.stream != 0)) {
            self.broken();
            return;
        }
        match head.kind {
            kind::RST_STREAM => self.on_reset(head.stream, ErrorCode(word)),
            kind::SETTINGS => self.on_settings(head, payload),
            kind::PING => self.on_ping(head, payload),
            kind::GOAWAY => self.on_goaway(payload),
            kind::WINDOW_UPDATE => self.on_window(head.stream, word & MOST),
            kind::PUSH_PROMISE => drop(self.broken()),
            _ => self.spend_idle(),
        }
    }

    /// A frame without use; too many of them end the connection.
    pub(super) fn spend_idle(&mut self) {
        if !self.budgets.idle.spend(1, self.now) {
            self.fail(BadReason::Http2Idle, ErrorCode::ENHANCE_YOUR_CALM);
        }
    }

    /// True for a stream that neither end has used yet.
    fn is_unused(&self, id: u32) -> bool {
        match (self.role, id % 2) {
            (_, 0) => true,
            (Role::Server, _) => id > self.last_peer,
            (Role::Client, _) => id >= self.next_own,
        }
    }

    fn on_headers(&mut self, head: FrameHead, fields: &mut dyn Fields) {
        let input = self.input.get_ref();
        let padding = match head.has(flag::PADDED) {
            true => Some(input.get(HEADER).copied().map_or(usize::MAX, usize::from)),
            false => None,
        };
        let priority = if head.has(flag::PRIORITY) { 5 } else { 0 };
        let start = HEADER + usize::from(padding.is_some()) + priority;
        let end = (HEADER + head.len).checked_sub(padding.unwrap_or(0));
        let Some(end) = end.filter(|end| start <= *end && head.stream != 0) else {
            self.broken();
            return;
        };
        let ends = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            let mut input = std::mem::take(self.input.get_mut());
            self.on_block(head.stream, ends, &input[start..end], fields);
            input.advance(HEADER + head.len);
            *self.input.get_mut() = input;
            return;
        }
        self.continued = Some(Continued {
            id: head.stream,
            end: ends,
            block: input[start..end].to_vec(),
            frames: 0,
        });
        self.input.get_mut().advance(HEADER + head.len);
    }

    fn on_continuation(&mut self, head: FrameHead, fields: &mut dyn Fields) {
        let Some(mut continued) = self.continued.take() else {
            self.broken();
            return;
        };
        let payload = &self.input.get_ref()[HEADER..HEADER + head.len];
        continued.block.extend_from_slice(payload);
        continued.frames += 1;
        self.input.get_mut().advance(HEADER + head.len);
        if continued.frames > CONTINUATIONS_MAX || continued.block.len() > BLOCK_MAX {
            return self.fail(BadReason::Http2Continuation, ErrorCode::ENHANCE_YOUR_CALM);
        }
        if head.has(flag::END_HEADERS) {
            return self.on_block(continued.id, continued.end, &continued.block, fields);
        }
        self.continued = Some(continued);
    }

    /// A block is complete: decodes it, whatever becomes of its stream.
    fn on_block(&mut self, id: u32, end: bool, block: &[u8], fields: &mut dyn Fields) {
        let stream = self.streams.get(&id);
        let is = match (self.role, stream) {
            (Role::Server, None) => Block::Request,
            (Role::Client, Some(stream)) if !stream.heard => Block::Response,
            _ => Block::Trailers,
        };
        let mut check = Check::new(is, self.bounds.max_head);
        fields.clear();
        let decoded = self
            .decoder
            .decode(block, &mut |name, value| check.take(name, value, fields));
        if decoded.is_err() {
            return self.fail(BadReason::Http2Compression, ErrorCode::COMPRESSION_ERROR);
        }
        if self.streams.contains_key(&id) {
            return match is {
                Block::Response => self.on_answer(id, end, &check),
                _ => self.on_trailers(id, end, &check),
            };
        }
        if !self.is_unused(id) {
            if self.role == Role::Client {
                counters::LATE_REPLIES.add(1);
            }
            return self.spend_idle(); // it has ended
        }
        if self.role == Role::Client || id.is_multiple_of(2) {
            self.broken();
            return;
        }
        self.last_peer = id;
        self.on_request(id, end, &check);
    }

    fn on_request(&mut self, id: u32, end: bool, check: &Check) {
        if matches!(self.leaving, Leaving::From(last) if id > last) {
            return; // told so already: the peer knows that this one is not looked at
        }
        if check.is_malformed() {
            return self.reset_for_input(id, ErrorCode::PROTOCOL_ERROR);
        }
        if self.streams.len() >= self.bounds.max_streams {
            return self.reset_for_input(id, ErrorCode::REFUSED_STREAM);
        }
        let inbox = T::default();
        let mut stream = Stream::new(inbox, self.peer.initial_window, STREAM_WINDOW);
        stream.expected = check.length.filter(|_| !end);
        stream.heard = true;
        stream.remote_closed = end;
        self.streams.insert(id, stream);
        self.events.push_back(match check.too_large {
            true => Event::HeadTooLarge { id },
            false => Event::Head { id, end },
        });
    }

    fn on_answer(&mut self, id: u32, end: bool, check: &Check) {
        if check.is_malformed() || check.too_large || check.interim && end {
            return self.reset_for_input(id, ErrorCode::PROTOCOL_ERROR);
        }
        let Some(stream) = self.streams.get_mut(&id).filter(|_| !check.interim) else {
            return; // 100 and its like are passed over
        };
        stream.heard = true;
        stream.remote_closed = end;
        stream.expected = check.length.filter(|_| !end);
        self.events.push_back(Event::Head { id, end });
    }

    fn on_trailers(&mut self, id: u32, end: bool, check: &Check) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.remote_closed {
            return self.reset_for_input(id, ErrorCode::STREAM_CLOSED);
        }
        let missing = stream.expected.is_some_and(|left| left > 0);
        if !end || missing || check.is_malformed() || check.too_large {
            return self.reset_for_input(id, ErrorCode::PROTOCOL_ERROR);
        }
        stream.remote_closed = true;
        self.events.push_back(Event::Trailers { id });
    }

    /// Ends a stream for what the peer sent on it.
    pub(super) fn reset_for_input(&mut self, id: u32, code: ErrorCode) {
        self.put_frame(kind::RST_STREAM, 0, id, &code.0.to_be_bytes());
        if let Some(stream) = self.streams.remove(&id) {
            let inbox = stream.inbox;
            self.events.push_back(Event::Reset { id, code, inbox });
        }
        self.spend_reset();
    }

    fn spend_reset(&mut self) {
        if !self.budgets.resets.spend(1, self.now) {
            self.fail(BadReason::Http2RapidReset, ErrorCode::ENHANCE_YOUR_CALM);
        }
    }

    fn on_reset(&mut self, id: u32, code: ErrorCode) {
        if self.is_unused(id) {
            self.broken();
            return;
        }
        let Some(stream) = self.streams.remove(&id) else {
            return self.spend_idle();
        };
        let inbox = stream.inbox;
        self.events.push_back(Event::Reset { id, code, inbox });
        if self.role == Role::Server {
            self.spend_reset();
        }
    }

    fn on_settings(&mut self, head: FrameHead, payload: &[u8]) {
        if head.has(flag::ACK) && payload.is_empty() {
            return;
        }
        if head.has(flag::ACK) || !payload.len().is_multiple_of(6) {
            return self.fail(BadReason::Http2FrameSize, ErrorCode::FRAME_SIZE_ERROR);
        }
        if !self.budgets.settings.spend(1, self.now) {
            return self.fail(BadReason::Http2Settings, ErrorCode::ENHANCE_YOUR_CALM);
        }
        let before = self.peer;
        if let Err(code) = self.peer.apply(payload) {
            return self.fail(BadReason::Http2Protocol, code);
        }
        self.encoder.set_max(self.peer.header_table);
        self.put_frame(kind::SETTINGS, flag::ACK, 0, &[]);
        self.move_windows(before);
    }

    /// The initial window has changed: every stream's has by as much (RFC 9113 §6.9.2).
    fn move_windows(&mut self, before: Settings) {
        let delta = i64::from(self.peer.initial_window) - i64::from(before.initial_window);
        if delta == 0 {
            return;
        }
        let mut waiting = Vec::new();
        for (id, stream) in &mut self.streams {
            stream.send_window += delta;
            if stream.send_window > i64::from(MOST) {
                return self.fail(BadReason::Http2Flow, ErrorCode::FLOW_CONTROL_ERROR);
            }
            if !stream.queue.is_empty() {
                waiting.push(*id);
            }
        }
        for id in waiting {
            self.pump(id);
        }
    }

    fn on_ping(&mut self, head: FrameHead, payload: &[u8]) {
        let Some(payload) = payload.first_chunk::<8>() else {
            return;
        };
        if head.has(flag::ACK) {
            if *payload == DRAIN_PING && self.leaving == Leaving::Announced {
                self.leaving = Leaving::From(self.last_peer);
                self.put_goaway(self.last_peer, ErrorCode::NO_ERROR, b"");
            }
            return;
        }
        if !self.budgets.pings.spend(1, self.now) {
            return self.fail(BadReason::Http2Ping, ErrorCode::ENHANCE_YOUR_CALM);
        }
        self.put_ping_answer(*payload);
    }

    fn on_goaway(&mut self, payload: &[u8]) {
        let Some(last) = payload.first_chunk().filter(|_| payload.len() >= 8) else {
            return self.fail(BadReason::Http2FrameSize, ErrorCode::FRAME_SIZE_ERROR);
        };
        if self.role == Role::Server {
            return self.spend_idle(); // nothing is pushed: it says nothing to us
        }
        let last = u32::from_be_bytes(*last) & MOST;
        self.peer_leaving = Some(self.peer_leaving.map_or(last, |before| before.min(last)));
        self.events.push_back(Event::GoingAway);
        let mut unseen: Vec<u32> = self
            .streams
            .keys()
            .copied()
            .filter(|id| *id > last)
            .collect();
        unseen.sort_unstable();
        for id in unseen {
            if let Some(stream) = self.streams.remove(&id) {
                let inbox = stream.inbox;
                self.events.push_back(Event::Unprocessed { inbox });
            }
        }
    }

    fn on_window(&mut self, id: u32, more: u32) {
        self.spend_idle();
        if id == 0 {
            self.send_window += i64::from(more);
            if more == 0 {
                self.broken();
            } else if self.send_window > i64::from(MOST) {
                self.fail(BadReason::Http2Flow, ErrorCode::FLOW_CONTROL_ERROR);
            } else {
                self.pump_blocked();
            }
            return;
        }
        if self.is_unused(id) {
            self.broken();
            return;
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.send_window += i64::from(more);
        if more == 0 {
            self.reset_for_input(id, ErrorCode::PROTOCOL_ERROR);
        } else if stream.send_window > i64::from(MOST) {
            self.reset_for_input(id, ErrorCode::FLOW_CONTROL_ERROR);
        } else {
            self.pump(id);
        }
    }

    fn begin_data(&mut self, head: FrameHead) -> bool {
        let input = self.input.get_ref();
        let padding = match head.has(flag::PADDED) {
            true if input.len() == HEADER && head.len > 0 => return false,
            true => input.get(HEADER).copied().map_or(usize::MAX, usize::from),
            false => 0,
        };
        let header = HEADER + usize::from(head.has(flag::PADDED));
        let taken = (header - HEADER).checked_add(padding);
        let payload = taken.and_then(|taken| head.len.checked_sub(taken));
        let Some(payload) = payload.filter(|_| head.stream != 0) else {
            return self.broken();
        };
        if !self.take_from_connection(head.len) {
            return false;
        }
        let end = head.has(flag::END_STREAM);
        if payload == 0 && !end && !self.budgets.empty.spend(1, self.now) {
            self.fail(BadReason::Http2Empty, ErrorCode::ENHANCE_YOUR_CALM);
            return false;
        }
        self.input.get_mut().advance(header);
        self.incoming = match self.take_from_stream(head, payload) {
            Ok(()) => Incoming::Data(DataFrame {
                id: head.stream,
                left: payload,
                padding,
                end,
            }),
            Err(code) => {
                if let Some(code) = code {
                    self.reset_for_input(head.stream, code);
                }
                Incoming::Skip(payload + padding)
            }
        };
        true
    }

    /// Counts a DATA frame against the connection's window, which is given back in batches.
    fn take_from_connection(&mut self, len: usize) -> bool {
        self.recv_window -= len as i64;
        if self.recv_window < 0 {
            self.fail(BadReason::Http2Flow, ErrorCode::FLOW_CONTROL_ERROR);
            return false;
        }
        self.arrived += len as u32;
        if self.arrived >= CONNECTION_WINDOW / 2 {
            self.put_window(0, self.arrived);
            self.recv_window += i64::from(self.arrived);
            self.arrived = 0;
        }
        true
    }

    /// Counts it against its stream's window and length. The stream is reset for `Err(Some)`, and the
    /// frame passed over for any `Err`.
    fn take_from_stream(
        &mut self,
        head: FrameHead,
        payload: usize,
    ) -> Result<(), Option<ErrorCode>> {
        if self.is_unused(head.stream) {
            self.broken();
            return Err(None);
        }
        let Some(stream) = self.streams.get_mut(&head.stream) else {
            self.spend_idle(); // it was reset a moment ago
            return Err(None);
        };
        if stream.remote_closed {
            return Err(Some(ErrorCode::STREAM_CLOSED));
        }
        if !stream.heard {
            return Err(Some(ErrorCode::PROTOCOL_ERROR));
        }
        stream.recv_window -= head.len as i64;
        if stream.recv_window < 0 {
            return Err(Some(ErrorCode::FLOW_CONTROL_ERROR));
        }
        stream.arrived += head.len as u32;
        if let Some(expected) = &mut stream.expected {
            let left = expected.checked_sub(payload as u64);
            let left = left.ok_or(Some(ErrorCode::PROTOCOL_ERROR))?;
            if left > 0 && head.has(flag::END_STREAM) {
                return Err(Some(ErrorCode::PROTOCOL_ERROR));
            }
            *expected = left;
        }
        Ok(())
    }

    fn step_data(&mut self) -> bool {
        let Incoming::Data(frame) = &mut self.incoming else {
            return false;
        };
        let held = self.input.get_ref().len();
        let n = frame.left.min(held);
        if n < frame.left {
            // A payload that begins a message is taken whole, unless it is long.
            let mid_message = self
                .streams
                .get_mut(&frame.id)
                .is_some_and(|stream| stream.inbox.space(frame.left).is_some());
            if n == 0 || frame.left <= WHOLE && !mid_message {
                return false;
            }
        }
        let data = self.input.get_mut().split_to(n).freeze();
        frame.left -= n;
        let (id, over) = (frame.id, frame.left == 0);
        let end = over && frame.end;
        if over {
            self.incoming = match frame.padding {
                0 => Incoming::Frame,
                padding => Incoming::Skip(padding),
            };
        }
        if let Some(stream) = self.streams.get_mut(&id)
            && (n > 0 || end)
        {
            stream.remote_closed = end;
            self.events.push_back(Event::Data { id, data, end });
            self.budgets.moved();
        }
        true
    }

    /// Bytes of a DATA frame are where its stream's user wants them.
    fn placed(&mut self, id: u32, end: bool) {
        if let Incoming::Data(frame) = &self.incoming
            && frame.left == 0
        {
            self.incoming = match frame.padding {
                0 => Incoming::Frame,
                padding => Incoming::Skip(padding),
            };
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.remote_closed = end;
            self.events.push_back(Event::Placed { id, end });
            self.budgets.moved();
        }
    }
}
