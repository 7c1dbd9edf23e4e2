//! Places, doors and lines as they are written down, and what cannot be.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;

use crate::model::{Prefix, PrefixTable};

/// Places of one relay.
pub const PLACES: usize = 64;
/// Doors of one relay.
pub const DOORS: usize = 256;
/// The longest delay, jitter or stall that a line may have, ms.
pub const LONGEST_MS: u32 = 60_000;
/// In a row or a change: every place.
pub const EVERY: &str = "*";

/// The whole network.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    /// At most [`PLACES`].
    pub places: Vec<Place>,
    /// At most [`DOORS`].
    pub doors: Vec<Door>,
    /// What lines are like; a later row wins.
    #[serde(default)]
    pub lines: Vec<Row>,
}

/// An IDC or a carrier's network.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// As `sh` or `telecom-east`.
    pub name: String,
    /// Who connects from these is here.
    #[serde(default)]
    pub addresses: Vec<Prefix>,
}

/// Where something in a place is reached.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Door {
    /// Where it is.
    pub place: String,
    /// The address to connect to; port 0 = any free one.
    pub listen: SocketAddr,
    /// What is connected to then.
    pub target: SocketAddr,
    /// The one place it is for; without it the peer's address says where the peer is.
    #[serde(default)]
    pub from: Option<String>,
}

/// What some lines are like.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// A place, or [`EVERY`].
    pub from: String,
    /// A place, or [`EVERY`].
    pub to: String,
    /// The way back as well.
    #[serde(default)]
    pub both: bool,
    /// What it does to time.
    pub shape: Shape,
}

/// What a line does to time. Nothing by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shape {
    /// One way.
    pub delay_ms: u32,
    /// Up to so much more, at random.
    pub jitter_ms: u32,
    /// Shared by the line's streams; 0 = unlimited.
    pub kib_per_s: u32,
    /// Time from the end of a stall to the next, on average; 0 = it does not stall by itself.
    pub stall_every_ms: u32,
    /// How long it stalls.
    pub stall_ms: u32,
}

/// Whether bytes pass a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// They do.
    #[default]
    Open,
    /// Everything waits: bytes, ends, resets, new connections.
    Stall,
    /// Streams were reset, new connections are refused.
    Reset,
    /// Streams of then ended at one side and the other was not told; new ones pass.
    HalfOpen,
}

/// A matrix that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum MatrixError {
    /// The file cannot be read, or is no JSON of this shape.
    #[error("the matrix {file}: {why}")]
    File {
        /// Which.
        file: String,
        /// The parser's or the system's words, with the line.
        why: String,
    },
    /// Too much of something.
    #[error("{count} {what}, at most {most} can be; split the network over several relays")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The bound.
        most: usize,
    },
    /// No name, or one that means something else.
    #[error("a place cannot be called `{0}`; give each a name of its own")]
    Name(String),
    /// Two places claim the same addresses.
    #[error("the addresses {0} are those of two places; give each its own")]
    Addresses(Prefix),
    /// A name that no place has.
    #[error("there is no place `{name}`; the places are {known}")]
    Unknown {
        /// What was named.
        name: String,
        /// What could be.
        known: String,
    },
    /// A line that no network has.
    #[error("{from} > {to}: {what} is {value}, at most {LONGEST_MS} can be")]
    Shape {
        /// The line.
        from: String,
        /// The line.
        to: String,
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u32,
    },
}

