//! Turns the service of the whole-system tests into Rust.

fn main() {
    let protos = [
        "proto/probe.proto",
        "proto/library.proto",
        "proto/feed.proto",
        "../examples/proto/example.proto",
    ];
    let generated = rpc_codegen::compile_protos(&protos, &["proto", "../examples/proto"]);
    let with_mocks = rpc_codegen::configure()
        .build_mock(true)
        .generate_default_stubs(true);
    let mocked = with_mocks.compile_protos(&["proto/numbers.proto"], &["proto"]);
    if let Err(error) = generated.and(mocked) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
