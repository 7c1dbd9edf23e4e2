//! tungstenite's blocking WebSocket, as client and as server.

use std::sync::Barrier;

use libraries::calls;
use libraries::threaded::Threaded;
use tungstenite::Message;

use super::{COUNT, at_once, own_answers};

#[test]
fn tungstenite_waits_for_a_thousand_answers_on_one_worker() {
    let all = Barrier::new(COUNT);
    let server = Threaded::start(move |stream| -> anyhow::Result<()> {
        let mut socket = tungstenite::accept(stream)?;
        loop {
            if let Message::Text(text) = socket.read()? {
                all.wait();
                socket.send(Message::text(format!("heard {text}")))?;
            }
        }
    })
    .unwrap();
    let addr = server.addr();
    let answers = at_once(move |caller| calls::websocket(addr, &format!("hello {caller}")));
    assert_eq!(
        answers,
        own_answers(|caller| format!("heard hello {caller}"))
    );
}
