//! Questions to a role over HTTP: is it healthy, what does it count.

use std::net::SocketAddr;
use std::time::Duration;

/// Time for one question.
const ANSWER: Duration = Duration::from_secs(2);
/// Bytes of an answer that are looked at.
const MAX_BYTES: u64 = 1 << 20;

/// Whether the role says that it is healthy.
pub(super) fn is_healthy(role: SocketAddr) -> bool {
    get(role, "/health").is_some()
}

/// The body of a page; `None` when there is no good answer.
fn get(role: SocketAddr, path: &str) -> Option<String> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(ANSWER))
        .max_idle_connections(0);
    let agent = ureq::Agent::new_with_config(config.build());
    let mut response = agent.get(format!("http://{role}{path}")).call().ok()?;
    response
        .body_mut()
        .with_config()
        .limit(MAX_BYTES)
        .read_to_string()
        .ok()
}

/// A role's counters, as `/metrics` has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures(Vec<(String, f64)>);

impl Figures {
    /// Parses Prometheus' text format; lines that are not samples are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (name, value) = line.trim().rsplit_once(' ')?;
                Some((name.trim().to_owned(), value.parse().ok()?))
            });
        Self(samples.collect())
    }

    /// The sum over all samples of a metric whose labels contain every one of `labels`, written
    /// `name="value"`. `None` when there is no such sample.
    #[must_use]
    pub fn sum(&self, metric: &str, labels: &[&str]) -> Option<f64> {
        let matching = self.0.iter().filter(|(name, _)| {
            let (bare, rest) = name.split_once('{').unwrap_or((name, ""));
            bare == metric && labels.iter().all(|label| rest.contains(label))
        });
        matching.map(|(_, value)| *value).reduce(|a, b| a + b)
    }

    /// What a label says at the first sample of a metric that has it.
    #[must_use]
    pub fn label(&self, metric: &str, label: &str) -> Option<&str> {
        self.0.iter().find_map(|(name, _)| {
            let (bare, labels) = name.strip_suffix('}')?.split_once('{')?;
            let mut labels = labels.split(',').filter_map(|pair| pair.split_once('='));
            let (_, value) = labels.find(|(name, _)| bare == metric && *name == label)?;
            Some(value.trim_matches('"'))
        })
    }
}

/// What a role counts now; empty when it does not answer.
#[must_use]
pub fn figures(role: SocketAddr) -> Figures {
    ask(role).unwrap_or_default()
}

/// What a role counts now; `None` when it does not answer.
#[must_use]
pub fn ask(role: SocketAddr) -> Option<Figures> {
    get(role, "/metrics").map(|text| Figures::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_the_labels_not_asked_for() {
        let figures = Figures::parse(
            "# TYPE calls counter\ncalls{method=\"Send\",code=\"ok\"} 3\ncalls{method=\"Send\",code=\"x\"} 2\n\
             calls{method=\"Sync\",code=\"ok\"} 9\nlinks 4\nnonsense\n",
        );
        assert_eq!(figures.sum("calls", &["method=\"Send\""]), Some(5.0));
        assert_eq!(figures.sum("calls", &[]), Some(14.0));
        assert_eq!(figures.sum("links", &[]), Some(4.0));
        assert_eq!(figures.sum("link", &[]), None);
        assert_eq!(figures.label("calls", "code"), Some("ok"));
        assert_eq!(figures.label("calls", "codes"), None);
        assert_eq!(figures.label("links", "code"), None);
    }

    #[test]
    fn nobody_at_home_is_not_healthy_and_counts_nothing() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = listener.local_addr().unwrap();
        drop(listener);
        assert!(!is_healthy(nobody));
        assert_eq!(figures(nobody), Figures::default());
        assert_eq!(ask(nobody), None);
    }
}
