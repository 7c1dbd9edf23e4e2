//! One link's state, in two halves: what came in, and what is to go out.
//!
//! Knows:       frames, which commands are allowed when, deadlines, the bound on unsent bytes.
//! Does not know: sockets, coroutines, the clock (it is told the time), what logic answers.
//!
//! A driver feeds [`Inbound`] what it read and acts on its events; whoever has something for the
//! terminal puts it into [`Outbound`], from which the driver writes. The halves share nothing: reading
//! goes on in one place while answers and pushes come from many.
//!
//! Invariants
//! - S-1  Before AUTH succeeded a link may only register, log in, authenticate and keep its signal; it
//!   lives [`Limits::opening`] at most.
//! - S-2  A notify never goes out before the AuthReply: between the registration of a link and its
//!   AuthReply notifies are held.
//! - S-3  Unsent bytes and frames are bounded; a terminal that does not read loses its link, and nobody
//!   else notices.
//! - S-4  Signs never stand before the AuthReply either; those of that time are dropped. While nobody uses the
//!   terminal they wait, bounded: of presence the newest word of each contact, of typing none.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rpc_core::base::time::Instant;

use crate::longlink::{BadFrame, Decoder, Frame, SEQ_NOOP, SEQ_PUSH, SEQ_RESERVED, TooLarge};
use crate::model::limits::SIGNS;
use crate::proto::terminal::{self as pb, sign::What};

/// The bounds of a link.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A link that stays silent for so long is closed.
    pub idle: Duration,
    /// Time from accepting a link to its AUTH.
    pub opening: Duration,
    /// Unsent frames per link.
    pub frames: usize,
    /// Unsent bytes per link.
    pub bytes: usize,
    /// Notifies held while AUTH is under way; beyond, only the newest key is kept.
    pub held: usize,
    /// Signs that wait until somebody uses the terminal; beyond, the oldest is forgotten.
    pub signs: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(15 * 60),
            opening: Duration::from_secs(30),
            frames: 1_024,
            bytes: 4 << 20,
            held: 64,
            signs: SIGNS,
        }
    }
}

/// What a terminal wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A command to be answered under its seq.
    Command(Request),
    /// A heartbeat, to be answered with the newest key.
    Noop,
}

/// A command as it came in.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The raw command number; answered as unknown when it is not a [`pb::Command`].
    pub cmd: u32,
    /// To be repeated in the reply.
    pub seq: u32,
    /// The encoded request message.
    pub body: Bytes,
}

/// Why a link ends. [`Closing::reason`] is the label under which it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// The terminal closed it, or the network did.
    Gone,
    /// The stream is not the long link's.
    Broken(BadFrame),
    /// A request under a seq that never names one.
    ReservedSeq(u32),
    /// Nothing was heard for [`Limits::idle`].
    Idle,
    /// No successful AUTH within [`Limits::opening`].
    NeverAuthenticated,
    /// The terminal reads too slowly, or not at all.
    SlowReader,
    /// AUTH was right, but the user's home could not be told of the link.
    HomeUnreachable,
    /// The access process stops.
    Draining,
    /// The same device has a newer link.
    TakenOver,
    /// The process has as many links as it may.
    TooManyLinks,
    /// WebSocket that is none, or not ours: no upgrade, a text, a message too large.
    BadWebSocket,
}

impl Closing {
    /// Every reason, for counters that exist from the start.
    pub const REASONS: [&str; 13] = [
        "gone",
        "bad_head_length",
        "bad_version",
        "oversized_packet",
        "reserved_seq",
        "idle",
        "never_authenticated",
        "slow_reader",
        "home_unreachable",
        "draining",
        "taken_over",
        "too_many_links",
        "bad_websocket",
    ];

    /// The label under which the end of a link is counted.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Broken(bad) => bad.reason(),
            Self::ReservedSeq(_) => "reserved_seq",
            Self::Idle => "idle",
            Self::NeverAuthenticated => "never_authenticated",
            Self::SlowReader => "slow_reader",
            Self::HomeUnreachable => "home_unreachable",
            Self::Draining => "draining",
            Self::TakenOver => "taken_over",
            Self::TooManyLinks => "too_many_links",
            Self::BadWebSocket => "bad_websocket",
        }
    }
}

