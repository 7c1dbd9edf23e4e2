//! Turns `proto/*.proto` into Rust: messages, service traits, servers, clients.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = [
        "proto/terminal.proto",
        "proto/logic.proto",
        "proto/access.proto",
        "proto/storage.proto",
        "proto/coordinator.proto",
        "proto/wan.proto",
        "proto/dispatch.proto",
    ];
    rpc_codegen::configure()
        .bytes(".")
        .compile_protos(&protos, &["proto"])?;
    Ok(())
}
