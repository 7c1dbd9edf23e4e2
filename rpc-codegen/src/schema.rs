//! From `.proto` files, or a ready descriptor set, to descriptors with their sources.
//!
//! Knows: protox, files, include directories, positions.   Does not know: Rust code.
//!
//! Invariants
//! - Files stand after the files they import, each once, whichever way they came in.
//! - Every descriptor has been linked: names are absolute, imports are present.
//!
//! Read first: [`Schema::parse`].

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use protox::Compiler;
use protox::file::{
    ChainFileResolver, DescriptorSetFileResolver, GoogleFileResolver, IncludeFileResolver,
};

use crate::error::{Error, Problem};
use crate::suggest;

/// Everything that takes part in one generation.
pub(crate) struct Schema {
    pub(crate) files: Vec<File>,
}

/// One `.proto` file after linking.
pub(crate) struct File {
    /// Where it was read from; `None` for well-known files and for ready descriptor sets.
    pub(crate) path: Option<PathBuf>,
    /// With positions and comments, without options this program does not know.
    pub(crate) descriptor: FileDescriptorProto,
    /// As bytes, without positions and comments, with *all* options: what a program carries along.
    encoded: Vec<u8>,
}

impl Schema {
    /// Reads the files and all that they import.
    pub(crate) fn parse(protos: &[&Path], includes: &[&Path]) -> Result<Self, Error> {
        let sources = Sources { includes };
        Error::check(sources.missing(protos))?;

        // The well-known files come first: an include directory that carries its own copy of them,
        // perhaps in a syntax protox does not read, must not get in the way.
        let mut resolver = ChainFileResolver::new();
        resolver.add(GoogleFileResolver::new());
        for include in includes {
            resolver.add(IncludeFileResolver::new(include.to_path_buf()));
        }
        Self::link(resolver, protos, &sources)
    }

    /// Takes descriptors that another compiler made.
    pub(crate) fn from_set(set: FileDescriptorSet) -> Result<Self, Error> {
        Error::check(unknown_syntaxes(&set))?;
        let names: Vec<PathBuf> = set.file.iter().map(|file| file.name().into()).collect();
        let names: Vec<&Path> = names.iter().map(PathBuf::as_path).collect();
        let mut resolver = ChainFileResolver::new();
        resolver.add(DescriptorSetFileResolver::new(set));
        resolver.add(GoogleFileResolver::new());
        // prost-reflect takes a descriptor's inner indices on trust.
        Error::guard("this descriptor set is malformed", || {
            Self::link(resolver, &names, &Sources { includes: &[] })
        })
    }

    fn link(
        resolver: ChainFileResolver,
        protos: &[&Path],
        sources: &Sources<'_>,
    ) -> Result<Self, Error> {
        let mut compiler = Compiler::with_file_resolver(resolver);
        compiler.include_imports(true).include_source_info(true);
        compiler
            .open_files(protos)
            .map_err(|error| sources.explain(&error))?;
        let described = compiler.file_descriptor_set().file;
        let encoded = compiler
            .include_source_info(false)
            .encode_file_descriptor_set();
        let encoded = EncodedSet::decode(encoded.as_slice())
            .expect("protox has just encoded this set")
            .file;

        let files: Vec<File> = compiler
            .files()
            .zip(described)
            .zip(encoded)
            .map(|((metadata, descriptor), encoded)| File {
                path: metadata.path().map(Path::to_path_buf),
                descriptor,
                encoded,
            })
            .collect();
        Ok(Self { files })
    }

    /// The encoded descriptor set of one package: its files and everything they import.
    pub(crate) fn descriptor_set(&self, package: &str) -> Vec<u8> {
        let mut wanted = HashSet::new();
        // Importers stand after what they import, so one pass from the end finds everything.
        for file in self.files.iter().rev() {
            let descriptor = &file.descriptor;
            if descriptor.package() == package || wanted.contains(descriptor.name()) {
                wanted.insert(descriptor.name());
                wanted.extend(descriptor.dependency.iter().map(String::as_str));
            }
        }
        let file = self
            .files
            .iter()
            .filter(|file| wanted.contains(file.descriptor.name()))
            .map(|file| file.encoded.clone())
            .collect();
        EncodedSet { file }.encode_to_vec()
    }

    /// A problem of a service, or of one of its methods.
    ///
    /// `attribute` is the field of the (method) descriptor to point at, such as 1 for the name.
    pub(crate) fn service_problem(
        &self,
        service: &str,
        method: Option<&str>,
        attribute: i32,
        message: String,
        hint: &str,
    ) -> Problem {
        let found = self
            .files
            .iter()
            .find_map(|file| Some((file, file.service_path(service, method)?)));
        let (path, position) = match found {
            Some((file, mut at)) => {
                at.push(attribute);
                (
                    Some(file.shown()),
                    file.position(&at)
                        .or_else(|| file.position(&at[..at.len() - 1])),
                )
            }
            None => (None, None),
        };
        Problem {
            path,
            position,
            message,
            hint: Some(hint.to_owned()),
        }
    }

    /// A problem of the top-level message, enum or service of `package` that becomes `rust_name`.
    pub(crate) fn type_problem(
        &self,
        package: &str,
        rust_name: &str,
        message: String,
        hint: &str,
    ) -> Problem {
        let found = self
            .files
            .iter()
            .rev()
            .filter(|file| file.descriptor.package() == package)
            .find_map(|file| {
                let path = file.type_path(rust_name)?;
                Some((file.shown(), file.position(&path)))
            });
        let (path, position) =
            found.map_or((None, None), |(path, position)| (Some(path), position));
        Problem {
            path,
            position,
            message,
            hint: Some(hint.to_owned()),
        }
    }
}

