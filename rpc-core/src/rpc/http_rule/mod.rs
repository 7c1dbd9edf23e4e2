//! JSON over HTTP under the paths a schema chooses: the option `google.api.http` of methods.
//!
//! Knows: rules (<https://github.com/googleapis/googleapis/blob/master/google/api/http.proto>), how path,
//! query and body make one request message.
//! Does not know: HTTP's bytes, servers, handlers.
//!
//! A rule names a method of HTTP, a template for the path, and what the body holds; `additional_bindings`
//! are rules of their own. What the path and the body leave open may come in the query. A message is put
//! together by encoding the body and then what path and query say: concatenated encodings merge, which is
//! what Protocol Buffers promises.
//!
//! Read first: [`Rules::find`], then [`Binding::request`].

#![forbid(unsafe_code)]

mod template;

use std::borrow::Cow;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value as Reflected,
};
use serde_json::{Map, Number, Value};

use self::template::{Search, Template, Tree};
use super::descriptor::MethodDescriptor;
use super::protocol::{Bound, HttpRoute, Route};
use super::status::Status;
use super::status_map::EREQUEST;

/// Every rule of a server's methods.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    tree: Tree,
    /// By the numbers that `tree` gives.
    bindings: Vec<Binding>,
}

/// One rule of one method.
#[derive(Debug)]
pub(crate) struct Binding {
    method: Route,
    input: MessageDescriptor,
    /// Fields that the path's variables fill, in their order.
    variables: Vec<FieldPath>,
    body: Body,
    /// The only field of the answer that is sent.
    response_body: Option<FieldDescriptor>,
}

/// A field and those it lies in, outermost first.
type FieldPath = Vec<FieldDescriptor>;

/// What the body of a request holds.
#[derive(Debug)]
enum Body {
    Nothing,
    /// All that the path leaves open: `*`.
    Rest,
    Field(FieldDescriptor),
}

impl Rules {
    /// Adds the rules of a method that `pool` knows; none is no error.
    ///
    /// # Errors
    /// A rule that cannot be kept: the text says which and why.
    pub fn add(
        &mut self,
        pool: &DescriptorPool,
        method: &MethodDescriptor,
        route: Route,
    ) -> Result<(), String> {
        let Some(extension) = pool.get_extension_by_name("google.api.http") else {
            return Ok(());
        };
        let Some(descriptor) = pool
            .get_service_by_name(method.service)
            .and_then(|service| service.methods().find(|m| m.name() == method.name))
        else {
            return Ok(());
        };
        let options = descriptor.options();
        if !options.has_extension(&extension) {
            return Ok(());
        }
        let rule = options.get_extension(&extension);
        let Some(rule) = rule.as_message() else {
            return Ok(());
        };
        let more = list(rule, "additional_bindings");
        for rule in std::iter::once(rule.clone()).chain(more) {
            self.add_rule(&rule, &descriptor, route)
                .map_err(|why| format!("google.api.http of {}: {why}", method.name))?;
        }
        Ok(())
    }

    fn add_rule(
        &mut self,
        rule: &DynamicMessage,
        method: &prost_reflect::MethodDescriptor,
        route: Route,
    ) -> Result<(), String> {
        let (http_method, path) = pattern(rule)?;
        let template = Template::parse(&path)?;
        let input = method.input();
        let variables = template.variables.iter().map(|variable| {
            let path = field_path(&input, &variable.field)?;
            match path.last().is_some_and(is_message_or_list) {
                true => Err(format!(
                    "{} cannot come from the path: it is no plain value",
                    variable.field.join(".")
                )),
                false => Ok(path),
            }
        });
        let binding = Binding {
            method: route,
            variables: variables.collect::<Result<_, _>>()?,
            body: match &*text(rule, "body") {
                "" => Body::Nothing,
                "*" => Body::Rest,
                name => Body::Field(field(&input, name)?),
            },
            response_body: match &*text(rule, "response_body") {
                "" => None,
                name => Some(field(&method.output(), name)?),
            },
            input,
        };
        let place = self
            .tree
            .add(&http_method, template)
            .map_err(|why| format!("{http_method} {path}: {why}"))?;
        debug_assert_eq!(place, self.bindings.len(), "the tree counts as we do");
        self.bindings.push(binding);
        Ok(())
    }

    /// The binding of a request. `path` is as written, without the query.
    ///
    /// # Errors
    /// The path cannot be read.
    pub fn find(&self, method: &str, path: &str) -> Result<HttpRoute, Status> {
        Ok(match self.tree.find(method, path).map_err(refused)? {
            Search::Found(number, values) => {
                HttpRoute::Rule(self.bindings[number].method, number as u32, values)
            }
            Search::OtherMethod(allow) => HttpRoute::OtherMethod(allow),
            Search::Nothing => HttpRoute::Nothing,
        })
    }

