//! The chat log: `time<TAB>sender<TAB>receiver<TAB>text` a line, `\t \n \r \\` escaped in the text.
//!
//! Knows:       the format, its bounds, gzip by its magic bytes.
//! Does not know: terminals, clusters.
//!
//! A malformed line stops everything before anything was started: the error names file, line and fault.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use wechat_demo::model::limits;

/// Bytes of one line at most, escapes included.
const LINE_BYTES: u64 = 64 << 10;
/// First bytes of a gzip file (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Everything a log says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Everybody who speaks or is spoken to, in order of appearance. [`Line`] refers to them by index.
    pub people: Vec<String>,
    /// In the order of the file.
    pub lines: Vec<Line>,
}

/// One message of the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// Index into [`Log::people`].
    pub sender: usize,
    /// Index into [`Log::people`], never the sender's.
    pub receiver: usize,
    /// Unescaped; may be empty.
    pub text: String,
}

impl Line {
    /// The two people, the smaller index first: what makes lines one conversation.
    #[must_use]
    pub fn conversation(&self) -> (usize, usize) {
        (
            self.sender.min(self.receiver),
            self.sender.max(self.receiver),
        )
    }
}

/// Reads the first `limit` lines of a file, packed or not.
///
/// # Errors
/// One line that names the file, the line where it is one, and what is wrong.
pub fn read(path: &Path, limit: usize) -> anyhow::Result<Log> {
    let name = path.display();
    let file = File::open(path)
        .map_err(|error| anyhow::anyhow!("{name}: {error}; give the path of a chat log"))?;
    let mut reader = BufReader::new(file);
    let head = reader
        .fill_buf()
        .map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
    let log = if head.starts_with(&GZIP_MAGIC) {
        parse(BufReader::new(MultiGzDecoder::new(reader)), limit)
    } else {
        parse(reader, limit)
    };
    let log = log.map_err(|Fault { line, what }| anyhow::anyhow!("{name}:{line}: {what}"))?;
    if log.lines.is_empty() {
        anyhow::bail!(
            "{name} holds no lines; give a log of time, sender, receiver and text, separated by tabs"
        );
    }
    Ok(log)
}

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1.
    pub line: usize,
    /// For people.
    pub what: String,
}

/// Parses the first `limit` lines.
///
/// # Errors
/// The first line that is malformed or cannot be read.
pub fn parse(mut reader: impl BufRead, limit: usize) -> Result<Log, Fault> {
    let mut log = Log::default();
    let mut known = HashMap::new();
    let mut raw = Vec::new();
    for number in 1..=limit {
        raw.clear();
        let fault = |what: String| Fault { line: number, what };
        let read = reader
            .by_ref()
            .take(LINE_BYTES + 1)
            .read_until(b'\n', &mut raw);
        let length = read.map_err(|error| fault(format!("cannot be read: {error}")))?;
        if length == 0 {
            break;
        }
        if raw.last() == Some(&b'\n') {
            raw.pop();
        }
        if raw.len() as u64 > LINE_BYTES {
            return Err(fault(format!("longer than {LINE_BYTES} bytes")));
        }
        let line = std::str::from_utf8(&raw).map_err(|error| {
            fault(format!(
                "not UTF-8 from byte {} on",
                error.valid_up_to() + 1
            ))
        })?;
        let line = parse_line(line, &mut log.people, &mut known).map_err(fault)?;
        log.lines.push(line);
    }
    Ok(log)
}

fn parse_line(
    line: &str,
    people: &mut Vec<String>,
    known: &mut HashMap<String, usize>,
) -> Result<Line, String> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [time, sender, receiver, text] = fields[..] else {
        return Err(format!(
            "{} fields where time, sender, receiver and text are expected, separated by tabs",
            fields.len()
        ));
    };
    if time.trim().is_empty() {
        return Err("the time is empty".to_owned());
    }
    check_name("sender", sender)?;
    check_name("receiver", receiver)?;
    if sender == receiver {
        return Err(format!("{sender} is both sender and receiver"));
    }
    let text = unescape(text)?;
    if text.len() > limits::TEXT_BYTES {
        return Err(format!(
            "the text has {} bytes, at most {} can be sent",
            text.len(),
            limits::TEXT_BYTES
        ));
    }
    let mut index = |name: &str| {
        *known.entry(name.to_owned()).or_insert_with(|| {
            people.push(name.to_owned());
            people.len() - 1
        })
    };
    Ok(Line {
        sender: index(sender),
        receiver: index(receiver),
        text,
    })
}

fn check_name(role: &str, name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err(format!("the {role} is empty"));
    }
    if name.len() > limits::NAME_BYTES {
        return Err(format!(
            "the {role}'s name has {} bytes, at most {}",
            name.len(),
            limits::NAME_BYTES
        ));
    }
    if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!(
            "the {role}'s name {name:?} holds white space or a control character"
        ));
    }
    Ok(())
}

