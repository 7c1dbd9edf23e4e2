//! What a terminal says of what it has.

use rpc_core::time::Instant;

use super::*;

#[rpc_core::test]
fn a_terminal_that_could_be_woken_acknowledges_what_a_notify_brought() {
    let rig = rig(Limits::default());
    let mut config = Config::new(&rig.address.to_string(), "5".into());
    config.heartbeat = Beats::Fixed(Duration::from_secs(3_600));
    config.acknowledges = true;
    let journal = Arc::new(Journal::default());
    let terminal = Terminal::start(config, Arc::new(Memory::new(5)), journal.clone());
    journal.wait("the link", |told| told.links == 1);
    let message = pb::Message {
        message_id: 1,
        sender: 1,
        receiver: 5,
        text: "here".into(),
        ..Default::default()
    };
    rig.fake.commit(5, &message, 1);
    journal.wait("the message", |told| told.texts == ["here"]);
    let newest = rig.fake.users.lock().unwrap()[&5].newest();
    let until = Instant::now() + Duration::from_secs(20);
    while rig.fake.acknowledged.load(Ordering::SeqCst) < newest {
        assert!(Instant::now() < until, "it was not acknowledged");
        rpc_core::time::sleep(Duration::from_millis(10));
    }
    terminal.stop();
}
