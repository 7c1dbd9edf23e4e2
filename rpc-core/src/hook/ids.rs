//! User and group ids: setuid and its kin.
//!
//! glibc has every thread change its ids by a signal, and asks again until each has answered for itself.
//! A coroutine would be asked as its worker and answer as itself, for ever; so the blocking pool makes
//! these calls. A worker that is asked while it runs a coroutine is asked again: a call may last as long
//! as a coroutine that does not wait. And a coroutine's block is made by a kernel thread that leaves at
//! once: one that left unasked would be waited for, so none is made meanwhile.
//!
//! Knows: the functions' names.   Does not know: which ids there are.

#![expect(unsafe_code, reason = "replaces libc functions")]

use libc::{c_char, gid_t, size_t, uid_t};

use super::pool;
use super::raw::{answer_int, c_int, failure};
use super::symbol::{Symbol, behind};
use crate::base::sys;
use crate::coroutine::identity;

macro_rules! by_number {
    ($($name:ident($($argument:ident: $kind:ty),+), $symbol:literal, $text:literal;)+) => {$(
        #[doc = $text]
        ///
        /// # Safety
        /// - As for libc's function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $kind),+) -> c_int {
            // SAFETY: the program's own promise.
            change(move || unsafe { behind!(Symbol::new($symbol), $($argument: $kind),+) })
        }
    )+};
}

by_number! {
    setuid(uid: uid_t), c"setuid", "`setuid(2)`.";
    setgid(gid: gid_t), c"setgid", "`setgid(2)`.";
    seteuid(uid: uid_t), c"seteuid", "`seteuid(2)`.";
    setegid(gid: gid_t), c"setegid", "`setegid(2)`.";
    setreuid(real: uid_t, effective: uid_t), c"setreuid", "`setreuid(2)`.";
    setregid(real: gid_t, effective: gid_t), c"setregid", "`setregid(2)`.";
    setresuid(real: uid_t, effective: uid_t, saved: uid_t), c"setresuid", "`setresuid(2)`.";
    setresgid(real: gid_t, effective: gid_t, saved: gid_t), c"setresgid", "`setresgid(2)`.";
}

/// `setgroups(2)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn setgroups(count: size_t, groups: *const gid_t) -> c_int {
    let groups = groups.expose_provenance();
    change(move || {
        let groups = std::ptr::with_exposed_provenance(groups);
        // SAFETY: the program's own promise: the caller waits, so what it points to stays.
        unsafe { behind!(Symbol::new(c"setgroups"), count: size_t, groups: *const gid_t) }
    })
}

/// `initgroups(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn initgroups(user: *const c_char, group: gid_t) -> c_int {
    let user = user.expose_provenance();
    change(move || {
        let user = std::ptr::with_exposed_provenance(user);
        // SAFETY: as above.
        unsafe { behind!(Symbol::new(c"initgroups"), user: *const c_char, group: gid_t) }
    })
}

fn change(call: impl Fn() -> c_int + Clone + Send + 'static) -> c_int {
    if super::in_child() {
        // Nobody makes blocks here, and who did in the parent may have held the lock.
        return call();
    }
    answer_int(pool::run_or_here(move || {
        let _none_in_the_making = identity::stop_making();
        match call() {
            -1 => failure(sys::errno()),
            done => done as isize,
        }
    }))
}
