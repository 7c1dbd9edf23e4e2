//! From a schema to the files to write.
//!
//! Knows: every step between the two, prost-build.   Does not know: where schemas come from, the disk.
//!
//! Read first: [`generate`].

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use prost_build::{Config, Module};
use syn::parse::Parser;

use crate::builder::{Builder, On};
use crate::emit::Parts;
use crate::error::Error;
use crate::module::Contents;
use crate::output::{Generated, Place, include_text};
use crate::plan::Service;
use crate::schema::Schema;
use crate::{check, comments};

/// One file per package of which anything is generated.
pub(crate) fn generate(options: &Builder, schema: &Schema) -> Result<Vec<Generated>, Error> {
    let config = prost_config(options)?;
    let suffixes: &[&str] = match options.parts {
        Parts {
            client: false,
            server: false,
            ..
        } => &[],
        Parts { mock: false, .. } => &["", "Server", "Client"],
        Parts { mock: true, .. } => &["", "Server", "Client", "Mock"],
    };
    Error::check(check::problems(schema, suffixes, |name| {
        !is_external(options, name)
    }))?;
    let (messages, services) = lower(config, schema)?;

    let packages = schema.files.iter().map(|file| file.descriptor.package());
    let packages: BTreeMap<&str, Module> = packages
        .map(|package| (package, Module::from_protobuf_package_name(package)))
        .collect();
    let mut parts = Vec::new();
    for (package, path) in packages {
        let own = services.iter().filter(|service| {
            service.package == package
                && !is_external(options, &check::absolute(package, &service.proto_name))
        });
        let services = own.map(Service::new).collect::<Result<Vec<_>, _>>()?;
        let messages = messages.get(&path).map_or("", String::as_str);
        if messages.is_empty() && services.is_empty() {
            continue;
        }
        // Named as `include_proto!` names the package.
        let stem = if package.is_empty() { "_" } else { package };
        parts.push(Part {
            package,
            services,
            messages: syn::parse_file(messages).map_err(|error| {
                let text = format!("prost-build wrote no valid Rust for '{package}': {error}");
                Error::general(text, None)
            })?,
            place: Place {
                modules: path.parts().map(str::to_owned).collect(),
                file_name: format!("{stem}.rs"),
                inside: false,
            },
            set_name: format!("{stem}.fds.bin"),
        });
    }
    let shared = share_modules(&mut parts);
    let print = |(part, shared): (Part<'_>, BTreeMap<String, String>)| {
        let files = schema.files.iter().map(|file| &file.descriptor);
        let files = files.filter(|file| file.package() == part.package);
        let contents = Contents {
            package: part.package,
            messages: part.messages,
            shared: &shared,
            services: &part.services,
            parts: options.parts,
            descriptor_set: &part.set_name,
            sources: files.map(|file| file.name()).collect(),
        };
        Ok(Generated {
            text: contents.print()?,
            place: part.place,
            descriptor_set: schema.descriptor_set(part.package),
            set_name: part.set_name,
        })
    };
    parts.into_iter().zip(shared).map(print).collect()
}

/// A package on its way to a file.
struct Part<'a> {
    package: &'a str,
    services: Vec<Service>,
    messages: syn::File,
    place: Place,
    set_name: String,
}

/// A message and a package may have one module: what is nested in `a.B`, and package `a.b`. Then the file of
/// the package above brings the package in, inside that module. For each part its modules of this kind.
fn share_modules(parts: &mut [Part<'_>]) -> Vec<BTreeMap<String, String>> {
    let places: Vec<Place> = parts.iter().map(|part| part.place.clone()).collect();
    let mut inside = vec![false; parts.len()];
    let mut all = Vec::new();
    // From the innermost packages outwards: their names stand behind.
    for part in parts.iter().rev() {
        let modules = part.messages.items.iter().filter_map(|item| match item {
            syn::Item::Mod(module) => Some(module.ident.to_string()),
            _ => None,
        });
        let mut shared = BTreeMap::new();
        for module in modules {
            let mut path = part.place.modules.clone();
            path.push(module.clone());
            let below = places.iter().enumerate().filter(|(index, place)| {
                // One that is inside such a module already comes in with it.
                !inside[*index] && place.modules.starts_with(&path)
            });
            let below: Vec<usize> = below.map(|(index, _)| index).collect();
            if below.is_empty() {
                continue;
            }
            let within: Vec<Place> = below.iter().map(|i| places[*i].below(path.len())).collect();
            below.into_iter().for_each(|index| inside[index] = true);
            shared.insert(module, include_text(&within));
        }
        all.push(shared);
    }
    all.reverse();
    for (part, inside) in parts.iter_mut().zip(inside) {
        part.place.inside = inside;
    }
    all
}

/// Lets prost-build write the messages, by module, and describe the services.
fn lower(
    mut config: Config,
    schema: &Schema,
) -> Result<(HashMap<Module, String>, Vec<prost_build::Service>), Error> {
    let services = Rc::new(RefCell::new(Vec::new()));
    config.service_generator(Box::new(Collector(Rc::clone(&services))));
    let requests = schema.files.iter().map(|file| {
        let mut descriptor = file.descriptor.clone();
        comments::prepare(&mut descriptor);
        (
            Module::from_protobuf_package_name(descriptor.package()),
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
    Ok((messages, services.take()))
}

/// Keeps the services that prost-build describes: they are written after the messages.
struct Collector(Rc<RefCell<Vec<prost_build::Service>>>);

impl prost_build::ServiceGenerator for Collector {
    fn generate(&mut self, service: prost_build::Service, _: &mut String) {
        self.0.borrow_mut().push(service);
    }
}

/// Options in prost-build's terms; those that are not Rust are refused.
fn prost_config(options: &Builder) -> Result<Config, Error> {
    let mut config = Config::new();
    config
        .prost_path("::rpc_core::codegen::prost")
        .prost_types_path("::rpc_core::codegen::prost_types");
    for (proto, rust) in &options.extern_paths {
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
    for (on, path, attribute) in &options.attributes {
        if let Err(error) = syn::Attribute::parse_outer.parse_str(attribute) {
            let message =
                format!("the attribute for \"{path}\" is not valid Rust: {attribute}: {error}");
            return Err(Error::general(
                message,
                Some("write it with its brackets, as #[derive(…)]"),
            ));
        }
        match on {
            On::Type => config.type_attribute(path, attribute),
            On::Message => config.message_attribute(path, attribute),
            On::Enum => config.enum_attribute(path, attribute),
            On::Field => config.field_attribute(path, attribute),
        };
    }
    config.bytes(&options.bytes).btree_map(&options.btree_map);
    for path in &options.boxed {
        config.boxed(path);
    }
    if options.compile_well_known_types {
        config.compile_well_known_types();
    }
    Ok(config)
}

/// Whether code for a full name (with its leading dot) is somewhere else.
fn is_external(options: &Builder, name: &str) -> bool {
    let covers = |path: &str| match name.strip_prefix(path.trim_end_matches('.')) {
        Some(rest) => rest.is_empty() || rest.starts_with('.'),
        None => false,
    };
    let well_known = !options.compile_well_known_types && covers(".google.protobuf");
    well_known || options.extern_paths.iter().any(|(path, _)| covers(path))
}
