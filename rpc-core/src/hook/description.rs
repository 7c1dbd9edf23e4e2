//! Descriptions: what we know about an open file, shared by its dups as in the kernel.
//!
//! Knows:         kinds, the program's non-blocking wish, timeouts, where its waiters are.
//! Does not know: descriptor numbers (`table`), how to wait (`exchange`).
//!
//! Invariants
//! - D-1  A description is named by a [`Word`]; its state holds generation and number of shares, and
//!   one compare-and-swap takes a share only from the incarnation named.
//! - D-2  Descriptions are never unmapped. A holder of a stale word reads some incarnation's fields; it
//!   may act on them only after the table still shows its word (T-3).
//! - D-3  `io` goes null → slot → null once per incarnation; releasing the slot wakes its waiters.

#![expect(
    unsafe_code,
    reason = "descriptions live in memory mapped by the table"
)]

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::table::{self, Mapped, Word, ZeroIsEmpty};
use super::{classify, in_child};
use crate::runtime::reactor::{Dir, Io};

/// How calls on an open file are tried without blocking, and what a short one means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Kind {
    /// TCP: a short read or write means empty or full.
    Tcp = 1,
    /// Another stream socket: writes may be split, short says nothing.
    Stream = 2,
    /// A socket that keeps message bounds: datagram, raw, sequenced packets.
    Message = 3,
    /// A pipe, eventfd, timerfd: `RWF_NOWAIT`.
    Nowait = 4,
    /// Anything else with a `poll`: a tty, an inotify: `poll(0)`, then the plain call.
    Polled = 5,
    /// Epoll refuses it: never waits.
    Plain = 6,
}

impl Kind {
    const fn from_bits(bits: u32) -> Self {
        match bits & KIND_MASK {
            1 => Self::Tcp,
            2 => Self::Stream,
            3 => Self::Message,
            4 => Self::Nowait,
            5 => Self::Polled,
            _ => Self::Plain,
        }
    }

    /// True for sockets.
    pub(super) const fn is_socket(self) -> bool {
        matches!(self, Self::Tcp | Self::Stream | Self::Message)
    }

    /// True for sockets that carry a conversation.
    pub(super) const fn is_stream_socket(self) -> bool {
        matches!(self, Self::Tcp | Self::Stream)
    }

    /// The kind of a socket of these parameters.
    pub(super) const fn of_socket(domain: i32, kind: i32, protocol: i32) -> Self {
        if kind != libc::SOCK_STREAM {
            return Self::Message;
        }
        let internet = matches!(domain, libc::AF_INET | libc::AF_INET6);
        if internet && matches!(protocol, 0 | libc::IPPROTO_TCP) {
            return Self::Tcp;
        }
        Self::Stream
    }
}

/// One open file description.
#[repr(align(64))]
pub(super) struct Description {
    /// Generation in the upper half, table entries that name it in the lower. 0 shares = free.
    state: AtomicU64,
    /// Where its waiters are; null until somebody waited.
    io: AtomicPtr<Io>,
    /// [`Kind`] in the low bits, then the flags below.
    bits: AtomicU32,
    /// Place + 1 of the next free description; 0 = none. Meaningful while free.
    next_free: AtomicU32,
    /// SO_RCVTIMEO in nanoseconds; 0 = none.
    receive_timeout: AtomicU64,
    /// SO_SNDTIMEO in nanoseconds; 0 = none.
    send_timeout: AtomicU64,
    /// generation in the upper half, the tick before the read that emptied it in the lower.
    drained: AtomicU64,
}

// SAFETY: all fields are atomics whose zero means none, free or unset.
unsafe impl ZeroIsEmpty for Description {}

/// The program wants non-blocking calls (O_NONBLOCK as it sees it).
pub(super) const NONBLOCKING: u32 = 1 << 8;
/// Our own O_NONBLOCK is on in the kernel and hidden from the program.
pub(super) const HIDDEN: u32 = 1 << 9;
/// Made by a hook in this process, so no other process shares its flags.
pub(super) const MADE_HERE: u32 = 1 << 10;
/// The kernel refuses `RWF_NOWAIT` for reads, or for writes.
pub(super) const NO_NOWAIT_READ: u32 = 1 << 11;
/// See [`NO_NOWAIT_READ`].
pub(super) const NO_NOWAIT_WRITE: u32 = 1 << 12;
/// Somebody is between `poll(0)` and the plain call, reading.
pub(super) const TURN_READ: u32 = 1 << 13;
/// Somebody is between `poll(0)` and the plain call, writing.
pub(super) const TURN_WRITE: u32 = 1 << 14;
/// SO_RCVLOWAT above 1 is set: reads wait for that much.
pub(super) const LOW_WATER: u32 = 1 << 15;
/// A call that is cut leaves the connection open.
pub(super) const KEPT_WHEN_CUT: u32 = 1 << 16;

