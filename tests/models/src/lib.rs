//! What rpc-core does with atomics, run through every interleaving by loom.
//!
//! The files under test are rpc-core's own, compiled here a second time: what they name by `crate::`
//! is found in this crate, where atomics, locks and waiting are loom's. So nothing in rpc-core bends
//! to be modelled, beyond naming `base::atomic` instead of std's atomics.
//!
//! Knows: those files, loom.   Does not know: rpc-core as a crate (its hooks would replace what loom
//! runs on), coroutines, the kernel.
//!
//! A model is a test: it builds its state inside `check`, because loom runs the closure once for
//! each interleaving. Keep one to two or three threads of a few steps each; see CONTRIBUTING.md.

#![cfg(test)]

mod base;
mod futex;
mod runtime;
mod sync;

/// Runs `model` through every interleaving in which threads are preempted three times at most; nearly all
/// races need one or two, and an unbounded search takes hours (Musuvathi and Qadeer, PLDI 2007).
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(model);
}

const PREEMPTIONS_MAX: usize = 3;
