//! Calls from plain OS threads.

use super::*;

#[test]
fn a_program_without_a_runtime_serves_and_calls_from_threads() {
    let stage = Arc::new(Stage::default());
    let bound = Server::builder()
        .add_service(ProbeServer::new(Actor(stage)))
        .handle_signals(false)
        .bind("127.0.0.1:0")
        .unwrap();
    let (addr, handle) = (bound.local_addr().to_string(), bound.handle());
    let serving = std::thread::spawn(move || bound.serve());
    let client = ProbeClient::new(
        Channel::builder(&addr)
            .deadline(PATIENCE)
            .connect()
            .unwrap(),
    );
    let threads: Vec<_> = (0..8)
        .map(|i| {
            let client = client.clone();
            std::thread::spawn(move || {
                (0..100).all(|k| {
                    let text = format!("{i} {k}");
                    client.echo(ask(&text)).unwrap().text == text
                })
            })
        })
        .collect();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    handle.drain();
    serving.join().unwrap().unwrap();
}

#[rpc_core::test]
fn a_thread_uses_a_channel_that_a_coroutine_made() {
    let server = Served::start();
    let client = server.client();
    let text = on_a_thread(move || client.echo(ask("from a thread")).unwrap().into_inner().text);
    assert_eq!(text, "from a thread");
    server.stop();
}
