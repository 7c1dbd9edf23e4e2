//! The `redis` driver and redis-server.

use std::thread;

use libraries::calls;
use libraries::processes::Process;

use super::{COUNT, at_once, own_answers};

#[test]
fn redis_waits_for_a_thousand_lists_on_one_worker() {
    let server = Process::redis().unwrap();
    let addr = server.addr();
    let pusher = thread::spawn(move || push_when_all_wait(addr, |caller| format!("list {caller}")));
    let answers = at_once(move |caller| calls::redis(addr, &format!("list {caller}"), 0.0));
    pusher.join().unwrap();
    assert_eq!(answers, own_answers(|caller| format!("for list {caller}")));
}

/// Waits until the server counts [`COUNT`] clients that wait for a list, then pushes to each list.
pub(super) fn push_when_all_wait(addr: std::net::SocketAddr, list: impl Fn(usize) -> String) {
    let client = redis::Client::open(format!("redis://{addr}/")).unwrap();
    let mut control = client.get_connection().unwrap();
    let wanted = format!("\r\nblocked_clients:{COUNT}\r\n");
    loop {
        let mut ask = redis::cmd("INFO");
        let said: String = ask.arg("clients").query(&mut control).unwrap();
        if said.contains(&wanted) {
            break;
        }
    }
    for caller in 0..COUNT {
        let list = list(caller);
        let mut push = redis::cmd("RPUSH");
        push.arg(&list).arg(format!("for {list}"));
        push.exec(&mut control).unwrap();
    }
}
