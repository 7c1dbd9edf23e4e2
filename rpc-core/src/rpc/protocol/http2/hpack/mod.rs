//! Header compression for HTTP/2 (RFC 7541).
//!
//! Knows: the static table, integers, strings, the dynamic tables of both directions.
//! Does not know: frames, what a field means.
//!
//! Invariants
//! - HP-1  Decoder and encoder see every block of their direction, in order: a block that is not wanted is
//!   decoded all the same, or the connection ends.
//! - HP-2  What a peer can make us hold is [`TABLE_SIZE`] bytes each way.
//!
//! Read first: [`decode`], then `encode.rs`.

pub mod decode;
pub mod encode;
mod huffman;
#[cfg(test)]
mod tests;

/// Bytes of a dynamic table, by RFC 7541's count; the default of SETTINGS_HEADER_TABLE_SIZE, and ours.
pub const TABLE_SIZE: usize = 4096;

/// What a table counts for an entry beside its bytes (RFC 7541 §4.1).
pub const ENTRY_OVERHEAD: usize = 32;

/// Why a block cannot be decoded: the connection's compression state is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damaged {
    /// It ends within a field.
    Truncated,
    /// An integer above every use.
    Integer,
    /// An index beyond both tables.
    Index,
    /// A table size above what we allow, or not at the start of a block.
    TableSize,
    /// No valid Huffman code.
    Huffman,
}

/// Appends an integer: `prefix` bits of the first byte, whose other bits are `flags` (RFC 7541 §5.1).
fn put_integer(value: usize, prefix: u32, flags: u8, out: &mut Vec<u8>) {
    let most = (1 << prefix) - 1;
    if value < most {
        out.push(flags | value as u8);
        return;
    }
    out.push(flags | most as u8);
    let mut rest = value - most;
    while rest >= 128 {
        out.push(rest as u8 | 128);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Takes an integer off the front of `block`, whose first byte has `prefix` bits of it.
fn take_integer(block: &mut &[u8], prefix: u32) -> Result<usize, Damaged> {
    let (first, mut rest) = block.split_first().ok_or(Damaged::Truncated)?;
    let most = (1_usize << prefix) - 1;
    let mut value = usize::from(*first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (byte, after) = rest.split_first().ok_or(Damaged::Truncated)?;
            rest = after;
            value += usize::from(byte & 127) << shift;
            if byte & 128 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                return Err(Damaged::Integer);
            }
        }
    }
    *block = rest;
    Ok(value)
}

/// Entries 1..=61 (RFC 7541, appendix A).
const STATIC: [(&[u8], &[u8]); 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];
