//! Turns `proto/*.proto` into Rust: messages, service traits, clients.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = [
        "proto/terminal.proto",
        "proto/logic.proto",
        "proto/access.proto",
        "proto/storage.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(protos, ["proto"])?;
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
