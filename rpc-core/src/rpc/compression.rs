//! Body compression: snappy, gzip, zlib and zstd, with a bound on what comes out.
//!
//! Knows: brpc's compress types.   Does not know: frames, messages.
//!
//! lz4 is known by number and refused by name.

#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use flate2::Compression as Level;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::CompressionLevel;

/// How a body is compressed; brpc's `CompressType`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Snappy's block format, without frames. Only baidu_std has a name for it.
    Snappy,
    /// RFC 1952.
    Gzip,
    /// RFC 1950.
    Zlib,
    /// LZ4. Known, not spoken; brpc has no handler for it either.
    Lz4,
    /// RFC 8878. Only gRPC has a name for it.
    Zstd,
    /// A number brpc does not define.
    Other(i32),
}

impl Compression {
    /// From brpc's number.
    pub const fn from_number(number: i32) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Snappy,
            2 => Self::Gzip,
            3 => Self::Zlib,
            4 => Self::Lz4,
            other => Self::Other(other),
        }
    }

    /// brpc's number; for zstd, which has none, one that brpc does not know.
    pub const fn number(self) -> i32 {
        match self {
            Self::None => 0,
            Self::Snappy => 1,
            Self::Gzip => 2,
            Self::Zlib => 3,
            Self::Lz4 => 4,
            Self::Zstd => -1,
            Self::Other(number) => number,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Snappy => f.write_str("snappy"),
            Self::Gzip => f.write_str("gzip"),
            Self::Zlib => f.write_str("zlib"),
            Self::Lz4 => f.write_str("lz4"),
            Self::Zstd => f.write_str("zstd"),
            Self::Other(number) => write!(f, "compress_type {number}"),
        }
    }
}

/// Says, before each message of a stream is given, whether it is compressed as its call is. What yields the
/// messages holds one handle, the call another; on at first.
#[derive(Clone, Debug)]
pub struct CompressionSwitch(Arc<AtomicBool>);

impl CompressionSwitch {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// From the next message on.
    pub fn set(&self, on: bool) {
        // Relaxed: the handles are used in turn, by the coroutine that sends.
        self.0.store(on, Ordering::Relaxed);
    }

    /// How the next message of a call that is compressed with `kind` is to be sent.
    pub(super) fn choose(switch: Option<&Self>, kind: Compression) -> Compression {
        match switch {
            Some(switch) if !switch.0.load(Ordering::Relaxed) => Compression::None,
            _ => kind,
        }
    }
}

/// Why a body could not be (de)compressed.
#[derive(Debug)]
pub enum CompressionError {
    /// Not spoken here.
    Unsupported(Compression),
    /// Would come out above this many bytes.
    TooLarge(usize),
    /// The bytes are not what they claim to be.
    Damaged(Compression, io::Error),
}

impl fmt::Display for CompressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported(kind) => {
                write!(
                    f,
                    "{kind} bodies are not spoken here: send snappy, gzip, zlib or none"
                )
            }
            Self::TooLarge(max) => write!(f, "the body decompresses to more than {max} bytes"),
            Self::Damaged(kind, error) => write!(f, "the body is no valid {kind}: {error}"),
        }
    }
}

impl std::error::Error for CompressionError {}

/// Compresses a body for the wire.
///
/// # Errors
/// `kind` is not spoken here.
pub fn compress(kind: Compression, data: &[u8]) -> Result<Bytes, CompressionError> {
    let damaged = |error| CompressionError::Damaged(kind, error);
    let out = Vec::with_capacity(data.len() / 2 + 32);
    let compressed = match kind {
        Compression::None => return Ok(Bytes::copy_from_slice(data)),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(out, Level::fast());
            encoder.write_all(data).map_err(damaged)?;
            encoder.finish().map_err(damaged)?
        }
        Compression::Zlib => {
            let mut encoder = ZlibEncoder::new(out, Level::fast());
            encoder.write_all(data).map_err(damaged)?;
            encoder.finish().map_err(damaged)?
        }
        Compression::Zstd => ruzstd::encoding::compress_to_vec(data, CompressionLevel::Fastest),
        Compression::Snappy => snap::raw::Encoder::new()
            .compress_vec(data)
            .map_err(|error| damaged(io::Error::other(error)))?,
        other => return Err(CompressionError::Unsupported(other)),
    };
    Ok(Bytes::from(compressed))
}

