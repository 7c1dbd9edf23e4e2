//! Options, as a build script gives them.
//!
//! Knows: tonic-build's names for them, the build script's environment.   Does not know: what they do.

use std::env;
use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;

use crate::emit::Parts;
use crate::error::Error;
use crate::generate::generate;
use crate::output::Output;
use crate::schema::Schema;

/// Options of a generation; made by [`configure`](crate::configure).
///
/// Where an option takes a `path` it is a protobuf name as prost-build matches it: `.` for everything,
/// `.pkg` or `.pkg.Message` for what lies below, `Message` or `Message.field` for a name's end.
#[derive(Debug)]
#[must_use = "options do nothing before compile_protos or compile_fds is called"]
pub struct Builder {
    pub(crate) parts: Parts,
    out_dir: Option<PathBuf>,
    include_file: Option<PathBuf>,
    emit_rerun_if_changed: bool,
    pub(crate) compile_well_known_types: bool,
    pub(crate) extern_paths: Vec<(String, String)>,
    pub(crate) attributes: Vec<(On, String, String)>,
    pub(crate) bytes: Vec<String>,
    pub(crate) btree_map: Vec<String>,
    pub(crate) boxed: Vec<String>,
}

/// What an attribute goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum On {
    Type,
    Message,
    Enum,
    Field,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            parts: Parts {
                client: true,
                server: true,
                default_stubs: false,
                mock: false,
                trait_given: false,
            },
            out_dir: None,
            include_file: None,
            // Cargo gives OUT_DIR to build scripts; elsewhere nobody reads these lines.
            emit_rerun_if_changed: env::var_os("OUT_DIR").is_some(),
            compile_well_known_types: false,
            extern_paths: Vec::new(),
            attributes: Vec::new(),
            bytes: Vec::new(),
            btree_map: Vec::new(),
            boxed: Vec::new(),
        }
    }
}

impl Builder {
    /// Whether to generate clients. Default: yes.
    pub fn build_client(mut self, enable: bool) -> Self {
        self.parts.client = enable;
        self
    }

    /// Whether to generate service traits and servers. Default: yes.
    pub fn build_server(mut self, enable: bool) -> Self {
        self.parts.server = enable;
        self
    }

    /// Whether trait methods get a body that answers `UNIMPLEMENTED`, so that a server may leave some
    /// out. Default: no, a server that forgets a method does not compile.
    pub fn generate_default_stubs(mut self, enable: bool) -> Self {
        self.parts.default_stubs = enable;
        self
    }

    /// Writes a mock for each service beside its server, for tests: `GreeterMock::new().on_say_hello(|request|
    /// …)` is a `Greeter`. Default: no.
    pub fn build_mock(mut self, enable: bool) -> Self {
        self.parts.mock = enable;
        self
    }