impl fmt::Display for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(bad) => write!(f, "{bad}"),
            Self::ReservedSeq(seq) => write!(f, "seq {seq:#x} never names a request"),
            other => f.write_str(other.reason()),
        }
    }
}

/// The half that reads.
#[derive(Debug)]
pub struct Inbound {
    decoder: Decoder,
    limits: Limits,
    opened: Instant,
    /// When bytes last came in.
    heard: Instant,
    authenticated: bool,
}

impl Inbound {
    /// The state of a link accepted at `now`.
    #[must_use]
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            decoder: Decoder::default(),
            limits,
            opened: now,
            heard: now,
            authenticated: false,
        }
    }

    /// The link was accepted at `now`.
    pub fn opened(&mut self, now: Instant) {
        self.opened = now;
        self.heard = now;
    }

    /// Takes what was read from the link.
    pub fn received(&mut self, bytes: &[u8], now: Instant) {
        self.heard(now);
        self.feed(bytes);
    }

    /// Something came.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Takes bytes of the stream of packets.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.decoder.feed(bytes);
    }

    /// Where the stream's next bytes may be written instead.
    pub fn space(&mut self) -> &mut BytesMut {
        self.decoder.space()
    }

    /// True if no packet has come in part, and none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.decoder.buffered() == 0
    }

    /// Gives an empty buffer back.
    pub fn release(&mut self) {
        self.decoder.release();
    }

    /// What the terminal asked for next; `None` when more bytes are needed.
    ///
    /// # Errors
    /// The reason to close the link.
    pub fn next_event(&mut self) -> Result<Option<Event>, Closing> {
        loop {
            let Some(frame) = self.decoder.next_frame().map_err(Closing::Broken)? else {
                return Ok(None);
            };
            let Frame { cmd, seq, body } = frame;
            if cmd == pb::Command::SignalKeep as u32 {
                continue;
            }
            if cmd == pb::Command::Noop as u32 && seq == SEQ_NOOP {
                return Ok(Some(Event::Noop));
            }
            if seq == SEQ_PUSH || seq >= SEQ_RESERVED {
                return Err(Closing::ReservedSeq(seq));
            }
            return Ok(Some(Event::Command(Request { cmd, seq, body })));
        }
    }

    /// AUTH succeeded: from here the idle limit applies instead of the opening one.
    pub fn authenticated(&mut self) {
        self.authenticated = true;
    }

    /// Whether AUTH has succeeded.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// When the link ends unless something is heard or authenticated before.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let idle = self.heard + self.limits.idle;
        if self.authenticated {
            idle
        } else {
            idle.min(self.opened + self.limits.opening)
        }
    }

    /// The verdict at `now`.
    #[must_use]
    pub fn expired(&self, now: Instant) -> Option<Closing> {
        if now < self.deadline() {
            return None;
        }
        Some(if self.authenticated {
            Closing::Idle
        } else {
            Closing::NeverAuthenticated
        })
    }
}

/// The half that writes: packets in the order in which they go out.
#[derive(Debug)]
pub struct Outbound {
    limits: Limits,
    packets: VecDeque<Bytes>,
    /// Sum of the lengths of `packets`.
    bytes: usize,
    /// S-2: notifies that wait for the AuthReply; `None` while nothing is held back.
    held: Option<VecDeque<pb::Notify>>,
    /// Somebody uses the terminal.
    active: bool,
    /// S-4: signs that wait until somebody does.
    signs: Vec<pb::Sign>,
    /// Set once; then nothing more is taken in.
    closing: Option<Closing>,
}

