//! `grpc_server` of `src/targets.rs` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    targets::grpc_server(data);
});
