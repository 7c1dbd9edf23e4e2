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
use std::path::{Path, PathBuf};

use prost::{DecodeError, Message};
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use protox::Compiler;
use protox::file::{
    ChainFileResolver, DescriptorSetFileResolver, GoogleFileResolver, IncludeFileResolver,
};

use crate::editions;
use crate::error::{Error, Problem};
use crate::sources::{NO_EDITIONS, Sources};

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
        sources.check(protos)?;

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
        Self::from_descriptors(&set, DescriptorSetFileResolver::new(set.clone()))
    }

    /// The same with every option, as the other compiler wrote it.
    pub(crate) fn from_encoded(encoded: &[u8]) -> Result<Self, Error> {
        let encoded = editions::lower(encoded)?;
        let malformed = |error: DecodeError| {
            Error::general(format!("this descriptor set is malformed: {error}"), None)
        };
        let set = FileDescriptorSet::decode(&encoded[..]).map_err(malformed)?;
        Error::check(unknown_syntaxes(&set))?;
        let resolver = DescriptorSetFileResolver::decode(&encoded[..]).map_err(malformed)?;
        Self::from_descriptors(&set, resolver)
    }

    fn from_descriptors(
        set: &FileDescriptorSet,
        descriptors: DescriptorSetFileResolver,
    ) -> Result<Self, Error> {
        let names: Vec<PathBuf> = set.file.iter().map(|file| file.name().into()).collect();
        let names: Vec<&Path> = names.iter().map(PathBuf::as_path).collect();
        let mut resolver = ChainFileResolver::new();
        resolver.add(descriptors);
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
}

impl File {
    /// A problem of the element at `at`, a path in the sense of `SourceCodeInfo`, or of what it is part of.
    pub(crate) fn problem(&self, at: &[i32], message: String, hint: &str) -> Problem {
        let position = self
            .position(at)
            .or_else(|| self.position(at.split_last()?.1));
        Problem {
            path: Some(self.shown()),
            position,
            message,
            hint: Some(hint.to_owned()),
        }
    }

    /// The name by which a reader can open the file.
    fn shown(&self) -> String {
        self.path.as_ref().map_or_else(
            || self.descriptor.name().to_owned(),
            |path| path.display().to_string(),
        )
    }

    /// Where the element at `path` begins, counted from 1.
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
}

/// The encoding of `FileDescriptorSet`, with its files left encoded: decoding them into
/// `prost_types` would drop custom options such as `google.api.http`.
#[derive(Clone, PartialEq, Message)]
struct EncodedSet {
    #[prost(bytes = "vec", repeated, tag = "1")]
    file: Vec<Vec<u8>>,
}

/// Files of a ready set in a syntax whose rules nobody here knows.
fn unknown_syntaxes(set: &FileDescriptorSet) -> Vec<Problem> {
    let unknown = set
        .file
        .iter()
        .filter(|file| !matches!(file.syntax(), "" | "proto2" | "proto3"));
    let problem = |file: &FileDescriptorProto| {
        let message = format!("unknown syntax '{}'", file.syntax());
        Problem::of_file(
            Path::new(file.name()),
            message,
            Some(NO_EDITIONS.to_owned()),
        )
    };
    unknown.map(problem).collect()
}
