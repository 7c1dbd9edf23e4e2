//! One call by each library, over a connection opened before.
//!
//! Knows: each library's own interface, used as its guide shows it. Does not know: who waits, and on
//! what kind of thread.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use mysql::prelude::Queryable;
use tungstenite::Message;
use ureq::tls::{RootCerts, TlsConfig};

/// A connection that is open, and the call it makes: asks, waits, gives the answer.
pub type Call = Box<dyn FnMut() -> Result<String> + Send>;

/// `redis`: takes what is pushed to the list `key`, waiting for it up to `seconds` (0: for ever).
///
/// # Errors
/// The driver's own.
pub fn redis(addr: SocketAddr, key: &str, seconds: f64) -> Result<Call> {
    let mut connection = redis::Client::open(format!("redis://{addr}/"))?.get_connection()?;
    let command = pop(key, seconds);
    Ok(Box::new(move || {
        let popped: Option<(String, String)> = command.query(&mut connection)?;
        Ok(value(popped))
    }))
}

/// As [`redis()`], by the driver's asynchronous half on a tokio runtime of its own.
///
/// # Errors
/// The driver's own.
pub fn tokio_redis(addr: SocketAddr, key: &str, seconds: f64) -> Result<Call> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = redis::Client::open(format!("redis://{addr}/"))?;
    // It bounds an answer to half a second and a connection to one, left to itself.
    let unbounded = redis::AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(None);
    let opening = client.get_multiplexed_async_connection_with_config(&unbounded);
    let mut connection = tokio.block_on(opening)?;
    let command = pop(key, seconds);
    Ok(Box::new(move || {
        let popped: Option<(String, String)> =
            tokio.block_on(command.query_async(&mut connection))?;
        Ok(value(popped))
    }))
}

fn pop(key: &str, seconds: f64) -> redis::Cmd {
    let mut command = redis::cmd("BLPOP");
    command.arg(key).arg(seconds);
    command
}

/// The value of a pair of list and value; empty when the wait ran out.
fn value(popped: Option<(String, String)>) -> String {
    popped.map(|(_, value)| value).unwrap_or_default()
}

/// `mysql`: the first column of the first row of `query`.
///
/// # Errors
/// The driver's own, and no row.
pub fn mysql(addr: SocketAddr, query: &str) -> Result<Call> {
    let mut connection = mysql::Conn::new(mysql_options(addr))?;
    let query = query.to_owned();
    Ok(Box::new(move || {
        let first: Option<String> = connection.query_first(&query)?;
        first.with_context(|| format!("`{query}` has no row"))
    }))
}

/// How the `mysql` driver gets to a server over TCP.
pub fn mysql_options(addr: SocketAddr) -> mysql::Opts {
    let options = mysql::OptsBuilder::new()
        .ip_or_hostname(Some(addr.ip().to_string()))
        .tcp_port(addr.port())
        .user(Some("root"))
        // Left to itself it would change to the Unix socket that the server names.
        .prefer_socket(false);
    options.into()
}

/// `ureq`: the body of `path` below `base`, over a connection that an earlier GET opened. With
/// `trusted`, a certificate in DER, `base` is `https://…`, and that certificate the one root.
///
/// # Errors
/// The library's own.
pub fn ureq(base: &str, path: &str, trusted: Option<&[u8]>) -> Result<Call> {
    let mut config = ureq::Agent::config_builder().proxy(None);
    if let Some(certificate) = trusted {
        let root = ureq::tls::Certificate::from_der(certificate).to_owned();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[root]))
            .unversioned_rustls_crypto_provider(provider);
        config = config.tls_config(tls.build());
    }
    let agent = config.build().new_agent();
    let get = |agent: &ureq::Agent, url: &str| -> Result<String> {
        Ok(agent.get(url).call()?.body_mut().read_to_string()?)
    };
    get(&agent, &format!("{base}/"))?;
    let url = format!("{base}{path}");
    Ok(Box::new(move || get(&agent, &url)))
}

/// `reqwest`, blocking: the body of `path` below `base`, through a client that all callers share.
///
/// # Errors
/// The library's own.
pub fn reqwest(client: &reqwest::blocking::Client, base: &str, path: &str) -> Result<Call> {
    let (client, url) = (client.clone(), format!("{base}{path}"));
    Ok(Box::new(move || Ok(client.get(&url).send()?.text()?)))
}

/// A client of `reqwest`'s blocking half, without a limit to waiting.
///
/// # Errors
/// The library's own.
pub fn reqwest_client() -> Result<reqwest::blocking::Client> {
    let builder = reqwest::blocking::Client::builder()
        .no_proxy()
        .timeout(None);
    Ok(builder.build()?)
}

/// libcurl (C): the body of `path` below `base`, over a connection that an earlier GET opened.
///
/// # Errors
/// libcurl's own, and a status other than 200.
pub fn curl(base: &str, path: &str) -> Result<Call> {
    let mut easy = curl::easy::Easy::new();
    easy.noproxy("*")?;
    curl_get(&mut easy, &format!("{base}/"))?;
    let url = format!("{base}{path}");
    Ok(Box::new(move || curl_get(&mut easy, &url)))
}

fn curl_get(easy: &mut curl::easy::Easy, url: &str) -> Result<String> {
    let mut body = Vec::new();
    easy.url(url)?;
    let mut transfer = easy.transfer();
    transfer.write_function(|part| {
        body.extend_from_slice(part);
        Ok(part.len())
    })?;
    transfer.perform()?;
    drop(transfer);
    let status = easy.response_code()?;
    ensure!(status == 200, "{url} was answered with {status}");
    Ok(String::from_utf8(body)?)
}

/// `tungstenite`: says `text`, gives what the server says next.
///
/// # Errors
/// The library's own.
pub fn websocket(addr: SocketAddr, text: &str) -> Result<Call> {
    let (mut socket, _) = tungstenite::connect(format!("ws://{addr}/"))?;
    let text = text.to_owned();
    Ok(Box::new(move || {
        socket.send(Message::text(&*text))?;
        loop {
            if let Message::Text(answer) = socket.read()? {
                return Ok(answer.to_string());
            }
        }
    }))
}