impl File {
    /// The name by which a reader can open the file.
    fn shown(&self) -> String {
        self.path.as_ref().map_or_else(
            || self.descriptor.name().to_owned(),
            |path| path.display().to_string(),
        )
    }

    /// Where the element at `path` (in the sense of `SourceCodeInfo`) begins, counted from 1.
    fn position(&self, path: &[i32]) -> Option<(usize, usize)> {
        let locations = &self.descriptor.source_code_info.as_ref()?.location;
        let location = locations.iter().find(|location| location.path == path)?;
        match location.span[..] {
            [line, column, ..] => Some((
                usize::try_from(line).ok()? + 1,
                usize::try_from(column).ok()? + 1,
            )),
            _ => None,
        }
    }

    fn service_path(&self, service: &str, method: Option<&str>) -> Option<Vec<i32>> {
        let package = self.descriptor.package();
        let name = if package.is_empty() {
            service
        } else {
            service.strip_prefix(package)?.strip_prefix('.')?
        };
        let (index, service) =
            position_of(&self.descriptor.service, |service| service.name() == name)?;
        let mut path = vec![6, index];
        if let Some(method) = method {
            let (index, _) = position_of(&service.method, |candidate| candidate.name() == method)?;
            path.extend([2, index]);
        }
        Some(path)
    }

    /// Path of the name of the last top-level item that becomes `rust_name`: of two that clash, the
    /// one to blame.
    fn type_path(&self, rust_name: &str) -> Option<Vec<i32>> {
        let same = |name: &str| suggest::letters(name) == suggest::letters(rust_name);
        let file = &self.descriptor;
        let found = [
            (
                4,
                file.message_type.iter().rposition(|item| same(item.name())),
            ),
            (5, file.enum_type.iter().rposition(|item| same(item.name()))),
            (6, file.service.iter().rposition(|item| same(item.name()))),
        ];
        found
            .into_iter()
            .find_map(|(field, index)| Some(vec![field, i32::try_from(index?).ok()?, 1]))
    }
}

/// The encoding of `FileDescriptorSet`, with its files left encoded: decoding them into
/// `prost_types` would drop custom options such as `google.api.http`.
#[derive(Clone, PartialEq, Message)]
struct EncodedSet {
    #[prost(bytes = "vec", repeated, tag = "1")]
    file: Vec<Vec<u8>>,
}

/// Where files are looked for, to tell about it when something is amiss.
struct Sources<'a> {
    includes: &'a [&'a Path],
}

impl Sources<'_> {
    /// Inputs that protox could only complain about in vaguer words.
    fn missing(&self, protos: &[&Path]) -> Vec<Problem> {
        let problem = |path: &Path, message: &str, hint: String| Problem {
            path: Some(path.display().to_string()),
            position: None,
            message: message.to_owned(),
            hint: Some(hint),
        };
        if protos.is_empty() {
            let hint = Some("name at least one .proto file".to_owned());
            return vec![Problem {
                path: None,
                position: None,
                message: "no input files".to_owned(),
                hint,
            }];
        }
        let mut problems = Vec::new();
        for include in self.includes {
            if !include.is_dir() {
                let hint = format!("paths are relative to {}", current_dir());
                problems.push(problem(
                    include,
                    "this include directory does not exist",
                    hint,
                ));
            }
        }
        for proto in protos {
            let included = self
                .includes
                .iter()
                .any(|include| include.join(proto).is_file());
            if !proto.is_file() && !included {
                let hint = format!(
                    "paths are relative to {} or to an include directory",
                    current_dir()
                );
                problems.push(problem(proto, "no such file", hint));
            }
        }
        problems
    }

    /// Everything protox has to say, with places.
    fn explain(&self, error: &protox::Error) -> Error {
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
        let shown = |path: &&Path| path.display().to_string();
        let includes = || {
            self.includes
                .iter()
                .map(shown)
                .collect::<Vec<_>>()
                .join(", ")
        };
        if message.starts_with("import '")
            && message.ends_with("' not found")
            && !self.includes.is_empty()
        {
            let looked = includes();
            return Some(format!(
                "looked in {looked}: correct the import, or include the directory it is relative to"
            ));
        }
        if message.contains("is not in any include path") {
            return Some(format!(
                "included are {}: add a directory above the file",
                includes()
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

/// Files of a ready set in a syntax whose rules nobody here knows.
fn unknown_syntaxes(set: &FileDescriptorSet) -> Vec<Problem> {
    let unknown = set
        .file
        .iter()
        .filter(|file| !matches!(file.syntax(), "" | "proto2" | "proto3"));
    let problem = |file: &FileDescriptorProto| Problem {
        path: Some(file.name().to_owned()),
        position: None,
        message: format!("unknown syntax '{}'", file.syntax()),
        hint: Some(NO_EDITIONS.to_owned()),
    };
    unknown.map(problem).collect()
}

/// Index and element of the first match, in the integers of `SourceCodeInfo`.
fn position_of<T>(items: &[T], matches: impl Fn(&T) -> bool) -> Option<(i32, &T)> {
    let (index, item) = items.iter().enumerate().find(|(_, item)| matches(item))?;
    Some((i32::try_from(index).ok()?, item))
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
        before[line_start..].chars().count() + 1,
    ))
}

fn current_dir() -> String {
    std::env::current_dir().map_or_else(
        |_| "the current directory".to_owned(),
        |path| path.display().to_string(),
    )
}

const NO_EDITIONS: &str = "editions are not supported; start the file with syntax = \"proto3\";";
