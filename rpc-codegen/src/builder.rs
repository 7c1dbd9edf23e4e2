//! Options, and the way from a schema to files.
//!
//! Knows: every other module, the build script's environment.   Does not know: what generated text looks like.
//!
//! Read first: [`Builder::generate`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use prost_types::FileDescriptorSet;

use crate::comments;
use crate::emit::Parts;
use crate::error::{Error, Problem};
use crate::module::{self, Module};
use crate::output::{Generated, Output};
use crate::plan::Service;
use crate::schema::Schema;

/// Options of a generation; made by [`configure`](crate::configure).
///
/// Where an option takes a `path` it is a protobuf name as prost-build matches it: `.` for everything,
/// `.pkg` or `.pkg.Message` for what lies below, `Message` or `Message.field` for a name's end.
#[derive(Debug)]
#[must_use = "options do nothing before compile_protos or compile_fds is called"]
pub struct Builder {
    parts: Parts,
    out_dir: Option<PathBuf>,
    include_file: Option<PathBuf>,
    emit_rerun_if_changed: bool,
    compile_well_known_types: bool,
    extern_paths: Vec<(String, String)>,
    attributes: Vec<(On, String, String)>,
    bytes: Vec<String>,
    btree_map: Vec<String>,
    boxed: Vec<String>,
}

/// What an attribute goes on.
#[derive(Clone, Copy, Debug)]
enum On {
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

    /// Generates code from descriptors that another compiler made; imports must be among them.
    ///
    /// # Errors
    /// As [`compile_protos`](Self::compile_protos); places are those the descriptors carry.
    pub fn compile_fds(self, set: FileDescriptorSet) -> Result<(), Error> {
        self.compile(&Schema::from_set(set)?)
    }

    fn compile(self, schema: &Schema) -> Result<(), Error> {
        let output = Output::new(self.out_dir.clone(), self.include_file.clone())?;
        let generated = self.generate(schema)?;
        output.write(&generated)?;
        if self.emit_rerun_if_changed {
            for path in schema.files.iter().filter_map(|file| file.path.as_ref()) {
                println!("cargo:rerun-if-changed={}", path.display());
            }
        }
        Ok(())
    }

    /// Everything there is to write.
    fn generate(&self, schema: &Schema) -> Result<Vec<Generated>, Error> {
        let (messages, services) = self.lower(schema)?;
        let services = plan(&services, schema)?;
        let mut packages: BTreeMap<&str, prost_build::Module> = BTreeMap::new();
        for file in &schema.files {
            let package = file.descriptor.package();
            packages.insert(
                package,
                prost_build::Module::from_protobuf_package_name(package),
            );
        }

        let mut generated = Vec::new();
        let mut problems = Vec::new();
        for (package, path) in packages {
            let messages = messages.get(&path).map_or("", String::as_str);
            let services = services.get(package).map_or(&[][..], Vec::as_slice);
            if messages.is_empty() && services.is_empty() {
                // A package of which everything is external.
                continue;
            }
            let file_name = path.to_file_name_or("_");
            let set_name = format!("{}.fds.bin", file_name.trim_end_matches(".rs"));
            let files = schema
                .files
                .iter()
                .map(|file| &file.descriptor)
                .filter(|file| file.package() == package);
            let sources = files.map(|file| file.name()).collect();
            let module = Module {
                package,
                messages,
                services,
                descriptor_set: &set_name,
                sources,
            };
            let syntax = module.build(self.parts)?;
            problems.extend(
                module::clashes(&syntax)
                    .iter()
                    .map(|name| clash(schema, package, name)),
            );
            generated.push(Generated {
                modules: path.parts().map(str::to_owned).collect(),
                text: module.print(&syntax),
                file_name,
                descriptor_set: schema.descriptor_set(package),
                set_name,
            });
        }
        Error::check(problems)?;
        Ok(generated)
    }

