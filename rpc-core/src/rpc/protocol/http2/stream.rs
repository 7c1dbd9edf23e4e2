//! One stream, and the table of those that are open.
//!
//! Knows: windows, what waits for them.   Does not know: frames, who opens streams.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use bytes::{BufMut, Bytes};

use super::frame::ErrorCode;
use super::hpack::encode::Encoder;

/// What the user of a session keeps with a stream.
pub trait Inbox: Default + Send {
    /// An allocation that the next bytes of the stream's data belong into, limited to `most`, if there is
    /// one: then they are received into it directly.
    fn space(&mut self, most: usize) -> Option<&mut dyn BufMut>;
}

/// A stream that is open in at least one direction.
pub struct Stream<T> {
    pub inbox: T,
    /// Bytes the peer takes.
    pub send_window: i64,
    /// Bytes the peer may still send.
    pub recv_window: i64,
    /// Bytes that came and were not given back to the peer's window.
    pub arrived: u32,
    /// Bytes of them that may be given back, and wait until it is worth a frame.
    pub credit: u32,
    /// Bytes still to come by the peer's content-length.
    pub expected: Option<u64>,
    /// The peer's head has come.
    pub heard: bool,
    /// The peer sends no more.
    pub remote_closed: bool,
    /// We send no more.
    pub local_closed: bool,
    /// Data that waits for windows.
    pub queue: VecDeque<Bytes>,
    /// What follows the queue.
    pub tail: Tail,
    /// In the list of those that wait for the connection's window.
    pub listed: bool,
    /// Its sender is to be told when the queue is empty.
    pub tell: bool,
}

/// Writes a block of fields when its time has come.
pub type LateBlock = Box<dyn FnOnce(&mut Encoder, &mut Vec<u8>) + Send>;

/// What follows the data that waits.
#[derive(Default)]
pub enum Tail {
    /// More may come.
    #[default]
    Open,
    /// The stream's end.
    End,
    /// Trailers.
    Block(LateBlock),
    /// The stream's end before its time.
    Reset(ErrorCode),
}

impl<T> Stream<T> {
    pub fn new(inbox: T, send_window: u32, recv_window: u32) -> Self {
        Self {
            inbox,
            send_window: send_window.into(),
            recv_window: recv_window.into(),
            arrived: 0,
            credit: 0,
            expected: None,
            heard: false,
            remote_closed: false,
            local_closed: false,
            queue: VecDeque::new(),
            tail: Tail::Open,
            listed: false,
            tell: false,
        }
    }

    /// True if what is sent now need not queue.
    pub fn is_clear(&self) -> bool {
        self.queue.is_empty() && !self.local_closed && matches!(self.tail, Tail::Open)
    }
}

/// Streams by id.
pub type Streams<T> = HashMap<u32, Stream<T>, BuildHasherDefault<IdHasher>>;

/// Ids are small numbers chosen by the peer; the table has a bound so low that a peer that makes them
/// collide slows nobody but itself.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        let mixed = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}
