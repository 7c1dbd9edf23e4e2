//! Requests to the page and their answers.
//!
//! Knows:       paths, headers, the token.
//! Does not know: sockets; requests are whole when they come here.
//!
//! Other sites' pages run in the same browser, and may send requests here. Who calls by another name than this server's
//! is refused, so that no name made to lead here reads the token out of the page; an action needs the token and an
//! origin that is the page's own. What is answered runs nothing but `page.js` and may stand in no other page's frame.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use rpc_core::MetadataMap;
use rpc_core::base::rng::fill_secret;
use rpc_core::rpc::protocol::{Page, PageRequest};
use serde::Deserialize;
use serde_json::{Value, json};
use wechat_demo::cluster::Role;

use super::board::{Action, Board, Post, Refused};

const HTML: &str = include_str!("../../web/page.html");
const STYLE: &str = include_str!("../../web/page.css");
const SCRIPT: &str = include_str!("../../web/page.js");
/// Where the token goes in [`HTML`].
const TOKEN_PLACE: &str = "{{token}}";
/// The header that an action has it in.
const TOKEN: &str = "x-page-token";
/// What a browser may do with what it gets here.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Who is let in, and to what.
pub(super) struct Door {
    board: Arc<Board>,
    /// Of this run: whoever has it has read the page.
    token: String,
    page: String,
    port: OnceLock<u16>,
}

/// An action as it comes from the page.
#[derive(Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
enum Wish {
    Kill { idc: usize, role: String },
    KillAll { idc: usize },
    Restore { idc: usize },
}

/// A status, and what is to be done.
type Fault = (u16, String);

impl Door {
    pub(super) fn new(board: Arc<Board>) -> Self {
        let mut secret = [0; 16];
        fill_secret(&mut secret);
        let token: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            board,
            page: HTML.replace(TOKEN_PLACE, &token),
            token,
            port: OnceLock::new(),
        }
    }

    /// The server's address; until it is told, nobody is let in.
    pub(super) fn is_at(&self, address: SocketAddr) {
        // It is told once.
        let _ = self.port.set(address.port());
    }

    /// The answer to a request.
    pub(super) fn answer(&self, request: &PageRequest) -> Page {
        let mut page = self
            .route(request)
            .unwrap_or_else(|(status, text)| json_page(status, &json!({ "error": text })));
        for (name, value) in [
            ("cache-control", "no-store"),
            ("content-security-policy", POLICY),
            ("cross-origin-resource-policy", "same-origin"),
            ("referrer-policy", "same-origin"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
        ] {
            page.headers.insert(name, value);
        }
        page
    }

    fn route(&self, request: &PageRequest) -> Result<Page, Fault> {
        let host = request.headers.get("host").unwrap_or_default();
        if !self.is_own_name(host) {
            let text = "this page is on loopback alone; open it by the address that `up` printed";
            return Err((403, text.to_owned()));
        }
        let reads = matches!(&*request.method, "GET" | "HEAD");
        match (&*request.path, reads) {
            ("/", true) => Ok(page("text/html; charset=utf-8", self.page.clone())),
            ("/page.css", true) => Ok(page("text/css; charset=utf-8", STYLE)),
            ("/page.js", true) => Ok(page("text/javascript; charset=utf-8", SCRIPT)),
            ("/state", true) => Ok(json_page(200, &self.board.json())),
            ("/act", false) if request.method == "POST" => self.act(request, host),
            ("/" | "/page.css" | "/page.js" | "/state", false) | ("/act", _) => {
                Err((405, "another method is needed here".to_owned()))
            }
            _ => Err((404, "there is nothing under this path".to_owned())),
        }
    }

    /// Whether this server is called by its own name.
    fn is_own_name(&self, host: &str) -> bool {
        let Some((name, port)) = host.rsplit_once(':') else {
            return false;
        };
        matches!(name, "127.0.0.1" | "localhost")
            && self.port.get().is_some_and(|own| port.parse() == Ok(*own))
    }

    fn act(&self, request: &PageRequest, host: &str) -> Result<Page, Fault> {
        self.check(&request.headers, host)?;
        let wish: Wish = serde_json::from_slice(&request.body)
            .map_err(|error| (400, format!("not an action: {error}")))?;
        let action = match wish {
            Wish::Kill { idc, role } => {
                let role = Role::from_name(&role).ok_or_else(|| refused(Refused::Unknown))?;
                Action::Kill(Post { idc, role })
            }
            Wish::KillAll { idc } => Action::KillAll(idc),
            Wish::Restore { idc } => Action::Restore(idc),
        };
        self.board.ask(action).map_err(refused)?;
        Ok(json_page(202, &json!({ "taken": true })))
    }

    /// Whether an action comes from the page itself.
    fn check(&self, headers: &MetadataMap, host: &str) -> Result<(), Fault> {
        let fault = |text: &str| Err((403, text.to_owned()));
        if headers.get("origin") != Some(&*format!("http://{host}")) {
            return fault("an action comes from this page alone, and its origin says so");
        }
        // Hashes are compared in the same time whatever they are.
        let given = headers.get(TOKEN).unwrap_or_default();
        if blake3::hash(given.as_bytes()) != blake3::hash(self.token.as_bytes()) {
            return fault("the page is of an earlier run; reload it");
        }
        let kind = headers.get("content-type").unwrap_or_default();
        if kind != "application/json" {
            return Err((415, "an action is application/json".to_owned()));
        }
        Ok(())
    }
}

fn refused(why: Refused) -> Fault {
    let status = match why {
        Refused::Unknown => 404,
        Refused::Full => 429,
    };
    (status, why.to_string())
}

fn page(content_type: &'static str, body: impl Into<String>) -> Page {
    Page {
        status: 200,
        content_type,
        headers: MetadataMap::new(),
        body: body.into().into(),
    }
}

fn json_page(status: u16, body: &Value) -> Page {
    Page {
        status,
        ..page("application/json", body.to_string())
    }
}
