//! Blocks to fields.
//!
//! Knows: the table that the peer's encoder fills.   Does not know: what a field means.

use std::collections::VecDeque;

use super::{Damaged, ENTRY_OVERHEAD, STATIC, TABLE_SIZE, huffman, take_integer};

/// Decodes the blocks of one direction of a connection.
#[derive(Debug, Default)]
pub struct Decoder {
    table: Table,
    /// A literal field's name and value; empty between blocks.
    scratch: Vec<u8>,
}

/// The dynamic table. The bytes of all entries are in one vector, so that an entry costs no allocation.
#[derive(Debug)]
struct Table {
    /// Names and values, oldest first; those of dropped entries may still precede them.
    bytes: Vec<u8>,
    /// Oldest first.
    entries: VecDeque<Entry>,
    /// Sum of the entries by RFC 7541's count; at most `max`.
    size: usize,
    /// Set by the peer's encoder; at most [`TABLE_SIZE`].
    max: usize,
}

#[derive(Debug)]
struct Entry {
    /// Where in [`Table::bytes`] the name begins; the value follows it.
    start: u32,
    name: u16,
    value: u16,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            entries: VecDeque::new(),
            size: 0,
            max: TABLE_SIZE,
        }
    }
}

impl Entry {
    fn size(&self) -> usize {
        usize::from(self.name) + usize::from(self.value) + ENTRY_OVERHEAD
    }
}

impl Table {
    /// The entry with HPACK's index `index`, 1 being the first of the static table.
    fn get(&self, index: usize) -> Result<(&[u8], &[u8]), Damaged> {
        if let Some(fixed) = index.checked_sub(1).and_then(|i| STATIC.get(i)) {
            return Ok(*fixed);
        }
        let newest = self.entries.len().checked_sub(1).ok_or(Damaged::Index)?;
        let age = index.checked_sub(STATIC.len() + 1).ok_or(Damaged::Index)?;
        let place = newest.checked_sub(age).ok_or(Damaged::Index)?;
        let entry = &self.entries[place];
        let from = &self.bytes[entry.start as usize..];
        let (name, rest) = from.split_at(entry.name.into());
        Ok((name, &rest[..entry.value.into()]))
    }

    /// Adds a field whose name is the first `name` bytes of `field`. One larger than the table empties it.
    fn insert(&mut self, field: &[u8], name: usize) {
        let size = field.len() + ENTRY_OVERHEAD;
        self.shrink(self.max.saturating_sub(size));
        if size > self.max {
            return;
        }
        if self.bytes.len() + field.len() > 2 * TABLE_SIZE {
            self.drop_dead_bytes();
        }
        self.entries.push_back(Entry {
            start: self.bytes.len() as u32,
            name: name as u16,
            value: (field.len() - name) as u16,
        });
        self.bytes.extend_from_slice(field);
        self.size += size;
    }

    /// Drops the oldest entries until at most `target` is held.
    fn shrink(&mut self, target: usize) {
        while self.size > target {
            let Some(oldest) = self.entries.pop_front() else {
                debug_assert!(false, "an empty table has no size");
                return;
            };
            self.size -= oldest.size();
        }
        if self.entries.is_empty() {
            self.bytes.clear();
        }
    }

    fn drop_dead_bytes(&mut self) {
        let dead = self.entries.front().map_or(0, |entry| entry.start);
        self.bytes.drain(..dead as usize);
        for entry in &mut self.entries {
            entry.start -= dead;
        }
    }
}

impl Decoder {
    /// Decodes one whole block; `field` is given each name and value, in order.
    ///
    /// # Errors
    /// The block is damaged, and with it the connection.
    pub fn decode(
        &mut self,
        mut block: &[u8],
        field: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), Damaged> {
        let mut first = true;
        while let Some(byte) = block.first() {
            match byte {
                0x80.. => {
                    let index = take_integer(&mut block, 7)?;
                    let (name, value) = self.table.get(index)?;
                    field(name, value);
                }
                0x40.. => {
                    let name = self.literal(&mut block, 6)?;
                    self.table.insert(&self.scratch, name);
                    let (name, value) = self.scratch.split_at(name);
                    field(name, value);
                }
                0x20.. => {
                    let size = take_integer(&mut block, 5)?;
                    if !first || size > TABLE_SIZE {
                        return Err(Damaged::TableSize);
                    }
                    self.table.max = size;
                    self.table.shrink(size);
                    continue; // another one may follow
                }
                _ => {
                    let name = self.literal(&mut block, 4)?;
                    let (name, value) = self.scratch.split_at(name);
                    field(name, value);
                }
            }
            first = false;
        }
        self.scratch.clear();
        Ok(())
    }

    /// Takes a literal field into `scratch`; the length of its name.
    fn literal(&mut self, block: &mut &[u8], prefix: u32) -> Result<usize, Damaged> {
        self.scratch.clear();
        match take_integer(block, prefix)? {
            0 => take_string(block, &mut self.scratch)?,
            index => self.scratch.extend_from_slice(self.table.get(index)?.0),
        }
        let name = self.scratch.len();
        take_string(block, &mut self.scratch)?;
        Ok(name)
    }

    /// Gives back memory beyond what the table's entries take.
    pub fn release(&mut self) {
        self.scratch = Vec::new();
        self.table.drop_dead_bytes();
        self.table.bytes.shrink_to_fit();
        self.table.entries.shrink_to_fit();
    }

    /// Bytes of heap held.
    #[cfg(test)]
    pub fn footprint(&self) -> usize {
        self.scratch.capacity()
            + self.table.bytes.capacity()
            + self.table.entries.capacity() * size_of::<Entry>()
    }

    /// What the dynamic table holds by RFC 7541's count, and how many entries.
    #[cfg(test)]
    pub fn table(&self) -> (usize, usize) {
        (self.table.size, self.table.entries.len())
    }
}

/// Takes a string off the front of `block` and appends it to `out`.
fn take_string(block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Damaged> {
    let huffman = block.first().ok_or(Damaged::Truncated)? & 0x80 != 0;
    let length = take_integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Damaged::Truncated)?;
    *block = rest;
    if huffman {
        return huffman::decode(text, out);
    }
    out.extend_from_slice(text);
    Ok(())
}
