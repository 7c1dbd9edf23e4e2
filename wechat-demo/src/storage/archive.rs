//! A store as one file: what `export` writes and `import` reads.
//!
//! Knows: pieces of rows, checksums.   Does not know: engines, what rows mean.
//!
//! ```text
//!   "wxstore\n"  version: u32
//!   pieces       length: u32 ≥ 1   sum: u32   rows as changes
//!   end          0: u32            sum: u32   number of rows: u64
//! ```
//! Integers are big-endian. A sum is the crc32c of the sum before (0 at first) and what follows the sum, so a
//! piece that is damaged, missing, or out of its place is found where it is.

use std::io::{self, Read, Write};

use bytes::Bytes;

use super::changes;

/// What an archive begins with.
const MAGIC: &[u8; 8] = b"wxstore\n";
/// Version that is written; it and none other is read.
const VERSION: u32 = 1;
/// Bytes of the longest piece: one row of the longest sort, after as much as a piece is begun with.
const PIECE_MOST: u32 = 16 << 20;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something else.
    #[error("it is no export of a store")]
    NoArchive,
    /// Written by another program than this.
    #[error("it has version {0}, this program reads {VERSION}")]
    Version(u32),
    /// Cut off.
    #[error("it ends in the middle, after {0} whole pieces: it was not copied to its end")]
    Short(u64),
    /// Not what was written.
    #[error("it is damaged in piece {0}: its checksum differs")]
    Damaged(u64),
}

/// Writes an archive.
pub struct Writer<W> {
    to: W,
    sum: u32,
    rows: u64,
}

/// Reads an archive.
pub struct Reader<R> {
    from: R,
    sum: u32,
    rows: u64,
    pieces: u64,
    ended: bool,
}

impl<W: Write> Writer<W> {
    /// Begins an archive.
    pub fn new(mut to: W) -> io::Result<Self> {
        to.write_all(MAGIC)?;
        to.write_all(&VERSION.to_be_bytes())?;
        Ok(Self {
            to,
            sum: 0,
            rows: 0,
        })
    }

    /// Adds a run of changes, whole and not empty.
    pub fn put(&mut self, piece: &[u8]) -> io::Result<()> {
        let len = u32::try_from(piece.len()).ok();
        let len = len.filter(|len| (1..=PIECE_MOST).contains(len));
        let len = len.ok_or_else(|| io::Error::other("a piece of a wrong length"))?;
        self.sum = crc32c::crc32c_append(self.sum, piece);
        self.rows += changes::read(piece).count() as u64;
        self.to.write_all(&len.to_be_bytes())?;
        self.to.write_all(&self.sum.to_be_bytes())?;
        self.to.write_all(piece)
    }

    /// Ends the archive; gives back what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        let rows = self.rows.to_be_bytes();
        let sum = crc32c::crc32c_append(self.sum, &rows);
        self.to.write_all(&0_u32.to_be_bytes())?;
        self.to.write_all(&sum.to_be_bytes())?;
        self.to.write_all(&rows)?;
        self.to.flush()?;
        Ok(self.to)
    }
}