impl Matrix {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`MatrixError`], with the line where the JSON is wrong.
    pub fn read(file: &Path) -> Result<Self, MatrixError> {
        let wrong = |why: String| MatrixError::File {
            file: file.display().to_string(),
            why,
        };
        let text = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
        let matrix: Self =
            serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        matrix.check()?;
        Ok(matrix)
    }

    /// Two places, `near` and `far`, with lines that add nothing: one door at a free port of 127.0.0.1, for
    /// everybody, to `target`.
    #[must_use]
    pub fn pair(near: &str, far: &str, target: SocketAddr) -> Self {
        let place = |name: &str| Place {
            name: name.to_owned(),
            addresses: Vec::new(),
        };
        Self {
            places: vec![place(near), place(far)],
            doors: vec![Door {
                place: far.to_owned(),
                listen: ([127, 0, 0, 1], 0).into(),
                target,
                from: Some(near.to_owned()),
            }],
            lines: Vec::new(),
        }
    }

    /// Says what cannot be.
    ///
    /// # Errors
    /// The first thing that cannot.
    pub fn check(&self) -> Result<(), MatrixError> {
        for (what, count, most) in [
            ("places", self.places.len(), PLACES),
            ("doors", self.doors.len(), DOORS),
            ("rows of lines", self.lines.len(), PLACES * PLACES),
        ] {
            if count > most {
                return Err(MatrixError::TooMany { what, count, most });
            }
        }
        let mut names = HashSet::new();
        for Place { name, .. } in &self.places {
            if name.is_empty() || name == EVERY || !names.insert(name) {
                return Err(MatrixError::Name(name.clone()));
            }
        }
        self.addresses()?;
        for door in &self.doors {
            self.named(&door.place)?;
            door.from
                .as_deref()
                .map_or(Ok(0), |from| self.named(from))?;
        }
        for row in &self.lines {
            self.between(&row.from, &row.to, row.both)?;
            row.shape.check(&row.from, &row.to)?;
        }
        Ok(())
    }

    /// The index of a place.
    pub(super) fn named(&self, name: &str) -> Result<usize, MatrixError> {
        let found = self.places.iter().position(|place| place.name == name);
        found.ok_or_else(|| MatrixError::Unknown {
            name: name.to_owned(),
            known: self.known(),
        })
    }

    /// Every line from `from` to `to`, as indices of places; with `both` those back as well.
    pub(super) fn between(
        &self,
        from: &str,
        to: &str,
        both: bool,
    ) -> Result<Vec<(usize, usize)>, MatrixError> {
        let range = |name: &str| match name {
            EVERY => Ok(0..self.places.len()),
            _ => self.named(name).map(|index| index..index + 1),
        };
        let (sources, targets) = (range(from)?, range(to)?);
        let there = sources.flat_map(|from| targets.clone().map(move |to| (from, to)));
        let lines: Vec<_> = match both {
            true => there
                .flat_map(|(from, to)| [(from, to), (to, from)])
                .collect(),
            false => there.collect(),
        };
        Ok(lines)
    }

    /// Whose addresses are whose.
    pub(super) fn addresses(&self) -> Result<PrefixTable<usize>, MatrixError> {
        let mut table = PrefixTable::default();
        for (index, place) in self.places.iter().enumerate() {
            for prefix in &place.addresses {
                if table.insert(*prefix, index).is_some() {
                    return Err(MatrixError::Addresses(*prefix));
                }
            }
        }
        Ok(table)
    }

    fn known(&self) -> String {
        let names: Vec<_> = self
            .places
            .iter()
            .map(|place| place.name.as_str())
            .collect();
        names.join(", ")
    }
}

impl Shape {
    /// A plain distance: so much each way.
    #[must_use]
    pub fn delay(ms: u32) -> Self {
        Self {
            delay_ms: ms,
            ..Self::default()
        }
    }

    pub(super) fn check(&self, from: &str, to: &str) -> Result<(), MatrixError> {
        let fields = [
            ("delay_ms", self.delay_ms),
            ("jitter_ms", self.jitter_ms),
            ("stall_ms", self.stall_ms),
        ];
        let long = fields.into_iter().find(|(_, value)| *value > LONGEST_MS);
        long.map_or(Ok(()), |(what, value)| {
            Err(MatrixError::Shape {
                from: from.to_owned(),
                to: to.to_owned(),
                what,
                value,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Matrix, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("matrix.json");
        std::fs::write(&file, text).unwrap();
        Matrix::read(&file).map_err(|error| error.to_string())
    }

    #[test]
    fn the_front_page_shows_a_matrix_that_can_be() {
        let page = include_str!("mod.rs");
        let json = page.split("```json").nth(1).unwrap();
        let json = json.split("```").next().unwrap().replace("//!", "");
        let matrix = parse(&json).unwrap();
        assert_eq!(matrix.places.len(), 3);
        assert_eq!(matrix.doors[1].from.as_deref(), Some("sh"));
        let all = matrix.between("*", "hk", true).unwrap();
        assert_eq!(all.len(), 6, "{all:?}");
        let east = "127.21.0.7".parse().unwrap();
        assert_eq!(matrix.addresses().unwrap().find(east), Some(&2));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let sh = r#"{"name": "sh", "addresses": ["127.1.0.0/16"]}"#;
        for (text, part) in [
            ("{", "line 1"),
            (r#"{"places": [], "doors": [], "linse": []}"#, "linse"),
            (
                &format!(r#"{{"places": [{sh}, {sh}], "doors": []}}"#),
                "`sh`",
            ),
            (
                &format!(
                    r#"{{"places": [{sh}, {{"name": "x", "addresses": ["127.1.0.0/16"]}}], "doors": []}}"#
                ),
                "127.1.0.0/16",
            ),
            (
                &format!(
                    r#"{{"places": [{sh}], "doors": [], "lines": [{{"from": "sh", "to": "hk", "shape": {{}}}}]}}"#
                ),
                "no place `hk`; the places are sh",
            ),
            (
                &format!(
                    r#"{{"places": [{sh}], "doors": [], "lines": [{{"from": "sh", "to": "*", "shape": {{"delay_ms": 60001}}}}]}}"#
                ),
                "delay_ms is 60001",
            ),
            (r#"{"places": [{"name": "*"}], "doors": []}"#, "`*`"),
            (
                r#"{"places": [{"name": "a", "addresses": ["127.1.0.1/16"]}], "doors": []}"#,
                "127.1.0.1/16",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{error} should name {part}");
        }
        let missing = Matrix::read(Path::new("no-such-file"))
            .unwrap_err()
            .to_string();
        assert!(missing.contains("no-such-file"), "{missing}");
    }
}
