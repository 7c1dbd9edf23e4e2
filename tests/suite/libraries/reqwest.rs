//! reqwest's blocking half: asynchronous inside, on a thread of its own that the callers wait for.

use std::sync::Barrier;

use libraries::calls;
use libraries::http;
use libraries::threaded::Threaded;

use super::{COUNT, at_once, own_answers};

#[test]
fn reqwest_makes_a_thousand_gets_at_once_through_one_client() {
    let all = Barrier::new(COUNT);
    let server = Threaded::start(move |stream| http::serve(stream, || all.wait())).unwrap();
    let base = format!("http://{}", server.addr());
    let client = calls::reqwest_client().unwrap();
    let answers = at_once(move |caller| calls::reqwest(&client, &base, &format!("/wait/{caller}")));
    assert_eq!(answers, own_answers(|caller| format!("/wait/{caller}")));
}
