//! Compares what devices show with what the log says.
//!
//! Knows:       the log, what one device shows of one conversation, in its order.
//! Does not know: terminals, stores.
//!
//! Every device view is held against the whole conversation. A line counts once, however many devices
//! agree on the fault; the complaints name the first few.

use super::log::Log;

/// Complaints kept for people; the counts go on.
const MAX_COMPLAINTS: usize = 20;

/// A message as a device shows it: which line it claims to be, if it can be told, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The line's index in the log.
    pub line: Option<usize>,
    /// Byte for byte as in the store.
    pub text: String,
}

/// The verdict over all views so far.
#[derive(Debug)]
pub struct Verdict<'a> {
    log: &'a Log,
    lost: Vec<bool>,
    duplicated: Vec<bool>,
    reordered: Vec<bool>,
    /// Messages that no line of the conversation explains.
    unexplained: usize,
    complaints: Vec<String>,
}

impl<'a> Verdict<'a> {
    /// Nothing was looked at yet.
    #[must_use]
    pub fn new(log: &'a Log) -> Self {
        let none = vec![false; log.lines.len()];
        Self {
            log,
            lost: none.clone(),
            duplicated: none.clone(),
            reordered: none,
            unexplained: 0,
            complaints: Vec::new(),
        }
    }

    /// Holds one device's view of one conversation against the log. `lines` are the conversation's, in
    /// order; `device` names the view in complaints.
    pub fn look(&mut self, device: &str, lines: &[usize], shown: &[Shown]) {
        let mut seen = vec![false; lines.len()];
        let mut furthest = None;
        for message in shown {
            let place = message
                .line
                .and_then(|line| lines.binary_search(&line).ok());
            let Some(place) = place else {
                self.unexplained += 1;
                self.complain(|| {
                    format!("{device} shows {:?}, which nobody said here", message.text)
                });
                continue;
            };
            let line = lines[place];
            if std::mem::replace(&mut seen[place], true) {
                self.duplicated[line] = true;
                self.complain(|| format!("{device} shows line {} twice", line + 1));
                continue;
            }
            if message.text != self.log.lines[line].text {
                self.lost[line] = true;
                self.complain(|| format!("{device} shows line {} as {:?}", line + 1, message.text));
            }
            if furthest.is_some_and(|before| before > place) {
                self.reordered[line] = true;
                self.complain(|| format!("{device} shows line {} after a later one", line + 1));
            } else {
                furthest = Some(place);
            }
        }
        for (place, line) in lines.iter().enumerate().filter(|(place, _)| !seen[*place]) {
            self.lost[*line] = true;
            self.complain(|| {
                format!(
                    "{device} lacks line {} ({} of {})",
                    line + 1,
                    place + 1,
                    lines.len()
                )
            });
        }
    }

    /// Lines that some device lacks, or shows with another text.
    #[must_use]
    pub fn lost(&self) -> usize {
        count(&self.lost)
    }

    /// Lines that some device shows more than once, and messages that nobody said.
    #[must_use]
    pub fn duplicated(&self) -> usize {
        count(&self.duplicated) + self.unexplained
    }

    /// Lines that some device shows after a line that the log has later.
    #[must_use]
    pub fn reordered(&self) -> usize {
        count(&self.reordered)
    }

    /// The first few faults in words.
    #[must_use]
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    fn complain(&mut self, words: impl FnOnce() -> String) {
        if self.complaints.len() < MAX_COMPLAINTS {
            self.complaints.push(words());
        }
    }
}

fn count(flags: &[bool]) -> usize {
    flags.iter().filter(|flag| **flag).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::log::Line;

    fn log() -> Log {
        let lines = (0..5).map(|n| Line {
            sender: n % 2,
            receiver: 1 - n % 2,
            text: format!("text {n}"),
        });
        Log {
            people: vec!["a".into(), "b".into()],
            lines: lines.collect(),
        }
    }

    fn shown(line: usize) -> Shown {
        Shown {
            line: Some(line),
            text: format!("text {line}"),
        }
    }

    /// lost, duplicated, reordered after one look.
    fn counts(view: &[Shown]) -> (usize, usize, usize) {
        let log = log();
        let mut verdict = Verdict::new(&log);
        verdict.look("phone", &[0, 1, 2, 3, 4], view);
        let faulty = verdict.lost() + verdict.duplicated() + verdict.reordered() > 0;
        assert_eq!(faulty, !verdict.complaints().is_empty());
        (verdict.lost(), verdict.duplicated(), verdict.reordered())
    }

    #[test]
    fn the_whole_conversation_in_order_is_faultless() {
        assert_eq!(counts(&[0, 1, 2, 3, 4].map(shown)), (0, 0, 0));
    }

    #[test]
    fn each_planted_fault_is_counted_as_what_it_is() {
        assert_eq!(counts(&[0, 1, 3, 4].map(shown)), (1, 0, 0));
        assert_eq!(counts(&[0, 1, 1, 2, 3, 4].map(shown)), (0, 1, 0));
        assert_eq!(counts(&[0, 2, 1, 3, 4].map(shown)), (0, 0, 1));
        assert_eq!(counts(&[]), (5, 0, 0));
        let mut altered = [0, 1, 2, 3, 4].map(shown);
        altered[2].text.push(' ');
        assert_eq!(counts(&altered), (1, 0, 0));
        let mut foreign = [0, 1, 2, 3, 4].map(shown).to_vec();
        foreign.push(Shown {
            line: None,
            text: "ghost".into(),
        });
        foreign.push(Shown {
            line: Some(77),
            text: "from another conversation".into(),
        });
        assert_eq!(counts(&foreign), (0, 2, 0));
    }

    #[test]
    fn a_line_lost_on_two_devices_is_one_lost_line() {
        let log = log();
        let mut verdict = Verdict::new(&log);
        verdict.look("phone", &[0, 1, 2, 3, 4], &[0, 1, 2, 3].map(shown));
        verdict.look("fresh device", &[0, 1, 2, 3, 4], &[1, 2, 3].map(shown));
        assert_eq!(verdict.lost(), 2);
        assert_eq!(verdict.complaints().len(), 3);
    }
}
