//! The library benchmark on operating-system threads, one for each call: what the coroutines of
//! `bench_libraries` replace.

use anyhow::Result;
use clap::Parser;
use libraries::load::{self, Load};

/// Call a slow server through somebody's library, many times at once, from as many threads
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    load: Load,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let line = load::run(&flags.load, |caller| {
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        thread.spawn(caller)?;
        Ok(())
    })?;
    println!("{line}");
    Ok(())
}
