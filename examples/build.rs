//! Turns the .proto files of the examples into Rust.

fn main() {
    let protos = [
        "proto/example.proto",
        "proto/grpc/testing/test.proto",
        "proto/greeter.proto",
        "proto/helloworld.proto",
    ];
    if let Err(error) = rpc_codegen::compile_protos(&protos, &["proto"]) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
