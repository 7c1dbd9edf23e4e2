//! Floor 1: a stack that can be left and entered again, with a thread's identity of its own.
//!
//! Knows: stacks, guards, thread-local blocks, the switch.
//! Does not know: scheduling, readiness, who resumes or why.
//!
//! ```text
//!   high ┌───────────────────────────┐
//!        │ struct pthread, static TLS│  glibc's own; the thread pointer points in here
//!        ├───────────────────────────┤  base
//!        │ frames of the coroutine   │  grows down
//!        │            ↓              │
//!        ├───────────────────────────┤  limit
//!        │ 64 KiB guard              │  touching it ends the process with a report
//!   low  └───────────────────────────┘
//! ```
//!
//! Invariants
//! - C-1  A slot and its block are made once, used by one [`Coroutine`] for ever and never unmapped:
//!   a stale pointer into a coroutine's header stays readable.
//! - C-2  While a coroutine runs, the thread pointer is its block's; on every other stack of that
//!   thread it is the thread's own. [`Coroutine::resume`] is the only place that sets it.
//! - C-3  Between setting the thread pointer and switching stacks no thread-local is touched.
//! - C-4  malloc's per-thread words travel with the OS thread, not with the block.
//!
//! Read first: [`Coroutine::resume`], then `identity.rs`.

#![expect(unsafe_code, reason = "switches stacks and the thread pointer")]

pub(crate) mod identity;
mod overflow;
mod stack;

use std::cell::Cell;
use std::convert::Infallible;
use std::io;

use corosensei::stack::{Stack as CoroStack, StackPointer};

use identity::{Block, Facts};
pub(crate) use overflow::install as install_overflow_report;
pub(crate) use stack::{Label, Slot};

/// A resumable stack. Made once, then runs `entry` for ever; `entry` never returns.
pub(crate) struct Coroutine {
    inner: corosensei::Coroutine<(), (), Infallible, Bounds>,
    /// Set by the coroutine itself at its first resume; null before. Lives at the stack's base.
    yielder: Cell<*const corosensei::Yielder<(), ()>>,
    block: Block,
    slot: Slot,
    facts: &'static Facts,
}

impl Coroutine {
    /// Takes a stack of `size` usable bytes and makes its thread block.
    ///
    /// `entry(argument)` runs at the first resume. Errors are those of `mmap` and `pthread_create`.
    pub(crate) fn new(
        size: usize,
        facts: &'static Facts,
        entry: fn(usize) -> Infallible,
        argument: usize,
        publish: fn(usize, *const corosensei::Yielder<(), ()>),
    ) -> io::Result<Self> {
        let slot = Slot::take(size)?;
        let block = Block::make(facts, slot.limit(), slot.len())?;
        let bounds = Bounds {
            base: block.stack_base(),
            limit: slot.limit(),
        };
        let inner = corosensei::Coroutine::with_stack(bounds, move |yielder, ()| {
            publish(argument, yielder);
            entry(argument)
        });
        Ok(Self {
            inner,
            yielder: Cell::new(std::ptr::null()),
            block,
            slot,
            facts,
        })
    }

    /// Remembers the way back; called by `publish` on the coroutine's own stack.
    pub(crate) fn set_yielder(&self, yielder: *const corosensei::Yielder<(), ()>) {
        self.yielder.set(yielder);
    }

    /// Who runs here, for the overflow report.
    pub(crate) fn label(&self) -> &Label {
        self.slot.label()
    }

    /// Runs the coroutine on the calling thread until it suspends.
    ///
    /// # Safety
    /// - One thread at a time, never from a coroutine's own stack.
    #[inline(never)]
    pub(crate) unsafe fn resume(&mut self) {
        let own = identity::thread_pointer();
        // C-4. SAFETY: both blocks are alive and hold libc's area at these offsets.
        unsafe { self.facts.lend_malloc(own, self.block.thread_pointer()) };
        // C-2, C-3. SAFETY: the block was made by glibc for this very stack.
        unsafe { identity::set_thread_pointer(self.block.thread_pointer()) };
        // `entry` never returns, so this is always a suspension.
        let _ = self.inner.resume(());
        // SAFETY: `own` is the calling thread's; it was current when we came.
        unsafe { identity::set_thread_pointer(own) };
        // SAFETY: as above, the other way round.
        unsafe { self.facts.lend_malloc(self.block.thread_pointer(), own) };
    }

    /// Leaves the coroutine; returns when it is resumed.
    ///
    /// # Safety
    /// - Called on this coroutine's own stack.
    #[inline(never)]
    pub(crate) unsafe fn suspend(&self) {
        // SAFETY: the yielder was published before `entry` ran and lives as long as the stack.
        unsafe { (*self.yielder.get()).suspend(()) };
    }

    /// Gives the block fresh thread-locals, as a new thread would have. Destructors have run.
    ///
    /// # Safety
    /// - The coroutine is suspended, and nothing on its stack refers to its thread-locals.
    pub(crate) unsafe fn renew_thread_locals(&self) {
        // SAFETY: the caller's promise is the callee's.
        unsafe { self.block.renew(self.facts) };
    }
}

/// What corosensei needs to know of a stack. The memory is never freed (C-1).
struct Bounds {
    base: usize,
    limit: usize,
}

// SAFETY: base and limit are aligned, within one mapping that is never unmapped, above a guard.
unsafe impl CoroStack for Bounds {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.base).expect("a stack does not lie at address 0")
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.limit).expect("a stack does not lie at address 0")
    }
}
