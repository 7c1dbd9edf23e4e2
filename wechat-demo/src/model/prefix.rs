//! Prefixes of IP addresses, and tables of them: the longest that holds an address wins.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// All addresses whose first `bits` bits are those of `base`: `127.21.0.0/16`, or one address alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    base: IpAddr,
    /// At most 32, of IPv6 128.
    bits: u8,
}

/// A text that is no prefix.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`{0}` is no prefix; write ADDRESS/BITS with zeros after the bits, for example 127.21.0.0/16"
)]
pub struct PrefixError(String);

impl Prefix {
    /// The prefix of `bits` bits (of an IPv4 address at most 32, of IPv6 128) that holds `address`.
    #[must_use]
    pub fn around(address: IpAddr, bits: u8) -> Self {
        let address = address.to_canonical();
        let bits = bits.min(width(address));
        Self {
            base: masked(address, bits),
            bits,
        }
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let wrong = || PrefixError(text.to_owned());
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| wrong())?;
        let bits = bits.unwrap_or(width(base));
        let prefix = Self { base, bits };
        let whole = bits <= width(base) && masked(base, bits) == base;
        whole.then_some(prefix).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Prefix {
    type Error = PrefixError;

    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// What is known of addresses, by prefix.
#[derive(Clone, Debug)]
pub struct PrefixTable<T> {
    /// By bits, each only where there are such prefixes.
    rows: BTreeMap<u8, HashMap<IpAddr, T>>,
}

impl<T> Default for PrefixTable<T> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
        }
    }
}

impl<T> PrefixTable<T> {
    /// Adds a row; what stood under the same prefix.
    pub fn insert(&mut self, prefix: Prefix, value: T) -> Option<T> {
        let rows = self.rows.entry(prefix.bits).or_default();
        rows.insert(prefix.base, value)
    }

    /// The row of the longest prefix that holds `address`. An IPv4 address inside of an IPv6 one counts as itself.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<&T> {
        let address = address.to_canonical();
        let longest_first = self.rows.iter().rev();
        longest_first
            .filter(|(bits, _)| **bits <= width(address))
            .find_map(|(bits, rows)| rows.get(&masked(address, *bits)))
    }

    /// Rows in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.values().map(HashMap::len).sum()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_wrong_prefix_is_named() {
        for text in [
            "",
            "127.0.0.1/8",
            "127.0.0.0/33",
            "east",
            "::/129",
            "1.2.3.0/x",
        ] {
            let error = text.parse::<Prefix>().unwrap_err().to_string();
            assert!(
                error.contains(text) && error.contains("ADDRESS/BITS"),
                "{error}"
            );
        }
        for text in ["0.0.0.0/0", "127.21.0.0/16", "::/0", "fd00::/8"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        assert_eq!(
            "10.0.0.1".parse::<Prefix>().unwrap().to_string(),
            "10.0.0.1/32"
        );
    }

    #[test]
    fn an_ipv4_address_is_found_under_either_name() {
        let mut table = PrefixTable::default();
        assert!(table.is_empty());
        table.insert("127.0.0.0/8".parse().unwrap(), "v4");
        table.insert("::/0".parse().unwrap(), "v6");
        assert_eq!(table.find("::ffff:127.0.0.1".parse().unwrap()), Some(&"v4"));
        assert_eq!(table.find("fd00::1".parse().unwrap()), Some(&"v6"));
        assert_eq!(table.find("10.0.0.1".parse().unwrap()), None);
        assert_eq!(table.len(), 2);
    }

    proptest! {
        #[test]
        fn the_longest_prefix_wins(
            rows in proptest::collection::vec((0_u32..64, 24_u8..=32), 0..20),
            asked in 0_u32..64,
        ) {
            let prefixes: Vec<Prefix> = rows
                .iter()
                .map(|(base, bits)| Prefix::around(IpAddr::V4((*base).into()), *bits))
                .collect();
            let mut table = PrefixTable::default();
            for (prefix, (_, bits)) in prefixes.iter().zip(&rows) {
                table.insert(*prefix, *bits);
            }
            let asked = IpAddr::V4(asked.into());
            let holds = |prefix: &&Prefix| Prefix::around(asked, prefix.bits) == **prefix;
            let longest = prefixes.iter().filter(holds).map(|prefix| prefix.bits).max();
            prop_assert_eq!(table.find(asked).copied(), longest);
        }
    }
}