/// Restores a body from the wire, to at most `max` bytes.
///
/// # Errors
/// `kind` is not spoken here, the bytes are damaged, or the result would be above `max`.
pub fn decompress(kind: Compression, data: &Bytes, max: usize) -> Result<Bytes, CompressionError> {
    match kind {
        Compression::None => Ok(data.clone()),
        Compression::Gzip => inflate(kind, MultiGzDecoder::new(&data[..]), max),
        Compression::Zlib => inflate(kind, ZlibDecoder::new(&data[..]), max),
        Compression::Zstd => {
            let decoder = StreamingDecoder::new(&data[..]);
            let decoder = decoder
                .map_err(|error| CompressionError::Damaged(kind, io::Error::other(error)))?;
            inflate(kind, decoder, max)
        }
        Compression::Snappy => unsnap(data, max),
        other => Err(CompressionError::Unsupported(other)),
    }
}

/// A block says first how long it comes out.
fn unsnap(data: &[u8], max: usize) -> Result<Bytes, CompressionError> {
    let damaged = |error| CompressionError::Damaged(Compression::Snappy, io::Error::other(error));
    if snap::raw::decompress_len(data).map_err(damaged)? > max {
        return Err(CompressionError::TooLarge(max));
    }
    let plain = snap::raw::Decoder::new().decompress_vec(data);
    plain.map(Bytes::from).map_err(damaged)
}

fn inflate(kind: Compression, source: impl Read, max: usize) -> Result<Bytes, CompressionError> {
    let mut out = Vec::new();
    // One byte more than allowed tells "exactly max" from "more".
    let bound = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    source
        .take(bound)
        .read_to_end(&mut out)
        .map_err(|error| CompressionError::Damaged(kind, error))?;
    if out.len() > max {
        return Err(CompressionError::TooLarge(max));
    }
    Ok(Bytes::from(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_comes_back() {
        let data = Bytes::from(b"hello hello hello hello ".repeat(100));
        let kinds = [
            Compression::None,
            Compression::Snappy,
            Compression::Gzip,
            Compression::Zlib,
            Compression::Zstd,
        ];
        for kind in kinds {
            let wire = compress(kind, &data).unwrap();
            assert_eq!(decompress(kind, &wire, data.len()).unwrap(), data, "{kind}");
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        for kind in [Compression::Gzip, Compression::Zlib, Compression::Zstd] {
            let wire = compress(kind, &vec![0; 10 << 20]).unwrap();
            assert!(wire.len() < 100_000);
            let error = decompress(kind, &wire, 1 << 20).unwrap_err();
            assert!(matches!(error, CompressionError::TooLarge(_)), "{error}");
        }
    }

    #[test]
    fn a_snappy_block_is_not_believed_about_its_length() {
        let data = b"hello hello hello hello hello ".repeat(50);
        let wire = compress(Compression::Snappy, &data).unwrap();
        let error = decompress(Compression::Snappy, &wire, data.len() - 1).unwrap_err();
        assert!(matches!(error, CompressionError::TooLarge(_)), "{error}");
        // A block that promises 1 MiB and holds three letters.
        let lies = Bytes::from_static(b"\x80\x80\x40\x08abc");
        let error = decompress(Compression::Snappy, &lies, 16 << 20).unwrap_err();
        assert!(matches!(error, CompressionError::Damaged(..)), "{error}");
    }

    #[test]
    fn damage_and_foreign_kinds_are_named() {
        let junk = Bytes::from_static(b"not compressed at all");
        let kinds = [
            Compression::Snappy,
            Compression::Gzip,
            Compression::Zlib,
            Compression::Zstd,
        ];
        for kind in kinds {
            let text = decompress(kind, &junk, 1000).unwrap_err().to_string();
            assert!(text.contains(&kind.to_string()), "{text}");
        }
        for number in [4, 9] {
            let kind = Compression::from_number(number);
            assert_eq!(kind.number(), number);
            let text = decompress(kind, &junk, 1000).unwrap_err().to_string();
            assert!(text.contains("not spoken"), "{text}");
        }
    }
}
