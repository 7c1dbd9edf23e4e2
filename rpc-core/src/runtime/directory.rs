//! The way of a debugger to all coroutines, also in a core file: see `gdb/rpc_core.py`.
//!
//! Knows: where in a task lies what a debugger asks for.   Does not know: what it is for.
//!
//! A program may be built without types for its debugger, so the places are written down here as
//! numbers, under a name that stays in the symbol table.
//!
//! Invariant: what [`DIRECTORY`] says of layouts is what `rpc_core.py` expects of its `version`.

#![expect(unsafe_code, reason = "a symbol that keeps its name")]

use std::cell::Cell;
use std::mem::offset_of;

use super::task::Task;
use crate::base::atomic_ref::AtomicRef;
use crate::base::lock::SpinLock;
use crate::coroutine::{Label, Slot};

/// A task's entry in the list of all tasks ever made.
#[repr(C)]
pub(super) struct Listing {
    next: Cell<Option<&'static Task>>,
    label: &'static Label,
    /// The stack's addresses.
    low: usize,
    high: usize,
}

impl Listing {
    pub(super) fn of(slot: &Slot) -> Self {
        Self {
            next: Cell::new(None),
            label: slot.label(),
            low: slot.limit(),
            high: slot.limit() + slot.len(),
        }
    }
}

/// Adds a new task to the list.
pub(super) fn list(task: &'static Task) {
    let _alone = LISTING.lock();
    task.listing.next.set(DIRECTORY.first.get());
    DIRECTORY.first.set(Some(task));
}

/// All offsets in bytes.
#[repr(C)]
pub(super) struct Directory {
    magic: [u8; 8],
    version: usize,
    /// The task made last.
    first: AtomicRef<Task>,
    /// In a task: [`Listing`]; `bool`: a job is on it; `u32`: 0 running, 1 ready, 2 waiting; three words:
    /// pc, sp, fp where it last suspended; [`super::Reason`].
    listing: usize,
    live: usize,
    state: usize,
    suspended_at: usize,
    reason: usize,
    /// In a label: pointer and length of the name; pointer to a `Location` or null.
    name: usize,
    spawned_at: usize,
    /// In a `Location`: pointer and length of the file's name; `u32`.
    file: usize,
    line: usize,
}

/// See the page above.
#[unsafe(export_name = "rpc_core_directory")]
pub(super) static DIRECTORY: Directory = Directory {
    magic: *b"rpc-core",
    version: 1,
    first: AtomicRef::new(),
    listing: offset_of!(Task, listing),
    live: offset_of!(Task, live),
    state: offset_of!(Task, state),
    suspended_at: offset_of!(Task, suspended_at),
    reason: offset_of!(Task, reason),
    name: offset_of!(Label, name),
    spawned_at: offset_of!(Label, spawned_at),
    file: 0,
    line: 16,
};

static LISTING: SpinLock<()> = SpinLock::new(());

#[cfg(test)]
mod tests {
    use std::panic::Location;

    use super::*;

    #[test]
    fn a_location_has_its_parts_where_debuggers_look_for_them() {
        let here = Location::caller();
        let at = std::ptr::from_ref(here).cast::<u8>();
        // SAFETY: a location has 24 bytes; its two first words and the `u32` behind are initialised.
        let (file, len, line) = unsafe {
            (
                at.add(DIRECTORY.file).cast::<*const u8>().read(),
                at.add(DIRECTORY.file + 8).cast::<usize>().read(),
                at.add(DIRECTORY.line).cast::<u32>().read(),
            )
        };
        assert_eq!(size_of::<Location<'_>>(), 24);
        assert_eq!((file, len), (here.file().as_ptr(), here.file().len()));
        assert_eq!(line, here.line());
    }
}
