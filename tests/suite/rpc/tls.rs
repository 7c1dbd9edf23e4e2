//! TLS on the port that speaks plain text too: our client, curl, certificates of clients, renewal.

use std::fs;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rpc_core::{ClientTls, ServerTls, Wire};

use super::*;

/// A root and its certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key in PEM.
struct Certificate {
    chain: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate whose issuer has its own name for its own issuer.
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "root of the tests");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    fn certificate(&self, names: &[&str]) -> Certificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        Certificate {
            chain: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

fn server_tls(certificate: &Certificate) -> ServerTls {
    ServerTls::from_pem(certificate.chain.as_bytes(), certificate.key.as_bytes()).unwrap()
}

fn trust(authority: &Authority) -> ClientTls {
    ClientTls::from_roots(authority.pem.as_bytes()).unwrap()
}

/// Calls Echo over TLS.
fn echo(addr: SocketAddr, tls: ClientTls) -> Result<Told, Status> {
    let builder = Channel::builder(&addr.to_string()).deadline(PATIENCE);
    let channel = builder.tls(tls).connect().unwrap();
    Ok(ProbeClient::new(channel)
        .echo(ask("in secret"))?
        .into_inner())
}

#[rpc_core::test]
fn one_port_answers_in_secret_and_in_plain_text() {
    let authority = Authority::new();
    let certificate = authority.certificate(&["127.0.0.1"]);
    let server = Served::with(|builder| builder.tls(server_tls(&certificate)));
    assert_eq!(
        echo(server.addr, trust(&authority)).unwrap().text,
        "in secret"
    );
    assert_eq!(server.client().echo(ask("plain")).unwrap().text, "plain");

    let mut large = ask("large");
    large.size = 3 << 20;
    let channel = Channel::builder(&server.addr.to_string()).deadline(PATIENCE);
    let channel = channel.tls(trust(&authority)).connect().unwrap();
    let told = ProbeClient::new(channel).echo(large).unwrap();
    assert_eq!(told.data.len(), 3 << 20);
    server.stop();
}

#[rpc_core::test]
fn grpc_is_spoken_inside_tls() {
    let authority = Authority::new();
    let certificate = authority.certificate(&["127.0.0.1"]);
    let server = Served::with(|builder| builder.tls(server_tls(&certificate)));
    let channel = Channel::builder(&server.addr.to_string())
        .protocol(Wire::Grpc)
        .tls(trust(&authority))
        .deadline(PATIENCE);
    let client = ProbeClient::new(channel.connect().unwrap());
    for text in ["one", "two"] {
        assert_eq!(client.echo(ask(text)).unwrap().text, text);
    }
    server.stop();
}

#[rpc_core::test]
fn curl_is_answered_over_https() {
    let authority = Authority::new();
    let certificate = authority.certificate(&["127.0.0.1"]);
    let server = Served::with(|builder| builder.tls(server_tls(&certificate)));
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    fs::write(&roots, &authority.pem).unwrap();
    let url = format!("https://{}/probe.Probe/Echo", server.addr);
    let output = on_a_thread(move || {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "60", "--cacert"])
            .arg(roots)
            .args(["--json", r#"{"text":"over curl"}"#, &url]);
        curl.output()
            .expect("curl is installed by the test command")
    });
    let body = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(body, r#"{"text":"over curl"}"#, "{said}");
    server.stop();
}

#[rpc_core::test]
fn plain_text_is_refused_where_tls_is_required() {
    let authority = Authority::new();
    let certificate = authority.certificate(&["127.0.0.1"]);
    let server = Served::with(|builder| builder.tls(server_tls(&certificate).required(true)));
    let status = server.client().echo(ask("plain")).unwrap_err();
    assert_eq!(status.code(), rpc_core::Code::Unavailable, "{status:?}");
    assert!(echo(server.addr, trust(&authority)).is_ok());
    server.stop();
}

#[rpc_core::test]
fn a_server_that_is_not_trusted_is_named_in_the_failure() {
    let certificate = Authority::new().certificate(&["127.0.0.1"]);
    let server = Served::with(|builder| builder.tls(server_tls(&certificate)));
    let status = echo(server.addr, trust(&Authority::new())).unwrap_err();
    assert!(
        status.message().contains("invalid peer certificate"),
        "{status:?}"
    );
    server.stop();
}

#[rpc_core::test]
fn a_handler_sees_the_callers_certificate_and_nobody_without_one_gets_in() {
    let authority = Authority::new();
    let certificate = authority.certificate(&["127.0.0.1"]);
    let mine = authority.certificate(&["caller.test"]);
    let tls = server_tls(&certificate)
        .client_roots(authority.pem.as_bytes(), true)
        .unwrap();
    let server = Served::with(|builder| builder.tls(tls));
    let known = trust(&authority)
        .identity(mine.chain.as_bytes(), mine.key.as_bytes())
        .unwrap();
    let told = echo(server.addr, known).unwrap();
    assert_eq!(told.certificates, 1);
    assert!(echo(server.addr, trust(&authority)).is_err());
    server.stop();
}

#[rpc_core::test]
fn a_renewed_certificate_is_shown_to_new_connections() {
    let (old, new) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = (
        folder.path().join("chain.pem"),
        folder.path().join("key.pem"),
    );
    let write = |certificate: &Certificate| {
        // As renewal tools do it: each file is replaced whole.
        for (path, text) in [(&chain, &certificate.chain), (&key, &certificate.key)] {
            let next = path.with_extension("next");
            fs::write(&next, text).unwrap();
            fs::rename(&next, path).unwrap();
        }
    };
    let first = old.certificate(&["127.0.0.1"]);
    write(&first);
    let server = Served::with(|builder| {
        builder
            .tls(server_tls(&first))
            .certificate_files(&chain, &key)
    });
    let open = Channel::builder(&server.addr.to_string()).deadline(PATIENCE);
    let open = open.tls(trust(&old)).connect().unwrap();
    let open = ProbeClient::new(open);
    open.echo(ask("before")).unwrap();

    write(&new.certificate(&["127.0.0.1"]));
    let until = rpc_core::time::Instant::after(PATIENCE);
    while echo(server.addr, trust(&new)).is_err() {
        assert!(
            rpc_core::time::Instant::now() < until,
            "the files are never read"
        );
    }
    assert!(echo(server.addr, trust(&old)).is_err());
    open.echo(ask("still open")).unwrap();
    server.stop();
}
