//! A phone's radio over a day, under three policies of heartbeats.
//!
//! Knows:       the terminal's heartbeat machine and signalling keeper, a model of a 3G radio and of a NAT.
//! Does not know: sockets; time is virtual.
//!
//! The radio has a channel of its own while it talks and for 5 s after, then a shared one for 12 s, then none;
//! getting one costs 2 s of signalling from nothing, 1.5 s from the shared one. Powers and times are of the
//! order published for 3G networks; what counts is how the policies compare, not the joules.

use std::time::Duration;

use clap::Args;
use rpc_core::base::rng::Rng;
use rpc_core::base::time::Instant;
use wechat_demo::terminal::adaptive::{Adaptive, Intervals, Outcome};
use wechat_demo::terminal::signalling::Keeper;

use super::Plot;
use crate::svg;

/// Flags of `simulate radio`.
#[derive(Args, Debug)]
pub(super) struct Flags {
    /// Hours that are simulated
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=2_400))]
    hours: u32,
    /// Seconds of silence after which the network forgets a connection
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(30..=86_400))]
    nat: u32,
    /// Bursts of chatting a day
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    bursts: u32,
    /// Chooses when they come
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    plot: Plot,
}

/// The dedicated channel is kept so long after a packet; then the shared one; the power of each in watts.
const DEDICATED: (f64, f64) = (5.0, 0.8);
const SHARED: (f64, f64) = (12.0, 0.46);
/// Seconds and watts of getting the dedicated channel, from nothing and from the shared one.
const FROM_IDLE: (f64, f64) = (2.0, 0.55);
const FROM_SHARED: (f64, f64) = (1.5, 0.55);

/// Bytes on the wire, with the headers of TCP and IP: a beat and its answer; a short message with its answer
/// or notify; a packet of the keeper; connecting anew.
const BEAT: u64 = 2 * 40 + 20 + 29;
const MESSAGE: u64 = 2 * 40 + 220;
const SIGNAL: u64 = 40 + 20;
const CONNECT: u64 = 5 * 40 + 350;

/// A policy that is compared.
#[derive(Clone, Copy, Debug)]
enum Policy {
    Fixed(u64),
    Adaptive { keeper: bool },
}

impl Policy {
    const ALL: [Self; 4] = [
        Self::Fixed(30),
        Self::Fixed(270),
        Self::Adaptive { keeper: false },
        Self::Adaptive { keeper: true },
    ];

    fn name(self) -> String {
        match self {
            Self::Fixed(seconds) => format!("fixed {seconds} s"),
            Self::Adaptive { keeper: false } => "adaptive".to_owned(),
            Self::Adaptive { keeper: true } => "adaptive+keeper".to_owned(),
        }
    }
}

/// What a day came to.
#[derive(Debug, Default)]
struct Day {
    beats: u32,
    failed: u32,
    bytes: u64,
    /// Times that the radio got a channel from nothing.
    setups: u32,
    joules: f64,
    /// Messages that waited because the network had forgotten the connection.
    late: u32,
}

/// The radio, told of packets in the order of their times.
struct Radio {
    /// Seconds of the last packet.
    last: Option<f64>,
    setups: u32,
    joules: f64,
}

impl Radio {
    fn packet(&mut self, at: f64) {
        let gap = self.last.map_or(f64::INFINITY, |last| at - last);
        self.joules += tail(gap);
        if gap > DEDICATED.0 + SHARED.0 {
            self.setups += 1;
            self.joules += FROM_IDLE.0 * FROM_IDLE.1;
            if self.last.is_none() {
                self.joules -= tail(gap);
            }
        } else if gap > DEDICATED.0 {
            self.joules += FROM_SHARED.0 * FROM_SHARED.1;
        }
        self.last = Some(at);
    }

    fn end(mut self) -> Self {
        if self.last.is_some() {
            self.joules += tail(f64::INFINITY);
        }
        self
    }
}

/// Energy from a packet to the next, so many seconds later.
fn tail(gap: f64) -> f64 {
    let dedicated = gap.min(DEDICATED.0);
    let shared = (gap - dedicated).min(SHARED.0);
    dedicated * DEDICATED.1 + shared * SHARED.1
}

/// When messages travel, in order.
fn traffic(flags: &Flags) -> Vec<Instant> {
    let mut rng = Rng::from_seed(flags.seed);
    let day = u64::from(flags.hours) * 3_600_000;
    let count = u64::from(flags.bursts) * u64::from(flags.hours) / 24;
    let mut times = Vec::new();
    for _ in 0..count {
        let mut at = rng.below(day);
        for _ in 0..2 + rng.below(8) {
            times.push(Instant::from_nanos(at * 1_000_000));
            at += 2_000 + rng.below(16_000);
        }
    }
    times.sort_unstable();
    times
}

/// One terminal's day.
struct Phone {
    policy: Policy,
    adaptive: Adaptive,
    nat: Duration,
    keeper: Keeper,
    /// When the last packet left or came.
    moved: Instant,
    interval: Duration,
    radio: Radio,
    day: Day,
}

impl Phone {
    fn new(policy: Policy, nat: Duration) -> Self {
        let start = Instant::from_nanos(0);
        let mut phone = Self {
            policy,
            adaptive: Adaptive::new(Intervals::scaled(1), start),
            nat,
            keeper: Keeper::new(start),
            moved: start,
            interval: Duration::ZERO,
            radio: Radio {
                last: None,
                setups: 0,
                joules: 0.0,
            },
            day: Day::default(),
        };
        phone.connect(start);
        phone
    }

    fn connect(&mut self, now: Instant) {
        self.packet(now, CONNECT);
        self.adaptive.linked();
        self.interval = self.next();
    }

