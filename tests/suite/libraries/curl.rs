//! libcurl, a C library, through the `curl` crate.

use std::sync::Barrier;

use libraries::threaded::Threaded;
use libraries::{calls, http};

use super::{COUNT, at_once, own_answers};

#[test]
fn libcurl_makes_a_thousand_gets_at_once_on_one_worker() {
    let all = Barrier::new(COUNT);
    let server = Threaded::start(move |stream| http::serve(stream, || all.wait())).unwrap();
    let base = format!("http://{}", server.addr());
    let answers = at_once(move |caller| calls::curl(&base, &format!("/wait/{caller}")));
    assert_eq!(answers, own_answers(|caller| format!("/wait/{caller}")));
}