impl<R: Read> Reader<R> {
    /// Begins to read.
    pub fn new(mut from: R) -> Result<Self, ArchiveError> {
        let mut magic = [0; MAGIC.len()];
        match from.read_exact(&mut magic) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            Ok(()) if magic == *MAGIC => {}
            _ => return Err(ArchiveError::NoArchive),
        }
        let mut reader = Self {
            from,
            sum: 0,
            rows: 0,
            pieces: 0,
            ended: false,
        };
        let version = u32::from_be_bytes(reader.take()?);
        if version != VERSION {
            return Err(ArchiveError::Version(version));
        }
        Ok(reader)
    }

    /// The next run of changes; `None` after the last, once the whole archive is known to be good.
    pub fn piece(&mut self) -> Result<Option<Bytes>, ArchiveError> {
        if self.ended {
            return Ok(None);
        }
        let len = u32::from_be_bytes(self.take()?);
        let sum = u32::from_be_bytes(self.take()?);
        if len == 0 {
            let rows: [u8; 8] = self.take()?;
            let whole = sum == crc32c::crc32c_append(self.sum, &rows)
                && u64::from_be_bytes(rows) == self.rows
                && self.from.read(&mut [0])? == 0;
            self.ended = true;
            return if whole { Ok(None) } else { Err(self.damaged()) };
        }
        if len > PIECE_MOST {
            return Err(self.damaged());
        }
        let mut piece = vec![0; len as usize];
        self.fill(&mut piece)?;
        self.sum = crc32c::crc32c_append(self.sum, &piece);
        if self.sum != sum || changes::read(&piece).any(|change| change.is_err()) {
            return Err(self.damaged());
        }
        self.rows += changes::read(&piece).count() as u64;
        self.pieces += 1;
        Ok(Some(piece.into()))
    }

    /// Rows read so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ArchiveError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ArchiveError> {
        self.from
            .read_exact(bytes)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => ArchiveError::Short(self.pieces),
                _ => error.into(),
            })
    }

    fn damaged(&self) -> ArchiveError {
        ArchiveError::Damaged(self.pieces + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{changes::Changes, engine::Table};

    fn pieces() -> Vec<Vec<u8>> {
        let piece = |n: u8| {
            let mut changes = Changes::default();
            changes.put(Table::Rows, &[n], &vec![n; 10 * usize::from(n)]);
            changes.put(Table::Log, &[n], b"");
            changes.into_bytes()
        };
        (1..=3).map(piece).collect()
    }

    fn archive() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        pieces().iter().for_each(|piece| writer.put(piece).unwrap());
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Bytes>, ArchiveError> {
        let mut reader = Reader::new(bytes)?;
        let mut pieces = Vec::new();
        while let Some(piece) = reader.piece()? {
            pieces.push(piece);
        }
        Ok(pieces)
    }

    #[test]
    fn what_was_written_is_read_again() {
        assert_eq!(read(&archive()).unwrap(), pieces());
    }

    /// An archive of version 1, as the first program that knew it wrote it.
    const FIRST: &[u8] = b"wxstore\n\0\0\0\x01\0\0\0\x12\xa0\x8dQ\x8f\x03\x01\x01\x0b\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\0\x01\x01\x01\0\0\0\0;^\x17\x7f\0\0\0\0\0\0\0\x02";

    #[test]
    fn an_archive_of_the_first_version_is_read() {
        assert_eq!(read(FIRST).unwrap(), pieces()[..1]);
        // And is what is written today.
        let mut writer = Writer::new(Vec::new()).unwrap();
        writer.put(&pieces()[0]).unwrap();
        assert_eq!(writer.finish().unwrap(), FIRST);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = archive();
        for byte in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[byte] ^= 1 << bit;
                let error = read(&bad).expect_err("a flipped bit changes something");
                let early = byte < MAGIC.len() + 4;
                let fitting = match error {
                    ArchiveError::NoArchive | ArchiveError::Version(_) => early,
                    // A length that is wrong may lead past the end.
                    ArchiveError::Damaged(_) | ArchiveError::Short(_) => !early,
                    ArchiveError::Io(_) => false,
                };
                assert!(fitting, "byte {byte}: {error}");
            }
        }
    }

    #[test]
    fn an_archive_that_was_cut_or_grew_is_not_taken() {
        let good = archive();
        for end in 0..good.len() {
            let error = read(&good[..end]).expect_err("it is cut");
            assert!(
                matches!(error, ArchiveError::NoArchive | ArchiveError::Short(_)),
                "{error}"
            );
        }
        let grown = [&good[..], b"x"].concat();
        assert!(matches!(read(&grown), Err(ArchiveError::Damaged(4))));
    }
}
