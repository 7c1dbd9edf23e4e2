//! A child's end of the promise that it does not outlive its launcher (C-1).

use std::io::Read;

/// Calls `then` on a thread of its own once standard input ends, which it does when the launcher closes
/// its end of the pipe or dies in whatever way.
///
/// # Errors
/// When the thread cannot be started.
pub fn when_it_ends(then: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let watch = move || {
        let mut stdin = std::io::stdin().lock();
        let mut bytes = [0; 64];
        // Whatever is said on it means nothing; an error means that there is no parent either.
        while stdin.read(&mut bytes).is_ok_and(|length| length > 0) {}
        then();
    };
    std::thread::Builder::new()
        .name("parent-watch".to_owned())
        .spawn(watch)
        .map(drop)
}
