//! A word per descriptor number, and lazily mapped arrays for that and for descriptions.
//!
//! Knows:         descriptor numbers, words, which description a word names.
//! Does not know: what a description holds, waiting, system calls on descriptors.
//!
//! A word is one of: *unknown* (0: nobody asked yet), *plain* (1: never waits, such as a regular
//! file), or the name of one incarnation of a [`Description`](super::description): its generation in
//! the upper half, its place in the lower. Lookup is two loads; nothing here locks or allocates, so it
//! all may run in a signal handler, before `main` and in a child after `fork`.
//!
//! Invariants
//! - T-1  A description lives while a word names it; whoever takes such a word out of the table drops
//!   one share ([`Word::drop_share`]).
//! - T-2  `close` clears a word only if it is still the one seen *before* the call: a number that was
//!   made anew in between keeps its new word.
//! - T-3  Generations never repeat (within 2^32 uses of a place): a word that is still in the table
//!   proves that its description lived ever since the word was read.

#![expect(
    unsafe_code,
    reason = "arrays are mapped straight from the kernel, because hooks must not allocate"
)]

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};

use super::description;
use super::raw::syscall;

/// What is known about one descriptor number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Word(pub(super) u64);

impl Word {
    /// Nobody asked the kernel yet.
    pub(super) const UNKNOWN: Self = Self(0);
    /// Calls on it never wait for an event: regular files, directories, block devices.
    pub(super) const PLAIN: Self = Self(1);

    /// The word that names place `index` in its life number `generation`.
    pub(super) const fn naming(index: u32, generation: u32) -> Self {
        Self(((generation as u64) << 32) | (index as u64 + FIRST_INDEX))
    }

    /// Place and generation of the description it names, if it names one.
    pub(super) const fn named(self) -> Option<(u32, u32)> {
        let low = self.0 & LOW_HALF;
        if low < FIRST_INDEX {
            return None;
        }
        Some(((low - FIRST_INDEX) as u32, (self.0 >> 32) as u32))
    }

    /// Gives back the share a table entry held (T-1).
    fn drop_share(self) {
        if self.named().is_some() {
            description::drop_share(self);
        }
    }
}

/// The word of `fd`; unknown for numbers outside the table.
#[inline]
pub(super) fn word(fd: RawFd) -> Word {
    entry(fd).map_or(Word::UNKNOWN, |e| Word(e.load(Ordering::Acquire)))
}

/// Makes `word` the word of `fd`, which was just created; what stood there is gone.
/// False where the number lies outside the table: the share in `word` is then dropped.
pub(super) fn replace(fd: RawFd, word: Word) -> bool {
    let Some(entry) = entry_or_map(fd, word) else {
        word.drop_share();
        return false;
    };
    Word(entry.swap(word.0, Ordering::AcqRel)).drop_share();
    true
}

/// Forgets `fd`: the next call on it asks the kernel.
#[inline]
pub(super) fn forget(fd: RawFd) {
    if let Some(entry) = entry(fd)
        && entry.load(Ordering::Relaxed) != Word::UNKNOWN.0
    {
        Word(entry.swap(Word::UNKNOWN.0, Ordering::AcqRel)).drop_share();
    }
}

/// Sets the word of an unknown `fd`. The word that stands there in the end.
pub(super) fn install(fd: RawFd, word: Word) -> Word {
    let Some(entry) = entry_or_map(fd, word) else {
        word.drop_share();
        return Word::UNKNOWN;
    };
    match entry.compare_exchange(Word::UNKNOWN.0, word.0, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => word,
        Err(other) => {
            word.drop_share();
            Word(other)
        }
    }
}

/// Clears `fd` if its word still is `seen` (T-2).
pub(super) fn clear(fd: RawFd, seen: Word) {
    if seen == Word::UNKNOWN {
        return;
    }
    if let Some(entry) = entry(fd)
        && entry
            .compare_exchange(seen.0, Word::UNKNOWN.0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    {
        seen.drop_share();
    }
}

/// Forgets every number from `first` to `last`, both included.
pub(super) fn forget_range(first: u32, last: u32) {
    let highest = HIGHEST.load(Ordering::Acquire);
    let Ok(mut fd) = RawFd::try_from(first) else {
        return;
    };
    let last = RawFd::try_from(last).unwrap_or(RawFd::MAX).min(highest);
    while fd <= last {
        forget(fd);
        fd += 1;
    }
}

/// The highest number that ever got a word; -1 before the first.
static HIGHEST: AtomicI32 = AtomicI32::new(-1);

/// Words of all descriptor numbers below 1,048,576, the kernel's default for `nr_open`. Calls on
/// higher numbers are passed to the kernel as they are.
static WORDS: Mapped<AtomicU64, WORDS_PER_CHUNK, WORD_CHUNKS> = Mapped::new();

fn entry(fd: RawFd) -> Option<&'static AtomicU64> {
    WORDS.get(usize::try_from(fd).ok()?)
}

fn entry_or_map(fd: RawFd, word: Word) -> Option<&'static AtomicU64> {
    if word == Word::UNKNOWN {
        return entry(fd);
    }
    let entry = WORDS.get_or_map(usize::try_from(fd).ok()?)?;
    if HIGHEST.load(Ordering::Relaxed) < fd {
        HIGHEST.fetch_max(fd, Ordering::AcqRel);
    }
    Some(entry)
}

/// Types whose all-zero bytes are a valid, empty value.
///
/// # Safety
/// - All-zero memory is a valid value, shared by all threads at once.
pub(super) unsafe trait ZeroIsEmpty: Sync {}
// SAFETY: an atomic zero.
unsafe impl ZeroIsEmpty for AtomicU64 {}

