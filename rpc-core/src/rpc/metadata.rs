//! Key-value pairs beside the message: brpc's `user_fields`, HTTP headers, gRPC metadata.
//!
//! Knows: order, text and binary values.   Does not know: how a protocol writes them.
//!
//! Small and ordered: a call carries a handful, so a vector beats a hash table. An empty map holds no
//! allocation.

#![forbid(unsafe_code)]

use std::fmt;

use bytes::Bytes;

/// Metadata of a request, a response or a failure.
///
/// Keys compare without regard to ASCII case. A key that ends in `-bin` carries bytes, as in gRPC;
/// any other carries text. Entries keep their order; a key may occur more than once.
#[derive(Clone, Default, PartialEq)]
pub struct MetadataMap {
    entries: Vec<(Box<str>, Bytes)>,
}

impl MetadataMap {
    /// An empty map; allocates nothing.
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without any entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The first text under `key`; `None` if there is none or it is no UTF-8.
    pub fn get(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.get_bytes(key)?).ok()
    }

    /// The first value under `key` as bytes.
    pub fn get_bytes(&self, key: &str) -> Option<&Bytes> {
        self.entries
            .iter()
            .find(|entry| entry.0.eq_ignore_ascii_case(key))
            .map(|entry| &entry.1)
    }

    /// Every value under `key`, in order.
    pub fn get_all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Bytes> + 'a {
        self.entries
            .iter()
            .filter(move |entry| entry.0.eq_ignore_ascii_case(key))
            .map(|entry| &entry.1)
    }

    /// True if `key` has a value.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get_bytes(key).is_some()
    }

    /// Sets `key` to this one text, in place of whatever it had.
    pub fn insert(&mut self, key: impl AsRef<str>, value: impl Into<String>) {
        self.insert_bytes(key, Bytes::from(value.into()));
    }

    /// Sets `key` to these bytes, in place of whatever it had. Give the key the ending `-bin`.
    pub fn insert_bytes(&mut self, key: impl AsRef<str>, value: impl Into<Bytes>) {
        self.remove(key.as_ref());
        self.append_bytes(key, value);
    }

    /// Adds a text under `key` after those it has.
    pub fn append(&mut self, key: impl AsRef<str>, value: impl Into<String>) {
        self.append_bytes(key, Bytes::from(value.into()));
    }

    /// Adds bytes under `key` after those it has.
    pub fn append_bytes(&mut self, key: impl AsRef<str>, value: impl Into<Bytes>) {
        self.entries.push((key.as_ref().into(), value.into()));
    }

    /// Removes every value under `key`; true if there was one.
    pub fn remove(&mut self, key: &str) -> bool {
        let before = self.entries.len();
        self.entries
            .retain(|entry| !entry.0.eq_ignore_ascii_case(key));
        self.entries.len() != before
    }

    /// Every entry, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.entries.iter().map(|entry| (&*entry.0, &entry.1))
    }

    /// True if values under `key` are bytes rather than text.
    pub fn is_binary_key(key: &str) -> bool {
        key.len() >= 4 && key.as_bytes()[key.len() - 4..].eq_ignore_ascii_case(b"-bin")
    }
}

impl fmt::Debug for MetadataMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: AsRef<str>, V: Into<String>> FromIterator<(K, V)> for MetadataMap {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut map = Self::new();
        for (key, value) in pairs {
            map.append(key, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_compare_without_case_and_keep_their_order() {
        let mut map = MetadataMap::new();
        map.append("Trace", "1");
        map.append("other", "x");
        map.append("trace", "2");
        assert_eq!(map.get("TRACE"), Some("1"));
        let all: Vec<_> = map.get_all("trace").map(|value| &value[..]).collect();
        assert_eq!(all, [b"1", b"2"]);
        map.insert("trace", "3");
        assert_eq!((map.len(), map.get("trace")), (2, Some("3")));
        assert!(map.remove("TRACE") && !map.contains_key("trace"));
    }

    #[test]
    fn bytes_that_are_no_text_are_not_given_as_text() {
        let mut map = MetadataMap::new();
        map.insert_bytes("key-bin", vec![0xff, 0xfe]);
        assert_eq!(map.get("key-bin"), None);
        assert_eq!(map.get_bytes("key-bin").map(Bytes::len), Some(2));
        assert!(MetadataMap::is_binary_key("Key-Bin") && !MetadataMap::is_binary_key("bin"));
    }
}
