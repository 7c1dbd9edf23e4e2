//! Why a server or a channel could not start or go on.
//!
//! Knows: texts for people.   Does not know: calls; those end with a [`Status`].

#![forbid(unsafe_code)]

use std::fmt;
use std::io;

use super::status::Status;

/// What a program that serves or calls can fail with. One line that says what, where and what to do.
///
/// `Debug` prints the same line as `Display`, so that a `main` that returns it prints one line.
pub enum Error {
    /// The operating system refused: an address in use, an unreachable server.
    Io(io::Error),
    /// A call failed.
    Status(Status),
    /// The set-up is wrong: two services of one name, a descriptor set that does not parse.
    Config(String),
    /// The runtime could not be built.
    Runtime(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Status(status) => status.fmt(f),
            Self::Config(text) | Self::Runtime(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}
