//! Turns the .proto files of the examples into Rust.

fn main() {
    if let Err(error) =
        rpc_codegen::compile_protos(&["proto/example.proto", "proto/greeter.proto"], &["proto"])
    {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
