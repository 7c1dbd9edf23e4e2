//! Which network an address belongs to: a text file, a prefix a line.
//!
//! ```text
//! # prefix       region  carrier
//! 127.21.0.0/16  east    telecom
//! 127.24.0.0/16  -       overseas
//! ```
//! `-` = not known. The longest prefix wins.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, bail, ensure};

use crate::model::{Prefix, PrefixTable};

/// Rows of a table.
pub const ROWS: usize = 4_000_000;
/// Bytes of a name.
const NAME_BYTES: usize = 32;
/// Different networks; what is measured is kept for each.
const NETWORKS: usize = 4_096;

/// A part of the internet from which everything is about as far. Empty names are not known.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Network {
    /// Where.
    pub region: String,
    /// Whose.
    pub carrier: String,
}

/// Networks by prefix; each is kept once.
#[derive(Clone, Debug, Default)]
pub struct NetworkTable {
    rows: PrefixTable<u16>,
    networks: Vec<Network>,
}

impl NetworkTable {
    /// Reads a file.
    ///
    /// # Errors
    /// With the line that cannot be.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let read = File::open(file).map_err(anyhow::Error::from);
        read.and_then(|file| Self::parse(BufReader::new(file)))
            .with_context(|| format!("the prefix table {}", file.display()))
    }

    fn parse(text: impl BufRead) -> anyhow::Result<Self> {
        let mut table = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line?;
            let row = line.split('#').next().unwrap_or_default();
            table
                .take(row)
                .with_context(|| format!("line {}", index + 1))?;
        }
        Ok(table)
    }

    fn take(&mut self, row: &str) -> anyhow::Result<()> {
        let words: Vec<&str> = row.split_whitespace().collect();
        let (prefix, region, carrier) = match words[..] {
            [] => return Ok(()),
            [prefix, region, carrier] => (prefix, region, carrier),
            _ => bail!("write PREFIX REGION CARRIER, `-` for what is not known"),
        };
        ensure!(self.rows.len() < ROWS, "more than {ROWS} rows");
        let prefix: Prefix = prefix.parse()?;
        let name = |word: &str| match word {
            "-" => Ok(String::new()),
            _ if word.len() <= NAME_BYTES => Ok(word.to_owned()),
            _ => bail!("`{word}` is longer than {NAME_BYTES} bytes"),
        };
        let network = Network {
            region: name(region)?,
            carrier: name(carrier)?,
        };
        let known = self.networks.iter().position(|known| *known == network);
        let index = known.unwrap_or(self.networks.len());
        if known.is_none() {
            ensure!(index < NETWORKS, "more than {NETWORKS} different networks");
            self.networks.push(network);
        }
        let double = self.rows.insert(prefix, index as u16);
        ensure!(double.is_none(), "{prefix} is there twice");
        Ok(())
    }

    /// The network of an address; all names empty = not known.
    #[must_use]
    pub fn find(&self, address: std::net::IpAddr) -> Network {
        let index = self.rows.find(address);
        index.map_or_else(Network::default, |index| {
            self.networks[usize::from(*index)].clone()
        })
    }

    /// How many prefixes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether every address is unknown.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NetworkTable, String> {
        NetworkTable::parse(text.as_bytes()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn addresses_have_the_network_of_the_longest_prefix() {
        let table = parse(
            "# prefix region carrier\n127.0.0.0/8 - other\n\n127.21.0.0/16 east telecom # both\n",
        )
        .unwrap();
        let find = |address: &str| table.find(address.parse().unwrap());
        assert_eq!(find("127.21.3.4").region, "east");
        assert_eq!(
            (find("127.1.1.1").region, find("127.1.1.1").carrier),
            (String::new(), "other".to_owned())
        );
        assert_eq!(find("10.0.0.1"), Network::default());
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, part) in [
            ("127.0.0.0/8 east", "line 1: write PREFIX"),
            ("\n127.0.0.1/8 east x", "line 2: `127.0.0.1/8`"),
            (
                "127.0.0.0/8 a b\n127.0.0.0/8 a c",
                "line 2: 127.0.0.0/8 is there twice",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let error = NetworkTable::read(Path::new("no-such-table")).unwrap_err();
        assert!(format!("{error:#}").contains("no-such-table"));
    }
}
