//! What the library benchmark calls: redis-server, MariaDB, and HTTP plain and in TLS, both with a
//! thread for each connection. Neither side of the benchmark: both ask it.
//!
//! Prints where they listen as one JSON object, and ends them when its standard input ends.

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use libraries::http::{self, Certificate};
use libraries::processes::Process;
use libraries::threaded::Threaded;

/// Start the servers that the library benchmark calls
#[derive(Parser)]
struct Flags {
    /// Milliseconds from an HTTP request to its answer
    #[arg(long, default_value_t = 100)]
    wait_ms: u64,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    libraries::room_for_descriptors()?;
    let wait = move || std::thread::sleep(Duration::from_millis(flags.wait_ms));
    let (redis, mysql) = (Process::redis()?, Process::mariadb()?);
    let plain = Threaded::start(move |stream| http::serve(stream, wait))?;
    let certificate = Certificate::new()?;
    let folder = tempfile::tempdir()?;
    let der = folder.path().join("certificate.der");
    std::fs::write(&der, certificate.der())?;
    let tls = Threaded::start(move |stream| -> Result<()> {
        Ok(http::serve(certificate.accept(stream)?, wait)?)
    })?;
    println!(
        "{}",
        serde_json::json!({
            "redis": redis.addr(),
            "mysql": mysql.addr(),
            "http": plain.addr(),
            "https": tls.addr(),
            "certificate": der,
        })
    );
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
