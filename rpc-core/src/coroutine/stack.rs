//! Stack slots: many in one mapping, each above its own guard.
//!
//! Invariants
//! - S-1  A slab is never unmapped; slots are handed out once and belong to one coroutine for ever.
//! - S-2  Slabs are listed before a slot of theirs is used, so the overflow report finds them.

use std::cell::Cell;
use std::io;
use std::panic::Location;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crate::base::lock::SpinLock;
use crate::base::sys::{self, syscall};

/// Address space below each stack that must never be touched. Wider than any frame that Rust can
/// make without probing it page by page.
const GUARD_SIZE: usize = 64 << 10;

/// One stack: `len` usable bytes at `limit`, with a guard below.
pub(crate) struct Slot {
    limit: usize,
    len: usize,
    label: &'static Label,
}

impl Slot {
    /// A slot with `size` usable bytes, rounded up to pages.
    pub(crate) fn take(size: usize) -> io::Result<Self> {
        let len = size.next_multiple_of(PAGE_SIZE).max(MIN_SIZE);
        let mut open = OPEN.lock();
        let slab = match open.iter_mut().find(|slab| slab.len == len) {
            Some(slab) if slab.used < slab.count => slab,
            Some(slab) => {
                let count = (slab.count * 2).min(SLOTS_MAX);
                *slab = OpenSlab::map(len, count)?;
                slab
            }
            None => {
                open.push(OpenSlab::map(len, SLOTS_FIRST)?);
                let last = open.len() - 1;
                &mut open[last]
            }
        };
        let index = slab.used;
        slab.used += 1;
        let low = slab.base + index * (len + GUARD_SIZE);
        install_guard(low)?;
        Ok(Self {
            limit: low + GUARD_SIZE,
            len,
            label: &slab.labels[index],
        })
    }

    /// Lowest usable address.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Usable bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn label(&self) -> &Label {
        self.label
    }
}

/// Who runs on a slot; read by the overflow report in a signal handler on the same thread.
#[derive(Default)]
pub(crate) struct Label {
    /// Name given at spawn; empty = none.
    pub(crate) name: Cell<&'static str>,
    /// Where it was spawned; `None` before the first use.
    pub(crate) spawned_at: Cell<Option<&'static Location<'static>>>,
}

// SAFETY: written by the worker that owns the coroutine, read by a signal handler of that thread.
unsafe impl Sync for Label {}
// SAFETY: holds plain values.
unsafe impl Send for Label {}

/// A guard hit: which slot, and how large its stack is.
pub(super) struct Hit {
    pub(super) label: &'static Label,
    pub(super) len: usize,
}

/// The slot whose guard contains `address`. Async-signal-safe.
pub(super) fn find_guard(address: usize) -> Option<Hit> {
    let listed = LISTED.load(Ordering::Acquire).min(SLABS_MAX);
    SLABS[..listed].iter().find_map(|slab| {
        let offset = address.checked_sub(slab.base.load(Ordering::Acquire))?;
        let len = slab.slot_len.load(Ordering::Relaxed);
        let (index, within) = (offset / (len + GUARD_SIZE), offset % (len + GUARD_SIZE));
        let hit = index < slab.count.load(Ordering::Relaxed) && within < GUARD_SIZE;
        let labels = slab.labels.load(Ordering::Relaxed) as *const Label;
        hit.then(|| {
            // SAFETY: `labels` was leaked with `count` entries before the slab was listed (S-2).
            let label = unsafe { &*labels.add(index) };
            Hit { label, len }
        })
    })
}

/// A slab with slots left to hand out.
struct OpenSlab {
    base: usize,
    /// Usable bytes of each slot.
    len: usize,
    count: usize,
    used: usize,
    labels: &'static [Label],
}

