//! A program's `iovec` array with a position in it.
//!
//! Knows: where the next byte goes.   Does not know: what the bytes are for.

#![expect(unsafe_code, reason = "reads the program's own iovec array")]

use libc::{iovec, msghdr};

/// Entries not yet done; the program's array is never written to.
#[derive(Clone, Copy)]
pub(super) struct Vector {
    /// First entry not yet finished.
    iov: *const iovec,
    /// Entries from there on.
    count: usize,
    /// Bytes of the first entry that are done.
    offset: usize,
}

impl Vector {
    /// `None` for a count or pointer that only the kernel should judge.
    ///
    /// # Safety
    /// - `iov` points to `count` entries that stay as they are while this lives.
    pub(super) unsafe fn new(iov: *const iovec, count: i32) -> Option<Self> {
        let count = usize::try_from(count).ok()?;
        (count > 0 && count <= IOV_MAX && !iov.is_null()).then_some(Self {
            iov,
            count,
            offset: 0,
        })
    }

    /// Bytes left.
    pub(super) fn total(&self) -> usize {
        self.entries()
            .iter()
            .fold(0_usize, |sum, e| sum.saturating_add(e.iov_len))
            .saturating_sub(self.offset)
    }

    /// The entries left; exact where [`Vector::is_at_start_of_entry`].
    pub(super) const fn rest(&self) -> (*const iovec, usize) {
        (self.iov, self.count)
    }

    /// True if no part of the first entry is done.
    pub(super) const fn is_at_start_of_entry(&self) -> bool {
        self.offset == 0
    }

    /// What is left of the first entry that has anything left.
    pub(super) fn first(&mut self) -> Option<(*mut u8, usize)> {
        self.advance(0);
        let first = self.entries().first()?;
        let base = first.iov_base.cast::<u8>().wrapping_add(self.offset);
        Some((base, first.iov_len - self.offset))
    }

    /// Moves on by `n` bytes, past entries that are finished or empty.
    pub(super) fn advance(&mut self, n: usize) {
        self.offset += n;
        while let Some(first) = self.entries().first()
            && self.offset >= first.iov_len
        {
            self.offset -= first.iov_len;
            self.iov = self.iov.wrapping_add(1);
            self.count -= 1;
        }
    }

    const fn entries(&self) -> &[iovec] {
        // SAFETY: `new`'s promise; `iov` and `count` only move within the array.
        unsafe { std::slice::from_raw_parts(self.iov, self.count) }
    }
}

/// A message of nothing but these buffers.
pub(super) fn message_of((iov, count): (*const iovec, usize)) -> msghdr {
    // SAFETY: zero is a valid empty header.
    let mut message: msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iov.cast_mut();
    message.msg_iovlen = count as _;
    message
}

/// The kernel's limit on entries.
const IOV_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(data: &[u8]) -> iovec {
        iovec {
            iov_base: data.as_ptr().cast_mut().cast(),
            iov_len: data.len(),
        }
    }

    #[test]
    fn advancing_by_any_split_visits_every_byte_once() {
        let data = [&b"abc"[..], b"", b"d", b"", b"efgh"];
        let entries = data.map(entry);
        for step in 1..=8 {
            // SAFETY: five entries that outlive the vector.
            let mut vector = unsafe { Vector::new(entries.as_ptr(), 5) }.expect("valid");
            let mut seen = Vec::new();
            while let Some((at, len)) = vector.first() {
                let n = step.min(len);
                // SAFETY: `first` gives what is left of one of the slices above.
                seen.extend_from_slice(unsafe { std::slice::from_raw_parts(at, n) });
                assert_eq!(vector.total(), 8 - (seen.len() - n));
                vector.advance(n);
            }
            assert_eq!(seen, b"abcdefgh", "step {step}");
            assert_eq!(vector.total(), 0);
        }
    }

    #[test]
    fn what_only_the_kernel_should_judge_is_left_to_it() {
        // SAFETY: refused before anything is read.
        unsafe {
            assert!(Vector::new(std::ptr::null(), 1).is_none());
            assert!(Vector::new(std::ptr::dangling(), 0).is_none());
            assert!(Vector::new(std::ptr::dangling(), -1).is_none());
            assert!(Vector::new(std::ptr::dangling(), 1025).is_none());
        }
    }
}
