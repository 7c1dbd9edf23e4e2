//! The one place where access and the terminal start coroutines.

/// Starts `work` beside the caller: as a coroutine where there is a runtime, else as a thread. The code of
/// these roles is plain blocking code and runs on either; tests make use of that.
pub(crate) fn spawn(name: &'static str, work: impl FnOnce() + Send + 'static) {
    if rpc_core::Handle::try_current().is_some() {
        // Nobody waits for its end, and thread-locals that a neighbour left behind do no harm here.
        drop(
            rpc_core::Builder::new()
                .name(name)
                .reuse_thread_locals(true)
                .spawn(work),
        );
    } else {
        let started = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work);
        started.expect("the system has a thread to give outside of a runtime");
    }
}
