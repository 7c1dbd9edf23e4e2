//! The header that a proxy puts before the bytes it passes on: the PROXY protocol, version 2.
//!
//! Knows: the header's bytes.   Does not know: what follows it, whether one is expected.
//!
//! haproxy's `doc/proxy-protocol.txt`. Version 1, the line of text, is not read: a port that expects the
//! header must know its length without searching.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Bad, BadReason};

/// Begins the header; no protocol of ours begins so.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const HEAD: usize = 16;
/// Bytes of addresses and additions together. Balancers send some 100; the format has room for 64 KiB.
const LENGTH_MAX: usize = 4096;

/// The whole length of the header that begins with `start`, as far as that is known: [`HEAD`] until so much
/// is there.
pub fn wanted(start: &[u8]) -> usize {
    match start.get(14..HEAD) {
        Some(length) => HEAD + usize::from(u16::from_be_bytes([length[0], length[1]])),
        None => HEAD,
    }
}

/// [`wanted`], once it is looked at whether this is a header at all.
///
/// # Errors
/// It is not, or it is longer than any that is sent.
pub fn length(start: &[u8]) -> Result<usize, Bad> {
    let common = start.len().min(SIGNATURE.len());
    let length = wanted(start);
    match start[..common] == SIGNATURE[..common] && length <= HEAD + LENGTH_MAX {
        true => Ok(length),
        false => Err(bad()),
    }
}

/// The address of the proxy's caller; `None` if the connection is the proxy's own (a health check) or comes
/// from a socket without one.
///
/// # Errors
/// Another version, an unknown command, a datagram, an address cut short, damaged additions.
pub fn source(header: &[u8]) -> Result<Option<SocketAddr>, Bad> {
    let (head, rest) = header.split_at_checked(HEAD).ok_or_else(bad)?;
    let own = match head[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(bad()),
    };
    let (address, size) = match head[13] {
        _ if own => (None, 0),
        0x00 => (None, 0),
        0x11 => {
            let ip: [u8; 4] = part(rest, 0)?;
            (Some((IpAddr::from(Ipv4Addr::from(ip)), 8)), 12)
        }
        0x21 => {
            let ip: [u8; 16] = part(rest, 0)?;
            (Some((IpAddr::from(Ipv6Addr::from(ip)), 32)), 36)
        }
        0x31 => (None, 216),
        _ => return Err(bad()),
    };
    let additions = rest.get(size..).ok_or_else(bad)?;
    // Without an address nothing is known of what follows.
    if size != 0 {
        check_additions(header, additions)?;
    }
    let Some((ip, at)) = address else {
        return Ok(None);
    };
    let port = u16::from_be_bytes(part(rest, at)?);
    Ok(Some(SocketAddr::new(ip, port)))
}

/// Type, length, value, one behind the other. One of them may guard the whole by a checksum.
fn check_additions(header: &[u8], mut left: &[u8]) -> Result<(), Bad> {
    while !left.is_empty() {
        let [kind, high, low] = part(left, 0)?;
        let size = usize::from(u16::from_be_bytes([high, low]));
        let value = left.get(3..3 + size).ok_or_else(bad)?;
        if kind == CHECKSUM {
            let at = header.len() - left.len() + 3;
            let sum = u32::from_be_bytes(part(value, 0)?);
            let found = crc32c::crc32c(&header[..at]);
            let found = crc32c::crc32c_append(found, &[0; 4]);
            let found = crc32c::crc32c_append(found, &header[at + 4..]);
            if size != 4 || sum != found {
                return Err(bad());
            }
        }
        left = &left[3 + size..];
    }
    Ok(())
}

/// `PP2_TYPE_CRC32C`: over the header, with its own value taken as zero.
const CHECKSUM: u8 = 3;

fn part<const N: usize>(from: &[u8], at: usize) -> Result<[u8; N], Bad> {
    let part = from.get(at..at + N).ok_or_else(bad)?;
    Ok(part.try_into().expect("the slice has this length"))
}

fn bad() -> Bad {
    Bad::counted(BadReason::ProxyHeader)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0, 80];

    #[test]
    fn the_callers_address_is_read() {
        let v4 = header(0x21, 0x11, &V4);
        assert_eq!(length(&v4), Ok(28));
        assert_eq!(source(&v4), Ok(Some("192.0.2.1:4660".parse().unwrap())));
        let mut v6 = [0; 36];
        (v6[15], v6[33]) = (1, 7);
        let v6 = source(&header(0x21, 0x21, &v6));
        assert_eq!(v6, Ok(Some("[::1]:7".parse().unwrap())));
        // A health check of the proxy's own, an unknown family, a Unix socket.
        for (command, family, size) in [
            (0x20, 0x11, 0),
            (0x20, 0, 5),
            (0x21, 0, 9),
            (0x21, 0x31, 216),
        ] {
            let header = header(command, family, &vec![0; size]);
            assert_eq!(source(&header), Ok(None), "{command:x} {family:x}");
        }
    }

    #[test]
    fn a_header_cut_anywhere_asks_for_more_and_never_for_too_much() {
        let whole = header(0x21, 0x11, &V4);
        for cut in 0..whole.len() {
            let want = length(&whole[..cut]).unwrap();
            assert_eq!(want, if cut < HEAD { HEAD } else { whole.len() });
        }
    }

    #[test]
    fn malformed_headers_are_refused_and_counted() {
        let before = BadReason::ProxyHeader.counted();
        let mut torn = header(0x21, 0x11, &V4);
        torn[3] = b'x';
        assert!(length(&torn).is_err());
        assert!(length(b"GET / HTTP/1.1").is_err());
        assert!(length(&header(0x21, 0x11, &[0; LENGTH_MAX + 1])).is_err());
        for wrong in [
            header(0x11, 0x11, &V4),
            header(0x22, 0x11, &V4),
            header(0x21, 0x12, &V4),
            header(0x21, 0x41, &V4),
            header(0x21, 0x11, &V4[..11]),
            header(0x21, 0x21, &V4),
            header(0x21, 0x11, &[&V4[..], &[4, 0]].concat()),
            header(0x21, 0x11, &[&V4[..], &[4, 0, 9, 1]].concat()),
            header(
                0x21,
                0x11,
                &[&V4[..], &[CHECKSUM, 0, 4, 1, 2, 3, 4]].concat(),
            ),
            header(0x21, 0x11, &[&V4[..], &[CHECKSUM, 0, 1, 1]].concat()),
        ] {
            assert!(source(&wrong).is_err(), "{wrong:x?}");
        }
        assert!(BadReason::ProxyHeader.counted() >= before + 13);
    }

    #[test]
    fn a_checksum_is_checked() {
        let mut guarded = header(
            0x21,
            0x11,
            &[&V4[..], &[4, 0, 1, 9, CHECKSUM, 0, 4, 0, 0, 0, 0]].concat(),
        );
        let sum = crc32c::crc32c(&guarded).to_be_bytes();
        let end = guarded.len();
        guarded[end - 4..].copy_from_slice(&sum);
        assert!(source(&guarded).unwrap().is_some());
        guarded[17] ^= 1;
        assert!(source(&guarded).is_err());
    }
}
