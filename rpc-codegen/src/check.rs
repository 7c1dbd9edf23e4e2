//! What a correct schema may hold that cannot be generated.
//!
//! Knows: the case prost-build gives to names.   Does not know: what is written for them.
//!
//! Above all names that Rust would not tell apart: `foo_bar` and `FooBar` are two names to protobuf, and one
//! type to Rust. prost-build would panic, or rustc complain about text nobody wrote.

use std::collections::{HashMap, HashSet};

use heck::{ToSnakeCase, ToUpperCamelCase};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, MethodDescriptorProto, ServiceDescriptorProto,
};

use crate::error::Problem;
use crate::schema::{File, Schema};

/// Everything of the kind, in file order; where two things clash, at the second.
///
/// `generated` tells whether a top-level item gets code, by its full name with a leading dot. `services` tells
/// whether services do, and what is added to their names; empty = none do.
pub(crate) fn problems(
    schema: &Schema,
    services: &[&str],
    generated: impl Fn(&str) -> bool,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut scopes = Scopes::new();
    let mut modules = Names::default();
    let mut seen: HashSet<&str> = HashSet::new();
    for file in &schema.files {
        let descriptor = &file.descriptor;
        let package = descriptor.package();
        let generated = |name: &str| generated(&absolute(package, name));
        let mut finder = Finder {
            file,
            problems: &mut problems,
            scopes: &mut scopes,
        };
        let scope = prost_build::Module::from_protobuf_package_name(package).to_string();
        if seen.insert(package) {
            let owner = format!("package '{package}'");
            finder.take(&mut modules, scope.clone(), owner, &[2]);
        }
        for (index, message) in (0..).zip(&descriptor.message_type) {
            if generated(message.name()) {
                finder.message(&scope, message, &[4, index]);
            }
        }
        for (index, item) in (0..).zip(&descriptor.enum_type) {
            if generated(item.name()) {
                finder.item(&scope, item, &[5, index]);
            }
        }
        for (index, service) in (0..).zip(&descriptor.service) {
            if !services.is_empty() && generated(service.name()) {
                finder.service(&scope, service, services, &[6, index]);
            }
        }
    }
    problems
}

/// The full name of a package's item, with its leading dot.
pub(crate) fn absolute(package: &str, name: &str) -> String {
    match package {
        "" => format!(".{name}"),
        package => format!(".{package}.{name}"),
    }
}

/// Rust names of one scope, and what of the schema has them.
type Names = HashMap<String, String>;

/// The scopes of types by Rust's path of their module. A message's module, which holds what is nested in it,
/// may be that of a package too: `a.B` and package `a.b`.
type Scopes = HashMap<String, Names>;

/// Looks through one file. `at` and its like are paths in the sense of `SourceCodeInfo`.
struct Finder<'a> {
    file: &'a File,
    problems: &'a mut Vec<Problem>,
    scopes: &'a mut Scopes,
}

