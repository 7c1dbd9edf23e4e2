//! A headless Chromium, driven over its DevTools protocol.
//!
//! Knows:       the few commands the tests need.
//! Does not know: what page it looks at.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tests::{PATIENCE, Program};
use tungstenite::{Message, WebSocket};

/// A browser with one page. Dropping it ends it.
pub(super) struct Browser {
    socket: WebSocket<TcpStream>,
    last: u64,
    _program: Program,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one; says so and gives `None` where there is no Chromium.
    pub(super) fn start() -> Option<Self> {
        if Command::new("chromium").arg("--version").output().is_err() {
            // Not eprintln!: the test harness keeps what passing tests print to itself.
            let said = "NOT RUN: no chromium; `cargo xtask test` installs it\n";
            std::io::stderr().write_all(said.as_bytes()).unwrap();
            return None;
        }
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec chromium \"$@\" 2>&1", "sh"])
            // A sandbox cannot be had by root; what is looked at is our own.
            .args(["--headless=new", "--no-sandbox", "--disable-gpu"])
            .args(["--disable-dev-shm-usage", "--no-first-run"])
            .args(["--remote-debugging-port=0", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank");
        let mut program = Program::start_command("chromium", command).unwrap();
        let line = program.line_with("DevTools listening on ws://").unwrap();
        let (_, rest) = line.split_once("ws://").unwrap();
        let (address, _) = rest.split_once('/').unwrap();
        let mut list = ureq::get(format!("http://{address}/json/list"))
            .call()
            .unwrap();
        let list: Value = serde_json::from_str(&list.body_mut().read_to_string().unwrap()).unwrap();
        let pages = list.as_array().unwrap();
        let page = pages.iter().find(|page| page["type"] == "page").unwrap();
        let url = page["webSocketDebuggerUrl"].as_str().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client(url, stream).unwrap();
        let mut browser = Self {
            socket,
            last: 0,
            _program: program,
            _profile: profile,
        };
        for domain in ["Page.enable", "Runtime.enable"] {
            browser.command(domain, json!({}));
        }
        Some(browser)
    }

    /// Goes to a page and waits until it is loaded.
    pub(super) fn open(&mut self, url: &str) {
        self.command("Page.navigate", json!({ "url": url }));
        self.sees("document.readyState === 'complete'");
    }

    /// The value of an expression; a promise is waited for.
    pub(super) fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({
            "expression": expression,
            "awaitPromise": true,
            "returnByValue": true,
        });
        let answer = self.command("Runtime.evaluate", parameters);
        assert!(
            answer.get("exceptionDetails").is_none(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page; past [`PATIENCE`] it says what the page shows.
    pub(super) fn sees(&mut self, condition: &str) {
        let limit = PATIENCE.as_millis();
        let expression = format!(
            "new Promise((done) => {{ const until = Date.now() + {limit} / 2; const look = () => {{ \
             if ({condition}) done(''); else if (Date.now() > until) done(document.body.innerText); \
             else setTimeout(look, 50); }}; look(); }})"
        );
        let shown = self.value(&expression);
        assert_eq!(shown, "", "never true: {condition}");
    }

    /// Presses and lets go of Enter, wherever the keyboard is.
    pub(super) fn press_enter(&mut self) {
        for (kind, text) in [("keyDown", Some("\r")), ("keyUp", None)] {
            let parameters = json!({
                "type": kind,
                "key": "Enter",
                "code": "Enter",
                "windowsVirtualKeyCode": 13,
                "text": text.unwrap_or_default(),
            });
            self.command("Input.dispatchKeyEvent", parameters);
        }
    }

    /// The window is so wide and so high, and the system light or dark.
    pub(super) fn look_like(&mut self, (width, height): (u32, u32), scheme: &str) {
        let size = json!({
            "width": width,
            "height": height,
            "deviceScaleFactor": 1,
            "mobile": width < 600,
        });
        self.command("Emulation.setDeviceMetricsOverride", size);
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.command(
            "Emulation.setEmulatedMedia",
            json!({ "features": [feature] }),
        );
    }

    /// Writes what the window shows to a PNG file.
    pub(super) fn shoot(&mut self, file: &Path) {
        let answer = self.command("Page.captureScreenshot", json!({ "format": "png" }));
        let text = answer["data"].as_str().unwrap();
        std::fs::write(file, STANDARD.decode(text).unwrap()).unwrap();
    }

    /// Sends a command and waits for its answer. An error in a page's script on the way fails the test.
    fn command(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let command = json!({ "id": self.last, "method": method, "params": parameters });
        self.socket
            .send(Message::text(command.to_string()))
            .unwrap();
        loop {
            let message = self.socket.read().unwrap();
            let Ok(text) = message.to_text() else {
                continue;
            };
            let mut event: Value = serde_json::from_str(text).unwrap();
            assert_ne!(event["method"], "Runtime.exceptionThrown", "{event}");
            if event["id"] == self.last {
                assert!(event.get("error").is_none(), "{method}: {event}");
                return event["result"].take();
            }
        }
    }
}