    /// The binding of a request that came by a rule.
    pub fn binding(&self, bound: &Bound) -> &Binding {
        &self.bindings[bound.rule as usize]
    }
}

impl Binding {
    /// The request message from path and query, and the body in JSON.
    ///
    /// # Errors
    /// EREQUEST with what is wrong and where.
    pub fn request(&self, from: &Bound, json: &[u8]) -> Result<Bytes, Status> {
        let mut body = self.body(json)?;
        let mut bound = Map::new();
        for (path, value) in self.variables.iter().zip(&from.values) {
            clear(&mut body, path);
            insert(&mut bound, path, value).map_err(refused)?;
        }
        self.take_query(&mut bound, &from.query).map_err(refused)?;
        let bound = self.message(Value::Object(bound), "path and query")?;
        let mut bytes = Vec::with_capacity(body.encoded_len() + bound.encoded_len());
        body.encode_raw(&mut bytes);
        bound.encode_raw(&mut bytes);
        Ok(bytes.into())
    }

    /// The part of an answer in JSON that is sent.
    pub fn answer(&self, json: Bytes) -> Bytes {
        let Some(field) = &self.response_body else {
            return json;
        };
        let whole: Map<String, Value> = serde_json::from_slice(&json).unwrap_or_default();
        let part = whole.get(field.json_name()).cloned();
        let part = part.unwrap_or(match () {
            () if field.is_list() => Value::Array(Vec::new()),
            () if field.is_map() => Value::Object(Map::new()),
            () => Value::Null,
        });
        part.to_string().into()
    }

    fn body(&self, json: &[u8]) -> Result<DynamicMessage, Status> {
        let empty = json.iter().all(u8::is_ascii_whitespace);
        match &self.body {
            _ if empty => Ok(DynamicMessage::new(self.input.clone())),
            Body::Nothing => Err(refused(
                "this method takes no body: path and query carry the request".to_owned(),
            )),
            Body::Rest => {
                let mut parser = serde_json::Deserializer::from_slice(json);
                let message = DynamicMessage::deserialize(self.input.clone(), &mut parser)
                    .and_then(|message| parser.end().map(|()| message));
                message.map_err(|error| self.no_json("the body", &error))
            }
            Body::Field(field) => {
                let value: Value = serde_json::from_slice(json)
                    .map_err(|error| self.no_json("the body", &error))?;
                let object = Map::from_iter([(field.name().to_owned(), value)]);
                self.message(Value::Object(object), "body")
            }
        }
    }

    fn take_query(&self, bound: &mut Map<String, Value>, query: &str) -> Result<(), String> {
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (plain(name)?, plain(value)?);
            let names: Vec<&str> = name.split('.').collect();
            let path = field_path(&self.input, &names)
                .map_err(|why| format!("the query parameter {name:?} is unknown: {why}"))?;
            let taken = match &self.body {
                Body::Rest => true,
                Body::Field(field) => path.first() == Some(field),
                Body::Nothing => false,
            };
            if taken || self.variables.contains(&path) {
                return Err(format!(
                    "{name:?} does not belong in the query: the path or the body has it"
                ));
            }
            insert(bound, &path, &value)?;
        }
        Ok(())
    }

    fn message(&self, value: Value, what: &str) -> Result<DynamicMessage, Status> {
        DynamicMessage::deserialize(self.input.clone(), value)
            .map_err(|error| self.no_json(what, &error))
    }

    fn no_json(&self, what: &str, error: &serde_json::Error) -> Status {
        let name = self.input.full_name();
        refused(format!("{what} and {name} do not fit: {error}"))
    }
}

/// Method and path of a rule.
fn pattern(rule: &DynamicMessage) -> Result<(String, String), String> {
    for method in ["get", "put", "post", "delete", "patch"] {
        let path = text(rule, method);
        if !path.is_empty() {
            return Ok((method.to_uppercase(), path));
        }
    }
    let custom = rule.get_field_by_name("custom");
    let custom = custom.as_deref().and_then(Reflected::as_message);
    let (kind, path) = custom.map_or_else(Default::default, |custom| {
        (text(custom, "kind"), text(custom, "path"))
    });
    match kind.is_empty() || path.is_empty() {
        true => Err("a rule has neither get, put, post, delete, patch nor a whole custom".into()),
        false => Ok((kind, path)),
    }
}