impl Outbound {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            packets: VecDeque::new(),
            bytes: 0,
            held: None,
            active: false,
            signs: Vec::new(),
            closing: None,
        }
    }

    /// Tells the terminal that its timeline has moved.
    pub fn notify(&mut self, notify: pb::Notify) {
        match &mut self.held {
            None => self.push_notify(notify),
            Some(held) if held.len() < self.limits.held => held.push_back(notify),
            Some(held) => {
                let key = held
                    .iter()
                    .map(|n| n.key)
                    .max()
                    .unwrap_or(0)
                    .max(notify.key);
                held.clear();
                held.push_back(pb::Notify {
                    prev_key: notify.prev_key,
                    key,
                    items: Vec::new(),
                });
            }
        }
    }

    /// Passes signs on, or has them wait (S-4).
    pub fn sign(&mut self, signs: Vec<pb::Sign>) {
        if self.held.is_some() || self.closing.is_some() {
            return;
        }
        if self.active {
            return self.push_signs(signs);
        }
        for sign in signs {
            if matches!(sign.what, Some(What::Here(_))) {
                self.signs.retain(|other| other.from != sign.from);
                if self.signs.len() >= self.limits.signs {
                    self.signs.remove(0);
                }
                self.signs.push(sign);
            }
        }
    }

    /// Somebody begins or ceases to use the terminal; what has waited for that goes out.
    pub fn set_active(&mut self, active: bool) {
        self.active = active;
        if active && !self.signs.is_empty() {
            let signs = std::mem::take(&mut self.signs);
            self.push_signs(signs);
        }
    }

    /// Whether somebody uses the terminal.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// From here on notifies wait for [`Outbound::release`] (S-2).
    pub fn hold(&mut self) {
        self.held.get_or_insert_with(VecDeque::new);
    }

    /// The AuthReply is queued: held notifies follow it.
    pub fn release(&mut self) {
        for notify in self.held.take().into_iter().flatten() {
            self.push_notify(notify);
        }
    }

    /// Takes what is to be written next: whole packets, as many as fit into `room` bytes, at least one.
    /// `None` when nothing waits.
    pub fn take(&mut self, room: usize) -> Option<Bytes> {
        let first = self.packets.pop_front()?;
        self.bytes -= first.len();
        if self
            .packets
            .front()
            .is_none_or(|next| first.len() + next.len() > room)
        {
            return Some(first);
        }
        let mut joined = BytesMut::from(&first[..]);
        while let Some(next) = self.packets.front()
            && joined.len() + next.len() <= room
        {
            joined.extend_from_slice(next);
            self.bytes -= next.len();
            self.packets.pop_front();
        }
        Some(joined.freeze())
    }

    /// Ends the link; only the first reason counts. Packets queued before still may be taken.
    pub fn close(&mut self, reason: Closing) {
        if self.closing.is_none() {
            self.closing = Some(reason);
            self.held = None;
        }
    }

    /// Why the link ends, if it does.
    #[must_use]
    pub fn closing(&self) -> Option<Closing> {
        self.closing
    }

    /// Lets go of an empty queue's memory.
    pub fn shrink(&mut self) {
        if self.packets.is_empty() {
            self.packets = VecDeque::new();
        }
    }

    /// Unsent bytes.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.bytes
    }

    fn push_signs(&mut self, signs: Vec<pb::Sign>) {
        let cmd = pb::Command::PushEphemeral as u32;
        // What is too large for a packet came from no storage process of ours.
        if let Ok(frame) = Frame::of(cmd, SEQ_PUSH, &pb::Ephemeral { signs }) {
            self.push(frame.to_bytes());
        }
    }

    fn push_notify(&mut self, notify: pb::Notify) {
        let cmd = pb::Command::PushNotify as u32;
        let frame = Frame::of(cmd, SEQ_PUSH, &notify).unwrap_or_else(|TooLarge { .. }| {
            // Without the items it is a plain notify: the terminal syncs.
            let plain = pb::Notify {
                items: Vec::new(),
                ..notify
            };
            Frame::of(cmd, SEQ_PUSH, &plain).expect("a plain notify is a few bytes")
        });
        self.push(frame.to_bytes());
    }

    /// Queues a packet.
    pub fn push(&mut self, packet: Bytes) {
        if self.closing.is_some() {
            return;
        }
        if self.packets.len() >= self.limits.frames || self.bytes + packet.len() > self.limits.bytes
        {
            self.packets.clear();
            self.bytes = 0;
            self.close(Closing::SlowReader);
            return;
        }
        self.bytes += packet.len();
        self.packets.push_back(packet);
    }
}