impl Description {
    #[inline]
    pub(super) fn kind(&self) -> Kind {
        Kind::from_bits(self.bits.load(Ordering::Relaxed))
    }

    pub(super) fn set_kind(&self, kind: Kind) {
        let change = |bits: u32| Some((bits & !KIND_MASK) | kind as u32);
        let _ = self
            .bits
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    #[inline]
    pub(super) fn has(&self, flag: u32) -> bool {
        self.bits.load(Ordering::Relaxed) & flag != 0
    }

    /// Sets or clears `flag`; whether it was set before.
    pub(super) fn set(&self, flag: u32, on: bool) -> bool {
        let before = if on {
            self.bits.fetch_or(flag, Ordering::AcqRel)
        } else {
            self.bits.fetch_and(!flag, Ordering::AcqRel)
        };
        before & flag != 0
    }

    /// The socket's own limit for waits in this direction.
    pub(super) fn timeout(&self, dir: Dir) -> Option<Duration> {
        let nanos = match dir {
            Dir::Read => self.receive_timeout.load(Ordering::Relaxed),
            Dir::Write => self.send_timeout.load(Ordering::Relaxed),
        };
        (nanos != 0).then(|| Duration::from_nanos(nanos))
    }

    pub(super) fn set_timeout(&self, dir: Dir, nanos: u64) {
        match dir {
            Dir::Read => self.receive_timeout.store(nanos, Ordering::Relaxed),
            Dir::Write => self.send_timeout.store(nanos, Ordering::Relaxed),
        }
    }

    pub(super) fn inherit_timeouts(&self, from: &Self) {
        let receive = from.receive_timeout.load(Ordering::Relaxed);
        self.receive_timeout.store(receive, Ordering::Relaxed);
        let send = from.send_timeout.load(Ordering::Relaxed);
        self.send_timeout.store(send, Ordering::Relaxed);
    }

    fn place(index: u32) -> Option<&'static Self> {
        DESCRIPTIONS.get(index as usize)
    }
}

/// A descriptor, the word it had, and the description that word names.
#[derive(Clone, Copy)]
pub(super) struct Handle {
    pub(super) fd: RawFd,
    pub(super) word: Word,
    pub(super) description: &'static Description,
}

impl Handle {
    /// The description of `fd`; asks the kernel where none is known yet. `None` = pass the call on.
    #[inline]
    pub(super) fn find(fd: RawFd) -> Option<Self> {
        let mut word = table::word(fd);
        if word == Word::UNKNOWN {
            word = classify::ask_kernel(fd);
        }
        Self::of(fd, word)
    }

    /// The description of `fd` if one is known.
    #[inline]
    pub(super) fn known(fd: RawFd) -> Option<Self> {
        Self::of(fd, table::word(fd))
    }

    #[inline]
    fn of(fd: RawFd, word: Word) -> Option<Self> {
        let (index, _) = word.named()?;
        let description = Description::place(index)?;
        Some(Self {
            fd,
            word,
            description,
        })
    }

    /// True while the descriptor is still the open file it was when looked up (T-3).
    #[inline]
    pub(super) fn is_current(&self) -> bool {
        std::sync::atomic::fence(Ordering::Acquire);
        table::word(self.fd) == self.word
    }

    /// Where its waiters are, if somebody waited before.
    #[inline]
    pub(super) fn io(&self) -> Option<&'static Io> {
        let io = self.description.io.load(Ordering::Acquire);
        // SAFETY: non-null pointers stored there come from `&'static Io` (D-3).
        unsafe { io.as_ref() }
    }

    /// Where its waiters are, made now if need be. `None` when the reactor has no more room.
    pub(super) fn io_or_acquire(&self, dir: Dir) -> Option<Acquired> {
        let known = |io: &'static Io| Acquired {
            io,
            seen: io.tick(dir),
            fresh: false,
        };
        if let Some(io) = self.io() {
            return Some(known(io));
        }
        let io = Io::acquire()?;
        // Read before anybody else can find the slot: no edge can hide before it.
        let seen = io.tick(dir);
        let mine = std::ptr::from_ref(io).cast_mut();
        match self.description.io.compare_exchange(
            std::ptr::null_mut(),
            mine,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(_) => Some(Acquired {
                io,
                seen,
                fresh: true,
            }),
            Err(theirs) => {
                io.release();
                // SAFETY: as in `io`; a failed exchange from null found a non-null pointer.
                Some(known(unsafe { &*theirs }))
            }
        }
    }

    /// remembers that a read after tick `seen` emptied the socket.
    #[inline]
    pub(super) fn mark_drained(&self, seen: u32) {
        let mark = (self.word.0 & !0xffff_ffff) | u64::from(seen);
        self.description.drained.store(mark, Ordering::Relaxed);
    }

    /// true if the socket was emptied and no edge came since; `seen` is the tick now.
    #[inline]
    pub(super) fn is_drained(&self, seen: u32) -> bool {
        let mark = (self.word.0 & !0xffff_ffff) | u64::from(seen);
        self.description.drained.load(Ordering::Relaxed) == mark
    }
}

