//! An allocator that counts, for the benchmark's programs.
//!
//! Knows: the system's allocator.
//! Does not know: who allocates; the peers' programs include this very file, for they link nothing of ours.
#![expect(unsafe_code, reason = "allocators are called by promises")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

/// The system's allocator, and how often it was asked for memory.
#[derive(Debug)]
pub struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Allocations and reallocations of this process so far. Two at once on two threads may count as one.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

fn count() {
    // Not one atomic step: a locked instruction in each allocation would be part of what is measured.
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    ALLOCATIONS.store(before + 1, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came; the caller keeps its promises.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}
