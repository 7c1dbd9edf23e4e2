//! Faults against throughput: the samples, their summary, and their picture.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rpc_core::time::Instant;

/// What had happened by a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) offered: u64,
    pub(super) acked: u64,
    pub(super) applied: u64,
}

/// A fault that happened.
#[derive(Clone, Debug)]
pub(super) struct Done {
    /// Since the beginning.
    pub(super) from: Duration,
    pub(super) to: Duration,
    pub(super) what: String,
}

/// The whole run.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    length: Duration,
    samples: Vec<(Duration, Figures)>,
    faults: Vec<Done>,
}

/// Size of the picture, and of the strip of faults below its curves.
const SIZE: (f64, f64) = (960.0, 360.0);
const STRIP: f64 = 90.0;
const MARGIN: f64 = 50.0;

/// Looks once a `period` until it is over.
pub(super) fn sample(
    begun: Instant,
    period: Duration,
    over: &AtomicBool,
    look: impl Fn() -> Figures,
) -> Vec<(Duration, Figures)> {
    let mut samples = vec![(begun.elapsed(), look())];
    while !over.load(Ordering::Acquire) {
        std::thread::sleep(period);
        samples.push((begun.elapsed(), look()));
    }
    samples
}

impl Timeline {
    pub(super) fn new(
        length: Duration,
        samples: Vec<(Duration, Figures)>,
        faults: Vec<Done>,
    ) -> Self {
        Self {
            length,
            samples,
            faults,
        }
    }

    /// One line of figures and one for each fault.
    pub(super) fn summary(&self) -> String {
        let mut text = String::new();
        for fault in &self.faults {
            let (from, to) = (fault.from.as_secs_f64(), fault.to.as_secs_f64());
            writeln!(text, "{from:7.1} s to {to:5.1} s  {}", fault.what)
                .expect("a String takes everything");
        }
        let last = self.samples.last().map(|(_, figures)| *figures);
        let Figures { offered, acked, .. } = last.unwrap_or_default();
        let seconds = self.length.as_secs_f64();
        write!(
            text,
            "{} faults; offered {:.1}/s, acknowledged {:.1}/s over {seconds:.0} s",
            self.faults.len(),
            offered as f64 / seconds,
            acked as f64 / seconds
        )
        .expect("a String takes everything");
        text
    }

    /// The picture: offered, acknowledged and applied a second, and below them when which fault was in force.
    pub(super) fn svg(&self) -> String {
        let rates: Vec<_> = self.samples.windows(2).map(rates).collect();
        let top = rates
            .iter()
            .flat_map(|(_, rates)| *rates)
            .fold(1.0, f64::max);
        let end = self
            .samples
            .last()
            .map_or(1.0, |(at, _)| at.as_secs_f64().max(1.0));
        let x = |at: f64| MARGIN + (SIZE.0 - 2.0 * MARGIN) * at / end;
        let floor = SIZE.1 - STRIP - MARGIN;
        let y = |rate: f64| floor - (floor - MARGIN) * rate / top;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
            SIZE.0, SIZE.1
        );
        let mut put = |line: String| {
            svg.push_str(&line);
            svg.push('\n');
        };
        for (row, fault) in self.faults.iter().enumerate() {
            let (from, to) = (x(fault.from.as_secs_f64()), x(fault.to.as_secs_f64()));
            let height = floor + 14.0 + 12.0 * (row % 6) as f64;
            put(format!(
                "<rect x=\"{from:.1}\" y=\"{MARGIN}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#d33\" opacity=\"0.12\"/>",
                (to - from).max(1.0),
                floor - MARGIN
            ));
            put(format!(
                "<text x=\"{from:.1}\" y=\"{height:.1}\" fill=\"#a22\">{}</text>",
                fault.what
            ));
        }
        let curves = [
            ("offered", "#888"),
            ("acknowledged", "#06c"),
            ("applied", "#2a2"),
        ];
        for (index, (name, colour)) in curves.into_iter().enumerate() {
            let points: Vec<String> = rates
                .iter()
                .map(|(at, rates)| format!("{:.1},{:.1}", x(*at), y(rates[index])))
                .collect();
            put(format!(
                "<polyline fill=\"none\" stroke=\"{colour}\" points=\"{}\"/>",
                points.join(" ")
            ));
            put(format!(
                "<text x=\"{:.1}\" y=\"20\" fill=\"{colour}\">{name} a second</text>",
                MARGIN + 150.0 * index as f64
            ));
        }
        put(format!(
            "<text x=\"4\" y=\"{MARGIN}\">{top:.0}</text><text x=\"4\" y=\"{floor:.1}\">0</text>"
        ));
        put(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\">{end:.0} s</text>\n</svg>",
            x(end) - 20.0,
            SIZE.1 - 8.0
        ));
        svg
    }
}

/// Offered, acknowledged and applied a second between two samples, and when.
fn rates(pair: &[(Duration, Figures)]) -> (f64, [f64; 3]) {
    let [(from, a), (to, b)] = pair else {
        return (0.0, [0.0; 3]);
    };
    let seconds = (to.as_secs_f64() - from.as_secs_f64()).max(1e-3);
    let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
    let rates = [
        rate(a.offered, b.offered),
        rate(a.acked, b.acked),
        rate(a.applied, b.applied),
    ];
    (to.as_secs_f64(), rates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_has_every_fault_and_every_curve() {
        let figures = |n: u64| Figures {
            offered: 100 * n,
            acked: 90 * n,
            applied: 180 * n,
        };
        let samples = (0..10).map(|n| (Duration::from_secs(n), figures(n)));
        let fault = Done {
            from: Duration::from_secs(3),
            to: Duration::from_secs(4),
            what: "kill logic".to_owned(),
        };
        let timeline = Timeline::new(Duration::from_secs(9), samples.collect(), vec![fault]);
        let svg = timeline.svg();
        assert_eq!(svg.matches("<polyline").count(), 3);
        assert!(
            svg.contains("kill logic") && svg.ends_with("</svg>\n"),
            "{svg}"
        );
        let summary = timeline.summary();
        assert!(
            summary.contains("1 faults; offered 100.0/s, acknowledged 90.0/s"),
            "{summary}"
        );
    }
}
