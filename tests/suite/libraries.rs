//! Other people's libraries, unmodified, a thousand calls at once on one worker.
//!
//! Each server answers nobody before a thousand callers wait: a library that held the worker instead
//! of its coroutine would never see an answer, and the hang ends the run with the test's name. What a
//! library does stands in the package `libraries`, which does not link rpc-core.
//!
//! Knows: real servers, each started by its test. Does not know: how a call waits.

mod blocking;
mod curl;
mod hiredis;
mod mysql;
mod pool;
mod redis;
mod reqwest;
mod tokio;
mod tungstenite;
mod ureq;

use std::sync::{Arc, Barrier};

use libraries::calls::Call;
use rpc_core::spawn;

use super::hooks::on_one_worker;

/// Calls at once.
const COUNT: usize = 1000;

/// Opens [`COUNT`] connections from as many coroutines of one worker, makes all their calls at once,
/// and returns the answers in the callers' order.
fn at_once(open: impl Fn(usize) -> anyhow::Result<Call> + Send + Sync + 'static) -> Vec<String> {
    libraries::room_for_descriptors().unwrap();
    on_one_worker(move || {
        let (open, opened) = (Arc::new(open), Arc::new(Barrier::new(COUNT)));
        let callers: Vec<_> = (0..COUNT)
            .map(|caller| {
                let (open, opened) = (Arc::clone(&open), Arc::clone(&opened));
                spawn(move || {
                    let call = open(caller);
                    opened.wait();
                    call.and_then(|mut call| call())
                })
            })
            .collect();
        let answers = callers.into_iter().map(|caller| caller.join().unwrap());
        answers
            .map(|answer| answer.unwrap_or_else(|error| panic!("{error:#}")))
            .collect()
    })
}

/// The answer that each caller alone is to get.
fn own_answers(answer: impl Fn(usize) -> String) -> Vec<String> {
    (0..COUNT).map(answer).collect()
}
