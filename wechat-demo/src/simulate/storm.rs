//! A crowd that lost the same access process, and how it comes back.
//!
//! Knows:       the terminal's ladder of waits.   Does not know: sockets; time is virtual.

use std::time::Duration;

use clap::Args;
use rpc_core::base::rng::Rng;
use wechat_demo::terminal::ladder::Ladder;

use super::Plot;
use crate::svg;

/// Flags of `simulate storm`.
#[derive(Args, Debug)]
pub(super) struct Flags {
    /// Terminals that lose their link at once
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    terminals: u32,
    /// Seconds until the process takes connections again
    #[arg(long, value_name = "SECONDS", default_value_t = 1.5)]
    back_after: f64,
    /// Chooses the salts
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    plot: Plot,
}

/// Attempts are counted in steps of this length.
const STEP: Duration = Duration::from_millis(100);
/// A terminal that did not come back in this many attempts never will.
const ATTEMPTS: usize = 10_000;

/// How a crowd came back.
struct Return {
    /// Attempts in each [`STEP`] from the loss on.
    attempts: Vec<f64>,
    /// When each terminal was back, in order.
    back: Vec<Duration>,
}

impl Return {
    fn peak(&self) -> f64 {
        self.attempts.iter().copied().fold(0.0, f64::max)
    }

    /// When this share of the crowd was back.
    fn share(&self, share: f64) -> Duration {
        let last = self.back.len().saturating_sub(1);
        let at = (last as f64 * share) as usize;
        self.back.get(at).copied().unwrap_or_default()
    }
}

/// `salt` gives the salt of each attempt.
fn come_back(terminals: u32, back_after: Duration, mut salt: impl FnMut() -> u32) -> Return {
    let mut attempts = Vec::new();
    let mut back = Vec::new();
    for _ in 0..terminals {
        let mut ladder = Ladder::default();
        let mut now = Duration::ZERO;
        for _ in 0..ATTEMPTS {
            now += ladder.next_wait(salt());
            let step = (now.as_nanos() / STEP.as_nanos()) as usize;
            if attempts.len() <= step {
                attempts.resize(step + 1, 0.0);
            }
            attempts[step] += 1.0;
            if now >= back_after {
                back.push(now);
                break;
            }
        }
    }
    back.sort_unstable();
    Return { attempts, back }
}

/// Prints the table and draws the plot.
pub(super) fn run(flags: &Flags) -> anyhow::Result<()> {
    anyhow::ensure!(
        (0.0..=3600.0).contains(&flags.back_after),
        "--back-after {} is not between 0 and 3600 seconds",
        flags.back_after
    );
    let after = Duration::from_secs_f64(flags.back_after);
    let mut rng = Rng::from_seed(flags.seed);
    let salted = come_back(flags.terminals, after, || (rng.next_u64() >> 32) as u32);
    let plain = come_back(flags.terminals, after, || 1 << 31);
    println!(
        "{} terminals lose their link at once; it can be had again after {:.1} s (seed {})\n",
        flags.terminals, flags.back_after, flags.seed
    );
    println!("waits     peak attempts/100 ms   half back   99 % back   all back");
    for (name, crowd) in [("salted", &salted), ("unsalted", &plain)] {
        println!(
            "{name:<9} {:>20.0} {:>9.1} s {:>9.1} s {:>8.1} s",
            crowd.peak(),
            crowd.share(0.5).as_secs_f64(),
            crowd.share(0.99).as_secs_f64(),
            crowd.share(1.0).as_secs_f64()
        );
    }
    flags.plot.write(|| {
        let steps = salted.attempts.len().max(plain.attempts.len());
        let series = [("salted", salted), ("unsalted", plain)].map(|(name, mut crowd)| {
            crowd.attempts.resize(steps, 0.0);
            (name, crowd.attempts)
        });
        let title = format!(
            "{} terminals after a restart: attempts per 100 ms",
            flags.terminals
        );
        let last = format!("{:.0} s", steps as f64 * STEP.as_secs_f64());
        svg::lines(&title, &last, &series)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_terminals_come_back_without_a_storm() {
        for seed in 0..20 {
            let mut rng = Rng::from_seed(seed);
            for after in [0, 500, 1_500, 5_000, 60_000] {
                let after = Duration::from_millis(after);
                let crowd = come_back(1_000, after, || (rng.next_u64() >> 32) as u32);
                assert_eq!(crowd.back.len(), 1_000);
                assert!(
                    crowd.peak() <= 350.0,
                    "seed {seed}: {} in 100 ms",
                    crowd.peak()
                );
                let late = crowd.share(1.0) - after;
                assert!(
                    late <= Duration::from_millis(22_500),
                    "seed {seed}: {late:?}"
                );
            }
        }
        let plain = come_back(1_000, Duration::ZERO, || 1 << 31);
        assert_eq!(
            plain.peak(),
            1_000.0,
            "without salt all come in one instant"
        );
    }
}