impl OpenSlab {
    fn map(len: usize, count: usize) -> io::Result<Self> {
        let total = count * (len + GUARD_SIZE);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let mapped = unsafe { syscall!(libc::SYS_mmap, 0, total, prot, flags, -1_isize, 0) };
        let base = sys::cvt(mapped).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("{count} stacks of {len} bytes cannot be mapped: {error}"),
            )
        })?;
        // A huge page would commit 2 MiB for the first touch of one stack; refusal does no harm.
        // SAFETY: the range is the mapping just made.
        unsafe { syscall!(libc::SYS_madvise, base, total, libc::MADV_NOHUGEPAGE) };
        let labels: Vec<Label> = (0..count).map(|_| Label::default()).collect();
        let slab = Self {
            base,
            len,
            count,
            used: 0,
            labels: labels.leak(),
        };
        slab.list();
        Ok(slab)
    }

    /// S-2. A slab past the table's end works, only without an overflow report.
    fn list(&self) {
        // `OPEN` is locked by every caller: one writer.
        let index = LISTED.load(Ordering::Relaxed);
        let Some(entry) = SLABS.get(index) else {
            return;
        };
        entry.slot_len.store(self.len, Ordering::Relaxed);
        entry.count.store(self.count, Ordering::Relaxed);
        entry
            .labels
            .store(self.labels.as_ptr() as usize, Ordering::Relaxed);
        entry.base.store(self.base, Ordering::Relaxed);
        // Release pairs with the Acquire in `find_guard`.
        LISTED.store(index + 1, Ordering::Release);
    }
}

struct ListedSlab {
    base: AtomicUsize,
    slot_len: AtomicUsize,
    count: AtomicUsize,
    labels: AtomicUsize,
}

/// Guards one slot. Light guards (Linux 6.13) split no mapping; older kernels get `mprotect`.
fn install_guard(low: usize) -> io::Result<()> {
    if GUARD_KIND.load(Ordering::Relaxed) != GUARD_PROTECT {
        // SAFETY: the range is the low end of a slot that nobody uses yet.
        let done = unsafe { syscall!(libc::SYS_madvise, low, GUARD_SIZE, MADV_GUARD_INSTALL) };
        if done == 0 {
            GUARD_KIND.store(GUARD_LIGHT, Ordering::Relaxed);
            return Ok(());
        }
        GUARD_KIND.store(GUARD_PROTECT, Ordering::Relaxed);
    }
    // SAFETY: as above.
    let done = unsafe { syscall!(libc::SYS_mprotect, low, GUARD_SIZE, libc::PROT_NONE) };
    sys::cvt(done).map(drop).map_err(|error| {
        let hint = "each guarded stack takes two mappings on this kernel; raise vm.max_map_count";
        io::Error::new(
            error.kind(),
            format!("a stack guard cannot be set: {error}; {hint}"),
        )
    })
}

static OPEN: SpinLock<Vec<OpenSlab>> = SpinLock::new(Vec::new());

/// Number of entries of `SLABS` in use.
static LISTED: AtomicUsize = AtomicUsize::new(0);
static SLABS: [ListedSlab; SLABS_MAX] = [const {
    ListedSlab {
        base: AtomicUsize::new(usize::MAX),
        slot_len: AtomicUsize::new(PAGE_SIZE),
        count: AtomicUsize::new(0),
        labels: AtomicUsize::new(0),
    }
}; SLABS_MAX];

static GUARD_KIND: AtomicU8 = AtomicU8::new(GUARD_UNKNOWN);
const GUARD_UNKNOWN: u8 = 0;
const GUARD_LIGHT: u8 = 1;
const GUARD_PROTECT: u8 = 2;

/// Not in libc yet: Linux 6.13, `include/uapi/asm-generic/mman-common.h`.
const MADV_GUARD_INSTALL: i32 = 102;
const PAGE_SIZE: usize = 4096;
/// A panic with a backtrace takes 22 KiB; below this nothing useful runs.
const MIN_SIZE: usize = 32 << 10;
/// Slots of a size's first slab; each later slab has twice as many, up to `SLOTS_MAX`.
const SLOTS_FIRST: usize = 16;
const SLOTS_MAX: usize = 4096;
const SLABS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_is_found_and_the_stack_above_it_is_not() {
        let slot = Slot::take(100_000).unwrap();
        assert!(slot.len() >= 100_000);
        slot.label().name.set("mine");
        let hit = find_guard(slot.limit() - 1).expect("just below the stack lies its guard");
        assert_eq!(hit.label.name.get(), "mine");
        assert!(find_guard(slot.limit() - GUARD_SIZE).is_some());
        assert!(find_guard(slot.limit()).is_none());
    }

    #[test]
    fn slots_do_not_overlap() {
        let mut slots: Vec<Slot> = (0..40).map(|_| Slot::take(64 << 10).unwrap()).collect();
        slots.sort_by_key(Slot::limit);
        let apart = slots
            .windows(2)
            .all(|w| w[0].limit() + w[0].len() <= w[1].limit() - GUARD_SIZE);
        assert!(apart);
    }
}
