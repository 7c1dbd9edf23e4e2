//! The same work for many, a few at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Does `work` for 0..count in up to `width` coroutines; the results in order.
///
/// # Errors
/// The first error met; the others finish what they are doing.
pub(crate) fn parallel<T: Send + 'static>(
    count: usize,
    width: usize,
    work: impl Fn(usize) -> anyhow::Result<T> + Send + Sync + 'static,
) -> anyhow::Result<Vec<T>> {
    let (work, next) = (Arc::new(work), Arc::new(AtomicUsize::new(0)));
    let workers: Vec<_> = (0..width.min(count))
        .map(|_| {
            let (work, next) = (work.clone(), next.clone());
            rpc_core::spawn(move || {
                let mut done = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return Ok(done);
                    }
                    match work(index) {
                        Ok(result) => done.push((index, result)),
                        Err(error) => {
                            next.store(count, Ordering::Relaxed);
                            return Err(error);
                        }
                    }
                }
            })
        })
        .collect();
    let mut all = Vec::with_capacity(count);
    let mut failed = None;
    for worker in workers {
        match worker.join() {
            Ok(Ok(done)) => all.extend(done),
            Ok(Err(error)) => failed = failed.or(Some(error)),
            Err(panicked) => failed = failed.or_else(|| Some(anyhow::anyhow!("{panicked}"))),
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    all.sort_unstable_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}
