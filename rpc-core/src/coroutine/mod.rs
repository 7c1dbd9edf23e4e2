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
//! - C-1  A slot belongs to one task for ever and is never unmapped. Its coroutine may be ended while it
//!   idles, which gives the memory back, and made anew.
//! - C-2  While a coroutine runs, the thread pointer is its block's; on every other stack of that
//!   thread it is the thread's own. [`Coroutine::resume`] is the only place that sets it, but for
//!   [`identity::as_thread`], in which a signal handler of the C library's speaks for the thread.
//! - C-3  Between setting the thread pointer and switching stacks no thread-local is touched.
//! - C-4  malloc's per-thread words travel with the OS thread, not with the block.
//!
//! Read first: [`Coroutine::resume`], then `identity.rs`.

#![expect(unsafe_code, reason = "switches stacks and the thread pointer")]

pub(crate) mod identity;
mod overflow;
mod robust;
mod stack;
pub(crate) mod trace;

use std::cell::Cell;
use std::convert::Infallible;
use std::io;

use corosensei::stack::{Stack as CoroStack, StackPointer};

use identity::{Block, Facts};
pub(crate) use overflow::install as install_overflow_report;
pub use stack::Guards;
pub(crate) use stack::{CLASSES, Class, Label, Slot, guards};
use trace::Registers;

/// A resumable stack. Made once, then runs `entry` for ever; `entry` never returns.
pub(crate) struct Coroutine {
    inner: corosensei::Coroutine<(), (), Infallible, Bounds>,
    /// Set by the coroutine itself at its first resume; null before. Lives at the stack's base.
    yielder: Cell<*const corosensei::Yielder<(), ()>>,
    /// `None` under shared identity.
    own: Option<Own>,
}

/// A thread's identity, made for one slot.
pub(crate) struct Own {
    block: Block,
    facts: &'static Facts,
}

impl Own {
    /// Identities for the first of `slots`, and why there are none for the others.
    pub(crate) fn make(facts: &'static Facts, slots: &[&Slot]) -> (Vec<Self>, Option<io::Error>) {
        let stacks: Vec<_> = slots.iter().map(|s| (s.limit(), s.len())).collect();
        let (blocks, error) = Block::make(facts, &stacks);
        let owns = blocks.into_iter().map(|block| Self { block, facts });
        (owns.collect(), error)
    }
}

impl Coroutine {
    /// A coroutine on `slot`, which nothing else uses, with the identity made for it if it has one.
    ///
    /// `entry(argument)` runs at the first resume.
    pub(crate) fn new(
        slot: &Slot,
        own: Option<Own>,
        entry: fn(usize) -> Infallible,
        argument: usize,
        publish: fn(usize, *const corosensei::Yielder<(), ()>),
    ) -> Self {
        let base = own
            .as_ref()
            .map_or(slot.end(), |own| own.block.stack_base());
        let bounds = Bounds {
            base,
            limit: slot.limit(),
        };
        let inner = corosensei::Coroutine::with_stack(bounds, move |yielder, ()| {
            publish(argument, yielder);
            entry(argument)
        });
        Self {
            inner,
            yielder: Cell::new(std::ptr::null()),
            own,
        }
    }

    /// Gives back what the stack of an idle coroutine holds below its first [`KEPT`] bytes.
    ///
    /// # Safety
    /// - `slot` is the coroutine's; it is suspended in `entry` itself, within [`KEPT`].
    pub(crate) unsafe fn trim(&self, slot: &Slot) {
        let base = self
            .own
            .as_ref()
            .map_or(slot.end(), |own| own.block.stack_base());
        if slot.depth() > slot.end() - base + KEPT {
            // SAFETY: the caller's promise.
            unsafe { slot.give_back(base - KEPT) };
        }
    }

    /// Ends the coroutine without unwinding it, and gives all its memory back.
    ///
    /// # Safety
    /// - `slot` is the coroutine's. It is suspended, nothing on its stack needs to be dropped, and the
    ///   destructors of its thread-locals have run.
    pub(crate) unsafe fn end(mut self, slot: &Slot) {
        // SAFETY: the caller's promise.
        unsafe {
            self.inner.force_reset();
            if let Some(Own { block, facts }) = self.own {
                block.end(facts);
            }
            slot.give_back(slot.end());
        }
    }

    /// Remembers the way back; called by `publish` on the coroutine's own stack.
    pub(crate) fn set_yielder(&self, yielder: *const corosensei::Yielder<(), ()>) {
        self.yielder.set(yielder);
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

    /// Asks the processor for what [`Coroutine::resume`] will touch first, with the `frames` that it left.
    /// Among many coroutines each lies in other pages and cache lines than the last, and nothing else
    /// tells the processor which is next.
    #[inline]
    pub(crate) fn prefetch(&self, frames: usize) {
        (0..4).for_each(|line| prefetch(frames + line * CACHE_LINE));
        if let Some(Own { block, facts }) = &self.own {
            prefetch(block.thread_pointer());
            prefetch(facts.malloc_word(block.thread_pointer()));
        }
    }

    /// Leaves the coroutine; returns when it is resumed.
    ///
    /// # Safety
    /// - Called on this coroutine's own stack.
    // After a switch every return is mispredicted, so there are as few as can be. Thread-locals may be
    // remembered across it: a coroutine comes back to the block, or the thread, that it left.
    #[inline(always)]
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

/// Asks the processor for the cache line at `address`: a hint, which never faults.
#[inline(always)]
pub(crate) fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: touches nothing.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Bytes.
pub(crate) const CACHE_LINE: usize = 64;

/// How much of an idle stack stays in memory: below that lies what only deep use has touched.
pub(crate) const KEPT: usize = 16 << 10;

impl Registers {
    /// Those of the calling function's frame, which must stay while they are used.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn here() -> Self {
        let (pc, sp, fp): (usize, usize, usize);
        // SAFETY: reads registers.
        unsafe {
            std::arch::asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp",
                out(reg) pc, out(reg) sp, out(reg) fp, options(nomem, nostack, preserves_flags));
        }
        Self { pc, sp, fp }
    }

    /// Those of the calling function's frame, which must stay while they are used.
    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    pub(crate) fn here() -> Self {
        let (pc, sp, fp): (usize, usize, usize);
        // SAFETY: reads registers.
        unsafe {
            std::arch::asm!("adr {}, .", "mov {}, sp", "mov {}, x29",
                out(reg) pc, out(reg) sp, out(reg) fp, options(nomem, nostack, preserves_flags));
        }
        Self { pc, sp, fp }
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
