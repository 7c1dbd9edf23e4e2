//! Stack slots: many in one mapping, each above its own guard, in classes of one size.
//!
//! Invariants
//! - S-1  A slab is never unmapped; slots are handed out once and belong to one task for ever.
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

/// A size of stack: 32 KiB, doubled up to [`LARGEST`]. Few sizes, so that a stack serves many wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class(u8);

impl Class {
    /// The smallest class with `bytes` usable bytes, or the largest there is.
    pub(crate) fn of(bytes: usize) -> Self {
        let size = bytes.clamp(SMALLEST, LARGEST).next_power_of_two();
        Self((size / SMALLEST).trailing_zeros() as u8)
    }

    /// All of them, smallest first.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..CLASSES as u8).map(Self)
    }

    /// Usable bytes of a stack.
    pub(crate) const fn size(self) -> usize {
        SMALLEST << self.0
    }

    /// Place among [`Class::all`].
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One stack: the class's size in usable bytes at `limit`, with a guard below.
pub(crate) struct Slot {
    limit: usize,
    class: Class,
    label: &'static Label,
}

impl Slot {
    /// A slot that nobody had before.
    pub(crate) fn take(class: Class) -> io::Result<Self> {
        let (low, label) = {
            let mut open = OPEN.lock();
            let slab = &mut open[class.index()];
            if slab.used == slab.count {
                *slab = OpenSlab::map(class, slab.count)?;
            }
            let index = slab.used;
            slab.used += 1;
            (
                slab.base + index * stride(class.size()),
                &slab.labels[index],
            )
        };
        // A failure wastes the slot: with its guard missing it must not be used.
        install_guard(low)?;
        let limit = low + GUARD_SIZE;
        Ok(Self {
            limit,
            class,
            label,
        })
    }

    /// Lowest usable address.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Usable bytes.
    pub(crate) fn len(&self) -> usize {
        self.class.size()
    }

    /// The address behind the last usable one.
    pub(super) fn end(&self) -> usize {
        self.limit + self.len()
    }

    pub(crate) fn class(&self) -> Class {
        self.class
    }

    pub(crate) fn label(&self) -> &'static Label {
        self.label
    }

    /// Bytes from the lowest page in memory to the end: how deep the stack was used since its memory
    /// was last given back. Sizes of whole pages; the kernel is asked, a running stack is not disturbed.
    pub(crate) fn depth(&self) -> usize {
        let mut pages = [0_u8; 512];
        let mut from = self.limit;
        while from < self.end() {
            let len = (self.end() - from).min(pages.len() * PAGE_SIZE);
            // SAFETY: writes a byte for each page of the range, which `pages` has room for.
            let done = unsafe { syscall!(libc::SYS_mincore, from, len, pages.as_mut_ptr()) };
            let found = pages[..len / PAGE_SIZE]
                .iter()
                .position(|page| page & 1 != 0);
            match found {
                Some(page) if done == 0 => return self.end() - from - page * PAGE_SIZE,
                _ => from += len,
            }
        }
        0
    }

    /// Gives the memory from the limit up to `end` back to the kernel; it reads as zeros afterwards.
    ///
    /// # Safety
    /// - Nothing below `end` is needed any more, and nobody runs on the stack.
    pub(super) unsafe fn give_back(&self, end: usize) {
        let end = end & !(PAGE_SIZE - 1);
        debug_assert!((self.limit..=self.end()).contains(&end));
        let len = end - self.limit;
        // SAFETY: the caller's promise. Guards survive it. A failure leaves the memory as it is.
        unsafe { syscall!(libc::SYS_madvise, self.limit, len, libc::MADV_DONTNEED) };
    }
}

/// How stacks are guarded on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guards {
    /// No stack was made yet.
    Unknown,
    /// `MADV_GUARD_INSTALL` (Linux 6.13): guards split no mapping.
    Light,
    /// `mprotect`: two mappings for each stack, about 30,000 under the default `vm.max_map_count`.
    Protected,
}

/// What the first stack found out.
pub(crate) fn guards() -> Guards {
    match GUARD_KIND.load(Ordering::Relaxed) {
        GUARD_LIGHT => Guards::Light,
        GUARD_PROTECT => Guards::Protected,
        _ => Guards::Unknown,
    }
}

