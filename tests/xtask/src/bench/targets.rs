//! What was aimed at, and whether it was met.
//!
//! Knows: how a target is judged and shown.
//! Does not know: any one of them; each benchmark states its own beside its figures.

use std::fmt::Write as _;

use super::report::Table;
use super::samples::number;

/// One thing aimed at.
pub(crate) struct Target {
    what: &'static str,
    aim: Aim,
    /// The honest word where it is missed, a sentence or two.
    if_missed: &'static str,
}

enum Aim {
    Measured {
        ours: Option<f64>,
        unit: &'static str,
        bar: Bar,
        peer: Option<Peer>,
    },
    /// Nothing here can be measured: what is wanted, and in a word why not.
    Absent {
        wanted: &'static str,
        verdict: &'static str,
    },
}

/// What ours must reach, in its unit, or in multiples of the peer's figure where there is one.
#[derive(Clone, Copy)]
pub(crate) enum Bar {
    AtMost(f64),
    AtLeast(f64),
}

struct Peer {
    name: &'static str,
    figure: Option<f64>,
}

impl Bar {
    fn sign(self) -> char {
        match self {
            Self::AtMost(_) => '≤',
            Self::AtLeast(_) => '≥',
        }
    }

    fn value(self) -> f64 {
        match self {
            Self::AtMost(value) | Self::AtLeast(value) => value,
        }
    }
}

impl Target {
    /// `ours` is nothing where every run failed; `if_missed` is shown only where it is missed.
    pub(crate) fn new(
        what: &'static str,
        ours: Option<f64>,
        unit: &'static str,
        bar: Bar,
        if_missed: &'static str,
    ) -> Self {
        let peer = None;
        Self {
            what,
            aim: Aim::Measured {
                ours,
                unit,
                bar,
                peer,
            },
            if_missed,
        }
    }

    /// The bar is so many times this peer's figure.
    pub(crate) fn times(mut self, name: &'static str, figure: Option<f64>) -> Self {
        if let Aim::Measured { peer, .. } = &mut self.aim {
            *peer = Some(Peer { name, figure });
        }
        self
    }

    /// A target that no run here can meet or miss: `verdict` says in a word why, `word` in a sentence.
    pub(crate) fn absent(
        what: &'static str,
        wanted: &'static str,
        verdict: &'static str,
        word: &'static str,
    ) -> Self {
        Self {
            what,
            aim: Aim::Absent { wanted, verdict },
            if_missed: word,
        }
    }

    fn row(&self) -> Vec<String> {
        let dash = || "–".to_owned();
        let (target, ours, peer) = match &self.aim {
            Aim::Absent { wanted, .. } => ((*wanted).to_owned(), dash(), dash()),
            Aim::Measured {
                ours,
                unit,
                bar,
                peer,
            } => {
                let shown = |value: f64| format!("{} {unit}", number(value));
                let target = match peer {
                    None => format!("{} {}", bar.sign(), shown(bar.value())),
                    Some(peer) if bar.value() == 1.0 => format!("{} {}", bar.sign(), peer.name),
                    Some(peer) => {
                        format!("{} {} × {}", bar.sign(), number(bar.value()), peer.name)
                    }
                };
                let of_peer = |peer: &Peer| peer.figure.map_or_else(dash, shown);
                let peer = peer.as_ref().map_or_else(dash, of_peer);
                (target, ours.map_or_else(dash, shown), peer)
            }
        };
        let verdict = self.verdict().to_owned();
        vec![self.what.to_owned(), target, ours, peer, verdict]
    }

    /// What ours is, and what it had to reach; nothing where one of them is missing.
    fn measured(&self) -> Option<(f64, f64)> {
        let Aim::Measured {
            ours, bar, peer, ..
        } = &self.aim
        else {
            return None;
        };
        let unit = peer.as_ref().map_or(Some(1.0), |peer| peer.figure)?;
        Some(((*ours)?, bar.value() * unit))
    }

