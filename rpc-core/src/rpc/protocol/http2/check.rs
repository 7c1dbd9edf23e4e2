//! Whether a block of fields is one that HTTP/2 allows (RFC 9113 §8.2, §8.3).
//!
//! Knows: pseudo-fields, forbidden fields, sizes.   Does not know: what a call is.

/// Takes the fields of a block, one after the other.
pub trait Fields {
    /// A new block begins.
    fn clear(&mut self);
    /// The next field. Names are lower-case; values hold no line breaks and no zero byte.
    fn field(&mut self, name: &[u8], value: &[u8]);
}

/// What kind of block it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Block {
    Request,
    Response,
    Trailers,
}

/// Looks at each field on its way.
pub struct Check {
    block: Block,
    /// Bytes left of the limit, by RFC 9113's count (32 more for each field).
    left: usize,
    /// A field that is no pseudo-field was seen.
    regular: bool,
    /// Pseudo-fields seen, a bit each.
    pseudo: u8,
    /// The list is above the limit; fields are no longer passed on.
    pub too_large: bool,
    pub malformed: bool,
    /// `:status` is 1xx.
    pub interim: bool,
    /// `content-length`.
    pub length: Option<u64>,
}

const METHOD: u8 = 1;
const PATH: u8 = 2;
const SCHEME: u8 = 4;
const AUTHORITY: u8 = 8;
const STATUS: u8 = 16;

impl Check {
    pub fn new(block: Block, max: usize) -> Self {
        Self {
            block,
            left: max,
            regular: false,
            pseudo: 0,
            too_large: false,
            malformed: false,
            interim: false,
            length: None,
        }
    }

    pub fn take(&mut self, name: &[u8], value: &[u8], fields: &mut dyn Fields) {
        let size = name.len() + value.len() + super::hpack::ENTRY_OVERHEAD;
        if self.too_large || size > self.left {
            self.too_large = true;
            return;
        }
        self.left -= size;
        let fine = match name.first() {
            Some(b':') => self.pseudo(name, value),
            Some(_) => self.regular(name, value),
            None => false,
        };
        let clean = !value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'));
        if fine && clean {
            fields.field(name, value);
        } else {
            self.malformed = true;
        }
    }

    /// To be asked after the last field.
    pub fn is_malformed(&self) -> bool {
        let needed = match self.block {
            Block::Request => METHOD | PATH | SCHEME,
            Block::Response => STATUS,
            Block::Trailers => 0,
        };
        self.malformed || self.pseudo & needed != needed && !self.too_large
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> bool {
        let (bit, block) = match name {
            b":method" => (METHOD, Block::Request),
            b":path" => (PATH, Block::Request),
            b":scheme" => (SCHEME, Block::Request),
            b":authority" => (AUTHORITY, Block::Request),
            b":status" => (STATUS, Block::Response),
            _ => return false,
        };
        let first = self.pseudo & bit == 0;
        self.pseudo |= bit;
        self.interim |= bit == STATUS && value.first() == Some(&b'1');
        first && !self.regular && block == self.block && (bit != PATH || !value.is_empty())
    }

    fn regular(&mut self, name: &[u8], value: &[u8]) -> bool {
        self.regular = true;
        match name {
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => return false,
            b"te" if value != b"trailers" => return false,
            b"content-length" => {
                let length = std::str::from_utf8(value).ok().filter(|text| {
                    !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit())
                });
                let length = length.and_then(|text| text.parse().ok());
                if length.is_none() || self.length.is_some_and(|before| Some(before) != length) {
                    return false;
                }
                self.length = length;
            }
            _ => {}
        }
        name.iter()
            .all(|byte| matches!(byte, 0x21..=0x7e) && !byte.is_ascii_uppercase() && *byte != b':')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(usize);

    impl Fields for Count {
        fn clear(&mut self) {
            self.0 = 0;
        }

        fn field(&mut self, _name: &[u8], _value: &[u8]) {
            self.0 += 1;
        }
    }

    fn check(block: Block, fields: &[(&str, &str)]) -> Check {
        let mut check = Check::new(block, 1000);
        for (name, value) in fields {
            check.take(name.as_bytes(), value.as_bytes(), &mut Count(0));
        }
        check
    }

    const REQUEST: [(&str, &str); 3] = [(":method", "POST"), (":path", "/"), (":scheme", "http")];

    #[test]
    fn what_http2_forbids_is_malformed() {
        let with = |more: &[(&'static str, &'static str)]| [&REQUEST[..], more].concat();
        assert!(!check(Block::Request, &REQUEST).is_malformed());
        assert!(
            !check(Block::Request, &with(&[("te", "trailers"), ("x-y", "A:b")])).is_malformed()
        );
        assert!(!check(Block::Trailers, &[("grpc-status", "0")]).is_malformed());
        assert!(!check(Block::Response, &[(":status", "200")]).is_malformed());
        let bad: [&[(&str, &str)]; 12] = [
            &[("Upper", "x")],
            &[("connection", "close")],
            &[("transfer-encoding", "chunked")],
            &[("te", "gzip")],
            &[("", "x")],
            &[("a b", "x")],
            &[("x", "a\nb")],
            &[(":path", "/again")],
            &[("x", "y"), (":authority", "late")],
            &[(":unknown", "x")],
            &[(":status", "200")],
            &[("content-length", "1"), ("content-length", "2")],
        ];
        for more in bad {
            assert!(
                check(Block::Request, &with(more)).is_malformed(),
                "{more:?}"
            );
        }
        assert!(
            check(Block::Request, &REQUEST[..2]).is_malformed(),
            "no scheme"
        );
        assert!(check(Block::Trailers, &REQUEST[..1]).is_malformed());
        assert!(check(Block::Response, &[]).is_malformed());
        assert!(check(Block::Response, &[(":status", "103")]).interim);
    }

    #[test]
    fn a_list_above_the_limit_is_not_passed_on() {
        let mut count = Count(0);
        let mut check = Check::new(Block::Trailers, 100);
        for _ in 0..1000 {
            check.take(b"name", b"value", &mut count);
        }
        assert!(check.too_large && !check.is_malformed());
        assert_eq!(count.0, 2);
    }
}
