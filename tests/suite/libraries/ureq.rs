//! ureq over HTTP and over TLS by rustls.

use std::sync::Barrier;

use libraries::calls;
use libraries::http::{self, Certificate};
use libraries::threaded::Threaded;

use super::{COUNT, at_once, own_answers};

#[test]
fn ureq_makes_a_thousand_gets_at_once_on_one_worker() {
    let all = Barrier::new(COUNT);
    let server = Threaded::start(move |stream| http::serve(stream, || all.wait())).unwrap();
    let base = format!("http://{}", server.addr());
    let answers = at_once(move |caller| calls::ureq(&base, &format!("/wait/{caller}"), None));
    assert_eq!(answers, own_answers(|caller| format!("/wait/{caller}")));
}

#[test]
fn ureq_makes_a_thousand_gets_at_once_inside_rustls() {
    let all = Barrier::new(COUNT);
    let certificate = Certificate::new().unwrap();
    let of_server = certificate.clone();
    let server = Threaded::start(move |stream| -> anyhow::Result<()> {
        let stream = of_server.accept(stream)?;
        Ok(http::serve(stream, || all.wait())?)
    })
    .unwrap();
    let base = format!("https://{}", server.addr());
    let answers = at_once(move |caller| {
        calls::ureq(&base, &format!("/wait/{caller}"), Some(certificate.der()))
    });
    assert_eq!(answers, own_answers(|caller| format!("/wait/{caller}")));
}