    /// Where the files go. Default: `$OUT_DIR`. Created if it does not exist.
    pub fn out_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.out_dir = Some(directory.as_ref().to_path_buf());
        self
    }

    /// Also writes a file of this name that brings in all packages, nested as modules. It is needed when
    /// packages refer to each other.
    pub fn include_file(mut self, name: impl AsRef<Path>) -> Self {
        self.include_file = Some(name.as_ref().to_path_buf());
        self
    }

    /// Uses the Rust type or module `rust_path` for the protobuf name `proto_path` (with its leading
    /// dot) instead of generating it.
    pub fn extern_path(mut self, proto_path: impl AsRef<str>, rust_path: impl AsRef<str>) -> Self {
        self.extern_paths.push((
            proto_path.as_ref().to_owned(),
            rust_path.as_ref().to_owned(),
        ));
        self
    }

    /// Puts an attribute, `#[…]`, on matching messages, enums and oneofs.
    pub fn type_attribute(self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.attribute(On::Type, path.as_ref(), attribute.as_ref())
    }

    /// Puts an attribute on matching messages.
    pub fn message_attribute(self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.attribute(On::Message, path.as_ref(), attribute.as_ref())
    }

    /// Puts an attribute on matching enums and oneofs.
    pub fn enum_attribute(self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.attribute(On::Enum, path.as_ref(), attribute.as_ref())
    }

    /// Puts an attribute on matching fields and enum values.
    pub fn field_attribute(self, path: impl AsRef<str>, attribute: impl AsRef<str>) -> Self {
        self.attribute(On::Field, path.as_ref(), attribute.as_ref())
    }

    /// Makes matching `bytes` fields `Bytes`, which share the received buffer, instead of `Vec<u8>`.
    pub fn bytes(mut self, path: impl AsRef<str>) -> Self {
        self.bytes.push(path.as_ref().to_owned());
        self
    }

    /// Makes matching `map` fields `BTreeMap` instead of `HashMap`.
    pub fn btree_map(mut self, path: impl AsRef<str>) -> Self {
        self.btree_map.push(path.as_ref().to_owned());
        self
    }

    /// Boxes matching message fields. Fields of recursive messages are boxed anyway.
    pub fn boxed(mut self, path: impl AsRef<str>) -> Self {
        self.boxed.push(path.as_ref().to_owned());
        self
    }

    /// Generates `google.protobuf` messages too, instead of using those of prost-types. Default: no.
    pub fn compile_well_known_types(mut self, enable: bool) -> Self {
        self.compile_well_known_types = enable;
        self
    }

    /// Whether to print a `cargo:rerun-if-changed` line for every file that was read. Default: yes in a
    /// build script.
    pub fn emit_rerun_if_changed(mut self, enable: bool) -> Self {
        self.emit_rerun_if_changed = enable;
        self
    }

    /// Generates code for `.proto` files and all that they import.
    ///
    /// `includes` are the directories that imports are relative to. A file may be given by its path from
    /// the current directory or from one of them, and has to lie below one of them.
    ///
    /// # Errors
    /// Everything that is wrong with the schema, each with its place; files that cannot be read or
    /// written.
    pub fn compile_protos(
        self,
        protos: &[impl AsRef<Path>],
        includes: &[impl AsRef<Path>],
    ) -> Result<(), Error> {
        let protos: Vec<&Path> = protos.iter().map(AsRef::as_ref).collect();
        let includes: Vec<&Path> = includes.iter().map(AsRef::as_ref).collect();
        self.compile(&Schema::parse(&protos, &includes)?)
    }

    /// Generates code from descriptors that another compiler made; imports must be among them. These types
    /// hold no custom options: [`compile_descriptor_set`](Self::compile_descriptor_set) keeps them.
    ///
    /// # Errors
    /// As [`compile_protos`](Self::compile_protos); places are those the descriptors carry.
    pub fn compile_fds(self, set: FileDescriptorSet) -> Result<(), Error> {
        self.compile(&Schema::from_set(set)?)
    }

    /// Generates code from an encoded `FileDescriptorSet`, as `protoc --descriptor_set_out=FILE --include_imports
    /// --include_source_info` writes it, with all its options (`google.api.http`) and, other than
    /// [`compile_protos`](Self::compile_protos), editions 2023 and 2024.
    ///
    /// # Errors
    /// As [`compile_fds`](Self::compile_fds); the bytes are no such set.
    pub fn compile_descriptor_set(self, encoded: &[u8]) -> Result<(), Error> {
        self.compile(&Schema::from_encoded(encoded)?)
    }

    fn compile(self, schema: &Schema) -> Result<(), Error> {
        let output = Output::new(self.out_dir.clone(), self.include_file.clone())?;
        output.write(&generate(&self, schema)?)?;
        if self.emit_rerun_if_changed {
            print!("{}", rerun_lines(schema));
        }
        Ok(())
    }

    fn attribute(mut self, on: On, path: &str, attribute: &str) -> Self {
        self.attributes
            .push((on, path.to_owned(), attribute.to_owned()));
        self
    }
}

/// Tells cargo to run the build script again when one of the files that were read has changed.
fn rerun_lines(schema: &Schema) -> String {
    let paths = schema.files.iter().filter_map(|file| file.path.as_ref());
    paths
        .map(|path| format!("cargo:rerun-if-changed={}\n", path.display()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_hears_of_every_file_that_was_read() {
        let golden = Path::new("tests/golden/packages");
        let schema = Schema::parse(&[Path::new("shop/order.proto")], &[golden]).unwrap();
        assert_eq!(
            rerun_lines(&schema),
            "cargo:rerun-if-changed=tests/golden/packages/shop/billing.proto\n\
             cargo:rerun-if-changed=tests/golden/packages/shop/order.proto\n"
        );
    }
}
