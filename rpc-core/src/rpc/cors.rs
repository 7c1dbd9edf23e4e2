//! Calls from web pages of other origins (CORS, <https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! Knows: origins, what browsers are told.   Does not know: paths, methods, connections.
//!
//! Off unless [`ServerBuilder::cors`](super::server::ServerBuilder::cors) is called: browsers then keep answers from
//! pages of other origins. Only calls are opened; the console's pages never are.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::metadata::MetadataMap;
use super::protocol::http1::Response;

/// Which web pages may call over HTTP.
#[derive(Clone, Debug)]
pub struct Cors {
    /// `https://app.example`, as browsers write it; `None` = all.
    origins: Option<Vec<String>>,
    credentials: bool,
    /// How long a browser remembers the permission.
    max_age: Duration,
}

impl Cors {
    /// Pages of every origin may call. Browsers send no cookies with such calls.
    pub const fn any_origin() -> Self {
        Self {
            origins: None,
            credentials: false,
            max_age: MAX_AGE,
        }
    }

    /// Pages of these origins may call: scheme, host and port as in `https://app.example:8443`, without a
    /// slash at the end.
    pub fn origins<S: Into<String>>(origins: impl IntoIterator<Item = S>) -> Self {
        Self {
            origins: Some(origins.into_iter().map(Into::into).collect()),
            credentials: false,
            max_age: MAX_AGE,
        }
    }

    /// Lets those pages send cookies and client certificates. Without effect on [`Cors::any_origin`], where
    /// browsers do not allow it.
    #[must_use]
    pub const fn credentials(mut self) -> Self {
        self.credentials = true;
        self
    }

    /// How long browsers remember that a page may call, in whole seconds. Default 10 minutes.
    #[must_use]
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// What the sender of a request with these headers is granted; `None` if it is no page that may call.
    pub(in crate::rpc) fn grant(&self, headers: &MetadataMap) -> Option<Grant> {
        let origin = headers.get("origin")?;
        Some(match &self.origins {
            None => Grant {
                origin: "*".into(),
                credentials: false,
            },
            Some(origins) => Grant {
                origin: origins.iter().find(|known| *known == origin)?.clone(),
                credentials: self.credentials,
            },
        })
    }

    /// Answers a browser that asks whether a page may send a call with `method`.
    pub(in crate::rpc) fn allow(
        &self,
        method: &str,
        headers: &MetadataMap,
        response: &mut Response,
    ) {
        response.push("Access-Control-Allow-Methods", method);
        let asked = headers.get("access-control-request-headers");
        // What a call may carry is up to its service: all that was asked for, if it is a list of names.
        let name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.,* ".contains(&byte);
        if let Some(asked) = asked.filter(|asked| asked.bytes().all(name)) {
            response.push("Access-Control-Allow-Headers", asked);
        }
        let age = self.max_age.as_secs().to_string();
        response.push("Access-Control-Max-Age", &age);
    }
}

/// Permission for one request's page to read the answer.
#[derive(Debug)]
pub(in crate::rpc) struct Grant {
    /// The page's, or `*`.
    origin: String,
    credentials: bool,
}

impl Grant {
    /// Says so in the answer, whose own headers the page may read too.
    pub fn write(&self, response: &mut Response) {
        let readable = |name: &[u8]| !name.eq_ignore_ascii_case(b"content-length");
        let names = response.headers().map(|(name, _)| name);
        let names: Vec<_> = names
            .filter(|name| readable(name))
            .map(String::from_utf8_lossy)
            .collect();
        let names = names.join(", ");
        response.push("Access-Control-Expose-Headers", &names);
        response.push("Access-Control-Allow-Origin", &self.origin);
        if self.credentials {
            response.push("Access-Control-Allow-Credentials", "true");
        }
        if self.origin != "*" {
            response.push("Vary", "Origin");
        }
    }
}

const MAX_AGE: Duration = Duration::from_secs(600);
