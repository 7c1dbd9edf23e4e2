//! Fields to blocks.
//!
//! Knows: what the peer's table holds.   Does not know: what a field means.
//!
//! A field that every call carries has a [`Handle`]: after its first use it is one byte, found without a
//! look at its text. Other fields go into the table when they are seen a second time within a short
//! while, so that numbers that never come back do not push out what does.

use std::collections::VecDeque;

use super::{ENTRY_OVERHEAD, STATIC, TABLE_SIZE, huffman, put_integer};

/// Encodes the blocks of one direction of a connection.
#[derive(Debug)]
pub struct Encoder {
    /// What the peer's table holds, oldest first.
    entries: VecDeque<Entry>,
    /// Entries ever made; the newest has this number.
    made: u64,
    /// Sum of the entries by RFC 7541's count; at most `max`.
    size: usize,
    /// What the peer allows, and [`TABLE_SIZE`] at most.
    max: usize,
    /// The smallest `max` since the last block, if it changed: the next block begins with it.
    changed: Option<usize>,
    /// Hashes of fields seen lately, by their low bits.
    seen: [u32; SEEN],
}

/// Where a field stands in the table, for one who sends it again and again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handle(u64);

#[derive(Debug)]
struct Entry {
    hash: u32,
    name: u16,
    /// Name and value.
    text: Box<[u8]>,
}

/// Fields remembered as seen once.
const SEEN: usize = 16;

/// Longer fields are not put into the table.
const INDEXED_MAX: usize = 256;

/// Never indexed, here and by whoever passes them on (RFC 7541 §7.1.3): short secrets could be guessed from
/// the size of what is sent.
const SECRETS: [&[u8]; 4] = [
    b"authorization",
    b"cookie",
    b"proxy-authorization",
    b"set-cookie",
];

impl Default for Encoder {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            made: 0,
            size: 0,
            max: TABLE_SIZE,
            changed: None,
            seen: [0; SEEN],
        }
    }
}

impl Encoder {
    /// The peer's decoder allows a table of `size` from now on.
    pub fn set_max(&mut self, size: usize) {
        let size = size.min(TABLE_SIZE);
        if size == self.max {
            return;
        }
        self.max = size;
        self.changed = Some(self.changed.map_or(size, |before| before.min(size)));
        self.shrink(size);
    }

    /// Begins a block: to be called before its first field.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        let Some(smallest) = self.changed.take() else {
            return;
        };
        if smallest < self.max {
            put_integer(smallest, 5, 0x20, out);
        }
        put_integer(self.max, 5, 0x20, out);
    }

    /// Appends a field of the static table whole.
    pub fn fixed(index: usize, out: &mut Vec<u8>) {
        put_integer(index, 7, 0x80, out);
    }

    /// Appends a field that is sent again and again.
    pub fn repeated(&mut self, handle: &mut Handle, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        match self.index(*handle) {
            Some(index) => put_integer(index, 7, 0x80, out),
            None => *handle = self.insert(name, value, out),
        }
    }

    /// Appends a field that may never come back.
    pub fn once(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        put_literal(self.name_index(name), 4, 0, name, value, out);
    }

    /// Appends a field that may come back.
    pub fn field(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        if SECRETS.contains(&name) {
            return put_literal(self.name_index(name), 4, 0x10, name, value, out);
        }
        if name.len() + value.len() > INDEXED_MAX {
            return self.once(name, value, out);
        }
        let hash = hash(name, value);
        let held = self.entries.iter().rposition(|entry| {
            entry.hash == hash
                && entry.text.len() == name.len() + value.len()
                && entry.text.split_at(entry.name.into()) == (name, value)
        });
        if let Some(place) = held {
            let index = STATIC.len() + self.entries.len() - place;
            return put_integer(index, 7, 0x80, out);
        }
        let seen = &mut self.seen[hash as usize % SEEN];
        if std::mem::replace(seen, hash) == hash {
            self.insert(name, value, out);
        } else {
            self.once(name, value, out);
        }
    }

    /// Gives back memory beyond what the table's entries take.
    pub fn release(&mut self) {
        self.entries.shrink_to_fit();
    }

    /// Bytes of heap held.
    #[cfg(test)]
    pub fn footprint(&self) -> usize {
        let texts: usize = self.entries.iter().map(|entry| entry.text.len()).sum();
        texts + self.entries.capacity() * size_of::<Entry>()
    }

    /// Appends a field as a literal and enters it into the table.
    fn insert(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) -> Handle {
        let size = name.len() + value.len() + ENTRY_OVERHEAD;
        if size > self.max {
            self.once(name, value, out);
            return Handle(0);
        }
        put_literal(self.name_index(name), 6, 0x40, name, value, out);
        self.shrink(self.max - size);
        self.entries.push_back(Entry {
            hash: hash(name, value),
            name: name.len() as u16,
            text: [name, value].concat().into(),
        });
        self.size += size;
        self.made += 1;
        Handle(self.made)
    }

    /// HPACK's index of the entry of `handle`, if it is still held.
    fn index(&self, handle: Handle) -> Option<usize> {
        let age = self.made.checked_sub(handle.0).filter(|_| handle.0 > 0)? as usize;
        (age < self.entries.len()).then_some(STATIC.len() + 1 + age)
    }

    /// An index whose entry has this name; 0 = none.
    fn name_index(&self, name: &[u8]) -> usize {
        let fixed = STATIC.iter().position(|(fixed, _)| *fixed == name);
        if let Some(place) = fixed {
            return place + 1;
        }
        let held = self
            .entries
            .iter()
            .rposition(|entry| &entry.text[..entry.name.into()] == name);
        held.map_or(0, |place| STATIC.len() + self.entries.len() - place)
    }

    fn shrink(&mut self, target: usize) {
        while self.size > target {
            let Some(oldest) = self.entries.pop_front() else {
                debug_assert!(false, "an empty table has no size");
                return;
            };
            self.size -= oldest.text.len() + ENTRY_OVERHEAD;
        }
    }
}

/// FNV-1a; a field that collides is compared and merely found unequal.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    let bytes = name.iter().chain(&[0]).chain(value);
    bytes.fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

fn put_literal(index: usize, prefix: u32, flags: u8, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    put_integer(index, prefix, flags, out);
    if index == 0 {
        put_string(name, out);
    }
    put_string(value, out);
}

fn put_string(text: &[u8], out: &mut Vec<u8>) {
    let encoded = huffman::encoded_len(text);
    if encoded < text.len() {
        put_integer(encoded, 7, 0x80, out);
        huffman::encode(text, out);
    } else {
        put_integer(text.len(), 7, 0, out);
        out.extend_from_slice(text);
    }
}