/// Who runs on a slot; read by the overflow report in a signal handler on the same thread.
#[derive(Default)]
#[repr(C)]
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
        let (index, within) = (offset / stride(len), offset % stride(len));
        let hit = index < slab.count.load(Ordering::Relaxed) && within < GUARD_SIZE;
        let labels = slab.labels.load(Ordering::Relaxed) as *const Label;
        hit.then(|| {
            // SAFETY: `labels` was leaked with `count` entries before the slab was listed (S-2).
            let label = unsafe { &*labels.add(index) };
            Hit { label, len }
        })
    })
}

/// A stack and its guard.
const fn stride(len: usize) -> usize {
    len + GUARD_SIZE
}

/// A slab with slots left to hand out; none before the first.
struct OpenSlab {
    base: usize,
    count: usize,
    used: usize,
    labels: &'static [Label],
}

impl OpenSlab {
    const NONE: Self = Self {
        base: 0,
        count: 0,
        used: 0,
        labels: &[],
    };

    /// A slab twice as large as the one before, or smaller where address space is short.
    fn map(class: Class, before: usize) -> io::Result<Self> {
        let most = (SLAB_MAX / stride(class.size())).clamp(1, SLOTS_MAX);
        let least = SLOTS_FIRST.min(most);
        let mut count = (before * 2).clamp(least, most);
        let base = loop {
            match map_slab(count * stride(class.size())) {
                Ok(base) => break base,
                Err(_) if count > least => count = (count / 2).max(least),
                Err(error) => {
                    let text = format!(
                        "{count} stacks of {} KiB cannot be mapped: {error}",
                        class.size() >> 10
                    );
                    return Err(io::Error::new(error.kind(), text));
                }
            }
        };
        let labels: Vec<Label> = (0..count).map(|_| Label::default()).collect();
        let slab = Self {
            base,
            count,
            used: 0,
            labels: labels.leak(),
        };
        slab.list(class.size());
        Ok(slab)
    }

    /// S-2. A slab past the table's end works, only without an overflow report.
    fn list(&self, slot_len: usize) {
        // `OPEN` is locked by every caller: one writer.
        let index = LISTED.load(Ordering::Relaxed);
        let Some(entry) = SLABS.get(index) else {
            return;
        };
        entry.slot_len.store(slot_len, Ordering::Relaxed);
        entry.count.store(self.count, Ordering::Relaxed);
        entry
            .labels
            .store(self.labels.as_ptr() as usize, Ordering::Relaxed);
        entry.base.store(self.base, Ordering::Relaxed);
        // Release pairs with the Acquire in `find_guard`.
        LISTED.store(index + 1, Ordering::Release);
    }
}

/// New memory, committed on touch. Refused unless [`HEADROOM`] is left besides: a program whose next
/// allocation fails could not go on to hear of it.
fn map_slab(len: usize) -> io::Result<usize> {
    let base = map(len)?;
    let unmap = |base: usize, len: usize| {
        // SAFETY: a mapping just made, which nobody knows of.
        unsafe { syscall!(libc::SYS_munmap, base, len) };
    };
    match map(HEADROOM) {
        Ok(room) => unmap(room, HEADROOM),
        Err(error) => {
            unmap(base, len);
            return Err(error);
        }
    }
    // A huge page would commit 2 MiB for the first touch of one stack; refusal does no harm.
    // SAFETY: the range is the mapping just made.
    unsafe { syscall!(libc::SYS_madvise, base, len, libc::MADV_NOHUGEPAGE) };
    Ok(base)
}

fn map(len: usize) -> io::Result<usize> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new anonymous mapping touches nothing that exists.
    sys::cvt(unsafe { syscall!(libc::SYS_mmap, 0, len, prot, flags, -1_isize, 0) })
}

struct ListedSlab {
    base: AtomicUsize,
    slot_len: AtomicUsize,
    count: AtomicUsize,
    labels: AtomicUsize,
}

/// Guards one slot, in the way that the first one found to work.
fn install_guard(low: usize) -> io::Result<()> {
    if GUARD_KIND.load(Ordering::Relaxed) != GUARD_PROTECT {
        // SAFETY: the range is the low end of a slot that nobody uses yet.
        let done = unsafe { syscall!(libc::SYS_madvise, low, GUARD_SIZE, MADV_GUARD_INSTALL) };
        if done == 0 {
            GUARD_KIND.store(GUARD_LIGHT, Ordering::Relaxed);
            return Ok(());
        }
        if done != -(libc::EINVAL as isize) {
            return sys::cvt(done).map(drop).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("a stack guard cannot be set: {error}"),
                )
            });
        }
        // The kernel does not know it, or the program locks its memory.
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

