//! What a device shows instead of a password: opaque to it, random, kept only as a hash.
//!
//! ```text
//!   version 1 │ user id 8 │ device id 8 │ secret 32
//! ```
//! The ids say where the hash is kept; they prove nothing.

use bytes::Bytes;

use crate::model::{DeviceId, UserId};

/// A token, and what is kept of it.
pub(super) struct Token {
    /// Whose.
    pub(super) user: UserId,
    /// Of which device.
    pub(super) device: DeviceId,
    /// blake3 of the whole token.
    pub(super) hash: [u8; 32],
}

const VERSION: u8 = 1;
const BYTES: usize = 1 + 8 + 8 + 32;

impl Token {
    /// A new token: what the device gets, and what is kept. `secret` is fresh from the system.
    pub(super) fn make(user: UserId, device: DeviceId, secret: [u8; 32]) -> (Bytes, Self) {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&user.0.to_be_bytes());
        bytes.extend_from_slice(&device.0.to_be_bytes());
        bytes.extend_from_slice(&secret);
        let hash = *blake3::hash(&bytes).as_bytes();
        (bytes.into(), Self { user, device, hash })
    }

    /// Reads what a device shows; `None` for what was never a token.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let [VERSION, ids @ ..] = bytes else {
            return None;
        };
        let (user, rest) = ids.split_first_chunk()?;
        let (device, _) = rest.split_first_chunk()?;
        Some(Self {
            user: UserId(u64::from_be_bytes(*user)),
            device: DeviceId(u64::from_be_bytes(*device)),
            hash: *blake3::hash(bytes).as_bytes(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_made_and_no_bit_may_differ() {
        let (bytes, made) = Token::make(UserId(5), DeviceId(6), [9; 32]);
        let read = Token::read(&bytes).unwrap();
        assert_eq!(
            (read.user, read.device, read.hash),
            (made.user, made.device, made.hash)
        );
        for bit in 0..8 * BYTES {
            let mut other = bytes.to_vec();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(Token::read(&other).is_none_or(|token| token.hash != made.hash));
        }
        assert!(Token::read(&bytes[1..]).is_none());
        assert!(Token::read(b"").is_none());
    }
}
