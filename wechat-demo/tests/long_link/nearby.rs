//! Terminals that ask dispatch: where they go, and where a drain sends them.

use std::sync::atomic::AtomicBool;

use rpc_core::{Channel, Request, time::Instant};
use wechat_demo::access::{BeatFlags, Beats as PointBeats, Options};
use wechat_demo::dispatch::role as dispatch;
use wechat_demo::proto::dispatch::{DrainRequest, PointsClient};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// Tells dispatch of a rig until it is over.
fn beat(rig: &Rig, dispatch: &str, over: &Arc<AtomicBool>) {
    let options = Options {
        listen: rig.address.to_string(),
        rpc: "127.0.0.1:1".to_owned(),
        advertise: None,
        logic: Vec::new(),
        tls_chain: None,
        tls_key: None,
        max_links: 64,
        beats: BeatFlags {
            dispatch: vec![dispatch.to_owned()],
            idc: "sh".to_owned(),
            ..BeatFlags::default()
        },
        workers: None,
    };
    let beats = PointBeats::new(&options, rig.address, &rig.access)
        .unwrap()
        .unwrap();
    let over = over.clone();
    rpc_core::spawn(move || beats.run(&over));
}

fn links(rig: &Rig) -> u64 {
    rig.access.meter().links.load(Ordering::SeqCst)
}

fn wait_for(what: &str, mut reached: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < until, "{what} was not reached");
        rpc_core::time::sleep(Duration::from_millis(10));
    }
}

#[rpc_core::test]
fn a_drain_moves_every_terminal_to_another_point() {
    const TERMINALS: u64 = 6;
    let server = dispatch::start(&dispatch::Options {
        listen: "127.0.0.1:0".to_owned(),
        prefixes: None,
    })
    .unwrap();
    let (address, handle) = (server.local_addr().to_string(), server.handle());
    rpc_core::spawn(move || server.serve().unwrap());
    let over = Arc::<AtomicBool>::default();
    let [first, second] = [rig(Limits::default()), rig(Limits::default())];
    beat(&first, &address, &over);
    let terminals: Vec<_> = (1..=TERMINALS)
        .map(|user| {
            // Whoever asks before a point has beaten asks again.
            let mut config = Config::new("127.0.0.1:1", user.to_string().into());
            config.place.dispatch = Some(address.clone());
            config.heartbeat = Beats::Fixed(Duration::from_secs(3_600));
            let journal = Arc::new(Journal::default());
            Terminal::start(config, Arc::new(Memory::new(user)), journal)
        })
        .collect();
    wait_for("every link", || links(&first) == TERMINALS);
    beat(&second, &address, &over);

    let points = PointsClient::new(Channel::builder(&address).connect().unwrap());
    let drain = DrainRequest {
        address: first.address.to_string(),
        over_ms: 2_000,
        undo: false,
    };
    points.drain(Request::new(drain)).unwrap();
    wait_for("the move", || {
        links(&first) == 0 && links(&second) == TERMINALS
    });
    let moved = first.access.meter().closed_for("draining");
    assert!(moved >= TERMINALS, "{moved} links were ended by the drain");
    terminals.iter().for_each(Terminal::stop);
    over.store(true, Ordering::SeqCst);
    handle.drain();
}
