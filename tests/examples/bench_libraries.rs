//! The library benchmark on coroutines: one worker. `cargo xtask bench runtime` runs it beside
//! `thread_libraries`. Its last line is one JSON object.

use anyhow::Result;
use clap::Parser;
use libraries::load::{self, Load};

/// Call a slow server through somebody's library, many times at once, on one worker
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    load: Load,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let runtime = rpc_core::Runtime::builder().workers(1).build()?;
    let line = load::run(&flags.load, |caller| {
        drop(runtime.spawn(caller));
        Ok(())
    })?;
    println!("{line}");
    Ok(())
}
