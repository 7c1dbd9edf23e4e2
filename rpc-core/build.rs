//! Cargo asks for a build script where a package says `links`; ours has nothing to build.
//!
//! `links` makes two versions of rpc-core in one program a clear error: both would replace the same
//! libc symbols.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