    fn next(&mut self) -> Duration {
        match self.policy {
            Policy::Fixed(seconds) => Duration::from_secs(seconds),
            Policy::Adaptive { .. } => self.adaptive.next(false),
        }
    }

    fn packet(&mut self, now: Instant, bytes: u64) {
        self.moved = now;
        self.keeper.moved(now);
        self.day.bytes += bytes;
        self.radio.packet(now.as_nanos() as f64 / 1e9);
    }

    fn forgotten(&self, now: Instant) -> bool {
        now - self.moved >= self.nat
    }

    fn message(&mut self, now: Instant) {
        if self.forgotten(now) {
            self.day.late += 1;
            self.connect(now);
        }
        self.packet(now, MESSAGE);
        if matches!(self.policy, Policy::Adaptive { keeper: true }) {
            self.keeper.keep(now);
        }
    }

    fn beat(&mut self, now: Instant) {
        let forgotten = self.forgotten(now);
        self.day.beats += 1;
        self.packet(now, BEAT);
        self.adaptive.sent();
        if forgotten {
            self.day.failed += 1;
            self.adaptive.ended(Outcome::TimedOut, now);
            self.connect(now + Duration::from_secs(8));
        } else {
            self.adaptive.ended(Outcome::Answered, now);
            self.interval = self.next();
        }
    }

    /// What is due before `until`.
    fn idle(&mut self, until: Instant) {
        loop {
            let (beat, signal) = (self.moved + self.interval, self.keeper.due());
            if let Some(signal) = signal
                && signal < beat
            {
                if signal >= until {
                    return;
                }
                self.packet(signal, SIGNAL);
            } else if beat >= until {
                return;
            } else {
                self.beat(beat);
            }
        }
    }
}

fn live(policy: Policy, flags: &Flags) -> Day {
    let mut phone = Phone::new(policy, Duration::from_secs(flags.nat.into()));
    for at in traffic(flags) {
        phone.idle(at);
        // A link that is just being made takes the message with it.
        phone.message(at.max(phone.moved));
    }
    phone.idle(Instant::from_nanos(
        u64::from(flags.hours) * 3_600 * 1_000_000_000,
    ));
    let Phone { mut day, radio, .. } = phone;
    let radio = radio.end();
    day.setups = radio.setups;
    day.joules = radio.joules;
    day
}

/// Prints the table and draws the plot.
pub(super) fn run(flags: &Flags) -> anyhow::Result<()> {
    let days = Policy::ALL.map(|policy| (policy.name(), live(policy, flags)));
    println!(
        "{} h, {} bursts of chatting a day, a network that forgets after {} s (seed {})\n",
        flags.hours, flags.bursts, flags.nat, flags.seed
    );
    println!("policy            beats  failed  set-ups      KiB   joules  late messages");
    for (name, day) in &days {
        println!(
            "{name:<16} {:>6} {:>7} {:>8} {:>8.0} {:>8.0} {:>14}",
            day.beats,
            day.failed,
            day.setups,
            day.bytes as f64 / 1024.0,
            day.joules,
            day.late
        );
    }
    flags.plot.write(|| {
        let of = |value: fn(&Day) -> f64| {
            days.iter()
                .map(|(name, day)| (name.clone(), value(day)))
                .collect()
        };
        let panels = [
            ("channel set-ups", of(|day| day.setups.into())),
            ("energy, joules", of(|day| day.joules)),
        ];
        let title = format!(
            "A phone's radio over {} h, NAT {} s",
            flags.hours, flags.nat
        );
        svg::bars(&title, &panels)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(nat: u32) -> Flags {
        Flags {
            hours: 24,
            nat,
            bursts: 30,
            seed: 7,
            plot: Plot { svg: None },
        }
    }

    #[test]
    fn the_adaptive_policy_costs_less_than_the_fixed_ones_where_the_network_remembers() {
        let flags = flags(900);
        let [often, fixed, adaptive, _] = Policy::ALL.map(|policy| live(policy, &flags));
        assert!(adaptive.setups < fixed.setups && fixed.setups < often.setups);
        assert!(adaptive.joules < fixed.joules && fixed.joules < often.joules);
        assert!(adaptive.bytes < fixed.bytes && fixed.bytes < often.bytes);
        assert_eq!(adaptive.failed, 0);
    }

    #[test]
    fn where_the_network_forgets_soon_the_adaptive_policy_stops_failing() {
        let adaptive = live(Policy::Adaptive { keeper: false }, &flags(300));
        assert!((1..=4).contains(&adaptive.failed), "{adaptive:?}");
        let deaf = live(Policy::Fixed(600), &flags(300));
        assert!(deaf.late > 0 && deaf.failed > adaptive.failed);
    }

    #[test]
    fn the_keeper_saves_set_ups_of_the_channel_within_bursts() {
        let flags = flags(600);
        let without = live(Policy::Adaptive { keeper: false }, &flags);
        let with = live(Policy::Adaptive { keeper: true }, &flags);
        assert!(with.setups <= without.setups);
    }

    #[test]
    fn a_lonely_packet_costs_a_set_up_and_both_tails() {
        let mut radio = Radio {
            last: None,
            setups: 0,
            joules: 0.0,
        };
        radio.packet(100.0);
        radio.packet(102.0);
        let radio = radio.end();
        assert_eq!(radio.setups, 1);
        let expected = 2.0 * 0.55 + 2.0 * 0.8 + 5.0 * 0.8 + 12.0 * 0.46;
        assert!((radio.joules - expected).abs() < 1e-9, "{}", radio.joules);
    }
}
