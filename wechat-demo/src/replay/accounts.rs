//! Accounts and devices for everybody in a log, or in a crowd.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use indicatif::ProgressBar;
use rpc_core::time::Instant;
use wechat_demo::terminal::error::code;
use wechat_demo::terminal::{TerminalError, login, register};

use super::parallel::parallel;

/// People registered at a time.
const WIDTH: usize = 32;
/// How long one question may be asked again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause before it is.
const PAUSE: Duration = Duration::from_millis(100);
/// Everybody's; it protects nothing.
const PASSWORD: &str = "replay-replay";

/// One person, with two devices.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) user_id: u64,
    /// The device that takes part.
    pub(crate) token: Bytes,
    /// Its id.
    pub(crate) device: u64,
    /// The device that syncs from nothing at the end.
    pub(crate) fresh_token: Bytes,
    /// Its id.
    pub(crate) fresh_device: u64,
}

/// Registers everybody and logs two devices in, each person in turn at the next of these addresses.
pub(crate) fn open(
    addresses: &[String],
    names: Arc<Vec<String>>,
    bar: &ProgressBar,
) -> anyhow::Result<Vec<Person>> {
    let (addresses, counted) = (addresses.to_owned(), bar.clone());
    let people = parallel(names.len(), WIDTH, move |index| {
        let name = &names[index];
        let address = &addresses[index % addresses.len()];
        let trouble = |what: &str, error| anyhow::anyhow!("cannot {what} {name}: {error}");
        // A register whose answer was lost is answered "taken" the second time.
        match patiently(|| register(address, name, PASSWORD, name)) {
            Err(error) if !error.is_refusal(code::ALREADY_EXISTS) => {
                return Err(trouble("register", error));
            }
            _ => {}
        }
        let device = |label| patiently(|| login(address, name, PASSWORD, label));
        let phone = device("phone").map_err(|error| trouble("log in", error))?;
        let fresh = device("fresh").map_err(|error| trouble("log in", error))?;
        counted.inc(1);
        Ok(Person {
            user_id: phone.user_id,
            token: phone.token,
            device: phone.device_id,
            fresh_token: fresh.token,
            fresh_device: fresh.device_id,
        })
    });
    bar.finish_and_clear();
    people
}

/// Logs a further device of a person's in: its id and token.
pub(crate) fn log_in(address: &str, name: &str, label: &str) -> anyhow::Result<(u64, Bytes)> {
    let device = patiently(|| login(address, name, PASSWORD, label));
    let device = device.map_err(|error| anyhow::anyhow!("cannot log in {name}: {error}"))?;
    Ok((device.device_id, device.token))
}

/// Again while the trouble is transient.
pub(super) fn patiently<T>(ask: impl Fn() -> Result<T, TerminalError>) -> Result<T, TerminalError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Err(error) if error.is_transient() && Instant::now() < until => {
                std::thread::sleep(PAUSE)
            }
            result => return result,
        }
    }
}
