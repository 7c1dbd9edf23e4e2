//! What a request is for: a method of a service, a page, or neither.

use std::borrow::Cow;

use super::head::{Head, Length};
use super::write::{Response, of_http, of_status};
use crate::rpc::compression::Compression;
use crate::rpc::protocol::{BodyFormat, Route, Routes};

/// What a request is for.
#[derive(Debug)]
pub enum Target {
    Call {
        route: Route,
        kind: Kind,
        compression: Compression,
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
    pub fn of(head: &Head, routes: &dyn Routes) -> Self {
        if !METHODS.contains(&&*head.method) {
            let text = format!("the method {} is not known here", head.method);
            return Self::Refused(of_http(501, &text, None));
        }
        let Some((service, method)) = names(&head.path) else {
            return Self::Page;
        };
        match routes.find(service, method) {
            Ok(_) if head.method != "POST" => {
                let text = format!("call {} with POST", head.path);
                Self::Refused(of_http(405, &text, Some("POST")))
            }
            Ok(route) => Self::call(head, route),
            Err(status) if service.contains('.') => Self::Refused(of_status(&status)),
            Err(_) => Self::Page,
        }
    }

    fn call(head: &Head, route: Route) -> Self {
        let refuse = |http, text: Cow<'_, str>| Self::Refused(of_http(http, &text, None));
        if head.body == Length::Absent {
            let text = "a call needs a Content-Length or a chunked body";
            return refuse(411, text.into());
        }
        let content_type = head.headers.get("content-type");
        let Some(kind) = Kind::of(content_type) else {
            let text = format!(
                "Content-Type {} is not spoken here: send application/json or application/proto",
                content_type.unwrap_or_default()
            );
            return refuse(415, text.into());
        };
        match head.compression() {
            Some(compression) => Self::Call {
                route,
                kind,
                compression,
            },
            None => refuse(
                415,
                "Content-Encoding is not spoken here: send gzip, deflate or none".into(),
            ),
        }
    }
}

/// Service and method of a path like `/example.EchoService/Echo`.
fn names(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/'))
        .then_some((service, method))
}
