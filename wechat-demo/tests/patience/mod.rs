//! Waiting for what processes do by themselves: looked at again and again, and given up with words.

use std::time::Duration;

use rpc_core::time::Instant;
use wechat_demo::terminal::TerminalError;

/// Longer than anything here takes, on a busy machine too; a test that hangs ends with words.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Again while the trouble is transient.
pub fn patiently<T>(mut ask: impl FnMut() -> Result<T, TerminalError>) -> T {
    let until = Instant::after(PATIENCE);
    loop {
        match ask() {
            Err(error) if error.is_transient() && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            outcome => return outcome.unwrap(),
        }
    }
}

/// Polls for something that comes by itself.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::after(PATIENCE);
    while Instant::now() < until {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("not within {PATIENCE:?}: {what}");
}
