//! The operations page of `wechat-demo up`: what it says, what it does, whom it lets do it, and how it looks.

mod browser;

use std::path::Path;

use serde_json::{Value, json};

use crate::cluster::{Chat, Up, kill, wait_until};
use browser::Browser;

/// A client of the page without a browser.
struct Client<'a> {
    /// With a slash at the end.
    url: &'a str,
}

/// An answer: its status, and its body.
type Answer = (u16, String);

impl Client<'_> {
    fn get(&self, path: &str) -> Answer {
        let request = ureq::get(format!("{}{path}", self.url));
        let request = request.config().http_status_as_error(false).build();
        whole(request.call().unwrap())
    }

    fn state(&self) -> Value {
        let (status, body) = self.get("state");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// A process of the first IDC.
    fn process(&self, role: &str) -> Value {
        self.process_of(0, role)
    }

    fn process_of(&self, idc: usize, role: &str) -> Value {
        let mut state = self.state();
        let processes = state["idcs"][idc]["processes"].as_array_mut().unwrap();
        let mut found = processes.iter_mut().filter(|one| one["role"] == role);
        found.next().unwrap().take()
    }

    fn states(&self) -> Vec<String> {
        let state = self.state();
        let processes = state["idcs"][0]["processes"].as_array().unwrap();
        let states = processes.iter().map(|one| one["state"].as_str().unwrap());
        states.map(str::to_owned).collect()
    }

    fn token(&self) -> String {
        let (_, page) = self.get("");
        let (_, rest) = page.split_once("name=\"page-token\" content=\"").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    }

    /// Posts an action with these headers.
    fn post(&self, action: &Value, headers: &[(&str, &str)]) -> Answer {
        let mut request = ureq::post(format!("{}act", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.config().http_status_as_error(false).build();
        whole(request.send(action.to_string()).unwrap())
    }

    /// Posts an action as the page itself does.
    fn act(&self, action: &Value) -> Answer {
        let origin = self.url.trim_end_matches('/');
        let token = self.token();
        let headers = [
            ("origin", origin),
            ("x-page-token", &token),
            ("content-type", "application/json"),
        ];
        self.post(action, &headers)
    }
}

fn whole(mut response: ureq::http::Response<ureq::Body>) -> Answer {
    let status = response.status().as_u16();
    (status, response.body_mut().read_to_string().unwrap())
}

fn all(states: &[String], state: &str) -> bool {
    states.iter().all(|one| one == state)
}

#[test]
fn the_page_says_what_each_process_is_and_does() {
    let up = Up::start();
    let client = Client { url: &up.page };
    let mut alice = up.chat("alice", &["--to", "bob"]);
    alice.hears("type a line");
    let mut bob = up.chat("bob", &["--to", "alice"]);
    bob.hears("type a line");
    alice.say("hello");
    bob.hears("alice: hello");
    wait_until(
        "everybody is up, two links, a primary, level with its backup",
        || {
            let state = client.state();
            let idc = &state["idcs"][0];
            all(&client.states(), "up") && idc["links"] == 2.0 && idc["lag_entries"] == 0.0
        },
    );
    let state = client.state();
    let processes = state["idcs"][0]["processes"].as_array().unwrap();
    assert_eq!(processes.len(), 8);
    let mut standings: Vec<&str> = processes
        .iter()
        .filter_map(|one| one["standing"].as_str())
        .collect();
    standings.sort_unstable();
    assert_eq!(standings, ["backup", "primary", "spare"]);
    let serving = processes.iter().filter(|one| one["serves"] == true);
    let serving: Vec<&Value> = serving.collect();
    assert!(
        matches!(serving[..], [one] if one["standing"] == "primary"),
        "{state}"
    );
    wait_until("a message shows in the course", || {
        alice.say("more");
        let state = client.state();
        let course = state["idcs"][0]["course"].as_array().unwrap();
        course.iter().any(|point| point[0].as_f64().unwrap() > 0.0)
            && course.iter().any(|point| point[1].as_f64().unwrap() > 0.0)
    });
    assert_eq!(state["idcs"][0]["requests_waiting"], 0.0, "{state}");
    assert_eq!(state["idcs"][0]["tasks_waiting"], 0.0, "{state}");
}

#[test]
fn a_process_that_does_not_answer_is_said_to_be_silent_and_its_figures_old() {
    let up = Up::start();
    let client = Client { url: &up.page };
    wait_until("logic is up", || client.process("logic")["state"] == "up");
    let pid = client.process("logic")["pid"].as_u64().unwrap() as u32;
    kill("-STOP", pid);
    wait_until("logic is silent", || {
        client.process("logic")["state"] == "silent"
    });
    let logic = client.process("logic");
    assert!(logic["stale_since_ms"].as_i64() > Some(0), "{logic}");
    kill("-CONT", pid);
    wait_until("logic is up again", || {
        let logic = client.process("logic");
        logic["state"] == "up" && logic["stale_since_ms"].is_null()
    });
}

#[test]
fn an_idc_that_is_killed_stays_down_until_it_is_restored() {
    let up = Up::start();
    let client = Client { url: &up.page };
    wait_until("everybody is up", || all(&client.states(), "up"));
    let (status, body) = client.act(&json!({ "action": "kill", "idc": 0, "role": "dispatch" }));
    assert_eq!(status, 202, "{body}");
    wait_until("dispatch was started again", || {
        let dispatch = client.process("dispatch");
        dispatch["starts"] == 2 && dispatch["state"] == "up"
    });
    let (status, body) = client.act(&json!({ "action": "kill_all", "idc": 0 }));
    assert_eq!(status, 202, "{body}");
    wait_until("everybody is down", || all(&client.states(), "down"));
    // It is asked for, and refused: what is down stays so.
    client.act(&json!({ "action": "kill", "idc": 0, "role": "logic" }));
    wait_until("that is said", || {
        client.state().to_string().contains("logic is down already")
    });
    assert!(all(&client.states(), "down"));
    let (status, body) = client.act(&json!({ "action": "restore", "idc": 0 }));
    assert_eq!(status, 202, "{body}");
    wait_until("everybody is up again", || all(&client.states(), "up"));
    let mut alice = up.chat("alice", &["--to", "bob"]);
    alice.hears("type a line");
    alice.end();
}

#[test]
fn who_lived_in_an_idc_that_is_killed_is_served_from_the_next_one() {
    let up = Up::in_three_idcs();
    let client = Client { url: &up.page };
    let names: Vec<_> = (0..4)
        .map(|idc| client.state()["idcs"][idc]["name"].clone())
        .collect();
    assert_eq!(names, [json!("sh"), json!("hk"), json!("ca"), Value::Null]);
    wait_until("every store is followed", || {
        (0..3).all(|idc| client.process_of(idc, "follower")["standing"] == "follower")
    });
    let (status, body) = client.act(&json!({ "action": "kill_all", "idc": 0 }));
    assert_eq!(status, 202, "{body}");
    wait_until("its follower serves", || {
        client.process_of(1, "follower")["serves"] == true
    });
    // Alice lives where nothing is left.
    let mut alice = up.chat("alice", &["--to", "bob"]);
    alice.hears("type a line");
    let mut bob = up.chat("bob", &["--to", "alice"]);
    bob.hears("type a line");
    alice.say("from afar");
    bob.hears("alice: from afar");
    bob.say("still there?");
    alice.hears("bob: still there?");
    alice.end();
    bob.end();
}

#[test]
fn only_the_page_itself_may_act_and_nothing_is_done_for_others() {
    let up = Up::start();
    let client = Client { url: &up.page };
    let kill_all = json!({ "action": "kill_all", "idc": 0 });
    let (origin, token) = (up.page.trim_end_matches('/'), client.token());
    let json_body = ("content-type", "application/json");
    let good = [("origin", origin), ("x-page-token", &*token), json_body];
    for (what, headers) in [
        ("nothing", &[][..]),
        ("no token", &[good[0], json_body]),
        (
            "another token",
            &[good[0], ("x-page-token", "0"), json_body],
        ),
        ("no origin", &good[1..]),
        (
            "a foreign origin",
            &[("origin", "http://example.org"), good[1], json_body],
        ),
        (
            "no site's origin",
            &[("origin", "null"), good[1], json_body],
        ),
        (
            "another port",
            &[("origin", "http://127.0.0.1:1"), good[1], json_body],
        ),
    ] {
        let (status, body) = client.post(&kill_all, headers);
        assert_eq!(status, 403, "{what}: {body}");
    }
    let form = ("content-type", "application/x-www-form-urlencoded");
    assert_eq!(client.post(&kill_all, &[good[0], good[1], form]).0, 415);
    // A name that somebody made to lead here reads no token.
    for name in ["example.org", "127.0.0.1:1"] {
        let request = ureq::get(client.url).header("host", name);
        let request = request.config().http_status_as_error(false).build();
        let (status, body) = whole(request.call().unwrap());
        assert!(status >= 400 && !body.contains(&token), "{name}: {status}");
    }
    assert_eq!(client.get("act").0, 405);
    assert_eq!(client.get("nothing").0, 404);
    for (wish, status) in [
        (json!({ "action": "kill", "idc": 0, "role": "nobody" }), 404),
        (json!({ "action": "kill", "idc": 0, "role": "push" }), 404),
        (json!({ "action": "kill_all", "idc": 7 }), 404),
        (json!({ "action": "burn", "idc": 0 }), 400),
        (json!({ "action": "restore", "idc": 0, "and": "more" }), 400),
    ] {
        let (found, body) = client.act(&wish);
        assert_eq!(found, status, "{wish}: {body}");
        assert!(body.contains("error"), "{wish}: {body}");
    }
    assert_eq!(client.act(&Value::from("x".repeat(1 << 10))).0, 400);
    assert!(client.state()["events"].as_array().unwrap().is_empty());
    let response = ureq::get(client.url).call().unwrap();
    let policy = response.headers()["content-security-policy"].to_str();
    assert!(
        policy
            .unwrap()
            .starts_with("default-src 'none'; script-src 'self'")
    );
}

/// Where the test leaves pictures of what it sees, those of `docs/page`; nowhere unless it is told.
const PICTURES: &str = "PAGE_PICTURES";

fn shoot(browser: &mut Browser, name: &str, size: (u32, u32), scheme: &str) {
    if let Some(dir) = std::env::var_os(PICTURES) {
        browser.look_like(size, scheme);
        browser.shoot(&Path::new(&dir).join(name));
    }
}

/// The state of a process, as the page says it.
fn state_of(role: &str) -> String {
    format!("document.querySelector('#process-0-{role} .state').textContent")
}

#[test]
fn in_a_browser_a_role_that_is_killed_goes_down_and_comes_back() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let up = Up::start();
    let mut alice = up.chat("alice", &["--to", "bob"]);
    alice.hears("type a line");
    let mut bob = up.chat("bob", &["--to", "alice"]);
    bob.hears("type a line");
    browser.open(&up.page);
    browser.sees("document.querySelectorAll('.process[data-state=up]').length === 8");
    browser.sees("document.querySelector('#totals dd').textContent === '2'");
    browser.sees("document.querySelectorAll('.standing[data-standing=primary]').length === 1");
    for n in 0..40 {
        alice.say(&format!("line {n}"));
        bob.hears(&format!("alice: line {n}"));
    }
    browser.sees("Number(document.querySelectorAll('#totals dd:not(.note)')[1].textContent) > 0");
    if std::env::var_os(PICTURES).is_some() {
        talk(&mut browser, &mut alice, &mut bob);
    }
    shoot(&mut browser, "light.png", (1200, 1090), "light");
    // By the keyboard alone.
    let primary = "document.querySelector('.standing[data-standing=primary]').closest('.process')";
    let id = browser.value(&format!("{primary}.id"));
    let role = id.as_str().unwrap().replace("process-0-", "");
    browser.value(&format!(
        "document.querySelector('[aria-label=\"Kill {role}\"]').focus()"
    ));
    browser.press_enter();
    browser.sees(&format!("{} === 'down, restarting'", state_of(&role)));
    shoot(&mut browser, "dark.png", (1200, 1115), "dark");
    browser.sees(&format!("{} === 'up'", state_of(&role)));
    browser
        .sees("document.querySelector('#events').innerText.includes('was killed from the page')");
    browser.sees("document.querySelectorAll('.standing[data-standing=primary]').length === 1");
    alice.say("still here?");
    bob.hears("alice: still here?");
    kill_all_and_restore(&mut browser);
    shoot(&mut browser, "phone.png", (390, 1000), "light");
    drop(up);
    browser.sees("document.querySelector('#live').textContent.includes('stale since')");
    browser
        .sees("[...document.querySelectorAll('main button')].every((button) => button.disabled)");
}

/// For most of a minute, so that the courses in a picture show something.
fn talk(browser: &mut Browser, alice: &mut Chat, bob: &mut Chat) {
    for n in 0..50_u64 {
        for line in 0..10 + n * 7 % 13 {
            alice.say(&format!("line {line} of {n}"));
            bob.hears(&format!("alice: line {line} of {n}"));
        }
        browser.value("new Promise((done) => setTimeout(done, 1000))");
    }
}

fn kill_all_and_restore(browser: &mut Browser) {
    let press = |label: &str| {
        format!(
            "[...document.querySelectorAll('button')].find((one) => one.textContent === '{label}').click()"
        )
    };
    browser.value(&press("Kill the IDC"));
    browser.sees("document.querySelector('#sure').open");
    // The button that does nothing has the keyboard.
    browser.press_enter();
    browser.sees("!document.querySelector('#sure').open");
    browser.sees("document.querySelectorAll('.process[data-state=up]').length === 8");
    browser.value(&press("Kill the IDC"));
    browser.value(&press("Kill all of it"));
    browser.sees("document.querySelectorAll('.process[data-state=down]').length === 8");
    browser.value(&press("Restore the IDC"));
    browser.sees("document.querySelectorAll('.process[data-state=up]').length === 8");
}
