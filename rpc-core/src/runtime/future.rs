//! Awaiting a future from a coroutine or an OS thread.
//!
//! Knows: park and wake.   Does not know: who drives what the future waits for.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::park::{Waiter, park};
use super::task::Reason;
use crate::base::time::Instant;

/// Runs a future to its end and parks while it waits. From a coroutine and from an OS thread.
///
/// For what async libraries offer without a runtime of theirs: channels, locks, streams, futures that other
/// threads complete. A future that needs a reactor (tokio's sockets and timers) needs its own runtime
/// around it, which also works in a coroutine: `tokio::runtime::Runtime::block_on`. Deadlines and
/// cancellation do not cut it: a future has no way to say so.
///
/// ```
/// let three = rpc_core::block_on(async { 1 + std::future::ready(2).await });
/// assert_eq!(three, 3);
/// ```
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let bell = Arc::new(Bell {
        waiter: Waiter::current(),
        rung: AtomicBool::new(false),
    });
    let waker = Waker::from(Arc::clone(&bell));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        // Acquire pairs with the Release in `wake_by_ref`: what the future waited for is visible.
        while !bell.rung.swap(false, Ordering::Acquire) {
            park(Reason::Other("a future"), Instant::NEVER);
        }
    }
}

/// Wakes one wait; a wake-up after the future's end is a spurious one for whatever its caller does then.
struct Bell {
    waiter: Waiter,
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::Release) {
            self.waiter.wake();
        }
    }
}
