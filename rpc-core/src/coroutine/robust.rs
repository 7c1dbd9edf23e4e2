//! Robust mutexes that a coroutine holds when it ends: left as the kernel leaves those of a thread that ends.
//!
//! glibc keeps them in a list in the control block, and tells the kernel where; of a coroutine's block the
//! kernel knows nothing.
//!
//! Knows: the list (linux/futex.h).   Does not know: what a mutex is beyond its word.

#![expect(unsafe_code, reason = "walks glibc's list in the control block")]

use std::sync::atomic::{AtomicU32, Ordering};

use super::identity::thread_pointer;
use crate::base::sys::syscall;

/// `struct robust_list_head`.
#[repr(C)]
struct List {
    /// Address of the first entry's link, or of this; the lowest bit marks locks that lend priority.
    next: usize,
    /// From an entry's link to its lock.
    futex_offset: isize,
    pending: usize,
}

/// Where glibc told the kernel that the calling thread's list is, from its thread pointer.
pub(super) fn offset() -> Option<isize> {
    let (mut head, mut len) = (0_usize, 0_usize);
    // SAFETY: places for the two answers; 0 is the calling thread.
    let error = unsafe { syscall!(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut len) };
    (error == 0 && head != 0 && len == size_of::<List>())
        .then(|| head.wrapping_sub(thread_pointer()) as isize)
}

/// Whether a list lies at `head` and names nothing but itself.
///
/// # Safety
/// - A word can be read there.
pub(super) unsafe fn is_empty(head: usize) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (head as *const usize).read() == head }
}

/// Marks every mutex of the list as one whose owner, of this id, died; wakes one who waits for it.
///
/// # Safety
/// - The list is that of the calling coroutine's block: its mutexes are there, for the coroutine holds them.
pub(super) unsafe fn abandon(head: usize, tid: u32) {
    // SAFETY: the caller's promise; changed by the coroutine alone.
    let list = unsafe { &mut *(head as *mut List) };
    let mut next = list.next;
    for _ in 0..ENTRIES_MAX {
        let entry = next & !PRIO_INHERIT;
        if entry == head {
            break;
        }
        // SAFETY: a link in a mutex that is there.
        let link = unsafe { (entry as *const usize).read() };
        // A lock that lends priority is the kernel's, and held by the worker.
        if next & PRIO_INHERIT == 0 {
            let word = entry.wrapping_add_signed(list.futex_offset) as *const AtomicU32;
            // SAFETY: the word of the same mutex.
            owner_died(unsafe { &*word }, tid);
        }
        next = link;
    }
    list.next = head;
}

fn owner_died(lock: &AtomicU32, tid: u32) {
    let died = lock.fetch_update(Ordering::Release, Ordering::Relaxed, |word| {
        let own = word & libc::FUTEX_TID_MASK == tid;
        own.then_some(word & libc::FUTEX_WAITERS | libc::FUTEX_OWNER_DIED)
    });
    if died.is_ok_and(|word| word & libc::FUTEX_WAITERS != 0) {
        // Not PRIVATE, as glibc waits for robust mutexes.
        // SAFETY: the kernel looks the address up.
        unsafe { syscall!(libc::SYS_futex, lock.as_ptr(), libc::FUTEX_WAKE, 1) };
    }
}

/// `FUTEX_ROBUST_MOD_PI`.
const PRIO_INHERIT: usize = 1;
/// As many entries the kernel follows.
const ENTRIES_MAX: usize = 2048;
