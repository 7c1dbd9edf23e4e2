//! `decompress` of `src/targets.rs` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    targets::decompress(data);
});
