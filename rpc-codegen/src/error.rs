//! What is wrong with an input, and where.
//!
//! Knows: files, lines, columns, hints.   Does not know: Protocol Buffers, Rust code.
//!
//! `Debug` prints the same as `Display`, so that an `unwrap` in a build script reads well.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Why nothing was generated: one problem or more, each with its place where there is one.
///
/// Prints as `path:line:column: message`, then the hint on a line of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    /// Never empty; in the order in which they were found.
    problems: Vec<Problem>,
}

/// One thing that has to be put right.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The file as a reader can open it, or its import name when it came without a path.
    pub path: Option<String>,
    /// Line and column in that file, both counted from 1, the column in bytes.
    pub position: Option<(usize, usize)>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Error {
    /// Everything that is wrong, as data. Never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// One problem that no input file is to blame for.
    pub(crate) fn general(message: impl Into<String>, hint: Option<&str>) -> Self {
        Problem {
            path: None,
            position: None,
            message: message.into(),
            hint: hint.map(str::to_owned),
        }
        .into()
    }

    /// Runs code of a library that panics on descriptors it did not expect.
    pub(crate) fn guard<T>(
        message: &str,
        run: impl FnOnce() -> Result<T, Self>,
    ) -> Result<T, Self> {
        let hint = "the panic above says more; descriptors made by protoc or protox are taken";
        catch_unwind(AssertUnwindSafe(run))
            .unwrap_or_else(|_| Err(Self::general(message, Some(hint))))
    }

    /// `Err` if there are any problems.
    pub(crate) fn check(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Self { problems })
        }
    }
}

impl Problem {
    /// A problem of a file as a whole.
    pub(crate) fn of_file(path: &Path, message: impl Into<String>, hint: Option<String>) -> Self {
        Self {
            path: Some(path.display().to_string()),
            position: None,
            message: message.into(),
            hint,
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().take(SHOWN).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        match self.problems.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl fmt::Debug for Error {
    /// Starts a line of its own: `unwrap` would otherwise hide the path behind its own words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{self}")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{path}:")?;
            if let Some((line, column)) = self.position {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n    hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Problems printed before the rest is only counted: a broken import can cause hundreds.
const SHOWN: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: usize) -> Problem {
        Problem {
            path: Some("a.proto".to_owned()),
            position: Some((line, 3)),
            message: "it is wrong".to_owned(),
            hint: Some("put it right".to_owned()),
        }
    }

    #[test]
    fn a_problem_prints_its_place_and_its_hint() {
        let error = Error::from(problem(7));
        assert_eq!(
            error.to_string(),
            "a.proto:7:3: it is wrong\n    hint: put it right"
        );
        assert_eq!(format!("{error:?}"), format!("\n{error}"));
    }

    #[test]
    fn a_flood_of_problems_is_cut_and_counted() {
        let error = Error::check((1..=30).map(problem).collect()).unwrap_err();
        let text = error.to_string();
        assert_eq!(text.matches("it is wrong").count(), SHOWN);
        assert!(text.ends_with("\nand 10 more"), "{text}");
    }
}