/// By class.
static OPEN: SpinLock<[OpenSlab; CLASSES]> = SpinLock::new([OpenSlab::NONE; CLASSES]);

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
const SMALLEST: usize = 32 << 10;
const LARGEST: usize = 1 << 30;
pub(crate) const CLASSES: usize = (LARGEST / SMALLEST).trailing_zeros() as usize + 1;
/// Slots of a class's first slab; each later slab has twice as many, up to `SLOTS_MAX` and to
/// `SLAB_MAX` bytes of address space.
const SLOTS_FIRST: usize = 16;
const SLOTS_MAX: usize = 4096;
const SLAB_MAX: usize = 2 << 30;
const SLABS_MAX: usize = 4096;
/// Address space that new stacks leave to everything else.
const HEADROOM: usize = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn take(bytes: usize) -> Slot {
        Slot::take(Class::of(bytes)).unwrap()
    }

    #[test]
    fn a_guard_is_found_and_the_stack_above_it_is_not() {
        let slot = take(100_000);
        assert!(slot.len() >= 100_000);
        slot.label().name.set("mine");
        let hit = find_guard(slot.limit() - 1).expect("just below the stack lies its guard");
        assert_eq!(hit.label.name.get(), "mine");
        assert!(find_guard(slot.limit() - GUARD_SIZE).is_some());
        assert!(find_guard(slot.limit()).is_none());
    }

    #[test]
    fn slots_do_not_overlap() {
        let mut slots: Vec<Slot> = (0..40).map(|_| take(64 << 10)).collect();
        slots.sort_by_key(Slot::limit);
        let apart = slots
            .windows(2)
            .all(|w| w[0].end() <= w[1].limit() - GUARD_SIZE);
        assert!(apart);
    }

    #[test]
    fn a_class_holds_what_it_is_asked_for() {
        for (bytes, size) in [
            (0, SMALLEST),
            (SMALLEST, SMALLEST),
            (SMALLEST + 1, 64 << 10),
            (256 << 10, 256 << 10),
            (usize::MAX, LARGEST),
        ] {
            assert_eq!(Class::of(bytes).size(), size, "{bytes}");
        }
        assert_eq!(Class::all().last().unwrap().size(), LARGEST);
    }

    #[test]
    fn depth_is_what_was_touched_until_it_is_given_back() {
        let slot = take(256 << 10);
        assert_eq!(slot.depth(), 0);
        for depth in [1, 3 * PAGE_SIZE, 100_000] {
            // SAFETY: within the slot, which nobody else uses.
            unsafe { ((slot.end() - depth) as *mut u8).write_volatile(1) };
            assert_eq!(slot.depth(), depth.next_multiple_of(PAGE_SIZE));
        }
        // SAFETY: nobody runs there.
        unsafe { slot.give_back(slot.end() - PAGE_SIZE) };
        assert_eq!(slot.depth(), PAGE_SIZE, "what lies above the cut stays");
        // SAFETY: as above.
        unsafe { slot.give_back(slot.end()) };
        assert_eq!(slot.depth(), 0);
    }

    #[test]
    fn without_light_guards_stacks_are_protected() {
        // Both kinds may stand side by side: the others of this process do not mind.
        let before = GUARD_KIND.swap(GUARD_PROTECT, Ordering::Relaxed);
        let slot = take(64 << 10);
        GUARD_KIND.store(before, Ordering::Relaxed);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let low = slot.limit() - GUARD_SIZE;
        let guarded = maps.lines().any(|line| {
            let bounds = line
                .split(' ')
                .next()
                .and_then(|range| range.split_once('-'));
            let bounds = bounds.map(|(a, b)| [a, b].map(|x| usize::from_str_radix(x, 16).unwrap()));
            line.contains("---p") && bounds.is_some_and(|[a, b]| a <= low && slot.limit() <= b)
        });
        assert!(guarded, "no guard at {low:x} in\n{maps}");
    }
}
