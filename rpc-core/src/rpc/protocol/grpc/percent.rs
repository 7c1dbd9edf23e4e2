//! `grpc-message`: UTF-8 text in the printable part of ASCII (PROTOCOL-HTTP2.md, "Percent-Encoded").

use std::borrow::Cow;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// `text` with everything but printable ASCII, and `%` itself, as `%XX`.
pub fn encode(text: &str) -> Cow<'_, [u8]> {
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'%';
    if text.bytes().all(plain) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut out = Vec::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if plain(byte) {
            out.push(byte);
        } else {
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            out.extend_from_slice(&[b'%', digits[0], digits[1]]);
        }
    }
    Cow::Owned(out)
}

/// The text that was meant. What is no escape stays as it is, what is no UTF-8 is replaced: a broken
/// message must not hide the status.
pub fn decode(wire: &[u8]) -> String {
    let digit = |at: usize| wire.get(at).and_then(|digit| (*digit as char).to_digit(16));
    let mut out = Vec::with_capacity(wire.len());
    let mut at = 0;
    while let Some(byte) = wire.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_back_from_printable_ascii() {
        let special = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";
        for text in ["", "plain text", "100 %", "%41", special] {
            let wire = encode(text);
            assert!(wire.iter().all(|byte| matches!(byte, b' '..=b'~')));
            assert_eq!(decode(&wire), text);
        }
        assert_eq!(encode("a%b")[..], b"a%25b"[..]);
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        assert_eq!(decode(b"50% or %zz or %4"), "50% or %zz or %4");
        assert_eq!(decode(b"%ff"), "\u{fffd}");
    }
}