/// An array of `PER * CHUNKS` values, mapped a chunk at a time on first use and never unmapped.
pub(super) struct Mapped<T, const PER: usize, const CHUNKS: usize> {
    /// First value of each chunk; null = not yet mapped.
    chunks: [AtomicPtr<T>; CHUNKS],
}

impl<T: ZeroIsEmpty, const PER: usize, const CHUNKS: usize> Mapped<T, PER, CHUNKS> {
    pub(super) const fn new() -> Self {
        Self {
            chunks: [const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS],
        }
    }

    /// The value at `index`, if its chunk is mapped.
    #[inline]
    pub(super) fn get(&'static self, index: usize) -> Option<&'static T> {
        let chunk = self.chunks.get(index / PER)?.load(Ordering::Acquire);
        if chunk.is_null() {
            return None;
        }
        // SAFETY: a published chunk holds PER values, all-zero or later, and is never unmapped.
        Some(unsafe { &*chunk.add(index % PER) })
    }

    /// The value at `index`; maps its chunk. `None` past the end or when the kernel has no memory.
    pub(super) fn get_or_map(&'static self, index: usize) -> Option<&'static T> {
        if let Some(value) = self.get(index) {
            return Some(value);
        }
        let place = self.chunks.get(index / PER)?;
        let size = size_of::<T>() * PER;
        let fresh = map(size)?.cast::<T>();
        let published = place.compare_exchange(
            std::ptr::null_mut(),
            fresh,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if published.is_err() {
            unmap(fresh.cast(), size);
        }
        self.get(index)
    }
}

/// Fresh zeroed memory straight from the kernel.
pub(super) fn map(size: usize) -> Option<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping at an address the kernel picks touches nobody's memory.
    let address = unsafe { syscall!(libc::SYS_mmap, 0, size, protection, flags, -1_isize, 0) };
    (address > 0).then_some(address as *mut u8)
}

/// Gives memory of [`map`] back.
pub(super) fn unmap(address: *mut u8, size: usize) {
    // SAFETY: callers pass a mapping of `map` that nothing refers to any more.
    unsafe { syscall!(libc::SYS_munmap, address, size) };
}

const WORDS_PER_CHUNK: usize = 4096;
const WORD_CHUNKS: usize = 256;
const LOW_HALF: u64 = 0xffff_ffff;
/// Lower halves below this are the special words.
const FIRST_INDEX: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::description::{Handle, Kind, NONBLOCKING, add_share, create};

    /// Numbers that no test run reaches by opening files.
    const BASE: RawFd = 900_000;

    #[test]
    fn words_name_a_place_and_a_generation() {
        assert_eq!(Word::UNKNOWN.named(), None);
        assert_eq!(Word::PLAIN.named(), None);
        assert_eq!(Word::naming(0, 1).named(), Some((0, 1)));
        let last = Word::naming(u32::MAX - 2, u32::MAX);
        assert_eq!(last.named(), Some((u32::MAX - 2, u32::MAX)));
    }

    #[test]
    fn a_number_made_anew_keeps_its_new_word_when_the_old_close_ends() {
        let old = create(Kind::Tcp, 0).expect("room");
        replace(BASE, old);
        let new = create(Kind::Nowait, 0).expect("room");
        // Another thread was given the number between the close and its book-keeping.
        replace(BASE, new);
        clear(BASE, old);
        assert_eq!(word(BASE), new);
        clear(BASE, new);
        assert_eq!(word(BASE), Word::UNKNOWN);
    }

    #[test]
    fn a_description_lives_as_long_as_one_of_its_numbers() {
        let shared = create(Kind::Stream, NONBLOCKING).expect("room");
        replace(BASE + 1, shared);
        assert!(add_share(shared));
        replace(BASE + 2, shared);
        let first = Handle::known(BASE + 1).expect("known");
        forget(BASE + 1);
        assert!(!first.is_current());
        let second = Handle::known(BASE + 2).expect("known");
        assert!(second.is_current() && second.description.has(NONBLOCKING));
        forget(BASE + 2);
        assert!(!add_share(shared), "nobody can share what is gone");
    }

    #[test]
    fn the_next_life_of_a_place_does_not_answer_to_the_old_word() {
        let old = create(Kind::Tcp, 0).expect("room");
        replace(BASE + 3, old);
        let handle = Handle::known(BASE + 3).expect("known");
        handle.mark_drained(7);
        assert!(handle.is_drained(7) && !handle.is_drained(8));
        forget(BASE + 3);
        // Take places until the old one comes round again.
        let mut taken = Vec::new();
        let again = loop {
            let next = create(Kind::Tcp, 0).expect("room");
            taken.push(next);
            if next.named().map(|n| n.0) == old.named().map(|n| n.0) {
                break next;
            }
            assert!(taken.len() < 10_000, "the freed place is not used again");
        };
        assert_ne!(again, old);
        replace(BASE + 3, again);
        assert!(!handle.is_current());
        assert!(!Handle::known(BASE + 3).expect("known").is_drained(7));
        taken
            .into_iter()
            .filter(|w| *w != again)
            .for_each(Word::drop_share);
        forget(BASE + 3);
    }

    #[test]
    fn a_range_is_forgotten_and_numbers_outside_the_table_stay_unknown() {
        for fd in BASE + 10..BASE + 20 {
            install(fd, Word::PLAIN);
        }
        forget_range((BASE + 12) as u32, (BASE + 15) as u32);
        let known = (BASE + 10..BASE + 20)
            .filter(|fd| word(*fd) == Word::PLAIN)
            .count();
        assert_eq!(known, 6);
        assert_eq!(install(RawFd::MAX, Word::PLAIN), Word::UNKNOWN);
        assert_eq!(word(-1), Word::UNKNOWN);
    }
}