    fn verdict(&self) -> &'static str {
        match (&self.aim, self.measured()) {
            (Aim::Absent { verdict, .. }, _) => verdict,
            (_, None) => "not measured",
            (Aim::Measured { bar, .. }, Some((ours, limit))) => {
                let met = match bar {
                    Bar::AtMost(_) => ours <= limit,
                    Bar::AtLeast(_) => ours >= limit,
                };
                if met { "met" } else { "missed" }
            }
        }
    }

    /// What is to be said of a target that is not met.
    fn word(&self) -> Option<String> {
        let said = match (&self.aim, self.verdict()) {
            (_, "met") => return None,
            (Aim::Measured { unit, bar, .. }, "missed") => {
                let (ours, limit) = self.measured()?;
                let side = match bar {
                    Bar::AtMost(_) => "at most",
                    Bar::AtLeast(_) => "at least",
                };
                format!(
                    "{} {unit} where {side} {} were wanted. {}",
                    number(ours),
                    number(limit),
                    self.if_missed
                )
            }
            (Aim::Measured { .. }, _) => {
                "no figure in this run: the failed runs say why.".to_owned()
            }
            (Aim::Absent { .. }, _) => self.if_missed.to_owned(),
        };
        Some(format!("{}: {said}", self.what))
    }
}

/// All targets as a part of the report; nothing where there are none.
pub(crate) fn text<'a>(targets: impl Iterator<Item = &'a Target>) -> String {
    let mut table = Table::new(&["what", "target", "ours", "peer", "met or missed"]);
    let (mut words, mut any) = (String::new(), false);
    for target in targets {
        any = true;
        table.row(target.row());
        if let Some(word) = target.word() {
            writeln!(words, "* {word}").expect("a String takes any text");
        }
    }
    if !any {
        return String::new();
    }
    let missed = match words.is_empty() {
        true => "All are met.\n".to_owned(),
        false => format!("Not met:\n\n{words}"),
    };
    format!(
        "\n## Targets\n\nWhat was aimed at, and the medians of this run.\n\n{}\n{missed}",
        table.text()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(target: &Target, index: usize) -> String {
        target.row()[index].clone()
    }

    #[test]
    fn verdicts_follow_the_figures_and_not_the_words() {
        let yields = |ours| Target::new("a yield", ours, "ns", Bar::AtMost(60.0), "Slow.");
        assert_eq!(cell(&yields(Some(60.0)), 4), "met");
        assert_eq!(cell(&yields(Some(60.5)), 4), "missed");
        assert_eq!(cell(&yields(None), 4), "not measured");
        assert_eq!(yields(Some(1.0)).word(), None);
        let word = yields(Some(72.0)).word().expect("missed");
        assert_eq!(word, "a yield: 72 ns where at most 60 were wanted. Slow.");
    }

    #[test]
    fn a_bar_in_a_peer_s_figure_moves_with_it() {
        let rate = |ours, peer| {
            let target = Target::new("calls", Some(ours), "calls/s", Bar::AtLeast(2.0), "Few.");
            target.times("tonic", peer)
        };
        assert_eq!(cell(&rate(200.0, Some(100.0)), 4), "met");
        assert_eq!(cell(&rate(200.0, Some(101.0)), 4), "missed");
        assert_eq!(cell(&rate(200.0, None), 4), "not measured");
        assert_eq!(cell(&rate(200.0, None), 1), "≥ 2 × tonic");
    }

    #[test]
    fn what_is_not_built_is_said_and_never_met() {
        let targets = [Target::absent(
            "goodput",
            "≥ 90 %",
            "not built",
            "No limiter.",
        )];
        let text = text(targets.iter());
        assert!(text.contains("not built"), "{text}");
        assert!(text.contains("* goodput: No limiter."), "{text}");
        assert_eq!(super::text([].iter()), "");
    }
}
