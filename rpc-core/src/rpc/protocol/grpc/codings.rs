//! Names of message compressions (`grpc-encoding`, `grpc-accept-encoding`).

use crate::rpc::compression::Compression;

/// What we take, as `grpc-accept-encoding` says it.
pub const OURS: &str = "gzip,deflate,zstd";

/// The compression of a name; `None` for one not spoken here.
pub fn of_name(name: &[u8]) -> Option<Compression> {
    match name {
        b"identity" | b"" => Some(Compression::None),
        b"gzip" => Some(Compression::Gzip),
        b"deflate" => Some(Compression::Zlib),
        b"zstd" => Some(Compression::Zstd),
        _ => None,
    }
}

/// The name of a compression; `None` for one that gRPC has no name for.
pub const fn name(compression: Compression) -> Option<&'static str> {
    match compression {
        Compression::None => Some("identity"),
        Compression::Gzip => Some("gzip"),
        Compression::Zlib => Some("deflate"),
        Compression::Zstd => Some("zstd"),
        _ => None,
    }
}

/// Compressions a peer takes, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Accepted(u8);

impl Accepted {
    /// From `grpc-accept-encoding`; several fields add up.
    pub fn add(&mut self, list: &[u8]) {
        for name in list.split(|byte| *byte == b',') {
            if let Some(compression) = of_name(name.trim_ascii()) {
                self.allow(compression);
            }
        }
    }

    /// Takes this one: it has used it itself.
    pub fn allow(&mut self, compression: Compression) {
        self.0 |= bit(compression);
    }

    pub fn takes(self, compression: Compression) -> bool {
        compression == Compression::None || self.0 & bit(compression) != 0
    }
}

fn bit(compression: Compression) -> u8 {
    match compression {
        Compression::Gzip => 1,
        Compression::Zlib => 2,
        Compression::Zstd => 4,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_only_sent_what_it_takes() {
        let mut accepted = Accepted::default();
        assert!(!accepted.takes(Compression::Gzip));
        accepted.add(b"identity, br ,deflate");
        assert!(accepted.takes(Compression::Zlib) && !accepted.takes(Compression::Gzip));
        accepted.add(b"gzip");
        assert!(accepted.takes(Compression::Gzip));
        assert!(!accepted.takes(Compression::Snappy));
    }
}
