//! The futex table: `waiters.rs` under the steps of a wait, a wake, a timeout and a cancellation.

#![expect(
    unsafe_code,
    reason = "waiters lie on their stacks and are linked by pointer"
)]

#[path = "../../../rpc-core/src/hook/waiters.rs"]
mod waiters;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Arc, Notify};
use loom::thread;

use crate::base::lock::SpinLock;
use crate::check;
use waiters::{EVERY_WORD, Node, Queue, Shard};

/// One word, the shard that its waiters hash to, and up to two coroutines.
struct Table {
    word: AtomicU32,
    shard: Shard<usize>,
    /// How `runtime::park` of each coroutine is ended.
    tokens: [Notify; 2],
    /// Written before the word, read after a wait for it.
    told: UnsafeCell<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wait {
    Woken,
    /// The word had another value.
    Changed,
    TimedOut,
}

impl Table {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            word: AtomicU32::new(0),
            shard: Shard {
                waiters: AtomicU32::new(0),
                queue: SpinLock::new(Queue::EMPTY),
            },
            tokens: [Notify::new(), Notify::new()],
            told: UnsafeCell::new(0),
        })
    }

    /// As `futex::park`. A wait with a limit finds its time up as soon as it looks: at every step of
    /// the others, for loom runs them all.
    fn wait(&self, who: usize, bits: u32, limited: bool) -> Wait {
        let mut node = Node::new(WORD, bits, who);
        let node = &raw mut node;
        let unchanged = || self.word.load(Ordering::SeqCst) == 0;
        // SAFETY: unlinked before this function returns.
        if !unsafe { self.shard.enter(node, unchanged) } {
            return Wait::Changed;
        }
        loop {
            if !limited {
                self.tokens[who].wait();
            }
            // SAFETY: on this very stack.
            if unsafe { Node::is_woken(node) } {
                return Wait::Woken;
            }
            if limited {
                // SAFETY: as above, and it entered.
                let left = unsafe { self.shard.give_up(node) };
                return if left { Wait::TimedOut } else { Wait::Woken };
            }
        }
    }

    /// As `futex::wake`, without threads.
    fn wake(&self, word: usize, wanted: u32, bits: u32) -> u32 {
        if self.shard.is_empty() {
            return 0;
        }
        let unpark = |who: usize| self.tokens[who].notify();
        self.shard.wake(word, wanted, bits, unpark)
    }

    /// Changes the word and wakes.
    fn tell(&self, wanted: u32) -> u32 {
        // SAFETY: written before the word changes, read after.
        self.told.with_mut(|told| unsafe { told.write(7) });
        self.word.store(1, Ordering::Release);
        self.wake(WORD, wanted, ALL)
    }

    fn hear(&self) -> u32 {
        // SAFETY: the word has changed.
        self.told.with(|told| unsafe { told.read() })
    }

    /// Until the word has changed, as a lock would.
    fn wait_for_change(&self, who: usize) -> u32 {
        while self.word.load(Ordering::Acquire) == 0 {
            self.wait(who, ALL, false);
        }
        self.hear()
    }
}

const WORD: usize = 0x1000;
const ALL: u32 = u32::MAX;

fn with<T: 'static>(
    table: &Arc<Table>,
    f: impl FnOnce(&Table) -> T + 'static,
) -> thread::JoinHandle<T> {
    let table = Arc::clone(table);
    thread::spawn(move || f(&table))
}

#[test]
fn a_wake_is_not_lost_between_the_look_at_the_word_and_the_wait() {
    check(|| {
        let table = Table::new();
        let waker = with(&table, |table| table.tell(1));
        assert_eq!(table.wait_for_change(0), 7);
        waker.join().unwrap();
        assert!(table.shard.is_empty(), "F-1: nobody is linked any more");
    });
}

#[test]
fn one_wake_reaches_one_waiter_or_comes_after_its_timeout() {
    check(|| {
        let table = Table::new();
        let limited = with(&table, |table| table.wait(1, ALL, true));
        let woken = table.tell(1);
        let result = limited.join().unwrap();
        assert_eq!(woken == 1, result == Wait::Woken, "F-2: {result:?}");
        assert!(table.shard.is_empty());
    });
}

#[test]
fn a_wake_that_finds_one_gone_reaches_the_other() {
    check(|| {
        let table = Table::new();
        let limited = with(&table, |table| {
            let result = table.wait(1, ALL, true);
            if result == Wait::Woken {
                // Woken in the other's place: a lock would be taken, and freed.
                table.wake(WORD, 1, ALL);
            }
        });
        let waker = with(&table, |table| table.tell(1));
        assert_eq!(table.wait_for_change(0), 7);
        limited.join().unwrap();
        waker.join().unwrap();
        assert!(table.shard.is_empty());
    });
}

#[test]
fn a_cancelled_wait_goes_on_until_it_is_woken() {
    check(|| {
        let table = Table::new();
        // Cancellation unparks the coroutine and wakes no waiter.
        let canceller = with(&table, |table| table.tokens[0].notify());
        let waker = with(&table, |table| table.tell(1));
        assert_eq!(table.wait_for_change(0), 7);
        canceller.join().unwrap();
        waker.join().unwrap();
        assert!(table.shard.is_empty());
    });
}

#[test]
fn two_wakers_wake_each_waiter_once() {
    check(|| {
        let table = Table::new();
        let limited = with(&table, |table| table.wait(1, ALL, true));
        let other = with(&table, |table| table.wake(WORD, 2, ALL));
        let woken = table.tell(2) + other.join().unwrap();
        let result = limited.join().unwrap();
        assert_eq!(woken, u32::from(result == Wait::Woken), "{result:?}");
    });
}

#[test]
fn only_waiters_of_the_word_and_the_bits_are_woken() {
    check(|| {
        let table = Table::new();
        let limited = with(&table, |table| table.wait(1, 0b01, true));
        let woken = table.wake(WORD, 9, 0b10) + table.wake(WORD + 4, 9, ALL);
        assert_eq!(woken, 0);
        let woken = table.wake(EVERY_WORD, 9, 0b11);
        let result = limited.join().unwrap();
        assert_eq!(woken == 1, result == Wait::Woken);
    });
}
