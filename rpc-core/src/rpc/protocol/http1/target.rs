//! What a request is for: a method of a service, a page, or neither.

use std::borrow::Cow;

use super::head::{Head, Length};
use super::write::{Response, of_http, of_nothing, of_status};
use crate::rpc::compression::Compression;
use crate::rpc::cors::{Cors, Grant};
use crate::rpc::protocol::{BodyFormat, Bound, HttpRoute, Route, Routes, ServerConfig};

/// What a request is for.
#[derive(Debug)]
pub enum Target {
    Call {
        route: Route,
        kind: Kind,
        compression: Compression,
        /// What lies outside the body, if the path is one that the schema chose.
        bound: Option<Box<Bound>>,
    },
    Page,
    /// Neither; the answer is ready, and so is its body's fate.
    Refused(Response),
}

/// How a call's body is written: the content type, given back with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(&'static str);

impl Kind {
    const JSON: &'static str = "application/json";

    /// The content type.
    pub const fn content_type(self) -> &'static str {
        self.0
    }

    /// JSON or protobuf.
    pub fn format(self) -> BodyFormat {
        match self.0 {
            Self::JSON => BodyFormat::Json,
            _ => BodyFormat::Protobuf,
        }
    }

    /// From a `Content-Type`; without one it is JSON.
    fn of(content_type: Option<&str>) -> Option<Self> {
        const KNOWN: [&str; 4] = [
            Kind::JSON,
            "application/proto",
            "application/protobuf",
            "application/x-protobuf",
        ];
        let text = content_type.unwrap_or(Self::JSON);
        let name = text.split(';').next().unwrap_or_default().trim();
        let known = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(name));
        known.copied().map(Self)
    }
}

/// Methods of RFC 9110 and PATCH, less CONNECT.
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH",
];

impl Target {
    /// Looks at method and path, then at what a call's headers say.
    pub fn of(head: &Head, config: &ServerConfig) -> Self {
        let routes = &*config.routes;
        if let Some(allowed) = config
            .cors
            .as_ref()
            .and_then(|cors| preflight(head, cors, routes))
        {
            return Self::Refused(allowed);
        }
        let credential = head.headers.get_bytes("authorization");
        if let Err(status) = config.admits(credential.map(|bytes| &bytes[..])) {
            return Self::Refused(of_status(&status));
        }
        if !METHODS.contains(&&*head.method) {
            let text = format!("the method {} is not known here", head.method);
            return Self::Refused(of_http(501, &text, None));
        }
        let named = names(&head.path);
        match named.map(|(service, method)| (service, routes.find(service, method))) {
            Some((_, Ok(_))) if head.method != "POST" => {
                let text = format!("call {} with POST", head.path);
                Self::Refused(of_http(405, &text, Some("POST")))
            }
            Some((_, Ok(_))) if head.body == Length::Absent => {
                let text = "a call needs a Content-Length or a chunked body";
                Self::Refused(of_http(411, text, None))
            }
            Some((_, Ok(route))) => Self::call(head, route, None),
            Some((service, Err(status))) if service.contains('.') => {
                Self::Refused(of_status(&status))
            }
            _ => Self::by_rule(head, routes),
        }
    }

    /// What a web page of another origin is granted, if the request comes from one that may call.
    pub fn grant(&self, head: &Head, config: &ServerConfig) -> Option<Grant> {
        match self {
            Self::Page => None,
            Self::Call { .. } | Self::Refused(_) => config.cors.as_ref()?.grant(&head.headers),
        }
    }

    /// A path that the schema chose, or a page.
    fn by_rule(head: &Head, routes: &dyn Routes) -> Self {
        match routes.find_http(&head.method, &head.path) {
            Ok(HttpRoute::Rule(route, rule, values)) => {
                let query = head.query.clone();
                let bound = Bound {
                    rule,
                    values,
                    query,
                };
                match Self::call(head, route, Some(Box::new(bound))) {
                    Self::Call { kind, .. } if kind.format() != BodyFormat::Json => {
                        let text = "under this path a call is made in JSON: send application/json";
                        Self::Refused(of_http(415, text, None))
                    }
                    target => target,
                }
            }
            Ok(HttpRoute::OtherMethod(allow)) => {
                let text = format!("call {} with {allow}", head.path);
                Self::Refused(of_http(405, &text, Some(&allow)))
            }
            Ok(HttpRoute::Nothing) => Self::Page,
            Err(status) => Self::Refused(of_status(&status)),
        }
    }

    fn call(head: &Head, route: Route, bound: Option<Box<Bound>>) -> Self {
        let refuse = |text: Cow<'_, str>| Self::Refused(of_http(415, &text, None));
        let content_type = head.headers.get("content-type");
        let Some(kind) = Kind::of(content_type) else {
            let text = format!(
                "Content-Type {} is not spoken here: send application/json or application/proto",
                content_type.unwrap_or_default()
            );
            return refuse(text.into());
        };
        if route.kind.gives_stream() && kind.format() != BodyFormat::Json {
            return refuse("a stream is given in lines of JSON: send application/json".into());
        }
        match head.compression() {
            Some(compression) => Self::Call {
                route,
                kind,
                compression,
                bound,
            },
            None => {
                refuse("Content-Encoding is not spoken here: send gzip, deflate or none".into())
            }
        }
    }
}

/// The answer to a browser that asks whether a page may send a call (its OPTIONS before the call).
fn preflight(head: &Head, cors: &Cors, routes: &dyn Routes) -> Option<Response> {
    let method = head.headers.get("access-control-request-method")?;
    if head.method != "OPTIONS" {
        return None;
    }
    cors.grant(&head.headers)?;
    let named = names(&head.path).is_some_and(|(service, name)| routes.find(service, name).is_ok());
    let leads = match named {
        true => method == "POST",
        false => matches!(
            routes.find_http(method, &head.path),
            Ok(HttpRoute::Rule(..))
        ),
    };
    let mut response = of_nothing();
    cors.allow(method, &head.headers, &mut response);
    leads.then_some(response)
}

/// Service and method of a path like `/example.EchoService/Echo`.
fn names(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/'))
        .then_some((service, method))
}
