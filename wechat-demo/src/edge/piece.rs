//! Bytes that are given out, wherever they lie here.
//!
//! Knows: one open file.   Does not know: whose it is, where it came from.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;

use super::form::Form;

/// Which bytes of an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Sight {
    /// All of it.
    Whole,
    /// The small picture.
    Small,
}

impl Sight {
    /// What follows the object's name in the name of the file.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Whole => "",
            Self::Small => ".small",
        }
    }
}

/// Bytes that are given out. They can be read though their name is gone.
pub(super) struct Piece {
    pub(super) file: File,
    pub(super) hash: blake3::Hash,
    pub(super) size: u64,
    pub(super) form: Form,
}

impl Piece {
    /// Some of its bytes.
    pub(super) fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(range.start))?;
        let length = (range.end - range.start) as usize;
        let mut bytes = Vec::with_capacity(length);
        file.take(length as u64).read_to_end(&mut bytes)?;
        if bytes.len() < length {
            let text = format!("{} is shorter than its record says", self.hash);
            return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
        }
        Ok(bytes)
    }
}
