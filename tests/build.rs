//! Turns the service of the whole-system tests into Rust.

fn main() {
    let protos = [
        "proto/probe.proto",
        "proto/library.proto",
        "../examples/proto/example.proto",
    ];
    if let Err(error) = rpc_codegen::compile_protos(&protos, &["proto", "../examples/proto"]) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
