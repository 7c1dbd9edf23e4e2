//! What protox has to say about files, with places and with what to do.
//!
//! Knows: include directories, protox's messages.   Does not know: descriptors that are right.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use miette::Diagnostic;

use crate::error::{Error, Problem};
use crate::suggest;

/// Where files are looked for.
pub(crate) struct Sources<'a> {
    pub(crate) includes: &'a [&'a Path],
}

impl Sources<'_> {
    /// Inputs that protox could only complain about in vaguer words.
    pub(crate) fn check(&self, protos: &[&Path]) -> Result<(), Error> {
        if protos.is_empty() {
            return Err(Error::general(
                "no input files",
                Some("name at least one .proto file"),
            ));
        }
        let mut problems = Vec::new();
        for include in self.includes.iter().filter(|include| !include.is_dir()) {
            let hint = format!("paths are relative to {}", current_dir());
            problems.push(Problem::of_file(
                include,
                "this include directory does not exist",
                Some(hint),
            ));
        }
        for proto in protos {
            if !proto.is_file()
                && !self
                    .includes
                    .iter()
                    .any(|include| include.join(proto).is_file())
            {
                let hint = format!(
                    "paths are relative to {} or to an include directory",
                    current_dir()
                );
                problems.push(Problem::of_file(proto, "no such file", Some(hint)));
            }
        }
        Error::check(problems)
    }

    /// Everything protox has to say, with places.
    pub(crate) fn explain(&self, error: &protox::Error) -> Error {
        let path = error.file().map(|name| self.path_of(name));
        let text = path
            .as_ref()
            .and_then(|path| fs::read_to_string(path).ok())
            .unwrap_or_default();
        let related = error.related().into_iter().flatten();
        let problems = std::iter::once(error as &dyn Diagnostic)
            .chain(related)
            .map(|diagnostic| {
                let message = diagnostic.to_string();
                let help = diagnostic.help().map(|help| help.to_string());
                Problem {
                    position: position_of_diagnostic(diagnostic, &message, &text),
                    path: path.as_ref().map(|path| path.display().to_string()),
                    hint: self.hint(&message, help, error.file(), path.as_deref()),
                    message,
                }
            })
            .collect();
        Error::check(problems).expect_err("protox reports an error only with a diagnostic")
    }

    fn path_of(&self, name: &str) -> PathBuf {
        let candidates = self.includes.iter().map(|include| include.join(name));
        candidates
            .into_iter()
            .find(|path| path.is_file())
            .unwrap_or_else(|| name.into())
    }

    /// What to do: protox's `help`, unless more can be said.
    fn hint(
        &self,
        message: &str,
        help: Option<String>,
        name: Option<&str>,
        path: Option<&Path>,
    ) -> Option<String> {
        let import = message
            .strip_prefix("import '")
            .and_then(|rest| rest.strip_suffix("' not found"));
        if import.is_some() && !self.includes.is_empty() {
            return Some(format!(
                "looked in {self}: correct the import, or include the directory it is relative to"
            ));
        }
        if message.contains("is not in any include path") {
            return Some(format!(
                "included are {self}: add a directory above the file"
            ));
        }
        if message.contains("found 'edition'") {
            return Some(NO_EDITIONS.to_owned());
        }
        let Some(unknown) = undefined_name(message) else {
            return help;
        };
        let known = path
            .zip(name)
            .map(|(path, name)| self.names_seen_from(name, path))
            .unwrap_or_default();
        match suggest::nearest(unknown, &known) {
            Some(name) => Some(format!("did you mean '{name}'?")),
            None => help.or_else(|| Some("define it, or import the file that does".to_owned())),
        }
    }

    /// Messages and enums of a file and of what it imports directly, by their last names.
    fn names_seen_from(&self, name: &str, path: &Path) -> Vec<String> {
        let Ok(file) = protox::file::File::open(name, path) else {
            return Vec::new();
        };
        let imports = file
            .file_descriptor_proto()
            .dependency
            .iter()
            .map(|name| (name.as_str(), self.path_of(name)));
        let imported = imports
            .filter_map(|(name, path)| protox::file::File::open(name, &path).ok())
            .collect::<Vec<_>>();
        let descriptors = imported
            .iter()
            .chain([&file])
            .map(protox::file::File::file_descriptor_proto);
        let mut names = Vec::new();
        for descriptor in descriptors {
            names.extend(
                descriptor
                    .enum_type
                    .iter()
                    .map(|item| item.name().to_owned()),
            );
            let mut messages: Vec<_> = descriptor.message_type.iter().collect();
            while let Some(message) = messages.pop() {
                names.push(message.name().to_owned());
                names.extend(message.enum_type.iter().map(|item| item.name().to_owned()));
                messages.extend(&message.nested_type);
            }
        }
        names
    }
}

impl fmt::Display for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<_> = self
            .includes
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        f.write_str(&shown.join(", "))
    }
}

/// The name that a message of protox calls undefined.
fn undefined_name(message: &str) -> Option<&str> {
    let unknown = message
        .strip_prefix("name '")
        .and_then(|rest| rest.strip_suffix("' is not defined"));
    let shadowed = || {
        message
            .strip_suffix("', which is not defined")?
            .split_once("' resolves to '")
            .map(|(_, name)| name)
    };
    unknown.or_else(shadowed)
}

/// A diagnostic labels up to two places: the one that has to change comes first here.
fn position_of_diagnostic(
    diagnostic: &dyn Diagnostic,
    message: &str,
    text: &str,
) -> Option<(usize, usize)> {
    let weight = |label: &str| match label {
        label if label.contains("again") => 0,
        "found here" | "imported here" => 1,
        "defined here" => 2,
        _ => 3,
    };
    let labels = diagnostic.labels().into_iter().flatten();
    let offset = labels
        .min_by_key(|label| weight(label.label().unwrap_or_default()))
        .map(|label| label.offset());
    let at_end = message
        .ends_with("reached end of file")
        .then_some(text.len());
    let before = text.get(..offset.or(at_end)?)?;
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Some((
        before.matches('\n').count() + 1,
        before.len() - line_start + 1,
    ))
}

fn current_dir() -> String {
    std::env::current_dir().map_or_else(
        |_| "the current directory".to_owned(),
        |path| path.display().to_string(),
    )
}

/// What to do about a file in a syntax whose rules nobody here knows.
pub(crate) const NO_EDITIONS: &str = "editions are read from descriptor sets alone: give compile_descriptor_set what protoc \
    --descriptor_set_out writes, or start the file with syntax = \"proto3\";";
