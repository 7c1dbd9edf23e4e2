//! The disk's own pace: what a durable answer costs at the least.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use hdrhistogram::Histogram;
use rpc_core::time::Instant;

/// Bytes appended at a time.
const BLOCK: usize = 4 << 10;
/// Appends measured.
const APPENDS: usize = 1_000;

/// Latencies of an append of 4 KiB with fdatasync below `dir`, in µs.
pub(super) fn baseline(dir: &Path) -> anyhow::Result<Histogram<u64>> {
    let path = dir.join("baseline");
    let open = OpenOptions::new().create(true).append(true).open(&path);
    let mut file = open.with_context(|| path.display().to_string())?;
    let block = [0x5a; BLOCK];
    let mut latencies = Histogram::new(3).expect("three digits are a valid precision");
    for _ in 0..APPENDS {
        let began = Instant::now();
        file.write_all(&block)
            .and_then(|()| file.sync_data())
            .with_context(|| path.display().to_string())?;
        latencies += began.elapsed().as_micros() as u64;
    }
    std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
    Ok(latencies)
}
