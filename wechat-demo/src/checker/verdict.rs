//! What a history has shown.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;

use rpc_core::base::metric::Snapshot;

use super::{Invariant, Place};

/// Exit status of a history that shows too little.
pub const INSUFFICIENT: u8 = 2;

/// A counter-example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What happened, in one sentence.
    pub text: String,
    /// The lines that show it, in order.
    pub lines: Vec<Place>,
}

/// The judgement over a history.
#[derive(Debug)]
pub struct Verdict {
    /// How often each invariant was broken, and its shortest counter-example.
    pub(super) violations: BTreeMap<Invariant, (u64, Violation)>,
    /// Why the history shows too little; empty if it does not.
    pub(super) missing: Vec<String>,
    pub(super) lines: u64,
    pub(super) acks: u64,
    pub(super) applied: u64,
    pub(super) devices: usize,
    pub(super) faults: BTreeMap<String, u64>,
    /// Acknowledged changes by name.
    pub(super) changes: BTreeMap<&'static str, u64>,
    /// From a notify to its items on the device, ns.
    pub(super) visible: Snapshot,
}

impl Verdict {
    /// The invariants that were broken.
    pub fn broken(&self) -> impl Iterator<Item = Invariant> {
        self.violations.keys().copied()
    }

    /// The shortest counter-example of an invariant.
    #[must_use]
    pub fn example(&self, invariant: Invariant) -> Option<&Violation> {
        self.violations.get(&invariant).map(|(_, example)| example)
    }

    /// Why the history shows too little.
    #[must_use]
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Nothing is broken, and the history shows enough to say so.
    #[must_use]
    pub fn is_green(&self) -> bool {
        self.violations.is_empty() && self.missing.is_empty()
    }

    /// 0 green, 1 violation, 2 insufficient evidence.
    #[must_use]
    pub fn exit(&self) -> ExitCode {
        if !self.violations.is_empty() {
            ExitCode::FAILURE
        } else if !self.missing.is_empty() {
            ExitCode::from(INSUFFICIENT)
        } else {
            ExitCode::SUCCESS
        }
    }

    /// The judgement for people. `line` gives the text of a line of the history.
    pub fn tell(&self, mut line: impl FnMut(Place) -> Option<String>) -> String {
        let mut text = String::new();
        let mut put = |words: std::fmt::Arguments<'_>| {
            text.write_fmt(words).expect("a String takes everything");
        };
        for (invariant, (count, example)) in &self.violations {
            put(format_args!(
                "{invariant} {}, {count} times: {}\n",
                invariant.words(),
                example.text
            ));
            for &place in &example.lines {
                let (file, number) = place;
                let shown = line(place).unwrap_or_default();
                put(format_args!("    {file}:{number}: {shown}\n"));
            }
        }
        for missing in &self.missing {
            put(format_args!("insufficient evidence: {missing}\n"));
        }
        let faults: u64 = self.faults.values().sum();
        let judgement = match (self.violations.is_empty(), self.missing.is_empty()) {
            (false, _) => "violated",
            (true, false) => "insufficient evidence",
            (true, true) => "green",
        };
        put(format_args!(
            "history: {judgement}; {} lines, {} acknowledged, {} items applied on {} devices, {faults} faults",
            self.lines, self.acks, self.applied, self.devices
        ));
        if !self.changes.is_empty() {
            let all: Vec<String> = self
                .changes
                .iter()
                .map(|(word, count)| format!("{count} {word}"))
                .collect();
            put(format_args!("\nchanges: {}", all.join(", ")));
        }
        if self.visible.count() > 0 {
            let ms = |quantile| self.visible.quantile(quantile) as f64 / 1e6;
            put(format_args!(
                "\nnotify to visible: p50 {:.1} ms, p99 {:.1} ms of {}",
                ms(0.5),
                ms(0.99),
                self.visible.count()
            ));
        }
        text
    }
}
