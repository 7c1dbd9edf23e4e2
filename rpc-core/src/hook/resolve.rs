//! getaddrinfo: on the blocking pool while the coroutine waits.
//!
//! glibc resolves with calls inside itself that no symbol of ours can catch, so the whole call moves to
//! a pool thread. Unlike the other hooks this one allocates, as getaddrinfo always does.

#![expect(
    unsafe_code,
    reason = "replaces a libc function that takes raw pointers"
)]

use std::ffi::CString;
use std::sync::Arc;

use libc::{addrinfo, c_char};

use super::cut;
use super::raw::c_int;
use super::symbol::Symbol;
use crate::base::lock::SpinLock;
use crate::base::sys;
use crate::base::time::Instant;
use crate::runtime::park::park;
use crate::runtime::{self, Reason, TaskRef};

/// `getaddrinfo(3)`; in a coroutine it runs on the blocking pool.
///
/// # Safety
/// - As for libc's `getaddrinfo`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getaddrinfo(
    node: *const c_char,
    service: *const c_char,
    hints: *const addrinfo,
    result: *mut *mut addrinfo,
) -> c_int {
    let Some(original) = original() else {
        return libc::EAI_SYSTEM;
    };
    let Some(task) = runtime::current() else {
        // SAFETY: the program's own promise.
        return unsafe { original(node, service, hints, result) };
    };
    // It always waits, so that a scope that is over ends it at once.
    if let Some(errno) = ended(task) {
        cut::before_failing();
        sys::set_errno(errno);
        return libc::EAI_SYSTEM;
    }
    // SAFETY: the program passes null or C strings and hints that live across the call.
    let question = unsafe { Question::copy(node, service, hints) };
    let answer = Arc::new(Answer {
        state: SpinLock::new(State::Open),
        task,
    });
    let theirs = Arc::clone(&answer);
    drop(runtime::spawn_blocking(move || {
        theirs.give(question.ask(original));
    }));
    match answer.take() {
        Ok(found) => {
            if found.code == 0 {
                // SAFETY: the program passes a place for the list.
                unsafe { result.write(found.list) };
            }
            sys::set_errno(found.errno);
            found.code
        }
        Err(errno) => {
            sys::set_errno(errno);
            libc::EAI_SYSTEM
        }
    }
}

/// Why the coroutine's scope ends a call now, if it does.
fn ended(task: TaskRef) -> Option<c_int> {
    if task.cancelled() {
        return Some(libc::ECANCELED);
    }
    (Instant::now() >= task.deadline()).then_some(libc::ETIMEDOUT)
}

/// Finds the original in advance, so that no hook has to.
pub(super) fn prepare() {
    let _ = original();
}

type Getaddrinfo = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const addrinfo,
    *mut *mut addrinfo,
) -> c_int;

static ORIGINAL: Symbol = Symbol::new(c"getaddrinfo");

fn original() -> Option<Getaddrinfo> {
    let address = ORIGINAL.find()?;
    // SAFETY: the symbol of that name in the C library has this type.
    Some(unsafe { std::mem::transmute::<*mut libc::c_void, Getaddrinfo>(address.as_ptr()) })
}

/// Copies of the arguments: a cut call returns while the pool thread is still at it.
struct Question {
    node: Option<CString>,
    service: Option<CString>,
    /// Flags, family, socket type, protocol.
    hints: Option<[c_int; 4]>,
}

impl Question {
    /// # Safety
    /// - Null or valid pointers, as getaddrinfo wants them.
    unsafe fn copy(node: *const c_char, service: *const c_char, hints: *const addrinfo) -> Self {
        let text = |p: *const c_char| {
            if p.is_null() {
                return None;
            }
            // SAFETY: the caller's promise.
            Some(unsafe { std::ffi::CStr::from_ptr(p) }.to_owned())
        };
        // SAFETY: the caller's promise.
        let hints = unsafe { hints.as_ref() }
            .map(|h| [h.ai_flags, h.ai_family, h.ai_socktype, h.ai_protocol]);
        Self {
            node: text(node),
            service: text(service),
            hints,
        }
    }

    fn ask(&self, original: Getaddrinfo) -> Found {
        let pointer = |s: &Option<CString>| s.as_ref().map_or(std::ptr::null(), |s| s.as_ptr());
        // SAFETY: zero is a valid empty hint.
        let mut hints: addrinfo = unsafe { std::mem::zeroed() };
        let place = if let Some([flags, family, kind, protocol]) = self.hints {
            hints.ai_flags = flags;
            hints.ai_family = family;
            hints.ai_socktype = kind;
            hints.ai_protocol = protocol;
            &raw const hints
        } else {
            std::ptr::null()
        };
        let mut list = std::ptr::null_mut();
        let (node, service) = (pointer(&self.node), pointer(&self.service));
        // SAFETY: all arguments live across the call.
        let code = unsafe { original(node, service, place, &raw mut list) };
        Found {
            code,
            errno: sys::errno(),
            list,
        }
    }
}

/// What the resolver said.
struct Found {
    /// 0 or an `EAI_` code.
    code: c_int,
    /// `errno` as the resolver left it.
    errno: c_int,
    /// The addresses; valid where `code` is 0.
    list: *mut addrinfo,
}

// SAFETY: the list belongs to whoever holds this.
unsafe impl Send for Found {}

enum State {
    Open,
    Given(Found),
    /// The caller has left, or has its answer.
    Closed,
}

/// Where the pool thread leaves its answer.
struct Answer {
    state: SpinLock<State>,
    task: TaskRef,
}

impl Answer {
    fn give(&self, found: Found) {
        let unwanted = {
            let mut state = self.state.lock();
            if matches!(*state, State::Closed) {
                Some(found)
            } else {
                *state = State::Given(found);
                None
            }
        };
        match unwanted {
            // SAFETY: a successful call's list, handed to nobody.
            Some(found) if found.code == 0 => unsafe { libc::freeaddrinfo(found.list) },
            Some(_) => {}
            None => self.task.unpark(),
        }
    }

    /// Parks until the answer is there; `Err` when the scope ends first.
    fn take(&self) -> Result<Found, c_int> {
        loop {
            let ends = ended(self.task);
            {
                let mut state = self.state.lock();
                if matches!(*state, State::Given(_))
                    && let State::Given(found) = std::mem::replace(&mut *state, State::Closed)
                {
                    return Ok(found);
                }
                if ends.is_some() {
                    *state = State::Closed;
                }
            }
            if let Some(errno) = ends {
                cut::before_failing();
                return Err(errno);
            }
            park(Reason::Other("name resolution"), self.task.deadline());
        }
    }
}
