//! Floor 1: a stack that can be left and entered again, with a thread's identity of its own or not.
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
//! Under shared identity there is no block: the stack begins at the high end, and code on it has the
//! thread-locals of the thread that runs it. C-2 to C-4 are about blocks of their own.
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
    /// `None` under shared identity.
    own: Option<Own>,
    slot: Slot,
}

/// A thread's identity.
struct Own {
    block: Block,
    facts: &'static Facts,
}

impl Coroutine {
    /// Takes a stack of `size` usable bytes; makes its thread block where there are `facts` to make it by.
    ///
    /// `entry(argument)` runs at the first resume. Errors are those of `mmap` and `pthread_create`.
    pub(crate) fn new(
        size: usize,
        facts: Option<&'static Facts>,
        entry: fn(usize) -> Infallible,
        argument: usize,
        publish: fn(usize, *const corosensei::Yielder<(), ()>),
    ) -> io::Result<Self> {
        let slot = Slot::take(size)?;
        let make = |facts| {
            let block = Block::make(facts, slot.limit(), slot.len())?;
            io::Result::Ok(Own { block, facts })
        };
        let own = facts.map(make).transpose()?;
        let high = slot.limit() + slot.len();
        let bounds = Bounds {
            base: own.as_ref().map_or(high, |own| own.block.stack_base()),
            limit: slot.limit(),
        };
        let inner = corosensei::Coroutine::with_stack(bounds, move |yielder, ()| {
            publish(argument, yielder);
            entry(argument)
        });
        Ok(Self {
            inner,
            yielder: Cell::new(std::ptr::null()),
            own,
            slot,
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
        // `entry` never returns, so `inner.resume` always ends by a suspension.
        let Some(Own { block, facts }) = &self.own else {
            let _ = self.inner.resume(());
            return;
        };
        let (block, facts) = (block.thread_pointer(), *facts);
        let thread = identity::thread_pointer();
        // C-4. SAFETY: both blocks are alive and hold libc's area at these offsets.
        unsafe { facts.lend_malloc(thread, block) };
        // C-2, C-3. SAFETY: the block was made by glibc for this very stack.
        unsafe { identity::set_thread_pointer(block) };
        let _ = self.inner.resume(());
        // SAFETY: `thread` is the calling thread's; it was current when we came.
        unsafe { identity::set_thread_pointer(thread) };
        // SAFETY: as above, the other way round.
        unsafe { facts.lend_malloc(block, thread) };
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

    /// Gives an own block fresh thread-locals, as a new thread would have. Destructors have run.
    ///
    /// # Safety
    /// - The coroutine is suspended, and nothing on its stack refers to its thread-locals.
    pub(crate) unsafe fn renew_thread_locals(&self) {
        if let Some(own) = &self.own {
            // SAFETY: the caller's promise is the callee's.
            unsafe { own.block.renew(own.facts) };
        }
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
