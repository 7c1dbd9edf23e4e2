//! `terminal_sync` of `src/targets.rs` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    targets::terminal_sync(data);
});
