//! A client built on tokio, with a tokio runtime in each coroutine.

use std::thread;

use libraries::calls;
use libraries::processes::Process;

use super::redis::push_when_all_wait;
use super::{at_once, own_answers};

#[test]
fn a_thousand_tokio_runtimes_wait_on_one_worker() {
    let server = Process::redis().unwrap();
    let addr = server.addr();
    let pusher = thread::spawn(move || push_when_all_wait(addr, |caller| format!("list {caller}")));
    let answers = at_once(move |caller| calls::tokio_redis(addr, &format!("list {caller}"), 0.0));
    pusher.join().unwrap();
    assert_eq!(answers, own_answers(|caller| format!("for list {caller}")));
}