fn text(message: &DynamicMessage, field: &str) -> String {
    let value = message.get_field_by_name(field);
    let text = value.as_deref().and_then(Reflected::as_str);
    text.unwrap_or_default().to_owned()
}

fn list(message: &DynamicMessage, field: &str) -> Vec<DynamicMessage> {
    let value = message.get_field_by_name(field);
    let list = value.as_deref().and_then(Reflected::as_list);
    let items = list.unwrap_or_default().iter();
    items.filter_map(Reflected::as_message).cloned().collect()
}

/// The field of this name, as in the schema or as in JSON.
fn field(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, String> {
    let found = message.get_field_by_name(name);
    found
        .or_else(|| message.get_field_by_json_name(name))
        .ok_or_else(|| format!("{} has no field {name}", message.full_name()))
}

fn field_path(message: &MessageDescriptor, names: &[impl AsRef<str>]) -> Result<FieldPath, String> {
    let mut message = Some(message.clone());
    let mut path = FieldPath::new();
    for name in names {
        let inside = message.take().ok_or_else(|| {
            let outer = path.last().map_or("", FieldDescriptor::name);
            format!("{outer} is no single message with fields of its own")
        })?;
        let field = field(&inside, name.as_ref())?;
        message = match field.kind() {
            Kind::Message(inner) if !field.is_list() && !field.is_map() => Some(inner),
            _ => None,
        };
        path.push(field);
    }
    Ok(path)
}

/// Well-known types that JSON writes as one value count as plain.
fn is_message_or_list(field: &FieldDescriptor) -> bool {
    let message = match field.kind() {
        Kind::Message(message) => !is_plain(&message),
        _ => false,
    };
    message || field.is_list() || field.is_map()
}

fn is_plain(message: &MessageDescriptor) -> bool {
    let name = message.full_name();
    let own = name.strip_prefix("google.protobuf.");
    own.is_some_and(|name| {
        name.ends_with("Value") && name != "Value" && name != "ListValue"
            || matches!(name, "Timestamp" | "Duration" | "FieldMask")
    })
}

/// Puts a value's text where JSON has it.
fn insert(
    root: &mut Map<String, Value>,
    path: &[FieldDescriptor],
    text: &str,
) -> Result<(), String> {
    let Some((last, outer)) = path.split_last() else {
        return Ok(());
    };
    let mut object = root;
    for field in outer {
        let inner = object
            .entry(field.json_name())
            .or_insert_with(|| Value::Object(Map::new()));
        object = inner
            .as_object_mut()
            .ok_or_else(|| format!("{} is given whole and in parts", field.name()))?;
    }
    let value = value_of(last, text)?;
    if last.is_list() {
        let list = object
            .entry(last.json_name())
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Some(list) = list.as_array_mut() {
            list.push(value);
        }
        return Ok(());
    }
    match object.insert(last.json_name().to_owned(), value) {
        None => Ok(()),
        Some(_) => Err(format!("{} is given twice", last.name())),
    }
}

/// JSON takes nearly everything as a string.
fn value_of(field: &FieldDescriptor, text: &str) -> Result<Value, String> {
    let kind = match field.kind() {
        Kind::Message(message) if message.full_name() == "google.protobuf.BoolValue" => Kind::Bool,
        Kind::Message(message) if !is_plain(&message) || field.is_map() => {
            let name = field.name();
            return Err(format!("{name} is a message: name its fields, as {name}.…"));
        }
        kind => kind,
    };
    Ok(match kind {
        Kind::Bool => match text {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => return Err(format!("{} is {text:?}, not true or false", field.name())),
        },
        Kind::Enum(_) if text.parse::<i32>().is_ok() => {
            Value::Number(text.parse::<i32>().map_or(Number::from(0), Number::from))
        }
        _ => Value::String(text.to_owned()),
    })
}

/// Takes out of the body what the path has.
fn clear(message: &mut DynamicMessage, path: &[FieldDescriptor]) {
    match path {
        [] => {}
        [last] => message.clear_field(last),
        [outer, inner @ ..] => {
            if message.has_field(outer)
                && let Some(message) = message.get_field_mut(outer).as_message_mut()
            {
                clear(message, inner);
            }
        }
    }
}

/// A part of the query without its escapes.
fn plain(text: &str) -> Result<String, String> {
    let spaced = match text.contains('+') {
        true => Cow::Owned(text.replace('+', " ")),
        false => Cow::Borrowed(text),
    };
    let plain = percent_decode_str(&spaced).decode_utf8();
    plain
        .map(Into::into)
        .map_err(|_| format!("the part {text:?} of the query is no UTF-8"))
}

fn refused(text: String) -> Status {
    Status::from_errno(EREQUEST, text)
}
