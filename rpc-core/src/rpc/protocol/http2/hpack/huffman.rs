//! The Huffman code of HPACK (RFC 7541, appendix B).
//!
//! Knows: lengths of codes.   Does not know: fields.
//!
//! The code is canonical: among codes of one length, symbols are in order, and a longer code follows the
//! shorter ones. So the lengths alone make the table.

use super::Damaged;

/// Bits of each byte's code.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// Bits of the longest code; the end-of-string symbol has the last of that length.
const LONGEST: usize = 30;
/// Bits that the first look at the input takes.
const PEEK: u32 = 8;

/// Everything that follows from the lengths.
struct Table {
    /// Each byte's code, in its low bits.
    codes: [u32; 256],
    /// Bytes by code.
    sorted: [u8; 256],
    /// For each length: its first code, the place of that in `sorted`, how many there are.
    first: [(u32, u16, u16); LONGEST + 1],
    /// What codes of at most [`PEEK`] bits the next bits begin with: byte and length; length 0 = longer.
    short: [(u8, u8); 1 << PEEK],
}

static TABLE: Table = Table::new();

impl Table {
    const fn new() -> Self {
        let mut table = Self {
            codes: [0; 256],
            sorted: [0; 256],
            first: [(0, 0, 0); LONGEST + 1],
            short: [(0, 0); 1 << PEEK],
        };
        let (mut code, mut place, mut length) = (0_u32, 0, 1);
        while length <= LONGEST {
            code <<= 1;
            table.first[length].0 = code;
            table.first[length].1 = place as u16;
            let mut byte = 0;
            while byte < 256 {
                if LENGTHS[byte] as usize == length {
                    table.codes[byte] = code;
                    table.sorted[place] = byte as u8;
                    if length <= PEEK as usize {
                        let free = PEEK as usize - length;
                        let mut rest = 0;
                        while rest < 1 << free {
                            table.short[((code as usize) << free) + rest] =
                                (byte as u8, length as u8);
                            rest += 1;
                        }
                    }
                    table.first[length].2 += 1;
                    place += 1;
                    code += 1;
                }
                byte += 1;
            }
            length += 1;
        }
        table
    }
}

/// Bytes that `text` takes when encoded.
pub fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text
        .iter()
        .map(|byte| usize::from(LENGTHS[usize::from(*byte)]))
        .sum();
    bits.div_ceil(8)
}

/// Appends `text` encoded.
pub fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut held) = (0_u64, 0);
    for byte in text {
        let length = u32::from(LENGTHS[usize::from(*byte)]);
        bits = bits << length | u64::from(TABLE.codes[usize::from(*byte)]);
        held += length;
        while held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    if held > 0 {
        // The rest is filled with the beginning of the end-of-string symbol: ones.
        out.push((bits << (8 - held)) as u8 | 0xff >> held);
    }
}

/// Appends what `wire` encodes.
///
/// # Errors
/// The end-of-string symbol, or an end that is no padding of at most seven ones.
pub fn decode(wire: &[u8], out: &mut Vec<u8>) -> Result<(), Damaged> {
    let (mut bits, mut held) = (0_u64, 0_u32);
    let mut rest = wire.iter();
    loop {
        while held <= 56 {
            let Some(byte) = rest.next() else { break };
            bits = bits << 8 | u64::from(*byte);
            held += 8;
        }
        if held == 0 {
            return Ok(());
        }
        // The next bits, with ones where the input has ended.
        let next = |count: u32| -> u32 {
            let value = if held >= count {
                bits >> (held - count)
            } else {
                (bits << (count - held)) | ((1 << (count - held)) - 1)
            };
            (value & ((1 << count) - 1)) as u32
        };
        let (byte, length) = TABLE.short[next(PEEK) as usize];
        let (byte, length) = if length > 0 {
            (byte, u32::from(length))
        } else {
            match long_code(next) {
                Some(found) => found,
                // Ones to the end are padding; the same with more bits is the end-of-string symbol.
                None if held < 8 && next(held) == (1 << held) - 1 => return Ok(()),
                None => return Err(Damaged::Huffman),
            }
        };
        if length > held {
            let padding = held < 8 && next(held) == (1 << held) - 1;
            return if padding {
                Ok(())
            } else {
                Err(Damaged::Huffman)
            };
        }
        out.push(byte);
        held -= length;
    }
}

/// A code longer than [`PEEK`]; `None` for the end-of-string symbol.
fn long_code(next: impl Fn(u32) -> u32) -> Option<(u8, u32)> {
    for (length, (first, place, count)) in TABLE.first.iter().enumerate().skip(PEEK as usize + 1) {
        let offset = next(length as u32).wrapping_sub(*first);
        if offset < u32::from(*count) {
            let byte = TABLE.sorted[usize::from(*place) + offset as usize];
            return Some((byte, length as u32));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_end_of_string_symbol_and_long_padding_are_refused() {
        let mut out = Vec::new();
        assert!(
            decode(&[0xff; 4], &mut out).is_err(),
            "30 ones and two more"
        );
        assert!(
            decode(&[0xff], &mut out).is_err(),
            "eight ones are no padding"
        );
        assert!(
            decode(&[0x1f, 0xff], &mut out).is_err(),
            "a and eleven ones"
        );
        assert!(decode(&[0x18], &mut out).is_err(), "padding of zeros");
        out.clear();
        assert!(decode(&[0x1f], &mut out).is_ok());
        assert_eq!(out, b"a");
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut wire = Vec::new();
            encode(&text, &mut wire);
            prop_assert_eq!(wire.len(), encoded_len(&text));
            let mut back = Vec::new();
            prop_assert!(decode(&wire, &mut back).is_ok());
            prop_assert_eq!(back, text);
        }

        #[test]
        fn no_input_breaks_the_decoder(wire in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut text = Vec::new();
            if decode(&wire, &mut text).is_ok() {
                let mut again = Vec::new();
                encode(&text, &mut again);
                prop_assert_eq!(again, wire, "each text has one encoding");
            }
        }
    }
}
