//! Byte buffers between protocol sessions and the kernel.
//!
//! Knows: chains of bytes.   Does not know: frames, protocols, who waits.
//!
//! Invariants
//! - B-1  Bytes of [`SMALL`] or more that are given as [`Bytes`] are sent as they are; smaller ones are
//!   copied behind each other, so that many answers leave as one piece.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// From this size on bytes are not copied in user space: below it a copy costs less than a piece of its
/// own in `writev`.
pub const SMALL: usize = 4 << 10;

/// Size of a fresh send buffer.
const SEND_CHUNK: usize = 8 << 10;

/// Bytes on their way out: small ones share one growing piece, large ones are pieces of their own.
#[derive(Debug, Default)]
pub struct SendBuf {
    /// Pieces that are complete, in order.
    pieces: VecDeque<Bytes>,
    /// The piece that still grows; follows `pieces`.
    tail: BytesMut,
}

impl SendBuf {
    /// Nothing to send; allocates nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `len` zero bytes and hands them out to be overwritten.
    #[inline]
    pub fn space(&mut self, len: usize) -> &mut [u8] {
        let start = self.reserve(len);
        self.tail.resize(start + len, 0);
        &mut self.tail[start..]
    }

    /// Appends a copy of `bytes`.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.tail.extend_from_slice(bytes);
    }

    /// Appends `bytes`: as they are from [`SMALL`] on, else as a copy.
    pub fn push(&mut self, bytes: Bytes) {
        if bytes.len() < SMALL {
            self.put(&bytes);
        } else {
            self.seal();
            self.pieces.push_back(bytes);
        }
    }

    /// The pieces to write, in order; whoever writes removes them.
    pub fn pieces(&mut self) -> &mut VecDeque<Bytes> {
        self.seal();
        &mut self.pieces
    }

    /// True with nothing to send.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.tail.is_empty()
    }

    /// Bytes to send.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum::<usize>() + self.tail.len()
    }

    /// Gives the memory back if there is nothing to send.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Self::new();
        }
    }

    /// Makes room for `len` bytes in the tail without moving what it holds; the tail's length.
    #[inline]
    fn reserve(&mut self, len: usize) -> usize {
        if self.tail.capacity() - self.tail.len() < len {
            self.seal();
            self.tail.reserve(len.max(SEND_CHUNK));
        }
        self.tail.len()
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_leave_as_one_and_large_ones_as_they_are() {
        let mut buf = SendBuf::new();
        let large = Bytes::from(vec![7; SMALL]);
        buf.put(b"ab");
        buf.space(2).copy_from_slice(b"cd");
        buf.push(Bytes::from_static(b"ef"));
        buf.push(large.clone());
        buf.put(b"gh");
        assert_eq!(buf.len(), 8 + SMALL);
        let pieces: Vec<Bytes> = buf.pieces().iter().cloned().collect();
        assert_eq!(pieces.len(), 3);
        assert_eq!(
            (&pieces[0][..], &pieces[2][..]),
            (&b"abcdef"[..], &b"gh"[..])
        );
        assert_eq!(pieces[1].as_ptr(), large.as_ptr(), "sent without a copy");
    }

    #[test]
    fn a_full_tail_is_sealed_not_moved() {
        let mut buf = SendBuf::new();
        for _ in 0..5 {
            buf.put(&[1; SEND_CHUNK / 2 + 1]);
        }
        assert_eq!(buf.pieces().len(), 5);
    }
}
