//! Histories from files: merged by time, judged, and quoted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::{Checker, Place, Verdict};
use crate::history::Line;

/// Longest part of a line that is quoted.
const QUOTED: usize = 400;

/// Flags of `check`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Histories of one run, one JSON object a line
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// Checks histories and prints the judgement: exit status 1 for a violation, 2 for insufficient evidence.
///
/// # Errors
/// A file that cannot be read, or a line that is none of a history.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let verdict = check(&options.files)?;
    println!("{}", tell(&verdict, &options.files)?);
    Ok(verdict.exit())
}

/// Judges the histories of one run.
///
/// # Errors
/// A file that cannot be read, or a line that is none of a history. The last line of a file may be torn: the
/// process that wrote it was killed.
pub fn check(files: &[PathBuf]) -> anyhow::Result<Verdict> {
    let mut sources = Vec::with_capacity(files.len());
    let mut heads = BinaryHeap::new();
    for (index, path) in files.iter().enumerate() {
        let mut source = Source::open(path)?;
        if let Some(line) = source.next()? {
            heads.push(Reverse((line.t, index)));
            source.head = Some(line);
        }
        sources.push(source);
    }
    let mut checker = Checker::default();
    while let Some(Reverse((_, index))) = heads.pop() {
        let source = &mut sources[index];
        let Some(line) = source.head.take() else {
            continue;
        };
        let place = (index as u32, source.head_at);
        checker
            .take(place, &line)
            .map_err(|what| anyhow::anyhow!("{}:{}: {what}", source.path.display(), place.1))?;
        if let Some(line) = source.next()? {
            heads.push(Reverse((line.t, index)));
            source.head = Some(line);
        }
    }
    Ok(checker.finish())
}

/// The judgement with the lines it rests on.
///
/// # Errors
/// When a file cannot be read again.
pub fn tell(verdict: &Verdict, files: &[PathBuf]) -> anyhow::Result<String> {
    let mut wanted: BTreeMap<Place, String> = BTreeMap::new();
    verdict.tell(|place| {
        wanted.insert(place, String::new());
        None
    });
    for (index, path) in files.iter().enumerate() {
        if !wanted.keys().any(|(file, _)| *file as usize == index) {
            continue;
        }
        let file = File::open(path).with_context(|| path.display().to_string())?;
        for (number, line) in (1..).zip(BufReader::new(file).lines()) {
            if let Some(kept) = wanted.get_mut(&(index as u32, number)) {
                let line = line.with_context(|| path.display().to_string())?;
                *kept = line.chars().take(QUOTED).collect();
            }
        }
    }
    Ok(verdict.tell(|place| wanted.get(&place).cloned()))
}

/// A file that is being read.
struct Source {
    path: PathBuf,
    lines: Lines<BufReader<File>>,
    /// Read and not yet taken, and its number.
    head: Option<Line>,
    head_at: u32,
}

impl Source {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        Ok(Self {
            path: path.to_owned(),
            lines: BufReader::new(file).lines(),
            head: None,
            head_at: 0,
        })
    }

    fn next(&mut self) -> anyhow::Result<Option<Line>> {
        let Some(text) = self.lines.next() else {
            return Ok(None);
        };
        let text = text.with_context(|| self.path.display().to_string())?;
        self.head_at += 1;
        match serde_json::from_str(&text) {
            Ok(line) => Ok(Some(line)),
            // Torn by a kill: then nothing follows it.
            Err(_) if self.lines.next().is_none() => Ok(None),
            Err(error) => Err(anyhow::anyhow!(
                "{}:{}: not a line of a history: {error}",
                self.path.display(),
                self.head_at
            )),
        }
    }
}
