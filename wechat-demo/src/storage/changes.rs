//! What a log entry says, and what an engine writes: a run of row changes.
//!
//! One record: table (1 byte), key length (varint), key, then 0 for a removal or value length + 1
//! (varint) and the value. It is the disk and wire form of an entry, so it only ever grows new tables.

use std::fmt;

use super::engine::Table;

/// Row changes, encoded as they will lie in the log.
#[derive(Clone, Default)]
pub struct Changes {
    bytes: Vec<u8>,
}

/// One decoded record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change<'a> {
    /// Where the row lies.
    pub table: Table,
    /// The row's key.
    pub key: &'a [u8],
    /// The row's new value; `None` removes it.
    pub value: Option<&'a [u8]>,
}

/// Bytes that are no run of changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("row changes cannot be read from byte {at} on")]
pub struct BadChanges {
    /// Start of the record that could not be read.
    pub at: usize,
}

impl Changes {
    /// Writes a row.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.key(table, key);
        put_varint(&mut self.bytes, value.len() as u64 + 1);
        self.bytes.extend_from_slice(value);
    }

    /// Removes a row; removing what is not there is no error.
    pub fn remove(&mut self, table: Table, key: &[u8]) {
        self.key(table, key);
        self.bytes.push(0);
    }

    /// The encoded records.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives the encoded records away.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Length of the encoded records.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no change.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn key(&mut self, table: Table, key: &[u8]) {
        self.bytes.push(table as u8);
        put_varint(&mut self.bytes, key.len() as u64);
        self.bytes.extend_from_slice(key);
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(read(&self.bytes)).finish()
    }
}

/// Reads encoded records; ends after the first error.
pub fn read(bytes: &[u8]) -> impl Iterator<Item = Result<Change<'_>, BadChanges>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = bytes.len() - rest.len();
        let change = take_change(&mut rest);
        if change.is_none() {
            rest = &[];
        }
        Some(change.ok_or(BadChanges { at }))
    })
}

fn take_change<'a>(rest: &mut &'a [u8]) -> Option<Change<'a>> {
    let table = Table::from_byte(take(rest, 1)?[0])?;
    let key_len = take_varint(rest)?;
    let key = take(rest, key_len)?;
    let value = match take_varint(rest)? {
        0 => None,
        len => Some(take(rest, len - 1)?),
    };
    Some(Change { table, key, value })
}

fn take<'a>(rest: &mut &'a [u8], len: u64) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    *rest = tail;
    Some(head)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read_again(rows in prop::collection::vec(
            (0..5_u8, prop::collection::vec(any::<u8>(), 0..200), prop::option::of(prop::collection::vec(any::<u8>(), 0..300))), 0..20))
        {
            let mut changes = Changes::default();
            for (table, key, value) in &rows {
                let table = Table::from_byte(*table).unwrap();
                match value {
                    Some(value) => changes.put(table, key, value),
                    None => changes.remove(table, key),
                }
            }
            let read: Vec<_> = read(changes.as_bytes()).map(|c| c.unwrap()).map(|c| (c.table as u8, c.key.to_vec(), c.value.map(<[u8]>::to_vec))).collect();
            prop_assert_eq!(read, rows);
        }

        #[test]
        fn any_bytes_end_in_records_or_one_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let read: Vec<_> = read(&bytes).collect();
            prop_assert!(read.iter().rev().skip(1).all(Result::is_ok));
        }
    }
}
