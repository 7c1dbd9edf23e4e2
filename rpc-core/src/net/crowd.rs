//! Senders that wait for a socket.
//!
//! Knows: waiters, how often to look at a queue.   Does not know: queues, sockets.
//!
//! Adding a queue up for each message of a stream would cost as much as the queue is long; it is done once
//! for so many bytes.

use super::wait::Waiter;

/// Senders that wait until a socket has taken what is queued. Lives under its connection's lock.
#[derive(Default)]
pub struct Crowd {
    waiters: Vec<Waiter>,
    /// Too much is queued; until everything was written.
    full: bool,
    /// Bytes queued since the queue was last looked at.
    unlooked: usize,
}

impl Crowd {
    /// A message of `size` bytes is about to be queued. True if the queue should be looked at before.
    pub fn is_due(&mut self, size: usize) -> bool {
        self.unlooked += size + MESSAGE;
        let due = self.unlooked >= LOOK_EVERY;
        if due {
            self.unlooked = 0;
        }
        due
    }

    /// What the look at the queue came to.
    pub fn set_full(&mut self, full: bool) {
        self.full |= full;
    }

    /// True while senders have to wait.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// The caller waits from now on.
    pub fn join(&mut self) {
        self.waiters.push(Waiter::current());
    }

    /// Everything was written: those to wake once the lock is released.
    pub fn relieve(&mut self) -> Vec<Waiter> {
        self.full = false;
        std::mem::take(&mut self.waiters)
    }
}

/// What a message takes beside its bytes, roughly.
const MESSAGE: usize = 64;
/// How far a queue may grow unlooked at, beside one message.
const LOOK_EVERY: usize = 64 << 10;
