//! Messages in a stream of bytes: a flag, a length of four bytes, the message.
//!
//! Knows: prefixes, where a long message is put together.   Does not know: what a message means.

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::base::buf::SMALL;
use crate::rpc::protocol::counters;

/// Flag and length.
pub const PREFIX: usize = 5;

/// A message as it came.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub compressed: bool,
    pub data: Bytes,
}

/// The message is longer than allowed: its length.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong(pub usize);

/// Puts messages together. One that lies whole in what came is a slice of it; another is copied, or
/// received, into an allocation of its own.
#[derive(Debug)]
pub enum Assembler {
    /// Some bytes of a prefix.
    Prefix([u8; PREFIX], usize),
    /// A message of `length` bytes.
    Message {
        compressed: bool,
        length: usize,
        buffer: Limit<BytesMut>,
    },
    /// A body without prefixes: everything up to the stream's end.
    Plain(BytesMut),
}

/// An allocation follows what came, not what was announced: at first this much, then twice what is there.
const FIRST: usize = 256 << 10;

impl Default for Assembler {
    fn default() -> Self {
        Self::Prefix([0; PREFIX], 0)
    }
}

/// A message's prefix.
pub fn prefix(compressed: bool, length: usize) -> [u8; PREFIX] {
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [compressed.into(), a, b, c, d]
}

impl Assembler {
    /// Takes bytes off `data` until a message is complete; `None` once `data` is empty.
    pub fn push(&mut self, data: &mut Bytes, max: usize) -> Result<Option<Message>, TooLong> {
        loop {
            match self {
                Self::Plain(body) => {
                    if body.len() + data.len() > max {
                        return Err(TooLong(body.len() + data.len()));
                    }
                    body.extend_from_slice(data);
                    data.clear();
                    return Ok(None);
                }
                Self::Prefix(bytes, have) => {
                    let n = data.len().min(PREFIX - *have);
                    bytes[*have..*have + n].copy_from_slice(&data[..n]);
                    data.advance(n);
                    *have += n;
                    if *have < PREFIX {
                        return Ok(None);
                    }
                    let [flag, a, b, c, d] = *bytes;
                    let length = u32::from_be_bytes([a, b, c, d]) as usize;
                    let compressed = flag & 1 != 0;
                    if length > max {
                        return Err(TooLong(length));
                    }
                    if data.len() >= length {
                        *self = Self::default();
                        let data = data.split_to(length);
                        return Ok(Some(Message { compressed, data }));
                    }
                    if !data.is_empty() && length >= SMALL {
                        counters::COPIED_BODIES.add(1);
                    }
                    *self = Self::Message {
                        compressed,
                        length,
                        buffer: BytesMut::with_capacity(length.min(FIRST)).limit(0),
                    };
                }
                Self::Message { length, buffer, .. } => {
                    let n = data.len().min(*length - buffer.get_ref().len());
                    buffer.get_mut().extend_from_slice(&data[..n]);
                    data.advance(n);
                    return Ok(self.complete());
                }
            }
        }
    }

    /// The message that bytes received into [`Assembler::space`] have completed, if they have.
    pub fn complete(&mut self) -> Option<Message> {
        let Self::Message {
            compressed,
            length,
            buffer,
        } = self
        else {
            return None;
        };
        if buffer.get_ref().len() < *length {
            return None;
        }
        let (compressed, buffer) = (*compressed, std::mem::take(buffer.get_mut()));
        *self = Self::default();
        let data = buffer.freeze();
        Some(Message { compressed, data })
    }

    /// Where the next bytes of the message under way belong, at most `most`.
    pub fn space(&mut self, most: usize) -> Option<&mut dyn BufMut> {
        let Self::Message { length, buffer, .. } = self else {
            return None;
        };
        let held = buffer.get_ref().len();
        let missing = *length - held;
        if buffer.get_ref().capacity() - held < missing.min(SMALL) {
            buffer.get_mut().reserve(missing.min(held.max(FIRST)));
        }
        let room = buffer.get_ref().capacity() - held;
        buffer.set_limit(missing.min(most).min(room));
        Some(buffer)
    }

    /// True in the middle of a message.
    pub fn is_mid_message(&self) -> bool {
        !matches!(self, Self::Prefix(_, 0) | Self::Plain(_))
    }

    /// The body of a request without prefixes, once it is whole.
    pub fn take_plain(&mut self) -> Bytes {
        match self {
            Self::Plain(body) => std::mem::take(body).freeze(),
            _ => Bytes::new(),
        }
    }

    /// Bytes held.
    pub fn held(&self) -> usize {
        match self {
            Self::Prefix(_, have) => *have,
            Self::Message { buffer, .. } => buffer.get_ref().len(),
            Self::Plain(body) => body.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_they_are_cut(
            sizes in proptest::collection::vec(0..3000_usize, 0..8),
            cuts in proptest::collection::vec(1..2000_usize, 1..20),
            direct in any::<bool>(),
        ) {
            let messages: Vec<Vec<u8>> = sizes.iter().enumerate()
                .map(|(i, size)| vec![i as u8; *size]).collect();
            let wire: Vec<u8> = messages.iter()
                .flat_map(|m| [&prefix(m.len() % 2 == 1, m.len())[..], m].concat()).collect();
            let (mut rest, mut found) = (Bytes::from(wire), Vec::new());
            let mut assembler = Assembler::default();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let mut part = rest.split_to((*cut).min(rest.len()));
                if direct && let Some(space) = assembler.space(part.len()) {
                    let n = space.remaining_mut().min(part.len());
                    space.put_slice(&part.split_to(n));
                    found.extend(assembler.complete());
                }
                while !part.is_empty() {
                    found.extend(assembler.push(&mut part, 4000).unwrap());
                }
            }
            prop_assert!(!assembler.is_mid_message());
            let bodies: Vec<Vec<u8>> = found.iter().map(|m| m.data.to_vec()).collect();
            prop_assert_eq!(bodies, messages);
            prop_assert!(found.iter().all(|m| m.compressed == (m.data.len() % 2 == 1)));
        }
    }

    #[test]
    fn a_message_above_the_limit_is_refused_by_its_prefix() {
        let mut data = Bytes::copy_from_slice(&prefix(false, 101));
        assert_eq!(Assembler::default().push(&mut data, 100), Err(TooLong(101)));
    }

    #[test]
    fn memory_follows_what_came_and_not_what_was_announced() {
        let mut assembler = Assembler::default();
        let mut data = Bytes::copy_from_slice(&prefix(false, 64 << 20));
        assert_eq!(assembler.push(&mut data, 64 << 20), Ok(None));
        let space = assembler.space(usize::MAX).unwrap();
        assert!(space.remaining_mut() <= FIRST);
    }
}
