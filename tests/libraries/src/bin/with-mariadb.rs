//! `with-mariadb PROGRAM ARGUMENTS…`: runs a program beside a fresh MariaDB on loopback. `{}` in its arguments
//! stands for the database's HOST:PORT. The exit status is the program's; the database ends with it.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use libraries::processes::Process;

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let program = arguments
        .next()
        .context("with-mariadb PROGRAM ARGUMENTS…")?;
    let server = Process::mariadb()?;
    let address = server.addr().to_string();
    let status = Command::new(&program)
        .args(arguments.map(|argument| argument.replace("{}", &address)))
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    drop(server);
    // Who was killed by a signal has failed like any other.
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}
