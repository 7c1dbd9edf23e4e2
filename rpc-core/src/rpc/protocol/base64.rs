//! Bytes where a protocol carries text alone: values under `…-bin` keys travel as base64 without padding,
//! as gRPC does it (PROTOCOL-HTTP2.md, "Binary-Header").

use std::borrow::Cow;

use crate::rpc::metadata::MetadataMap;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The value as the wire carries it: base64 if the key says that it is bytes.
pub fn encode_if_binary<'a>(key: &str, value: &'a [u8]) -> Cow<'a, [u8]> {
    if !MetadataMap::is_binary_key(key) {
        return Cow::Borrowed(value);
    }
    let mut out = Vec::with_capacity(value.len().div_ceil(3) * 4);
    for group in value.chunks(3) {
        let mut word = 0;
        for index in 0..3 {
            word = word << 8 | u32::from(group.get(index).copied().unwrap_or(0));
        }
        for index in 0..=group.len() {
            out.push(ALPHABET[(word >> (18 - 6 * index)) as usize & 63]);
        }
    }
    Cow::Owned(out)
}

/// The value as it was; `None` if the key is no `…-bin` key or the value no base64.
pub fn decode_if_binary(key: &str, value: &[u8]) -> Option<Vec<u8>> {
    if !MetadataMap::is_binary_key(key) {
        return None;
    }
    let digits = value.strip_suffix(b"==").or(value.strip_suffix(b"="));
    let digits = digits.unwrap_or(value);
    let mut out = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let mut word = 0;
        for digit in group {
            let value = ALPHABET.iter().position(|letter| letter == digit)?;
            word = word << 6 | value as u32;
        }
        match group.len() {
            4 => out.extend_from_slice(&word.to_be_bytes()[1..]),
            3 => out.extend_from_slice(&(word >> 2).to_be_bytes()[2..]),
            2 => out.push((word >> 4) as u8),
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_under_bin_keys_travel_as_base64() {
        for length in 0..20 {
            let value: Vec<u8> = (0..length).map(|i: u8| i.wrapping_mul(37) ^ 0xa5).collect();
            let text = encode_if_binary("k-bin", &value);
            assert!(text.is_ascii() && !text.contains(&b'='));
            let mut padded = text.to_vec();
            padded.resize(text.len().div_ceil(4) * 4, b'=');
            for wire in [&text[..], &padded] {
                assert_eq!(decode_if_binary("k-bin", wire), Some(value.clone()));
            }
        }
        assert_eq!(decode_if_binary("k-bin", b"!"), None);
        assert_eq!(encode_if_binary("k", b"plain")[..], b"plain"[..]);
    }
}