/// The answer to a command, as a packet.
#[must_use]
pub fn reply_packet(cmd: u32, seq: u32, reply: &pb::Reply) -> Bytes {
    let frame = Frame::of(cmd, seq, reply).unwrap_or_else(|TooLarge { length }| {
        // The terminal learns why instead of waiting for an answer that cannot come.
        let error =
            format!("the answer of {length} bytes exceeds a packet; ask for fewer items at a time");
        let reply = pb::Reply {
            code: RESOURCE_EXHAUSTED,
            error,
            body: Bytes::new(),
        };
        Frame::of(cmd, seq, &reply).expect("a short error text fits a packet")
    });
    frame.to_bytes()
}

/// The answer to a heartbeat. `newest` comes from the primary or is absent.
#[must_use]
pub fn beat_packet(newest: Option<u64>) -> Bytes {
    let frame = Frame::of(pb::Command::Noop as u32, SEQ_NOOP, &pb::Beat { newest });
    frame.expect("a beat is a few bytes").to_bytes()
}

/// gRPC's number; the terminal treats it as "ask for less".
const RESOURCE_EXHAUSTED: u32 = 8;

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::longlink::MAX_PACKET;

    fn inbound(now: Instant) -> Inbound {
        Inbound::new(Limits::default(), now)
    }

    fn packet(cmd: u32, seq: u32) -> Bytes {
        Frame {
            cmd,
            seq,
            body: Bytes::new(),
        }
        .to_bytes()
    }

    fn notify(prev_key: u64, key: u64) -> pb::Notify {
        pb::Notify {
            prev_key,
            key,
            items: Vec::new(),
        }
    }

    fn frames(out: &mut Outbound) -> Vec<Frame> {
        let mut decoder = Decoder::default();
        while let Some(bytes) = out.take(1 << 16) {
            decoder.feed(&bytes);
        }
        std::iter::from_fn(|| decoder.next_frame().unwrap()).collect()
    }

    #[test]
    fn commands_beats_and_signals_are_told_apart() {
        let now = Instant::from_nanos(0);
        let mut session = inbound(now);
        session.received(&packet(3, 7), now);
        session.received(&packet(243, 0), now);
        session.received(&packet(6, SEQ_NOOP), now);
        let command = Event::Command(Request {
            cmd: 3,
            seq: 7,
            body: Bytes::new(),
        });
        assert_eq!(session.next_event(), Ok(Some(command)));
        assert_eq!(
            session.next_event(),
            Ok(Some(Event::Noop)),
            "the signal packet is passed over"
        );
        assert_eq!(session.next_event(), Ok(None));
    }

    #[test]
    fn a_request_under_a_reserved_seq_closes_the_link() {
        for seq in [SEQ_PUSH, SEQ_RESERVED, SEQ_NOOP - 1] {
            let now = Instant::from_nanos(0);
            let mut session = inbound(now);
            session.received(&packet(3, seq), now);
            assert_eq!(session.next_event(), Err(Closing::ReservedSeq(seq)));
        }
    }

    #[test]
    fn a_link_without_auth_ends_after_the_opening_time_however_much_it_says() {
        let start = Instant::from_nanos(0);
        let limits = Limits::default();
        let mut session = inbound(start);
        for second in 0..30 {
            let now = start + Duration::from_secs(second);
            assert_eq!(session.expired(now), None);
            session.received(&packet(243, 0), now);
        }
        assert_eq!(
            session.expired(start + limits.opening),
            Some(Closing::NeverAuthenticated)
        );
        session.authenticated();
        assert_eq!(session.expired(start + limits.opening), None);
        assert_eq!(
            session.deadline(),
            start + Duration::from_secs(29) + limits.idle
        );
        assert_eq!(session.expired(session.deadline()), Some(Closing::Idle));
    }

    #[test]
    fn a_notify_between_registration_and_auth_reply_goes_out_behind_it() {
        let mut out = Outbound::new(Limits::default());
        out.hold();
        out.notify(notify(4, 5));
        assert_eq!(out.unsent(), 0);
        out.push(reply_packet(2, 1, &pb::Reply::default()));
        out.release();
        out.notify(notify(5, 6));
        let cmds: Vec<u32> = frames(&mut out).iter().map(|f| f.cmd).collect();
        assert_eq!(cmds, [2, 10001, 10001]);
    }

    #[test]
    fn signs_wait_while_nobody_uses_the_terminal_and_the_newest_stands_for_all() {
        let sign = |from, what| pb::Sign {
            from,
            what: Some(what),
        };
        let mut out = Outbound::new(Limits {
            signs: 2,
            ..Limits::default()
        });
        let told = |out: &mut Outbound| -> Vec<Vec<pb::Sign>> {
            let frames = frames(out).into_iter();
            let decode = |frame: Frame| pb::Ephemeral::decode(frame.body).unwrap().signs;
            frames.map(decode).collect()
        };
        out.sign(vec![sign(1, What::Here(true)), sign(1, What::Typing(true))]);
        out.sign(vec![sign(2, What::Here(true))]);
        out.sign(vec![sign(1, What::Here(false)), sign(3, What::Here(true))]);
        assert!(told(&mut out).is_empty());
        out.set_active(true);
        let newest = vec![sign(1, What::Here(false)), sign(3, What::Here(true))];
        assert_eq!(told(&mut out), [newest], "in one packet");
        out.set_active(true);
        out.sign(vec![sign(2, What::Typing(true))]);
        assert_eq!(told(&mut out), [vec![sign(2, What::Typing(true))]]);
        out.hold();
        out.sign(vec![sign(2, What::Typing(true))]);
        out.release();
        assert!(told(&mut out).is_empty(), "none before the AuthReply");
    }

    #[test]
    fn more_notifies_than_are_held_collapse_into_the_newest_key() {
        let mut out = Outbound::new(Limits::default());
        out.hold();
        for key in 1..=200 {
            out.notify(notify(key - 1, key));
        }
        out.release();
        let last = frames(&mut out).pop().unwrap();
        assert_eq!(pb::Notify::decode(last.body).unwrap().key, 200);
    }

    #[test]
    fn a_terminal_that_never_reads_is_closed_and_its_memory_freed() {
        let mut out = Outbound::new(Limits {
            frames: 8,
            ..Limits::default()
        });
        for key in 0..9 {
            out.notify(notify(key, key + 1));
        }
        assert_eq!(out.closing(), Some(Closing::SlowReader));
        assert_eq!(out.unsent(), 0);
        let mut out = Outbound::new(Limits {
            bytes: 1 << 10,
            ..Limits::default()
        });
        out.push(reply_packet(
            4,
            1,
            &pb::Reply {
                body: vec![0; 2_000].into(),
                ..Default::default()
            },
        ));
        assert_eq!(out.closing(), Some(Closing::SlowReader));
    }

    #[test]
    fn an_answer_above_a_packet_becomes_a_refusal_that_says_so() {
        let mut out = Outbound::new(Limits::default());
        out.push(reply_packet(
            4,
            9,
            &pb::Reply {
                body: vec![0; MAX_PACKET].into(),
                ..Default::default()
            },
        ));
        let frame = frames(&mut out).pop().unwrap();
        let reply = pb::Reply::decode(frame.body).unwrap();
        assert_eq!((frame.seq, reply.code), (9, RESOURCE_EXHAUSTED));
    }

    #[test]
    fn small_packets_share_a_write_and_large_ones_go_alone() {
        let mut out = Outbound::new(Limits::default());
        out.push(beat_packet(Some(1)));
        out.push(beat_packet(None));
        out.push(reply_packet(
            4,
            1,
            &pb::Reply {
                body: vec![0; 4_000].into(),
                ..Default::default()
            },
        ));
        let (small, large) = (out.take(1_000).unwrap(), out.take(1_000).unwrap());
        assert!(small.len() < 100 && large.len() > 4_000);
        assert_eq!((out.take(1_000), out.unsent()), (None, 0));
    }

    #[test]
    fn every_reason_to_close_has_its_counter() {
        let all = [
            Closing::Gone,
            Closing::Broken(BadFrame::HeadLength(1)),
            Closing::Broken(BadFrame::Version(1)),
            Closing::Broken(BadFrame::Oversized { head: 20, body: 1 }),
            Closing::ReservedSeq(0),
            Closing::Idle,
            Closing::NeverAuthenticated,
            Closing::SlowReader,
            Closing::HomeUnreachable,
            Closing::Draining,
            Closing::TakenOver,
            Closing::TooManyLinks,
            Closing::BadWebSocket,
        ];
        assert!(
            all.iter()
                .all(|closing| Closing::REASONS.contains(&closing.reason()))
        );
        assert_eq!(all.len(), Closing::REASONS.len());
    }
}