impl Finder<'_> {
    fn service(
        &mut self,
        scope: &str,
        service: &ServiceDescriptorProto,
        suffixes: &[&str],
        at: &[i32],
    ) {
        let name = service.name().to_upper_camel_case();
        let owner = format!("service '{}'", service.name());
        let at_name = [at, &[NAME]].concat();
        let rusts = suffixes.iter().map(|suffix| format!("{name}{suffix}"));
        self.take_in(scope, rusts, &owner, &at_name);

        let constructor = "the client's constructor".to_owned();
        let mut names = Names::from([("new".to_owned(), constructor)]);
        for (index, method) in (0..).zip(&service.method) {
            self.method(&mut names, method, &[at, &[2, index]].concat());
        }
    }

    fn method(&mut self, names: &mut Names, method: &MethodDescriptorProto, at: &[i32]) {
        let owner = format!("method '{}'", method.name());
        let name = method.name().to_snake_case();
        let with = format!("{name}_with");
        self.take_all(names, [name, with], &owner, &[at, &[NAME]].concat());
    }

    /// The message's own name in `scope`, and what is inside it.
    fn message(&mut self, scope: &str, message: &DescriptorProto, at: &[i32]) {
        if message
            .options
            .as_ref()
            .is_some_and(|options| options.map_entry())
        {
            return;
        }
        let owner = format!("message '{}'", message.name());
        let name = message.name().to_upper_camel_case();
        self.take_in(scope, [name], &owner, &[at, &[NAME]].concat());

        let inner = format!("{scope}::{}", message.name().to_snake_case());
        for (index, nested) in (0..).zip(&message.nested_type) {
            self.message(&inner, nested, &[at, &[3, index]].concat());
        }
        for (index, item) in (0..).zip(&message.enum_type) {
            self.item(&inner, item, &[at, &[4, index]].concat());
        }
        self.fields(message, at);
    }

    fn fields(&mut self, message: &DescriptorProto, at: &[i32]) {
        let mut names = Names::default();
        let mut variants: HashMap<i32, Names> = HashMap::new();
        for (index, field) in (0..).zip(&message.field) {
            let owner = format!("field '{}'", field.name());
            let at = [at, &[2, index, NAME]].concat();
            match field.oneof_index {
                // The oneof, not its members, is a field of the struct.
                Some(oneof) if !field.proto3_optional() => {
                    let variants = variants.entry(oneof).or_default();
                    self.take(variants, field.name().to_upper_camel_case(), owner, &at);
                }
                _ => self.take(&mut names, field.name().to_snake_case(), owner, &at),
            }
        }
        for (index, oneof) in (0..).zip(&message.oneof_decl) {
            if variants.contains_key(&index) {
                let owner = format!("oneof '{}'", oneof.name());
                self.take(
                    &mut names,
                    oneof.name().to_snake_case(),
                    owner,
                    &[at, &[8, index, NAME]].concat(),
                );
            }
        }
    }

    /// The enum's own name in `scope`, and those of its values.
    fn item(&mut self, scope: &str, item: &EnumDescriptorProto, at: &[i32]) {
        let rust = item.name().to_upper_camel_case();
        let owner = format!("enum '{}'", item.name());
        self.take_in(scope, [rust.clone()], &owner, &[at, &[NAME]].concat());

        let mut variants = Names::default();
        let mut numbers = HashSet::new();
        for (index, value) in (0..).zip(&item.value) {
            // An alias has no variant of its own.
            if numbers.insert(value.number()) {
                let name = value.name().to_upper_camel_case();
                let short = name
                    .strip_prefix(&rust)
                    .filter(|rest| rest.starts_with(char::is_uppercase));
                let owner = format!("value '{}'", value.name());
                let at = [at, &[2, index, NAME]].concat();
                self.take(&mut variants, short.unwrap_or(&name).to_owned(), owner, &at);
            }
        }
    }

    /// As [`Finder::take_all`], in a scope of types.
    fn take_in(
        &mut self,
        scope: &str,
        rusts: impl IntoIterator<Item = String>,
        owner: &str,
        at: &[i32],
    ) {
        let mut names = self.scopes.remove(scope).unwrap_or_default();
        self.take_all(&mut names, rusts, owner, at);
        self.scopes.insert(scope.to_owned(), names);
    }

    fn take(&mut self, names: &mut Names, rust: String, owner: String, at: &[i32]) {
        self.take_all(names, [rust], &owner, at);
    }

    /// Gives Rust names to what has them first; of what comes after, the first clash is reported.
    fn take_all(
        &mut self,
        names: &mut Names,
        rusts: impl IntoIterator<Item = String>,
        owner: &str,
        at: &[i32],
    ) {
        for rust in rusts {
            if let Some(first) = names.get(&rust) {
                let message =
                    format!("{owner} becomes '{rust}' in Rust, which is taken by {first}");
                self.problems
                    .push(self.file.problem(at, message, "rename one of the two"));
                return;
            }
            names.insert(rust, owner.to_owned());
        }
    }
}

/// Field numbers of descriptors; a name is number 1 in all of them.
const NAME: i32 = 1;
