//! The examples as a reader would run them, and a client that is not ours: curl.
//!
//! Knows: command lines, HTTP as curl prints it. Does not know: rpc-core.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use tests::{Program, bin, python, root, run};

#[test]
fn a_short_soak_leaks_nothing() -> io::Result<()> {
    let mut soak = Command::new(bin("soak"));
    let (status, out, err) = run(soak.args(["--minutes", "0.33"]))?;
    println!("{out}");
    assert!(status.success(), "{err}\n{out}");
    assert!(out.ends_with("nothing leaked\n"), "{out}");
    Ok(())
}

/// The greeter on a port of its own.
struct Greeter {
    server: Program,
    addr: SocketAddr,
}

impl Greeter {
    fn start() -> io::Result<Self> {
        Self::of("greeter_server")
    }

    /// Starts a program that greets; takes another port where somebody took the free one meanwhile.
    fn of(program: &str) -> io::Result<Self> {
        loop {
            let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            let mut server = Program::start(program, &[addr.to_string()])?;
            while server.is_running()? {
                if TcpStream::connect(addr).is_ok() {
                    return Ok(Self { server, addr });
                }
                std::thread::yield_now();
            }
        }
    }

    /// What curl prints for `path`, and the HTTP status.
    fn curl(&self, path: &str, args: &[&str]) -> io::Result<(String, u16)> {
        let url = format!("http://{}{path}", self.addr);
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--write-out",
            "\n%{http_code}",
        ]);
        let (status, out, err) = run(curl.args(args).arg(url))?;
        assert!(status.success(), "curl {args:?} {path}: {err}");
        let (body, code) = out.rsplit_once('\n').expect("--write-out adds a line");
        Ok((
            body.to_owned(),
            code.parse().expect("%{http_code} is a number"),
        ))
    }

    fn post(&self, json: &str) -> io::Result<(String, u16)> {
        let args = ["-H", "content-type: application/json", "-d", json];
        self.curl("/greeter.Greeter/SayHello", &args)
    }
}

/// Everything the README types, at a port of this test's own.
#[test]
fn one_port_answers_our_client_curl_and_grpcio_as_the_readme_types_it() -> io::Result<()> {
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    let (_, below) = readme
        .split_once("<!-- console -->\n```console\n$ ")
        .expect("the README shows a console");
    let (typed, _) = below.split_once("\n```\n").expect("which ends");
    let commands: Vec<&str> = typed.split("\n$ ").collect();
    assert_eq!(commands.len(), 4, "a server, our client, curl, grpcio");
    assert!(commands[0].ends_with("greeter_server -- 127.0.0.1:8000 &"));
    let greeter = Greeter::start()?;
    let client = bin("greeter_client").display().to_string();
    let Some(python) = python() else {
        return Ok(());
    };
    let path = python
        .parent()
        .expect("a program lies in a folder")
        .display();
    for command in &commands[1..] {
        let (command, answer) = command
            .rsplit_once('\n')
            .expect("each has one line of answer");
        let command = command
            .replace("cargo run -q -p examples --bin greeter_client --", &client)
            .replace("127.0.0.1:8000", &greeter.addr.to_string());
        let command = format!("PATH={path}:$PATH; {command}");
        let mut shell = Command::new("sh");
        let (status, out, err) = run(shell.args(["-c", &command]).current_dir(root()))?;
        assert!(status.success(), "{command}\n{err}");
        assert_eq!(out.trim_end(), answer, "{command}\n{err}");
    }
    Ok(())
}

#[test]
fn curl_calls_a_method_with_json() -> io::Result<()> {
    let greeter = Greeter::start()?;
    let (body, status) = greeter.post(r#"{"name":"you"}"#)?;
    assert_eq!(
        (body.as_str(), status),
        (r#"{"message":"Hello, you!"}"#, 200)
    );
    Ok(())
}

#[test]
fn curl_is_told_what_is_wrong_with_its_call() -> io::Result<()> {
    let greeter = Greeter::start()?;
    for (json, wanted) in [
        ("{}", "name is empty: say whom to greet"),
        (r#"{"name":}"#, "line 1 column"),
        (r#"{"name":7}"#, "expected a string"),
        (r#"{"nmae":"you"}"#, "nmae"),
    ] {
        let (body, status) = greeter.post(json)?;
        assert!(body.contains(wanted), "{json}: {status} {body}");
        assert_eq!(status, 400, "{json}: {body}");
    }
    let (body, status) = greeter.curl("/greeter.Greeter/SayGoodbye", &["-d", "{}"])?;
    assert_eq!(status, 404, "{body}");
    Ok(())
}

#[test]
fn curl_reads_the_pages_of_the_port() -> io::Result<()> {
    let greeter = Greeter::start()?;
    greeter.post(r#"{"name":"you"}"#)?;
    for (path, wanted) in [
        ("/health", ""),
        ("/status", "SayHello"),
        ("/metrics", "SayHello"),
        ("/", "/status"),
    ] {
        let (body, status) = greeter.curl(path, &[])?;
        assert_eq!(status, 200, "{path}: {body}");
        assert!(
            body.contains(wanted),
            "{path} does not say {wanted:?}: {body}"
        );
    }
    assert_eq!(greeter.curl("/nowhere", &[])?.1, 404);
    Ok(())
}

#[test]
fn a_protocol_in_one_file_shares_the_port() -> io::Result<()> {
    let greeter = Greeter::of("line_protocol")?;
    let mut stream = TcpStream::connect(greeter.addr)?;
    stream.write_all(
        b"CALL 7 greeter.Greeter/SayHello {\"name\":\"you\"}\n\
          CALL 8 greeter.Greeter/SayGoodbye {}\nCALL 9 greeter.Greeter/SayHello {\n",
    )?;
    stream.shutdown(Shutdown::Write)?;
    let mut lines: Vec<String> = BufReader::new(stream).lines().collect::<Result<_, _>>()?;
    lines.sort();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[0], r#"7 OK {"message":"Hello, you!"}"#);
    assert!(lines[1].starts_with("8 Unimplemented "), "{lines:?}");
    assert!(lines[2].starts_with("9 InvalidArgument "), "{lines:?}");
    assert_eq!(greeter.post(r#"{"name":"you"}"#)?.1, 200, "the same port");
    Ok(())
}

#[test]
fn a_service_asked_to_end_ends_well() -> io::Result<()> {
    let greeter = Greeter::start()?;
    greeter.server.terminate()?;
    let (status, _) = greeter.server.finish()?;
    assert!(status.success(), "after SIGTERM: {status}");
    Ok(())
}
