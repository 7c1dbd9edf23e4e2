//! Running one program after another, with a line before each and its time after.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask
        .ancestors()
        .nth(2)
        .expect("tests/xtask lies two folders below the root")
        .to_owned()
}

/// The cargo that runs us, in the workspace's root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(args);
    command
}

/// Says what runs, runs it, says how long it took.
pub(crate) fn step(command: &mut Command) -> Result<()> {
    let started = Instant::now();
    last_step(command)?;
    println!("==> done in {} s", started.elapsed().as_secs());
    Ok(())
}

/// Like [`step`], but the program's own last line stays the last.
pub(crate) fn last_step(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    println!("==> {shown}");
    let status = command
        .status()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status}): its message is above");
    }
    Ok(())
}

/// The command as a person would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy();
    let args = command.get_args().map(|a| a.to_string_lossy());
    std::iter::once(name)
        .chain(args)
        .collect::<Vec<_>>()
        .join(" ")
}
