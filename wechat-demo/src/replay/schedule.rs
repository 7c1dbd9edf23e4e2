//! Which line may go out when.
//!
//! Knows:       the lines of each conversation in order, what was acknowledged, what was applied where.
//! Does not know: terminals, time.
//!
//! A line goes out when the line before it in its conversation was acknowledged, if by the same speaker,
//! or applied by its sender's terminal: as people answer what they have read. Each line goes out once.

use std::collections::HashMap;

use super::log::Log;

/// The state of every line.
#[derive(Debug)]
pub struct Schedule {
    entries: Vec<Entry>,
    acked: usize,
    delivered: usize,
}

#[derive(Debug)]
struct Entry {
    sender: usize,
    receiver: usize,
    /// The line after it in its conversation.
    next: Option<usize>,
    acked: bool,
    /// Applied by the receiver's terminal.
    delivered: bool,
}

impl Schedule {
    /// Nothing has gone out yet. With the schedule come the lines that may go at once: the first of
    /// each conversation, in the log's order.
    #[must_use]
    pub fn new(log: &Log) -> (Self, Vec<usize>) {
        let mut entries: Vec<Entry> = Vec::with_capacity(log.lines.len());
        let mut last: HashMap<(usize, usize), usize> = HashMap::new();
        let mut first = Vec::new();
        for (index, line) in log.lines.iter().enumerate() {
            match last.insert(line.conversation(), index) {
                Some(before) => entries[before].next = Some(index),
                None => first.push(index),
            }
            let (sender, receiver) = (line.sender, line.receiver);
            entries.push(Entry {
                sender,
                receiver,
                next: None,
                acked: false,
                delivered: false,
            });
        }
        (
            Self {
                entries,
                acked: 0,
                delivered: 0,
            },
            first,
        )
    }

    /// The server acknowledged a line. The line that may go now, if this released one.
    pub fn acked(&mut self, line: usize) -> Option<usize> {
        let entry = &mut self.entries[line];
        if std::mem::replace(&mut entry.acked, true) {
            return None;
        }
        self.acked += 1;
        let (sender, next) = (entry.sender, entry.next?);
        (self.entries[next].sender == sender).then_some(next)
    }

    /// `person`'s terminal applied a line. The line that may go now, if this released one.
    pub fn applied(&mut self, line: usize, person: usize) -> Option<usize> {
        let entry = &mut self.entries[line];
        if person != entry.receiver || std::mem::replace(&mut entry.delivered, true) {
            return None;
        }
        self.delivered += 1;
        let next = entry.next?;
        (self.entries[next].sender == person).then_some(next)
    }

    /// Lines that the server acknowledged.
    #[must_use]
    pub fn acked_lines(&self) -> usize {
        self.acked
    }

    /// Lines that their receiver's terminal applied.
    #[must_use]
    pub fn delivered_lines(&self) -> usize {
        self.delivered
    }

    /// Whether every line was acknowledged and applied by its receiver.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.acked == self.entries.len() && self.delivered == self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::replay::log::Line;

    fn log(lines: &[(usize, usize)]) -> Log {
        let lines = lines.iter().map(|&(sender, receiver)| Line {
            sender,
            receiver,
            text: String::new(),
        });
        Log {
            people: (0..4).map(|n| n.to_string()).collect(),
            lines: lines.collect(),
        }
    }

    #[test]
    fn the_same_speaker_goes_on_after_the_acknowledgement() {
        let (mut schedule, first) = Schedule::new(&log(&[(0, 1), (0, 1)]));
        assert_eq!(first, [0]);
        assert_eq!(schedule.applied(0, 1), None);
        assert_eq!(schedule.acked(0), Some(1));
        assert_eq!(schedule.acked(0), None, "once");
    }

    #[test]
    fn the_other_speaker_answers_what_is_applied() {
        let (mut schedule, _) = Schedule::new(&log(&[(0, 1), (1, 0)]));
        assert_eq!(schedule.acked(0), None);
        assert_eq!(
            schedule.applied(0, 0),
            None,
            "the sender's own copy releases nothing"
        );
        assert_eq!(schedule.applied(0, 1), Some(1));
        assert_eq!(schedule.applied(0, 1), None, "once");
    }

    #[test]
    fn conversations_go_on_beside_each_other() {
        let (_, first) = Schedule::new(&log(&[(0, 1), (2, 1), (1, 0), (0, 3)]));
        assert_eq!(first, [0, 1, 3]);
    }

    proptest! {
        #[test]
        fn every_line_goes_out_once_and_in_the_order_of_its_conversation(
            pairs in prop::collection::vec((0_usize..4, 1_usize..4), 1..60),
            order in prop::collection::vec(any::<u16>(), 400),
        ) {
            let pairs: Vec<_> = pairs.iter().map(|&(a, step)| (a, (a + step) % 4)).collect();
            let log = log(&pairs);
            let (mut schedule, first) = Schedule::new(&log);
            // What can happen next: an acknowledgement, or an apply at the receiver.
            let mut pending = Vec::new();
            let mut went: Vec<usize> = Vec::new();
            let mut ready = first;
            let mut order = order.iter().cycle();
            loop {
                for line in ready.drain(..) {
                    went.push(line);
                    pending.extend([(line, false), (line, true)]);
                }
                if pending.is_empty() {
                    break;
                }
                let pick = usize::from(*order.next().unwrap()) % pending.len();
                let (line, apply) = pending.swap_remove(pick);
                ready.extend(if apply {
                    schedule.applied(line, log.lines[line].receiver)
                } else {
                    schedule.acked(line)
                });
            }
            prop_assert!(schedule.is_done());
            let mut sorted = went.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..log.lines.len()).collect::<Vec<_>>());
            for line in 0..log.lines.len() {
                for later in line + 1..log.lines.len() {
                    if log.lines[line].conversation() == log.lines[later].conversation() {
                        let at = |l| went.iter().position(|w| *w == l);
                        prop_assert!(at(line) < at(later));
                    }
                }
            }
        }
    }
}
