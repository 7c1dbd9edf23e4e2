//! What must be ready before the first hook is called in a coroutine.
//!
//! Knows: the loader's list of start-up functions.   Does not know: runtimes, of which there may be many
//! or none.

#![expect(unsafe_code, reason = "an entry in a linker section, and a C function")]

use super::{descriptors, process, resolve, signal, thread};

/// Run by the loader before `main`: no hook has to resolve a symbol or register a handler later.
#[used]
#[unsafe(link_section = ".init_array")]
static PREPARE: extern "C" fn() = prepare;

extern "C" fn prepare() {
    descriptors::prepare();
    resolve::prepare();
    thread::prepare();
    process::prepare();
    signal::prepare();
    // SAFETY: the handler touches an atomic and a thread-local word.
    unsafe { pthread_atfork(None, None, Some(process::child_after_fork)) };
}

type Handler = Option<extern "C" fn()>;

unsafe extern "C" {
    fn pthread_atfork(prepare: Handler, parent: Handler, child: Handler) -> libc::c_int;
}