    /// Lets prost-build write the messages and describe the services.
    fn lower(&self, schema: &Schema) -> Result<(Messages, Vec<prost_build::Service>), Error> {
        let collected = Rc::new(RefCell::new(Vec::new()));
        let mut config = self.prost_config()?;
        config.service_generator(Box::new(Collector(Rc::clone(&collected))));
        let requests = schema.files.iter().map(|file| {
            let mut descriptor = file.descriptor.clone();
            comments::prepare(&mut descriptor);
            (
                prost_build::Module::from_protobuf_package_name(descriptor.package()),
                descriptor,
            )
        });
        let requests = requests.collect();

        // prost-build asserts what it expects of descriptors; those of another compiler may surprise it.
        let messages = Error::guard("prost-build cannot handle these descriptors", || {
            config
                .generate(requests)
                .map_err(|error| Error::general(error.to_string(), None))
        })?;
        drop(config);
        let services = Rc::into_inner(collected)
            .expect("the only other share went with the config")
            .into_inner();
        Ok((messages, services))
    }

    fn prost_config(&self) -> Result<prost_build::Config, Error> {
        let mut config = prost_build::Config::new();
        config
            .prost_path("::rpc_core::codegen::prost")
            .prost_types_path("::rpc_core::codegen::prost_types");
        for (proto, rust) in &self.extern_paths {
            if syn::parse_str::<syn::Type>(rust).is_err() {
                let message =
                    format!("extern_path(\"{proto}\", \"{rust}\"): '{rust}' is not a Rust path");
                return Err(Error::general(
                    message,
                    Some("write it as ::my_crate::module"),
                ));
            }
            config.extern_path(proto, rust);
        }
        for (on, path, attribute) in &self.attributes {
            match on {
                On::Type => config.type_attribute(path, attribute),
                On::Message => config.message_attribute(path, attribute),
                On::Enum => config.enum_attribute(path, attribute),
                On::Field => config.field_attribute(path, attribute),
            };
            if let Err(error) =
                syn::parse::Parser::parse_str(syn::Attribute::parse_outer, attribute)
            {
                let message =
                    format!("the attribute for \"{path}\" is not valid Rust: {attribute}: {error}");
                return Err(Error::general(
                    message,
                    Some("write it with its brackets, as #[derive(…)]"),
                ));
            }
        }
        config.bytes(&self.bytes).btree_map(&self.btree_map);
        for path in &self.boxed {
            config.boxed(path);
        }
        if self.compile_well_known_types {
            config.compile_well_known_types();
        }
        Ok(config)
    }

    fn attribute(mut self, on: On, path: &str, attribute: &str) -> Self {
        self.attributes
            .push((on, path.to_owned(), attribute.to_owned()));
        self
    }
}

/// Text of messages and enums by module.
type Messages = std::collections::HashMap<prost_build::Module, String>;

/// Keeps the services that prost-build describes: they are written after the messages, once they are
/// known to be sound.
struct Collector(Rc<RefCell<Vec<prost_build::Service>>>);

impl prost_build::ServiceGenerator for Collector {
    fn generate(&mut self, service: prost_build::Service, _: &mut String) {
        self.0.borrow_mut().push(service);
    }
}

/// Plans of all services by package, or the problems of all.
fn plan(
    services: &[prost_build::Service],
    schema: &Schema,
) -> Result<BTreeMap<String, Vec<Service>>, Error> {
    let mut plans: BTreeMap<String, Vec<Service>> = BTreeMap::new();
    let mut problems = Vec::new();
    for service in services {
        match Service::new(service, schema) {
            Ok(plan) => plans.entry(service.package.clone()).or_default().push(plan),
            Err(error) => problems.extend_from_slice(error.problems()),
        }
    }
    Error::check(problems)?;
    Ok(plans)
}

fn clash(schema: &Schema, package: &str, name: &str) -> Problem {
    let message = format!("two items of package '{package}' become '{name}' in Rust");
    let hint = "rename one; a service S also takes SServer and SClient";
    schema.type_problem(package, name, message, hint)
}