/// A slot for waiters and where its edges stood.
pub(super) struct Acquired {
    pub(super) io: &'static Io,
    /// Tick of the wanted direction.
    pub(super) seen: u32,
    /// True if the slot was made by this call, so that no edge was counted before.
    pub(super) fresh: bool,
}

/// A new description with one share. `None` when all places are taken: the call then goes plain.
pub(super) fn create(kind: Kind, flags: u32) -> Option<Word> {
    let index = take_free()?;
    let description = DESCRIPTIONS.get_or_map(index as usize)?;
    let generation = (description.state.load(Ordering::Relaxed) >> 32) as u32;
    description
        .bits
        .store(kind as u32 | flags, Ordering::Relaxed);
    description.receive_timeout.store(0, Ordering::Relaxed);
    description.send_timeout.store(0, Ordering::Relaxed);
    // Generation 0 is never used: a zeroed `drained` must not match.
    let generation = generation.max(1);
    let state = (u64::from(generation) << 32) | 1;
    description.state.store(state, Ordering::Release);
    Some(Word::naming(index, generation))
}

/// One more share of what `word` names, for a dup. False if that is gone meanwhile (D-1).
pub(super) fn add_share(word: Word) -> bool {
    let Some((index, generation)) = word.named() else {
        return word == Word::PLAIN;
    };
    let Some(description) = Description::place(index) else {
        return false;
    };
    let more = |state: u64| {
        let alive = (state >> 32) as u32 == generation && state & 0xffff_ffff != 0;
        alive.then(|| state + 1)
    };
    description
        .state
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
        .is_ok()
}

/// Gives back one share and makes all waiters look again; the last one frees the place.
pub(super) fn drop_share(word: Word) {
    // In a child after `fork` the slots' epoll is the parent's: nothing of it may be touched.
    if in_child() {
        return;
    }
    let Some((index, generation)) = word.named() else {
        return;
    };
    let Some(description) = Description::place(index) else {
        return;
    };
    let less = |state: u64| {
        if (state >> 32) as u32 != generation || state & 0xffff_ffff == 0 {
            return None;
        }
        if state & 0xffff_ffff == 1 {
            return Some(u64::from(generation.wrapping_add(1).max(1)) << 32);
        }
        Some(state - 1)
    };
    let dropped = description
        .state
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    match dropped {
        Ok(before) if before & 0xffff_ffff == 1 => retire(index, description),
        // Those who wait on the closed number have to learn of it.
        Ok(_) => nudge(description),
        Err(_) => {}
    }
}

fn nudge(description: &Description) {
    let io = description.io.load(Ordering::Acquire);
    // SAFETY: non-null pointers stored there come from `&'static Io` (D-3).
    if let Some(io) = unsafe { io.as_ref() } {
        io.nudge();
    }
}

fn retire(index: u32, description: &'static Description) {
    let io = description.io.swap(std::ptr::null_mut(), Ordering::AcqRel);
    // SAFETY: non-null pointers stored there come from `&'static Io` (D-3).
    if let Some(io) = unsafe { io.as_ref() } {
        io.release();
    }
    put_free(index, description);
}

/// Free places: a counter against reuse in the upper half, place + 1 of the first in the lower.
static FREE: AtomicU64 = AtomicU64::new(0);
/// Places never used yet start here.
static UNUSED: AtomicU32 = AtomicU32::new(0);
static DESCRIPTIONS: Mapped<Description, PER_CHUNK, CHUNKS> = Mapped::new();

fn take_free() -> Option<u32> {
    let mut head = FREE.load(Ordering::Acquire);
    while let Some(index) = ((head & 0xffff_ffff) as u32).checked_sub(1) {
        let next = Description::place(index)?.next_free.load(Ordering::Relaxed);
        let new = (((head >> 32) + 1) << 32) | u64::from(next);
        match FREE.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Some(index),
            Err(now) => head = now,
        }
    }
    let fits = |n: u32| ((n as usize) < PER_CHUNK * CHUNKS).then_some(n + 1);
    UNUSED
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
        .ok()
}

fn put_free(index: u32, description: &Description) {
    let mut head = FREE.load(Ordering::Relaxed);
    loop {
        description
            .next_free
            .store((head & 0xffff_ffff) as u32, Ordering::Relaxed);
        let new = (((head >> 32) + 1) << 32) | u64::from(index + 1);
        match FREE.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => head = now,
        }
    }
}

const KIND_MASK: u32 = 0xff;
/// 1,048,576 descriptions: one for every number the table holds.
const PER_CHUNK: usize = 1024;
const CHUNKS: usize = 1024;
