//! Repeated measurements of one thing, and how a report shows them.

/// The measurements of one quantity, one per round that did not fail.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        let at = self.0.partition_point(|&other| other <= value);
        self.0.insert(at, value);
    }

    /// The middle one, the mean of the two middle ones, or nothing.
    pub(crate) fn median(&self) -> Option<f64> {
        let half = self.0.len() / 2;
        match self.0.len() {
            0 => None,
            n if n % 2 == 1 => Some(self.0[half]),
            _ => Some(f64::midpoint(self.0[half - 1], self.0[half])),
        }
    }

    /// `median (least–greatest)`.
    pub(crate) fn spread(&self) -> String {
        match (self.median(), self.0.first(), self.0.last()) {
            (Some(median), Some(&least), Some(&greatest)) => {
                format!(
                    "{} ({}–{})",
                    number(median),
                    number(least),
                    number(greatest)
                )
            }
            _ => "–".to_owned(),
        }
    }

    /// The median alone.
    pub(crate) fn middle(&self) -> String {
        self.median().map_or_else(|| "–".to_owned(), number)
    }

    /// The median as a multiple of another's.
    pub(crate) fn ratio(&self, to: &Self) -> String {
        match (self.median(), to.median()) {
            (Some(own), Some(other)) if other > 0.0 => format!("{:.2}×", own / other),
            _ => "–".to_owned(),
        }
    }
}

/// Three significant digits below a thousand, thousands set apart above.
pub(crate) fn number(value: f64) -> String {
    let whole = value.round();
    if value == whole && value.abs() < 100.0 {
        format!("{value:.0}")
    } else if value.abs() < 10.0 {
        format!("{value:.2}")
    } else if value.abs() < 100.0 {
        format!("{value:.1}")
    } else {
        let digits = format!("{:.0}", whole.abs());
        let mut out = String::from(if whole < 0.0 { "-" } else { "" });
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index) % 3 == 0 {
                out.push(',');
            }
            out.push(digit);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_do_not_depend_on_the_order_of_rounds() {
        let mut samples = Samples::default();
        assert_eq!(samples.spread(), "–");
        for value in [30.0, 10.0, 20.0] {
            samples.push(value);
        }
        assert_eq!(samples.spread(), "20 (10–30)");
        samples.push(40.0);
        assert_eq!(samples.median(), Some(25.0));
    }

    #[test]
    fn numbers_are_short_and_readable() {
        let shown = [0.0, 0.5, 12.34, 999.6, 69_564.0, 1_234_567.0].map(number);
        assert_eq!(shown, ["0", "0.50", "12.3", "1,000", "69,564", "1,234,567"]);
    }
}