/// Turns `\t \n \r \\` into what they stand for.
fn unescape(text: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        plain.push(match chars.next() {
            Some('t') => '\t',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('\\') => '\\',
            Some(other) => {
                return Err(format!(
                    "unknown escape \\{other} in the text; \\t \\n \\r \\\\ are known"
                ));
            }
            None => return Err("the text ends in the middle of an escape".to_owned()),
        });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn fault_of(text: &str) -> Fault {
        parse(text.as_bytes(), usize::MAX).unwrap_err()
    }

    #[test]
    fn lines_are_read_with_their_escapes_and_people_by_appearance() {
        let text = "t\talice\tbob\ta\\tb\\nc\\rd\\\\e\nt\tbob\talice\t\nt\tcarol\tbob\t\u{1f600}";
        let log = parse(text.as_bytes(), usize::MAX).unwrap();
        assert_eq!(log.people, ["alice", "bob", "carol"]);
        let texts: Vec<&str> = log.lines.iter().map(|line| &*line.text).collect();
        assert_eq!(texts, ["a\tb\nc\rd\\e", "", "\u{1f600}"]);
        assert_eq!((log.lines[1].sender, log.lines[1].receiver), (1, 0));
        assert_eq!(log.lines[0].conversation(), log.lines[1].conversation());
    }

    #[test]
    fn only_as_many_lines_as_asked_for_are_looked_at() {
        let log = parse("t\ta\tb\tx\nbroken\n".as_bytes(), 1).unwrap();
        assert_eq!(log.lines.len(), 1);
    }

    #[test]
    fn a_malformed_line_is_named_with_its_fault() {
        let good = "t\ta\tb\tx\n";
        let long = "x".repeat(limits::TEXT_BYTES + 1);
        for (bad, what) in [
            ("t\ta\tb".to_owned(), "3 fields"),
            ("t\ta\tb\tx\ty".to_owned(), "5 fields"),
            (String::new(), "1 fields"),
            ("\ta\tb\tx".to_owned(), "time is empty"),
            ("t\t\tb\tx".to_owned(), "sender is empty"),
            ("t\ta\t\tx".to_owned(), "receiver is empty"),
            ("t\ta b\tb\tx".to_owned(), "white space"),
            ("t\ta\ta\tx".to_owned(), "both sender and receiver"),
            ("t\ta\tb\t\\x".to_owned(), "unknown escape \\x"),
            ("t\ta\tb\tx\\".to_owned(), "middle of an escape"),
            (format!("t\ta\tb\t{long}"), "at most 8192"),
            ("x".repeat(LINE_BYTES as usize + 1), "longer than"),
        ] {
            let fault = fault_of(&format!("{good}{bad}\n{good}"));
            assert_eq!(fault.line, 2);
            assert!(fault.what.contains(what), "{fault:?} should say {what:?}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_named() {
        let fault = parse(&b"t\ta\tb\t\xff\n"[..], 9).unwrap_err();
        assert_eq!((fault.line, fault.what.contains("byte 7")), (1, true));
    }

    #[test]
    fn packed_and_plain_files_say_the_same_and_a_torn_one_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (plain, packed) = (dir.path().join("log"), dir.path().join("log.gz"));
        let text = "t\ta\tb\tx\nt\tb\ta\ty\n".repeat(500);
        std::fs::write(&plain, &text).unwrap();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        let bytes = encoder.finish().unwrap();
        std::fs::write(&packed, &bytes).unwrap();
        assert_eq!(
            read(&plain, usize::MAX).unwrap(),
            read(&packed, usize::MAX).unwrap()
        );

        std::fs::write(&packed, &bytes[..bytes.len() / 2]).unwrap();
        assert!(
            read(&packed, usize::MAX)
                .unwrap_err()
                .to_string()
                .contains("cannot be read")
        );
        std::fs::write(&plain, "").unwrap();
        assert!(
            read(&plain, 9)
                .unwrap_err()
                .to_string()
                .contains("holds no lines")
        );
        assert!(
            read(&dir.path().join("none"), 9)
                .unwrap_err()
                .to_string()
                .contains("none")
        );
    }

    proptest! {
        #[test]
        fn any_text_survives_escaping(text in "[a\\\\\t\n\r\u{e9}]{0,40}") {
            let escaped = text
                .replace('\\', "\\\\")
                .replace('\t', "\\t")
                .replace('\n', "\\n")
                .replace('\r', "\\r");
            prop_assert_eq!(unescape(&escaped), Ok(text));
        }

        #[test]
        fn no_input_makes_the_parser_fail_otherwise_than_by_a_fault(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes[..], 50);
        }
    }
}
